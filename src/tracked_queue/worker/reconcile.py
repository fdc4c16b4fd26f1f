"""
Comparing what Redis says that this instance owns with what it really has.

A job can stand in the processing list of a live instance that knows nothing of it, when a fetch's reply was lost for
good; the heartbeat would keep it there for ever (CASE-18). It is handed back once it was seen twice, with no fetch in
flight that is older than the first sight and could still bring it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .. import log
from ..protocol.text import to_bytes
from ..protocol.transitions import Outcome, OutcomeKind, owned
from ..transport.store import Store


class Reconciler:
    """Looks every now and then."""

    def __init__(
        self,
        *,
        store: Store,
        lease: str,
        known: Callable[[], set[tuple[bytes, bytes]]],
        oldest_fetch: Callable[[], float | None],
        settle: Callable[[Outcome], None],
    ) -> None:
        self._store, self._lease, self._known = store, lease, known
        self._oldest_fetch, self._settle = oldest_fetch, settle
        self._seen: dict[tuple[str, str], float] = {}

    async def look(self) -> int:
        """One comparison; returns how many strays were handed back. Raises StoreUnavailableError."""
        now = asyncio.get_running_loop().time()
        listed = await self._store.run(owned(self._lease))
        known = self._known()
        strays = [item for item in listed if (to_bytes(item[0]), item[1].encode()) not in known]
        oldest = self._oldest_fetch()
        handed_back = 0
        for job_id, delivery in strays:
            first = self._seen.get((job_id, delivery))
            if first is not None and (oldest is None or oldest > first):
                self.hand_back(job_id, delivery)
                handed_back += 1
        self._seen = {item: self._seen.get(item, now) for item in strays}
        return handed_back

    def hand_back(self, job_id: str, delivery: str) -> None:
        """Return one stray to the head of its queue; it never ran here."""
        log.job_stray(job_id=job_id, lease=self._lease)
        self._settle(Outcome(to_bytes(job_id), delivery.encode() or b"0", OutcomeKind.UNSTARTED, 0, b"", ""))
