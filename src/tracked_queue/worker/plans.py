"""The schedules of a process: those in the code, and those that a source knows of, which come, change and go while it runs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import log
from ..errors import UsageError
from ..model.schedules import Planned, Schedule, ScheduleSource

# A source that has not answered by then is taken for one that failed.
READ_S = 30.0


class Plans:
    """
    What there is to schedule.

    Args:
        fixed: The schedules in the code, by name.
        sources: Where others come from.
        made: A schedule of what a source has named. Raises UsageError.
        home: The shard of a schedule's jobs.
    """

    def __init__(
        self,
        fixed: Mapping[str, Schedule],
        sources: Sequence[ScheduleSource],
        made: Callable[[Planned], Schedule],
        home: Callable[[Schedule], int],
    ) -> None:
        self._made, self._home = made, home
        self.sources = tuple(sources)
        self._homes = {name: (item, home(item)) for name, item in fixed.items()}
        self._fixed = frozenset(self._homes)
        # By source: what it has named, and the schedule made of it, by name.
        self._found: dict[ScheduleSource, dict[str, tuple[Planned, Schedule, int]]] = {}
        # What is wrong with others of them, by name; it is logged once.
        self._refused: dict[ScheduleSource, dict[str, str]] = {}
        self.version = 0
        self.changed = asyncio.Event()

    def of(self, shard: int) -> list[Schedule]:
        """Those whose ticks are kept in a shard."""
        items = [item for item, home in self._homes.values() if home == shard]
        for found in self._found.values():
            items += [item for _, item, home in found.values() if home == shard]
        return items

    async def follow(self, source: ScheduleSource, state: Any) -> None:
        """Read a source again and again until this is cancelled. While it fails, what it named last goes on."""
        problem = ""
        while True:
            try:
                async with asyncio.timeout(READ_S):
                    named = await source.read(state)
            except Exception as error:
                text = f"{type(error).__qualname__}: {error}"[:300]
                if text != problem:
                    log.schedules_unread(source=source.name, error=text)
                problem = text
            else:
                if problem:
                    log.schedules_read_again(source=source.name)
                problem = ""
                await self.take(source, named)
            await asyncio.sleep(source.every_s * (0.8 + 0.4 * random.random()))

    async def take(self, source: ScheduleSource, named: Sequence[Planned]) -> None:
        """These are a source's schedules now."""
        before = self._found.get(source, {})
        found: dict[str, tuple[Planned, Schedule, int]] = {}
        refused: dict[str, str] = {}
        for at, planned in enumerate(named):
            if at % 100 == 99:
                await asyncio.sleep(0)  # there may be thousands
            try:
                if not isinstance(planned, Planned):
                    raise UsageError(
                        f"{planned!r} is a {type(planned).__qualname__}; a source returns a list of Planned(...)"
                    )
                known = before.get(planned.name)
                if known is not None and known[0].is_like(planned):
                    entry = known
                else:
                    item = self._made(planned)
                    entry = planned, item, self._home(item)
                self._check_name(source, entry[1].name, found)
            except UsageError as error:
                name = str(getattr(planned, "name", "")) or repr(planned)[:100]
                refused[name] = str(error)
                if self._refused.get(source, {}).get(name) != str(error):
                    log.schedule_refused(source=source.name, schedule=name, problem=str(error)[:300])
                continue
            found[entry[1].name] = entry
        added, removed = len(found.keys() - before.keys()), len(before.keys() - found.keys())
        changed = sum(entry is not before.get(name, entry) for name, entry in found.items())
        self._found[source], self._refused[source] = found, refused
        if added or removed or changed:
            log.schedules_changed(source=source.name, added=added, changed=changed, removed=removed)
            self.version += 1
            self.changed.set()
            self.changed = asyncio.Event()

    def _check_name(self, source: ScheduleSource, name: str, found: Mapping[str, Any]) -> None:
        if name in self._fixed:
            raise UsageError(f"schedule {name}: the code has one of that name already")
        others = (known for other, known in self._found.items() if other is not source)
        if name in found or any(name in known for known in others):
            raise UsageError(f"schedule {name}: there is one of that name already")
