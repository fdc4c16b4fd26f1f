"""The typing examples by two more checkers, ty and pyrefly: each wrong call is refused, and nothing else is."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "tests" / "typing" / "api.py"
BIN = Path(sys.executable).parent
WRONG = re.compile(r"  # type: ignore\[[^\]]*\]")
CHECKERS = {
    "ty": ["ty", "check", "--output-format", "concise", "--python", str(BIN / "python"), "api.py"],
    "pyrefly": [
        "pyrefly", "check", "--preset", "default", "--output-format", "min-text", "--python-interpreter-path",
        str(BIN / "python"), "api.py",
    ],
}  # fmt: skip
# ty does not look at the names of Unpack[TypedDict] yet.
NOT_SEEN = {"ty": ("daley=", "heartbeat_til=", "concurency=")}
# A line: some/path/api.py:106:18: or (in other words) ERROR some/path/api.py:106:18-50:
PLACE = re.compile(r"api\.py:(\d+):\d+")


def main() -> int:
    text = EXAMPLES.read_text("utf-8")
    wanted = {number for number, line in enumerate(text.splitlines(), 1) if WRONG.search(line)}
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "api.py").write_text(WRONG.sub("", text), "utf-8")
        for name, command in CHECKERS.items():
            done = subprocess.run(
                [str(BIN / command[0]), *command[1:]], cwd=folder, capture_output=True, text=True, check=False
            )
            known = NOT_SEEN.get(name, ())
            missed = {number for number in wanted if any(part in text.splitlines()[number - 1] for part in known)}
            said = {int(number) for number in PLACE.findall(done.stdout)}
            for number in sorted((said ^ wanted) - missed):
                what = "a wrong call is accepted" if number in wanted else "a right line is refused"
                print(f"{name}: tests/typing/api.py:{number}: {what}: {text.splitlines()[number - 1].strip()}")
            if said | missed != wanted:
                print(done.stdout[-4000:], done.stderr[-2000:])
                failed = 1
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
