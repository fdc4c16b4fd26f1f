"""Hiding what people need not see: values by the names that they stand under, however deep."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .record import JobInfo

MASKED = "***"
# Deeper than any value that can be stored.
MOST_DEEP = 250


def names_of(text: str) -> frozenset[str]:
    """The names in a setting: separated by commas, whatever the case."""
    return frozenset(name.strip().casefold() for name in text.split(",") if name.strip())


def masked(value: Any, names: Collection[str], depth: int = 0) -> Any:
    """Plain data without the values that stand under one of these names, at any depth; a name counts if it contains one."""
    if depth > MOST_DEEP:
        return MASKED
    if isinstance(value, Mapping):
        return {
            name: MASKED if is_masked(name, names) else masked(item, names, depth + 1) for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        items = [masked(item, names, depth + 1) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value


def is_masked(name: object, names: Collection[str]) -> bool:
    """Whether what stands under a name is hidden: `password` hides `db_password` too."""
    return isinstance(name, str) and any(part in name.casefold() for part in names)


def masked_info(info: JobInfo, names: Collection[str], parameters: Sequence[str] = ()) -> JobInfo:
    """
    A job as people may see it: arguments, headers, checkpoint and result without the values under these names.

    Args:
        parameters: The names of the task's positional parameters; without them a positional argument has no name.
    """
    if not names:
        return info
    args = info.args
    if args is not None:
        named = [*parameters[: len(args)], *("",) * (len(args) - len(parameters))]
        args = tuple(
            MASKED if is_masked(name, names) else masked(arg, names) for name, arg in zip(named, args, strict=True)
        )
    return dataclasses.replace(
        info,
        args=args,
        kwargs=None if info.kwargs is None else masked(info.kwargs, names),
        headers=masked(info.headers, names),
        checkpoint=masked(info.checkpoint, names),
        result=masked(info.result, names),
    )
