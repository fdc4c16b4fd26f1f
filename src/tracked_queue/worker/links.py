"""The connections of one lease."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import AsyncIterator

from ..protocol.keys import Keys
from ..transport.endpoint import Endpoint
from ..transport.link import Link
from ..transport.pool import LinkPool
from ..transport.store import Store
from .meter import METER, STORE_EDGES
from .recorder import RECORDER


class Links:
    """The connections of one lease: fetch, settle and beats have their own, so that nothing starves them."""

    def __init__(self, endpoint: Endpoint, keys: Keys) -> None:
        self.wait_link = Link(endpoint, identify=True)
        self.wait = Store(self.wait_link, keys)
        self.fetch = Store(Link(endpoint), keys)
        self.settle = Store(Link(endpoint), keys)
        self.beat = Store(Link(endpoint), keys)
        self.rest = Store(LinkPool(endpoint, 2), keys)
        for name, store in (("fetch", self.fetch), ("settle", self.settle), ("beat", self.beat)):
            store.timed = functools.partial(_took, name)

    async def close(self) -> None:
        """Close all of them."""
        for store in (self.wait, self.fetch, self.settle, self.beat, self.rest):
            await store.close()


def _took(call: str, seconds: float) -> None:
    METER.observe("store_seconds", STORE_EDGES, seconds, call)
    RECORDER.events.append((time.monotonic(), call, seconds))


@contextlib.asynccontextmanager
async def links_of(endpoint: Endpoint, keys: Keys) -> AsyncIterator[Links]:
    """The connections for one lease, closed at its end."""
    links = Links(endpoint, keys)
    try:
        yield links
    finally:
        await links.close()
