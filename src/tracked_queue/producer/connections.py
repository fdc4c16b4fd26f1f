"""
The connections of one app, and what they rest on: its settings, shards and keys, and the embedded server if there is to be one.

Nothing is opened before the first use. Each event loop has its own connections, and so has each thread without a loop;
connections from before a fork are left to the parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import (
    InvariantError,
    NamespaceMismatchError,
    StoreRefusedError,
    StoreUnavailableError,
    UnguardedScriptError,
    UsageError,
)
from ..model.cipher import Cipher, parse_keys
from ..protocol.keys import Keys
from ..protocol.version import misfit, number_in
from ..settings import Settings, with_options
from ..sharding.agreement import Agreement
from ..sharding.shards import Shards
from ..transport.endpoint import Endpoint, fill_standard_descriptors
from ..transport.link import Link
from ..transport.store import Store, SyncStore
from ..transport.sync_link import SyncLink
from .client import Clients, SyncStores

if TYPE_CHECKING:
    from ..transport.embedded import EmbeddedServer

UNGUARDED = (
    "this script was loaded in a child process for its isolate='process' jobs, and what it does when it is run began there; "
    'put that under `if __name__ == "__main__":`'
)


class Connections:
    """
    The connections of one app.

    `closed_for`, if not empty, says why it must not use Redis: the app was included in another one, or is under test.
    """

    def __init__(self, settings: Settings) -> None:
        self.closed_for = ""
        self._clients: dict[asyncio.AbstractEventLoop, tuple[int, Clients]] = {}
        self._embedded: EmbeddedServer | None = None
        self._embedded_lock = threading.RLock()
        self._embedding = False
        self._take(settings, "now_ms")

    def _take(self, settings: Settings, clock: str) -> None:
        self.settings = settings
        self.shards = Shards(settings.namespace, settings.shards, clock)
        self.agreement = Agreement(self.shards, self._shards_chosen)
        self.cipher = Cipher(parse_keys(settings.encryption_keys), settings.source_of("encryption_keys"))
        self.sync_stores = SyncStores(self._new_sync_store)

    def use(self, settings: Settings, clock: str = "now_ms") -> None:
        """
        Switch to other settings from the next use on. Open connections must have been closed before.

        Args:
            clock: The clock of the scripts: see `load_scripts`.
        """
        self.sync_stores.close()
        self._take(settings, clock)

    @property
    def are_open(self) -> bool:
        """Whether some event loop uses them, or the embedded server runs for them."""
        return bool(self._clients) or self._embedded is not None

    @property
    def _shards_chosen(self) -> bool:
        return self.settings.sources.get("shards") != "default"

    # A worker's child processes

    def child_settings(self, settings: Settings) -> dict[str, Any]:
        """What a child process of a worker with these settings goes by: see `adopt`."""
        values = settings.values()
        if self._embedded is not None:
            values["redis_url"] = self._embedded.url
        return values

    def adopt(self, values: Mapping[str, Any]) -> None:
        """Take over the settings of the worker that this process belongs to, whatever its environment says."""
        self.use(with_options(self.settings, values))

    # Where Redis is

    def endpoint(self) -> Endpoint:
        """
        Where Redis is; starts the embedded server if there is to be one, which may take a moment.

        Raises:
            UsageError: The app must not use Redis.
            StoreUnavailableError: The embedded server doesn't start.
        """
        loaded_in = sys.modules.get("tracked_queue.worker.isolated")
        if loaded_in is not None and loaded_in.is_loading():
            raise UnguardedScriptError(UNGUARDED)
        if self.closed_for:
            raise UsageError(self.closed_for)
        fill_standard_descriptors()
        if not self.settings.redis_url.startswith("embedded:"):
            return Endpoint(self.settings)
        from ..transport.embedded import start_embedded

        with self._embedded_lock:
            if self._embedding:  # in a signal's handler or a finalizer, while this thread starts it
                raise StoreUnavailableError("the embedded server is being started", may_have_run=False)
            if self._embedded is None:
                self._embedding = True
                try:
                    self._embedded = start_embedded(self.settings.redis_url)
                finally:
                    self._embedding = False
            return Endpoint(self.settings, self._embedded.url)

    async def endpoint_async(self) -> Endpoint:
        """`endpoint`, without holding up the event loop."""
        return await asyncio.to_thread(self.endpoint)

    async def find_shards(self) -> bool:
        """
        Take the namespace's own number of shards where none was set: for tools, which are started without the app's code. What
        this event loop has open for another number is closed.

        Returns:
            Whether it is known; before the first program that enqueues or works, it is not.

        Raises:
            UsageError: Another number was set (a tool that works on a part of the shards would mislead), or the app was used.
            NamespaceMismatchError: The namespace is written in a protocol that this version doesn't read.
            StoreUnavailableError: Redis could not be asked.
        """
        keys = self.shards.base_keys
        link, protocol = Link((await self.endpoint_async()).of(keys)), None
        try:
            store = Store(link, keys)
            (found,) = await store.read(("GET", keys.shard_count))
            with contextlib.suppress(InvariantError):  # of another type: it counts as nothing, and is replaced
                (protocol,) = await store.read(("GET", keys.protocol))
        except StoreRefusedError:
            return True  # the next call reports which right is missing
        finally:
            await link.close()
        if problem := misfit(f"namespace {self.settings.namespace}", number_in(protocol)):
            raise NamespaceMismatchError(problem)
        if found is not None and found.isdigit() and int(found) != self.settings.shards:
            settings = self.settings
            if self._shards_chosen:
                raise UsageError(
                    f"namespace {settings.namespace} has {int(found)} shards, and shards is set to {settings.shards} here"
                )
            here = self._clients.pop(asyncio.get_running_loop(), None)
            if here is not None:
                await here[1].close()
            if self._clients:
                raise UsageError("call find_shards() before the first use of the app in another event loop")
            self.use(with_options(settings, {"shards": int(found)}), self.shards.clock)
        return found is not None

    # Of an event loop

    def here(self) -> Clients:
        """This event loop's clients. Those of another process (before a fork) are left alone."""
        loop = asyncio.get_running_loop()
        found = self._clients.get(loop)
        if found is None or found[0] != os.getpid():
            for other in list(self._clients):
                if other.is_closed():
                    self._clients.pop(other, None)
            found = os.getpid(), Clients(self.settings, self.endpoint(), self.shards, self.agreement)
            self._clients[loop] = found
        return found[1]

    async def agreed(self) -> list[Store]:
        """`stores`, once it is sure that there are as many shards as the settings say. See Agreement.agree."""
        await self.here().agree()
        return self.stores

    @property
    def stores(self) -> list[Store]:
        """The transitions of each shard over this event loop's pools, in the shards' order."""
        return [client.store for client in self.here().all]

    @property
    def store(self) -> Store:
        """The first shard's, which is the only one unless `shards` says another number."""
        return self.stores[0]

    @property
    def keys(self) -> Keys:
        """The key names of the first shard."""
        return self.shards.keys(0)

    def store_of(self, job_id: str) -> Store:
        """The transitions of the shard in which a job is."""
        return self.here().of_id(job_id).store

    async def aclose(self) -> None:
        """Close this event loop's connections, and give up the embedded server; a later use opens new ones."""
        found = self._clients.pop(asyncio.get_running_loop(), None)
        if found is not None:
            await found[1].close()
        self._give_up_embedded()

    async def abandon(self) -> None:
        """
        Let go of this event loop's connections without finishing what is being sent: for the testing kit, whose jobs die in
        the middle of a call.
        """
        found = self._clients.pop(asyncio.get_running_loop(), None)
        if found is not None:
            for client in found[1].all:
                await client.abandon()

    # Of threads without one

    def agree_sync(self, seconds: float) -> None:
        """See Agreement.agree."""
        if not self.agreement.agreed:
            self.agreement.agree_sync(self.endpoint(), seconds)

    def _new_sync_store(self, shard: int) -> SyncStore:
        keys = self.shards.keys(shard)
        return SyncStore(SyncLink(self.endpoint().of(keys)), keys)

    def close(self) -> None:
        """Close the connections of all threads, and give up the embedded server unless an event loop uses it."""
        used, self.sync_stores = self.sync_stores, SyncStores(self._new_sync_store)
        used.close()
        self._give_up_embedded()

    def _give_up_embedded(self) -> None:
        if self._embedded is not None and not self._clients:
            self._embedded.close()
            self._embedded = None
