"""A producer of a chaos run: enqueues by single calls and in bulk, and notes what returned."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import msgspec

from ..app import TrackedQueue
from ..errors import JobError, StoreUnavailableError, TrackedQueueError
from ..model.job import Job
from ..model.task import PreparedCall
from .calls import REMEMBERED_S, Calls, calls_of
from .ledger import FOLDER_VARIABLE, Ledger
from .recorded import app, target

PAUSE_S = 0.04
# Results that a producer waits for at a time, and for how long each.
MOST_WAITING, RESULT_S = 20, 8.0


class Producer:
    """Enqueues until it is stopped; on SIGUSR1 it sends its last calls again, as a client with an outbox would."""

    def __init__(self, queue: TrackedQueue, ledger: Ledger, chance: random.Random, calls: Calls) -> None:
        self._app, self._ledger, self._chance, self._calls = queue, ledger, chance, calls
        self._recent: deque[tuple[float, PreparedCall[Any]]] = deque()
        self._again = asyncio.Event()
        self._stopped = asyncio.Event()
        self._waiting: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until SIGTERM."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self._again.set)
        loop.add_signal_handler(signal.SIGTERM, self._stopped.set)
        async with self._app:
            while not self._stopped.is_set() or self._again.is_set():
                if self._again.is_set():
                    self._again.clear()
                    await self._insist([call for _, call in self._recent])
                else:
                    await self._send(list(self._calls(self._chance)))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._chance.random() * 2 * PAUSE_S):
                        await self._stopped.wait()
            for task in self._waiting:
                task.cancel()

    async def _insist(self, calls: list[PreparedCall[Any]]) -> None:
        while calls and not await self._send(calls):  # noqa: ASYNC110  (no event says when to try again)
            await asyncio.sleep(0.2)

    async def _send(self, calls: list[PreparedCall[Any]]) -> bool:
        now = time.monotonic()
        # As an outbox keeps them: with their ids, so that what is sent again is known to be the same.
        calls = [fixed(call) for call in calls]
        self._recent += [(now, call) for call in calls]
        while self._recent and self._recent[0][0] < now - REMEMBERED_S:
            self._recent.popleft()
        about = [{"id": call.request.id, "task": call.task.name, "key": unique_key(call)} for call in calls]
        self._ledger.write_all([{"kind": "asked", **line} for line in about])
        began, limit = time.monotonic(), self._app.settings.enqueue_timeout
        try:
            jobs = await self._app.enqueue_many(calls) if len(calls) > 1 else [await self._one(calls[0])]
        except (StoreUnavailableError, JobError) as error:
            took = {"seconds": time.monotonic() - began, "limit": limit}
            self._ledger.write_all(
                [{"kind": "refused", "word": type(error).__name__, **took, **line} for line in about]
            )
            return False
        took = {"seconds": time.monotonic() - began, "limit": limit}
        self._ledger.write_all(
            [
                {"kind": "stored", **line, **took, "word": word_of(job, line["id"])}
                for line, job in zip(about, jobs, strict=True)
            ]
        )
        for call, job in zip(calls, jobs, strict=True):
            if call.task.name.startswith("echo") and len(self._waiting) < MOST_WAITING:
                task = asyncio.get_running_loop().create_task(self._answer(job, call.args[0]))
                self._waiting.add(task)
                task.add_done_callback(self._waiting.discard)
        return True

    async def _answer(self, job: Job[Any], token: str) -> None:
        """Wait for a result, and note whether it is this job's own, and how long that took."""
        began = time.monotonic()
        try:
            word = "right" if await job.result(RESULT_S) == token else "wrong"
        except (TimeoutError, TrackedQueueError) as error:
            word = type(error).__name__
        seconds = time.monotonic() - began
        self._ledger.write("answer", id=job.id, word=word, seconds=seconds, limit=RESULT_S)

    async def _one(self, call: PreparedCall[Any]) -> Job[Any]:
        (job,) = await self._app.enqueue_many([call])
        return job


def fixed(call: PreparedCall[Any]) -> PreparedCall[Any]:
    """The call with its id fixed, as if the caller had given it."""
    options = dataclasses.replace(call.options, id=call.request.id)
    return msgspec.structs.replace(call, options=options)


def word_of(job: Job[Any], id: str) -> str:
    """What became of an enqueue: `created`, `exists`, or `held` by another job."""
    return "created" if job.created else "exists" if job.id == id else "held"


def unique_key(call: PreparedCall[Any]) -> str:
    """The unique key of a call that holds one until its job is done, else ''."""
    unique = call.task.task_options.unique
    if unique is None or unique.until != "done" or unique.window is not None:
        return ""
    key: str = unique.parts(call.task.name, call.task.signature.arrived(call.request.args, call.request.kwargs))[0]
    return key


def main() -> None:
    """`python -m tracked_queue.chaos.produce SEED`."""
    ledger = Ledger(Path(os.environ[FOLDER_VARIABLE]), "producer")
    producer = Producer(app, ledger, random.Random(sys.argv[1]), calls_of(target))
    asyncio.run(producer.run())


if __name__ == "__main__":
    main()
