"""Links over a real socket, to a server that says what a Redis says only on its worst day: bytes in pieces, too much, nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tracked_queue.errors import StoreRefusedError, StoreUnavailableError
from tracked_queue.settings import resolve
from tracked_queue.transport.endpoint import Endpoint
from tracked_queue.transport.link import Link
from tracked_queue.transport.pool import LinkPool

NO_REPLY = b"?what\r\n"
Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def peer(folder: Path, answer: Answer, greeting: bytes | None = None) -> AsyncIterator[Endpoint]:
    """A server that gives each packet to `answer`; or that says a few words to whoever connects, and hangs up."""
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        if greeting is not None:
            writer.write(greeting)
            writer.close()
            return
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await answer(data, writer)

    server = await asyncio.start_unix_server(serve, folder / "s")
    try:
        yield Endpoint(resolve({"redis_url": f"unix://{folder / 's'}"}, environ={}))
    finally:
        server.close()
        for writer in writers:
            writer.close()


async def test_replies_that_come_byte_by_byte(tmp_path: Path) -> None:
    async def answer(data: bytes, writer: asyncio.StreamWriter) -> None:
        for byte in b"*2\r\n$3\r\nab\n\r\n:7\r\n-WRONGTYPE no\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async with peer(tmp_path, answer) as endpoint:
        link = Link(endpoint)
        for _ in range(3):
            found, wrong = await link.call([("ONE",), ("TWO",)])
            assert found == [b"ab\n", 7] and isinstance(wrong, Exception)
        await link.close()


@pytest.mark.parametrize("surplus", [b"+unasked\r\n", b"$90\r\npart of"])
async def test_what_nobody_asked_for_answers_no_later_call(tmp_path: Path, surplus: bytes) -> None:
    """A reply that is left in a connection would be taken for the next call's."""
    count = 0

    async def answer(data: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        writer.write(b":%d\r\n" % count + surplus)

    async with peer(tmp_path, answer) as endpoint:
        link = Link(endpoint)
        assert [await link.call([("GET",)]) for _ in range(3)] == [[1], [2], [3]]
        await link.close()


@pytest.mark.parametrize("last_words", [b"", b"$5\r\nab", NO_REPLY])
async def test_a_call_that_is_cut_short_may_have_run(tmp_path: Path, last_words: bytes) -> None:
    """The server goes away, in the middle of a reply too, or what answers is no Redis."""

    async def answer(data: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(last_words)
        if last_words != NO_REPLY:
            writer.close()

    async with peer(tmp_path, answer) as endpoint:
        link = Link(endpoint)
        for _ in range(2):
            with pytest.raises(StoreUnavailableError) as found:
                await link.call([("GET",)])
            assert found.value.may_have_run and "no reply in time" not in found.value.problem
        await link.close()


async def test_a_connection_that_ended_while_it_was_idle_is_opened_again(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def answer(data: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"+OK\r\n")
        writer.close()
        await writer.wait_closed()
        ended.set()

    async with peer(tmp_path, answer) as endpoint:
        link = Link(endpoint)
        for _ in range(3):
            ended.clear()
            assert await link.call([("PING",)]) == [b"OK"]
            await ended.wait()
            wire = link._wire
            while wire is not None and wire.usable:  # until the loop has seen its end
                await asyncio.sleep(0)
        await link.close()


async def test_each_call_has_its_own_deadline(tmp_path: Path) -> None:
    """One timer serves them all: it ends neither a call of a later deadline too early, nor one of an earlier deadline too late."""

    async def answer(data: bytes, writer: asyncio.StreamWriter) -> None:
        if b"SLOW" in data:
            await asyncio.sleep(0.3)
        if b"NEVER" not in data:
            writer.write(b"+OK\r\n")

    async with peer(tmp_path, answer) as endpoint, asyncio.timeout(20):
        link = Link(endpoint)
        await link.open()  # a call's limit is for opening the connection too, which is not looked at here
        assert await link.call([("QUICK",)], 0.1) == [b"OK"]
        assert await link.call([("SLOW",)], 60) == [b"OK"], "the deadline of the call before is over by now"
        with pytest.raises(StoreUnavailableError, match="no reply in time"):
            await link.call([("NEVER",)], 0.05)
        await link.open()
        assert await link.call([("QUICK",)], 0.05) == [b"OK"]
        with pytest.raises(StoreUnavailableError, match="no reply in time"):
            await link.call([("NEVER",)], 0.2)
        assert await link.call([("QUICK",)], 60) == [b"OK"]
        with pytest.raises(StoreUnavailableError, match="no reply in time"):
            await link.call([("NEVER",)], 0.05)
        await link.close()


async def test_a_cancelled_call_leaves_no_reply_to_the_next(tmp_path: Path) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def answer(data: bytes, writer: asyncio.StreamWriter) -> None:
        if b"FIRST" in data:
            begun.set()
            await go.wait()
        writer.write(b"$%d\r\n%b\r\n" % (len(data), data))

    async with peer(tmp_path, answer) as endpoint:
        link = Link(endpoint)
        first = asyncio.create_task(link.call([("FIRST",)]))
        await begun.wait()
        first.cancel()
        await asyncio.wait({first})
        go.set()
        (reply,) = await link.call([("SECOND",)])
        assert b"SECOND" in reply
        await link.close()


async def nothing(data: bytes, writer: asyncio.StreamWriter) -> None:
    """Answers nothing."""


@pytest.mark.parametrize(
    ("greeting", "kind", "told"),
    [
        (b"-ERR max number of clients reached\r\n", StoreUnavailableError, "max number of clients"),
        (b"-DENIED Redis is running in protected mode\r\n", StoreRefusedError, "protected mode"),
        (b"+HELLO\r\n", StoreUnavailableError, "HELLO"),
        (b"", StoreUnavailableError, "closed"),
    ],
)
async def test_what_came_before_the_first_command(
    tmp_path: Path, greeting: bytes, kind: type[Exception], told: str
) -> None:
    """A refusal, or the end, that was there when redis-py had opened the connection: told at once, and nothing was sent."""
    async with peer(tmp_path, nothing, greeting) as endpoint, asyncio.timeout(5):
        link = Link(endpoint)
        connect = link._connection.connect

        async def connect_late() -> None:
            await connect()
            stream = (
                link._connection._reader
            )  # looked at, and not asked: in old versions of redis-py that takes the reply away
            while not (stream._buffer or stream.at_eof()):
                await asyncio.sleep(0)

        link._connection.connect = connect_late
        for _ in range(2):
            with pytest.raises(kind, match=told) as found:
                await link.call([("PING",), ("PING",)])
            assert not getattr(found.value, "may_have_run", False)
        await link.close()


async def test_an_error_before_the_end_is_what_is_told(tmp_path: Path) -> None:
    async def answer(data: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR max number of clients reached\r\n")
        writer.close()

    async with peer(tmp_path, answer) as endpoint:
        link = Link(endpoint)
        with pytest.raises(StoreUnavailableError, match="max number of clients"):
            await link.call([("WAIT",), ("RUN",)])
        await link.close()


async def test_a_pool_serves_its_callers_in_order_and_loses_no_link(tmp_path: Path) -> None:
    """Also when a caller is cancelled while it waits, or at the moment at which it has been handed a link."""
    served: list[bytes] = []

    async def answer(data: bytes, writer: asyncio.StreamWriter) -> None:
        served.append(data.split(b"\r\n")[2])
        writer.write(b"+OK\r\n")

    async with peer(tmp_path, answer) as endpoint, asyncio.timeout(20):
        pool = LinkPool(endpoint, 1)
        give, handed = pool._give, []

        def give_and_cancel(link: Link) -> None:
            give(link)
            handed.append(link)
            if len(handed) == 1:
                calls[2].cancel()

        pool._give = give_and_cancel  # type: ignore[method-assign]
        calls = [asyncio.create_task(pool.call([(f"C{n}",)])) for n in range(5)]
        await asyncio.sleep(0)
        calls[1].cancel()
        await asyncio.wait(calls)
        assert served == [b"C0", b"C3", b"C4"] and [call.cancelled() for call in calls] == [
            False,
            True,
            True,
            False,
            False,
        ]
        assert len(set(map(id, handed))) == 1
        await pool.close()


async def test_waiting_for_a_link_takes_no_longer_than_the_call_may(tmp_path: Path) -> None:
    async def answer(data: bytes, writer: asyncio.StreamWriter) -> None: ...

    async with peer(tmp_path, answer) as endpoint:
        pool = LinkPool(endpoint, 1)
        first = asyncio.create_task(pool.call([("ONE",)], 60.0))
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            with pytest.raises(StoreUnavailableError, match="all 1 connections were in use") as found:
                await pool.call([("TWO",)], 0.05)
        assert not found.value.may_have_run and not first.done()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await pool.close()


async def test_a_pool_keeps_its_places_when_no_link_can_be_made() -> None:
    endpoint = Endpoint(resolve({"redis_url": "redis://localhost"}, environ={}))
    endpoint._options["typo"] = 1
    pool = LinkPool(endpoint, 1)
    async with asyncio.timeout(5):
        for _ in range(3):
            with pytest.raises(TypeError):
                await pool.call([("PING",)])
