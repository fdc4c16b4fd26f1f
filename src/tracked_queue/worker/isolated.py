"""The child's side of `isolate="process"`: runs one function by its module and name, and gives back bytes."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import runpy
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from functools import cache
from types import SimpleNamespace
from typing import Any, Protocol

import msgspec
import structlog

from ..errors import UnguardedScriptError
from ..model.codec import encode_exception
from ..model.definitions import Definitions
from ..model.hooks import Hooks
from ..model.retry import Dead, Retry, Signal, Snooze, leaves_of, meant_by
from ..model.task import Registry, Task
from . import log_setup
from .lanes import entered
from .lineage import end_fork, end_group, guard, is_fork, keep_from_forks, watch_forks
from .log_setup import LogSetup

PARENT_LOOK_S = 0.5
# The name under which a script's own module is loaded here: what it does when it is run must not be done again.
SCRIPT = "__isolated__"


class Place(msgspec.Struct, frozen=True, array_like=True):
    """
    Where something can be imported from.

    Args:
        module: Its name; `__main__` is loaded from the file `script`.
        script: '' for a module that has a name of its own.
        name: The attribute, also with dots.
    """

    module: str
    script: str
    name: str


class Setup(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a child is told before its first call: the worker's app and its resolved settings, and how to log."""

    app: Place | None = None
    settings: dict[str, Any] = {}
    pretty: bool | None = None
    level: str = "info"
    everything: bool = False


class About(msgspec.Struct, frozen=True, array_like=True):
    """What the worker knows of the job; the child has no `current_job()`, which could do nothing here."""

    id: str
    queue: str
    lease: str
    attempt: int
    max_attempts: int
    headers: dict[str, Any]

    @property
    def last_attempt(self) -> bool:
        """Whether the job is dead if this attempt raises."""
        return self.attempt >= self.max_attempts


# Of the call that runs here.
about: ContextVar[About | None] = ContextVar("tracked_queue_isolated", default=None)


class Call(msgspec.Struct, frozen=True, array_like=True):
    """
    One call.

    Args:
        number: The call's number in this child; its answer carries the same.
        task: The task's name.
        function: Where its function is, for an app that can't be imported by itself.
        args, kwargs: Encoded.
        context: Variables that were carried from the enqueue.
        job: What log lines say of the job.
        about: What code around the function may want to know of it.
    """

    number: int
    task: str
    function: Place
    args: bytes
    kwargs: bytes
    context: dict[str, Any]
    job: dict[str, Any]
    about: About | None = None


class App(Protocol):
    """What a child needs of the app."""

    @property
    def tasks(self) -> Registry: ...


class Connections(Protocol):
    """The app's connections, whose settings a child changes."""

    def adopt(self, values: Mapping[str, Any]) -> None: ...


class Producer(Protocol):
    """What stands behind the app's tasks."""

    @property
    def definitions(self) -> Definitions: ...

    @property
    def connections(self) -> Connections: ...


Reply = tuple[str, bytes, list[str], float | None]

_setup = Setup()
_serving = False
_loading = False


def main() -> None:
    """Answer calls from the socket whose number is the last argument, until it is closed. See processes.py."""
    global _setup, _serving  # noqa: PLW0603  (told once, before the first call)
    _serving = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the worker's to handle
    _end_with_parent()
    watch_forks()
    number = int(sys.argv[-1])
    keep_from_forks(number)
    with socket.socket(fileno=number) as link, link.makefile("rb") as calls:
        first = _read(calls)
        _setup = msgspec.msgpack.decode(first, type=Setup) if first else Setup()
        if _setup.pretty is not None:
            log_setup.apply(LogSetup(_setup.pretty, _setup.level, _setup.everything))
        # The worker may be gone: then there is nothing left to answer to, and nothing to print.
        with contextlib.suppress(ConnectionError):
            while data := _read(calls):
                call = msgspec.msgpack.decode(data, type=Call)
                _answer(link, call.number, None)  # from here on the job is to blame if this process ends
                before = _Surroundings()
                reply = run_isolated(call)
                before.restore()
                _answer(link, call.number, reply)
        for begun in _begun.values():
            begun.close()


class _Surroundings:
    """The process state that a job may change but the next job must not find changed."""

    def __init__(self) -> None:
        self._environment = dict(os.environ)
        self._umask = os.umask(0)
        os.umask(self._umask)
        self._folder: str | None = None
        with contextlib.suppress(OSError):
            self._folder = os.getcwd()

    def restore(self) -> None:
        """Put it back; timers that would signal the next job are off."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.umask(self._umask)
        if os.environ != self._environment:
            os.environ.clear()
            os.environ.update(self._environment)
        if self._folder is not None:
            with contextlib.suppress(OSError):
                os.chdir(self._folder)


def _answer(link: socket.socket, number: int, reply: Reply | None) -> None:
    data = msgspec.msgpack.encode((number, reply))
    link.sendall(len(data).to_bytes(8, "big") + data)


def _read(calls: Any) -> bytes:
    size = calls.read(8)
    data: bytes = calls.read(int.from_bytes(size, "big")) if size else b""
    return data


def is_isolated() -> bool:
    """Whether this process is a child for isolated jobs."""
    return _serving


def is_loading() -> bool:
    """Whether the code of a script is being loaded in such a child: what that does by itself must not be done here."""
    return _loading


def run_isolated(call: Call) -> Reply:
    """
    Run a registered function in this process.

    Returns:
        ("", the encoded result, [], None); or (the error's class, the encoded error, the names of its classes, None); or
        (Retry, Snooze, Discard or Dead, the reason, [], its seconds).
    """
    try:
        task, hooks = _task_of(call)
        for variable in hooks.carry:
            if variable.name in call.context:
                variable.set(call.context[variable.name])
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(**call.job)
        about.set(call.about)
        values, named = task.signature.decode(call.args, call.kwargs)
        _begin(hooks)
        value, failed = None, None
        with contextlib.ExitStack() as stack:
            for context in hooks.thread_contexts:
                stack.enter_context(context())
            try:
                value = task.function(*values, **named)
            except BaseException as error:
                failed = error
                raise
        if failed is not None:  # a context manager has kept it to itself; the job has failed all the same
            raise failed
        if inspect.isawaitable(value):
            raise TypeError(
                f"task {task.name} returned a {type(value).__qualname__}, to be awaited: isolate='process' runs a plain `def`"
            )
        return "", task.signature.result.encode(value), [], None
    except BaseException as error:
        if is_fork():
            end_fork(error)
        if isinstance(error, UnguardedScriptError):  # every further try would end the same way
            return Dead.__name__, str(error).encode("utf-8", "replace"), [], None
        wish = meant_by(error)
        if not isinstance(wish, Signal):
            kinds = list(dict.fromkeys(class_name(kind) for leaf in leaves_of(error) for kind in type(leaf).__mro__))
            return type(error).__qualname__, encode_exception(error), kinds, None
        seconds = wish.after if isinstance(wish, Retry) else wish.for_ if isinstance(wish, Snooze) else None
        return type(wish).__name__, wish.reason.encode("utf-8", "replace"), [], seconds


guard(run_isolated)


def _task_of(call: Call) -> tuple[Task[..., Any], Hooks]:
    """The task as the worker's app has it, and what the app puts around."""
    app = _app()
    task = None if app is None else app.tasks.get(call.task)
    if task is None and app is not None and call.function.module != "__main__":
        importlib.import_module(call.function.module)  # which may define it for the app
        task = app.tasks.get(call.task)
    if task is None:
        task = _task_at(call.function.module, call.function.script, call.function.name)
    producer: Producer = task.enqueuer  # type: ignore[assignment]
    _adopt(producer)
    return task, producer.definitions.hooks


# What this process entered before its first job, and leaves at its end.
_begun: dict[int, contextlib.ExitStack] = {}


def _begin(hooks: Hooks) -> None:
    if hooks.thread_lifespans and id(hooks) not in _begun:
        _begun[id(hooks)] = entered(hooks.thread_lifespans)


_adopted: list[Producer] = []


def _adopt(producer: Producer) -> None:
    """Take over the worker's settings, once."""
    if _setup.settings and producer not in _adopted:
        _adopted.append(producer)
        producer.connections.adopt(_setup.settings)


@cache
def _app() -> App | None:
    place = _setup.app
    if place is None:
        return None
    app: App = _attribute(_space(place.module, place.script), place.name)
    return app


@cache
def _space(module: str, script: str) -> Any:
    global _loading  # noqa: PLW0603  (of this process)
    if module != "__main__":
        return importlib.import_module(module)
    _loading = True
    try:
        return SimpleNamespace(**runpy.run_path(script, run_name=SCRIPT))
    finally:
        _loading = False


def _attribute(space: Any, name: str) -> Any:
    for part in name.split("."):
        space = getattr(space, part)
    return space


@cache
def _task_at(module: str, script: str, name: str) -> Task[..., Any]:
    space = _space(module, script)
    found = _attribute(space, name)
    if isinstance(found, Task):
        return found
    # `send = app.task(...)(_send)`: the task has another name than its function.
    for value in vars(space).values():
        if isinstance(value, Task) and value.function is found:
            return value
    raise TypeError(f"{module}.{name} is not a task in the child process")


def class_name(kind: type) -> str:
    """An exception's class as it is sent over the socket, where no objects travel."""
    module = "__main__" if kind.__module__ == SCRIPT else kind.__module__
    return f"{module}.{kind.__qualname__}"


def setup_of(app: object, settings: Mapping[str, Any], home: str = "") -> bytes:
    """A child's `Setup`, encoded: of a worker of this app with these settings. `home`: see Definitions."""
    chosen = log_setup.current
    told = Setup(app=_home(home) if home else place_of(app), settings=dict(settings))
    if chosen is not None:
        told = msgspec.structs.replace(told, pretty=chosen.pretty, level=chosen.level, everything=chosen.everything)
    return msgspec.msgpack.encode(told)


def _home(path: str) -> Place:
    module, _, name = path.partition(":")
    return Place(module, "", name)


def place_of(app: object) -> Place | None:
    """Where an app can be imported from; None for one that no module holds."""
    for name, module in list(sys.modules.items()):
        try:
            held = list(vars(module).items())
        except TypeError:
            continue
        for attribute, value in held:
            if value is app:
                script = str(getattr(module, "__file__", "") or "") if name == "__main__" else ""
                if name != "__main__" or script:
                    return Place(name, script, attribute)
    return None


def _end_with_parent() -> None:
    """A worker that was killed leaves no child at work: it is noticed here, in the middle of a job too."""
    parent, own = os.getppid(), os.getpid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_LOOK_S)
        end_group(own)
        os.kill(own, signal.SIGKILL)

    threading.Thread(target=watch, name="tracked_queue-parent", daemon=True).start()
