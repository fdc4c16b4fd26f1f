"""What a page is: its path, what can be asked of it, how its content is read, and the template that shows it."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, get_type_hints
from zoneinfo import ZoneInfo

from ...errors import UsageError, did_you_mean
from ...model.checks import MAX_NAME
from ..bulk import Bulks
from ..desk import Desk
from ..minutes import Minutes

MOST_TEXT, MOST_CURSORS = 500, 5000
ROWS = 100
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True, kw_only=True)
class Param:
    """
    One thing that can be asked for in a query: text of a bounded length, one of some words, a whole number within bounds, or a
    time in seconds, also as 90s, 15m, 2h, 7d.
    """

    name: str
    doc: str
    default: Any = None
    words: Sequence[str] = ()
    least: int | None = None
    most: int | None = None
    length: int = MAX_NAME
    needed: bool = False
    is_time: bool = False

    def read(self, given: str | None) -> Any:
        """What was given, or the default. Raises UsageError."""
        if given is None or given == "":
            if self.needed:
                raise UsageError(f"{self.name} is required: {self.doc[:1].lower()}{self.doc[1:].rstrip('.')}")
            return self.default
        if self.words:
            if given not in self.words:
                raise UsageError(f"{self.name}={given[:60]!r}; {did_you_mean(given, self.words)}")
            return given
        if self.most is not None:
            least = self.least or 0
            if (
                self.is_time
                and given[-1] in _UNITS
                and given[:-1].isascii()
                and given[:-1].isdigit()
                and len(given) < 12
            ):
                given = str(int(given[:-1]) * _UNITS[given[-1]])
            if not (given.isascii() and given.isdigit() and len(given) < 16 and least <= int(given) <= self.most):
                raise UsageError(f"{self.name}={given[:60]!r}: it must be a whole number from {least} to {self.most}")
            return int(given)
        if len(given) > self.length:
            raise UsageError(f"{self.name}: it has {len(given)} characters; allowed are {self.length}")
        return given


class Cursors:
    """
    Places in lists for those who see only a part of them: a place names queues and jobs, so it stays here, and they get a word
    for it. The last MOST_CURSORS are known.
    """

    def __init__(self) -> None:
        self._places: OrderedDict[str, str] = OrderedDict()

    def hide(self, place: str) -> str:
        """A word for it."""
        word = secrets.token_urlsafe(9)
        self._places[word] = place
        while len(self._places) > MOST_CURSORS:
            self._places.popitem(last=False)
        return word

    def show(self, word: str) -> str:
        """What the word is for. Raises UsageError."""
        if word not in self._places:
            raise UsageError(f"from={word[:60]!r} is not known any more; begin at the first page")
        return self._places[word]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for a page: who asks, for what, and what the process keeps for all of them."""

    desk: Desk
    args: Mapping[str, Any]
    ids: Sequence[str]
    bulks: Bulks
    minutes: Minutes
    zone: ZoneInfo
    cursors: Cursors

    def __getitem__(self, name: str) -> Any:
        return self.args[name]


Read = Callable[[Ask], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Page:
    """A page."""

    path: str
    title: str
    template: str
    params: Sequence[Param]
    read: Read
    doc: str
    with_ids: bool = False  # it takes `ids`, any number of times

    @property
    def answer(self) -> Any:
        """The type of its content."""
        return get_type_hints(self.read)["return"]


PAGES: dict[str, Page] = {}


def page(path: str, title: str, template: str, *params: Param, with_ids: bool = False) -> Callable[[Read], Read]:
    """Register the function that reads a page's content."""

    def register(read: Read) -> Read:
        doc = (read.__doc__ or "").strip().partition("\n")[0]
        PAGES[path] = Page(path, title, template, params, read, doc, with_ids)
        return read

    return register


def now() -> datetime:
    """The time of this process, for what is shown as read at it."""
    return datetime.now(UTC)


FROM = Param(name="from", doc="How many rows to leave out.", default=0, most=1_000_000)
NEXT = Param(name="from", doc="What `next` of the page before was.", length=8000)
QUEUE = Param(name="queue", doc="Only this queue.")
TASK = Param(name="task", doc="Only this task.")
ERROR = Param(name="error", doc="Only with this text in the reason or the error.", length=MOST_TEXT)
OLDER = Param(
    name="older",
    doc="Only those that have been so for this long: seconds, or 15m, 2h, 7d.",
    most=100 * 366 * 86400,
    is_time=True,
)
