"""What docs/reference/metrics.md promises: the exporter over HTTP."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.harness import wait_until
from tracked_queue import Concurrency, TrackedQueue, UsageError
from tracked_queue.app import connections_of
from tracked_queue.chaos.proxy import Proxy
from tracked_queue.chaos.server import RedisServer
from tracked_queue.metrics import exporter as exporting
from tracked_queue.metrics.exporter import Exporter
from tracked_queue.metrics.families import Totals
from tracked_queue.metrics.producer import ProducerCollector
from tracked_queue.metrics.worker import WorkerCollector
from tracked_queue.protocol.times import MOST_QUEUES
from tracked_queue.reports.numbers import read_numbers

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "metrics.md"
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Scraper:
    """An exporter of an app in this loop, asked over HTTP."""

    def __init__(self, app: TrackedQueue) -> None:
        self._exporter = Exporter(app, asyncio.get_running_loop(), "127.0.0.1", 0)

    async def __aenter__(self) -> Scraper:
        self._exporter.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._exporter.close)

    async def get(self, path: str) -> tuple[int, str]:
        def ask() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._exporter.port}{path}", timeout=20) as found:
                    return found.status, found.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()

        return await asyncio.to_thread(ask)

    async def series(self) -> Series:
        status, text = await self.get("/metrics")
        assert status == 200
        found: Series = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name.removeprefix("tracked_queue_"), tuple(sorted(sample.labels.items()))] = sample.value
        return found


def at(series: Series, name: str, **labels: str) -> float:
    return series[name, tuple(sorted(labels.items()))]


async def test_the_fleet_in_numbers(app: TrackedQueue, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(exporting, "CACHE_S", 0.0)

    @app.task(name="add", queue="sums", limit=Concurrency(3, name="adders"))
    async def add(a: int, b: int) -> int:
        return a + b

    @app.task(name="fails", max_attempts=1)
    async def fails() -> None:
        raise ValueError

    async with app, Scraper(app) as scraper:
        before = await scraper.series()
        assert at(before, "redis_up") == 1 and at(before, "dead_jobs") == 0, "0, and not absent"
        for n in range(5):
            await add.enqueue(n, n)
        await fails.enqueue()
        await add.options(delay=60).enqueue(1, 1)
        waits = await scraper.series()
        assert sum(at(waits, "queue_jobs", queue="sums", kind=kind) for kind in ("ready", "limited", "suspect")) == 5
        assert at(waits, "scheduled_jobs") == 1 and at(waits, "instances", status="live") == 0
        await app.run_worker(burst=True, handle_signals=False)
        after = await scraper.series()
        assert at(after, "events_total", queue="sums", event="succeeded") == 5
        assert at(after, "dead_jobs") == 1 and at(after, "queue_jobs", queue="sums", kind="ready") == 0
        assert at(after, "fleet_run_seconds_bucket", task="add", le="+Inf") == 5
        assert at(after, "fleet_wait_seconds_bucket", queue="sums", le="+Inf") == 5
        assert at(after, "limit_capacity", limit="adders") == 3 and at(after, "limit_in_use", limit="adders") == 0
        again = await scraper.series()
        grown = {key for key, value in again.items() if key[0].endswith(("_total", "_bucket")) and value != after[key]}
        assert not grown, "what was counted is not counted again"


async def test_the_page_lists_every_family_and_no_label_is_one_of_prometheus(app: TrackedQueue) -> None:
    @app.every(3600, name="hourly")
    @app.task(name="t", limit=Concurrency(3, name="some"))
    async def t() -> None: ...

    async with app, Scraper(app) as scraper:
        await t.enqueue()
        await app.run_worker(burst=True, handle_signals=False)
        _, text = await scraper.get("/metrics")
        names = set(re.findall(r"^# TYPE (\S+) (?!unknown)", text, re.M))
        listed = set(
            re.findall(r"^\| `(tracked_queue_\w+)` \|", PAGE.read_text().partition("## A worker's own")[0], re.M)
        )
        assert names == listed
        labels = set(re.findall(r"[{,](\w+)=", text))
        assert not labels & {"job", "instance", "namespace", "pod", "service", "endpoint", "container"}


async def test_a_redis_that_is_away_is_a_number_and_no_error(server: RedisServer, namespace: str) -> None:
    async with (
        Proxy(server.port) as proxy,
        TrackedQueue(proxy.url, namespace=namespace, reply_timeout=0.5) as app,
        Scraper(app) as scraper,
    ):
        assert (await scraper.get("/health/full"))[0] == 200
        await proxy.down()
        exporter_says = await scraper.get("/health")
        assert exporter_says == (200, "ok\n"), "it is well itself"

        async def down() -> bool:
            return (await scraper.get("/health/full"))[0] == 503

        await wait_until(down, timeout=30, what="the cache to run out")
        series = await scraper.series()
        assert at(series, "redis_up") == 0 and at(series, "scrape_errors_total") >= 1
        await proxy.up()


async def test_scale_answers_an_autoscaler(app: TrackedQueue) -> None:
    async with app, Scraper(app) as scraper:
        for _ in range(5):
            await app.enqueue("t")
        await app.options(delay=30).enqueue("t")
        await app.options(delay=3000).enqueue("t")
        status, text = await scraper.get("/scale?queue=default&queue=other&slots=2")
        found = json.loads(text)
        assert status == 200 and (found["ready"], found["due"], found["work"]) == (5, 1, 6)
        assert found["replicas"] == 4
        for wrong in ("/scale?slots=x", "/scale?que=a", "/scale?queue=", "/scale?wait=-1"):
            status, text = await scraper.get(wrong)
            assert status == 400 and text.count("\n") == 1, (wrong, text)
        assert (await scraper.get("/nothing"))[0] == 404


async def test_a_second_reader_shares_the_reading(app: TrackedQueue) -> None:
    async with app, Scraper(app) as scraper:
        await scraper.series()

        async def commands() -> int:
            (info,) = await connections_of(app).store.read(("INFO", "stats"))
            return int(re.search(rb"total_commands_processed:(\d+)", info)[1])  # type: ignore[index]

        before = await commands()
        await asyncio.gather(*(scraper.series() for _ in range(10)))
        assert await commands() - before < 10


async def test_many_queues_have_series_up_to_a_number(app: TrackedQueue) -> None:
    async with app, Scraper(app) as scraper:
        calls = [app.options(queue=f"q{n}") for n in range(MOST_QUEUES + 7)]
        await asyncio.gather(*(one.enqueue("t") for one in calls))
        series = await scraper.series()
        assert sum(name == "queue_oldest_job_age_seconds" for name, _ in series) == MOST_QUEUES
        assert at(series, "queues_left_out") == 7


async def test_counters_only_grow_and_begin_with_the_exporter(app: TrackedQueue) -> None:
    async with app:
        await app.enqueue("t")
        totals = Totals()
        for _ in range(2):
            totals.add(await read_numbers(connections_of(app).stores))
            assert totals.events["enqueued", "default"] == 0, "what was before is not its own"
        await app.enqueue("t")
        totals.add(await read_numbers(connections_of(app).stores))
        assert totals.events["enqueued", "default"] == 1


async def test_the_page_lists_the_families_of_workers_and_producers(app: TrackedQueue) -> None:
    @app.task(name="t", max_attempts=1)
    async def t(wrong: bool) -> None:
        if wrong:
            raise ValueError("no")

    registry = CollectorRegistry()
    registry.register(WorkerCollector())
    registry.register(ProducerCollector(app))
    async with app:
        await t.enqueue(False)
        await t.enqueue(True)
        with pytest.raises(UsageError):
            await t.enqueue("no truth value")  # type: ignore[arg-type]
        await app.run_worker(burst=True, handle_signals=False)
    text = generate_latest(registry).decode()
    names = set(re.findall(r"^# TYPE (\S+) (?!unknown)", text, re.M))
    listed = set(re.findall(r"^\| `(tracked_queue_\w+)` \|", PAGE.read_text().partition("## A worker's own")[2], re.M))
    assert names == listed
    assert not set(re.findall(r"[{,](\w+)=", text)) & {
        "job",
        "instance",
        "namespace",
        "pod",
        "service",
        "endpoint",
        "container",
    }
    for series in (
        'tracked_queue_runs_total{outcome="succeeded",queue="default",task="t"}',
        'tracked_queue_runs_total{outcome="dead",queue="default",task="t"}',
        'tracked_queue_errors_total{error="ValueError",task="t"}',
        'tracked_queue_enqueue_errors_total{error="ArgumentError"}',
        'tracked_queue_enqueue_seconds_count{outcome="created"}',
    ):
        assert series in text


async def test_what_operators_do_is_counted_once(app: TrackedQueue) -> None:
    totals = Totals()
    async with app:
        await app.operator.pause(queue="a")
        totals.add(await app.operator.numbers())
        assert not totals.acts, "what was before the first look is no growth"
        await asyncio.gather(*(app.operator.pause(queue=f"q{n}") for n in range(5)), app.operator.resume(queue="a"))
        totals.add(await app.operator.numbers())
        totals.add(await app.operator.numbers())
        assert totals.acts == {"pause": 5, "resume": 1}
        await app.operator.pause(queue="b")
        totals.add(await app.operator.numbers())
        assert totals.acts["pause"] == 6
