"""What a step of a workflow gets: the results of the jobs before it, read on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# Results from number n on, decoded, and whether there are more.
Read = Callable[[int], Awaitable[tuple[Sequence[Any], bool]]]


class Results(Generic[T]):
    """
    The results of the jobs before this one, in their order, read in portions of at most 1 MiB: `async for value in results`,
    and in a plain `def`, which runs in a thread, `for value in results`.

    Annotate a step's first parameter with `Results[int]` instead of `list[int]` if all of them together may not fit
    into memory. A job without success, or without a kept result, gives None, so write `Results[int | None]` if the step
    runs even then. It can be iterated several times; each iteration begins with the first result.
    """

    def __init__(self, read: Read, loop: asyncio.AbstractEventLoop) -> None:
        self._read, self._loop = read, loop

    @classmethod
    def of(cls, values: Iterable[T]) -> Results[T]:
        """These values, for a call of the function in a test."""
        return _AtHand(values)

    async def __aiter__(self) -> AsyncIterator[T]:
        number, more = 0, True
        while more:
            values, more = await self._read(number)
            for value in values:
                yield value
            number += len(values)

    def __iter__(self) -> Iterator[T]:
        if _runs_here(self._loop):
            raise TypeError("an `async def` iterates its results with `async for`")
        number, more = 0, True
        while more:
            values, more = asyncio.run_coroutine_threadsafe(self._portion(number), self._loop).result()
            yield from values
            number += len(values)

    async def _portion(self, number: int) -> tuple[Sequence[T], bool]:
        return await self._read(number)


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


class _AtHand(Results[T]):
    def __init__(self, values: Iterable[T]) -> None:
        self._values = list(values)

    async def __aiter__(self) -> AsyncIterator[T]:
        for value in self._values:
            yield value

    def __iter__(self) -> Iterator[T]:
        return iter(self._values)
