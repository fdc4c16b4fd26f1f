"""Carrying out calls: scripts by their hash, reloaded when the server has forgotten them."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import redis.exceptions as rex

from ..errors import StoreRefusedError
from ..protocol.keys import Keys
from ..protocol.records import ask_fields, ask_whole, read_fields, read_whole
from ..protocol.scripts import Script, load_scripts
from ..protocol.transitions import Call
from .link import Command
from .replies import refused_reply
from .sync_link import SyncLink

T = TypeVar("T")


class Caller(Protocol):
    """A Link or a LinkPool."""

    async def call(self, commands: Sequence[Command], timeout: float | None = None) -> list[Any]: ...

    async def close(self) -> None: ...


def checked(reply: Any) -> Any:
    """The reply, or our error for an error reply."""
    if isinstance(reply, Exception):
        raise refused_reply(reply) from reply
    return reply


def _foreign(reply: Any) -> bool:
    return isinstance(reply, rex.ResponseError) and "WRONGTYPE" in str(reply)


@dataclass(frozen=True, slots=True)
class Durable:
    """
    What an enqueue waits for beyond the server's memory: `replica` (WAIT) or `fsync` (WAITAOF, Redis 7.2 or newer).

    In newer versions (8.2, but not 6.2 and 7.0) the wait covers only the last write of its own connection. A resend
    that finds its job already stored writes nothing, so a dummy write goes before the wait; once that is confirmed, so
    is everything before it.
    """

    durability: str
    replicas: int
    seconds: float

    def commands(self, keys: Keys) -> list[Command]:
        """What follows the script."""
        ms = max(1, round(self.seconds * 1000))
        wait: Command = ("WAIT", self.replicas, ms) if self.durability == "replica" else ("WAITAOF", 1, 0, ms)
        return [("SET", keys.single("durable"), 1, "PX", 1000), wait]

    def reached(self, reply: Any) -> bool:
        """Whether the reply to the wait says that it is safe. Raises StoreRefusedError."""
        if isinstance(reply, rex.ResponseError):
            text = str(reply)
            if "unknown command" in text.lower():
                raise StoreRefusedError(
                    "durability='fsync' needs WAITAOF, which Redis has from 7.2 on; this one is older"
                )
            if "appendonly is disabled" in text:
                raise StoreRefusedError(
                    "durability='fsync' needs an append-only file, and this Redis has appendonly no"
                )
            raise refused_reply(reply) from reply
        if self.durability == "replica":
            return isinstance(reply, int) and reply >= self.replicas
        return isinstance(reply, list) and reply[0] >= 1


class Store:
    """
    The transitions of one namespace over one link or pool.

    It never repeats a call whose reply was lost; the caller knows whether that is safe. A script that the server
    doesn't know (NOSCRIPT: it was restarted, failed over or flushed) was not run, and is loaded and sent again.
    """

    def __init__(self, caller: Caller, keys: Keys, scripts: Mapping[str, Script] | None = None) -> None:
        self.keys, self._tag = keys, keys.tag
        self.timed: Callable[[float], None] | None = None  # told how long each call took that was answered
        self._caller, self._scripts = caller, load_scripts(keys.clock) if scripts is None else scripts

    async def run(self, call: Call[T], timeout: float | None = None) -> T:
        """
        Carry out one transition.

        Raises:
            StoreUnavailableError: No answer; `may_have_run` says whether it may have been carried out.
            StoreFullError, StoreRefusedError, InvariantError: Redis refused.
        """
        if self.timed is None:
            return call.value(checked((await self._send(call, (), timeout))[0]))
        began = time.perf_counter()
        (reply,) = await self._send(call, (), timeout)
        self.timed(time.perf_counter() - began)
        return call.value(checked(reply))

    async def run_durably(self, call: Call[T], durable: Durable, timeout: float) -> tuple[T, bool]:
        """
        Carry out a transition, and wait until its writes are as safe as asked: its result, and whether they are.

        Raises like `run`; StoreRefusedError where the server can't do what is asked.
        """
        replies = await self._send(call, durable.commands(self.keys), timeout + durable.seconds)
        return call.value(checked(replies[0])), durable.reached(replies[-1])

    async def wait_and_run(self, markers: Sequence[str], block: float, call: Call[T], timeout: float) -> T:
        """
        Block for up to `block` seconds until one of the markers is set, then carry out the transition.

        Both are sent at once, so that the server runs the script the moment a marker comes.
        """
        wait = ("BZPOPMIN", *markers, f"{block:.3f}")
        # Whether a marker came, the wait ran out or was unblocked: the script's answer is what counts. But a server
        # that refuses to wait would be asked again at once, and again.
        waited, reply = await self._caller.call([wait, self._eval(call)], timeout)
        if isinstance(waited, Exception) and not str(waited).startswith("UNBLOCKED"):
            checked(waited)
        if isinstance(reply, rex.NoScriptError):
            (reply,) = await self._caller.call([self._load(call)], timeout)
        return call.value(checked(reply))

    async def read(self, *commands: Command) -> list[Any]:
        """Replies of reading commands, in order. Raises like `run`."""
        return [checked(reply) for reply in await self._caller.call(commands)] if commands else []

    async def read_fields(self, ids: Sequence[str | bytes], *names: str) -> list[Sequence[bytes | None]]:
        """Fields of jobs' records; None for all of a key that something else wrote, which must not hide the rest."""
        commands = [ask_fields(self.keys, job_id, names) for job_id in ids]
        replies = await self._caller.call(commands) if commands else []
        return [read_fields(None if _foreign(reply) else checked(reply), names) for reply in replies]

    async def read_record(self, job_id: str) -> dict[bytes, bytes] | None:
        """A job's whole record, empty for none; None for a key that something else wrote."""
        (reply,) = await self._caller.call([ask_whole(self.keys, job_id)])
        return read_whole(None if _foreign(reply) else checked(reply))

    async def close(self) -> None:
        """Close the link or the pool."""
        await self._caller.close()

    def _eval(self, call: Call[Any]) -> Command:
        return ("EVALSHA", self._scripts[call.script].sha, 1, self._tag, *call.args)

    def _load(self, call: Call[Any]) -> Command:
        # EVAL loads and runs in one step: a SCRIPT FLUSH between two steps can't starve it.
        return ("EVAL", self._scripts[call.script].text, 1, self._tag, *call.args)

    async def _send(self, call: Call[Any], more: Sequence[Command], timeout: float | None) -> list[Any]:
        """Replies of the script and of what follows it on the same connection."""
        replies = await self._caller.call([self._eval(call), *more], timeout)
        if isinstance(replies[0], rex.NoScriptError):
            replies = await self._caller.call([self._load(call), *more], timeout)
        return replies


class _AtOnce:
    """A SyncLink as a Caller: nothing that it is asked for waits for the event loop."""

    def __init__(self, link: SyncLink) -> None:
        self._link = link

    async def call(self, commands: Sequence[Command], timeout: float | None = None) -> list[Any]:
        return self._link.call(commands, timeout)

    async def close(self) -> None:
        self._link.close()


class SyncStore:
    """The same for code without an event loop: synchronous producers and the watchdog thread."""

    def __init__(self, link: SyncLink, keys: Keys, scripts: Mapping[str, Script] | None = None) -> None:
        self._link, self._store = link, Store(_AtOnce(link), keys, scripts)

    def run(self, call: Call[T], timeout: float | None = None) -> T:
        """See `Store.run`."""
        return _at_once(self._store.run(call, timeout))

    def run_durably(self, call: Call[T], durable: Durable, timeout: float) -> tuple[T, bool]:
        """See `Store.run_durably`."""
        return _at_once(self._store.run_durably(call, durable, timeout))

    def read(self, ask: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
        """What a reading function makes of this store; it awaits nothing but the store."""
        return _at_once(ask(self._store))

    def close(self) -> None:
        """Close the link."""
        self._link.close()


def _at_once(work: Coroutine[Any, Any, T]) -> T:
    try:
        work.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    work.close()
    raise AssertionError("it waited for an event loop")
