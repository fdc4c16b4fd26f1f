"""
`demo --incidents`: six incidents on real workers, and what `explain`, the metrics and the log say about each.

Everything lives in a temporary folder with an embedded Redis, and is gone at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from ..app import TrackedQueue
from ..errors import TrackedQueueError, UsageError
from ..operator.explanation import Explanation
from ..protocol.states import State
from .common import clean, console
from .explain import lines_of
from .incident_tasks import app as incident_app
from .incident_tasks import compute, import_row, invoice, print_page, report
from .machines import Machine, chosen, staged

PATIENCE_S = 60.0
# Facts of a log line that say the same each time, or nothing to a person.
DULL = ("event", "level", "timestamp", "tasks", "concurrency", "shard")


class Stage:
    """The app, its machines, and what is printed."""

    def __init__(self, app: TrackedQueue, folder: Path, url: str) -> None:
        self.app, self._folder, self._url = app, folder, url
        self._number = 0
        self._machines: list[Machine] = []
        from ..metrics.exporter import FleetCollector

        self._collector = FleetCollector(app, asyncio.get_running_loop())

    @contextlib.asynccontextmanager
    async def incident(self, title: str, story: str) -> AsyncIterator[None]:
        """One incident; its machines end with it, and what is left of its jobs."""
        self._number += 1
        _say("", f"{self._number}. {title}", "", *textwrap.wrap(story, 100), bold=1)
        await self.fleet_metrics()  # counters count from the first reading on
        try:
            yield
        finally:
            for machine in self._machines:
                await asyncio.to_thread(machine.close)
            self._machines.clear()
            for queue in ("reports", "imports", "invoices"):
                await self.app.operator.retire(queue=queue)
            await self.app.operator.purge(everything=True)

    async def machine(self, label: str, *options: str) -> Machine:
        """A machine that works."""
        machine = Machine(
            self._folder, self._url, f"{label}-{self._number}", *options, app=f"{__package__}.incident_tasks:app"
        )
        self._machines.append(machine)
        await self.until(lambda: machine.events("instance.registered"), f"{label} to start")
        return machine

    async def until(self, check: Callable[[], Any], what: str) -> Any:
        """Wait for something. Raises UsageError if it does not come."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = check()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return found
            if time.monotonic() > deadline:
                raise UsageError(f"demo: waited {PATIENCE_S:g} s for {what}; is this machine very busy?")
            await asyncio.sleep(0.05)

    async def explained(self, job_id: str, fits: Callable[[Explanation], bool], what: str) -> Explanation:
        """Wait until `explain` says something."""

        async def look() -> Explanation | None:
            (found,) = await self.app.operator.explain(job_id)
            return found if fits(found) else None

        found: Explanation = await self.until(look, what)
        return found

    async def fleet_metrics(self, *names: str) -> list[str]:
        """Lines of the exporter's page, read anew."""
        from prometheus_client import CollectorRegistry, generate_latest

        await asyncio.sleep(0)
        registry = CollectorRegistry()
        self._collector.forget()
        registry.register(self._collector)
        return chosen((await asyncio.to_thread(generate_latest, registry)).decode(), names) if names else []

    async def left_s(self, label: str, most: float) -> bool:
        """Whether a machine's lease has no more than this left."""
        leases = [item for item in await self.app.operator.instances() if item.label == label]
        return bool(leases) and leases[0].deadline_s <= most

    def show_explanations(self, command: str, *found: Explanation) -> None:
        """What a person reads who asks."""
        _say("", f"$ tracked-queue {command}")
        for one in found:
            for line in lines_of(one):
                console().print("    ", line, sep="", soft_wrap=True)

    def show(self, what: str, lines: list[str]) -> None:
        """Lines of metrics or of a log."""
        _say("", f"{what}:", *(f"    {clean(line)}" for line in lines))

    def log_of(self, machine: Machine, *names: str) -> list[str]:
        """The first line of each of these events, with its facts."""
        found = []
        for name in names:
            for event in machine.events(name)[:1]:
                facts = " ".join(f"{key}={value}" for key, value in event.items() if key not in DULL)
                found.append(f"{event['level']:<8} {name}  {facts}")
        return found


def _say(*lines: str, bold: int | None = None) -> None:
    for at, line in enumerate(lines):
        console().print(line, style="bold" if at == bold else "", markup=False, soft_wrap=True)


def run_incidents() -> int:
    """All six; 0 if each was what it should be."""
    try:
        import prometheus_client  # noqa: F401
    except ModuleNotFoundError:
        raise UsageError("demo --incidents shows metrics, too: pip install 'tracked-queue[metrics]'") from None
    if not staged("incidents", _all):
        print("interrupted; the workers, the server and the temporary folder are gone")
        return 130
    return 0


async def _all(folder: Path, url: str) -> None:
    incident_app.configure(redis_url=url, heartbeat_interval=0.5, heartbeat_ttl=3.0)
    async with incident_app as app:
        stage = Stage(app, folder, url)
        for incident in (_machine_lost, _frozen, _blocked, _limit, _poison, _unserved):
            await incident(stage)
    _say("", "Six incidents; no job was lost.")


async def _machine_lost(stage: Stage) -> None:
    story = (
        "A machine runs a job and vanishes: its supervisor and its processes at once, with nobody left to say so. Its lease "
        "runs out, and another machine moves the job and runs it."
    )
    async with stage.incident("A machine is lost", story):
        first = await stage.machine("gone")
        job = await report.enqueue(2)
        await stage.explained(job.id, lambda found: found.code == "active.running", "the job to run")
        other = await stage.machine("other")
        first.vanish()
        await stage.until(lambda: stage.left_s(first.label, 0.5), "the lease to be nearly over")
        other.signal(signal.SIGSTOP)  # it would move the job within a tenth of a second: time to look
        lost = await stage.explained(job.id, lambda found: found.code.startswith("lost."), "the lease to run out")
        metrics = await stage.fleet_metrics(
            "tracked_queue_unrecovered_seconds", 'tracked_queue_instances{status="lost"'
        )
        other.signal(signal.SIGCONT)
        stage.show_explanations(f"explain {job.id}", lost)
        assert await job.result(30) == "done"
        stage.show_explanations(f"explain {job.id}    # after it has ended", *await stage.app.operator.explain(job.id))
        metrics += await stage.fleet_metrics('tracked_queue_events_total{event="recovered"')
        stage.show("metrics, before and after", metrics)
        stage.show("log of the other machine", stage.log_of(other, "job.recovered", "lease.recovered"))


async def _frozen(stage: Stage) -> None:
    story = (
        "A process stands still for longer than its lease (a stopped container, a laptop's lid), wakes up and goes on. Its "
        "job is running elsewhere by then: whatever the late one does with the queue is refused."
    )
    async with stage.incident("A frozen worker wakes up", story):
        frozen = await stage.machine("frozen")
        job = await report.enqueue(6)
        await stage.explained(job.id, lambda found: found.code == "active.running", "the job to run")
        other = await stage.machine("other")
        frozen.signal(signal.SIGSTOP)
        await stage.until(lambda: other.events("lease.recovered"), "the job to be moved")
        frozen.signal(signal.SIGCONT)
        await stage.until(
            lambda: frozen.events("lease.lost") or frozen.events("process.died"), "the frozen one to notice"
        )
        assert await job.result(30) == "done"
        found = await stage.explained(
            job.id, lambda one: len(one.runs) > 1 and bool(one.twice), "both runs to be known"
        )
        stage.show_explanations(f"explain {job.id}", found)
        stage.show(
            "metrics of the frozen one",
            await asyncio.to_thread(frozen.metrics, "tracked_queue_leases_lost_total", "tracked_queue_fenced_total"),
        )
        stage.show("its log", stage.log_of(frozen, "lease.lost", "job.fenced", "flight.written"))


async def _blocked(stage: Stage) -> None:
    story = (
        "An async job computes for seconds without giving way, so nothing else runs in its process. The log names the line; "
        "the lease is kept by a thread, and nothing is moved."
    )
    async with stage.incident("A blocked event loop", story):
        machine = await stage.machine("busy")
        job = await compute.enqueue(6)
        await stage.until(lambda: machine.events("loop.blocked"), "the loop to be blocked")
        stage.show_explanations(f"explain {job.id}", *await stage.app.operator.explain(job.id))
        await stage.until(lambda: machine.events("loop.unblocked"), "the loop to turn again")
        lag = ('tracked_queue_loop_lag_seconds_bucket{le="1.0"', 'tracked_queue_loop_lag_seconds_bucket{le="+Inf"')
        counted = await stage.until(lambda: _differ(machine.metrics(*lag)), "the lag to be counted")
        stage.show("metrics: answers within 1 s, and all", counted)
        stage.show("log", stage.log_of(machine, "loop.blocked", "loop.unblocked", "flight.written"))


def _differ(lines: list[str]) -> list[str]:
    return lines if len({line.rsplit(" ", 1)[1] for line in lines}) == 2 else []


async def _limit(stage: Stage) -> None:
    story = "A job holds the only place of a limit and never ends; it has no timeout. All others of that limit wait."
    async with stage.incident("A full limit that nobody frees", story):
        await stage.machine("printer")
        holder, waits = await print_page.enqueue(1), await print_page.enqueue(2)
        await stage.explained(holder.id, lambda one: one.code == "active.running", "the first page")
        found = await stage.explained(waits.id, lambda one: one.code.startswith("lane."), "the second page to wait")
        stage.show_explanations(f"explain {waits.id}", found)
        stage.show_explanations("explain --limit printer", *await stage.app.operator.explain(limit="printer"))
        stage.show(
            "metrics",
            await stage.fleet_metrics(
                "tracked_queue_limit_in_use",
                "tracked_queue_limit_capacity",
                'tracked_queue_queue_jobs{kind="limited",queue="reports"',
            ),
        )
        stage.show("log", ["nothing: a limit that is full is no event"])
        await stage.app.operator.cancel([holder.id])
        await stage.until(lambda: _is(waits, State.SUCCEEDED), "the second page, once the first is cancelled")
        _say("", f"$ tracked-queue cancel {holder.id}", "    and the second page is printed.")


async def _is(job: Any, state: State) -> bool:
    try:
        return bool(await job.status() is state)
    except TrackedQueueError:
        return False


async def _poison(stage: Stage) -> None:
    story = (
        "A deploy brings a job that kills its process, among healthy ones. Those that were there run apart until it is clear "
        "who did it: only that one is charged, and after three charges it is dead."
    )
    async with stage.incident("Poison at a deploy", story):
        machine = await stage.machine("import", "--processes", "2")
        jobs = await stage.app.enqueue_many([import_row.call(row) for row in range(20)])
        await stage.until(lambda: _is(jobs[0], State.DEAD), "the poison to be found")
        for job in jobs[1:]:
            await stage.until(lambda job=job: _is(job, State.SUCCEEDED), "the others to succeed")  # type: ignore[misc]
        stage.show_explanations(f"explain {jobs[0].id}", *await stage.app.operator.explain(jobs[0].id))
        stage.show("metrics", await asyncio.to_thread(machine.metrics, 'tracked_queue_process_ends_total{why="died"'))
        stage.show("log", stage.log_of(machine, "process.died", "job.recovered"))
        _say("", "The other 19 jobs have succeeded.")


async def _unserved(stage: Stage) -> None:
    story = "A new queue has its producer, and no worker was started for it. It is the most frequent cause of all."
    async with stage.incident("A queue that nobody serves", story):
        machine = await stage.machine("worker", "--queue", "reports")
        job = await invoice.enqueue(7)
        stage.show_explanations(f"explain {job.id}", *await stage.app.operator.explain(job.id))
        stage.show_explanations(
            "explain    # what is wrong with the fleet; exit 1", *await stage.app.operator.explain()
        )
        stage.show(
            "metrics",
            await stage.fleet_metrics(
                'tracked_queue_queue_instances{queue="invoices"',
                'tracked_queue_queue_jobs{kind="ready",queue="invoices"',
            ),
        )
        stage.show("log of the worker", stage.log_of(machine, "queues.unnamed", "instance.registered"))
        await stage.machine("accounting", "--queue", "invoices")
        await stage.until(lambda: _is(job, State.SUCCEEDED), "the job, once somebody serves it")
        _say("", "$ tracked-queue worker shop.jobs:app --queue invoices", "    and the job runs.")
