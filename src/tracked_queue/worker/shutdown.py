"""The end of an instance: named phases, each with its time limit and its log event."""

from __future__ import annotations

import asyncio

from .. import log
from ..errors import StoreUnavailableError
from ..protocol.transitions import owned
from ..settings import Settings
from ..transport.store import Store
from .fetcher import Fetcher
from .lease import LeaseState
from .outcome import Cause
from .reconcile import Reconciler
from .runner import Runner
from .settler import Settler
from .stop import Stop

# Limits of the phases around `grace`; together they stay within the 3 s that a killer may be relied on to wait.
STOP_FETCHING_S = 0.5
CANCEL_S = 1.5
FLUSH_S = 0.8


class Shutdown:
    """
    1 stop fetching; hand back what waits. 2 `grace` for what runs. 3 cancel it, and hand it back as an interruption,
    which spends no attempt. 4 record the last outcomes. The heartbeat goes on through all of it.
    """

    def __init__(
        self,
        *,
        state: LeaseState,
        settings: Settings,
        stop: Stop,
        runner: Runner,
        settler: Settler,
        fetcher: Fetcher,
        reconciler: Reconciler,
        store: Store,
    ) -> None:
        self._state, self._settings, self._stop = state, settings, stop
        self._runner, self._settler, self._fetcher = runner, settler, fetcher
        self._reconciler, self._store = reconciler, store

    async def run(self) -> int:
        """Go through the phases; returns how many jobs could not be handed back."""
        self._say("stop_fetching", STOP_FETCHING_S)
        self._runner.stop_accepting()
        self._settler.relax()
        await self._fetcher.stop(STOP_FETCHING_S)
        if self._runner.running:
            self._say("grace", self._settings.grace)
            await self._running_ended(self._settings.grace, unless_at_once=True)
        if self._runner.running:
            limit = min(CANCEL_S, self._settings.cancel_grace)
            self._say("cancel", limit)
            self._runner.cancel_all(Cause.SHUTDOWN)
            await self._running_ended(limit)
            self._runner.conclude_stubborn()
        self._say("flush", FLUSH_S)
        return await self._flush()

    def _say(self, phase: str, seconds: float) -> None:
        log.shutdown_phase_started(
            phase=phase,
            lease=self._state.lease,
            running=len(self._runner.running),
            buffered=len(self._runner.buffer),
            seconds=seconds,
        )

    async def _running_ended(self, seconds: float, *, unless_at_once: bool = False) -> None:
        at_once = asyncio.ensure_future(self._stop.at_once.wait())
        try:
            async with asyncio.timeout(seconds):
                while self._runner.running and not (unless_at_once and at_once.done()):
                    tasks = {item.asyncio_task for item in self._runner.running if item.asyncio_task}
                    await asyncio.wait(
                        tasks | ({at_once} if unless_at_once else set()), return_when=asyncio.FIRST_COMPLETED
                    )
        except TimeoutError:
            pass
        finally:
            at_once.cancel()

    async def _flush(self) -> int:
        """Record what is left, and hand back strays, so that the processing list is empty."""
        if self._state.lost:
            return 0
        if not await self._settler.drained(FLUSH_S):
            return self._settler.left
        try:
            async with asyncio.timeout(FLUSH_S):
                strays = await self._store.run(owned(self._state.lease))
                for job_id, delivery in strays:
                    self._reconciler.hand_back(job_id, delivery)
        except (StoreUnavailableError, TimeoutError):
            return 0  # nothing of ours is known to be there; if it is, recovery finds it
        await self._settler.drained(FLUSH_S)
        return self._settler.left
