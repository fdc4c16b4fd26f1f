"""
Runs tests/django on each Django that is promised, each in an environment of its own below .djangos, on SQLite, and on PostgreSQL
where a server of it is installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from scripts.on_pythons import found  # noqa: E402
from tests.postgres import program  # noqa: E402

# Django, the Pythons that it runs on (the first one that is here is taken), and what else it needs.
VERSIONS = (
    ("django>=5.2,<5.3", ("3.11",), ("django-tasks",)),
    ("django>=6.0,<6.1", ("3.12", "3.13", "3.14"), ()),
    ("django>=6.1,<6.2", ("3.13", "3.14", "3.12"), ()),
)
NEEDED = (
    "pytest>=8.2",
    "pytest-randomly",
    "pytest-timeout",
    "pytest-rerunfailures",
    "psycopg[binary]",
    "anyio",
    "watchfiles",
)


def run(django: str, python: str, more: tuple[str, ...], database: str) -> int:
    """Install into an environment of its own, and run the tests there."""
    name = django.partition(",")[0].removeprefix("django>=")
    folder = ROOT / ".djangos" / name
    own = folder / "bin" / "python"
    if not own.exists():
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        install = [str(own), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run(
            [*install, "--editable", ".[embedded,testing,django]", django, *NEEDED, *more], cwd=ROOT, check=True
        )
    command = [str(own), "-m", "pytest", "--reruns", "1", "-q", "tests/django"]
    env = {**os.environ, "TEST_DJANGO_DATABASE": database}
    return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode


def main() -> int:
    databases = ["sqlite", "postgres"] if program("initdb") else ["sqlite"]
    missing = []
    for django, pythons, more in VERSIONS:
        python = next(filter(None, map(found, pythons)), None)
        if python is None:
            missing.append(django)
            continue
        for database in databases:
            print(f"== {django} on {database}", flush=True)
            if code := run(django, python, more, database):
                return code
    print(f"databases: {', '.join(databases)}; no Python here for: {', '.join(missing) or 'none'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
