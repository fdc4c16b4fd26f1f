"""Sending the enqueues of an app to a function instead of Redis."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ..app import TrackedQueue, producer_of
from ..errors import UsageError


@contextlib.contextmanager
def in_place_of_redis(app: TrackedQueue, function: Any, why: str) -> Iterator[None]:
    """
    Send each enqueue to a function instead: after the app's own middleware, and before another such function, so that
    of two open ones the inner one gets it.
    """
    producer = producer_of(app)
    layers, connections = producer.definitions.hooks.enqueue, producer.connections
    function.in_place_of_redis = True
    place = next((at for at, one in enumerate(layers) if hasattr(one, "in_place_of_redis")), len(layers))
    layers.insert(place, function)
    before, connections.closed_for = connections.closed_for, why
    try:
        yield
    finally:
        layers.remove(function)
        connections.closed_for = before


def an_app(what: str, app: Any) -> TrackedQueue:
    """Refuse what is no app. Raises UsageError."""
    if not isinstance(app, TrackedQueue):
        raise UsageError(f"{what}: {app!r} is a {type(app).__qualname__}, not a TrackedQueue")
    return app
