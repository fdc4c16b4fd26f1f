"""Runs tests/migrate beside the queues that jobs can be moved from, each in an environment of its own below .olds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# The environment's name, and what is installed there.
PACKAGES = {
    "celery": "celery[redis] django",  # for a project that moves as a whole
    "rq": "rq",
    "arq": "arq",
    "dramatiq": "dramatiq[redis]",
    "saq": "saq[redis] typing_extensions",
    "huey": "huey[redis]",
    "taskiq": "taskiq-redis",
}


def main() -> int:
    folder = ROOT / ".olds"
    for name, package in PACKAGES.items():
        own = folder / name / "bin" / "python"
        if not own.exists():
            print(f"== {package}", flush=True)
            subprocess.run([sys.executable, "-m", "venv", str(folder / name)], check=True)
            install = [str(own), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *package.split()]
            subprocess.run(install, check=True)
    command = [sys.executable, "-m", "pytest", "-n", "2", "--reruns", "1", "-q", "tests/migrate"]
    env = {**os.environ, "TEST_MIGRATE": str(folder)}
    return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
