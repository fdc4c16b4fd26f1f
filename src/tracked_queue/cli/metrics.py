"""`metrics` and `scale`: the fleet's numbers for Prometheus and autoscalers."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Annotated

import typer

from ..app import connections_of
from ..errors import StoreUnavailableError, UsageError
from ..operator.explanation import seconds as seconds_text
from ..worker import log_setup
from ..worker.exits import FAILED_EXIT
from .common import JsonOption, Where, cli, fail, guarded, print_json, run, say, seconds

# How often the exporter asks for the number of shards, while there is no fleet yet or Redis is away.
AGAIN_S = 5.0


@cli.command()
@guarded
def metrics(
    *,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Names and numbers are shown, no arguments.")
    ] = "0.0.0.0",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 9380,
    where: Where,
) -> None:
    """Answer Prometheus (/metrics), autoscalers (/scale) and probes (/health, /health/full) for the whole fleet."""
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port}: it must be from 0 to 65535")
    log_setup.set_up()
    try:
        from ..metrics.exporter import Exporter
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise UsageError("metrics needs prometheus-client: pip install 'tracked-queue[metrics]'") from None

    async def find_shards() -> bool:
        with contextlib.suppress(StoreUnavailableError):
            return await connections_of(where.app).find_shards()
        return False

    async def look_for_shards() -> None:
        while True:
            await asyncio.sleep(AGAIN_S)
            if await find_shards():
                return

    async def serve() -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        looking: asyncio.Task[None] | None = None
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, ended.set)
        if not await find_shards():
            looking = asyncio.create_task(look_for_shards())  # until there is a fleet, or Redis
            looking.add_done_callback(lambda done: ended.set() if not done.cancelled() and done.exception() else None)
        async with where.app as app:
            try:
                exporter = Exporter(app, loop, host, port)
            except OSError as error:
                raise fail(f"--port {port}: {error.strerror or error}", FAILED_EXIT) from None
            exporter.start()
            say(f"listens on {host}:{exporter.port}")
            try:
                await ended.wait()
            finally:
                await asyncio.to_thread(exporter.close)
        if looking is not None and looking.done():
            looking.result()

    asyncio.run(serve())


@cli.command()
@guarded
def scale(
    *,
    queue: Annotated[list[str] | None, typer.Option("--queue", "-q", help="Repeat it for several.")] = None,
    horizon: Annotated[str, typer.Option(help="What is due within this time counts as work.")] = "60s",
    wait: Annotated[str, typer.Option(help="The backlog should be gone within this time.")] = "60s",
    slots: Annotated[int, typer.Option(help="Places of one worker; 0: as those that are there have.")] = 0,
    where: Where,
    as_json: JsonOption = False,
) -> None:
    """How much work there is for queues, and how many workers it wants: for autoscalers."""
    horizon_s, wait_s, queues = seconds(horizon), seconds(wait), queue or ["default"]
    found = run(
        where.app,
        lambda app: app.operator.scale(queues, horizon=horizon_s, target_wait=wait_s, slots=slots),
    )
    if as_json:
        print_json(found)
        return
    print(
        f"work      {found.work}  ({found.ready} ready, {found.due} due soon, {found.active} active, {found.recoverable} lost)"
    )
    print(f"workers   {found.workers}  ({found.busy} of {found.slots} places taken)")
    drain = "" if found.drain_s is None else f", gone in {seconds_text(found.drain_s)}"
    print(f"oldest    {seconds_text(found.oldest_s)}  ({found.rate * 60:.0f} a minute leave{drain})")
    print(f"replicas  {found.replicas}")
