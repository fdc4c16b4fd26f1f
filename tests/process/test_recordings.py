"""What earlier versions have stored is worked off by this one: see scripts/record.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import redis
from tests.process.worker import Worker
from tests.recordings.jobs import recording
from tests.rights import admin
from tracked_queue import State, TrackedQueue
from tracked_queue.chaos.server import RedisServer
from tracked_queue.protocol.version import OLDEST, WRITES

Start = Callable[..., Worker]
pytestmark = pytest.mark.timeout(120)
FOLDER = Path(__file__).parents[1] / "recordings"
RECORDED = {int(file.stem.partition("-")[2]): file for file in FOLDER.glob("protocol-*.json")}


def play(facts: dict[str, Any], url: str, namespace: str) -> None:
    """Store what was recorded, under another namespace."""
    with redis.Redis.from_url(admin(url)) as client:
        for name, kind, expires_ms, value in facts["keys"]:
            key = name.replace("{recorded}", "{" + namespace + "}").encode("latin-1")
            match kind:
                case "string":
                    client.set(key, value.encode("latin-1"))
                case "hash":
                    client.hset(key, mapping={k.encode("latin-1"): v.encode("latin-1") for k, v in value.items()})
                case "list":
                    client.rpush(key, *(one.encode("latin-1") for one in value))
                case "set":
                    client.sadd(key, *(one.encode("latin-1") for one in value))
                case "zset":
                    client.zadd(key, {one.encode("latin-1"): score for one, score in value})
            if expires_ms >= 0:
                client.pexpire(key, expires_ms)


def test_each_protocol_that_was_written_has_a_recording() -> None:
    assert set(RECORDED) >= set(range(OLDEST, WRITES + 1)) and not recording()


@pytest.mark.parametrize("number", sorted(number for number in RECORDED if number >= OLDEST))
async def test_what_is_recorded_is_worked_off(
    start: Start, queue: TrackedQueue, server: RedisServer, namespace: str, number: int
) -> None:
    facts = json.loads(RECORDED[number].read_text())
    play(facts, server.url, namespace)
    jobs = {what: (queue.job(id), result) for what, (id, result) in facts["jobs"].items()}
    infos = {what: await job.info() for what, (job, _) in jobs.items()}
    assert infos["dead"].state is State.DEAD and "no 11 at all" in str(infos["dead"].error)
    assert infos["active"].checkpoint == {"seen": 12} and infos["failed once"].failures
    assert {one.queue: one.length for one in (await queue.operator.queues()).queues}["other"] == 1
    start("--concurrency", "20", "-q", "default", "-q", "other", app="tests.recordings.jobs:app").ready()
    assert (await queue.operator.requeue([jobs["dead"][0].id])).done == 1
    assert {what: await job.result(60) for what, (job, _) in jobs.items()} == {
        what: result for what, (_, result) in jobs.items()
    }
    left = await queue.operator.queues()
    assert not any(one.length for one in left.queues) and not left.parked and not left.dead, left
