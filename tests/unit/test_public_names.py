"""What the package exports: every exception, and every type that a public method takes or returns."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest

import tracked_queue
from tracked_queue import errors, settings
from tracked_queue.chaos.server import RedisServer
from tracked_queue.model.retry import Signal

SOURCE = Path(inspect.getfile(tracked_queue)).parent
# What a task is made with, which users do not make themselves.
PRIVATE = {"Enqueuer", "Registry", "Schedule", "Signature"}
PUBLIC = {*tracked_queue.__all__, *PRIVATE}


def exceptions() -> list[type[BaseException]]:
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return [kind for kind in found if kind.__module__ == errors.__name__]


def test_every_exception_is_in_one_file() -> None:
    named = {kind.__name__ for kind in exceptions()}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and path.name not in ("errors.py", "retry.py"):
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                assert not bases & (
                    named | {"Exception", "BaseException", "RuntimeError", "ValueError", "TypeError"}
                ), f"{path}: {node.name} belongs into errors.py"


def test_every_exception_is_exported_and_stands_in_the_tree() -> None:
    tree = (errors.__doc__ or "").splitlines()
    parents: dict[str, str] = {}
    open_at: list[tuple[int, str]] = []
    for line in tree:
        if found := re.search(r"\b(TrackedQueueError|\w+Error)\b", line):
            at = found.start()
            if line[:at].strip("│├└─ "):
                continue
            while open_at and open_at[-1][0] >= at:
                open_at.pop()
            parents[found[1]] = open_at[-1][1] if open_at else ""
            open_at.append((at, found[1]))
    for kind in exceptions():
        assert kind.__name__ in tracked_queue.__all__, kind
        bases = [base.__name__ for base in kind.__bases__]
        assert parents.get(kind.__name__) in (bases if kind is not errors.TrackedQueueError else [""]), kind
    assert len(parents) == len(exceptions())


def test_all_names_exactly_what_is_there() -> None:
    assert tracked_queue.__all__ == sorted(tracked_queue.__all__)
    there = {
        name for name, value in vars(tracked_queue).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    later = set(tracked_queue._LATER)  # imported when asked for
    assert (there | later) - {"TYPE_CHECKING", "Any"} == set(tracked_queue.__all__) - {"__version__"}
    assert set(tracked_queue.__all__) <= set(dir(tracked_queue))
    with pytest.raises(AttributeError, match="no attribute 'Operater'"):
        tracked_queue.Operater  # type: ignore[attr-defined]


def annotated(kind: type) -> set[type]:
    """The classes of this package in the annotations of a class's public methods."""
    found: set[type] = set()

    def collect(annotation: Any) -> None:
        if isinstance(annotation, type) and annotation.__module__.startswith("tracked_queue"):
            found.add(annotation)
        for part in typing.get_args(annotation):
            for one in part if isinstance(part, list) else [part]:
                collect(one)
        origin = typing.get_origin(annotation)
        if isinstance(origin, type) and origin.__module__.startswith("tracked_queue"):
            found.add(origin)

    for name, value in vars(kind).items():
        function = value.fget if isinstance(value, property) else inspect.unwrap(value) if callable(value) else None
        if name.startswith("_") or not inspect.isfunction(function):
            continue
        public = {name: getattr(tracked_queue, name) for name in tracked_queue.__all__}
        space = {**vars(typing), **public, **vars(sys.modules[function.__module__])}
        for annotation in typing.get_type_hints(function, space, include_extras=True).values():
            collect(annotation)
    return found


def test_what_public_methods_take_and_return_is_exported() -> None:
    missing = set()
    for name in tracked_queue.__all__:
        kind = getattr(tracked_queue, name)
        if isinstance(kind, type) and not issubclass(kind, Exception):
            missing |= {f"{name}: {used.__name__}" for used in annotated(kind) if used.__name__ not in PUBLIC}
    assert not missing


def test_a_producer_imports_nothing_of_operators_or_workers() -> None:
    program = "import sys, tracked_queue; tracked_queue.TrackedQueue(); print(*(n for n in sys.modules if 'tracked_queue' in n))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    for unit in (
        "operator",
        "cli",
        "chaos",
        "log",
        "testing",
        "worker.runner",
        "worker.recovery",
        "transport.embedded",
    ):
        assert f"tracked_queue.{unit}" not in loaded, unit


def test_signals_are_exported_and_no_errors() -> None:
    for kind in Signal.__subclasses__():
        assert kind.__name__ in tracked_queue.__all__ and not issubclass(kind, errors.TrackedQueueError)


def test_each_setting_can_be_given_as_a_keyword_with_its_type() -> None:
    hints = typing.get_type_hints(settings.SettingsArgs)
    own = typing.get_type_hints(settings.Settings)
    assert ["redis_url", *hints] == settings.setting_names()
    for name, hint in hints.items():
        expected = settings.Seconds | None if own[name] is float else own[name] | None
        assert hint == expected, name


def test_an_app_that_was_closed_leaves_no_socket_behind(server: RedisServer, namespace: str) -> None:
    program = f"""
import threading
from tracked_queue import TrackedQueue
app = TrackedQueue({server.url!r}, namespace={namespace!r})
app.enqueue_sync("x", 1)
thread = threading.Thread(target=app.enqueue_sync, args=("x", 2))
thread.start()
thread.join()
app.close()
app.enqueue_sync("x", 3)
app.close()
"""
    env = {**os.environ, "PYTHONWARNINGS": "error::ResourceWarning"}
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program], env=env, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


async def test_closing_ends_the_connections_of_all_threads(server: RedisServer, namespace: str) -> None:
    app = tracked_queue.TrackedQueue(server.url, namespace=namespace)
    import redis

    with redis.Redis.from_url(server.url) as client:
        before = client.info("clients")["connected_clients"]
        await asyncio.gather(*(asyncio.to_thread(app.enqueue_sync, "x", n) for n in range(3)))
        assert client.info("clients")["connected_clients"] > before
        await asyncio.to_thread(app.close)
        async with asyncio.timeout(10):
            while client.info("clients")["connected_clients"] > before:
                await asyncio.sleep(0.01)
