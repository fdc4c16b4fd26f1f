"""One shard's side of a worker process: one lease after the other."""

from __future__ import annotations

import asyncio
import contextlib
import time

from .. import log
from ..errors import StoreUnavailableError
from ..protocol.keys import Keys
from ..protocol.transitions import register
from ..transport.link import Link
from ..transport.server import check_server
from ..transport.store import Store
from .lease import LeaseState, new_lease
from .links import links_of
from .outage import Outage, insist, pauses
from .predecessors import release_predecessors
from .runner import Runner
from .term import Host, Term


class ShardWorker:
    """
    What a process does in one shard.

    Args:
        shard: Its number; where there are others, log lines name it.
    """

    def __init__(self, host: Host, shard: int, keys: Keys) -> None:
        self._host, self._shard, self._keys = host, shard, keys
        self._endpoint = host.endpoint.of(keys)
        self._outage = Outage(f"shard {shard}: " if host.slots.several else "")
        self._first = True
        self._term: Term | None = None
        self.lease = ""
        self._ran = 0  # under leases that are over

    @property
    def runner(self) -> Runner | None:
        """The runner under the current lease."""
        return None if self._term is None else self._term.runner

    @property
    def ran(self) -> int:
        """How many jobs have run, under all leases."""
        return self._ran + (0 if self._term is None else self._term.runner.ran)

    async def ready(self) -> bool:
        """Wait for a usable Redis; False if stopped meanwhile. Raises StoreRefusedError."""
        link = Link(self._endpoint)
        tries = pauses()
        stop = self._host.stop
        try:
            while not stop.asked.is_set():
                try:
                    for problem in await check_server(Store(link, self._keys)):
                        log.redis_unsafe(problem=problem)
                    await self._host.agreement.agree(self._host.endpoint)
                except StoreUnavailableError as error:
                    self._outage.failed(f"{error.problem} (waiting for it)")
                    await link.close()  # the name, or the cluster, may lead to another server by now
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(next(tries)):
                            await stop.asked.wait()
                else:
                    self._outage.worked()
                    return True
            return False
        finally:
            await link.close()

    async def run(self) -> int:
        """Work until stopped, under one lease after the other; 0 if nothing was left behind."""
        while True:
            code = await self._serve()
            if code is not None:
                return code

    def go_quiet(self) -> None:
        """Fetch no more; what runs goes on."""
        if self._term is not None:
            self._term.go_quiet()

    async def _serve(self) -> int | None:
        """Live under one lease: the exit code when stopped, None when the lease was lost and another is needed."""
        host, settings = self._host, self._host.settings
        lease = self.lease = new_lease(host.label)
        host.announce(self._shard, lease)
        async with links_of(self._endpoint, self._keys) as links:
            sent_at = time.monotonic()
            call = register(lease, settings.heartbeat_ttl, settings.heartbeat_interval, host.about, host.limits)
            registered = await insist(links.beat, call, self._outage, host.stop.asked.is_set)
            if registered is None:
                return 0
            if not registered:
                return None
            state = LeaseState(lease, settings.heartbeat_ttl, sent_at)
            host.sign.write(self._shard, lease)
            log.instance_registered(
                lease=lease,
                shard=self._shard,
                label=host.label,
                queues=host.served.names,
                tasks=[task.name for task in host.tasks],
                concurrency=settings.concurrency,
            )
            if self._first and settings.auto_recovery:
                self._first = False
                await release_predecessors(
                    links.rest, host.origin, host.label, settings.exclusive_label, several=host.slots.several
                )
            term = self._term = Term(host, self._shard, self._endpoint, self._keys, state, links, self._outage)
            try:
                return await term.run()
            finally:
                self._ran += term.runner.ran
                self._term = None
