"""Charts, as SVG made here: each with a sentence that says what it shows; templates put the numbers in a table behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from .text import shown

WIDTH, HEIGHT = 640, 140
LEFT, RIGHT, TOP, BOTTOM = 56, 8, 8, 20
Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart: its name, its values from left to right, and its look (a class of the style sheet)."""

    name: str
    values: Values
    look: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at a time: `at` from 0 (left) to 1."""

    at: float
    name: str


def chart(
    sentence: str, lines: Sequence[Line], left: str, right: str, unit: str = "", marks: Sequence[Mark] = ()
) -> Markup:
    """Lines over time. `left` and `right` are what stands below both ends."""
    top = _round_up(max([value for line in lines for value in line.values if value is not None], default=0.0))
    parts = [
        f'<svg class="chart" role="img" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'aria-label="{_text(sentence)}">'
    ]
    for part in (0.0, 0.5, 1.0):
        y = _y(part * top, top)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<text class="scale" x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{_number(part * top)}{_text(unit)}</text>'
        )
    for mark in marks:
        x = round(LEFT + min(1.0, max(0.0, mark.at)) * (WIDTH - LEFT - RIGHT), 1)
        parts.append(
            f'<line class="mark" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"><title>{_text(mark.name)}</title></line>'
        )
    for line in lines:
        for path in _paths(line.values, top):
            parts.append(f'<polyline class="line {line.look}" points="{path}"/>')
    parts.append(f'<text class="scale" x="{LEFT}" y="{HEIGHT - 5}">{_text(left)}</text>')
    parts.append(
        f'<text class="scale" x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">{_text(right)}</text></svg>'
    )
    return Markup("".join(parts))


def spark(values: Values, sentence: str) -> Markup:
    """A small line without scales."""
    numbers = [value or 0.0 for value in values] or [0.0]
    top, step = max(numbers) or 1.0, 96 / max(1, len(numbers) - 1)
    points = " ".join(f"{at * step + 2:.1f},{20 - value / top * 18:.1f}" for at, value in enumerate(numbers))
    return Markup(
        f'<svg class="spark" role="img" viewBox="0 0 100 22" width="100" height="22" aria-label="{_text(sentence)}">'
        f'<polyline class="line main" points="{points}"/></svg>'
    )


def parts_bar(parts: Sequence[tuple[str, float]], sentence: str) -> Markup:
    """One bar of parts that make up a whole; each has a class named after it."""
    total, x, drawn = sum(size for _, size in parts) or 1.0, 0.0, []
    for name, size in parts:
        width = size / total * WIDTH
        look = f"part-{_look(name)}"
        drawn.append(
            f'<rect class="{look}" x="{x:.1f}" y="0" width="{max(width, 1.0):.1f}" height="18">'
            f"<title>{_text(name)}</title></rect>"
        )
        x += width
    return Markup(
        f'<svg class="bar" role="img" viewBox="0 0 {WIDTH} 18" width="{WIDTH}" height="18" preserveAspectRatio="none" '
        f'aria-label="{_text(sentence)}">{"".join(drawn)}</svg>'
    )


def meter(value: float, most: float, sentence: str) -> Markup:
    """How much of something is in use."""
    part = min(1.0, value / most) if most else 0.0
    return Markup(
        f'<svg class="meter" role="img" viewBox="0 0 100 8" width="100" height="8" aria-label="{_text(sentence)}">'
        f'<rect class="track" width="100" height="8" rx="2"/>'
        f'<rect class="{"full" if part >= 1 else "used"}" width="{part * 100:.1f}" height="8" rx="2"/></svg>'
    )


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a graph: its id, what it says, a class for its state, where it leads, and the ids before it."""

    id: str
    label: str
    look: str
    href: str
    before: Sequence[str]


def graph(nodes: Sequence[Node], sentence: str) -> Markup:
    """Nodes in columns, each right of those before it; `nodes` come in such an order."""
    column: dict[str, int] = {}
    rows: dict[int, int] = {}
    places: dict[str, tuple[int, int]] = {}
    for node in nodes:
        at = max((column[one] + 1 for one in node.before if one in column), default=0)
        column[node.id] = at
        places[node.id] = (at, rows.get(at, 0))
        rows[at] = rows.get(at, 0) + 1
    wide, high = 190, 40
    width, height = (max(rows, default=0) + 1) * (wide + 40), (max(rows.values(), default=1)) * (high + 12) + 8
    drawn = []
    for node in nodes:
        x, y = _place(places[node.id])
        for one in node.before:
            if one in places:
                from_x, from_y = _place(places[one])
                drawn.append(
                    f'<line class="edge" x1="{from_x + wide}" y1="{from_y + high // 2}" x2="{x}" y2="{y + high // 2}"/>'
                )
    for node in nodes:
        x, y = _place(places[node.id])
        label = node.label if len(node.label) <= 24 else node.label[:23] + "…"
        drawn.append(
            f'<a href="{escape(node.href)}">'
            f'<rect class="node {_look(node.look)}" x="{x}" y="{y}" width="{wide}" height="{high}" rx="4"/>'
            f'<text class="node-text" x="{x + 8}" y="{y + 17}">{_text(label)}</text>'
            f'<text class="node-state" x="{x + 8}" y="{y + 33}">{_text(node.look.removeprefix("state-"))}</text></a>'
        )
    return Markup(
        f'<svg class="graph" role="group" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'aria-label="{_text(sentence)}">{"".join(drawn)}</svg>'
    )


def _look(name: str) -> str:
    """A class: letters and hyphens, whatever a store says a state is."""
    return "".join(char if char.isascii() and char.isalpha() else "-" for char in name)[:40]


def _place(at: tuple[int, int]) -> tuple[int, int]:
    return at[0] * 230 + 4, at[1] * 52 + 4


def _paths(values: Values, top: float) -> list[str]:
    """Points of each piece without a gap; one that stands alone is drawn as a short line."""
    step = (WIDTH - LEFT - RIGHT) / max(1, len(values) - 1)
    paths, points = list[str](), list[str]()
    for at, value in enumerate([*values, None]):
        if value is not None:
            points.append(f"{LEFT + at * step:.1f},{_y(value, top)}")
        elif points:
            if len(points) == 1:
                x, y = points[0].split(",")
                points.append(f"{float(x) + 2:.1f},{y}")
            paths.append(" ".join(points))
            points = []
    return paths


def _y(value: float, top: float) -> float:
    return round(TOP + (1 - value / (top or 1.0)) * (HEIGHT - TOP - BOTTOM), 1)


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, ..."""
    size = 0.001
    while value > 0:
        for step in (1, 2, 5):
            if value <= step * size:
                return step * size
        size *= 10
    return 1.0


def _number(value: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _text(text: str) -> str:
    return str(escape(shown(text)))
