"""Collecting outcomes into batches: while one is in flight, the next one fills."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

from .. import log
from ..protocol.transitions import MAX_BATCH, MAX_BYTES, MAX_RICH, Outcome, OutcomeKind, Verdict, settle
from ..settings import Settings
from ..transport.store import Store
from .meter import METER
from .outage import Outage, insist
from .recorder import RECORDER

# How much memory results and errors may take while they wait to be recorded; those of running jobs come on top.
HEAVY_BYTES = 16 * MAX_BYTES

# How much room in a batch an outcome other than a plain success takes.
RICH = MAX_BATCH / MAX_RICH
_SUCCEEDED = OutcomeKind.SUCCEEDED


class Settler:
    """Records outcomes for as long as the lease isn't lost; repeats them until they are answered."""

    def __init__(
        self,
        store: Store,
        lease: str,
        settings: Settings,
        outage: Outage,
        give_up: Callable[[], bool],
        told: Sequence[Callable[[str, list[Outcome], list[Verdict]], None]] = (),
    ) -> None:
        self._store, self._lease, self._settings = store, lease, settings
        self._outage, self._give_up, self._told = outage, give_up, told
        self._pending: deque[Outcome] = deque()
        # Cleared while too many bytes wait to be recorded for another job with a result to end.
        self.light = asyncio.Event()
        self.light.set()
        self._bytes, self._relaxed = 0, False
        self._in_flight: list[Outcome] = []
        self._filled = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._uncollect = METER.collect(lambda: ({}, {"outcomes_pending": self.left}))

    def add(self, outcome: Outcome) -> None:
        """Record this outcome with the next batch."""
        if not self._pending:
            self._filled.set()
            self._empty.clear()
        self._pending.append(outcome)
        if outcome.payload:
            self._bytes += len(outcome.payload)
            if self._bytes > HEAVY_BYTES and not self._relaxed:
                self.light.clear()

    @property
    def left(self) -> int:
        """Outcomes that are not recorded yet."""
        return len(self._pending) + len(self._in_flight)

    @property
    def owned(self) -> set[tuple[bytes, bytes]]:
        """(id, delivery) of the outcomes that are not recorded yet."""
        return {(outcome.id, outcome.delivery) for outcome in self.unsent}

    @property
    def unsent(self) -> list[Outcome]:
        """The outcomes that are not recorded yet, the oldest first."""
        return [*self._in_flight, *self._pending]

    async def drained(self, seconds: float) -> bool:
        """Wait until everything is recorded, for at most `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def relax(self) -> None:
        """From now on nothing waits for outcomes to be recorded: no further job starts."""
        self._relaxed = True
        self.light.set()

    async def run(self) -> None:
        """Record batch after batch; ends when the lease is lost."""
        try:
            await self._run()
        finally:
            self.relax()
            self._uncollect()

    async def _run(self) -> None:
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._pending:
                batch = self._in_flight = self._next_batch()
                call = settle(self._lease, batch, self._settings.resend_window, self._settings.result_ttl)
                verdicts = await insist(self._store, call, self._outage, self._give_up)
                if verdicts is None:
                    return
                self._in_flight = []
                RECORDER.events.append((time.monotonic(), "settled", len(batch)))
                if self._bytes:
                    self._bytes -= sum(len(outcome.payload) for outcome in batch)
                    if self._bytes <= HEAVY_BYTES:
                        self.light.set()
                for tell in self._told:
                    tell(self._lease, batch, verdicts)
                if verdicts.count(Verdict.OK) != len(verdicts):
                    self._report(batch, verdicts)
            self._empty.set()

    def _next_batch(self) -> list[Outcome]:
        """As much as one call takes: fewer of those that cost more than a plain success."""
        batch: list[Outcome] = []
        size = 0
        room: float = MAX_BATCH
        pending = self._pending
        while pending and room > 0:
            outcome = pending.popleft()
            room -= RICH if outcome.rich or outcome.kind is not _SUCCEEDED else 1
            size += len(outcome.payload) + len(outcome.reason)
            if size > MAX_BYTES and batch:
                pending.appendleft(outcome)
                break
            batch.append(outcome)
        return batch

    def _report(self, batch: list[Outcome], verdicts: list[Verdict]) -> None:
        for outcome, verdict in zip(batch, verdicts, strict=True):
            job_id = outcome.id.decode("utf-8", "replace")
            if verdict is Verdict.FENCED:
                RECORDER.write("fenced", asyncio.get_running_loop())
                log.job_fenced(job_id=job_id, lease=self._lease, delivery=outcome.delivery.decode())
            elif verdict is Verdict.GONE:
                log.job_vanished(job_id=job_id, lease=self._lease)
