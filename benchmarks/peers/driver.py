"""
One queue's part of the comparison: `python driver.py ADAPTER COMMAND ...`, inside that queue's own environment.

Commands print one line of JSON. An adapter is a module here with `SETTINGS` (what was chosen, for the table) and functions: open,
close, enqueue(name, *args), worker(concurrency, processes, tight), and where the queue has it enqueue_many(calls) and result(handle).
Those of queues with an event loop are coroutines, `worker` alone is not: it becomes the worker.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from effect import now_ns

TEXT = "abcdefghijklmnopqrst"
CALLERS = 100


def calls_of(name: str, count: int) -> list[tuple[Any, ...]]:
    """Arguments of `count` jobs."""
    if name == "hold":
        return [(name, n) for n in range(count)]
    return [(name, n, TEXT if name == "noop" else TEXT * 15) for n in range(count)]


class Async:
    """Drives a queue that has an event loop."""

    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter

    def run(self, body: Callable[[], Any]) -> Any:
        async def main() -> Any:
            await self.adapter.open()
            try:
                return await body()
            finally:
                await self.adapter.close()

        try:
            import uvloop
        except ImportError:
            return asyncio.run(main())
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main())

    def enqueue(self, how: str, count: int, name: str) -> float:
        calls = calls_of(name, count)

        async def body() -> float:
            await self.adapter.enqueue(*calls[0])
            began = time.perf_counter()
            if how == "single":
                for call in calls[1:]:
                    await self.adapter.enqueue(*call)
            elif how == "concurrent":
                rest = iter(calls[1:])

                async def caller() -> None:
                    for call in rest:
                        await self.adapter.enqueue(*call)

                await asyncio.gather(*(caller() for _ in range(CALLERS)))
            else:
                await self.adapter.enqueue_many(calls[1:])
            return time.perf_counter() - began

        return float(self.run(body))

    def latency(self, count: int) -> list[list[int]]:
        async def body() -> list[list[int]]:
            seen = []
            for number in range(count):
                await asyncio.sleep(0.01 + random.random() * 0.01)
                began = now_ns()
                handle = await self.adapter.enqueue("noop", number, TEXT)
                if hasattr(self.adapter, "result"):
                    await self.adapter.result(handle)
                seen.append([number, began, now_ns()])
            return seen

        return list(self.run(body))


class Sync:
    """Drives a queue of blocking calls."""

    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter

    def enqueue(self, how: str, count: int, name: str) -> float:
        calls = calls_of(name, count)
        self.adapter.open()
        self.adapter.enqueue(*calls[0])
        began = time.perf_counter()
        if how == "single":
            for call in calls[1:]:
                self.adapter.enqueue(*call)
        elif how == "concurrent":
            lots = [calls[1 + at :: CALLERS] for at in range(CALLERS)]

            def caller(lot: list[tuple[Any, ...]]) -> None:
                for call in lot:
                    self.adapter.enqueue(*call)

            threads = [threading.Thread(target=caller, args=(lot,)) for lot in lots]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        else:
            self.adapter.enqueue_many(calls[1:])
        return time.perf_counter() - began

    def latency(self, count: int) -> list[list[int]]:
        self.adapter.open()
        seen = []
        for number in range(count):
            time.sleep(0.01 + random.random() * 0.01)
            began = now_ns()
            handle = self.adapter.enqueue("noop", number, TEXT)
            if hasattr(self.adapter, "result"):
                self.adapter.result(handle)
            seen.append([number, began, now_ns()])
        return seen


def main() -> None:
    name, command, *rest = sys.argv[1:]
    adapter = importlib.import_module(name)
    drive = Async(adapter) if inspect.iscoroutinefunction(adapter.enqueue) else Sync(adapter)
    if command == "about":
        answer: Any = {
            "settings": adapter.SETTINGS, "bulk": hasattr(adapter, "enqueue_many"), "result": hasattr(adapter, "result"),
            "loop": isinstance(drive, Async),
        }  # fmt: skip
    elif command == "enqueue":
        how, count, job = rest
        answer = {"seconds": drive.enqueue(how, int(count), job), "count": int(count) - 1}
    elif command == "fill":
        count, job = rest
        bulk = hasattr(adapter, "enqueue_many") and int(count) > 100
        drive.enqueue("bulk" if bulk else "concurrent" if isinstance(drive, Async) else "single", int(count), job)
        answer = {}
    elif command == "latency":
        answer = drive.latency(int(rest[0]))
    else:
        concurrency, processes = map(int, rest)
        adapter.worker(concurrency, processes, bool(os.environ.get("BENCH_TIGHT")))
        return
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
