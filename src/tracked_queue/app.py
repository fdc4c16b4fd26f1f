"""`TrackedQueue`: the decorator, the typed enqueue, reading jobs and waiting for them."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from .client import Client, enqueue_sync, value_of
from .codec import encode_any
from .errors import ArgumentError, PayloadTooLargeError, UsageError
from .handle import Job
from .job import JobInfo, check_name
from .keys import Keys
from .link import Endpoint, SyncLink
from .reports import read_job
from .retry import Backoff
from .settings import Settings, resolve, with_options
from .store import Store, SyncStore
from .task import (
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_QUEUE,
    DEFAULT_TIMEOUT,
    JobOptions,
    PreparedCall,
    Registry,
    Request,
    Task,
    TaskOptions,
    check_function,
    prepared,
    task_name,
)
from .transitions import CancelWord, Recovered, cancel

if TYPE_CHECKING:
    from .embedded import EmbeddedServer

P = ParamSpec("P")
R = TypeVar("R")


# Ids must differ, not be secret; a generator of our own, seeded by the system and anew after a fork, is five times as
# fast as asking the system for each.
_random = random.Random()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


def new_id() -> str:
    """A time-ordered UUID (version 7) as 32 hex digits: short in Redis, sorted by the time of its making."""
    bits = _random.getrandbits(74)
    high = (time.time_ns() // 1_000_000) << 16 | 0x7000 | bits >> 62
    return f"{high:016x}{0x8000_0000_0000_0000 | bits & 0x3FFF_FFFF_FFFF_FFFF:016x}"


class TrackedQueue:
    """
    A job queue on Redis that does not lose jobs.

    Making one opens no connection and may happen at import. The first use inside an event loop opens that loop's
    connections; `async with app:` closes them at its end. It is safe to share between tasks, threads with loops of
    their own, and over a fork.

    Args:
        redis_url: redis://, rediss://, unix:// or embedded://; default REDIS_URL, else redis://localhost:6379.
        settings: Any other setting by its name; see docs/reference/settings.md.

    Raises:
        SettingsError: A value is wrong; names the setting and where the value came from.
    """

    def __init__(self, redis_url: str | None = None, **settings: Any) -> None:
        self._settings = resolve({"redis_url": redis_url, **settings})
        self.tasks = Registry()
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[int, Client]]
        self._clients = weakref.WeakKeyDictionary()
        self._local = threading.local()
        self._embedded: EmbeddedServer | None = None
        self._embedded_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<TrackedQueue {self._settings.shown('redis_url')} namespace={self._settings.namespace}>"

    @property
    def settings(self) -> Settings:
        """The resolved settings."""
        return self._settings

    @property
    def keys(self) -> Keys:
        """The names of this app's keys."""
        return Keys(self._settings.namespace)

    def configure(self, **options: Any) -> None:
        """
        Replace settings before the first use, as the CLI does with its options.

        Raises:
            UsageError: The app has been used already.
            SettingsError: A value is wrong.
        """
        if self._clients or self._embedded is not None:
            raise UsageError("configure() comes before the first use of the app")
        self._settings = with_options(self._settings, options)

    # Defining tasks

    def task(
        self,
        *,
        name: str | None = None,
        queue: str = DEFAULT_QUEUE,
        timeout: float | None = DEFAULT_TIMEOUT,
        max_attempts: int = DEFAULT_MAX_ATTEMPTS,
        backoff: Backoff | None = None,
        result_ttl: float | None = None,
        tracked: bool = True,
    ) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Task[P, R]]:
        """
        Register an `async def` function as a task; the function stays callable.

        Args:
            name: Default: module and function name, the same when the module is run as a script.
            queue: Where its jobs wait.
            timeout: Seconds for one attempt; None is without limit.
            max_attempts: Runs in all; 1 means no retry.
            backoff: Delays between attempts; default exponential from 2 s to 10 min with full jitter.
            result_ttl: Seconds to keep the result; 0 keeps none; None takes the setting.
            tracked: False: at most once, without recovery and result, for work that may be lost.

        Raises:
            UsageError: Not an `async def` function (also a TypeError), a name used twice, a bad option.
        """
        options = TaskOptions(
            queue=queue,
            timeout=timeout,
            max_attempts=max_attempts,
            backoff=backoff or Backoff(),
            result_ttl=result_ttl,
            tracked=tracked,
        )
        if callable(name):
            raise UsageError("write @app.task() with parentheses")

        def register(function: Callable[P, Coroutine[Any, Any, R]]) -> Task[P, R]:
            check_function(function)
            task = Task(name or task_name(function), function, options, self)
            self.tasks.add(task)
            return task

        return register

    # Enqueueing

    def request(
        self, task: Task[..., Any], options: JobOptions, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Request:
        """A checked, encoded call. Raises ArgumentError, PayloadTooLargeError."""
        packed_args, packed_kwargs = task.signature.encode(args, kwargs, self._settings.max_payload)
        chosen = task.task_options
        return Request(
            id=options.id or new_id(),
            task=task.name,
            queue=options.queue or chosen.queue,
            args=packed_args,
            kwargs=packed_kwargs,
            options=options.stored,
            delay_ms=options.delay_ms,
            due_ms=options.due_ms,
            tracked=chosen.tracked,
            result=task.signature.result,
        )

    def _named_request(self, name: str, options: JobOptions, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
        task = self.tasks.get(check_name("task name", name))
        if task is not None:
            return self.request(task, options, args, kwargs)
        packed = [_encode_plain(name, args) if args else b"", _encode_plain(name, kwargs) if kwargs else b""]
        size = sum(map(len, packed))
        if size > self._settings.max_payload:
            raise PayloadTooLargeError(name, size, self._settings.max_payload)
        return Request(
            id=options.id or new_id(),
            task=name,
            queue=options.queue or DEFAULT_QUEUE,
            args=packed[0],
            kwargs=packed[1],
            options=options.stored,
            delay_ms=options.delay_ms,
            due_ms=options.due_ms,
            tracked=True,
            result=None,
        )

    async def enqueue(self, task_name: str, /, *args: Any, **kwargs: Any) -> Job[Any]:
        """
        Store a call of a task by its name, for a producer that doesn't import the code.

        Where the task is registered here its signature and queue count; else the arguments must be plain data, and
        the queue is "default" unless `options(queue=...)` says another.
        """
        return await self.store_one(self._named_request(task_name, JobOptions(), args, kwargs))

    def enqueue_sync(self, task_name: str, /, *args: Any, **kwargs: Any) -> Job[Any]:
        """`enqueue` for code without an event loop."""
        return self.store_one_sync(self._named_request(task_name, JobOptions(), args, kwargs))

    def options(
        self,
        *,
        id: str | None = None,
        queue: str | None = None,
        delay: float | None = None,
        at: datetime | None = None,
        timeout: float | None = None,
        max_attempts: int | None = None,
    ) -> NamedEnqueue:
        """Options for the next enqueue by name, as `Task.options`."""
        return NamedEnqueue(
            self, JobOptions(id=id, queue=queue, delay=delay, at=at, timeout=timeout, max_attempts=max_attempts)
        )

    async def enqueue_many(self, calls: Sequence[PreparedCall[Any]]) -> list[Job[Any]]:
        """
        Store many calls, made by `task.call(...)`, in order and in large portions.

        Everything is checked before anything is sent. When Redis fails in between, the error's `job_ids` are those
        that may be missing; the same calls can be sent again, since each has its id.
        """
        requests = prepared(calls)
        created = await self._client().enqueue_many(requests)
        return [Job(request.id, one, self, request.result) for request, one in zip(requests, created, strict=True)]

    def enqueue_many_sync(self, calls: Sequence[PreparedCall[Any]]) -> list[Job[Any]]:
        """`enqueue_many` for code without an event loop."""
        requests = prepared(calls)
        created = enqueue_sync(self._sync_store(), requests, self._settings.enqueue_timeout)
        return [Job(request.id, one, self, request.result) for request, one in zip(requests, created, strict=True)]

    async def store_one(self, request: Request) -> Job[Any]:
        """Store one request; what `task.enqueue` ends in."""
        return Job(request.id, await self._client().enqueue(request), self, request.result)

    def store_one_sync(self, request: Request) -> Job[Any]:
        """Store one request without an event loop."""
        (created,) = enqueue_sync(self._sync_store(), [request], self._settings.enqueue_timeout)
        return Job(request.id, created, self, request.result)

    # Jobs

    def job(self, id: str) -> Job[Any]:
        """A handle to a job by its id; nothing is asked yet. Raises UsageError for an id that can't be one."""
        return Job(check_name("job id", id), False, self)

    async def job_info(self, job_id: str, codec: Any) -> JobInfo:
        """See `Job.info`."""
        return await read_job(self.store, job_id, codec)

    async def job_result(self, job_id: str, codec: Any, timeout: float | None) -> Any:
        """See `Job.result`."""
        return value_of(job_id, await self._client().results.wait(job_id, timeout), codec)

    async def job_cancel(self, job_id: str) -> bool:
        """See `Job.cancel`."""
        keep = max(self._settings.result_ttl, self._settings.resend_window)
        (word,) = await self.store.run(cancel([job_id], keep))
        return word in (CancelWord.CANCELLED, CancelWord.REQUESTED)

    async def recover(self) -> list[Recovered]:
        """
        Recover the jobs of all run-out leases now, and return what was moved; what `auto_recovery=False` leaves to
        a person. Leases that are alive, and a hold after an outage, are respected.
        """
        from .worker.recovery import recover_once

        return await recover_once(self.store, self._settings, owner="app.recover")

    # Running

    async def run_worker(
        self,
        *,
        queues: Sequence[str] | None = None,
        concurrency: int | None = None,
        burst: bool = False,
        handle_signals: bool = True,
    ) -> int:
        """
        Run a worker in this process until a signal (or, with `burst`, until its queues are empty).

        It is one instance without a supervisor: when this process is killed, another instance recovers its jobs
        after `heartbeat_ttl`. When a job can't be stopped although the lease runs out, the process is ended.

        Args:
            queues: In priority order; default: the queues of all tasks.
            concurrency: Default: the setting.
            burst: End when nothing is left to fetch.
            handle_signals: Stop on SIGTERM and SIGINT; False leaves signals to you: cancel this call to stop.

        Returns:
            0 when everything was handed back or done.

        Raises:
            UsageError: No tasks, or no queues.
            StoreRefusedError: A server that can't be used.
        """
        from .worker.instance import Instance

        settings = with_options(self._settings, {"concurrency": concurrency})
        instance = Instance(self.tasks, settings, await self._endpoint_async(), self.keys, queues=queues, burst=burst)
        return await instance.run(handle_signals=handle_signals)

    # Connections

    async def __aenter__(self) -> TrackedQueue:
        await self._endpoint_async()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close this event loop's connections, and give up the embedded server; a later use opens new ones."""
        found = self._clients.pop(asyncio.get_running_loop(), None)
        if found is not None:
            await found[1].close()
        if self._embedded is not None and not self._clients:
            self._embedded.close()
            self._embedded = None

    @property
    def store(self) -> Store:
        """The transitions over this event loop's pool."""
        return self._client().store

    def endpoint(self) -> Endpoint:
        """Where Redis is; starts the embedded server if there is to be one, which may take a moment."""
        if not self._settings.redis_url.startswith("embedded:"):
            return Endpoint(self._settings)
        from .embedded import start_embedded

        with self._embedded_lock:
            if self._embedded is None:
                self._embedded = start_embedded(self._settings.redis_url)
            return Endpoint(self._settings, self._embedded.url)

    async def _endpoint_async(self) -> Endpoint:
        return await asyncio.to_thread(self.endpoint)

    def _client(self) -> Client:
        """This event loop's client. One of another process (before a fork) is left alone."""
        loop = asyncio.get_running_loop()
        found = self._clients.get(loop)
        if found is None or found[0] != os.getpid():
            for ended in [other for other in self._clients if other.is_closed()]:
                del self._clients[ended]  # a client names its loop, so that the weak key alone never goes
            found = os.getpid(), Client(self._settings, self.endpoint(), self.keys)
            self._clients[loop] = found
        return found[1]

    def _sync_store(self) -> SyncStore:
        """This thread's synchronous store."""
        store: SyncStore | None = getattr(self._local, "store", None)
        if store is None:
            store = self._local.store = SyncStore(SyncLink(self.endpoint()), self.keys)
        return store


def _encode_plain(name: str, value: Any) -> bytes:
    try:
        return encode_any(list(value) if isinstance(value, tuple) else value)
    except TypeError as error:
        raise ArgumentError(name, "", f"{error}; without the task's code arguments must be plain data") from None


class NamedEnqueue:
    """Options of one enqueue by task name."""

    def __init__(self, app: TrackedQueue, options: JobOptions) -> None:
        self._app, self._options = app, options

    async def enqueue(self, task_name: str, /, *args: Any, **kwargs: Any) -> Job[Any]:
        """See `TrackedQueue.enqueue`."""
        return await self._app.store_one(self._app._named_request(task_name, self._options, args, kwargs))

    def enqueue_sync(self, task_name: str, /, *args: Any, **kwargs: Any) -> Job[Any]:
        """See `TrackedQueue.enqueue_sync`."""
        return self._app.store_one_sync(self._app._named_request(task_name, self._options, args, kwargs))
