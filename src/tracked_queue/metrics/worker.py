"""
A worker's own numbers for Prometheus: of all processes of a supervisor on its port, or of this process in a registry of yours.

Source: docs/reference/metrics.md.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from .. import __version__
from ..protocol.times import MOST_QUEUES, MOST_TASKS, OTHER, RUN_EDGES, WAIT_EDGES
from ..worker.meter import LAG_EDGES, METER, STORE_EDGES, Gauges, Key
from ..worker.pages import Page

Reading = Callable[[], tuple[Mapping[Key, float], Gauges]]
_PREFIX = "tracked_queue_"
# Name, text, labels.
_COUNTERS = (
    ("runs", "Runs by their outcome.", ("task", "queue", "outcome")),
    ("errors", "What runs raised, by class.", ("task", "error")),
    ("store_retries", "Calls to Redis that failed and were sent again.", ()),
    ("store_outage_seconds", "For how long Redis was away.", ()),
    ("fenced", "Outcomes that came too late: the job had been given to another delivery.", ()),
    ("leases_lost", "Leases that were lost.", ()),
    ("strays", "Jobs that Redis said were here and were not.", ()),
    ("cancellations_ignored", "Jobs that did not end when they were cancelled.", ()),
    ("outbox_refused", "Rows of the outbox that can't be enqueued.", ()),
    ("outbox_paused_seconds", "For how long relays of the outbox could not pass rows on.", ()),
    ("process_ends", "Worker processes that have ended.", ("why",)),
)
_WHY = ("stopped", "recycled", "died", "killed", "given_up")
# Name, text, the label and how many of its values are shown, upper edges.
_HISTOGRAMS = (
    ("run_seconds", "How long runs took.", ("task",), RUN_EDGES, MOST_TASKS),
    ("wait_seconds", "How long jobs waited from being due until their start.", ("queue",), WAIT_EDGES, MOST_QUEUES),
    ("store_seconds", "How long calls to Redis took.", ("call",), STORE_EDGES, 10),
    ("loop_lag_seconds", "How long the event loop took to answer.", (), LAG_EDGES, 1),
    ("outbox_seconds", "How old rows of the outbox were when they were passed on.", (), WAIT_EDGES, 1),
)
_GAUGES = (
    ("running", "Jobs that run."),
    ("buffered", "Jobs that wait here for a place."),
    ("slots", "Places."),
    ("threads_busy", "Threads that run a job."),
    ("children_busy", "Child processes that run an isolated job."),
    ("outcomes_pending", "Outcomes that Redis does not have yet."),
    ("lease_margin_seconds", "The smallest time that a lease had left at a beat since the last scrape."),
)


class WorkerCollector(Collector):
    """
    The numbers of the workers in this process, for a registry of your own: `registry.register(WorkerCollector())`.

    For programs that call `app.run_worker()` and serve their metrics themselves.
    """

    def __init__(self, read: Reading = METER.read) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is depends on what has run."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families; those without labels are 0 and not absent."""
        counts, gauges = self._read()
        for name, text, labels in _COUNTERS:
            counter = CounterMetricFamily(_PREFIX + name, text, labels=labels)
            found = {key[1:]: value for key, value in counts.items() if key[0] == name}
            if name == "process_ends":
                found = {(why,): found.get((why,), 0.0) for why in _WHY}
            for values, value in sorted((found or ({} if labels else {(): 0.0})).items()):
                counter.add_metric(values, value)
            yield counter
        for name, text, labels, edges, most in _HISTOGRAMS:
            yield _histogram(name, text, labels, edges, most, counts)
        for name, text in _GAUGES:
            if name in gauges or name != "lease_margin_seconds":
                yield GaugeMetricFamily(_PREFIX + name, text, value=gauges.get(name, 0.0))
        info = GaugeMetricFamily(_PREFIX + "info", "This worker.", labels=("version", "python"))
        info.add_metric((__version__, platform.python_version()), 1)
        yield info


def _histogram(
    name: str, text: str, labels: Sequence[str], edges: Sequence[float], most: int, counts: Mapping[Key, float]
) -> Metric:
    family = HistogramMetricFamily(_PREFIX + name, text, labels=labels)
    series: dict[tuple[str, ...], list[float]] = {} if labels else {(): [0.0] * (len(edges) + 1)}
    for key, count in sorted(counts.items()):
        if key[0] != name or not key[-1].isdecimal() or int(key[-1]) > len(edges):
            continue
        values = key[1:-1]
        if values not in series and len(series) >= most:
            values = (OTHER,)
        series.setdefault(values, [0.0] * (len(edges) + 1))[int(key[-1])] += count
    for values, buckets in series.items():
        total, shown = 0.0, list[tuple[str, float]]()
        for edge, count in zip((*map(str, edges), "+Inf"), buckets, strict=True):
            total += count
            shown.append((edge, total))
        family.add_metric(values, shown, sum_value=None)
    return family


def page_of(read: Reading) -> Page:
    """The page `/metrics` of these numbers."""
    registry = CollectorRegistry()
    registry.register(WorkerCollector(read))
    return lambda _: ("200 OK", CONTENT_TYPE_LATEST, generate_latest(registry).decode())
