"""
Tracing with OpenTelemetry (extra `otel`): a span for each enqueue, each delivery and each recovery, with links between them.

A job carries the context of its enqueue in its headers (`traceparent`, `tracestate`), so that the trace goes on in whatever
process runs it. Each delivery has a span of its own, from the start of its function to its end; the second one and those after
it also link to the one before. Arguments are never recorded. Without `trace_jobs` nothing here is imported, and the worker asks
one `is None` for each job.

Source: docs/how-to/trace.md; names follow the semantic conventions for messaging, version 1.44.0.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from . import __version__, log
from .app import TrackedQueue, producer_of
from .errors import UsageError
from .model import hooks
from .model.context import CurrentJob
from .model.hooks import Arrival, Enqueueing, Moved
from .worker.outcome import named

try:
    from opentelemetry import context, metrics, trace
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.propagators.textmap import Setter
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TracerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError:
    raise UsageError("tracing needs opentelemetry-api: pip install 'tracked-queue[otel]'") from None

TraceParent = Literal["auto", "child", "link"]
T = TypeVar("T")

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
# A job that starts within this time of its enqueue belongs to the trace of that; a later one has a trace of its own.
SOON_MS = 60_000
# A span carries no more links than this by default.
MOST_LINKS = 128
MOST_STACK = 8_000
# Errors of a tracer are logged this often at most.
TELL_AGAIN_S = 60.0

_OWN = "messaging.tracked_queue."
_LATER = "trace_later"
_propagator = TraceContextTextMapPropagator()
_SYSTEM = {"messaging.system": "tracked_queue"}


class _Setter(Setter[dict[str, Any]]):
    def set(self, carrier: dict[str, Any], key: str, value: str) -> None:
        carrier[key] = value


_setter = _Setter()


class Tracer:
    """What `trace_jobs` puts into an app: see `model.hooks.Tracing`."""

    def __init__(
        self,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
        parent: TraceParent,
        create_spans: bool,
        server: Mapping[str, Any],
    ) -> None:
        # Providers that are set later than this count as well: both are looked up anew by the API's own proxies.
        self._tracer = trace.get_tracer("tracked_queue", __version__, tracer_provider, SCHEMA_URL)
        meter = metrics.get_meter("tracked_queue", __version__, meter_provider, SCHEMA_URL)
        self._parent, self._create_spans, self._server = parent, create_spans, {**_SYSTEM, **server}
        self._sent = meter.create_counter("messaging.client.sent.messages", "{message}", "Jobs that were enqueued.")
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages", "{message}", "Runs that were begun."
        )
        self._took = meter.create_histogram(
            "messaging.client.operation.duration", "s", "How long enqueues took.",
            explicit_bucket_boundaries_advisory=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
        )  # fmt: skip
        self._ran = meter.create_histogram(
            "messaging.process.duration", "s", "How long runs took.",
            explicit_bucket_boundaries_advisory=(
                0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400,
            ),
        )  # fmt: skip

    # Enqueues

    @contextlib.contextmanager
    def enqueueing(self, on_its_way: Enqueueing, many: bool) -> Iterator[Callable[[str], None]]:
        """A `send` span around one enqueue, or a `create` span for one job of many."""
        queue = on_its_way.queue
        if many and not self._create_spans:
            self._inject(on_its_way)
            yield _unnoted
            return
        name = "create" if many else "send"
        facts = {**self._facts(name, name, queue), _OWN + "task": on_its_way.task}
        if on_its_way.id:
            facts["messaging.message.id"] = on_its_way.id
        with (
            self._timed(name, queue, 0 if many else 1),
            self._span(f"{name} {queue}", SpanKind.PRODUCER, facts) as span,
        ):
            self._inject(on_its_way)

            def made(job_id: str) -> None:
                span.set_attribute("messaging.message.id", job_id)

            yield made

    @contextlib.contextmanager
    def sending(self, queues: Sequence[str]) -> Iterator[None]:
        """A `send` span around a call that stores many jobs."""
        counts = Counter(queues)
        queue = queues[0] if len(counts) == 1 else ""
        facts = {**self._facts("send", "send", queue), "messaging.batch.message_count": len(queues)}
        with self._timed("send", queue, 0), self._span(f"send {queue}".rstrip(), SpanKind.CLIENT, facts):
            yield
        for name, count in counts.items():
            self._sent.add(count, self._facts("send", "send", name))

    def _inject(self, on_its_way: Enqueueing) -> None:
        _propagator.inject(on_its_way.headers, setter=_setter)
        if self._parent == "auto" and not _soon(on_its_way):
            on_its_way.headers[_LATER] = True

    @contextlib.contextmanager
    def _timed(self, operation: str, queue: str, sent: int) -> Iterator[None]:
        began = time.perf_counter()
        facts = self._facts(operation, operation, queue)
        try:
            yield
        except BaseException as error:
            facts["error.type"] = type(error).__qualname__
            raise
        else:
            if sent:
                self._sent.add(sent, facts)
        finally:
            if operation == "send":
                self._took.record(time.perf_counter() - began, facts)

    @contextlib.contextmanager
    def _span(self, name: str, kind: SpanKind, facts: Mapping[str, Any]) -> Iterator[Span]:
        # The SDK's own way of recording an error would send its whole text, which may say what the arguments were.
        with self._tracer.start_as_current_span(
            name, kind=kind, attributes=dict(facts), record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except BaseException as error:
                span.set_attribute("error.type", type(error).__qualname__)
                span.set_status(Status(StatusCode.ERROR, type(error).__qualname__))
                raise

    # Deliveries

    def running(self, job: CurrentJob, arrival: Arrival) -> Run:
        """A `process` span, current in the job's own task from here on."""
        creation = _context_of(job.headers)
        previous = _context_of({"traceparent": arrival.previous}) if arrival.previous else None
        first = not (job.attempt > 1 or job.interruptions or job.recoveries or arrival.previous)
        links = [] if creation is None else [Link(creation)]
        if previous is not None:
            links.append(Link(previous, {"messaging.tracked_queue.link": "previous"}))
        is_child = creation is not None and (
            self._parent == "child"
            or (
                self._parent == "auto"
                and first
                and job.scheduled_for is None
                and not job.headers.get(_LATER)
                and arrival.queue_ms <= SOON_MS
            )
        )
        parent = context.Context()
        if is_child and creation is not None:
            parent = trace.set_span_in_context(trace.NonRecordingSpan(creation), parent)
        facts = {
            **self._facts("process", "process", job.queue),
            "messaging.message.id": job.id,
            "messaging.client.id": job.lease,
            _OWN + "task": job.task,
            _OWN + "delivery": job.fence,
            _OWN + "attempt": job.attempt,
            _OWN + "interruptions": job.interruptions,
            _OWN + "recoveries": job.recoveries,
            _OWN + "wait.buffer_ms": arrival.buffer_ms,
        }
        if arrival.queue_ms >= 0:
            facts[_OWN + "wait.queue_ms"] = arrival.queue_ms
        if job.scheduled_for is not None:
            facts[_OWN + "scheduled_for"] = job.scheduled_for.isoformat()
        span = self._tracer.start_span(f"process {job.queue}", parent, SpanKind.CONSUMER, facts, links)
        # Of this task alone, whose context is a copy that ends with it: there is nothing to detach from.
        context.attach(trace.set_span_in_context(span))
        metric = {**self._facts("process", "process", job.queue), _OWN + "task": job.task}
        self._consumed.add(1, metric)
        return Run(span, lambda seconds, outcome: self._ran.record(seconds, {**metric, _OWN + "outcome": outcome}))

    # Recoveries

    def recovered(self, lease: str, label: str, jobs: Sequence[Moved]) -> None:
        """A `recover` span for each queue, linked to the enqueue of each job that was moved."""
        for queue in sorted({job.queue for job in jobs}):
            of = [job for job in jobs if job.queue == queue]
            creations = [found for job in of if (found := _context_of(job.headers)) is not None]
            facts = {
                **self._facts("recover", "", queue),
                "messaging.client.id": lease,
                "messaging.batch.message_count": len(of),
                _OWN + "label": label,
                _OWN + "dead": sum(job.fate == "dead" for job in of),
            }
            links = [Link(creation) for creation in creations[:MOST_LINKS]]
            self._tracer.start_span(
                f"recover {queue}", context.Context(), SpanKind.INTERNAL, attributes=facts, links=links
            ).end()

    def _facts(self, name: str, kind: str, queue: str) -> dict[str, Any]:
        facts = {**self._server, "messaging.operation.name": name}
        if kind:
            facts["messaging.operation.type"] = kind
        if queue:
            facts["messaging.destination.name"] = queue
        return facts


class Run:
    """The span of one delivery: see `model.hooks.RunSpan`."""

    __slots__ = ("_began", "_has_raised", "_is_over", "_span", "_tell")

    def __init__(self, span: Span, tell: Callable[[float, str], None]) -> None:
        self._span, self._tell = span, tell
        self._is_over = self._has_raised = False
        self._began = time.perf_counter()

    @property
    def mark(self) -> str:
        """Its traceparent."""
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, trace.set_span_in_context(self._span, context.Context()))
        return carrier.get("traceparent", "")

    def raised(self, error: BaseException, text: str) -> None:
        """The function raised this, or took longer than its timeout; `text` is what may be said of it."""
        self._has_raised = True
        facts = {
            "exception.type": type(error).__qualname__,
            "exception.stacktrace": "".join(traceback.format_tb(error.__traceback__))[-MOST_STACK:],
        }
        self._span.add_event("exception", {**facts, "exception.message": text} if text else facts)
        self._span.set_attribute("error.type", type(error).__qualname__)
        self._span.set_status(Status(StatusCode.ERROR, type(error).__qualname__))

    def ended(self, outcome: str) -> None:
        """It ends with this outcome. An error is marked where the function raised; also on a job that ends without a run."""
        if self._is_over:
            return
        self._is_over = True
        self._span.set_attribute(_OWN + "outcome", outcome)
        if outcome in ("failed", "dead") and not self._has_raised:
            self._span.set_attribute("error.type", outcome)
            self._span.set_status(Status(StatusCode.ERROR, outcome))
        self._span.end()
        self._tell(time.perf_counter() - self._began, outcome)


class Guarded:
    """
    A tracer whose errors reach nothing: not an enqueue, whose job may be stored by then, not a job's outcome, not a recovery.
    What a span processor or an exporter of the application raises is logged, and the work goes on without that span.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer, self._told_at = tracer, -TELL_AGAIN_S

    @contextlib.contextmanager
    def enqueueing(self, on_its_way: Enqueueing, many: bool) -> Iterator[Callable[[str], None]]:
        """See Tracer."""
        with self._careful(lambda: self._tracer.enqueueing(on_its_way, many), _unnoted) as made:

            def made_carefully(job_id: str) -> None:
                self._do(lambda: made(job_id))

            yield made_carefully

    @contextlib.contextmanager
    def sending(self, queues: Sequence[str]) -> Iterator[None]:
        """See Tracer."""
        with self._careful(lambda: self._tracer.sending(queues), None):
            yield

    def running(self, job: CurrentJob, arrival: Arrival) -> GuardedRun | None:
        """See Tracer; None if it can't be traced."""
        run = self._do(lambda: self._tracer.running(job, arrival))
        return None if run is None else GuardedRun(run, self._do)

    def recovered(self, lease: str, label: str, jobs: Sequence[Moved]) -> None:
        """See Tracer."""
        self._do(lambda: self._tracer.recovered(lease, label, jobs))

    @contextlib.contextmanager
    def _careful(self, make: Callable[[], Any], value: T) -> Iterator[T]:
        """The context that `make` makes, or `value` where that fails."""
        stack = contextlib.ExitStack()
        try:
            value = stack.enter_context(make())
        except Exception as error:
            self._tell(error)
        try:
            yield value
        except BaseException as error:
            try:
                stack.__exit__(type(error), error, error.__traceback__)
            except BaseException as worse:
                if worse is not error:
                    self._tell(worse)
            raise
        self._do(stack.close)

    def _do(self, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except Exception as error:
            self._tell(error)
            return None

    def _tell(self, error: BaseException) -> None:
        now = time.monotonic()
        if now - self._told_at >= TELL_AGAIN_S:
            self._told_at = now
            log.hook_failed(hook="tracing", task="", job_id="", error=named(error)[:300])


class GuardedRun:
    """A run's span whose errors reach nothing."""

    __slots__ = ("_do", "_run")

    def __init__(self, run: Run, do: Callable[[Callable[[], Any]], Any]) -> None:
        self._run, self._do = run, do

    @property
    def mark(self) -> str:
        """Its traceparent."""
        return self._do(lambda: self._run.mark) or ""

    def raised(self, error: BaseException, text: str) -> None:
        """See Run."""
        self._do(lambda: self._run.raised(error, text))

    def ended(self, outcome: str) -> None:
        """See Run."""
        self._do(lambda: self._run.ended(outcome))


def trace_jobs(
    app: TrackedQueue,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    parent: TraceParent = "auto",
    create_spans: bool = True,
) -> None:
    """
    Trace an app's enqueues, deliveries and recoveries, as spans and as metrics of OpenTelemetry.

    Args:
        tracer_provider, meter_provider: Default: the global ones, also if they are set later.
        parent: `auto`: a first delivery within a minute of its enqueue belongs to the same trace, any other has a trace of
            its own, linked to it. `child`: all belong to the trace of the enqueue. `link`: none does.
        create_spans: Whether each job of a bulk enqueue has a span; without, they carry the context of the whole.

    Raises:
        UsageError: `parent` is none of these, or opentelemetry-api is not installed.
    """
    if parent not in ("auto", "child", "link"):
        raise UsageError(f"trace_jobs: parent={parent!r}: it must be 'auto', 'child' or 'link'")
    found = Tracer(tracer_provider, meter_provider, parent, create_spans, _server_of(app.settings.redis_url))
    producer_of(app).definitions.hooks.tracing = Guarded(found)


class Instrumentor:
    """For `opentelemetry-instrument`: apps that are made after it are traced, as by `trace_jobs` without arguments."""

    def instrument(self, **options: Any) -> None:
        """Trace all apps from now on; takes `tracer_provider` and `meter_provider`."""
        found = Tracer(options.get("tracer_provider"), options.get("meter_provider"), "auto", True, {})
        hooks.tracing_by_default = Guarded(found)

    def uninstrument(self, **_: Any) -> None:
        """Apps that are made from now on are not traced."""
        hooks.tracing_by_default = None


def _unnoted(_job_id: str) -> None:
    """The id of a job that has no span."""


def _soon(on_its_way: Enqueueing) -> bool:
    options = on_its_way.options
    if options.due_ms is not None:
        return options.due_ms - time.time() * 1000 <= SOON_MS
    return (options.delay_ms or 0) <= SOON_MS


def _context_of(headers: Mapping[str, Any]) -> SpanContext | None:
    """The span that headers name; None without one, and for what is no `traceparent`."""
    if not isinstance(headers.get("traceparent"), str):
        return None
    carrier = {name: value for name in ("traceparent", "tracestate") if isinstance(value := headers.get(name), str)}
    found = trace.get_current_span(_propagator.extract(carrier, context.Context())).get_span_context()
    return found if found.is_valid else None


def _server_of(url: str) -> dict[str, Any]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return {}
    if not host or parts.scheme not in ("redis", "rediss"):
        return {}
    return {"server.address": host, "server.port": port or 6379}
