"""The lifespan of a web application in a worker: entered once, whoever asks for it within."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import UsageError

# The web applications whose lifespans are open around what runs here, by their ids, with what they have yielded.
_open: ContextVar[Mapping[int, WebState]] = ContextVar(
    "tracked_queue_web_lifespans",
    default=MappingProxyType({}),
)
# Set in a worker that enters the lifespan of a web application: it has its own connections, and starts no worker of its own.
in_worker: ContextVar[bool] = ContextVar("tracked_queue_web_in_worker", default=False)
# Set for a worker that a web application runs in its own process: whatever it is told to enter is this one's.
served: ContextVar[WebState | None] = ContextVar("tracked_queue_web_served", default=None)


class WebState:
    """
    What `current_job().state` is in a worker with `lifespan_of`: attributes are what the lifespan has yielded, by its keys, or
    else those of the application's own `state`. `app` is the application; `state["app"]` what was yielded under that name.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self._yielded: Any = None

    def begun(self, yielded: Any) -> Any:
        """The lifespan has begun, and has yielded this; returns it."""
        self._yielded = yielded
        return yielded

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"the lifespan of the web application has yielded no {name!r}, and its state has none"
            ) from None

    def __getitem__(self, name: str) -> Any:
        yielded = vars(self).get("_yielded")
        if isinstance(yielded, Mapping) and name in yielded:
            return yielded[name]
        try:
            return getattr(self.app.state, name)
        except AttributeError:
            raise KeyError(name) from None

    def __repr__(self) -> str:
        return f"<WebState of {self.app!r}>"


def lifespan_of(web: Any) -> Callable[[], AbstractAsyncContextManager[WebState]]:
    """
    A lifespan for `TrackedQueue(lifespan=...)`: a worker enters that of the web application, and jobs have its state.

    It is entered once in each worker process. Where it is open already, because the worker runs in the web application's own
    process, it is not entered a second time.

    Args:
        web: The application, or where it is: "shop.main:app", or "shop.main:create_app()", which is called. The text is
            imported when a worker starts, so that the module of the application may import that of the queue.

    Raises:
        UsageError: Not such a text.
    """
    if isinstance(web, str) and not _is_path(web):
        raise UsageError(f'lifespan_of({web!r}): write "module:app", or "module:create_app()"')

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[WebState]:
        known = served.get()
        if known is None:
            app = _imported(web) if isinstance(web, str) else web
            known = _open.get().get(id(app))
        if known is not None:
            yield known
            return
        token = in_worker.set(True)
        try:
            async with entered(app, _lifespan(app)) as (state, _):
                yield state
        finally:
            _reset(in_worker, token)

    return lifespan


@contextlib.asynccontextmanager
async def entered(app: Any, manager: AbstractAsyncContextManager[Any]) -> AsyncIterator[tuple[WebState, Any]]:
    """Enter a lifespan of an application, and note for what runs within that it is open."""
    state = WebState(app)
    token = _open.set({**_open.get(), id(app): state})
    try:
        async with manager as yielded:
            yield state, state.begun(yielded)
    finally:
        _reset(_open, token)


def _reset(variable: ContextVar[Any], token: Any) -> None:
    with contextlib.suppress(ValueError):  # left in another context than it was entered in
        variable.reset(token)


def _lifespan(app: Any) -> AbstractAsyncContextManager[Any]:
    """The application's whole lifespan. Raises UsageError."""
    context = getattr(getattr(app, "router", None), "lifespan_context", None)
    if context is not None:
        manager: AbstractAsyncContextManager[Any] = context(app)
        return manager
    lifespan = getattr(app, "lifespan", None)  # Litestar
    if callable(lifespan):
        found: AbstractAsyncContextManager[Any] = lifespan()
        return found
    raise UsageError(
        f"lifespan_of: {app!r} has no lifespan: it must be an application of FastAPI, Starlette or Litestar"
    )


def _is_path(text: str) -> bool:
    module, colon, name = text.removesuffix("()").partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), *name.split(".")])


def _imported(path: str) -> Any:
    module, _, name = path.removesuffix("()").partition(":")
    try:
        found: Any = _module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"lifespan_of({path!r}): {error}") from error
    return found() if path.endswith("()") else found


def _module(name: str) -> Any:
    """A module; the script that is running, rather than a second copy of it under its other name."""
    main = sys.modules["__main__"]
    of_main = getattr(getattr(main, "__spec__", None), "name", None) or Path(getattr(main, "__file__", "") or "").stem
    if name not in sys.modules and of_main == name:
        return main
    return importlib.import_module(name)
