"""Each example of docs/examples is run as its README prints it: the commands, and what they print."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import redis
from tracked_queue.chaos.server import RedisServer

EXAMPLES = Path(__file__).parent.parent.parent / "docs" / "examples"
END = "-- end of a command --"


def commands(readme: Path) -> list[tuple[str, str]]:
    """Each command with the lines that it prints, of all `console` blocks."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", readme.read_text("utf-8"), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return [(command, "\n".join(lines)) for command, lines in found]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", sorted(path.parent.name for path in EXAMPLES.glob("*/README.md")))
def test_an_example_runs_as_printed(name: str, tmp_path: Path, server: RedisServer) -> None:
    folder = tmp_path / name
    shutil.copytree(
        EXAMPLES / name, folder, ignore=shutil.ignore_patterns("__pycache__", "*.db", "*.sqlite3", ".tracked_queue")
    )
    steps = commands(EXAMPLES / name / "README.md")
    assert steps
    script = "\n".join(["set -e", *(f"{command}\necho '{END}'" for command, _ in steps)])
    env = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "PYTHONPATH", "DATABASE_URL")}
    if "REDIS_URL=redis://localhost" in (EXAMPLES / name / "README.md").read_text("utf-8"):
        client = redis.Redis.from_url(server.url)
        client.flushall()  # no other test of this process runs now
        client.close()
        env["REDIS_URL"] = server.url
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout.split(f"{END}\n")
    for (command, wanted), text in zip(steps, printed, strict=False):
        if wanted:
            # … stands for what is different each time.
            pattern = re.escape(wanted).replace("…", ".*")
            assert re.fullmatch(pattern, text.strip()), (command, text)
