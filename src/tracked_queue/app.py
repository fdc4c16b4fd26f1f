"""`TrackedQueue`: the decorator, the typed enqueue, reading jobs and waiting for them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import math
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Concatenate, Literal, Never, ParamSpec, Protocol, TypeVar, Unpack, cast, overload
from zoneinfo import ZoneInfo

import msgspec

from .errors import (
    ArgumentError,
    DuplicateJobError,
    JobError,
    JobNotFoundError,
    PayloadTooLargeError,
    StoreRefusedError,
    StoreUnavailableError,
    TaskDefinitionError,
    UnguardedScriptError,
    UnreadableHintsError,
    UsageError,
    did_you_mean,
)
from .model import checks
from .model.checks import check_carry, check_flag, check_lifespan, check_list, check_mapping, check_name, to_seconds
from .model.cipher import Cipher, parse_keys
from .model.codec import encode_any
from .model.constraints import Key, Limit, Unique, UniqueUntil, limits_of, unique_of
from .model.context import CurrentJob, JobContext, current
from .model.hooks import Enqueueing, EnqueueMiddleware, Lifespan, RunMiddleware, Surroundings, chained, run_now
from .model.job import Job
from .model.options import (
    AFTER_AT_ONCE,
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_QUEUE,
    DEFAULT_TIMEOUT,
    MAX_AFTER,
    Isolate,
    JobOptions,
    JobOptionsArgs,
    OnFailure,
    TaskOptions,
    extras_of,
    job_options,
)
from .model.record import JobInfo
from .model.retry import RetryArgument, Signal, retry_policy
from .model.schedules import Missed, Schedule, interval_ms
from .model.task import PreparedCall, Registry, Step, SyncTask, Task, check_function, check_keys, task_name
from .model.workflow import Group, check_calls, check_step
from .producer.client import Clients, SyncStores, enqueue_sync
from .producer.results import value_of
from .protocol.keys import Keys
from .protocol.packing import encode_extras
from .protocol.request import Request
from .protocol.states import State
from .protocol.transitions import MAX_RICH, CancelWord, Recovered, Stored, cancel, forget, pause, resume, unpark
from .reports import ScheduleReport, drop_ended, read_job, read_open_jobs, read_schedules, read_states
from .settings import Seconds, Settings, SettingsArgs, resolve, setting_names, with_options
from .sharding.agreement import Layout
from .sharding.placement import wanted
from .sharding.shards import Shards
from .transport.link import Endpoint, Link, SyncLink, fill_standard_descriptors
from .transport.store import Store, SyncStore

if TYPE_CHECKING:
    from .transport.embedded import EmbeddedServer

P = ParamSpec("P")
R = TypeVar("R")
AnyTask = TypeVar("AnyTask", bound=Task[..., Any])

_UNGUARDED = (
    "this script was loaded in a child process for its isolate='process' jobs, and what it does when it is run began there; "
    'put that under `if __name__ == "__main__":`'
)
# A watcher looks at its job this often even if nothing is pushed: the start of a job is not.
WATCH_S = 1.0


class TrackedQueue:
    """
    A job queue on Redis that does not lose jobs.

    Making one opens no connection and may happen at import. The first use inside an event loop opens that loop's
    connections; `async with app:` closes them at its end. It is safe to share between tasks, threads with loops of
    their own, and over a fork.

    Args:
        redis_url: redis://, rediss://, unix:// or embedded://; default REDIS_URL, else redis://localhost:6379.
        lifespan: An async context manager function; each worker process enters it once, and what it yields is
            `current_job().state`, and the state of a JobContext.
        carry: Context variables whose values travel from an enqueue to its job (plain data).
        settings: Any other setting by its name; see docs/reference/settings.md.

    Raises:
        SettingsError: A value is wrong; names the setting and where the value came from.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        lifespan: Lifespan | None = None,
        carry: Sequence[ContextVar[Any]] = (),
        **settings: Unpack[SettingsArgs],
    ) -> None:
        check_lifespan(lifespan)
        self._settings = resolve({"redis_url": redis_url, **settings})
        self._clock = "now_ms"  # of its scripts; a test's kit has another
        self._set_shards()
        self.cipher = self._made_cipher()
        self.tasks = Registry()
        self.around = Surroundings(lifespan, check_carry(carry))
        self.schedules: dict[str, Schedule] = {}
        self.queue_limits: dict[str, tuple[Limit, ...]] = {}
        self._clients: dict[asyncio.AbstractEventLoop, tuple[int, Clients]] = {}
        self._sync_stores = self._made_sync_stores()
        self._embedded: EmbeddedServer | None = None
        self._embedded_lock = threading.RLock()
        self._embedding = False
        self._closed_for = ""  # why this app asks no Redis: it was included in another, or a test says so
        self._included = False

    def __copy__(self) -> TrackedQueue:
        return self

    def __deepcopy__(self, _memo: Any) -> TrackedQueue:
        return self

    def __reduce__(self) -> Never:
        raise TypeError("an app can't be pickled: import it where it is needed, and send ids of jobs")

    def __repr__(self) -> str:
        return f"<TrackedQueue {self._settings.shown('redis_url')} namespace={self._settings.namespace}>"

    @property
    def settings(self) -> Settings:
        """The resolved settings."""
        return self._settings

    def configure(self, *, redis_url: str | None = None, **settings: Unpack[SettingsArgs]) -> None:
        """
        Replace settings before the first use, as the CLI does with its options.

        Raises:
            UsageError: The app has been used already.
            SettingsError: A value is wrong.
        """
        self._check_own("configure")
        if self._clients or self._embedded is not None:
            raise UsageError("configure() comes before the first use of the app")
        self._settings = with_options(self._settings, {"redis_url": redis_url, **settings})
        self._set_shards()
        self.cipher = self._made_cipher()

    def child_settings(self, settings: Settings) -> dict[str, Any]:
        """What a child process of a worker with these settings goes by: see `adopt`."""
        values = settings.values()
        if self._embedded is not None:
            values["redis_url"] = self._embedded.url
        return values

    def adopt(self, values: Mapping[str, Any]) -> None:
        """Take over the settings of the worker that this process belongs to, whatever its environment says."""
        self._settings = with_options(self._settings, values)
        self._set_shards()
        self.cipher = self._made_cipher()
        self._sync_stores = self._made_sync_stores()

    # Defining tasks

    def task(
        self,
        *wrong: Never,
        name: str | None = None,
        queue: str = DEFAULT_QUEUE,
        timeout: Seconds | None = DEFAULT_TIMEOUT,
        max_attempts: int = DEFAULT_MAX_ATTEMPTS,
        retry: RetryArgument | None = None,
        retry_on: type[BaseException] | Sequence[type[BaseException]] | None = None,
        give_up_on: type[BaseException] | Sequence[type[BaseException]] | None = None,
        on_exhausted: Callable[[CurrentJob, BaseException], Coroutine[Any, Any, object]] | None = None,
        expires: Seconds | None = None,
        result_ttl: Seconds | None = None,
        keep_result: bool = True,
        tracked: bool = True,
        unique: UniqueUntil | Unique | None = None,
        limit: Limit | Sequence[Limit] | None = None,
        fair_by: Key | None = None,
        isolate: Isolate | None = None,
    ) -> TaskDecorator:
        """
        Register a function as a task; it stays callable. `async def` runs in the event loop, `def` in a thread.

        Args:
            name: Default: module and function name, the same when the module is run as a script.
            queue: Where its jobs wait.
            timeout: Seconds (or a timedelta) for one attempt; None is without limit.
            max_attempts: Runs in all; 1 means no retry.
            retry: Delays between attempts: Exponential() (the default, from 2 s to 10 min with full jitter), Fixed(5), a
                list of seconds, or a function of the attempt's number and the error.
            retry_on: Only these exceptions are retried; any other ends the job `failed`. Default: all.
            give_up_on: These are never retried.
            on_exhausted: `async def hook(job, error)`, called once when the job is dead because its attempts are used up.
            expires: Seconds from the enqueue; a job that has not started by then ends `expired`, with no run.
            result_ttl: Seconds to keep the ended job and its result; None takes the setting.
            keep_result: False stores no result.
            tracked: False: at most once, without recovery and result, for work that may be lost.
            unique: "until_started", "until_done", or Unique(...): at most one job of the same arguments at a time.
            limit: Concurrency(...), Rate(...), or several of them, over the whole fleet.
            fair_by: Argument name(s), or a function of the arguments: jobs of its values take turns.
            isolate: "process" runs a `def` in a child process, which a timeout or a cancel ends for certain.

        Raises:
            UsageError: Not a plain function (also a TypeError), a name used twice, a bad option.
        """
        if wrong:
            raise TaskDefinitionError(
                "write @app.task() with parentheses, and its options by name: @app.task(name=...)"
            )
        self._check_own("task")
        if name is not None:
            check_name("task name", name)
        check_flag("keep_result", keep_result)
        if not keep_result and result_ttl is not None:
            raise UsageError(
                "keep_result=False and result_ttl were both given; without a result there is nothing to keep"
            )
        if tracked is False:
            given = {"retry": retry, "retry_on": retry_on, "give_up_on": give_up_on, "result_ttl": result_ttl}
            given["max_attempts"] = max_attempts if max_attempts not in (1, DEFAULT_MAX_ATTEMPTS) else None
            for option, value in given.items():
                if value is not None:
                    raise UsageError(
                        f"tracked=False: such a job runs at most once and leaves nothing, so {option}= means nothing"
                    )
        both = set(_classes("retry_on", retry_on)) & set(_classes("give_up_on", give_up_on))
        for kind in both:
            raise UsageError(f"retry_on and give_up_on both name {kind.__qualname__}; it can be in one of them")
        options = TaskOptions(
            queue=queue,
            timeout=timeout,
            max_attempts=max_attempts,
            retry=retry_policy(retry),
            retry_on=_classes("retry_on", retry_on),
            give_up_on=_classes("give_up_on", give_up_on),
            on_exhausted=on_exhausted,
            expires=expires,
            result_ttl=result_ttl if keep_result else 0.0,
            tracked=tracked,
            unique=unique_of(unique),
            limits=limits_of(limit),
            fair_by=fair_by,
            isolate=isolate,
        )

        def register(function: Any) -> Any:
            check_function(function, isolate=isolate is not None)
            check_keys(function, options)
            kind = Task if inspect.iscoroutinefunction(function) else SyncTask
            task: Task[Any, Any] = kind(task_name(function) if name is None else name, function, options, self)
            task.prepare()
            self.tasks.add(task)
            return task

        return cast("TaskDecorator", register)

    def include(self, *others: TrackedQueue) -> None:
        """
        Take over the tasks, queue limits, schedules, middleware and carried variables of other apps, such as those of other
        modules. From then on they are part of this one: their tasks enqueue through it, and by themselves they ask no Redis.

        Raises:
            UsageError: It is none, this app itself, or included already; it has settings or a lifespan of its own, which
                would be lost; a task, schedule, queue limit or variable of that name exists here. Nothing was changed.
        """
        self._check_own("include")
        for at, other in enumerate(others):
            self._check_include(other, others[:at])
        for other in others:
            for task in other.tasks:
                self.tasks.add(task)
                task.move_to(self)
            self.around.carry += tuple(item for item in other.around.carry if item not in self.around.carry)
            self.around.run += other.around.run
            self.around.enqueue += other.around.enqueue
            self.queue_limits.update(other.queue_limits)
            self.schedules.update(other.schedules)
            other._closed_for, other._included = _INCLUDED, True

    def _check_own(self, what: str) -> None:
        if self._included:
            raise UsageError(f"{what}: {_INCLUDED}")

    def _check_include(self, other: Any, before: Sequence[TrackedQueue]) -> None:
        """Whether it can be taken over beside what is here, and beside those that are taken over before it."""
        if not isinstance(other, TrackedQueue):
            raise UsageError(f"include: {other!r} is a {type(other).__qualname__} and no TrackedQueue")
        if other is self:
            raise UsageError("include: an app can't include itself")
        if other in before:
            raise UsageError("include: the same app is given twice")
        if other._closed_for:
            raise UsageError(f"include: {other._closed_for}")
        if self._clients or other._clients:
            raise UsageError("include() comes before the first use of the apps")
        if other.around.lifespan is not None:
            raise UsageError(
                "include: the app has a lifespan of its own, which would be lost; give it to the app that includes"
            )
        for name in setting_names():
            own, theirs = getattr(self._settings, name), getattr(other._settings, name)
            if other._settings.sources.get(name) == "keyword" and own != theirs:
                raise UsageError(
                    f"include: the app has its own setting {name}, which would be lost; give it to the app that includes"
                )
        for app in (self, *before):
            check_carry([*app.around.carry, *(item for item in other.around.carry if item not in app.around.carry)])
            kinds: list[tuple[str, Collection[str], Collection[str]]] = [
                ("a task", [task.name for task in app.tasks], [task.name for task in other.tasks]),
                ("a schedule", app.schedules, other.schedules),
                ("limits of a queue", app.queue_limits, other.queue_limits),
            ]
            for kind, here, there in kinds:
                for name in there:
                    if name in here:
                        raise UsageError(
                            f"include: there is {kind} called {name} in both apps; give one of them another name"
                        )

    def limit_queue(self, queue: str, limit: Limit | Sequence[Limit]) -> None:
        """Limits of a whole queue over the fleet, beside those of its tasks. Say it before the queue's first enqueue."""
        self._check_own("limit_queue")
        limits = limits_of(limit, "limit_queue")
        if not limits:
            raise UsageError(f"limit_queue: {limit!r}: write Concurrency(...), Rate(...), or a list of them")
        self.queue_limits[check_name("queue", queue)] = limits

    def middleware(self, function: RunMiddleware) -> RunMiddleware:
        """Register `async def mw(job, call_next)` around the run of every job; the first one registered is outermost."""
        self._check_own("middleware")
        checks.check_function("middleware", function, "async def mw(job, call_next)", 2, waits=True)
        self.around.run.append(function)
        return function

    def enqueue_middleware(self, function: EnqueueMiddleware) -> EnqueueMiddleware:
        """Register `async def mw(enqueueing, call_next)` around every enqueue; `call_next()` returns the Job."""
        self._check_own("enqueue_middleware")
        checks.check_function("enqueue_middleware", function, "async def mw(enqueueing, call_next)", 2, waits=True)
        self.around.enqueue.append(function)
        return function

    # Enqueueing

    def request(
        self,
        task: Task[..., Any],
        options: JobOptions,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        headers: Mapping[str, Any] | None = None,
        id: str | None = None,
    ) -> Request:
        """A checked, encoded call. Raises ArgumentError, PayloadTooLargeError."""
        signature, chosen = task.signature, task.task_options
        given = 1 if options.inputs else 0  # positional arguments that come from the jobs before it
        packed_args, packed_kwargs = signature.encode(args, kwargs, self._settings.max_payload, given)
        queue = options.queue or chosen.queue
        extras: dict[str, Any] = {}
        if chosen.constrained or options.constrained or self.queue_limits:
            extras = extras_of(
                task.name,
                queue,
                chosen,
                options,
                lambda: signature.arrived(packed_args, packed_kwargs, given),
                self.queue_limits.get(queue, ()),
            )
        return self._made(
            task.name, queue, packed_args, packed_kwargs, options, chosen, headers, extras, id, signature.result
        )

    def _made(
        self,
        task: str,
        queue: str,
        args: bytes,
        kwargs: bytes,
        options: JobOptions,
        chosen: TaskOptions,
        headers: Mapping[str, Any] | None,
        extras: dict[str, Any],
        id: str | None = None,
        result: Any = None,
    ) -> Request:
        id, pinned = id or options.id, False
        if self._settings.shards > 1:
            shards, limits = self.shards, self.queue_limits.get(queue, ())
            where = wanted(shards, task, queue, chosen.unique, chosen.limits, limits, extras)
            if options.after:
                where += [
                    ("after=", shard)
                    for shard in [shards.common(f"task {task}", options.after_ids)]
                    if shard is not None
                ]
            home = shards.home(f"task {task}", id, where)
            id, pinned = id or shards.new_id(home), home is not None
        stored = b""
        if options.travels or options.headers or headers or self.around.carry:
            if not chosen.tracked and options.max_attempts not in (None, 1):
                raise UsageError(
                    f"task {task}: tracked=False: such a job runs at most once, so max_attempts= means nothing"
                )
            stored = self._travelling(task, options, headers, len(args) + len(kwargs))
        if self.cipher.active:
            args, kwargs, stored = self.cipher.seal(args), self.cipher.seal(kwargs), self.cipher.seal(stored)
        # By position: this is made for every enqueue, and names cost as much again.
        return Request(
            id or self.shards.new_id(), task, queue, args, kwargs, stored, options.delay_ms, options.due_ms, chosen.tracked,
            encode_extras(extras) if extras else b"", result, options.durability or self._settings.durability, pinned,
            tuple(options.after_ids[AFTER_AT_ONCE:]) if options.after is not None else (), extras.get("wants", 0),
        )  # fmt: skip

    def _travelling(self, task: str, options: JobOptions, headers: Mapping[str, Any] | None, size: int) -> bytes:
        """What goes with a job beside its arguments, of so many bytes: it is held to what they are."""
        sent, context = {**(options.headers or {}), **(headers or {})}, self.around.carried()
        for what, values in (("headers", sent), ("carry", context)):
            for name, value in values.items():
                if not isinstance(name, str):
                    raise ArgumentError(task, what, f"the key {name!r} is a {type(name).__qualname__}; keys are text")
                try:
                    encode_any({name: value})
                except TypeError as error:
                    raise ArgumentError(task, f"{what}[{name!r}]", f"{error}; plain data travels here") from None
        stored = options.stored(sent, context)
        if size + len(stored) > self._settings.max_payload:
            raise PayloadTooLargeError(task, size + len(stored), self._settings.max_payload)
        return stored

    def _named_request(
        self,
        name: str,
        options: JobOptions,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        headers: Mapping[str, Any] | None = None,
    ) -> Request:
        packed = (_encode_plain(name, args) if args else b"", _encode_plain(name, kwargs) if kwargs else b"")
        size = sum(map(len, packed))
        if size > self._settings.max_payload:
            raise PayloadTooLargeError(name, size, self._settings.max_payload)
        queue = options.queue or DEFAULT_QUEUE
        chosen = TaskOptions()
        extras = extras_of(name, queue, chosen, options, dict, self.queue_limits.get(queue, ()))
        return self._made(name, queue, *packed, options, chosen, headers, extras)

    async def enqueue(self, task_name: str, /, *args: Any, **kwargs: Any) -> Job[Any]:
        """
        Store a call of a task by its name, for a producer that doesn't import the code.

        Where the task is registered here its signature and queue count; else the arguments must be plain data, and
        the queue is "default" unless `options(queue=...)` says another.
        """
        return await self.enqueue_named(task_name, JobOptions(), args, kwargs)

    def enqueue_sync(self, task_name: str, /, *args: Any, **kwargs: Any) -> Job[Any]:
        """`enqueue` for code without an event loop."""
        return run_now(self.enqueue_named(task_name, JobOptions(), args, kwargs, sync=True))

    def options(self, **options: Unpack[JobOptionsArgs]) -> NamedEnqueue:
        """Options (see JobOptions) for the next enqueue by name, as `Task.options`."""
        return NamedEnqueue(self, job_options(options))

    async def enqueue_many(self, calls: Sequence[PreparedCall[Any]]) -> list[Job[Any]]:
        """
        Store many calls, made by `task.call(...)`, in order and in large portions.

        Everything is checked before anything is sent. A call that is there several times makes several jobs, and one that was
        stored before makes another; only an id that you gave makes one job. When Redis fails in between, the error's
        `job_ids` are those that may be missing; the same calls can be sent again, with the same ids.
        """
        with self._taken("enqueue_many", calls) as taken:
            return await self._store_many(taken)

    async def _store_many(self, calls: Sequence[PreparedCall[Any]]) -> list[Job[Any]]:
        ready = [await self._ready(call) for call in calls]
        requests = [item for item in ready if isinstance(item, Request)]
        stored = await self._clients_here().enqueue_many(requests) if requests else []
        return self._handles(ready, requests, stored)

    def enqueue_many_sync(self, calls: Sequence[PreparedCall[Any]]) -> list[Job[Any]]:
        """`enqueue_many` for code without an event loop."""
        with self._taken("enqueue_many_sync", calls) as taken:
            ready = [run_now(self._ready(call)) for call in taken]
            requests = [item for item in ready if isinstance(item, Request)]
            stored = enqueue_sync(self._sync_stores, requests, self._settings, self.shards, self._agree_sync)
            return self._handles(ready, requests, stored)

    @contextlib.contextmanager
    def _taken(
        self,
        what: str,
        given: Sequence[PreparedCall[Any] | Job[Any]],
        kinds: tuple[type, ...] = (PreparedCall,),
        most: float = math.inf,
    ) -> Iterator[list[PreparedCall[Any]]]:
        """
        The calls among what was given, each with an id of its own; given back if they could not be stored, so that they can be
        sent again.
        """
        check_calls(what, given, self, kinds, most=most)
        calls = [call for call in given if isinstance(call, PreparedCall)]
        taken = [call.taken(self.shards.new_like) for call in calls]
        try:
            yield taken
        except JobError:  # what it says is the store's answer
            raise
        except BaseException:
            for call, own in zip(reversed(calls), reversed(taken), strict=True):
                call.give_back(own.request.id)
            raise

    async def _ready(self, call: PreparedCall[Any]) -> Request | Job[Any]:
        """The request of a prepared call, after middleware has seen it; or the handle that middleware gave in its place."""
        if not self.around.enqueue:
            return call.request
        made: list[Request] = []

        def make(headers: Mapping[str, Any]) -> Request:
            made.append(self.request(call.task, call.options, call.args, call.kwargs, headers, call.request.id))
            return made[0]

        job = await self._through_middleware(
            call.task.name, call.request.queue, call.options, call.args, call.kwargs, make, call.request.id, hold=True
        )
        return made[0] if made else job

    # Workflows

    async def chain(self, first: PreparedCall[Any] | Job[Any], *steps: Step | PreparedCall[Any]) -> Job[Any]:
        """
        Jobs that run one after the other; a `step` gets the result of the one before as its first argument.

        When one does not succeed, those after it end `failed`, without a run.

        Args:
            first: A call, or a job that is stored already.

        Returns:
            The handle of the last one.
        """
        check_calls("chain", steps, self, (PreparedCall, Step))
        with self._taken("chain", [first], (PreparedCall, Job)) as taken:
            head = taken[0] if taken else first
            home = self._home("chain", [head, *steps])
            calls = [self._in_shard(call, home) for call in taken]
            before = _id_of(calls[0] if calls else head)
            for step in steps:
                calls.append(self._after(step, [before], "fail", "one"))
                before = calls[-1].request.id
            jobs = await self._store_many(calls)
        return jobs[-1] if jobs else cast(Job[Any], first)

    async def group(
        self,
        calls: Sequence[PreparedCall[Any] | Job[Any]],
        then: Step | PreparedCall[Any] | None = None,
        on_failure: Literal["fail", "ignore"] = "fail",
    ) -> Group:
        """
        Jobs that run side by side, and one that runs when all have ended; a `step` gets their results.

        Args:
            calls: At most 100,000, made by `task.call(...)`; jobs that are stored already can be among them.
            then: The fan-in.
            on_failure: `fail` ends the fan-in as soon as a member has ended without success; `ignore` runs it all the
                same, with None for that member.
        """
        return await self._group("group", calls, {"then": (then, on_failure)})

    async def batch(
        self,
        calls: Sequence[PreparedCall[Any] | Job[Any]],
        *,
        success: Step | PreparedCall[Any] | None = None,
        complete: Step | PreparedCall[Any] | None = None,
    ) -> Group:
        """
        Jobs with a common progress (`Group.progress()`) and callbacks: `success` runs when all have succeeded, `complete`
        when all have ended, however they did.
        """
        return await self._group("batch", calls, {"success": (success, "fail"), "complete": (complete, "ignore")})

    async def _group(
        self, what: str, calls: Sequence[PreparedCall[Any] | Job[Any]], callbacks: Mapping[str, tuple[Any, OnFailure]]
    ) -> Group:
        if not check_list(what, calls, "calls made by task.call(...)"):
            raise UsageError(f"{what}: it needs at least one job")
        for name, (step, on_failure) in callbacks.items():
            check_step(f"{what}: {name}", step, self)
            if on_failure not in ("fail", "ignore"):
                raise UsageError(f"{what}: on_failure={on_failure!r}: it must be 'fail' or 'ignore'")
        steps = [step for step, _ in callbacks.values() if step is not None]
        with self._taken(what, calls, (PreparedCall, Job), most=MAX_AFTER) as taken:
            stored = [call for call in calls if isinstance(call, Job)]
            home = self._home(what, [*taken, *stored, *steps])
            members = [self._in_shard(call, home) for call in taken]
            new = iter(members)
            ids = [_id_of(call if isinstance(call, Job) else next(new)) for call in calls]
            last = {
                name: self._after(step, ids, on_failure, "list")
                for name, (step, on_failure) in callbacks.items()
                if step is not None
            }
            jobs = await self._store_many([*members, *last.values()])
        handles = dict(zip(last, jobs[len(members) :], strict=True))
        made = iter(jobs)
        return Group(jobs=tuple(call if isinstance(call, Job) else next(made) for call in calls), **handles)

    def _after(
        self, step: Step | PreparedCall[Any], ids: Sequence[str], on_failure: OnFailure, inputs: str
    ) -> PreparedCall[Any]:
        """A step as a job that comes after these; what it says itself of `after` and `on_failure` is kept."""
        own = step.options
        named = set(ids)
        more = [id for id in own.after_ids if id not in named]
        takes = inputs if isinstance(step, Step) else ""
        options = dataclasses.replace(
            own,
            after=[*ids, *more],
            on_failure=on_failure if own.on_failure == "fail" else own.on_failure,
            inputs=takes,
            wanted=len(ids),  # what it comes after beside the jobs of the workflow gives it no result
        )
        request = self.request(step.task, options, step.args, step.kwargs)
        return PreparedCall(request, step.task, options, step.args, step.kwargs)

    def _home(self, what: str, calls: Sequence[PreparedCall[Any] | Job[Any] | Step]) -> int:
        """The shard of a workflow: the one that some member has to be in, else that of the first. Raises UsageError."""
        if self.shards.count == 1:
            return 0
        known = [call.request for call in calls if isinstance(call, PreparedCall)]
        stored = [call.id for call in calls if isinstance(call, Job)]
        for call in calls:
            if isinstance(call, Step):
                options = dataclasses.replace(call.options, inputs="list")
                known.append(self.request(call.task, options, call.args, call.kwargs))
        found = self.shards.common(what, [*stored, *(request.id for request in known if request.pinned)])
        return self.shards.of_id(known[0].id) if found is None else found

    def _in_shard(self, call: PreparedCall[Any], shard: int) -> PreparedCall[Any]:
        request = call.request
        if request.pinned:
            return call
        return msgspec.structs.replace(
            call, request=msgspec.structs.replace(request, id=self.shards.moved(request.id, shard))
        )

    # Schedules

    def cron(
        self,
        expression: str,
        *,
        tz: str | ZoneInfo = "UTC",
        missed: Missed = "once",
        name: str | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Callable[[AnyTask], AnyTask]:
        """
        Run a task by a cron expression: write it above `@app.task(...)`.

        Args:
            expression: Five fields, or six with seconds first.
            tz: The zone of its times, by name or as a ZoneInfo: once a local day for a fixed time, over both changes of
                daylight saving too.
            missed: Ticks while no worker ran: `skip`, `once` (the last one runs), or `all`.
            name: Of the schedule; default the task's name.
            args, kwargs: The call's arguments.
        """
        if not isinstance(expression, str):
            raise UsageError(
                f'cron: expression={expression!r}: write @app.cron("0 3 * * *"), with the expression as text'
            )
        zone = tz.key if isinstance(tz, ZoneInfo) else tz
        if not isinstance(zone, str) or not zone:
            raise UsageError(
                f"cron: tz={tz!r}: it must be the name of a timezone, such as Europe/Berlin, or a ZoneInfo"
            )
        return self._scheduled(name, args, kwargs, cron=expression, tz=zone, missed=missed)

    def every(
        self,
        seconds: Seconds,
        *,
        missed: Missed = "once",
        name: str | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Callable[[AnyTask], AnyTask]:
        """Run a task at a fixed interval of a second or more: write it above `@app.task(...)`. See `cron`."""
        return self._scheduled(name, args, kwargs, every_ms=interval_ms(seconds), missed=missed)

    def _scheduled(
        self, name: str | None, args: Sequence[Any], kwargs: Mapping[str, Any] | None, **rule: Any
    ) -> Callable[[AnyTask], AnyTask]:
        if name is not None:
            check_name("schedule: name", name)
        check_list("args", args, "the call's arguments")
        if kwargs is not None:
            check_mapping("kwargs", kwargs, "the call's arguments by name")

        def register(task: AnyTask) -> AnyTask:
            if not isinstance(task, Task):
                raise UsageError("write @app.cron(...) and @app.every(...) above @app.task(...)")
            if task.app is not self:
                raise UsageError(
                    f"schedule of task {task.name}: it belongs to another app; use that one's cron or every"
                )
            called = task.name if name is None else name
            added = Schedule(name=called, task=task, args=tuple(args), kwargs=dict(kwargs or {}), **rule)
            with contextlib.suppress(UnreadableHintsError):  # looked at when a worker starts
                task.signature.encode(tuple(added.args), added.kwargs, self._settings.max_payload)
            if added.name in self.schedules:
                raise UsageError(f"schedule {added.name}: there is one of that name already; give it name=...")
            self.schedules[added.name] = added
            return task

        return register

    def tick(self, schedule: Schedule, tick_ms: int, mode: str) -> Request:
        """The job of one tick; its id is that of the tick, so that any number of workers make one of it."""
        options = JobOptions(tick=(schedule.name, tick_ms, mode))
        request = self.request(schedule.task, options, tuple(schedule.args), dict(schedule.kwargs))
        shards = self.shards
        home = shards.of_id(request.id) if request.pinned else shards.of_text(f"schedule:{schedule.name}")
        return msgspec.structs.replace(request, id=shards.moved(f"cron:{schedule.name}:{tick_ms}", home))

    async def trigger(self, schedule: str) -> Job[Any]:
        """Run a schedule's task now, beside its ticks. Raises UsageError for a name that this app doesn't have."""
        found = self.schedules.get(check_name("schedule", schedule))
        if found is None:
            raise UsageError(
                f"schedule {schedule!r}: this app has none of that name; {did_you_mean(schedule, self.schedules)}"
            )
        return await self.enqueue_call(found.task, JobOptions(), tuple(found.args), dict(found.kwargs))

    async def read_schedules(self) -> list[ScheduleReport]:
        """What schedules the fleet runs, with their last ticks."""
        await self._clients_here().agree()
        found = [one for store in self.stores for one in await read_schedules(store)]
        return sorted(found, key=lambda item: item.name)

    async def pause(
        self, *, queue: str | None = None, task: str | Task[..., Any] | None = None, schedule: str | None = None
    ) -> bool:
        """Pause a queue, a task or a schedule over the whole fleet; False if it was paused."""
        what = _what(queue, task, schedule)
        await self._clients_here().agree()
        changed = [await store.run(pause(what)) for store in self.stores]
        return any(changed)

    async def resume(
        self, *, queue: str | None = None, task: str | Task[..., Any] | None = None, schedule: str | None = None
    ) -> bool:
        """Undo a pause; False if there was none. A task's parked jobs go back to their queues."""
        what = _what(queue, task, schedule)
        await self._clients_here().agree()
        changed = False
        for store in self.stores:
            changed = await store.run(resume(what)) or changed
            while task is not None:
                moved, remaining = await store.run(unpark(_name_of(task), []))
                if not moved or not remaining:
                    break
        return changed

    async def cancel_many(self, *, queue: str | None = None, task: str | Task[..., Any] | None = None) -> int:
        """
        Cancel the jobs of a queue or a task that are queued, scheduled, waiting for others, parked or running now.

        Returns:
            How many were cancelled, or asked to end.
        """
        if (queue is None) == (task is None):
            raise UsageError("cancel_many: give queue= or task=")
        if queue is not None:
            check_name("queue", queue)
        named = None if task is None else _name_of(task)
        await self._clients_here().agree()
        count = 0
        for store in self.stores:
            async for ids in read_open_jobs(store, queue=queue, task=named):
                for at in range(0, len(ids), MAX_RICH):
                    words = await store.run(cancel(ids[at : at + MAX_RICH], self._settings.ended_ttl))
                    count += sum(word in (CancelWord.CANCELLED, CancelWord.REQUESTED) for word in words)
            await drop_ended(store, queue=queue, task=named)
        return count

    async def retire(self, *, queue: str | None = None, task: str | Task[..., Any] | None = None) -> int:
        """
        Let a queue that nobody serves any more, or a task that was removed from the code, leave nothing behind: its jobs are
        cancelled as by `cancel_many`, and the queue's name is forgotten. A later enqueue begins anew.

        Returns:
            How many jobs were cancelled.
        """
        count = await self.cancel_many(queue=queue, task=task)
        if queue is not None:
            kept = [store for store in self.stores if not await store.run(forget(queue))]
            if kept:
                raise UsageError(
                    f"retire: queue {queue!r} got further jobs meanwhile; stop what enqueues there, and retire it again"
                )
        return count

    def _handles(
        self, ready: Sequence[Request | Job[Any]], requests: Sequence[Request], stored: Sequence[Stored]
    ) -> list[Job[Any]]:
        """The handles of a call's jobs; the first that was refused raises, with those of the others."""
        outcomes: list[Job[Any] | JobError] = []
        for request, one in zip(requests, stored, strict=True):
            try:
                outcomes.append(self._handle(request, one))
            except JobError as error:
                outcomes.append(error)
        refused = [item for item in outcomes if isinstance(item, JobError)]
        handles = iter(item for item in outcomes if isinstance(item, Job))
        if refused:
            refused[0].stored = tuple(handles)
            if refused[0].stored:
                refused[0].add_note(f"{len(refused[0].stored)} other jobs of this call were stored; see .stored")
            raise refused[0]
        return [next(handles) if isinstance(item, Request) else item for item in ready]

    async def enqueue_call(
        self,
        task: Task[..., Any],
        options: JobOptions,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        sync: bool = False,
    ) -> Job[Any]:
        """What `task.enqueue` ends in: middleware, checks, one job stored. `sync`: without waiting for an event loop."""
        if not self.around.enqueue:
            return await self._store(self.request(task, options, args, kwargs), sync)
        return await self._through_middleware(
            task.name, options.queue or task.task_options.queue, options, args, kwargs,
            lambda headers: self.request(task, options, args, kwargs, headers), sync=sync,
        )  # fmt: skip

    def enqueue_call_sync(
        self, task: Task[..., Any], options: JobOptions, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Job[Any]:
        """`enqueue_call` without an event loop."""
        return run_now(self.enqueue_call(task, options, args, kwargs, sync=True))

    async def enqueue_named(
        self, name: str, options: JobOptions, args: tuple[Any, ...], kwargs: dict[str, Any], *, sync: bool = False
    ) -> Job[Any]:
        """`enqueue_call` of a task by its name, whether its code is at hand or not."""
        if isinstance(name, Task):
            raise UsageError(
                f"enqueue({name.name}, ...): it takes a task's name; with the task at hand write {name.name}.enqueue(...)"
            )
        task = self.tasks.get(check_name("task name", name))
        if task is not None:
            return await self.enqueue_call(task, options, args, kwargs, sync=sync)
        return await self._through_middleware(
            name, options.queue or DEFAULT_QUEUE, options, args, kwargs,
            lambda headers: self._named_request(name, options, args, kwargs, headers), sync=sync,
        )  # fmt: skip

    async def _through_middleware(
        self,
        task: str,
        queue: str,
        options: JobOptions,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        make: Callable[[Mapping[str, Any]], Request],
        id: str | None = None,
        *,
        sync: bool = False,
        hold: bool = False,
    ) -> Job[Any]:
        on_its_way = Enqueueing(task=task, queue=queue, id=id or options.id, args=args, kwargs=kwargs, options=options)

        async def store() -> Job[Any]:
            request = make(on_its_way.headers)
            if hold:  # it is stored with the others of its batch
                return Job(request.id, True, self, request.result)
            return await self._store(request, sync)

        job = await chained(self.around.enqueue, on_its_way, store)
        if not isinstance(job, Job):
            raise UsageError(
                f"an enqueue middleware returned a {type(job).__qualname__}; return the Job that `await call_next()` gives"
            )
        return job

    async def _store(self, request: Request, sync: bool) -> Job[Any]:
        if sync:
            (stored,) = enqueue_sync(self._sync_stores, [request], self._settings, self.shards, self._agree_sync)
        else:
            stored = await self._clients_here().of_id(request.id).enqueue(request)
        return self._handle(request, stored)

    def _handle(self, request: Request, stored: Stored) -> Job[Any]:
        """The handle to what an enqueue stored, or to the job that was there instead."""
        if isinstance(stored, bool):
            return Job(request.id, stored, self, request.result, request.durability)
        task = self.tasks.get(request.task)
        if stored.word == "unknown":
            raise JobNotFoundError(stored.id)
        if stored.word == "taken":
            raise DuplicateJobError(request.id, request.task, f"the id belongs to a job of task {stored.id}")
        unique = task.task_options.unique if task is not None else None
        if unique is not None and stored.word == "held" and unique.conflict != "existing":
            problem = "another job holds its unique key"
            if unique.conflict == "replace":
                problem = "the job that holds its unique key has started, and can't be replaced"
            raise DuplicateJobError(stored.id, request.task, problem)
        return Job(stored.id, False, self, request.result, request.durability)

    # Jobs

    def job(self, id: str) -> Job[Any]:
        """A handle to a job by its id; nothing is asked yet. Raises UsageError for an id that can't be one."""
        if callable(id):
            raise UsageError(
                f"app.job({getattr(id, '__name__', id)}): it takes the id of a job; @app.task() makes a task"
            )
        return Job(check_name("job id", id), False, self)

    async def job_info(self, job_id: str, codec: Any) -> JobInfo:
        """See `Job.info`."""
        return await read_job(self.store_of(job_id), job_id, codec, self.cipher)

    async def job_states(self, job_ids: Sequence[str]) -> list[State | None]:
        """See `Group.progress`."""
        found: dict[str, State | None] = {}
        for shard, ids in self.shards.by_shard(job_ids).items():
            found.update(zip(ids, await read_states(self.stores[shard], ids), strict=True))
        return [found[id] for id in job_ids]

    async def job_watch(self, job_id: str, codec: Any) -> AsyncIterator[JobInfo]:
        """See `Job.watch`."""
        shown = await read_job(self.store_of(job_id), job_id, codec, self.cipher)
        yield shown
        if shown.state.ended:
            return
        async with self._clients_here().of_id(job_id).results.notices(job_id) as wait:
            while not shown.state.ended:
                info = await read_job(self.store_of(job_id), job_id, codec, self.cipher)
                if info != shown:
                    yield info
                shown = info
                if not info.state.ended:
                    await wait(WATCH_S)

    async def job_result(self, job_id: str, codec: Any, timeout: Seconds | None) -> Any:
        """See `Job.result`."""
        seconds = None if timeout is None else to_seconds("timeout", timeout)
        job = current.get()
        with contextlib.nullcontext() if job is None else job.waiting():
            ended = await self._clients_here().of_id(job_id).results.wait(job_id, seconds)
        task = self.tasks.get(ended.task) if codec is None else None
        return value_of(job_id, ended, codec if task is None else task.signature.result, self.cipher)

    async def job_cancel(self, job_id: str) -> bool:
        """See `Job.cancel`."""
        (word,) = await self.store_of(job_id).run(cancel([job_id], self._settings.ended_ttl))
        return word in (CancelWord.CANCELLED, CancelWord.REQUESTED)

    async def recover(self) -> list[Recovered]:
        """
        Recover the jobs of all run-out leases now, and return what was moved; what `auto_recovery=False` leaves to
        a person. Leases that are alive, and a hold after an outage, are respected.
        """
        await self._clients_here().agree()
        from .worker.recovery import recover_once

        moved: list[Recovered] = []
        for store in self.stores:
            moved += await recover_once(store, self._settings, owner="app.recover")
        return moved

    # Running

    async def run_worker(
        self,
        *,
        queues: Sequence[str] | Mapping[str, float] | None = None,
        concurrency: int | None = None,
        queue_concurrency: Mapping[str, int] | None = None,
        burst: bool = False,
        handle_signals: bool = True,
    ) -> int:
        """
        Run a worker in this process until a signal (or, with `burst`, until its queues are empty).

        It is one instance without a supervisor: when this process is killed, another instance recovers its jobs
        after `heartbeat_ttl`. When a job can't be stopped although the lease runs out, the process is ended.

        Args:
            queues: In priority order, or with weights; default: the queues of all tasks.
            concurrency: Default: the setting.
            queue_concurrency: Most jobs of a queue that this instance runs at a time.
            burst: End when nothing is left to fetch.
            handle_signals: Stop on SIGTERM and SIGINT; False leaves signals to you: cancel this call to stop.

        Returns:
            0 when everything was handed back or done.

        Raises:
            UsageError: No tasks, or no queues.
            StoreRefusedError: A server that can't be used.
        """
        from .worker.instance import Instance
        from .worker.isolated import is_isolated

        if is_isolated():
            raise UnguardedScriptError(_UNGUARDED)
        check_flag("burst", burst)
        check_flag("handle_signals", handle_signals)
        settings = with_options(self._settings, {"concurrency": concurrency})
        instance = Instance(
            self,
            settings,
            await self._endpoint_async(),
            queues=queues,
            queue_concurrency=queue_concurrency,
            burst=burst,
        )
        return await instance.run(handle_signals=handle_signals)

    # Connections

    async def find_shards(self) -> None:
        """
        Take the namespace's own number of shards where none was set: for tools, which are started without the app's code.

        Raises:
            UsageError: Another number was set (a tool that works on a part of the shards would mislead), or the app was used.
            StoreUnavailableError: Redis could not be asked.
        """
        keys = self.shards.layout_keys
        link = Link((await self._endpoint_async()).of(keys))
        try:
            (found,) = await Store(link, keys).read(("GET", keys.single("shards")))
        except StoreRefusedError:
            return  # whatever comes next says which right is missing
        finally:
            await link.close()
        if found is not None and found.isdigit() and int(found) != self._settings.shards:
            if self._shards_chosen:
                settings = self._settings
                raise UsageError(
                    f"namespace {settings.namespace} has {int(found)} shards, and shards is set to {settings.shards} here"
                )
            if self._clients:
                raise UsageError("find_shards() comes before the first use of the app")
            self._settings = with_options(self._settings, {"shards": int(found)})
            self._set_shards()

    def _made_cipher(self) -> Cipher:
        settings = self._settings
        return Cipher(parse_keys(settings.encryption_keys), settings.source_of("encryption_keys"))

    @property
    def _shards_chosen(self) -> bool:
        return self._settings.sources.get("shards") != "default"

    def _set_shards(self) -> None:
        self.shards = Shards(self._settings.namespace, self._settings.shards, self._clock)
        self.layout = Layout(self.shards, self._shards_chosen)

    async def __aenter__(self) -> TrackedQueue:
        await self._endpoint_async()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def close(self) -> None:
        """
        Close the connections of `enqueue_sync` and `enqueue_many_sync` in all threads, and give up the embedded server unless
        an event loop uses it. A later use opens new ones. For programs without an event loop; others await `aclose()`.
        """
        used, self._sync_stores = self._sync_stores, self._made_sync_stores()
        used.close()
        self._give_up_embedded()

    async def aclose(self) -> None:
        """Close this event loop's connections, and give up the embedded server; a later use opens new ones."""
        found = self._clients.pop(asyncio.get_running_loop(), None)
        if found is not None:
            await found[1].close()
        self._give_up_embedded()

    def _give_up_embedded(self) -> None:
        if self._embedded is not None and not self._clients:
            self._embedded.close()
            self._embedded = None

    @property
    def stores(self) -> list[Store]:
        """The transitions of each shard over this event loop's pools, in the shards' order."""
        return [client.store for client in self._clients_here().all]

    @property
    def store(self) -> Store:
        """The first shard's, which is the only one unless `shards` says another number."""
        return self.stores[0]

    @property
    def keys(self) -> Keys:
        """The key names of the first shard."""
        return self.shards.keys(0)

    def store_of(self, job_id: str) -> Store:
        """The transitions of the shard in which a job is."""
        return self._clients_here().of_id(job_id).store

    def endpoint(self) -> Endpoint:
        """Where Redis is; starts the embedded server if there is to be one, which may take a moment."""
        loaded_in = sys.modules.get("tracked_queue.worker.isolated")
        if loaded_in is not None and loaded_in.is_loading():
            raise UnguardedScriptError(_UNGUARDED)
        if self._closed_for:
            raise UsageError(self._closed_for)
        fill_standard_descriptors()
        if not self._settings.redis_url.startswith("embedded:"):
            return Endpoint(self._settings)
        from .transport.embedded import start_embedded

        with self._embedded_lock:
            if self._embedding:  # in a signal's handler or a finalizer, while this thread starts it
                raise StoreUnavailableError("the embedded server is being started", may_have_run=False)
            if self._embedded is None:
                self._embedding = True
                try:
                    self._embedded = start_embedded(self._settings.redis_url)
                finally:
                    self._embedding = False
            return Endpoint(self._settings, self._embedded.url)

    async def _endpoint_async(self) -> Endpoint:
        return await asyncio.to_thread(self.endpoint)

    def _clients_here(self) -> Clients:
        """This event loop's clients. Those of another process (before a fork) are left alone."""
        loop = asyncio.get_running_loop()
        found = self._clients.get(loop)
        if found is None or found[0] != os.getpid():
            for other in list(self._clients):
                if other.is_closed():
                    self._clients.pop(other, None)
            found = os.getpid(), Clients(self._settings, self.endpoint(), self.shards, self.layout)
            self._clients[loop] = found
        return found[1]

    def _made_sync_stores(self) -> SyncStores:
        def make(shard: int) -> SyncStore:
            keys = self.shards.keys(shard)
            return SyncStore(SyncLink(self.endpoint().of(keys)), keys)

        return SyncStores(make)

    def _agree_sync(self, seconds: float) -> None:
        """See Layout.agree."""
        if not self.layout.agreed:
            self.layout.agree_sync(self.endpoint(), seconds)


class TaskDecorator(Protocol):
    """What `app.task(...)` returns: it keeps the function's own signature, without a JobContext in front."""

    # A coroutine function is also a function that returns a coroutine: the overloads overlap, and the first one counts.

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[JobContext[Any], P], Coroutine[Any, Any, R]], /
    ) -> Task[P, R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[JobContext[Any], P], R], /) -> SyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> SyncTask[P, R]: ...


def _classes(name: str, given: Any) -> tuple[type[BaseException], ...]:
    if given is None:
        return ()
    classes = (given,) if isinstance(given, type) else given
    if not isinstance(classes, list | tuple):
        raise UsageError(f"{name}={given!r}: it must be an exception class or a list of them")
    if not classes:
        raise UsageError(f"{name}={given!r}: give at least one class; max_attempts=1 retries nothing")
    for kind in classes:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise UsageError(f"{name}: {kind!r} is not an exception class")
        if issubclass(kind, Signal):
            raise UsageError(f"{name}: {kind.__qualname__} is a signal that a job raises on purpose, and no error")
    return tuple(classes)


def _name_of(task: Any) -> str:
    return check_name("task", task.name if isinstance(task, Task) else task)


def _id_of(member: PreparedCall[Any] | Job[Any]) -> str:
    return member.id if isinstance(member, Job) else member.request.id


_INCLUDED = "this app was included in another one; use that one, and define everything before"


def _what(queue: Any, task: Any, schedule: Any) -> str:
    given = {"queue": queue, "task": task.name if isinstance(task, Task) else task, "schedule": schedule}
    names = [f"{kind}:{check_name(kind, name)}" for kind, name in given.items() if name is not None]
    if len(names) != 1:
        raise UsageError("give one of queue=, task= and schedule=")
    return names[0]


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
        return await self._app.enqueue_named(task_name, self._options, args, kwargs)

    def enqueue_sync(self, task_name: str, /, *args: Any, **kwargs: Any) -> Job[Any]:
        """See `TrackedQueue.enqueue_sync`."""
        return run_now(self._app.enqueue_named(task_name, self._options, args, kwargs, sync=True))
