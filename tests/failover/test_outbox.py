"""An outbox while its Redis fails over: no row's job is lost with the server that took it, and none that was rolled back runs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

import redis
from tests.harness import wait_until
from tests.outbox_fleet import KINDS, SEED, Place, Programs, Writers, place_of
from tracked_queue import TrackedQueue
from tracked_queue.chaos.proxy import Proxy
from tracked_queue.chaos.server import RedisServer


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from place_of(request.param, tmp_path)


@pytest.fixture
def anyio_backend() -> str:
    """The relays are programs of their own."""
    return "asyncio"


async def jobs_run_and_relays_die(programs: Programs, chance: random.Random) -> None:
    for _ in range(2):
        most = len(programs.numbers()) + 20

        def are_run(most: int = most) -> bool:
            return len(programs.numbers()) > most

        await wait_until(are_run, 30, "jobs to run")
        programs.kill_one(chance)


@pytest.mark.timeout(180)
async def test_each_committed_row_runs_after_a_failover(
    pair: tuple[RedisServer, RedisServer], place: Place, tmp_path: Path
) -> None:
    """What no replica has confirmed stays a row. A job whose end the replica did not hear of runs again."""
    primary, replica = pair
    chance = random.Random(SEED)
    async with Proxy(primary.port) as name:
        app = TrackedQueue(name.url, namespace="f", durability="replica")
        programs = Programs(name.url, "f", place, tmp_path)
        writers = Writers(place, app, 4)
        try:
            await jobs_run_and_relays_die(programs, chance)
            # The server that will take over misses what is written now, and the worker takes none of it.
            await app.operator.pause(queue="default")
            with redis.Redis.from_url(replica.url) as client:
                client.execute_command("REPLICAOF", "127.0.0.1", "1")  # it is cut off
                await wait_until(
                    lambda: "NotDurableError" in (tmp_path / "log").read_text(), 30, "rows without a replica"
                )
                primary.kill()
                client.execute_command("REPLICAOF", "NO", "ONE")
            name.target = replica.port
            await app.operator.resume(queue="default")
            # It has no replica itself, so rows still stay, whatever it has stored of them.
            rows = place.waiting()
            await wait_until(lambda: place.waiting() > rows + 20, 30, "rows to be written on")
            programs.kill_one(chance)
            primary.start()
            with redis.Redis.from_url(primary.url) as client:
                client.execute_command("REPLICAOF", "127.0.0.1", replica.port)
            await jobs_run_and_relays_die(programs, chance)
            writers.join()
            committed = place.numbers()
            assert 0 < len(committed) < writers.tried
            await wait_until(
                lambda: place.waiting() == 0 and set(committed) <= set(programs.numbers()), 60, "every job"
            )
            await asyncio.sleep(1.0)  # for a job that should not be there
        finally:
            writers.join()
            await asyncio.to_thread(programs.close)
            await app.aclose()
        found = programs.numbers()
    log = (tmp_path / "log").read_text()[-3000:]
    assert sorted(set(committed) - set(found)) == [], f"lost: {log}"
    assert sorted(set(found) - set(committed)) == [], f"rolled back and run all the same: {log}"
