"""Schedules: when an ordinary task is due by itself, by a cron expression or at a fixed interval. No clock is read here."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice, takewhile
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ..errors import UsageError
from ..settings import Seconds
from .checks import check_name, to_seconds
from .cron import Cron
from .options import JobOptions
from .task import PreparedCall, Task

Missed = Literal["skip", "once", "all"]
MISSED = get_args(Missed)
# A tick that is found this much later still counts as on time.
ON_TIME_MS = 5_000
# Ticks that one look finds at most; more of them come with the next look.
MOST_TICKS = 250
# The last tick before now is looked for in the last minute first.
FIRST_PIECE_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """
    One schedule of a task.

    Args:
        name: Unique in the app; jobs are called `cron:<name>:<ms of the tick>`.
        cron: A cron expression with five fields, or six with seconds first; or None.
        every_ms: A fixed interval, counted from 1970 so that all workers agree; or None.
        tz: The zone in which `cron` is read.
        missed: What becomes of ticks that came while no worker ran: `skip` drops them, `once` runs the last one, `all` runs
            each. With `skip` and `once` a tick is also left out while the job of an earlier one still waits in its queue.
    """

    name: str
    task: Task[..., Any]
    cron: str | None = None
    every_ms: int | None = None
    tz: str = "UTC"
    missed: Missed = "once"
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: JobOptions = field(default_factory=JobOptions)
    _cron: Cron | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_name("schedule", self.name)
        if self.missed not in MISSED:
            raise UsageError(f"schedule {self.name}: missed={self.missed!r} must be one of {', '.join(MISSED)}")
        if not self.task.task_options.tracked:
            raise UsageError(f"schedule {self.name}: its task is tracked=False; a tick needs a record")
        try:
            ZoneInfo(self.tz)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise UsageError(f"schedule {self.name}: tz={self.tz[:60]!r} is not a known timezone") from error
        if self.cron is not None:
            try:
                object.__setattr__(self, "_cron", Cron(self.cron, self.tz))
            except UsageError as error:
                raise UsageError(
                    f"schedule {self.name}: expression {self.cron!r} is not a cron expression that ever fires: {error}"
                ) from error

    def ticks(self, after_ms: int) -> Iterator[int]:
        """The ticks after a moment, in ms since 1970, without end."""
        if self.every_ms is not None:
            tick = after_ms // self.every_ms * self.every_ms
            while True:
                tick += self.every_ms
                yield tick
        assert self._cron is not None
        for moment in self._cron.after(datetime.fromtimestamp(after_ms / 1000, UTC)):
            tick = round(moment.timestamp() * 1000)
            if tick > after_ms:
                yield tick

    def due(self, after_ms: int, now_ms: int) -> tuple[list[int], int]:
        """Which ticks since a moment are to run now, and the last tick that this deals with."""
        if self.missed == "all":
            found = list(islice(takewhile(lambda tick: tick <= now_ms, self.ticks(after_ms)), MOST_TICKS))
        else:
            found = self._last_tick(after_ms, now_ms)
        if not found:
            return [], after_ms
        if self.missed == "skip" and now_ms - found[-1] > ON_TIME_MS:
            return [], found[-1]
        return found, found[-1]

    def _last_tick(self, after_ms: int, now_ms: int) -> list[int]:
        """The last tick of a span: looked for backwards in growing pieces, so that a long absence costs no more."""
        piece_ms = FIRST_PIECE_MS
        while True:
            start_ms = max(after_ms, now_ms - piece_ms)
            found = list(takewhile(lambda tick: tick <= now_ms, self.ticks(start_ms)))
            if found or start_ms == after_ms:
                return found[-1:]
            piece_ms *= 4

    def next_after(self, after_ms: int) -> int:
        """The first tick after a moment."""
        return next(self.ticks(after_ms))

    @property
    def shown(self) -> str:
        """As people wrote it."""
        return f"{self.cron} {self.tz}" if self.cron is not None else f"every {(self.every_ms or 0) / 1000:g} s"


def interval_ms(every: Seconds) -> int:
    """A fixed interval in ms. Raises UsageError below a second."""
    seconds = to_seconds("every", every)
    if seconds < 1:
        raise UsageError(f"every={every!r}: it must be a second or more")
    return round(seconds * 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """
    One schedule that a source names; see `TrackedQueue.schedule_source`.

    Args:
        name: What it is known by: the next one of this name takes its place.
        call: `task.call(...)`, or `task.options(queue=..., headers=..., timeout=...).call(...)`.
        cron, every: An expression, or seconds (or a timedelta); one of them.
        tz, missed: See `TrackedQueue.cron`.
    """

    name: str
    call: PreparedCall[Any]
    cron: str | None = None
    every: Seconds | None = None
    tz: str = "UTC"
    missed: Missed = "once"

    def is_like(self, other: Planned) -> bool:
        """Whether both mean the same schedule; each call has an id of its own, which is none of it."""
        rule, others = (self.cron, self.every, self.tz, self.missed), (other.cron, other.every, other.tz, other.missed)
        mine, theirs = self.call, other.call
        return (
            rule == others
            and isinstance(mine, PreparedCall)
            and isinstance(theirs, PreparedCall)
            and mine.task is theirs.task
            and mine.options == theirs.options
            and bool((mine.args, mine.kwargs) == (theirs.args, theirs.kwargs))
        )

    def schedule(self, enqueuer: object) -> Schedule:
        """
        What is to run when.

        Raises:
            UsageError: It names no call of a task of this app, no rule or two, or an option that a tick can't have.
        """
        check_name("schedule", self.name)
        call = self.call
        if not isinstance(call, PreparedCall) or call.task is None or call.task.enqueuer is not enqueuer:
            raise UsageError(
                f"schedule {self.name}: call={call!r}: it must be a call of a task of this app: task.call(...)"
            )
        for option in ("id", "delay", "at", "after", "known_for"):
            if getattr(call.options, option) is not None:
                raise UsageError(
                    f"schedule {self.name}: options({option}=...): each tick is a job of its own, due at its time"
                )
        if (self.cron is None) == (self.every is None):
            raise UsageError(f"schedule {self.name}: give cron= or every=")
        if self.cron is not None and not isinstance(self.cron, str):
            raise UsageError(f"schedule {self.name}: cron={self.cron!r}: it must be text")
        if not isinstance(self.tz, str):
            raise UsageError(f"schedule {self.name}: tz={self.tz!r}: it must be the name of a timezone")
        every_ms = None if self.every is None else interval_ms(self.every)
        return Schedule(
            name=self.name, task=call.task, cron=self.cron, every_ms=every_ms, tz=self.tz, missed=self.missed, args=call.args,
            kwargs=call.kwargs, options=call.options,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScheduleSource:
    """A function that names schedules, and how often it is asked."""

    name: str
    function: Callable[..., Coroutine[Any, Any, Sequence[Planned]]]
    every_s: float
    takes_state: bool

    async def read(self, state: Any) -> Sequence[Planned]:
        """
        What it names now.

        Raises:
            UsageError: That is no list.
            Exception: What the function raises.
        """
        named = await (self.function(state) if self.takes_state else self.function())
        if not isinstance(named, list | tuple):
            raise UsageError(
                f"{self.name} returned a {type(named).__qualname__}; a source returns a list of Planned(...)"
            )
        return named
