"""
A queue beside a web application: FastAPI, Starlette, or another with their lifespan. For Litestar see `tracked_queue.litestar`.

Source: docs/how-to/fastapi.md.
"""

from __future__ import annotations

try:
    import starlette as _starlette
except ModuleNotFoundError as error:
    if error.name != "starlette":
        raise
    raise ModuleNotFoundError(
        "tracked_queue.asgi needs starlette, which FastAPI brings: pip install starlette", name="starlette"
    ) from None

from .attach import attach
from .events import job_events
from .lifespans import WebState, lifespan_of

del _starlette

__all__ = ["WebState", "attach", "job_events", "lifespan_of"]
