"""`worker` and `demo`: the commands that run jobs."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import log
from ..app import TrackedQueue, connections_of, producer_of
from ..errors import NamespaceMismatchError, UsageError
from ..worker import log_setup
from ..worker.meter import Tally
from ..worker.pages import Page
from ..worker.queues import Queues, parse_most, parse_queues
from .common import NamespaceOption, UrlOption, cli, guarded, load_app, told


@cli.command()
@guarded
def worker(
    app: Annotated[str, typer.Argument(help="module:app, such as shop.jobs:app.")],
    queue: Annotated[
        list[str] | None,
        typer.Option("--queue", "-q", help="Repeat it in priority order, or give each a weight: critical=5."),
    ] = None,
    queue_concurrency: Annotated[list[str] | None, typer.Option(help="Most jobs of a queue at once: mail=10.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Jobs at the same time in one process.")] = None,
    processes: Annotated[int, typer.Option(help="Worker processes.")] = 1,
    burst: Annotated[bool, typer.Option("--burst", help="End when the queues are empty.")] = False,
    reload: Annotated[
        bool, typer.Option("--reload", help="Restart when a .py file below the current folder changes.")
    ] = False,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
    instance_id: Annotated[str | None, typer.Option(help="Label of this worker: the pod's name.")] = None,
    heartbeat_interval: Annotated[float | None, typer.Option(help="Seconds between idle beats.")] = None,
    heartbeat_ttl: Annotated[float | None, typer.Option(help="Seconds until a silent instance is lost.")] = None,
    recovery_interval: Annotated[float | None, typer.Option(help="Seconds between looks for lost instances.")] = None,
    auto_recovery: Annotated[bool | None, typer.Option(help="Recover lost instances' jobs by itself.")] = None,
    max_recoveries: Annotated[int | None, typer.Option(help="Charges until a job is dead.")] = None,
    grace: Annotated[float | None, typer.Option(help="Seconds for running jobs after SIGTERM.")] = None,
    cancel_grace: Annotated[float | None, typer.Option(help="Seconds for a cancelled job to end.")] = None,
    stall_limit: Annotated[float | None, typer.Option(help="Seconds of a blocked loop until giving up.")] = None,
    http_port: Annotated[int | None, typer.Option(help="Port for /live, /ready, /started, /metrics; 0: none.")] = None,
    log_format: Annotated[str, typer.Option(help="auto, console or json.")] = "auto",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    supervised: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run jobs: a supervisor and its worker processes, until SIGTERM."""
    if sys.platform == "win32":
        raise UsageError(
            "the worker needs a Unix system (process groups, signals): run it in WSL or a container; enqueueing works here"
        )
    _one_of("log_format", log_format, log_setup.STYLES)
    _one_of("log_level", log_level, tuple(log_setup.LEVELS))
    log_setup.set_up(log_format, log_level, everything=True)
    if processes < 1:
        raise UsageError(f"processes={processes}: it must be 1 or more")
    options = {
        "concurrency": concurrency,
        "redis_url": redis_url,
        "namespace": namespace,
        "instance_id": instance_id,
        "heartbeat_interval": heartbeat_interval,
        "heartbeat_ttl": heartbeat_ttl,
        "recovery_interval": recovery_interval,
        "auto_recovery": auto_recovery,
        "max_recoveries": max_recoveries,
        "grace": grace,
        "cancel_grace": cancel_grace,
        "stall_limit": stall_limit,
        "http_port": http_port,
    }
    from ..worker.lineage import leave

    if supervised is not None:
        leave(_run_child(app, options, parse_queues(queue), parse_most(queue_concurrency), burst, supervised))
    served = parse_queues(queue), parse_most(queue_concurrency)
    if reload and importlib.util.find_spec("watchfiles") is None:
        raise UsageError("--reload needs watchfiles: pip install 'tracked-queue[reload]'")
    leave(_supervise(app, options, served, processes, burst, reload))


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name}={value!r}: it must be one of {', '.join(allowed)}")


def _run_child(
    path: str, options: dict[str, Any], queues: Queues | None, most: dict[str, int], burst: bool, pipe_ends: str
) -> int:
    from ..worker.exits import MISMATCH_EXIT, RECYCLED_EXIT
    from ..worker.instance import Instance
    from ..worker.pipes import SupervisorPipe

    pipe = SupervisorPipe(pipe_ends)

    async def work(app: TrackedQueue) -> int:
        producer = producer_of(app)
        instance = Instance(
            producer,
            app.settings,
            await producer.connections.endpoint_async(),
            queues=queues,
            queue_concurrency=most,
            burst=burst,
            announce=pipe.announce,
            ready=pipe.ready,
            ending=pipe.ending,
            began=pipe.began,
            sign=pipe.sign,
            numbers=pipe.numbers,
            mode=pipe.mode,
            suspects=pipe.suspects,
            program=os.getppid(),
        )
        pipe.watch(
            lambda: instance.stop.ask("the supervisor is gone"),
            instance.told_to_stop,
            lambda: instance.stop.ask("at once"),
        )
        _spare_the_collector()
        code = await instance.run()
        return RECYCLED_EXIT if code == 0 and instance.recycled else code

    try:
        app = load_app(path)
        app.configure(**options)
        return _run_loop(lambda: work(app))
    except Exception as error:
        code = told(error)
        return MISMATCH_EXIT if isinstance(error, NamespaceMismatchError) else code
    finally:
        pipe.ending()  # after a burst or an error: the supervisor allows as much time as for a stop


def _spare_the_collector() -> None:
    """
    Exclude what is loaded by now from garbage collection: modules and tasks live as long as the process, and each full
    collection would visit all of them, which holds up every job (by 35 ms in a small application) and took a fifth of a
    busy worker's time.
    """
    gc.collect()
    gc.freeze()


class _Stopped(KeyboardInterrupt):
    """A signal to stop came while the application was being loaded."""


def _supervise(
    path: str,
    options: dict[str, Any],
    served: tuple[Queues | None, dict[str, int]],
    processes: int,
    burst: bool,
    reload: bool,
) -> int:
    from ..worker import signals
    from ..worker.lineage import interpreter_options
    from ..worker.queues import Served
    from ..worker.recovery import Witness
    from ..worker.supervisor import Supervisor

    loading = True
    early: list[str] = []

    def note(name: str) -> None:
        # As the first process of a container this one would not hear of a signal that it has no handler for.
        early.append(name)
        if loading and name != "SIGUSR1":
            raise _Stopped

    async def work(app: TrackedQueue) -> int:
        Served(app.tasks, *served)
        app.tasks.check()
        connections = connections_of(app)
        command = [sys.executable, *interpreter_options(), "-m", "tracked_queue", *sys.argv[1:]]
        supervisor = Supervisor(
            command,
            processes,
            app.settings,
            await connections.endpoint_async(),
            connections.shards,
            burst=burst,
            witness=Witness(producer_of(app).definitions.hooks.tracing, connections.cipher.open),
            metrics=_metrics_page,
            changes=_source_changes() if reload else None,
        )
        try:
            return await supervisor.run(early)
        finally:
            await app.aclose()

    with signals.listening({**signals.stopping(note), signals.QUIET: note}):
        try:
            # The supervisor imports the app as well: a mistake in it ends everything at once, with one line, and it needs
            # the settings that the app was made with. It runs no job.
            app = load_app(path)
            app.configure(**options)
            loading = False
            return asyncio.run(work(app))
        except _Stopped:
            log.signal_received(name=early[0], meaning="stopping; the application was still being loaded")
            return 0
        except Exception as error:
            return told(error)


def _metrics_page(tally: Tally) -> Page:
    """The page `/metrics`; without the extra one that says what it needs."""
    if importlib.util.find_spec("prometheus_client") is None:
        answer = "501 Not Implemented", "text/plain; charset=utf-8", "it needs: pip install 'tracked-queue[metrics]'\n"
        return lambda _: answer
    from ..metrics.worker import page_of

    return page_of(tally.read)


async def _source_changes() -> AsyncIterator[str]:
    """Names of Python files below the current folder, each time some have changed."""
    from watchfiles import PythonFilter, awatch

    async for changes in awatch(".", watch_filter=PythonFilter(), raise_interrupt=False):
        yield ", ".join(sorted({os.path.relpath(path) for _, path in changes}))


def _run_loop(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """
    Run the work to its end, whatever other tasks of the loop raise.

    asyncio lets a SystemExit or KeyboardInterrupt in any task, such as one that a job made, break out of the whole
    loop; here it ends only that task, and the others go on. The loop is not closed: that would wait for the threads of
    its executor, and the process ends now.
    """
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):  # there is none for some systems
        import uvloop

        factory = uvloop.new_event_loop
    loop = asyncio.Runner(loop_factory=factory).get_loop()
    task = loop.create_task(work())
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            if task.done():
                raise
            log.exit_ignored(error=f"{type(error).__qualname__}: {error}")


@cli.command()
@guarded
def demo(
    folder: Annotated[Path | None, typer.Argument(help="Default: the Python standard library's folder.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most this many files.")] = None,
    incidents: Annotated[
        bool, typer.Option("--incidents", help="Six incidents in place of the files, and what is said about each.")
    ] = False,
    dashboard: Annotated[
        bool,
        typer.Option("--dashboard", help="A small shop with its troubles in place of the files, in the dashboard."),
    ] = False,
    port: Annotated[
        int | None, typer.Option(help="With --dashboard: where it listens. Default: any free port.")
    ] = None,
) -> None:
    """Hash every file below FOLDER in jobs, kill a worker midway, and prove that nothing was lost."""
    if (incidents or dashboard) and (folder is not None or limit is not None or (incidents and dashboard)):
        raise UsageError("--incidents and --dashboard take no folder and no --limit, and do not go together")
    if dashboard:
        from .showcase import run_showcase

        raise typer.Exit(run_showcase(port))
    if port is not None:
        raise UsageError("--port goes with --dashboard")
    if incidents:
        from .incidents import run_incidents

        raise typer.Exit(run_incidents())
    from .demo import run_demo

    raise typer.Exit(run_demo(folder, limit))
