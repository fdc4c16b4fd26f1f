"""Why a job ran more than once, and where its time went: pure, from its runs and its record."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise

from ..model.record import JobInfo
from ..reports.memory import Act
from ..reports.runs import Run
from .explanation import Segment, plural, seconds

# How a loss was known.
CAUSES = {
    "lost": "its lease ran out",
    "died": "its process died",
    "container": "its process died, with others beside it",
    "outage": "Redis or the whole fleet was away",
    "interrupted": "its instance was ended on purpose",
}


def why_twice(info: JobInfo, runs: Sequence[Run]) -> tuple[str, str]:
    """The code of why there was a further run after each but the last, and a sentence on each; empty for at most one run."""
    if len(runs) < 2:
        return "", ""
    requeued = [event.at for event in info.history if event.kind == "requeued" and event.at]
    said, code = [], ""
    for number, (run, following) in enumerate(pairwise(runs), 1):
        again = [at for at in requeued if (run.ended_at or run.started_at) <= at <= following.started_at]
        code, why = _after(run, bool(again))
        said.append(f"run {number} ({run.lease or 'unknown lease'}, {run.started_at:%H:%M:%S}) {why}")
        if run.late_at:
            beside = f" {seconds(run.overlap_s)} beside run {number + 1}," if run.overlap_s else ""
            said.append(
                f"it went on{beside} until {run.late_at:%H:%M:%S}, and what it came to ({run.late_outcome}) was not counted"
            )
    overlaps = sum(run.overlap_s > 0 for run in runs)
    tail = (
        "two runs were under way at the same time; make it safe with current_job().idempotency_key or .fence"
        if overlaps
        else "no two runs are known to have overlapped"
    )
    return code, f"{plural(len(runs), 'run')} are known: " + "; ".join(said) + f". {tail[0].upper()}{tail[1:]}."


def _after(run: Run, requeued: bool) -> tuple[str, str]:
    if requeued:
        return "twice.requeued", f"ended '{run.end}', and somebody requeued the job"
    match run.end:
        case "retry" if run.detail.startswith("TimeoutError: the attempt took longer"):
            return "twice.timeout", "took longer than its timeout, and was retried"
        case "retry":
            return "twice.retry", f"raised {run.detail or 'an error'}, and was retried"
        case "snoozed":
            return "twice.snoozed", "put itself off (Snooze)"
        case "interrupted":
            return "twice.interrupted", "was handed back by a shutdown or an outage"
        case "recovered":
            return "twice.recovered", f"was recovered, because {recovery(run.detail)}"
    return "twice.unknown", f"ended '{run.end or 'in a way that is not known'}'"


def recovery(detail: str) -> str:
    """
    Why a job was recovered, and what it was blamed for, by its history's three words: how the loss was known, what became of
    the job, and blame.
    """
    cause, _, rest = detail.partition(" ")
    blame = {
        "charged": ", and it was charged",
        "suspect": ", and it came under suspicion",
        "acquitted": ", and it was acquitted",
    }
    return CAUSES.get(cause, "its instance was lost") + blame.get(rest.rpartition(" ")[2], "")


def pauses_of(info: JobInfo, acts: Sequence[Act], now: datetime) -> list[tuple[datetime, datetime]]:
    """When its queue or its task was paused, by what operators did, the newest first as acts are read; in order."""
    found, ends = list[tuple[datetime, datetime]](), dict[str, datetime]()
    for act in acts:
        what = str(act.facts.get("what"))
        if act.at is None or what not in (f"queue:{info.queue}", f"task:{info.task}"):
            continue
        if act.action == "resume":
            ends[what] = act.at
        elif act.action == "pause":
            found.append((act.at, ends.pop(what, now)))
    return sorted(found)


def segments_of(
    info: JobInfo, runs: Sequence[Run], now: datetime, pauses: Sequence[tuple[datetime, datetime]] = ()
) -> tuple[list[Segment], float]:
    """
    Where the time from its enqueue until its end (or now) went, in order; the parts sum to the total.

    Args:
        pauses: When its queue or its task was paused: that part of its time in the queue is told apart.
    """
    if info.queued_at is None:
        return [], 0.0
    end = max(info.finished_at or now, info.queued_at)
    parts: list[Segment] = []
    at = info.queued_at

    def until(what: str, moment: datetime) -> None:
        nonlocal at
        moment = min(max(moment, at), end)
        for began, ended in pauses if what == "queue" else ():
            if at < ended and began < moment:
                step(what, began)
                step("paused", min(ended, moment))
        step(what, moment)
        at = moment

    def step(what: str, moment: datetime) -> None:
        nonlocal at
        if moment > at:
            parts.append(Segment(what=what, seconds=(moment - at).total_seconds()))
            at = moment

    for number, run in enumerate(runs):
        handed = datetime.fromtimestamp(run.delivery / 1000, now.tzinfo)
        before = runs[number - 1].end if number else ""
        if before in ("retry", "snoozed"):
            until("backoff", handed)
        elif not number and info.due_at and info.due_at <= handed:
            until("delay", info.due_at)
        until("queue", handed)
        until("buffer", run.started_at)
        lost = run.end in ("interrupted", "recovered")
        until("lost run" if lost else "run", run.ended_at or end)
    if info.state == "scheduled" and info.due_at:
        until("backoff" if runs and runs[-1].end in ("retry", "snoozed") else "delay", min(info.due_at, end))
    until("queue" if info.finished_at is None else "until its end", end)
    return parts, (end - info.queued_at).total_seconds()
