"""`worker` and `demo`: the commands that run jobs."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import importlib.util
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from ..worker.served import Queues, Served, parse_most, parse_queues
from .common import (
    NamespaceOption,
    UrlOption,
    cli,
    guarded,
    load_app,
    setup_logging,
)


@cli.command()
@guarded
def worker(
    app: Annotated[str, typer.Argument(help="module:app, such as shop.jobs:app.")],
    queue: Annotated[
        list[str] | None,
        typer.Option("--queue", "-q", help="In priority order; repeat it. All with weights: critical=5."),
    ] = None,
    queue_concurrency: Annotated[list[str] | None, typer.Option(help="Most jobs of a queue here: mail=10.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Jobs at the same time in one process.")] = None,
    processes: Annotated[int, typer.Option(help="Worker processes.")] = 1,
    burst: Annotated[bool, typer.Option("--burst", help="End when the queues are empty.")] = False,
    reload: Annotated[
        bool, typer.Option("--reload", help="Start anew when a .py file below the folder changes.")
    ] = False,
    redis_url: UrlOption = None,
    namespace: NamespaceOption = None,
    instance_id: Annotated[str | None, typer.Option(help="Label of this worker: the pod's name.")] = None,
    heartbeat_interval: Annotated[float | None, typer.Option(help="Seconds between idle beats.")] = None,
    heartbeat_ttl: Annotated[float | None, typer.Option(help="Seconds until a silent instance is lost.")] = None,
    recovery_interval: Annotated[float | None, typer.Option(help="Seconds between looks for lost ones.")] = None,
    auto_recovery: Annotated[bool | None, typer.Option(help="Recover lost instances' jobs by itself.")] = None,
    max_recoveries: Annotated[int | None, typer.Option(help="Charges until a job is dead.")] = None,
    grace: Annotated[float | None, typer.Option(help="Seconds for running jobs after SIGTERM.")] = None,
    cancel_grace: Annotated[float | None, typer.Option(help="Seconds for a cancelled job to end.")] = None,
    stall_limit: Annotated[float | None, typer.Option(help="Seconds of a blocked loop until giving up.")] = None,
    log_format: Annotated[str, typer.Option(help="auto, console or json.")] = "auto",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    supervised: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run jobs: a supervisor and its worker processes, until SIGTERM."""
    _one_of("log_format", log_format, ("auto", "console", "json"))
    _one_of("log_level", log_level, ("debug", "info", "warning", "error"))
    setup_logging(log_format, log_level)
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
    }
    if supervised is not None:
        raise typer.Exit(
            _run_child(app, options, parse_queues(queue), parse_most(queue_concurrency), burst, supervised)
        )
    served = parse_queues(queue), parse_most(queue_concurrency)
    if reload and importlib.util.find_spec("watchfiles") is None:
        raise UsageError("--reload needs watchfiles: pip install 'tracked-queue[reload]'")
    raise typer.Exit(_supervise(app, options, served, processes, burst, reload))


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name}={value!r}: it must be one of {', '.join(allowed)}")


def _run_child(
    path: str, options: dict[str, Any], queues: Queues | None, most: dict[str, int], burst: bool, pipe_ends: str
) -> int:
    from ..worker.instance import Instance
    from ..worker.supervisor import RECYCLED_EXIT, SupervisorPipe

    pipe = SupervisorPipe(pipe_ends)
    app = load_app(path)
    app.configure(**options)

    async def work() -> int:
        endpoint = await asyncio.to_thread(app.endpoint)

        instance = Instance(
            app,
            app.settings,
            endpoint,
            queues=queues,
            queue_concurrency=most,
            burst=burst,
            announce=pipe.announce,
            ready=pipe.ready,
            program=os.getppid(),
        )
        pipe.watch(lambda: instance.stop.ask("the supervisor is gone"))
        _spare_the_collector()
        code = await instance.run()
        return RECYCLED_EXIT if code == 0 and instance.recycled else code

    return _run_loop(work, _exit_process)


def _spare_the_collector() -> None:
    """
    Set what is loaded by now aside from cyclic garbage: modules and tasks live as long as the process, and each full collection
    would look at all of them, which holds up every job (35 ms of a small application) and took a fifth of a busy worker's time.
    """
    gc.collect()
    gc.freeze()


def _exit_process(code: int) -> None:
    """
    End a worker process whose lease is over: what a job left in a thread, or a job that can't be stopped, must not
    keep it alive; the supervisor would have to kill it.
    """
    atexit._run_exitfuncs()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _supervise(
    path: str,
    options: dict[str, Any],
    served: tuple[Queues | None, dict[str, int]],
    processes: int,
    burst: bool,
    reload: bool,
) -> int:
    from ..worker.supervisor import Supervisor

    # The supervisor imports the app as well: a mistake in it ends everything at once, with one line, and it needs
    # the settings that the app was made with. It runs no job.
    app = load_app(path)
    app.configure(**options)

    async def work() -> int:
        Served(app.tasks, *served)
        endpoint = await asyncio.to_thread(app.endpoint)
        command = [sys.executable, "-m", "tracked_queue", *sys.argv[1:]]
        supervisor = Supervisor(
            command,
            processes,
            app.settings,
            endpoint,
            app.shards,
            burst=burst,
            changes=_source_changes() if reload else None,
        )
        try:
            return await supervisor.run()
        finally:
            await app.aclose()

    return asyncio.run(work())


async def _source_changes() -> AsyncIterator[str]:
    """Names of Python files below the current folder, each time some have changed."""
    from watchfiles import PythonFilter, awatch

    async for changes in awatch(".", watch_filter=PythonFilter(), raise_interrupt=False):
        yield ", ".join(sorted({os.path.relpath(path) for _, path in changes}))


def _run_loop(work: Any, then: Callable[[int], None]) -> int:
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):  # there is no uvloop on Windows
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        code: int = runner.run(work())
        then(code)  # before the loop is closed, which would wait for the threads of its executor
    return code


@cli.command()
@guarded
def demo(
    folder: Annotated[Path | None, typer.Argument(help="Default: the Python standard library's folder.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many files.")] = None,
) -> None:
    """Hash every file below FOLDER by jobs, kill a worker midway, and prove that nothing was lost."""
    from .demo import run_demo

    raise typer.Exit(run_demo(folder, limit))
