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
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ..app import TrackedQueue
from ..errors import StoreUnavailableError, TrackedQueueError, UsageError
from ..reports.numbers import FleetNumbers
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


class _Quiet(WSGIRequestHandler):
    timeout = 30

    def log_message(self, *_: Any) -> None:
        pass


Answer = tuple[str, str, str]


class Exporter:
    """The HTTP server, in threads of its own; `port` is the one that it listens on."""

    def __init__(self, app: TrackedQueue, loop: asyncio.AbstractEventLoop, host: str, port: int) -> None:
        self._app, self._collector = app, FleetCollector(app, loop)
        registry = CollectorRegistry()
        registry.register(self._collector)
        self._metrics = make_wsgi_app(registry)
        self._server = make_server(host, port, self._answer, ThreadingWSGIServer, handler_class=_Quiet)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="tracked_queue-http", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            found: Iterable[bytes] = self._metrics(environ, start_response)
            return found
        pages: dict[str, Callable[[dict[str, list[str]]], Answer]] = {
            "/scale": self._scale,
            "/health": lambda _: ("200 OK", "text/plain", "ok\n"),
            "/health/full": self._health,
        }
        if path not in pages:
            status, kind, body = "404 Not Found", "text/plain", "there are /metrics, /scale, /health and /health/full\n"
        else:
            try:
                status, kind, body = pages[path](parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True))
            except (UsageError, ValueError) as error:
                status, kind, body = "400 Bad Request", "text/plain", f"{error}\n"
            except (TrackedQueueError, TimeoutError) as error:
                status, kind, body = "503 Service Unavailable", "text/plain", f"{error}\n"
        data = body.encode("utf-8", "replace")
        headers = [
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(data))),
            ("Cache-Control", "no-store"),
        ]
        start_response(status, headers)
        return [data]

    def _health(self, _: dict[str, list[str]]) -> Answer:
        try:
            self._collector.numbers()
        except StoreUnavailableError as error:
            return "503 Service Unavailable", "text/plain", f"{error}\n"
        return "200 OK", "text/plain", "ok\n"

    def _scale(self, query: dict[str, list[str]]) -> Answer:
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


def _number(query: dict[str, list[str]], name: str, default: float) -> float:
    text = query.get(name, [""])[-1]
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e9:
        raise UsageError(f"{name}={text!r}: it must be a number from 0")
    return value
