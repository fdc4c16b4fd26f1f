"""Tracing across real processes, with nothing but `opentelemetry-instrument`; and FastAPI's own instrumentation beside it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.harness import running_worker, wait_for
from tests.process.worker import environment
from tracked_queue import TrackedQueue
from tracked_queue.chaos.server import RedisServer
from tracked_queue.tracing import trace_jobs

CONSOLE = {
    "OTEL_TRACES_EXPORTER": "console",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    "OTEL_BSP_SCHEDULE_DELAY": "100",
}


def spans(text: str) -> list[dict[str, Any]]:
    """What the console exporter has printed so far."""
    decoder, found, at = json.JSONDecoder(), list[dict[str, Any]](), 0
    while (at := text.find('{\n    "name"', at)) >= 0:
        try:
            span, at = decoder.raw_decode(text, at)
        except ValueError:
            break
        found.append(span)
    return found


def test_a_worker_is_traced_by_the_command_alone(server: RedisServer, namespace: str, tmp_path: Path) -> None:
    out, log = tmp_path / "spans", tmp_path / "log"
    command = [
        str(Path(sys.executable).parent / "opentelemetry-instrument"),
        sys.executable, "-m", "tracked_queue", "worker", "tests.process.jobs:app", "--processes", "2", "--log-format", "json",
    ]  # fmt: skip
    with out.open("wb") as stdout, log.open("wb") as stderr:
        worker = subprocess.Popen(
            command, env=environment(server.url, namespace, **CONSOLE), stdout=stdout, stderr=stderr
        )
    producer = f"""
from tracked_queue import TrackedQueue
app = TrackedQueue({server.url!r}, namespace={namespace!r})
app.enqueue_sync("sleep", 0.01)
app.close()
"""
    try:
        wait_for(lambda: log.read_text().count("instance.registered") == 2, 40, "both processes")
        done = subprocess.run(
            [command[0], sys.executable, "-c", producer],
            env=environment(server.url, namespace, **CONSOLE), capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        (sent,) = [span for span in spans(done.stdout) if span["name"] == "send default"]
        (run,) = wait_for(
            lambda: [span for span in spans(out.read_text()) if span["name"] == "process default"], 20, "its span"
        )
        assert (
            run["context"]["trace_id"] == sent["context"]["trace_id"] and run["parent_id"] == sent["context"]["span_id"]
        )
        assert run["attributes"]["messaging.tracked_queue.task"] == "sleep"
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(40) == 0
    assert "Traceback" not in log.read_text()


async def test_a_request_its_enqueue_and_its_job_are_one_trace(server: RedisServer, namespace: str) -> None:
    from fastapi import FastAPI
    from httpx import ASGITransport, AsyncClient

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with TrackedQueue(server.url, namespace=namespace) as app:
        trace_jobs(app, tracer_provider=provider)

        @app.task(name="mail")
        async def mail(to: str) -> str:
            return to

        web = FastAPI()

        @web.get("/mail/{to}")
        async def send(to: str) -> str:
            return (await mail.enqueue(to)).id

        FastAPIInstrumentor.instrument_app(web, tracer_provider=provider)
        async with AsyncClient(transport=ASGITransport(web), base_url="http://test") as client:
            job_id = (await client.get("/mail/ann")).json()
        async with running_worker(app):
            assert await app.job(job_id).result(10) == "ann"
    found = {span.name: span for span in exporter.get_finished_spans()}
    contexts = [found[name].context for name in ("GET /mail/{to}", "send default", "process default")]
    assert len({context.trace_id for context in contexts if context}) == 1
    assert contexts[0] and found["send default"].parent
    assert found["send default"].parent.span_id == contexts[0].span_id
    provider.shutdown()
