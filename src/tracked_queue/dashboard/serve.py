"""A web server for the dashboard alone: ends within seconds at SIGTERM, whatever pages are open."""

from __future__ import annotations

import socket
from collections.abc import Callable

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
        await uvicorn.Server(config).serve(sockets=[listener])
