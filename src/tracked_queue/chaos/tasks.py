"""What runs in a chaos run: tasks of every kind, and the calls that producers make of them."""

from __future__ import annotations

import asyncio
import atexit
import os
import random
import signal
import time
from datetime import timedelta
from typing import Any

from ..app import TrackedQueue, connections_of
from ..model.constraints import Concurrency, Rate, Unique
from ..model.context import current_job
from ..model.retry import Fixed, Snooze
from ..model.task import PreparedCall
from .checker import POISON
from .ledger import VERSION_VARIABLE

app = TrackedQueue()

# A fleet in the middle of a deploy: the second version has a higher limit and one task more.
VERSION = int(os.environ.get(VERSION_VARIABLE, "2"))
LIMIT, SHARED = 3 if VERSION == 1 else 5, 4
KEYS = 4
RATE, RATE_S = 20, 0.5


@app.task(name="short")
async def short(n: int) -> int:
    """A few milliseconds."""
    await asyncio.sleep(0.005)
    return n


@app.task(name="long")
async def long(seconds: float) -> None:
    """Long enough to be interrupted."""
    await asyncio.sleep(seconds)


@app.task(name="flaky", max_attempts=20, retry=Fixed(0.2))
async def flaky(n: int) -> int:
    """Fails now and then, and is retried."""
    await asyncio.sleep(0.01)
    if (n + current_job().attempt) % 3 == 0:
        raise ValueError("this attempt fails")
    return n


@app.task(name="snoozing")
async def snoozing(n: int) -> None:
    """Stores a checkpoint, and asks for a later time once."""
    if current_job().saved is None:
        await current_job().checkpoint({"snoozed": True})
        raise Snooze(timedelta(seconds=0.3))


@app.task(name="unique", unique=Unique(by="key"))
async def unique(key: str) -> None:
    """At most one job per key at a time."""
    await asyncio.sleep(0.05)


@app.task(name="limited", limit=Concurrency(LIMIT, key="key"), queue="limited")
async def limited(key: str) -> None:
    """At most LIMIT of a key at a time."""
    await asyncio.sleep(0.05)


@app.task(name="shared", limit=Concurrency(SHARED, name="shared"))
async def shared(n: int) -> int:
    """At most SHARED at a time, over two queues."""
    await asyncio.sleep(0.02)
    return n


@app.task(
    name="shared-elsewhere",
    limit=Concurrency(SHARED, name="shared"),
    queue="limited",
)
async def shared_elsewhere(n: int) -> int:
    """The same limit, from another queue."""
    await asyncio.sleep(0.02)
    return n


@app.task(name="rated", limit=Rate(RATE, RATE_S, name="rated"))
async def rated(n: int) -> int:
    """At most RATE begin in RATE_S, over two queues."""
    return n


@app.task(name="rated-elsewhere", limit=Rate(RATE, RATE_S, name="rated"), queue="limited")
async def rated_elsewhere(n: int) -> int:
    """The same rate, from another queue."""
    return n


@(TrackedQueue() if VERSION == 1 else app).task(name="newer")
async def newer(n: int) -> int:
    """What workers of the first version don't know."""
    await asyncio.sleep(0.005)
    return n


@app.task(name=POISON)
async def poison() -> None:
    """Kills its process."""
    from .recorded import ledger

    await asyncio.sleep(random.random() * 0.3)
    ledger.write("fault", word=POISON, pid=os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="blocking", timeout=30)
async def blocking(seconds: float) -> None:
    """Blocks the event loop."""
    time.sleep(seconds)  # noqa: ASYNC251  (what a job should not do, and some do: the event loop stands still)


@app.task(name="echo")
async def echo(token: str) -> str:
    """Returns its argument, so that another job's result would be noticed."""
    await asyncio.sleep(0.002)
    return token


@app.task(name="echo-isolated", isolate="process")
def echo_isolated(token: str) -> str:
    """The same in a child process."""
    return token


@app.task(name="joined")
async def joined(n: int) -> int:
    """Comes after some others."""
    return n


@app.task(name="forking")
async def forking() -> str:
    """Forks, and its child comes back."""
    return "child" if os.fork() == 0 else "parent"


@app.task(name="forking-isolated", isolate="process")
def forking_isolated() -> str:
    """The same in a child process, by a program that is not installed."""
    if os.fork() == 0:
        os.execvp("no-such-program", ["no-such-program"])
    return "parent"


@app.task(name="sticky")
async def sticky() -> int:
    """Leaves something behind that its process waits for when it exits."""
    atexit.register(time.sleep, 3600)
    return os.getpid()


def chaos_calls(chance: random.Random) -> list[PreparedCall[Any]]:
    """The next calls of a producer: mostly one, now and then many."""
    kind = chance.choices(
        (
            "short",
            "bulk",
            "long",
            "flaky",
            "snoozing",
            "unique",
            "limited",
            "delayed",
            "echo",
            "isolated",
            "shared",
            "rated",
            "newer",
            "joined",
        ),
        (6, 1, 2, 3, 1, 3, 3, 3, 3, 1, 2, 2, 1, 2),
    )[0]
    n = chance.randrange(1000)
    match kind:
        case "bulk":
            return [short.call(n) for n in range(chance.randint(5, 40))]
        case "long":
            return [long.call(chance.random() * 2)]
        case "flaky":
            return [flaky.call(n)]
        case "snoozing":
            return [snoozing.call(n)]
        case "unique":
            return [unique.call(f"key{n % KEYS}")]
        case "limited":
            return [limited.call(f"key{n % KEYS}") for _ in range(chance.randint(1, 6))]
        case "shared":
            return [chance.choice((shared, shared_elsewhere)).call(n) for _ in range(chance.randint(1, 8))]
        case "newer":
            return [newer.call(n)]
        case "rated":
            return [chance.choice((rated, rated_elsewhere)).call(n) for _ in range(chance.randint(1, RATE))]
        case "echo":
            return [echo.call(f"token{chance.getrandbits(64)}")]
        case "isolated":
            return [echo_isolated.call(f"token{chance.getrandbits(64)}")]
        case "joined":
            shards = connections_of(app).shards
            first = shards.new_id()
            ids = [first, *(shards.new_like(first) for _ in range(chance.randint(0, 7)))]
            members = [chance.choice((short, flaky)).options(id=id).call(n) for id in ids]
            last = joined.options(id=shards.new_like(first), after=ids, on_failure="ignore")
            return [*members, last.call(n)]
        case "delayed":
            return [short.options(delay=chance.random() * 3).call(n)]
    return [short.call(n)]
