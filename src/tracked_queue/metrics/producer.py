"""A producer's own numbers for Prometheus, in a registry of yours: `registry.register(ProducerCollector(app))`."""

from __future__ import annotations

import contextlib
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ..app import TrackedQueue
from ..model.codec import encode_any
from ..model.hooks import Enqueueing
from ..worker.meter import MAX_CLASS_NAME, MOST_ERRORS, STORE_EDGES

_OTHER = "_other"
SIZE_EDGES = (100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)


class ProducerCollector(Collector):
    """
    How long an app's single enqueues take from their call to their answer, and what they fail with; jobs of `enqueue_many` are
    only checked within this time. It puts a middleware around every enqueue.
    """

    def __init__(self, app: TrackedQueue) -> None:
        self._lock, self._tasks = threading.Lock(), app.tasks
        self._times: Counter[tuple[str, int]] = Counter()
        self._sums: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._sizes: Counter[int] = Counter()
        self._size_sum = 0
        app.enqueue_middleware(self._measure)

    async def _measure(self, on_its_way: Enqueueing, call_next: Any) -> Any:
        with contextlib.suppress(Exception):  # what can't be encoded is refused below
            size = self._size_of(on_its_way)
            with self._lock:
                self._sizes[bisect_left(SIZE_EDGES, size)] += 1
                self._size_sum += size
        began, outcome = time.perf_counter(), "failed"
        try:
            job = await call_next()
            outcome = "created" if job.created else "existed"
        except Exception as error:
            name = type(error).__qualname__[:MAX_CLASS_NAME]
            with self._lock:
                self._errors[name if name in self._errors or len(self._errors) < MOST_ERRORS else _OTHER] += 1
            raise
        finally:
            took = time.perf_counter() - began
            with self._lock:
                self._times[outcome, bisect_left(STORE_EDGES, took)] += 1
                self._sums[outcome] += took  # type: ignore[assignment]
        return job

    def _size_of(self, on_its_way: Enqueueing) -> int:
        # Encoded once more: what is sent is not to be had here, and who asks for sizes pays a microsecond for them.
        task = self._tasks.get(on_its_way.task)
        if task is None:
            return len(encode_any([list(on_its_way.args), on_its_way.kwargs]))
        given = 1 if on_its_way.options.inputs else 0
        return sum(map(len, task.signature.encode(on_its_way.args, on_its_way.kwargs, 2**62, given)))

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is depends on what was enqueued."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Both families."""
        with self._lock:
            times, sums, errors = dict(self._times), dict(self._sums), dict(self._errors)
            bytes_, size_sum = dict(self._sizes), self._size_sum
        family = HistogramMetricFamily("tracked_queue_enqueue_seconds", "How long enqueues took.", labels=("outcome",))
        for outcome in sorted(sums):
            total, shown = 0, list[tuple[str, float]]()
            for bucket, edge in enumerate((*map(str, STORE_EDGES), "+Inf")):
                total += times.get((outcome, bucket), 0)
                shown.append((edge, total))
            family.add_metric((outcome,), shown, sum_value=sums[outcome])
        yield family
        counter = CounterMetricFamily("tracked_queue_enqueue_errors", "What enqueues failed with.", labels=("error",))
        for name, count in sorted(errors.items()):
            counter.add_metric((name,), count)
        yield counter
        sizes = HistogramMetricFamily("tracked_queue_payload_bytes", "Encoded arguments of a job.")
        total, shown = 0, list[tuple[str, float]]()
        for bucket, edge in enumerate((*map(str, SIZE_EDGES), "+Inf")):
            total += bytes_.get(bucket, 0)
            shown.append((edge, total))
        sizes.add_metric((), shown, sum_value=size_sum)
        yield sizes
