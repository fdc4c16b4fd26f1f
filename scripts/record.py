"""
Record what this version stores: tests/recordings/protocol-N.json has every key of a namespace with jobs in all states, whose worker
was killed. `tests/process/test_recordings.py` plays it to later versions.

It refuses to write over a recording: one of a protocol that was released says what users have in their Redis.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import redis

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
NAMESPACE = "recorded"
FOLDER = ROOT / "tests" / "recordings"


def dump(server: Any) -> list[list[Any]]:
    """Every key: its name, type, ms until it expires (-1 for never), and what it holds. Bytes are latin-1 text."""
    found: list[list[Any]] = []
    for key in sorted(server.scan_iter(count=1000)):
        kind, name = server.type(key).decode(), key.decode("latin-1")
        value: Any = {
            "string": lambda key: _text(server.get(key)),
            "hash": lambda key: {_text(k): _text(v) for k, v in sorted(server.hgetall(key).items())},
            "list": lambda key: [_text(one) for one in server.lrange(key, 0, -1)],
            "set": lambda key: sorted(_text(one) for one in server.smembers(key)),
            "zset": lambda key: [[_text(one), score] for one, score in server.zrange(key, 0, -1, withscores=True)],
        }[kind](key)
        found.append([name, kind, server.pttl(key), value])
    return found


def _text(value: Any) -> str:
    """As latin-1; a checkout's folder, which tracebacks name, as another one of that length, since texts are stored with theirs."""
    text: str = value.decode("latin-1")
    return text.replace(str(ROOT), ("/srv" + "/shops" * 99)[: len(str(ROOT))])


async def record() -> Path:
    """Make the jobs, wait until each is where it should be, kill the worker, and write what is there."""
    os.environ |= {"RECORDING_JOBS": "1", "PROCESSING_NS": NAMESPACE}
    from tracked_queue.chaos.programs import Program
    from tracked_queue.chaos.server import RedisServer
    from tracked_queue.protocol.version import WRITES

    file = FOLDER / f"protocol-{WRITES}.json"
    if file.exists():
        raise SystemExit(f"{file.relative_to(ROOT)} is there already: a new recording is for a new protocol")
    server = RedisServer()
    os.environ["REDIS_URL"] = server.url
    from tests.recordings.jobs import app, make_jobs

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "worker.log"
        command = ["worker", "tests.recordings.jobs:app", "--concurrency", "20"]
        worker = Program(log, dict(os.environ), "tracked_queue", *command)
        try:
            async with app:
                jobs = await make_jobs()
                wanted = {
                    "in a group": "active", "a group's last": "waiting", "in a batch": "active", "a batch's last": "waiting",
                    "a chain's last": "waiting", "succeeded": "succeeded", "failed once": "scheduled", "dead": "dead", "active": "active", "snoozed": "scheduled",
                    "holds a place": "active", "waits for a place": "queued", "started at a rate": "succeeded",
                    "waits for a rate": "queued", "of no task": "parked", "delayed": "scheduled", "unique": "scheduled",
                    "known": "succeeded", "with more": "queued",
                }  # fmt: skip
                states: dict[str, str] = {}
                for _ in range(300):
                    infos = {what: await job.info() for what, (job, _) in jobs.items()}
                    states = {what: info.state.value for what, info in infos.items()}
                    saved = [
                        info.checkpoint is not None
                        for info in infos.values()
                        if (info.task, info.state) == ("hang", "active")
                    ]
                    if states == wanted and all(saved):
                        break
                    await asyncio.sleep(0.1)
                else:
                    differ = {what: state for what, state in states.items() if wanted[what] != state}
                    raise SystemExit(f"not as wanted after 30 s: {differ}\n{log.read_text()}")
        finally:
            worker.vanish()
    client = redis.Redis.from_url(server.url)
    facts = {
        "jobs": {what: [job.id, result] for what, (job, result) in jobs.items()},
        "keys": dump(client),
    }
    client.close()
    server.close()
    file.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    return file


if __name__ == "__main__":
    print(asyncio.run(record()).relative_to(ROOT))
