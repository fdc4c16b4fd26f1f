"""
Runs what depends on Python and on redis-py, each in an environment of its own below .pythons: on every Python that is promised and
that this machine has, and on the oldest redis-py that is allowed (`make test` runs on the newest).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14", "3.14t")
OLDEST_CLIENT = "redis==6.4.0"
EXTRAS = ("embedded", "testing", "encryption", "metrics", "sentry", "otel")
TESTS = ("tests/unit", "tests/redis", "tests/scripts", "tests/features", "tests/kit")
NEEDED = (
    "anyio", "attrs", "cryptography", "fastapi", "hypothesis", "opentelemetry-sdk", "pydantic>=2.11", "pytest>=8.2",
    "pytest-randomly", "pytest-rerunfailures", "pytest-timeout", "pytest-xdist", "watchfiles",
)  # fmt: skip


def found(version: str) -> str | None:
    """The interpreter of a version: on PATH, or one that pyenv has."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    if version == own:
        return sys.executable
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    places = sorted(versions.glob(f"{version}.*/bin/python3")) if not version.endswith("t") else []
    for place in [*map(str, places), shutil.which(f"python{version}")]:
        if place and subprocess.run([place, "--version"], capture_output=True, check=False).returncode == 0:
            return place
    return None


def run(name: str, python: str, *more: str) -> int:
    """Install into an environment of its own, and run the tests there."""
    folder = ROOT / ".pythons" / name
    own = folder / "bin" / "python"
    if not own.exists():
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
    install = [str(own), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*install, "--editable", f".[{','.join(EXTRAS)}]", *NEEDED, *more],
        cwd=ROOT,
        check=True,
    )
    command = [str(own), "-m", "pytest", "-n", "3", "--reruns", "1", "-q", "-m", "not deep", *TESTS]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def main() -> int:
    done, missing = [], []
    print(f"== the oldest redis-py: {OLDEST_CLIENT}", flush=True)
    if code := run("oldest-client", sys.executable, OLDEST_CLIENT):
        return code
    for version in PYTHONS:
        python = found(version)
        if python is None:
            missing.append(version)
        elif python != sys.executable:
            print(f"== Python {version}", flush=True)
            if code := run(version, python):
                return code
            done.append(version)
    print(
        f"run on {OLDEST_CLIENT} and Python {', '.join(done) or 'no other'}; not on this machine: {', '.join(missing) or 'none'}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
