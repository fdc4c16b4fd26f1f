"""A chaos run from its first process to its verdict."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec

from ..sharding.shards import Shards
from .checker import FINAL, History, Judgement, judge
from .faults import Faults
from .ledger import Event, read_ledgers
from .programs import recovered_in
from .world import NAMESPACE, World

# Seconds between the starts of two faults; one may last longer, so that others come meanwhile.
PAUSE_S = (0.3, 1.6)
AT_ONCE = 500


async def run_chaos(
    folder: Path,
    target: str,
    seconds: float,
    seed: int,
    told: Callable[[str], None],
    shards: int = 1,
    instances: int = 0,
) -> Judgement:
    """
    Let producers and workers run under random faults for `seconds`, let everything end, and judge.

    Args:
        folder: Where ledgers, logs and history are kept.
        target: module:app.
        seed: Decides every choice: which fault comes when, and what producers enqueue. What the processes do meanwhile
            depends on the machine.
        told: Gets a line for each fault.
        shards: How many the namespace has.
        instances: How many small ones there are besides the workers', fifty to a process.
    """
    world = World(folder, target, random.Random(seed), shards, instances)
    me = asyncio.current_task()
    if me is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, me.cancel)  # what was started is ended then too
    async with world.running():
        await _faults(world, seconds, told)
        told("no more faults; everything has to end now")
        parts = Shards(NAMESPACE, shards)

        await world.end_producers()
        await world.calm()
        ids = _jobs(read_ledgers(folder))

        async def left(client: Any) -> tuple[int, int]:
            records = await _records(client, parts, ids)
            open_ones = [record for record in records.values() if record and record.get("state") not in FINAL]
            return len(open_ones), sum(int(record.get("deaths", 0)) for record in open_ones)

        await world.settle_down(left)
        async with world.direct() as client:
            events = read_ledgers(folder)
            history = History(
                events=events,
                records=await _records(client, parts, _jobs(events)),
                places=await _places(client, parts),
                keys=await _lasting_keys(client, parts),
                recovered=recovered_in(folder),
                ttl_s=world.ttl_s,
                slow=await world.slow_calls(),
            )
    (folder / "history.json").write_bytes(msgspec.json.encode(history))
    return judge(history)


async def _faults(world: World, seconds: float, told: Callable[[str], None]) -> None:
    kinds = Faults(world).kinds
    names, weights = list(kinds), [weight for weight, _ in kinds.values()]
    begun = time.monotonic()
    await asyncio.sleep(2.0)  # the programs start
    under_way: dict[str, asyncio.Task[None]] = {}
    while time.monotonic() - begun < seconds:
        name = world.chance.choices(names, weights)[0]
        pause = world.chance.uniform(*PAUSE_S)
        if name not in under_way or under_way[name].done():
            if name in under_way:
                under_way[name].result()
            # The server's own faults come one at a time.
            if not any(not task.done() for other, task in under_way.items() if _on_server(name) and _on_server(other)):
                told(f"{time.monotonic() - begun:6.1f} s  {name}")
                under_way[name] = asyncio.create_task(kinds[name][1](), name=name)
        await asyncio.sleep(pause)
    for task in under_way.values():
        await task


def _on_server(name: str) -> bool:
    return name.startswith("redis") or name in ("failover", "late_failover", "client_pause", "clock")


def _jobs(events: list[Event]) -> list[str]:
    return sorted({event.id for event in events if event.id})


async def _records(client: Any, shards: Shards, ids: list[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for at in range(0, len(ids), AT_ONCE):
        portion = ids[at : at + AT_ONCE]
        pipe = client.pipeline(transaction=False)
        for id in portion:
            pipe.hgetall(shards.keys(shards.of_id(id)).record_of(id))
        for id, record in zip(portion, await pipe.execute(), strict=True):
            found[id] = {_text(name): _text(value) for name, value in record.items()}
            if b"limits" in record:
                found[id]["limits"] = msgspec.json.encode(msgspec.msgpack.decode(record[b"limits"])).decode()
    return found


async def _lasting_keys(client: Any, shards: Shards) -> list[str]:
    names = [item async for item in _keys(client, shards)]
    pipe = client.pipeline(transaction=False)
    for _, raw, _ in names:
        pipe.pttl(raw)
    return [name for (_, _, name), ttl in zip(names, await pipe.execute(), strict=True) if ttl == -1]


async def _keys(client: Any, shards: Shards) -> AsyncIterator[tuple[int, bytes, str]]:
    """Every key: its shard, and its name with and without the tag."""
    for shard in range(shards.count):
        tag = shards.keys(shard).tag
        async for raw in client.scan_iter(match=tag.replace("{", "[{]") + ":*", count=1000):
            yield shard, raw, _text(raw).removeprefix(tag + ":")


async def _places(client: Any, shards: Shards) -> dict[str, list[str]]:
    places: dict[str, list[str]] = {}
    lists = ("queue", "suspected", "lane", "processing", "parked", "scheduled", "dead", "dependents")
    async for shard, raw, name in _keys(client, shards):
        if name.split(":")[0] not in lists or name == "parked":
            continue
        members = await _members(client, raw, await client.type(raw))
        for member in members:
            places.setdefault(_text(member), []).append(name if shards.count == 1 else f"{name} of shard {shard}")
    return places


async def _members(client: Any, raw: bytes, kind: bytes) -> list[bytes]:
    if kind == b"list":
        return list(await client.lrange(raw, 0, -1))
    if kind == b"set":
        return list(await client.smembers(raw))
    return list(await client.zrange(raw, 0, -1))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
