"""How far this process may trust its lease: by its own monotonic clock, from when the last good beat was sent."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable

# Parts of the TTL without a good beat after which running jobs are cancelled, and after which the process is ended
# if they have not ended by then. Recovery elsewhere begins after one whole TTL at the earliest.
FENCE_PART = 0.75
EXIT_PART = 0.9

# A lease id stays below the 64 bytes up to which a hash field keeps the record in Redis' compact form.
MAX_LABEL_IN_LEASE = 48


def new_lease(label: str) -> str:
    """A lease id that no process had before: the label, for people, and a random part."""
    return f"{label[:MAX_LABEL_IN_LEASE]}.{secrets.token_hex(5)}"


class LeaseState:
    """
    What the event loop and the watchdog thread both know of the lease. Safe from any thread.

    The time of a beat is when it was *sent*: a slow reply must not stretch the trust.
    """

    def __init__(self, lease: str, ttl: float, sent_at: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.lease, self.ttl = lease, ttl
        self._clock, self._lock = clock, threading.Lock()
        self._sent_at = sent_at
        self._lost_at: float | None = None

    def beaten(self, sent_at: float) -> None:
        """A beat that was sent at this time was answered well."""
        with self._lock:
            self._sent_at = max(self._sent_at, sent_at)

    def lose(self) -> bool:
        """The lease was revoked; nothing brings it back. True the first time."""
        with self._lock:
            first = self._lost_at is None
            if first:
                self._lost_at = self._clock()
            return first

    @property
    def lost(self) -> bool:
        """Whether the lease was revoked."""
        return self._lost_at is not None

    @property
    def lost_s(self) -> float | None:
        """Seconds since the loss; None while the lease is held."""
        with self._lock:
            return None if self._lost_at is None else self._clock() - self._lost_at

    @property
    def silent_s(self) -> float:
        """Seconds since the last good beat was sent."""
        return self._clock() - self._sent_at  # read for every fetch: reading one number is atomic without the lock

    @property
    def doubtful(self) -> bool:
        """Whether the lease may soon run out: no new work, and what runs is to be cancelled."""
        return self.silent_s > self.ttl * FENCE_PART
