"""
Build the wheel and the sdist, look at what is in them, install and run them, and list what they need (SBOM). With --release VERSION
also check that this is the commit to release; then it stops, and says what a person would upload.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
# What a distributor needs besides the package's own files.
WANTED = (
    "tests/conftest.py",
    "docs/tutorial.md",
    "benchmarks/__init__.py",
    "LICENSE",
    "CHANGELOG.md",
    "README.md",
    "SECURITY.md",
)
# Run in an environment that has nothing but the package and its extra `embedded`.
TRIAL = """
import asyncio
from tracked_queue import TrackedQueue
from tracked_queue.protocol.scripts import load_scripts

assert len(load_scripts()) > 20
app = TrackedQueue("embedded://")

@app.task(name="double")
async def double(n: int) -> int:
    return n * 2

async def main() -> None:
    job = await double.enqueue(21)
    await app.run_worker(burst=True, handle_signals=False)
    assert await job.result(5) == 42
    await app.aclose()

asyncio.run(main())
"""


def ran(*command: str | Path, cwd: Path = ROOT) -> str:
    """A command's output. Raises SystemExit."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def sources() -> list[str]:
    """The package's files."""
    files = (ROOT / "src" / "tracked_queue").rglob("*")
    return [str(file.relative_to(ROOT)) for file in files if file.is_file() and file.parent.name != "__pycache__"]


def problems(wheel: Path, sdist: Path) -> Iterator[str]:
    """What is missing or should not be there."""
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if not name.endswith("/")}
    wanted = {name.removeprefix("src/") for name in sources()}
    for name in sorted(wanted - inside):
        yield f"{wheel.name}: {name} is missing"
    for name in sorted(name for name in inside - wanted if ".dist-info/" not in name):
        yield f"{wheel.name}: {name} does not belong there"
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    for name in sorted({*sources(), *WANTED} - packed):
        yield f"{sdist.name}: {name} is missing"
    for name in sorted(packed):
        if re.search(r"(^|/)(\.venv|build|dist|\.git|__pycache__|\.hypothesis)(/|$)", name):
            yield f"{sdist.name}: {name} does not belong there"


def installed(file: Path, folder: Path) -> Path:
    """An environment with it and nothing else, in which a job has run; its Python."""
    ran(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    ran(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{file}[embedded]")
    ran(python, "-c", TRIAL, cwd=folder)
    ran(folder / "bin" / "tracked-queue", "--help", cwd=folder)
    return python


def not_ready(version: str) -> Iterator[str]:
    """Why this commit can't be released as that version."""
    own = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    if own != version:
        yield f"pyproject.toml says version {own}"
    if ran("git", "status", "--porcelain").strip():
        yield "there are changes that are not committed"
    if f"## {version} " not in (ROOT / "CHANGELOG.md").read_text("utf-8"):
        yield f"CHANGELOG.md has no section `## {version} - <date>`"
    if f"v{version}" not in ran("git", "tag", "--points-at", "HEAD").split():
        yield f"this commit has no tag v{version}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", metavar="VERSION")
    version = parser.parse_args().release
    if version:
        for why in (found := list(not_ready(version))):
            print(f"not ready: {why}")
        if found:
            return 1
    for old in DIST.glob("*"):
        old.unlink()
    ran(sys.executable, "-m", "build", "--outdir", DIST, ROOT)
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    found = list(problems(wheel, sdist))
    print("\n".join(found))
    if found:
        return 1
    with tempfile.TemporaryDirectory() as folder:
        python = installed(wheel, Path(folder) / "wheel")
        bom = DIST / f"{wheel.name.partition('-py3')[0]}.cdx.json"
        ran(
            sys.executable, "-m", "cyclonedx_py", "environment", python, "--output-format", "JSON", "--output-file", bom
        )
        parts = {part["name"] for part in json.loads(bom.read_text("utf-8"))["components"]}
        missing = {"redis", "hiredis", "anyio", "msgspec", "structlog"} - parts
        if missing:
            print(f"{bom.name} does not list {', '.join(sorted(missing))}")
            return 1
        installed(sdist, Path(folder) / "sdist")
    for file in sorted(DIST.iterdir()):
        print(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}")
    if version:
        print(
            f"Ready, and nothing was uploaded. A person uploads the wheel and the sdist, and attaches all files to the release v{version}."
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
