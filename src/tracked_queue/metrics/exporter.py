"""
One process for the whole fleet that answers Prometheus, autoscalers and probes over HTTP: `tracked-queue metrics`.

All who ask share one reading, which is at most CACHE_S old; Redis is asked only when somebody asks.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import json
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ..app import TrackedQueue
from ..errors import TrackedQueueError, UsageError
from ..reports.numbers import FleetNumbers
from ..worker.pages import WELL, Answer, HttpPages, Page, Query
from .families import Totals, families_of

CACHE_S = 5.0
# How long an answer may take; a scraper gives up after 10 s by default.
ANSWER_S = 4.0


class FleetCollector(Collector):
    """
    A collector of the whole fleet's numbers, for a registry of your own too.

    Args:
        app: Whose namespace it is.
        loop: The running event loop that reads; `collect` is called in other threads.
    """

    def __init__(self, app: TrackedQueue, loop: asyncio.AbstractEventLoop) -> None:
        self._app, self._loop = app, loop
        self._totals, self._errors = Totals(), 0
        self._lock = threading.Lock()
        self._read: tuple[float, FleetNumbers] | None = None

    def describe(self) -> Iterable[Metric]:
        """Nothing: a registry that asks must not read."""
        return ()

    def numbers(self) -> FleetNumbers:
        """A reading that is at most CACHE_S old. Raises TrackedQueueError, TimeoutError."""
        with self._lock:  # one reads for all who ask meanwhile
            if self._read is None or time.monotonic() - self._read[0] > CACHE_S:
                found = self.ask(self._app.operator.numbers())
                self._totals.add(found)
                self._read = time.monotonic(), found
            return self._read[1]

    def forget(self) -> None:
        """Read anew when somebody asks next, however young the last reading is."""
        self._read = None

    def ask(self, reading: Any) -> Any:
        """The result of a coroutine of the loop's. Raises what it raises, and TimeoutError after ANSWER_S."""
        future = asyncio.run_coroutine_threadsafe(reading, self._loop)
        try:
            return future.result(ANSWER_S)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise TimeoutError("Redis gave no answer in time") from None

    def collect(self) -> Iterator[Metric]:
        """All families; while Redis is away only that it is."""
        began = time.monotonic()
        up = 0
        try:
            numbers = self.numbers()
        except (TrackedQueueError, TimeoutError):
            self._errors += 1
        else:
            up = 1
            yield from families_of(numbers, self._totals)
        yield GaugeMetricFamily("tracked_queue_redis_up", "Whether Redis answered.", value=up)
        yield GaugeMetricFamily("tracked_queue_scrape_seconds", "How long this took.", value=time.monotonic() - began)
        yield CounterMetricFamily("tracked_queue_scrape_errors", "Readings that failed.", value=self._errors)


class Exporter(HttpPages):
    """
    The pages of a fleet.

    Args:
        loop: The running event loop, in which Redis is read.

    Raises:
        OSError: It can't listen there.
    """

    def __init__(self, app: TrackedQueue, loop: asyncio.AbstractEventLoop, host: str, port: int) -> None:
        self._app, self._collector = app, FleetCollector(app, loop)
        self._registry = CollectorRegistry()
        self._registry.register(self._collector)
        pages: dict[str, Page] = {
            "/metrics": self._metrics,
            "/scale": self._scale,
            "/health": lambda _: WELL,
            "/health/full": self._health,
        }
        super().__init__(host, port, pages)

    def _metrics(self, _: Query) -> Answer:
        return "200 OK", CONTENT_TYPE_LATEST, generate_latest(self._registry).decode()

    def _health(self, _: Query) -> Answer:
        self._collector.numbers()
        return WELL

    def _scale(self, query: Query) -> Answer:
        unknown = sorted(set(query) - {"queue", "horizon", "wait", "slots"})
        if unknown:
            raise UsageError(f"{unknown[0]!r}: /scale knows queue, horizon, wait and slots")
        scale = self._collector.ask(
            self._app.operator.scale(
                query.get("queue") or ["default"],
                horizon=_number(query, "horizon", 60.0),
                target_wait=_number(query, "wait", 60.0),
                slots=int(_number(query, "slots", 0.0)),
            )
        )
        return "200 OK", "application/json", json.dumps(dataclasses.asdict(scale)) + "\n"


def _number(query: Query, name: str, default: float) -> float:
    text = query.get(name, [""])[-1]
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e9:
        raise UsageError(f"{name}={text!r}: it must be a number from 0")
    return value
