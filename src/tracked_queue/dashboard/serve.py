"""A web server for the dashboard alone: ends within seconds at SIGTERM, whatever pages are open."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

MOST_WAITING = 2048


async def serve(application: ASGIApp, host: str, port: int, end_s: int, told: Callable[[str], None]) -> None:
    """
    Serve until SIGTERM or SIGINT; requests under way then get `end_s` seconds. `told` hears the address once it listens.

    Raises:
        OSError: It can't listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(MOST_WAITING)
        config = uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # who asks is decided by the peer's address
            timeout_graceful_shutdown=end_s,
            lifespan="on",
            ws="none",
        )
        told(f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}")
        await _Server(config).serve(sockets=[listener])


class _Server(uvicorn.Server):
    """Returns after a signal, where uvicorn's own would end the process by it, with what comes afterwards undone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in before:
            loop.add_signal_handler(number, self._end)
        try:
            yield
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)

    def _end(self) -> None:
        self.should_exit = True
