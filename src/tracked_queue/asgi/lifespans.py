"""The lifespan of a web application in a worker: entered once, whoever asks for it within."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from ..errors import UsageError

# The web applications whose lifespans are open around what runs here, by their ids, with what they have yielded.
_open: ContextVar[Mapping[int, WebState]] = ContextVar(
    "tracked_queue_web_lifespans",
    default=MappingProxyType({}),
)
# On a lifespan that `attach` has put around another one.
INNER = "__tracked_queue_inner__"


class WebState:
    """
    What `current_job().state` is in a worker with `lifespan_of`: attributes are what the lifespan has yielded, by its keys, or
    else those of the application's own `state`. `app` is the application.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self.yielded: Any = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if isinstance(self.yielded, Mapping) and name in self.yielded:
            return self.yielded[name]
        try:
            return getattr(self.app.state, name)
        except AttributeError:
            raise AttributeError(
                f"the lifespan of the web application has yielded no {name!r}, and its state has none"
            ) from None

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self, name)
        except AttributeError as error:
            raise KeyError(str(error)) from None

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
        app = _imported(web) if isinstance(web, str) else web
        known = _open.get().get(id(app))
        if known is not None:
            yield known
            return
        async with entered(app, inner_of(app)) as state:
            yield state

    return lifespan


@contextlib.asynccontextmanager
async def entered(app: Any, manager: AbstractAsyncContextManager[Any]) -> AsyncIterator[WebState]:
    """Enter a lifespan of an application, and note for what runs within that it is open."""
    state = WebState(app)
    token = _open.set({**_open.get(), id(app): state})
    try:
        async with manager as yielded:
            state.yielded = yielded
            yield state
    finally:
        with contextlib.suppress(ValueError):  # left in another context than it was entered in
            _open.reset(token)


def inner_of(app: Any) -> AbstractAsyncContextManager[Any]:
    """The application's own lifespan, without what `attach` has put around. Raises UsageError."""
    router = getattr(app, "router", None)
    context = getattr(router, "lifespan_context", None)
    if context is not None:
        while hasattr(context, INNER):
            context = getattr(context, INNER)
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
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"lifespan_of({path!r}): {error}") from error
    return found() if path.endswith("()") else found
