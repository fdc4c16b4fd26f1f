"""Damaged records and hostile names, given to every reader of the operator: an answer or an error of ours, and no other."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.test_pure import FIELDS, raw
from tests.harness import Scripts
from tracked_queue import TrackedQueue
from tracked_queue.chaos.server import RedisServer
from tracked_queue.cli.explain import lines_of
from tracked_queue.cli.top import TABS, View, render
from tracked_queue.errors import JobError, UsageError
from tracked_queue.metrics.families import Totals, families_of
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.scripts import load_scripts
from tracked_queue.protocol.states import State
from tracked_queue.reports.listing import LISTED_STATES

pytestmark = pytest.mark.timeout(600)

names = st.one_of(
    st.sampled_from(["q", "q\x1b[31m", "\u202eevil", "a b", "*", "{x}", "q:1", "é", "0", "-1", "None", "q\nq"]),
    st.text(min_size=1, max_size=12),
).filter(lambda name: not any(0xD800 <= ord(char) <= 0xDFFF for char in name))
records = st.dictionaries(st.sampled_from(FIELDS).map(str.encode), raw, max_size=10)


@pytest.fixture(scope="module")
def place(server: RedisServer) -> Iterator[tuple[str, Scripts, asyncio.Runner]]:
    scripts = Scripts(server.url, f"fuzzread{os.getpid()}", load_scripts("now_ms"))
    with asyncio.Runner() as runner:
        yield server.url, scripts, runner
    scripts.close()


@settings(
    max_examples=int(os.environ.get("FUZZ_CASES", "1500")) // 10,
    deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=False,
)  # fmt: skip
@given(
    names,
    names,
    st.sampled_from(list(State)),
    records,
    st.dictionaries(
        st.sampled_from(["label", "queues", "tasks", "concurrency", "seen_ms", "host", "pid"]), raw, max_size=5
    ),
    raw,
)
def test_every_reader_answers(
    place: tuple[str, Scripts, asyncio.Runner],
    queue: str,
    task: str,
    state: State,
    record: dict[bytes, bytes],
    about: dict[str, bytes],
    entry: bytes,
) -> None:
    url, scripts, runner = place
    keys = scripts.keys
    redis: Any = scripts.redis  # its stubs want one type for all keys of a mapping
    redis.delete("nothing", *redis.scan_iter(match=keys.tag + ":*", count=1000))
    raw_queue = queue.encode()
    redis.hset(
        keys.record_of("a"),
        mapping={b"state": state.value.encode(), b"queue": raw_queue, b"task": task.encode(), **record},
    )
    redis.hset(keys.record_of("a"), b"state", state.value.encode())
    redis.sadd(keys.single("queues"), raw_queue)
    redis.lpush(keys.named("queue", queue), "a", entry)
    redis.zadd(keys.single("scheduled"), {"a": 1, b"\x02a": 2})
    redis.zadd(keys.single("dead"), {"a": 1, entry or b"-": 2})
    redis.sadd(keys.single("parked"), task.encode())
    redis.lpush(keys.named("parked", task), "a")
    redis.lpush(keys.named("ends", queue), b"1 succeeded a", entry)
    redis.lpush(keys.single("recoveries"), entry, b"\x98" + entry)
    redis.lpush(keys.single("acts"), entry)
    redis.hset(keys.single("limits"), entry or b"-", entry)
    redis.hset(keys.single("laned"), raw_queue, entry)
    scripts.store.run(t.register("w", 30, 5, {"label": "pod"}))
    if about:
        redis.hset(keys.named("instance", "w"), mapping=about)
    redis.sadd(keys.processing_of("w"), "a", entry or b"-")
    minute = scripts.redis.time()[0] // 60
    for kind in ("times", "stats"):
        redis.hset(keys.named(kind, str(minute)), mapping={entry or b"-": entry, b"run 0 t": b"3"})

    async def read() -> None:
        async with TrackedQueue(url, namespace=keys.namespace) as app:
            operator = app.operator
            for one in (
                await operator.explain("a"), await operator.explain(), await operator.explain(queue="q"),
                await operator.explain(instance="w"), await operator.explain(limit="x"),
            ):  # fmt: skip
                for found in one:
                    assert all(char.isprintable() for line in lines_of(found) for char in line.plain)
            for listed in LISTED_STATES:
                await operator.jobs(listed)
            await operator.tasks()
            await operator.limits()
            picture = await operator.picture()
            for tab in TABS:
                render(View(tab=tab), picture, 100, 40)
            await operator.acts()
            await operator.recoveries()
            numbers = await operator.numbers()
            totals = Totals()
            totals.add(numbers)
            totals.add(numbers)
            assert list(families_of(numbers, totals))
            with contextlib.suppress(UsageError):  # a name that none could have
                await operator.scale([queue])
                await operator.explain(task=task)
            with contextlib.suppress(JobError):
                await app.job("a").info()

    runner.run(read())
