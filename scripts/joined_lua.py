"""Write each script with its includes joined to a temporary folder, and print the files' names."""

import tempfile
from pathlib import Path

from tracked_queue.protocol.scripts import load_scripts

folder = Path(tempfile.mkdtemp(prefix="tracked_queue-lua-"))
for script in load_scripts().values():
    path = folder / f"{script.name}.lua"
    path.write_text(script.text, "utf-8")
    print(path)
