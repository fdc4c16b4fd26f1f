"""What tests share: waiting for a condition, steering the scripts' clock, looking at where a job stands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import redis
from tests.rights import admin
from tracked_queue import TrackedQueue
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.events import read_events
from tracked_queue.protocol.keys import Keys
from tracked_queue.protocol.request import Request
from tracked_queue.protocol.scripts import load_scripts
from tracked_queue.settings import resolve
from tracked_queue.sharding.shards import Shards
from tracked_queue.transport.endpoint import Endpoint
from tracked_queue.transport.store import SyncStore
from tracked_queue.transport.sync_link import SyncLink

new_id = Shards("x", 1).new_id

T = TypeVar("T")

TTL = 10.0
INTERVAL = 3.0
START_MS = 1_700_000_000_000


async def wait_until(check: Callable[[], Any | Awaitable[Any]], timeout: float = 10, what: str = "") -> Any:
    """Poll until the check is true; its value. A timeout fails the test and says for what it waited."""
    deadline = time.monotonic() + timeout
    while True:
        value = check()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {timeout} s for {what or check}"
        await asyncio.sleep(0.01)


def wait_for(check: Callable[[], T], timeout: float = 10, what: str = "") -> T:
    """`wait_until` for code without an event loop."""
    deadline = time.monotonic() + timeout
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {timeout} s for {what or check}"
        time.sleep(0.01)


def request(id: str | None = None, task: str = "t", queue: str = "q", **fields: Any) -> Request:
    """A request with plain values."""
    values: dict[str, Any] = {
        "args": b"\x91\x01", "kwargs": b"", "options": b"", "delay_ms": None, "due_ms": None, "tracked": True, "extras": b"", "result": None,
    }  # fmt: skip
    values.update(fields)
    return Request(id=id or new_id(), task=task, queue=queue, **values)


class Scripts:
    """The scripts of one namespace with a clock that the test moves; every call is synchronous."""

    def __init__(self, url: str, namespace: str, scripts: Any = None) -> None:
        self.redis = redis.Redis.from_url(admin(url))
        self.keys = Keys(namespace)
        settings = resolve({"redis_url": url}, environ={})
        self.store = SyncStore(SyncLink(Endpoint(settings)), self.keys, scripts or load_scripts("now_ms_test"))
        self.numbers: dict[str, int] = {}
        self.now(START_MS)

    def close(self) -> None:
        self.store.close()
        self.redis.close()

    # The clock

    def now(self, ms: int | None = None) -> int:
        key = self.keys.single("clock")
        if ms is not None:
            self.redis.set(key, ms)
        return int(self.redis.get(key) or 0)

    def pass_time(self, seconds: float) -> None:
        self.now(self.now() + round(seconds * 1000))

    # Transitions, short

    def enqueue(self, *ids: str, **fields: Any) -> list[bool]:
        return self.store.run(t.enqueue([request(id, **fields) for id in ids]))

    def register(self, lease: str, ttl: float = TTL) -> bool:
        return self.store.run(t.register(lease, ttl, INTERVAL, {"label": f"label-{lease}"}))

    def beat(self, lease: str, starts: Sequence[tuple[bytes, bytes, int]] = ()) -> t.Beat | None:
        return self.store.run(t.heartbeat(lease, TTL, INTERVAL, t.BeatFacts(0, starts, ()) if starts else None))

    def fetch(
        self, lease: str, start: int = 10, buffer: int = 0, queues: tuple[str, ...] = ("q",), number: int = 0,
        mode: t.Mode = t.Mode.FIRST,
    ) -> Any:  # fmt: skip
        if not number:
            number = self.numbers[lease] = self.numbers.get(lease, 0) + 1
        return self.store.run(t.fetch(lease, number, start, buffer, queues, mode=mode))

    def take(self, lease: str, **options: Any) -> list[t.FetchedJob]:
        reply = self.fetch(lease, **options)
        assert isinstance(reply, t.Fetched), reply
        return reply.jobs

    def settle(
        self, lease: str, job: t.FetchedJob, outcome: str, ms: int = 0, payload: bytes = b"", reason: str = "",
        ran_ms: int | None = None,
    ) -> t.Verdict:  # fmt: skip
        told = t.Outcome(job.id, job.delivery, t.OutcomeKind(outcome), ms, payload, reason, ran_ms=ran_ms)
        (verdict,) = self.store.run(t.settle(lease, [told], 120.0))
        return verdict

    def recover(
        self,
        lease: str,
        n: int = 250,
        owner: str = "me",
        max_recoveries: int = 3,
        ids: Sequence[str] = (),
        discard_by: str = "",
    ) -> t.Portion:
        return self.store.run(
            t.recover(
                lease,
                owner=owner,
                max_recoveries=max_recoveries,
                lock_ttl=30.0,
                resend_window=120.0,
                interval=INTERVAL,
                n=n,
                ids=ids,
                discard_by=discard_by,
                keep=60.0,
            )
        )

    def release(self, lease: str, end: t.End = t.End.DIED, ago: float = 0.0, beside: int = 0) -> bool:
        return self.store.run(t.release(lease, end, ago=ago, beside=beside))

    def suspects(self, queue: str = "q") -> list[str]:
        """In line."""
        return [item.decode() for item in self.redis.zrange(self.keys.named("suspected", queue), 0, -1)]

    # Looking

    def job(self, id: str) -> dict[str, str]:
        record = self.redis.hgetall(self.keys.named("job", id))
        return {name.decode(): value.decode("utf-8", "replace") for name, value in record.items()}

    def state(self, id: str) -> str:
        return self.job(id).get("state", "")

    def listed(self, kind: str, name: str) -> list[str]:
        """The ids of a list from its left end; those of a set, as a processing list is, in order."""
        key = self.keys.named(kind, name)
        found = sorted(self.redis.smembers(key)) if kind == "processing" else self.redis.lrange(key, 0, -1)
        return [item.decode("utf-8", "replace") for item in found]

    def marker(self, queue: str = "q") -> bool:
        return bool(self.redis.exists(self.keys.named("wake", queue)))

    def timer_marker(self) -> bool:
        """Whether the marker of what lies in time was set; it is popped."""
        return bool(self.redis.zpopmin(self.keys.single("wake_timer")))

    def pop_marker(self, queue: str = "q") -> bool:
        return bool(self.redis.zpopmin(self.keys.named("wake", queue)))

    def ttl(self, id: str) -> int:
        return int(self.redis.pttl(self.keys.named("job", id)))

    def history(self, id: str) -> list[tuple[str, str, str, str]]:
        """What a job's record tells of it: kind, delivery, lease, detail."""
        return [
            (one.kind, one.delivery, one.lease, one.detail)
            for one in read_events(self.redis.hgetall(self.keys.record_of(id)))
        ]

    def snapshot(self) -> dict[bytes, Any]:
        """Every key of the namespace with its content: to show that a refusal wrote nothing."""
        # The dump of a set or a large hash is in an order that may change while nothing is written.
        whole = {b"set": self.redis.smembers, b"hash": self.redis.hgetall}
        return {
            key: whole.get(self.redis.type(key), self.redis.dump)(key)
            for key in self.redis.scan_iter(match=self.keys.tag.replace("{", "[{]") + ":*", count=1000)
        }


class running_worker:
    """A worker in this loop for the time of a block."""

    def __init__(self, app: TrackedQueue, **options: Any) -> None:
        self._app, self._options = app, options

    async def __aenter__(self) -> None:
        self._task = asyncio.ensure_future(self._app.run_worker(handle_signals=False, **self._options))

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})
