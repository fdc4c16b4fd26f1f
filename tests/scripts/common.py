"""What these tests share."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.harness import Scripts, request
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.request import Request


def extras(**fields: Any) -> bytes:
    return msgspec.msgpack.encode(fields)


def unique(key: str, until: str = "done", conflict: str = "existing", window_ms: int = 0) -> bytes:
    return extras(unique=[key, until, conflict, window_ms])


def limited(name: str, most: int, lane: str = "", kind: str = "concurrency", ms: int = 0) -> bytes:
    return extras(limits=[[name, kind, most, ms, len(name)]], lane=f"q\n{lane or name}")


def after(*ids: str, on_failure: str = "fail", wants: int = 0, more: int = 0) -> bytes:
    return extras(after=ids, on_failure=on_failure, wants=wants, more_after=more)


def ids(jobs: list[t.FetchedJob]) -> list[str]:
    return [job.id.decode() for job in jobs]


def drain(q: Scripts, lease: str = "w") -> list[t.FetchedJob]:
    """Fetch until nothing more comes: the first ones may only tell followers."""
    found: list[t.FetchedJob] = []
    for _ in range(6):
        found += q.take(lease)
    return found


def replacing(*, limit: str = "", **more: Any) -> bytes:
    if limit:
        more |= {"lane": f"q\n{limit}", "limits": [[limit, "concurrency", 1, 0, len(limit)]]}
    return extras(unique=["k", "done", "replace", 0], **more)


def tick(name: str, ms: int, mode: str = "store") -> Request:
    return request(f"cron:{name}:{ms}", extras=extras(tick=[name, ms, mode]))


def all_told(q: Scripts) -> None:
    while q.store.run(t.tend()):
        pass
