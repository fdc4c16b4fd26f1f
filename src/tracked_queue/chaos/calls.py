"""What the producers of a chaos run enqueue: the function `chaos_calls` beside the app."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import UsageError
from ..model.task import PreparedCall

# How far back a client goes when it is told that the server came back without its last writes.
REMEMBERED_S = 6.0

Calls = Callable[[random.Random], Sequence[PreparedCall[Any]]]


def calls_of(module_and_app: str) -> Calls:
    """
    The function `chaos_calls` beside the app: given a random.Random, it returns the next calls.

    Raises:
        UsageError: There is none.
    """
    module = module_and_app.partition(":")[0]
    found = getattr(importlib.import_module(module), "chaos_calls", None)
    if not callable(found):
        raise UsageError(
            f"{module}: chaos needs a function `chaos_calls(chance)` beside the app, which returns calls made by task.call(...)"
        )
    return found  # type: ignore[no-any-return]
