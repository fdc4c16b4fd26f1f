"""Jobs that are bad for their process, at the limits: under load, in company, without a supervisor, out of memory, hung."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness import wait_until
from tests.process.test_workers import ended
from tests.process.worker import Worker, environment
from tracked_queue import Job, TrackedQueue
from tracked_queue.app import connections_of, producer_of
from tracked_queue.chaos.server import RedisServer
from tracked_queue.protocol.states import State

Start = Callable[..., Worker]
APP = "tests.process.poison_jobs:app"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def worker(start: Start) -> Callable[..., Worker]:
    def make(*options: str, **env: str) -> Worker:
        return start(*options, app=APP, **env)

    return make


async def states_of(queue: TrackedQueue, jobs: list[Job[Any]]) -> Counter[State | None]:
    return Counter(await producer_of(queue).job_states([job.id for job in jobs]))


async def all_ended(queue: TrackedQueue, jobs: list[Job[Any]], timeout: float) -> Counter[State | None]:
    async def look() -> Counter[State | None] | None:
        found = await states_of(queue, jobs)
        return found if all(state is None or state.ended for state in found) else None

    found: Counter[State | None] = await wait_until(look, timeout, f"{len(jobs)} jobs to end")
    return found


async def many(queue: TrackedQueue, count: int) -> list[Job[Any]]:
    return [
        job
        for at in range(0, count, 500)
        for job in await asyncio.gather(*(queue.enqueue("one", n) for n in range(at, at + 500)))
    ]


async def charged(queue: TrackedQueue, jobs: list[Job[Any]]) -> Counter[int]:
    """How many jobs have how many charges."""
    found = await connections_of(queue).store.read(
        *(("HGET", connections_of(queue).keys.named("job", job.id), "charges") for job in jobs)
    )
    return Counter(int(value or 0) for value in found)


async def test_two_poison_jobs_of_one_task_among_ten_thousand(
    worker: Callable[..., Worker], queue: TrackedQueue
) -> None:
    """CASE-35, CASE-36: those two die, and nobody else is charged."""
    jobs = await many(queue, 5000)
    bad = [await queue.enqueue("one", -n) for n in (1, 2)]
    jobs += await many(queue, 5000)
    one = worker("--processes", "2", "--concurrency", "50")
    assert await all_ended(queue, bad, 90) == {State.DEAD: 2}
    assert await all_ended(queue, jobs, 60) == {State.SUCCEEDED: 10_000}
    assert await charged(queue, jobs) == {0: 10_000}
    assert await charged(queue, bad) == {3: 2}
    assert len(one.events("process.died")) <= 14


async def test_poison_at_several_percent_costs_no_healthy_job_a_charge(
    worker: Callable[..., Worker], queue: TrackedQueue
) -> None:
    """CASE-35 at scale: suspects run apart from the others, in a process that ends after them."""
    jobs = await many(queue, 500)
    bad = [await queue.enqueue("one", -n) for n in range(1, 9)]
    jobs += await many(queue, 500)
    one = worker("--processes", "2", "--concurrency", "10")
    assert await all_ended(queue, bad, 120) == {State.DEAD: 8}
    assert await all_ended(queue, jobs, 60) == {State.SUCCEEDED: 1000}
    assert await charged(queue, jobs) == {0: 1000}
    assert await charged(queue, bad) == {3: 8}
    for_suspects = {event["pid"] for event in one.events("process.started") if event["suspects_only"]}
    assert for_suspects
    assert len(one.events("process.died")) <= 8 * 6
    await wait_until(lambda: ended_by_themselves(one, for_suspects), 30, "the processes for suspects to end")


async def ended_by_themselves(one: Worker, pids: set[int]) -> bool:
    return not pids & set(one.children())


async def test_long_jobs_are_not_tried_one_after_the_other(worker: Callable[..., Worker], queue: TrackedQueue) -> None:
    """One poison beside 30 jobs of 3 s: after its deaths they run side by side, not for 90 s."""
    jobs = [await queue.enqueue("long", 3.0) for _ in range(30)]
    bad = await queue.enqueue("one", -1)
    one = worker("--concurrency", "40")
    assert await ended([bad], 60) == [State.DEAD]
    assert await all_ended(queue, jobs, 60) == {State.SUCCEEDED: 30}
    assert await charged(queue, jobs) == {0: 30}
    assert len(one.events("process.died")) <= 7
    runs = [info.recoveries for info in [await job.info() for job in jobs]]
    assert sum(runs) <= 30 + 15, f"the first death hits all, further ones few: {sorted(runs)}"


async def test_a_job_that_is_fatal_only_in_company_runs_alone_in_the_end(
    worker: Callable[..., Worker], queue: TrackedQueue
) -> None:
    """It is not poison: as a suspect it comes to run alone, and nobody is charged for it."""
    worker("--concurrency", "20")
    bad = await queue.enqueue("company")
    jobs: list[Job[Any]] = []

    async def look() -> bool:
        jobs.extend([await queue.enqueue("one", n) for n in range(30)])
        return (await bad.status()).ended

    await wait_until(look, 60, "it to end")
    assert await bad.status() is State.SUCCEEDED and (await bad.info()).charges == 0
    assert await all_ended(queue, jobs, 30) == {State.SUCCEEDED: len(jobs)}
    assert await charged(queue, jobs) == {0: len(jobs)}


async def test_two_jobs_that_are_fatal_only_together_both_succeed(
    worker: Callable[..., Worker], queue: TrackedQueue
) -> None:
    """After a common death each may run alone only."""
    worker("--concurrency", "20")
    jobs = [await queue.enqueue("pair", "x") for _ in range(2)]
    assert await ended(jobs, 60) == [State.SUCCEEDED] * 2
    assert await charged(queue, jobs) == {0: 2}


async def test_a_job_that_takes_all_memory(worker: Callable[..., Worker], queue: TrackedQueue) -> None:
    """Under RLIMIT_AS: it ends, dead by its attempts or by its charges; the others run, whatever they met meanwhile."""
    one = worker("--concurrency", "10", POISON_MEMORY=str(1200 << 20))
    one.ready()
    jobs = [await queue.enqueue("one", n) for n in range(100)]
    bad = await queue.enqueue("hog")
    jobs += [await queue.enqueue("one", n) for n in range(100)]
    assert await ended([bad], 60) == [State.DEAD]
    assert await all_ended(queue, jobs, 60) == {State.SUCCEEDED: 200}
    assert max(await charged(queue, jobs)) <= 1
    assert one.alive
    after = await queue.enqueue("one", 7)
    assert await after.result(30) == 7


async def test_without_a_supervisor(queue: TrackedQueue, server: RedisServer, namespace: str, tmp_path: Path) -> None:
    """A platform that starts the bare process again and again: the poison is found all the same, in a bounded number of deaths."""
    jobs = [await queue.enqueue("one", n) for n in range(50)]
    bad = await queue.enqueue("one", -1)
    jobs += [await queue.enqueue("one", n) for n in range(50)]
    code = "import asyncio; from tests.process.poison_jobs import app; asyncio.run(app.run_worker(concurrency=20))"
    deaths = 0
    program: subprocess.Popen[bytes] | None = None
    with (tmp_path / "bare.log").open("wb") as log:
        try:

            async def look() -> bool:
                nonlocal program, deaths
                if program is None or program.poll() is not None:
                    deaths += program is not None
                    program = subprocess.Popen(
                        [sys.executable, "-c", code], env=environment(server.url, namespace), stdin=subprocess.DEVNULL,
                        stdout=log, stderr=log,
                    )  # fmt: skip
                return (await bad.status()).ended

            await wait_until(look, 90, "the poison to be found")
            assert await bad.status() is State.DEAD
            assert deaths <= 8, "one in company, one or two in groups, three charges"
            assert await all_ended(queue, jobs, 60) == {State.SUCCEEDED: 100}
            assert await charged(queue, jobs) == {0: 100}
        finally:
            if program is not None:
                program.kill()
                program.wait()


# Blocked and hung


@pytest.mark.parametrize(("task", "argument", "place"), [("spin", 600.0, "spin"), ("deadlock", None, "take_again")])
async def test_a_hung_job_is_named_and_its_process_given_up(
    worker: Callable[..., Worker], queue: TrackedQueue, task: str, argument: float | None, place: str
) -> None:
    """CASE-11: busy or waiting for itself; past stall_limit the process goes, the job is charged, and in the end set aside."""
    one = worker("--stall-limit", "1.5", "--max-recoveries", "1", "--concurrency", "5")
    one.ready()
    bad = await queue.enqueue(task, *([] if argument is None else [argument]))
    (warned, *_) = one.wait_event("loop.blocked")
    assert (warned["task"], warned["job_id"]) == (task, bad.id)
    assert "poison_jobs.py:" in warned["place"] and place in warned["place"]
    (given_up, *_) = one.wait_event("process.given_up")
    assert place in given_up["place"]
    good = [await queue.enqueue("one", n) for n in range(20)]
    assert await ended([bad], 60) == [State.DEAD]
    assert await all_ended(queue, good, 30) == {State.SUCCEEDED: 20}


async def test_a_busy_job_is_left_alone_while_the_watchdog_can_beat(
    worker: Callable[..., Worker], queue: TrackedQueue
) -> None:
    """Longer than the lease, shorter than stall_limit."""
    first, second = worker("--concurrency", "1"), worker("--concurrency", "1")
    first.ready()
    second.ready()
    job = await queue.enqueue("spin", 4.0)
    assert await ended([job], 30) == [State.SUCCEEDED]
    info = await job.info()
    assert (info.recoveries, info.attempts) == (0, 1)


async def test_a_job_that_never_lets_go_of_the_interpreter_is_recovered_and_fenced(
    worker: Callable[..., Worker], queue: TrackedQueue
) -> None:
    """No thread of its process runs, so the lease runs out; another instance recovers it, and the late outcome changes nothing."""
    workers = [worker("--concurrency", "1") for _ in range(2)]
    for one in workers:
        one.ready()
    job = await queue.enqueue("regex", 26)
    good = [await queue.enqueue("one", n) for n in range(20)]
    assert await all_ended(queue, good, 90) == {State.SUCCEEDED: 20}
    (state,) = await ended([job], 90)
    lost = sum(len(one.events("lease.lost")) for one in workers)
    if state is State.DEAD:  # each supervisor ended its child before the lease ran out, so that the job is known
        killed = [event["why"] for one in workers for event in one.events("process.killed")]
        assert len(killed) >= 3 and "interpreter" in killed[0] and "died" in str((await job.info()).reason)
    else:  # on a fast machine
        assert state is State.SUCCEEDED and not lost
