"""When to look for run-out leases, and in what portions their jobs are moved."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

import msgspec

from .. import log
from ..errors import SealedError, StoreUnavailableError
from ..model.codec import decode_options
from ..model.hooks import Moved, Tracing
from ..protocol.text import to_text
from ..protocol.transitions import MAX_RICH, Fate, Portion, PortionWord, Recovered, recover, sweep, trim
from ..reports.jobs import drop_ended
from ..settings import Settings
from ..transport.store import Store
from .outage import Outage

# The dead are trimmed by every instance now and then; a trim that finds nothing costs one short call.
TRIM_EVERY_S = 60.0
# How often ended jobs are cleared from the heads of lists that nobody fetches from.
DROP_EVERY_S = 600.0
# Of how many moved jobs the headers are read at once: with them come all options, which may be large.
HEADERS_READ = 20


class Witness:
    """
    Tells an app's tracing which jobs a recovery has moved.

    Args:
        opened: What unseals stored options.
    """

    def __init__(self, tracing: Tracing | None, opened: Callable[[bytes], bytes]) -> None:
        self._tracing, self._opened = tracing, opened

    async def moved(self, store: Store, lease: str, label: str, jobs: list[Recovered]) -> None:
        """These were moved. Reads their headers, if the app is traced; whatever goes wrong with that is logged."""
        if self._tracing is None or not jobs:
            return
        try:
            for at in range(0, len(jobs), HEADERS_READ):
                await self._tell(self._tracing, store, lease, label, jobs[at : at + HEADERS_READ])
        except Exception as error:
            log.hook_failed(hook="tracing", task="", job_id="", error=f"{type(error).__qualname__}: {error}"[:300])

    async def _tell(self, tracing: Tracing, store: Store, lease: str, label: str, jobs: list[Recovered]) -> None:
        found = []
        records = await store.read_fields([job.id for job in jobs], "queue", "options")
        for job, (queue, options) in zip(jobs, records, strict=True):
            headers = {}
            if options:
                with contextlib.suppress(msgspec.DecodeError, SealedError):
                    headers = decode_options(self._opened(options)).headers or {}
            found.append(Moved(job.id, job.task, to_text(queue or b""), job.fate.value, headers))
        tracing.recovered(lease, label, found)


async def recover_lease(store: Store, settings: Settings, lease: str, owner: str, witness: Witness) -> list[Recovered]:
    """Move all jobs of a lost lease; stops where the script refuses. Raises StoreUnavailableError."""
    return (await _recover_lease(store, settings, lease, owner, witness))[0]


async def _recover_lease(
    store: Store, settings: Settings, lease: str, owner: str, witness: Witness
) -> tuple[list[Recovered], PortionWord]:
    """What it moved, and the script's last word."""
    moved: list[Recovered] = []
    while True:
        portion: Portion = await store.run(
            recover(
                lease,
                owner=owner,
                max_recoveries=settings.max_recoveries,
                lock_ttl=settings.recovery_lock_ttl,
                resend_window=settings.resend_window,
                interval=settings.heartbeat_interval,
            )
        )
        for job in portion.jobs:
            if job.fate is not Fate.GONE:
                log.job_recovered(
                    job_id=job.id, task=job.task, lease=lease, label=portion.label, fate=job.fate.value,
                    recoveries=job.recoveries, charges=job.charges,
                )  # fmt: skip
        moved += portion.jobs
        await witness.moved(store, lease, portion.label, [job for job in portion.jobs if job.fate is not Fate.GONE])
        if portion.word is not PortionWord.OK:
            return moved, portion.word
        if portion.remaining == 0:
            log.lease_recovered(lease=lease, label=portion.label, jobs=len(moved))
            return moved, PortionWord.OK


async def recover_once(store: Store, settings: Settings, owner: str, witness: Witness) -> list[Recovered]:
    """Look once for leases that ran out, and move their jobs."""
    moved: list[Recovered] = []
    for lease in await store.run(sweep(settings.heartbeat_ttl)):
        of_lease, word = await _recover_lease(store, settings, lease, owner, witness)
        moved += of_lease
        if word in (PortionWord.HOLD, PortionWord.BUSY):
            break  # no instance may be declared dead now, or another one is already sweeping
    return moved


class Recovery:
    """Every instance sweeps for as long as it lives, with jitter, so that a fleet doesn't sweep in step."""

    def __init__(self, store: Store, settings: Settings, owner: str, outage: Outage, witness: Witness) -> None:
        self._store, self._settings, self._owner, self._outage = store, settings, owner, outage
        self._witness = witness
        self._poked = asyncio.Event()

    def poke(self) -> None:
        """A beat saw a lease that ran out: don't wait for the next turn."""
        self._poked.set()

    async def run(self) -> None:
        """Sweep until cancelled."""
        loop = asyncio.get_running_loop()
        trim_at = loop.time() + TRIM_EVERY_S * (0.5 + random.random())
        drop_at = loop.time() + DROP_EVERY_S * (0.5 + random.random())
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.recovery_interval * (0.75 + random.random() / 2)):
                    await self._poked.wait()
            self._poked.clear()
            try:
                if self._settings.auto_recovery:
                    await recover_once(self._store, self._settings, self._owner, self._witness)
                if loop.time() >= trim_at:
                    trim_at = loop.time() + TRIM_EVERY_S
                    await self._trim()
                if loop.time() >= drop_at:
                    drop_at = loop.time() + DROP_EVERY_S
                    await drop_ended(self._store)
            except StoreUnavailableError as error:
                self._outage.failed(error.problem)

    async def _trim(self) -> None:
        total = 0
        while True:
            removed = await self._store.run(trim(self._settings.dead_max_age, self._settings.dead_max_count))
            total += removed
            if removed < MAX_RICH:
                break
        if total:
            log.dead_trimmed(jobs=total)
