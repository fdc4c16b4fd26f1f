"""
Draws what `make bench-peers` measured: the tables between the marks in docs/explanation/performance.md, and the chart beside it.

    peers_report.py [FILE.json]     default: the newest in benchmarks/results
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "explanation" / "performance.md"
CHART = ROOT / "docs" / "explanation" / "peers.png"
US = "tracked_queue"
OWN = (
    US,
    "tracked_queue, enqueue_sync",
    "tracked_queue, tracked=False",
    "floor",
    "EVALSHA by redis-py",
    "BLMOVE hand-over",
)

COLUMNS = [
    ("enqueue, one at a time /s", ("enqueue single /s",), 0),
    ("100 callers /s", ("enqueue concurrent /s",), 0),
    ("bulk /s", ("enqueue bulk /s",), 0),
    ("drain, 1 process /s", ("drain /s",), 0),
    ("2 processes /s", ("drain, 2 processes /s",), 0),
    ("job of 5 ms /s", ("realistic /s",), 0),
]
MORE = [
    ("pickup p50 / p99, ms", ("pickup p50 ms", "pickup p99 ms"), 2),
    ("result p50 / p99, ms", ("result p50 ms", "result p99 ms"), 2),
    ("idle requests /s, 1 / 10 workers", ("idle requests /s, 1 workers", "idle requests /s, 10 workers"), 1),
    ("idle commands /s, 1 / 10 workers", ("idle commands /s, 1 workers", "idle commands /s, 10 workers"), 1),
    ("bytes queued / finished", ("bytes per queued job", "bytes per finished job"), 0),
]  # fmt: skip


def cell(values: dict[str, float], names: tuple[str, ...], digits: int) -> str:
    shown = [f"{max(0.0, values[name]):,.{digits}f}" if name in values else "-" for name in names]
    return "-" if set(shown) == {"-"} else " / ".join(shown)


def table(columns: list[Any], report: dict[str, Any], names: list[str]) -> list[str]:
    lines = ["| | " + " | ".join(title for title, _, _ in columns) + " |", "|---|" + "---|" * len(columns)]
    for name in names:
        values = report["medians"][name]
        cells = [cell(values, fields, digits) for _, fields, digits in columns]
        if set(cells) != {"-"}:
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def crash_cell(values: dict[str, float], what: str) -> str:
    share = values.get(f"crash, {what}: jobs back, share")
    if share is None:
        return "-"
    if not share:
        return "none in 120 s"
    seconds = values[f"crash, {what}: last job back, s"]
    return f"all, {seconds:.1f} s" if share == 1 else f"{share:.0%}, {seconds:.1f} s"


def crash_table(report: dict[str, Any], names: list[str]) -> list[str]:
    lines = [
        "| | back with defaults | with the tightest documented settings | settings |",
        "|---|---|---|---|",
    ]
    for name in names:
        values = report["medians"][name]
        if "crash, defaults: jobs back, share" in values:
            found = [crash_cell(values, what) for what in ("defaults", "tightest settings")]
            lines.append(f"| {name} | {' | '.join(found)} | {report['about'][name]['settings']} |")
    return lines


def targets(report: dict[str, Any]) -> list[str]:
    """One line for each target that this run can tell: what it asks, what was seen, reached or missed."""
    medians, about = report["medians"], report["about"]
    ours, floor = medians[US], medians["floor"]
    peers = [name for name in medians if name not in OWN]

    def best(field: str, among: list[str], lowest: bool = False) -> tuple[float, str]:
        found = [(medians[name][field], name) for name in among if field in medians[name]]
        return min(found) if lowest else max(found)

    lines = ["| what | target | seen | |", "|---|---|---|---|"]

    def line(what: str, target: str, seen: str, reached: bool) -> None:
        lines.append(f"| {what} | {target} | {seen} | {'reached' if reached else '**missed**'} |")

    def ahead(what: str, field: str, among: list[str], factor: float, value: float | None = None) -> None:
        mine = ours[field] if value is None else value
        rival, name = best(field, among)
        target = f"{factor:g} x {name} ({rival:,.0f})" if factor != 1 else f"ahead of {name} ({rival:,.0f})"
        reached = mine >= factor * rival
        line(what, target, f"{mine:,.0f} = {mine / rival:.{1 if reached else 2}f} x", reached)

    def of_floor(what: str, field: str, share: float) -> None:
        seen = ours[field] / floor[field]
        line(what, f"{share:.0%} of the floor ({floor[field]:,.0f})", f"{seen:.0%}", seen >= share)

    def quicker(what: str, field: str) -> None:
        rival, name = best(field, peers, lowest=True)
        line(what, f"below {name} ({rival:.2f} ms)", f"{ours[field]:.2f} ms", ours[field] < rival)

    safe = [name for name in peers if about[name]["safe"]]
    ahead("drain, one process, against those that lose nothing on kill -9", "drain /s", safe, 15)
    ahead("drain, one process, against all", "drain /s", peers, 8)
    of_floor("drain, one process", "drain /s", 0.6)
    ahead("drain, two processes, against those that lose nothing", "drain, 2 processes /s", safe, 15)
    ahead("drain, two processes, against all", "drain, 2 processes /s", peers, 8)
    untracked = medians["tracked_queue, tracked=False"]["drain /s"]
    ratio = untracked / ours["drain /s"]
    line("drain, `tracked=False`", "1.2 x tracked", f"{untracked:,.0f} = {ratio:.2f} x", ratio >= 1.2)
    ahead("enqueue, 100 concurrent callers", "enqueue concurrent /s", peers, 4)
    ahead("enqueue, bulk", "enqueue bulk /s", peers, 6)
    of_floor("enqueue, bulk", "enqueue bulk /s", 0.6)
    bare, field = medians["EVALSHA by redis-py"]["enqueue single /s"], "enqueue single /s"
    line("enqueue, one at a time, against an EVALSHA by redis-py's client", f"90% of {bare:,.0f}",
         f"{ours[field] / bare:.0%}", ours[field] >= 0.9 * bare)  # fmt: skip
    of_floor("the same against the script through our own connections", field, 0.9)
    ahead("enqueue, one at a time, async", "enqueue single /s", [name for name in peers if about[name]["loop"]], 1)
    blocking = [name for name in peers if not about[name]["loop"] and about[name]["record"]]
    ahead("`enqueue_sync`, against sync queues that keep a record", "enqueue single /s", blocking, 1,
          medians["tracked_queue, enqueue_sync"]["enqueue single /s"])  # fmt: skip
    for field in ("pickup p50 ms", "pickup p99 ms", "result p50 ms", "result p99 ms"):
        quicker(f"{field.removesuffix(' ms')}, idle", field)
    bare = medians["BLMOVE hand-over"]["pickup p50 ms"]
    line("pickup p50 against a bare BLMOVE hand-over", f"2 x {bare:.2f} ms", f"{ours['pickup p50 ms'] / bare:.2f} x",
         ours["pickup p50 ms"] <= 2 * bare)  # fmt: skip
    idle = ours["idle requests /s, 1 workers"]
    line("requests of one idle worker", "1 /s", f"{idle:.2f} /s", idle <= 1.0)
    rival, name = best("bytes per queued job", [name for name in peers if about[name]["record"]], lowest=True)
    mine = ours["bytes per queued job"]
    line("bytes of a queued job, of those with a record", f"below {name} ({rival:.0f})", f"{mine:.0f}", mine < rival)
    back = ours["crash under the supervisor, s"]
    line("jobs of a killed process run again, under the supervisor", "< 0.5 s", f"{back:.2f} s", back < 0.5)
    for what, ttl in (("defaults", 30), ("tightest settings", 2)):
        seconds = ours.get(f"crash, {what}: last job back, s", float("inf"))
        line(
            f"the same when the supervisor is killed too, {what}",
            f"<= {ttl + 1} s",
            f"{seconds:.1f} s",
            seconds <= ttl + 1,
        )
    ahead("job of 5 ms of I/O, 300 bytes in and 1 kB out, concurrency 100", "realistic /s", peers, 1)
    return lines


def about_table(report: dict[str, Any], names: list[str]) -> list[str]:
    lines = ["| | settings | versions |", "|---|---|---|"]
    for name in names:
        about = report["about"][name]
        versions = ", ".join(f"{package} {version}" for package, version in sorted(about["versions"].items()))
        lines.append(f"| {name} | {about['settings']} | {versions} |")
    return lines


def cpu_line(report: dict[str, Any]) -> str:
    ours = report["medians"][US]

    def cores(what: str) -> str:
        return f"{ours[f'drain, 2 processes, cores: {what}']:.2f}"

    return (
        f"With two processes on {report['machine']['cores']} cores, Redis ran for {cores('Redis ran')} of the time and waited for "
        f"{cores('Redis waited for one')} of it until it had a core; tracked_queue's worker processes ran for "
        f"{cores('the worker ran')} and waited for {cores('the worker waited for one')}, both taken together."
    )


def draw(report: dict[str, Any], names: list[str]) -> None:
    panels = [
        ("drain, one process, jobs/s", "drain /s"), ("enqueue, 100 callers, jobs/s", "enqueue concurrent /s"),
        ("pickup p50 when idle, ms", "pickup p50 ms"), ("bytes of a queued job", "bytes per queued job"),
    ]  # fmt: skip
    shown = [name for name in names if name not in OWN or name == US]
    figure, axes = plt.subplots(2, 2, figsize=(11, 8.5))
    for axis, (title, field) in zip(axes.flat, panels, strict=True):
        found = sorted((report["medians"][name][field], name) for name in shown if field in report["medians"][name])
        if "ms" in title or "bytes" in title:
            found.reverse()
        bars = axis.barh(
            [name for _, name in found], [value for value, _ in found],
            color=["#1f6f5c" if name == US else "#b8bfc6" for _, name in found],
        )  # fmt: skip
        digits = 2 if "ms" in title else 0
        axis.bar_label(bars, [f"{value:,.{digits}f}" for value, _ in found], padding=3, fontsize=8)
        axis.set_title(title, fontsize=10, loc="left")
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.set_xticks([])
        axis.tick_params(axis="y", length=0, labelsize=9)
        axis.margins(x=0.15)
    figure.suptitle(
        f"{report['when'][:10]}, {report['machine']['cores']} cores, Redis {report['redis']}",
        fontsize=9,
        x=0.99,
        ha="right",
    )
    figure.tight_layout()
    figure.savefig(CHART, dpi=110)


def replace(text: str, mark: str, lines: list[str]) -> str:
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    assert pattern.search(text), f"{PAGE} has no mark {mark}"
    body = "\n".join(lines)
    put: Callable[[re.Match[str]], str] = lambda found: f"{found[1]}{body}\n{found[2]}"  # noqa: E731
    return pattern.sub(put, text)


def main() -> None:
    results = sorted((ROOT / "benchmarks" / "results").glob("peers-*.json"))
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else results[-1]
    report = json.loads(file.read_text())
    names = list(report["medians"])
    machine = report["machine"]
    head = (
        f"{report['when'][:10]}, {machine['cores']} cores ({machine['cpu']}), Python {machine['python']}, Redis {report['redis']}, "
        f"{machine['million additions /s']:.0f} M additions/s; medians of {report['rounds']} interleaved rounds. "
        f"Raw: benchmarks/results/{file.name}."
    )
    text = PAGE.read_text()
    rates = [head, "", *table(COLUMNS, report, names), "", *table(MORE, report, names), "", cpu_line(report)]
    text = replace(text, "targets", targets(report))
    rates += [f"\n{note}." for note in report.get("notes", ())]
    text = replace(text, "rates", rates)
    text = replace(text, "crashes", crash_table(report, names))
    text = replace(text, "settings", about_table(report, names))
    PAGE.write_text(text)
    draw(report, names)
    print("\n".join(targets(report)))


if __name__ == "__main__":
    main()
