"""What docs/how-to/trace.md promises."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.fernet import Fernet
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from structlog.testing import capture_logs

from tests.features.common import QUICKLY
from tests.harness import running_worker
from tracked_queue import Discard, JobFailedError, Snooze, TrackedQueue, UsageError, current_job, log
from tracked_queue.app import connections_of
from tracked_queue.chaos.server import RedisServer
from tracked_queue.protocol.transitions import End, fetch, register, release
from tracked_queue.tracing import trace_jobs

OWN = "messaging.tracked_queue."


class Traces:
    """An app's tracing, with all that it has recorded."""

    def __init__(self, app: TrackedQueue, **options: Any) -> None:
        self._exporter, self._metrics = InMemorySpanExporter(), InMemoryMetricReader()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._metrics])
        trace_jobs(app, tracer_provider=self.provider, meter_provider=self.meters, **options)

    def named(self, name: str) -> list[ReadableSpan]:
        """The spans of a name, in the order of their ends."""
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def metric(self, name: str) -> list[Any]:
        data = self._metrics.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def close(self) -> None:
        self.provider.shutdown()
        self.meters.shutdown()


@pytest.fixture
def traces(app: TrackedQueue) -> Iterator[Traces]:
    found = Traces(app)
    yield found
    found.close()


def ids(span: ReadableSpan) -> tuple[int, int]:
    about = span.context
    assert about is not None
    return about.trace_id, about.span_id


def links(span: ReadableSpan) -> set[tuple[int, int]]:
    return {(link.context.trace_id, link.context.span_id) for link in span.links}


async def test_a_delivery_belongs_to_the_trace_of_its_enqueue(app: TrackedQueue, traces: Traces) -> None:
    @app.task(name="add", queue="mail")
    async def add(a: int, b: int) -> int:
        with traces.provider.get_tracer("mine").start_as_current_span("inside"):
            return a + b

    with traces.provider.get_tracer("mine").start_as_current_span("request") as request:
        job = await add.enqueue(1, b=2)
    async with running_worker(app):
        assert await job.result(10) == 3
    sent, process, inside = traces.one("send mail"), traces.one("process mail"), traces.one("inside")
    assert sent.kind is SpanKind.PRODUCER and process.kind is SpanKind.CONSUMER
    assert sent.parent is not None and sent.parent.span_id == request.get_span_context().span_id
    assert process.parent is not None and (process.parent.trace_id, process.parent.span_id) == ids(sent)
    assert inside.parent is not None and (inside.parent.trace_id, inside.parent.span_id) == ids(process)
    assert links(process) == {ids(sent)}
    about = dict(process.attributes or {})
    assert about["messaging.system"] == "tracked_queue" and about["messaging.message.id"] == job.id
    assert about["messaging.destination.name"] == "mail" and about["messaging.operation.type"] == "process"
    assert about[OWN + "task"] == "add" and about[OWN + "attempt"] == 1 and about[OWN + "outcome"] == "succeeded"
    assert process.status.status_code is StatusCode.UNSET
    assert (sent.attributes or {})["messaging.message.id"] == job.id
    # Nothing says what the arguments were.
    assert not [
        value for span in (sent, process) for value in (span.attributes or {}).values() if value in (3, "a", "b")
    ]


async def test_retries_have_traces_of_their_own_and_link_to_the_run_before(app: TrackedQueue, traces: Traces) -> None:
    @app.task(name="flaky", max_attempts=3, retry=QUICKLY)
    async def flaky() -> None:
        if current_job().attempt == 1:
            raise ValueError("no")
        if not current_job().saved:
            await current_job().checkpoint(1)
            raise Snooze(0.01)

    job = await flaky.enqueue()
    async with running_worker(app):
        await job.result(20)
    sent = traces.one("send default")
    first, second, third = traces.named("process default")
    assert [(it.attributes or {})[OWN + "outcome"] for it in (first, second, third)] == [
        "retry",
        "snoozed",
        "succeeded",
    ]
    assert links(first) == {ids(sent)}
    assert links(second) == {ids(sent), ids(first)} and links(third) == {ids(sent), ids(second)}
    assert len({ids(it)[0] for it in (first, second, third)}) == 3 and ids(first)[0] == ids(sent)[0]
    assert first.status.status_code is StatusCode.ERROR and (first.attributes or {})["error.type"] == "ValueError"
    assert [event.name for event in first.events] == ["exception"]
    assert second.status.status_code is StatusCode.UNSET and not second.events


async def test_how_runs_end(app: TrackedQueue, traces: Traces) -> None:
    @app.task(name="ends", max_attempts=1, timeout=0.05)
    async def ends(how: str) -> Any:
        if how == "timeout":
            await asyncio.sleep(30)
        if how == "discard":
            raise Discard("not wanted")
        if how == "raise":
            raise ValueError("no")
        return object()

    jobs = {how: await ends.enqueue(how) for how in ("timeout", "discard", "raise", "no result")}
    async with running_worker(app):
        for job in jobs.values():
            with pytest.raises(JobFailedError):
                await job.result(20)
    found = {}
    for span in traces.named("process default"):
        about = dict(span.attributes or {})
        found[about["messaging.message.id"]] = (
            about[OWN + "outcome"],
            about.get("error.type"),
            span.status.status_code,
        )
    assert found == {
        jobs["timeout"].id: ("dead", "TimeoutError", StatusCode.ERROR),
        jobs["discard"].id: ("failed", "failed", StatusCode.ERROR),
        jobs["raise"].id: ("dead", "ValueError", StatusCode.ERROR),
        jobs["no result"].id: ("failed", "failed", StatusCode.ERROR),
    }


async def test_a_bulk_enqueue_has_a_span_of_its_own_and_one_for_each_job(app: TrackedQueue, traces: Traces) -> None:
    @app.task(name="nothing")
    async def nothing() -> None: ...

    jobs = await app.enqueue_many([nothing.call() for _ in range(3)])
    sent, created = traces.one("send default"), traces.named("create default")
    assert sent.kind is SpanKind.CLIENT and (sent.attributes or {})["messaging.batch.message_count"] == 3
    assert [(it.attributes or {})["messaging.message.id"] for it in created] == [job.id for job in jobs]
    assert {it.parent.span_id for it in created if it.parent} == {ids(sent)[1]}
    async with running_worker(app):
        for job in jobs:
            await job.result(10)
    runs = traces.named("process default")
    assert {run.parent.span_id for run in runs if run.parent} == {ids(it)[1] for it in created}
    assert sum(point.value for point in traces.metric("messaging.client.sent.messages")) == 3
    assert sum(point.value for point in traces.metric("messaging.client.consumed.messages")) == 3
    assert sum(point.count for point in traces.metric("messaging.process.duration")) == 3


async def test_without_create_spans_jobs_carry_the_context_of_the_whole(app: TrackedQueue) -> None:
    traces = Traces(app, create_spans=False)

    @app.task(name="nothing")
    async def nothing() -> None: ...

    jobs = await app.enqueue_many([nothing.call() for _ in range(2)])
    async with running_worker(app):
        for job in jobs:
            await job.result(10)
    assert not traces.named("create default")
    assert {links(run).pop() for run in traces.named("process default")} == {ids(traces.one("send default"))}
    traces.close()


@pytest.mark.parametrize(("parent", "is_child"), [("auto", False), ("child", True), ("link", False)])
async def test_a_long_delay_is_a_trace_of_its_own(app: TrackedQueue, parent: Any, is_child: bool) -> None:
    traces = Traces(app, parent=parent)

    @app.task(name="later")
    async def later() -> None: ...

    job = await later.options(delay=3600).enqueue()
    await app.operator.reschedule([job.id], 0)
    async with running_worker(app):
        await job.result(10)
    sent, run = traces.one("send default"), traces.one("process default")
    assert (ids(run)[0] == ids(sent)[0]) is is_child and links(run) == {ids(sent)}
    traces.close()


async def test_an_enqueue_without_an_event_loop_is_traced(app: TrackedQueue, traces: Traces) -> None:
    @app.task(name="nothing")
    async def nothing() -> None: ...

    await asyncio.to_thread(nothing.enqueue_sync)
    await asyncio.to_thread(lambda: app.enqueue_many_sync([nothing.call()]))
    assert [span.kind for span in traces.named("send default")] == [SpanKind.PRODUCER, SpanKind.CLIENT]


async def test_an_enqueue_that_fails_says_so(app: TrackedQueue, traces: Traces) -> None:
    @app.task(name="number")
    async def number(value: int) -> None: ...

    with pytest.raises(UsageError):
        await number.enqueue("no number")  # type: ignore[arg-type]
    sent = traces.one("send default")
    assert sent.status.status_code is StatusCode.ERROR and (sent.attributes or {})["error.type"] == "ArgumentError"


async def test_a_job_that_a_job_enqueues_belongs_to_its_delivery(app: TrackedQueue, traces: Traces) -> None:
    @app.task(name="inner", queue="inner")
    def inner() -> None: ...

    @app.task(name="outer")
    async def outer() -> str:
        return (await inner.enqueue()).id

    job = await outer.enqueue()
    async with running_worker(app):
        await app.job(await job.result(10)).result(10)
    assert traces.one("send inner").parent is not None
    assert {ids(span)[0] for span in traces.named("process inner")} == {ids(traces.one("send default"))[0]}


async def test_a_recovery_is_linked_to_the_enqueues_of_what_it_moved(app: TrackedQueue, traces: Traces) -> None:
    @app.task(name="nothing")
    async def nothing() -> None: ...

    jobs = [await nothing.enqueue(), await nothing.enqueue(), await nothing.options(queue="mail").enqueue()]
    store = connections_of(app).store
    await store.run(register("lost", 2.0, 0.2, {"label": "pod-1"}))
    await store.run(fetch("lost", 1, 3, 0, ["default", "mail"]))
    await store.run(release("lost", End.DIED, ago=0.0))
    await app.operator.recover()
    moved = traces.one("recover default")
    assert moved.kind is SpanKind.INTERNAL and moved.parent is None
    assert links(moved) == {ids(span) for span in traces.named("send default")} and len(links(moved)) == 2
    assert links(traces.one("recover mail")) == {ids(traces.one("send mail"))}
    assert (moved.attributes or {})[OWN + "label"] == "pod-1"
    async with running_worker(app):
        for job in jobs[:2]:  # nobody serves the other queue
            await job.result(10)
    # A run after a recovery is a trace of its own.
    assert not [run for run in traces.named("process default") if run.parent]


async def test_lines_of_a_job_carry_the_ids_of_its_span(app: TrackedQueue, traces: Traces) -> None:
    @app.task(name="logs")
    async def logs() -> dict[str, str]:
        return dict(log.add_trace(None, "info", {}))

    job = await logs.enqueue()
    async with running_worker(app):
        line = await job.result(10)
    trace_id, span_id = ids(traces.one("process default"))
    assert line == {"trace_id": f"{trace_id:032x}", "span_id": f"{span_id:016x}"}
    assert log.add_trace(None, "info", {}) == {} and trace.get_current_span().get_span_context().is_valid is False


async def test_hostile_headers_are_no_context(app: TrackedQueue, traces: Traces) -> None:
    @app.task(name="nothing")
    async def nothing() -> None: ...

    async with TrackedQueue(app.settings.redis_url, namespace=app.settings.namespace) as producer:
        jobs = [
            await producer.options(headers={"traceparent": value, "tracestate": 3}).enqueue("nothing")
            for value in ("", "no", 7, None, ["00"], "00-" + "0" * 32 + "-" + "0" * 16 + "-01")
        ]
        async with running_worker(app):
            for job in jobs:
                await job.result(10)
    assert len(traces.named("process default")) == 6 and not any(run.links for run in traces.named("process default"))


async def test_wrong_options_are_refused(app: TrackedQueue) -> None:
    with pytest.raises(UsageError, match="parent='up'"):
        trace_jobs(app, parent="up")  # type: ignore[arg-type]


class Broken(SpanProcessor):
    """What an application may have: a processor that raises."""

    def __init__(self, where: str) -> None:
        self._where = where

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self._where == "start":
            raise RuntimeError("broken")

    def on_end(self, span: Any) -> None:
        if self._where == "end":
            raise RuntimeError("broken")


@pytest.mark.parametrize("where", ["start", "end"])
async def test_a_tracer_that_raises_changes_nothing(app: TrackedQueue, where: str) -> None:
    provider = TracerProvider()
    provider.add_span_processor(Broken(where))
    trace_jobs(app, tracer_provider=provider)
    runs: list[str] = []

    @app.task(name="work", max_attempts=2, retry=QUICKLY, timeout=0.2)
    async def work(how: str) -> str:
        runs.append(how)
        if how == "raise":
            raise ValueError("no")
        if how == "hang":
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(1)
        return how

    with capture_logs() as lines:
        jobs = {how: await work.enqueue(how) for how in ("well", "raise", "late")}
        (many,) = await app.enqueue_many([work.call("many")])
        store = connections_of(app).store
        await store.run(register("lost", 2.0, 0.2, {"label": "pod-1"}))
        await store.run(fetch("lost", 1, 1, 0, ["default"]))
        await store.run(release("lost", End.DIED, ago=0.0))
        assert len(await app.operator.recover()) == 1
        async with running_worker(app):
            assert await jobs["well"].result(10) == "well" and await many.result(10) == "many"
            with pytest.raises(JobFailedError):
                await jobs["raise"].result(10)
    assert sorted(runs) == ["late", "many", "raise", "raise", "well"], "each as often as without a tracer"
    assert [line["error"] for line in lines if line["event"] == "hook.failed"] == ["RuntimeError: broken"], (
        "told once a minute"
    )
    provider.shutdown()


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("can't be said")


async def test_an_error_that_has_no_text_is_an_outcome_all_the_same(app: TrackedQueue, traces: Traces) -> None:
    @app.task(name="speechless", max_attempts=2, retry=QUICKLY)
    async def speechless() -> None:
        raise Unspeakable

    job = await speechless.enqueue()
    async with running_worker(app):
        with pytest.raises(JobFailedError):
            await job.result(10)
    assert [(it.attributes or {})["error.type"] for it in traces.named("process default")] == ["Unspeakable"] * 2


async def test_texts_of_errors_are_bounded_and_left_out_where_payloads_are_encrypted(
    server: RedisServer, namespace: str
) -> None:
    async with TrackedQueue(server.url, namespace=namespace, encryption_keys=Fernet.generate_key().decode()) as app:
        traces = Traces(app)

        @app.task(name="card", max_attempts=1)
        async def card(number: str) -> None:
            raise ValueError(f"card {number} was refused" * 1000)

        job = await card.enqueue("4929123456781234")
        async with running_worker(app):
            with pytest.raises(JobFailedError):
                await job.result(10)
        (event,) = traces.one("process default").events
        told = dict(event.attributes or {})
        assert told["exception.type"] == "ValueError" and "exception.message" not in told
        assert "4929123456781234" not in repr(told) and "in card" in str(told["exception.stacktrace"])
        traces.close()
