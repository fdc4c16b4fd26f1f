"""What forks, children, exits and signals of a worker may do: worker/lineage.py and worker/signals.py."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness import wait_for, wait_until
from tests.process.worker import Notes, Worker, environment
from tracked_queue import State, TrackedQueue
from tracked_queue.app import connections_of
from tracked_queue.chaos.server import RedisServer
from tracked_queue.reports.instances import read_instances

APP = "tests.process.lineage_jobs:app"
Start = Callable[..., Worker]
pytestmark = pytest.mark.timeout(90)


def running(text: str) -> list[str]:
    """Command lines of live processes that contain a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            state = (path.parent / "stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            continue
        if text in line and state not in "ZX":
            found.append(line)
    return found


def below(pid: int) -> list[int]:
    """The live processes that a process has started; one that has ended and was not waited for is a job's own affair."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state not in "ZX":
            found.append(int(path.parent.name))
    return found


def results_of(queue: TrackedQueue, jobs: list[Any]) -> Any:
    return asyncio.gather(*(job.result(20) for job in jobs))


# Forks


@pytest.mark.parametrize("how", ["raises", "returns", "exits", "twice"])
async def test_a_fork_of_an_isolated_job_never_answers_for_it(start: Start, queue: TrackedQueue, how: str) -> None:
    """The clone went on in the child's loop, read the next calls and answered them: jobs had each other's results."""
    worker = start(app=APP, TRACKED_QUEUE_ISOLATED_PROCESSES="1")
    worker.ready()
    said = await (await queue.enqueue("fork-isolated", how)).result(20)
    assert said.startswith("parent")
    (child,) = worker.children()
    for text in ("alice", "bob", "carol", "dave"):
        assert await (await queue.enqueue("echo-isolated", text)).result(20) == text
    await wait_until(lambda: len(below(child)) == 1, what="the forks to be gone")


async def test_an_answer_of_another_call_is_no_jobs_result(start: Start, queue: TrackedQueue) -> None:
    """Answers carry the number of their call, whoever writes into the socket."""
    start(app=APP, TRACKED_QUEUE_ISOLATED_PROCESSES="1").ready()
    assert await (await queue.enqueue("forge")).result(20) == "true"
    assert await (await queue.enqueue("echo-isolated", "mine")).result(20) == "mine"


@pytest.mark.parametrize(("task", "how"), [
    ("fork-async", "raises"), ("fork-async", "returns"), ("fork-async", "waits"), ("fork-thread", "raises"),
    ("fork-thread", "returns"),
])  # fmt: skip
async def test_a_fork_that_comes_back_is_no_second_worker(
    start: Start, queue: TrackedQueue, tmp_path: Path, task: str, how: str
) -> None:
    """It had the worker's lease, its sockets and its other jobs: they ran twice, and neighbours were recorded dead."""
    worker = start(app=APP)
    worker.ready()
    (child,) = worker.children()
    path = tmp_path / "ran.txt"
    jobs = [await queue.enqueue("count", n, str(path)) for n in range(100)]
    forks = await queue.enqueue(task, how)
    jobs += [await queue.enqueue("count", n, str(path)) for n in range(100, 200)]
    assert await forks.result(20) == "parent"
    assert await results_of(queue, jobs) == list(range(200))
    await wait_until(lambda: not below(child), what="the fork to be gone")
    ran = Counter(line.split()[0] for line in path.read_text().splitlines())
    assert set(ran.values()) == {1} and len(ran) == 200
    assert {line.split()[1] for line in path.read_text().splitlines()} == {str(child)}
    assert worker.events("fork.ended")[0]["parent"] == child


async def test_a_job_that_ends_its_own_forked_helpers_does_not_stop_the_worker(
    start: Start, queue: TrackedQueue
) -> None:
    """Their signal handlers were the worker's, and told its event loop of the signal (Python 3.11)."""
    worker = start(app=APP)
    worker.ready()
    codes = await (await queue.enqueue("terminate-helpers")).result(30)
    assert codes == [-signal.SIGTERM, -signal.SIGTERM]
    assert await (await queue.enqueue("pid")).result(20) == worker.children()[0]
    assert not worker.events("signal.received") and not worker.events("shutdown.phase_started")


# Children


async def test_what_a_timed_out_isolated_job_started_ends_with_it(start: Start, queue: TrackedQueue) -> None:
    start(app=APP).ready()
    job = await queue.options(timeout=6.0).enqueue("grandchild", 86_401)
    await wait_until(lambda: running("sleep 86401"), what="the grandchild")
    await wait_until(lambda: not running("sleep 86401"), 30, "its end")
    await wait_until(lambda: _state(queue, job, State.DEAD), what="the timeout")


async def test_what_an_isolated_job_started_ends_with_a_killed_worker(start: Start, queue: TrackedQueue) -> None:
    worker = start(app=APP)
    worker.ready()
    await queue.enqueue("grandchild", 86_402)
    await wait_until(lambda: running("sleep 86402"), what="the grandchild")
    os.kill(worker.children()[0], signal.SIGKILL)
    worker.wait_event("lease.recovered")
    await wait_until(lambda: len(running("sleep 86402")) <= 1, what="the end of the first one")


async def _state(queue: TrackedQueue, job: Any, state: State) -> bool:
    return (await job.info()).state is state


async def test_an_isolated_job_enqueues_where_its_worker_is(server: RedisServer, namespace: str, start: Start) -> None:
    """The worker's options counted for it alone: the child went by the environment, and the job was never run."""
    other = f"{namespace}-other"
    start("--namespace", other, app=APP).ready()
    async with TrackedQueue(server.url, namespace=other) as queue:
        stored = await (await queue.enqueue("enqueues-isolated")).result(20)
        assert await queue.job(stored).result(20) == "stored"


# Exits


@pytest.mark.parametrize("how", ["hook", "process", "thread"])
async def test_a_process_that_cannot_exit_is_replaced(start: Start, queue: TrackedQueue, how: str) -> None:
    """A recycled process waited for ever for a hook, and no other took its place: the worker was dead and silent."""
    worker = start(app=APP, TRACKED_QUEUE_MAX_JOBS="1", TRACKED_QUEUE_GRACE="1")
    worker.ready()
    first = await (await queue.enqueue("hang-at-exit", how)).result(20)
    worker.wait_event("process.recycled")
    worker.ready(2)
    assert await (await queue.enqueue("pid")).result(20) != first
    assert how == "thread" or worker.events("exit.forced")
    await wait_until(lambda: not Path(f"/proc/{first}").exists(), what="the old process to be gone")


async def test_a_worker_that_cannot_exit_ends_after_sigterm_to_its_child(start: Start, queue: TrackedQueue) -> None:
    worker = start(app=APP, TRACKED_QUEUE_GRACE="1")
    worker.ready()
    first = await (await queue.enqueue("hang-at-exit", "hook")).result(20)
    os.kill(first, signal.SIGTERM)
    worker.ready(2)
    assert await (await queue.enqueue("pid")).result(20) != first
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


# Signals and logs


@pytest.mark.parametrize("order", ["supervisor first", "children first"])
async def test_sigterm_to_every_process_leaves_the_grace(
    start: Start, queue: TrackedQueue, notes: Notes, order: str
) -> None:
    """As systemd and Heroku do it: the child counted it beside its supervisor's, and gave no grace."""
    worker = start()
    worker.ready()
    job = await queue.enqueue("sleep", 1.5)
    notes.wait("start", 1)
    pids = [worker.process.pid, *worker.children()]
    for pid in pids if order == "supervisor first" else reversed(pids):
        os.kill(pid, signal.SIGTERM)
    assert worker.wait() == 0
    assert (await job.info()).state is State.SUCCEEDED and not notes.all("cleanup")


def test_sigterm_while_the_application_is_loaded_is_heard(server: RedisServer, namespace: str, tmp_path: Path) -> None:
    """As the first process of a container a worker without a handler would not hear of it at all."""
    worker = Worker(server.url, namespace, tmp_path, app=APP, SLOW_IMPORT="30")
    wait_for(lambda: b"importing" in worker.log.read_bytes(), what="the import")
    worker.signal(signal.SIGTERM)
    assert worker.wait(10) == 0
    assert worker.events("signal.received")[0]["meaning"].startswith("stopping")


@pytest.mark.parametrize("kind", ["full disk", "closed pipe", "closed"])
async def test_a_log_that_cannot_be_written_costs_only_its_lines(
    server: RedisServer, namespace: str, queue: TrackedQueue, kind: str
) -> None:
    """The line was written before the outcome was recorded: a failing job stayed active, and processes died."""
    reader, writer = os.pipe()
    if kind == "full disk":
        os.close(writer)
        writer = os.open("/dev/full", os.O_WRONLY)
    os.close(reader)
    command = [sys.executable, "-m", "tracked_queue", "worker", APP]
    if kind == "closed":
        command = ["sh", "-c", 'exec "$@" >&- 2>&-', "-", *command]
    with subprocess.Popen(
        command, env=environment(server.url, namespace), stdin=subprocess.DEVNULL, stdout=writer, stderr=writer,
        start_new_session=True,
    ) as worker:  # fmt: skip
        os.close(writer)
        try:
            jobs = [await queue.enqueue("fails") for _ in range(3)]

            async def all_dead() -> bool:
                return all([(await job.info()).state is State.DEAD for job in jobs])

            await wait_until(all_dead, 20, "the failing jobs to be recorded")
            assert len(await read_instances(connections_of(queue).store)) == 1 and worker.poll() is None
            worker.terminate()
            assert worker.wait(20) == 0
        finally:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)


SEVERAL = """
import asyncio, os, signal, sys
from tracked_queue import TrackedQueue

heard = []

def own(number, frame):
    heard.append(number)

async def main(url, namespace):
    apps = [TrackedQueue(url, namespace=f"{namespace}-{n}") for n in range(2)]
    for app in apps:
        @app.task(name="t")
        async def t() -> int:
            return 1
    for app in apps:
        async with app:
            await app.enqueue("t")
    workers = [asyncio.create_task(app.run_worker()) for app in apps]
    for app in apps:
        async with app:
            job = await app.enqueue("t")
            await job.result(20)
    os.kill(os.getpid(), signal.SIGTERM)
    print(await asyncio.gather(*workers), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print(heard == [signal.SIGTERM], signal.getsignal(signal.SIGTERM) is own, flush=True)

signal.signal(signal.SIGTERM, own)
asyncio.run(main(*sys.argv[1:]))
"""


def test_two_workers_in_one_loop_both_hear_and_the_program_has_its_handlers_back(
    server: RedisServer, namespace: str
) -> None:
    """The second one took the signals from the first, and the program's own handler was lost for good."""
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL, server.url, namespace],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "[0, 0]" in done.stdout and "True True" in done.stdout, done.stdout + done.stderr
