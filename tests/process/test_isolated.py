"""The children of isolated jobs, without a worker around them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.harness import wait_until
from tests.process.isolated_tasks import gone, lingering, quick, renamed, slow
from tracked_queue.errors import ProcessLostError
from tracked_queue.model.hooks import Hooks
from tracked_queue.worker.inject import Shared
from tracked_queue.worker.invoke import invoker
from tracked_queue.worker.processes import _START, ProcessPool, _Child


@pytest.fixture
async def pool() -> AsyncIterator[ProcessPool]:
    made = ProcessPool(2)
    yield made
    await made.close()


async def call(pool: ProcessPool, task: Any, *args: Any) -> Any:
    return await invoker(task, Hooks(None, ()), pool, Shared(Hooks()))(args, {})


def children() -> set[int]:
    """Processes whose parent is this one; those that have ended and are not reaped yet don't count."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == os.getpid() and state != "Z":
            found.add(int(path.parent.name))
    return found


async def test_a_child_serves_many_calls_and_its_output_is_the_workers(
    pool: ProcessPool, capfd: pytest.CaptureFixture[str]
) -> None:
    assert [await call(pool, quick, n) for n in range(3)] == [1, 2, 3]
    assert await call(pool, quick, -1) == await call(pool, quick, -1) != os.getpid()
    assert await call(pool, renamed, 21) == 42
    shown = capfd.readouterr()
    assert "said by 2" in shown.out and "nothing to read" in shown.err


async def test_a_child_that_dies_is_told_of_and_replaced(pool: ProcessPool) -> None:
    with pytest.raises(ProcessLostError, match="exit code 7"):
        await call(pool, gone)
    assert await call(pool, quick, 1) == 2


async def test_a_child_whose_socket_closes_before_it_ends_keeps_its_exit_code(pool: ProcessPool) -> None:
    """As every dying child's does, by a moment; a kill in that moment took the exit code with it."""
    with pytest.raises(ProcessLostError, match="exit code 7"):
        await call(pool, lingering)


async def test_a_child_that_died_while_it_was_idle_costs_no_job(pool: ProcessPool) -> None:
    before = children()
    assert await call(pool, quick, 1) == 2
    (child,) = children() - before
    os.kill(child, signal.SIGKILL)
    await wait_until(lambda: children() <= before, what="it to be gone")
    assert await call(pool, quick, 2) == 3


async def test_a_child_whose_death_is_not_seen_yet_costs_no_job(
    pool: ProcessPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a SIGKILL and the end of its last thread a process looks alive and its socket open."""
    before = children()
    assert await call(pool, quick, 1) == 2
    (child,) = children() - before
    os.kill(child, signal.SIGSTOP)
    with monkeypatch.context() as patched:
        patched.setattr(_Child, "alive", True)
        asked = asyncio.ensure_future(call(pool, quick, 2))
        await wait_until(lambda: bool(pool._busy), what="it to be asked")
        os.kill(child, signal.SIGKILL)
        assert await asked == 3


async def test_a_cancellation_at_any_moment_leaves_no_child_behind(pool: ProcessPool) -> None:
    """Also one while the process is being started."""
    before = children()
    chance = random.Random(7)
    for _ in range(12):
        run = asyncio.ensure_future(call(pool, slow))
        await asyncio.sleep(chance.random() * 0.05)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    await wait_until(lambda: children() <= before, what="the children to end")
    assert await call(pool, quick, 1) == 2, "the places are free again"
    await pool.close()
    await wait_until(lambda: children() <= before, what="the idle child to end")


def test_a_child_whose_worker_is_gone_ends_without_a_word() -> None:
    """It was in the middle of a job, and there is nobody whom it could answer."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", _START, json.dumps(sys.path), str(theirs.fileno())]
    with theirs:
        child = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    call = [1, "quick", ["tests.process.isolated_tasks", "", "quick"], b"\x91\x01", b"\x80", {}, {}]
    with ours:
        for data in (b"", msgspec.msgpack.encode(call)):
            ours.sendall(len(data).to_bytes(8, "big") + data)
        size = int.from_bytes(ours.recv(8), "big")
        ours.recv(size)  # it has read the call; from here on the job runs
    shown = child.communicate(timeout=30)[1].decode()
    assert child.returncode == 0 and "Traceback" not in shown, shown
