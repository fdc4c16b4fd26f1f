"""
A plugin for Litestar: the queue as a dependency of handlers, workers by `litestar queue worker`, the dashboard with guards.

Source: docs/how-to/fastapi.md.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from litestar import asgi
from litestar.di import Provide
from litestar.plugins import CLIPlugin, InitPlugin

from .app import TrackedQueue, producer_of
from .asgi.lifespans import entered, in_worker
from .errors import UsageError
from .worker.isolated import place_of

if TYPE_CHECKING:
    from click import Group
    from litestar import Litestar
    from litestar.config.app import AppConfig

    from .dashboard import Dashboard

PROGRAM = "litestar queue"


class QueuePlugin(InitPlugin, CLIPlugin):
    """
    A queue beside an application of Litestar.

    Args:
        queue: The queue; it opens and closes with the application.
        dependency: The name by which handlers get it.
        dashboard: What `tracked_queue.dashboard.dashboard(queue, ...)` has made; it is served below `dashboard_path`.
        guards: Guards of Litestar for the dashboard.
        processes: So many worker processes start and end with `litestar run`; 0: start them yourself.
        path: Where workers import the queue from, module:attribute; found by itself if a module holds it.

    Raises:
        UsageError: Guards without a dashboard, or not a queue.
    """

    def __init__(
        self,
        queue: TrackedQueue,
        *,
        dependency: str = "queue",
        dashboard: Dashboard | None = None,
        dashboard_path: str = "/jobs",
        guards: Sequence[Any] | None = None,
        processes: int = 0,
        path: str = "",
    ) -> None:
        if not isinstance(queue, TrackedQueue):
            raise UsageError(f"QueuePlugin({queue!r}): it must be a TrackedQueue")
        if dashboard is None and guards:
            raise UsageError("QueuePlugin: guards= are those of the dashboard: give dashboard=dashboard(queue, ...)")
        self.queue, self._dependency, self._dashboard = queue, dependency, dashboard
        self._dashboard_path, self._guards, self._processes, self._path = dashboard_path, guards, processes, path

    @property
    def path(self) -> str:
        """Where workers import the queue from. Raises UsageError if no module holds it."""
        if self._path:
            return self._path
        home = producer_of(self.queue).definitions.home
        place = place_of(self.queue)
        if home or place is not None:
            return home or f"{place.module}:{place.name}"  # type: ignore[union-attr]
        raise UsageError("QueuePlugin: no module holds the queue: give path='shop.jobs:queue'")

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Litestar's hook: the dependency, the lifespan, the dashboard."""
        queue = self.queue

        async def provide() -> TrackedQueue:
            return queue

        @contextlib.asynccontextmanager
        async def lifespan(app: Litestar) -> AsyncIterator[None]:
            if in_worker.get():
                yield
                return
            async with queue, entered(app, contextlib.nullcontext()):
                yield

        app_config.dependencies[self._dependency] = Provide(provide)
        app_config.signature_namespace.setdefault("TrackedQueue", TrackedQueue)
        app_config.lifespan.insert(0, lifespan)
        if self._dashboard is not None:
            pages: Any = self._dashboard

            @asgi(self._dashboard_path, is_mount=True, copy_scope=True, guards=self._guards)
            async def show(scope: Any, receive: Any, send: Any) -> None:
                await pages(scope, receive, send)

            app_config.route_handlers.append(show)
        return app_config

    def on_cli_init(self, cli: Group) -> None:
        """Litestar's hook: `litestar queue ...`."""
        import click

        @cli.command(
            name="queue",
            context_settings={"ignore_unknown_options": True, "help_option_names": []},
            help="Runs workers, and shows queues and jobs; `litestar queue --help` names the commands.",
        )
        @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
        def queue_command(app: Litestar, arguments: tuple[str, ...]) -> None:
            from .cli.handover import hand_over

            hand_over([*arguments], self.queue, self.path, PROGRAM)

    @contextlib.contextmanager
    def server_lifespan(self, app: Litestar) -> Iterator[None]:
        """Litestar's hook: workers beside `litestar run`."""
        if not self._processes:
            yield
            return
        command = [sys.executable, "-m", "tracked_queue", "worker", self.path, "--processes", str(self._processes)]
        # In a session of its own: Ctrl-C in the terminal is the server's, which then ends the worker in its own way.
        worker = subprocess.Popen(command, start_new_session=True)
        before = _end_by_sigterm()
        try:
            yield
        finally:
            if before is not None:
                signal.signal(signal.SIGTERM, before)
            worker.terminate()
            worker.wait()  # within its grace


def _end_by_sigterm() -> Any:
    """
    Let SIGTERM leave what is open, as Ctrl-C does: the server handles it while it runs, and sends it again when it has ended.
    Returns the handler before, None if that stays.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        return None

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    return signal.signal(signal.SIGTERM, end)
