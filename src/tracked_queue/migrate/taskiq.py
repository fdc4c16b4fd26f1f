"""
taskiq on Redis: a list for each queue, the oldest message at its tail, or a stream, where what workers have read stays; a
schedule's record for what is to be sent later.
"""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from ..errors import UnreadableCallError
from . import holds, pickles
from .found import Found, Left

PAGE = 500
# Elements at each end of a list or stream that are looked at, to see whether it is a queue.
LOOKS = 10

# An entry of a stream that no worker has read, or (ARGV[2] is a group) that one has read and not acknowledged.
# KEYS: the stream, the hold. ARGV: the entry, the group, the message.
_CLAIM_ENTRY = """
local function parts(id)
  local ms, n = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(n)
end
if ARGV[2] ~= '' then
  if redis.call('XACK', KEYS[1], ARGV[2], ARGV[1]) == 0 then
    return 0
  end
else
  local ms, n = parts(ARGV[1])
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    for at = 1, #group, 2 do
      if group[at] == 'last-delivered-id' then
        local last_ms, last_n = parts(group[at + 1])
        if ms < last_ms or (ms == last_ms and n <= last_n) then
          return 0
        end
      end
    end
  end
end
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 and ARGV[2] == '' then
  return 0
end
redis.call('LPUSH', KEYS[2], ARGV[3])
return 1
"""

# A record of a schedule, and its place in the list of its minute, if there is one. KEYS: record, list, hold. ARGV: id, message.
_CLAIM_SCHEDULE = """
if redis.call('DEL', KEYS[1]) == 0 then
  return 0
end
redis.call('LREM', KEYS[2], 0, ARGV[1])
redis.call('LPUSH', KEYS[3], ARGV[2])
return 1
"""


class Taskiq:
    """
    Args:
        client: A redis.asyncio.Redis of bytes.
        prefix: The schedule source's `prefix`, if it is not `schedule`.
        stopped: All of taskiq's workers and its scheduler are stopped: take what killed ones held and what is scheduled, too.
    """

    name = "taskiq"

    def __init__(self, client: Any, prefix: str = "", stopped: bool = False) -> None:
        self._client, self._stopped = client, stopped
        self._schedules = prefix or "schedule"
        self._hold = f"taskiq:{holds.HOLD}"

    async def queues(self) -> list[str]:
        """See Source. A queue is a list or a stream with a message of taskiq's among those at its ends."""
        found = []
        for kind in ("list", "stream"):
            async for key in self._client.scan_iter(_type=kind):
                if kind == "list":
                    some = [*await self._client.lrange(key, -LOOKS, -1), *await self._client.lrange(key, 0, LOOKS - 1)]
                else:
                    read = [
                        *await self._client.xrange(key, count=LOOKS),
                        *await self._client.xrevrange(key, count=LOOKS),
                    ]
                    some = [entry.get(b"data", b"") for _, entry in read]
                name = key.decode("utf-8", "replace")
                if name != self._hold and any(map(_is_message, some)):
                    found.append(name)
        return sorted(found)

    async def found(self, queues: Sequence[str]) -> AsyncIterator[Found | Left]:
        """See Source."""
        for held in await holds.held(self._client, self._hold):
            yield _read(held, "", ("held", "", "", held), claimed=True)
        for queue in queues:
            if await self._client.type(queue) == b"stream":
                async for item in self._stream(queue):
                    yield item
                continue
            # From the tail, where the oldest are; new ones come in at the head and move nothing there.
            length = await self._client.llen(queue)
            elements: list[bytes] = []
            for at in range(0, length, PAGE):
                page = await self._client.lrange(queue, -min(at + PAGE, length), -(at + 1))
                elements += page[::-1]
            for element in elements:
                yield _read(element, queue, ("list", queue, element, element), claimed=False)
        async for item in self._scheduled():
            yield item

    async def _stream(self, queue: str) -> AsyncIterator[Found | Left]:
        groups = await self._client.xinfo_groups(queue)
        if len(groups) != 1:
            # Entries stay in a stream when they have run: without a group's place in it nobody knows which have.
            why = f"the stream has {len(groups)} groups, and each runs it: let taskiq's workers finish it"
            if not groups:
                why = "no group reads the stream, so nobody knows whether it has run: start a taskiq worker once"
            last = min((group["last-delivered-id"].decode() for group in groups), key=_parts, default="")
            async for _, entry in self._entries(queue, f"({last}" if last else "-"):
                read = _read(entry, queue, None, claimed=False)
                yield Left(id=read.id, task=read.task, queue=queue, why=why)
            return
        for group in groups:
            name, last = group["name"].decode(), "(" + group["last-delivered-id"].decode()
            for waiting in await self._client.xpending_range(queue, name, "-", "+", max(group["pending"], 1)):
                id = waiting["message_id"]
                found = await self._client.xrange(queue, id, id)
                if not found:
                    continue
                entry = found[0][1].get(b"data", b"")
                read = _read(entry, queue, ("entry", id, name, entry), claimed=False)
                if not self._stopped:
                    why = "a taskiq worker has read it: stop the workers, then run this with --workers-stopped"
                    read = Left(id=read.id, task=read.task, queue=queue, why=why)
                yield read
        async for id, entry in self._entries(queue, last):
            yield _read(entry, queue, ("entry", id, "", entry), claimed=False)

    async def _entries(self, queue: str, after: str) -> AsyncIterator[tuple[bytes, bytes]]:
        while page := await self._client.xrange(queue, after, "+", PAGE):
            for id, entry in page:
                yield id, entry.get(b"data", b"")
            after = "(" + page[-1][0].decode()

    async def _scheduled(self) -> AsyncIterator[Found | Left]:
        async for key in self._client.scan_iter(f"{self._schedules}:*", _type="string"):
            data = await self._client.get(key)
            if data is None:
                continue
            item = _read(data, "", ("schedule", key, "", data), claimed=False)
            if isinstance(item, Found) and not self._stopped:
                why = "taskiq's scheduler sends it when it is due: stop the scheduler too, and say --workers-stopped"
                item = Left(id=item.id, task=item.task, queue="", why=why)
            yield item

    async def claim(self, items: Sequence[Found]) -> list[bool]:
        """See Source."""
        words: list[bool] = []
        for item in items:
            kind, place, group, message = item.place  # of a schedule, its id stands in the place of the group
            if kind == "list":
                words += await holds.claim(self._client, self._hold, [(place, "list", message, message)])
            elif kind == "entry":
                word = await self._client.eval(_CLAIM_ENTRY, 2, item.queue, self._hold, place, group, message)
                words.append(word == 1)
            else:
                assert item.due_ms is not None
                due = datetime.datetime.fromtimestamp(item.due_ms / 1000, datetime.UTC)
                minute = f"{self._schedules}:time:{due:%Y-%m-%dT%H:%M}"
                word = await self._client.eval(_CLAIM_SCHEDULE, 3, place, minute, self._hold, group, message)
                words.append(word == 1)
        return words

    async def forget(self, items: Sequence[Found]) -> None:
        """See Source."""
        await holds.let_go(self._client, self._hold, [item.place[-1] for item in items])

    async def close(self) -> None:
        """See Source."""
        await self._client.aclose()


def _parts(id: str) -> tuple[int, ...]:
    return tuple(map(int, id.split("-")))


def _is_message(data: bytes) -> bool:
    try:
        found = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return False
    return isinstance(found, dict) and {"task_id", "task_name", "labels"} <= found.keys()


def _read(data: bytes, queue: str, place: Any, *, claimed: bool) -> Found | Left:
    """A message, or the record of a schedule: a pickle of plain data, if it isn't JSON."""
    id = task = ""
    try:
        try:
            call = msgspec.json.decode(data)
        except msgspec.DecodeError:
            call = pickles.read(data)
        id, task = str(call.get("task_id") or call["schedule_id"]), str(call["task_name"])
        due_ms = None
        if place is not None and place[0] == "schedule":
            place = ("schedule", place[1], str(call["schedule_id"]), place[3])
        if "schedule_id" in call:
            if not call.get("time"):
                raise UnreadableCallError("it is a schedule that repeats: write @app.cron(...) above the task")
            moment = datetime.datetime.fromisoformat(str(call["time"]))
            due_ms = int((moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp() * 1000)
        return Found(
            id=id, run=str(call.get("schedule_id", "")), task=task, queue=queue, args=tuple(call.get("args") or ()),
            kwargs=dict(call.get("kwargs") or {}), due_ms=due_ms, place=place, claimed=claimed,
        )  # fmt: skip
    except UnreadableCallError as error:
        return Left(id=id, task=task, queue=queue, why=str(error))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        why = f"it is no message of taskiq's that can be read: {type(error).__name__}: {error}"
        return Left(id=id, task=task, queue=queue, why=why)
