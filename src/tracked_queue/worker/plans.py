"""The schedules of a process: those in the code, and those that a source knows of, which come, change and go while it runs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import log
from ..errors import UsageError
from ..model.checks import check_name
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
        self._new: set[str] = set()
        # Why a source could not be read the last time.
        self._problems: dict[ScheduleSource, str] = {}
        self.version = 0
        self.changed = asyncio.Event()

    def of(self, shard: int) -> list[Schedule]:
        """Those whose ticks are kept in a shard."""
        items = [item for item, home in self._homes.values() if home == shard]
        for found in self._found.values():
            items += [item for _, item, home in found.values() if home == shard]
        return items

    def is_new(self, name: str) -> bool:
        """Whether it has come since this process began; said once."""
        if name not in self._new:
            return False
        self._new.remove(name)
        return True

    async def follow(self, source: ScheduleSource, state: Any) -> None:
        """Read a source again and again until this is cancelled. While it fails, what it named last goes on."""
        while True:
            await self.read(source, state)
            await asyncio.sleep(source.every_s * (0.8 + 0.4 * random.random()))

    async def read(self, source: ScheduleSource, state: Any) -> None:
        """Ask a source once, and run what it names from now on."""
        task = asyncio.current_task()
        try:
            async with asyncio.timeout(READ_S):
                named = await source.read(state)
            await self.take(source, named)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            text = f"{type(error).__qualname__}: {error}"[:300]
            if text != self._problems.get(source):
                log.schedules_unread(source=source.name, error=text)
            self._problems[source] = text
        else:
            if self._problems.pop(source, None) is not None:
                log.schedules_read_again(source=source.name)

    async def take(self, source: ScheduleSource, named: Sequence[Planned]) -> None:
        """These are a source's schedules now."""
        before = self._found.get(source, {})
        made: list[tuple[Planned, Schedule, int]] = []
        refused: dict[str, str] = {}

        def refuse(planned: object, error: Exception) -> None:
            name = str(getattr(planned, "name", "")) or repr(planned)[:100]
            refused[name] = str(error)
            if self._refused.get(source, {}).get(name) != str(error):
                log.schedule_refused(source=source.name, schedule=name[:100], problem=str(error)[:300])

        for at, planned in enumerate(named):
            if at % 100 == 99:
                await asyncio.sleep(0)  # there may be thousands
            try:
                if not isinstance(planned, Planned):
                    raise UsageError(
                        f"{planned!r} is a {type(planned).__qualname__}; a source returns a list of Planned(...)"
                    )
                check_name("schedule", planned.name)
                known = before.get(planned.name)
                if known is not None and known[0].is_like(planned):
                    made.append(known)
                else:
                    item = self._made(planned)
                    made.append((planned, item, self._home(item)))
            except Exception as error:  # also what a value's own comparison raises
                refuse(planned, error)
        # From here on in one step: another source may be read at the same time.
        found: dict[str, tuple[Planned, Schedule, int]] = {}
        for entry in made:
            try:
                self._check_name(source, entry[1].name, found)
            except UsageError as error:
                refuse(entry[0], error)
            else:
                found[entry[1].name] = entry
        # What comes while this process runs ticks from now on: nobody named it for a while, or its ticks were kept elsewhere.
        if source in self._found:
            self._new |= {name for name, entry in found.items() if name not in before or entry[2] != before[name][2]}
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
