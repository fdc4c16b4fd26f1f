"""
Whether `tracked-queue[embedded]` installs from wheels alone, on each platform and Python that is promised, by pip's own resolver. It
asks the package index, and installs nothing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PYTHONS = {"3.11": "cp311", "3.12": "cp312", "3.13": "cp313", "3.14": "cp314", "3.14t": "cp314t"}
# The newer manylinux tag does not stand for the older ones.
LINUX = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
PLATFORMS = {
    "linux x86_64": ([f"{tag}_x86_64" for tag in LINUX], {"sys_platform": "linux", "platform_machine": "x86_64"}),
    "linux aarch64": ([f"{tag}_aarch64" for tag in LINUX], {"sys_platform": "linux", "platform_machine": "aarch64"}),
    "macos arm64": (
        ["macosx_11_0_arm64", "macosx_14_0_arm64"],
        {"sys_platform": "darwin", "platform_machine": "arm64"},
    ),
    "macos x86_64": (
        ["macosx_10_9_x86_64", "macosx_10_13_x86_64", "macosx_10_15_x86_64", "macosx_11_0_x86_64"],
        {"sys_platform": "darwin", "platform_machine": "x86_64"},
    ),
    "windows": (["win_amd64"], {"sys_platform": "win32", "platform_machine": "AMD64"}),
}


def requirements(python: str, facts: dict[str, str]) -> list[str]:
    """What the package and its extra need there; pip would judge the markers by the machine that it runs on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["embedded"]]
    where = {"python_version": python.rstrip("t"), "platform_python_implementation": "CPython", **facts}
    found = []
    for item in wanted:
        if item.marker is None or item.marker.evaluate(where):
            item.marker = None
            found.append(str(item))
    return found


def main() -> int:
    failed = []
    for python, abi in PYTHONS.items():
        for name, (platforms, facts) in PLATFORMS.items():
            with tempfile.TemporaryDirectory() as folder:
                command = [
                    sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--dry-run",
                    "--only-binary", ":all:", "--target", folder, "--implementation", "cp",
                    "--python-version", python.rstrip("t"), "--abi", abi, "--abi", "abi3", "--abi", "none",
                    *(part for platform in platforms for part in ("--platform", platform)),
                    *requirements(python, facts),
                ]  # fmt: skip
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                failed.append(f"{name}, Python {python}: {done.stderr.strip()[-300:]}")
            print(f"{name}, Python {python}: {'ok' if done.returncode == 0 else 'FAILED'}", flush=True)
    print("\n".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
