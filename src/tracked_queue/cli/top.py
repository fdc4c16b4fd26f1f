"""`top`: the fleet live in a terminal, with keys for what a person on call does first."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..app import TrackedQueue
from ..errors import StoreRefusedError, StoreUnavailableError, UsageError
from .common import Where, clean, cli, console, guarded, run, span
from .explain import lines_of

if TYPE_CHECKING:
    from ..operator.operator import Operator
    from ..operator.picture import Picture

TABS = ("queues", "instances", "jobs", "problems")
_KEY = re.compile(r"\x1b\[[0-9;?]*[ -~]|\x1bO.|\x1b.|.", re.DOTALL)
HELP = "1-4 or Tab: lists   up, down: choose   p: pause or resume   u: quiet   c: cancel   q: end"
KEYS = {
    "\x1b[A": "up", "\x1bOA": "up", "k": "up", "\x1b[B": "down", "\x1bOB": "down", "j": "down", "\t": "tab",
    "\x1b": "no", "\x03": "q",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Act:
    """What a key asks for: which method of the operator, on what, and how it is called."""

    method: str
    name: str
    undo: bool
    question: str


@dataclass(frozen=True, slots=True)
class View:
    """What a person looks at: which list, which row of it, what waits for a yes, and what was said last."""

    tab: str = "queues"
    row: int = 0
    asks: Act | None = None
    said: str = ""
    away: str = ""


def pressed(view: View, key: str, picture: Picture) -> tuple[View, Act | None]:
    """A key's effect: another view, and an act once it is confirmed."""
    key = KEYS.get(key, key)
    if view.asks is not None:
        if key == "y":
            return replace(view, asks=None), view.asks
        return replace(view, asks=None, said="nothing was done"), None
    names = _names(view.tab, picture)
    if key in ("1", "2", "3", "4"):
        return View(tab=TABS[int(key) - 1], away=view.away), None
    if key == "tab":
        return View(tab=TABS[(TABS.index(view.tab) + 1) % len(TABS)], away=view.away), None
    if key in ("up", "down"):
        row = view.row + (1 if key == "down" else -1)
        return replace(view, row=max(0, min(row, len(names) - 1)), said=""), None
    act = _act(view.tab, key, min(view.row, len(names) - 1), picture) if names else None
    return (view, None) if act is None else (replace(view, asks=act, said=""), None)


def _act(tab: str, key: str, row: int, picture: Picture) -> Act | None:
    if tab == "queues" and key == "p":
        queue = picture.overview.queues[row]
        verb = "resume" if queue.paused else "pause"
        return Act(verb, queue.queue, False, f"{verb} queue {queue.queue}?")
    if tab == "instances" and key == "u":
        item = picture.instances[row]
        what = "let it fetch again" if item.quiet else "fetch no more jobs"
        return Act("quiet", item.lease, item.quiet, f"{item.lease}: {what}?")
    if tab == "jobs" and key == "c":
        job = picture.active[row]
        return Act("cancel", job.id, False, f"cancel {job.id} ({job.task})?")
    return None


def _names(tab: str, picture: Picture) -> Sequence[Any]:
    lists: dict[str, Sequence[Any]] = {
        "queues": picture.overview.queues, "instances": picture.instances, "jobs": picture.active, "problems": picture.problems,
    }  # fmt: skip
    return lists[tab]


async def carry_out(act: Act, operator: Operator) -> str:
    """Do it, and say so. Raises StoreUnavailableError, StoreRefusedError."""
    match act.method:
        case "pause":
            await operator.pause(queue=act.name)
        case "resume":
            await operator.resume(queue=act.name)
        case "quiet":
            if not await operator.quiet(act.name, undo=act.undo):
                return f"{act.name}: it is gone; nothing was done"
        case _:
            (word,) = (await operator.cancel([act.name])).values()
            return f"{act.name}: {word.value}"
    return f"{act.question.rstrip('?')}: done"


def render(view: View, picture: Picture, width: int, height: int) -> RenderableType:
    """The screen: totals, what is wrong, one list, and what can be pressed; nothing goes beyond its height."""
    overview = picture.overview
    alive = [item for item in picture.instances if item.alive]
    lost = sum(item.owned for item in picture.instances if not item.alive)
    head = Text.assemble(
        ("tracked_queue  ", "bold"),
        f"{picture.at:%H:%M:%S} UTC   "
        f"{sum(one.length for one in overview.queues)} waiting   {sum(item.owned for item in alive)} active   "
        f"{overview.scheduled} scheduled   {overview.dead} dead   {len(alive)} instances, "
        f"{sum(item.concurrency for item in alive)} places",
    )
    if lost:
        head.append(f"   {lost} of lost instances", style="bold red")
    lines: list[RenderableType] = [_one_line(head)]
    if view.away:
        lines.append(_one_line(Text(f"this is what was read last. {clean(view.away)}", style="bold red")))
    shown = picture.problems[:3] if view.tab != "problems" else ()
    lines += [_one_line(Text(f"! {clean(one.about)}: {clean(one.sentence)}", style="red")) for one in shown]
    if len(picture.problems) > len(shown) and view.tab != "problems":
        lines.append(Text(f"! {len(picture.problems) - len(shown)} more: 4", style="red"))
    lines.append(
        _one_line(
            Text("  ").join(
                Text(f"{at + 1} {tab}", style="reverse" if tab == view.tab else "") for at, tab in enumerate(TABS)
            )
        )
    )
    room = max(1, height - len(lines) - 3)
    lines.append(_list(view, picture, room, width))
    if view.asks is not None:
        lines.append(_one_line(Text(f"{clean(view.asks.question)} y: yes, any other key: no", style="bold yellow")))
    else:
        lines.append(_one_line(Text(clean(view.said) or HELP, style="dim")))
    return Group(*lines)


def _one_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _list(view: View, picture: Picture, room: int, width: int) -> RenderableType:
    if view.tab == "problems":
        lines = [line for one in picture.problems for line in lines_of(one)]
        return Group(*map(_one_line, lines[:room])) if lines else Text("nothing is wrong that this can see")
    rows = list(_rows(view.tab, picture))
    if not rows:
        return Text(f"no {view.tab}")
    row = min(view.row, len(rows) - 1)
    first = max(0, min(row - room // 2, len(rows) - room))
    table = Table(box=None, header_style="bold", padding=(0, 1), pad_edge=False)
    for name, wanted in COLUMNS[view.tab]:
        if width >= wanted:  # a narrow terminal leaves out what matters least
            table.add_column(name, no_wrap=True, overflow="ellipsis")
    for at, cells in enumerate(rows[first : first + room], first):
        kept = [cell for cell, (_, wanted) in zip(cells, COLUMNS[view.tab], strict=True) if width >= wanted]
        table.add_row(*(Text(clean(cell)) for cell in kept), style="reverse" if at == row else "")
    return table


# Each with how wide a terminal has to be for it.
COLUMNS: dict[str, list[tuple[str, int]]] = {
    "queues": [("queue", 0), ("jobs", 0), ("oldest", 0), ("in/min", 70), ("done/min", 60), ("failed/min", 80),
               ("instances", 80), ("notes", 0)],
    "instances": [("instance", 0), ("jobs", 0), ("places", 0), ("seen", 60), ("version", 90), ("queues", 80), ("state", 0)],
    "jobs": [("job", 0), ("task", 0), ("for", 0), ("instance", 80)],
}  # fmt: skip


def _rows(tab: str, picture: Picture) -> Iterator[tuple[str, ...]]:
    if tab == "queues":
        for one in picture.overview.queues:
            notes = [
                note
                for note, on in (
                    ("paused", one.paused),
                    ("NO INSTANCE", one.unserved),
                    (f"{one.suspects} suspects", one.suspects),
                    (f"{one.limited} in lanes", one.limited),
                )
                if on
            ]
            yield (
                one.queue, str(one.length), span(one.oldest_s), f"{one.enqueued_per_min:.0f}", f"{one.succeeded_per_min:.0f}",
                f"{one.failed_per_min:.0f}", str(one.instances), ", ".join(notes),
            )  # fmt: skip
    elif tab == "instances":
        for item in picture.instances:
            state = ("quiet" if item.quiet else "alive") if item.alive else "LOST" if item.owned else "over"
            yield (
                item.lease,
                str(item.owned),
                str(item.concurrency),
                span(item.seen_s),
                item.version,
                ",".join(item.queues),
                state,
            )
    else:
        for job in picture.active:
            yield job.id, job.task, span(job.age_s) + (" waits" if job.buffered else ""), job.lease


@cli.command()
@guarded
def top(
    *,
    interval: Annotated[float, typer.Option(help="Seconds from one reading to the next.")] = 2.0,
    where: Where,
) -> None:
    """The fleet live: queues, instances, running jobs, problems; keys pause, quiet and cancel. Piped: one picture."""
    if not 0.5 <= interval <= 3600:
        raise UsageError(f"--interval {interval}: it must be from 0.5 to 3600")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        picture = run(where.app, lambda app: app.operator.picture())
        for tab in TABS[:3]:
            console().print(render(View(tab=tab), picture, 200, 10_000))
        return
    run(where.app, lambda app: _live(app, interval), patient=True)


async def _live(app: TrackedQueue, interval: float) -> None:
    from rich.live import Live

    out, keys, view = Console(), asyncio.Queue[str](), View()
    picture: Picture | None = None
    with _raw(keys), Live(console=out, screen=True, auto_refresh=False) as live:
        while True:
            try:
                picture = await app.operator.picture()
                view = replace(view, away="")
            except (StoreUnavailableError, StoreRefusedError) as error:
                view = replace(view, away=str(error))
            deadline = asyncio.get_running_loop().time() + interval
            while True:
                size = out.size
                if picture is None:
                    live.update(Text(clean(view.away), style="red"), refresh=True)
                else:
                    live.update(render(view, picture, size.width, size.height), refresh=True)
                try:
                    async with asyncio.timeout_at(deadline):
                        key = await keys.get()
                except TimeoutError:
                    break
                if KEYS.get(key, key) == "q":
                    return
                if picture is None:
                    continue
                view, act = pressed(view, key, picture)
                if act is not None:
                    try:
                        view = replace(view, said=await carry_out(act, app.operator))
                    except (StoreUnavailableError, StoreRefusedError, UsageError) as error:
                        view = replace(view, said=str(error))


@contextlib.contextmanager
def _raw(keys: asyncio.Queue[str]) -> Iterator[None]:
    """Keys one by one, unechoed, as long as it is open."""
    import termios
    import tty

    loop, number = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(number)

    def read() -> None:
        for key in _split(os.read(number, 64).decode("utf-8", "replace")):
            keys.put_nowait(key)

    tty.setcbreak(number)
    loop.add_reader(number, read)
    try:
        yield
    finally:
        loop.remove_reader(number)
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _split(text: str) -> Iterator[str]:
    """Single keys. One that is sent as several characters counts as one, and does nothing unless it is an arrow."""
    for found in _KEY.finditer(text):
        if len(found[0]) == 1 or found[0] in KEYS:
            yield found[0]
