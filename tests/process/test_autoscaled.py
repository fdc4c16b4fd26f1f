"""An autoscaler that goes by `scale` drives real workers up and down, as a HorizontalPodAutoscaler does."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path

import pytest

from tests.process.worker import Worker
from tracked_queue import State, TrackedQueue
from tracked_queue.chaos.server import RedisServer

SLOTS, TARGET, LEAST, MOST = 5, 4, 1, 4  # a fifth of the places is to be free
# HPA's rules: changes below a tenth are ignored, and it goes down to the largest wish of a window.
TOLERANCE, STABLE_S = 0.1, 3.0


class Autoscaler:
    """The fleet, and what it was told to be."""

    def __init__(self, server: RedisServer, namespace: str, folder: Path) -> None:
        self._server, self._namespace, self._folder = server, namespace, folder
        self.workers: list[Worker] = []
        self.leaving: list[Worker] = []
        self.sizes: list[int] = []
        self._wishes: list[tuple[float, int]] = []

    def look(self, work: int) -> None:
        now, have = time.monotonic(), len(self.workers)
        ratio = work / (TARGET * max(have, 1))
        wish = have if have and abs(ratio - 1) <= TOLERANCE else math.ceil(work / TARGET)
        wish = max(LEAST, min(wish, MOST))
        self._wishes = [(at, size) for at, size in self._wishes if now - at <= STABLE_S] + [(now, wish)]
        size = max(wish, min(have, max(size for _, size in self._wishes)))
        while len(self.workers) < size:
            options = ("--concurrency", str(SLOTS), "--grace", "10")
            self.workers.append(Worker(self._server.url, self._namespace, self._folder, *options))
        while len(self.workers) > size:
            leaver = self.workers.pop(0)  # whichever: an autoscaler does not ask what runs there
            leaver.terminate()
            self.leaving.append(leaver)
        if not self.sizes or self.sizes[-1] != size:
            self.sizes.append(size)

    def close(self) -> None:
        for worker in (*self.workers, *self.leaving):
            worker.close()


@pytest.mark.timeout(120)
async def test_a_fleet_grows_and_shrinks_without_flapping_and_without_a_job_that_is_cut_short(
    server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    fleet = Autoscaler(server, namespace, tmp_path)
    async with TrackedQueue(server.url, namespace=namespace) as app:
        try:
            fleet.look(0)
            jobs = [await app.options(queue="default").enqueue("sleep", 0.4) for _ in range(200)]
            long = await app.enqueue("sleep", 8)  # still under way when the backlog is gone
            done, deadline = False, time.monotonic() + 90
            while not done or len(fleet.workers) > LEAST:
                found = await app.operator.scale(["default"], slots=SLOTS)
                fleet.look(found.work)
                done = found.work == 0
                assert time.monotonic() < deadline, (fleet.sizes, found)
                await asyncio.sleep(0.3)
            infos = [await job.info() for job in (*jobs, long)]
            assert {info.state for info in infos} == {State.SUCCEEDED}
            cut_short = [info for info in infos if info.attempts > 1 or info.interruptions or info.recoveries]
            assert not cut_short
            for leaver in fleet.leaving:
                assert leaver.wait() == 0, "it shut down in order"
        finally:
            fleet.close()
    peak = fleet.sizes.index(max(fleet.sizes))
    assert max(fleet.sizes) == MOST and fleet.sizes[-1] == LEAST
    assert fleet.sizes == [*sorted(fleet.sizes[: peak + 1]), *sorted(fleet.sizes[peak + 1 :], reverse=True)], "it flaps"
