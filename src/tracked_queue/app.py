"""`TrackedQueue`: the decorator, the typed enqueue, reading jobs and waiting for them."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Concatenate, Literal, Never, ParamSpec, Protocol, TypeVar, Unpack, cast, overload
from zoneinfo import ZoneInfo

from .errors import (
    TaskDefinitionError,
    UnguardedScriptError,
    UnreadableHintsError,
    UsageError,
)
from .model import checks
from .model.checks import (
    check_carry,
    check_flag,
    check_lifespan,
    check_list,
    check_mapping,
    check_name,
    check_source,
    check_sync_context,
    to_seconds,
)
from .model.constraints import Key, Limit, Unique, UniqueUntil, limits_of, unique_of
from .model.context import CurrentJob, JobContext
from .model.definitions import Definitions
from .model.hooks import EnqueueMiddleware, FailureHook, Hooks, Lifespan, RunMiddleware, SyncContext, run_now
from .model.job import Job
from .model.options import (
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_QUEUE,
    DEFAULT_TIMEOUT,
    Isolate,
    JobOptions,
    JobOptionsArgs,
    TaskOptions,
    job_options,
)
from .model.retry import RetryArgument, Signal, retry_policy
from .model.schedules import Missed, Planned, Schedule, ScheduleSource, interval_ms
from .model.task import PreparedCall, Registry, Step, SyncTask, Task, check_function, check_keys, task_name
from .model.workflow import Group
from .producer.connections import UNGUARDED, Connections
from .producer.producer import Producer
from .protocol.transitions import Recovered
from .settings import Seconds, Settings, SettingsArgs, resolve, setting_names, with_options

if TYPE_CHECKING:
    from .operator.operator import Operator
    from .reports.schedules import ScheduleReport

P = ParamSpec("P")
R = TypeVar("R")
SyncContextT = TypeVar("SyncContextT", bound=SyncContext)
PlansT = TypeVar("PlansT", bound=Callable[..., Coroutine[Any, Any, Sequence[Planned]]])
AnyTask = TypeVar("AnyTask", bound=Task[..., Any])


class TrackedQueue:
    """
    A job queue on Redis that does not lose jobs.

    Creating one opens no connection, so it may happen at import. The first use inside an event loop opens that loop's
    connections; `async with app:` closes them at its end. It can safely be shared between tasks, between threads
    with their own loops, and across a fork.

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
        self._connections = Connections(resolve({"redis_url": redis_url, **settings}))
        self._definitions = Definitions(Hooks(lifespan, check_carry(carry)))
        self._producer = Producer(self, self._definitions, self._connections)
        self._operator: Operator | None = None
        self._included = False

    def __copy__(self) -> TrackedQueue:
        return self

    def __deepcopy__(self, _memo: Any) -> TrackedQueue:
        return self

    def __reduce__(self) -> Never:
        raise TypeError("an app can't be pickled: import it where it is needed, and send ids of jobs")

    def __repr__(self) -> str:
        return f"<TrackedQueue {self.settings.shown('redis_url')} namespace={self.settings.namespace}>"

    @property
    def settings(self) -> Settings:
        """The resolved settings."""
        return self._connections.settings

    @property
    def tasks(self) -> Registry:
        """The tasks, by name."""
        return self._definitions.tasks

    @property
    def schedules(self) -> Mapping[str, Schedule]:
        """The schedules, by name."""
        return self._definitions.schedules

    @property
    def operator(self) -> Operator:
        """For operators: queues, instances, dead jobs, and everything else that the command line can do."""
        if self._operator is None:
            from .operator.operator import Operator  # most programs only produce

            self._operator = Operator(self._connections, self._producer)
        return self._operator

    def configure(self, *, redis_url: str | None = None, **settings: Unpack[SettingsArgs]) -> None:
        """
        Replace settings before the first use, as the CLI does with its options.

        Raises:
            UsageError: The app has been used already.
            SettingsError: A value is wrong.
        """
        self._check_own("configure")
        if self._connections.are_open:
            raise UsageError("call configure() before the first use of the app")
        self._connections.use(with_options(self.settings, {"redis_url": redis_url, **settings}))

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
            timeout: Seconds (or a timedelta) for one attempt; None means no limit.
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
            fair_by: Argument name(s), or a function of the arguments: jobs with different values take turns.
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
                        f"tracked=False: such a job runs at most once and leaves no record, so {option}= has no effect"
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
            task: Task[Any, Any] = kind(
                task_name(function) if name is None else name, function, options, self._producer
            )
            task.prepare()
            self._definitions.tasks.add(task)
            return task

        return cast("TaskDecorator", register)

    def include(self, *others: TrackedQueue) -> None:
        """
        Take over the tasks, queue limits, schedules, middleware and carried variables of other apps, such as those of other
        modules. From then on they are part of this one: their tasks enqueue through it, and they no longer use Redis
        themselves.

        Raises:
            UsageError: One of them is not an app, is this app itself, or was included already; it has settings or a
                lifespan of its own, which would be lost; or a task, schedule, queue limit or variable of it has a name
                that is taken here. Nothing was changed.
        """
        self._check_own("include")
        for at, other in enumerate(others):
            self._check_include(other, others[:at])
        for other in others:
            self._definitions.merge(other._definitions, self._producer)
            other._connections.closed_for, other._included = _INCLUDED, True

    def _check_include(self, other: Any, before: Sequence[TrackedQueue]) -> None:
        if not isinstance(other, TrackedQueue):
            raise UsageError(f"include: {other!r} is a {type(other).__qualname__}, not a TrackedQueue")
        if other is self:
            raise UsageError("include: an app can't include itself")
        if other in before:
            raise UsageError("include: the same app is given twice")
        if other._connections.closed_for:
            raise UsageError(f"include: {other._connections.closed_for}")
        if self._connections.are_open or other._connections.are_open:
            raise UsageError("call include() before the first use of the apps")
        for name in setting_names():
            own, theirs = getattr(self.settings, name), getattr(other.settings, name)
            if other.settings.sources.get(name) == "keyword" and own != theirs:
                raise UsageError(
                    f"include: the app has its own setting {name}, which would be lost; give it to the app that includes"
                )
        self._definitions.check_merge(other._definitions, [app._definitions for app in before])

    def _check_own(self, what: str) -> None:
        if self._included:
            raise UsageError(f"{what}: {_INCLUDED}")

    def limit_queue(self, queue: str, limit: Limit | Sequence[Limit]) -> None:
        """Limit a whole queue across the fleet, on top of its tasks' limits. Call it before the first enqueue there."""
        self._check_own("limit_queue")
        limits = limits_of(limit, "limit_queue")
        if not limits:
            raise UsageError(f"limit_queue: {limit!r}: write Concurrency(...), Rate(...), or a list of them")
        self._definitions.queue_limits[check_name("queue", queue)] = limits

    def middleware(self, function: RunMiddleware) -> RunMiddleware:
        """Register `async def mw(job, call_next)` around the run of every job; the first one registered is outermost."""
        self._check_own("middleware")
        checks.check_function("middleware", function, "async def mw(job, call_next)", 2, waits=True)
        self._definitions.hooks.run.append(function)
        return function

    def thread_context(self, function: SyncContextT) -> SyncContextT:
        """
        Register a context manager function that is entered around each job in the job's own thread.

        That is the thread of a plain `def` task, and the one that a job gets by `current_job().thread`; for a task with
        isolate="process", its child process. The first one registered is outermost. What the job raises passes through it; what
        it raises itself is the job's error. It takes no arguments; `current_job()` is there, but in a child process.
        """
        self._check_own("thread_context")
        check_sync_context("thread_context", function)
        self._definitions.hooks.thread_contexts.append(function)
        return function

    def thread_lifespan(self, function: SyncContextT) -> SyncContextT:
        """
        Register a context manager function that is entered in each thread before its first job, and left when the thread ends.

        For what belongs to a thread and is to be closed with it, as a database connection. If it raises at the start, that is
        the error of the job that wanted the thread. The same holds for each child process of isolate="process".
        """
        self._check_own("thread_lifespan")
        check_sync_context("thread_lifespan", function)
        self._definitions.hooks.thread_lifespans.append(function)
        return function

    @property
    def dependency_overrides(self) -> dict[Callable[..., Any], Callable[..., Any]]:
        """What takes the place of a dependency, for tests: `app.dependency_overrides[get_session] = get_test_session`."""
        return self._definitions.hooks.overrides

    @dependency_overrides.setter
    def dependency_overrides(self, overrides: dict[Callable[..., Any], Callable[..., Any]]) -> None:
        self._definitions.hooks.overrides = overrides

    def on_failure(self, function: FailureHook) -> FailureHook:
        """
        Register `def report(job, error, retried)`, called once for each run that raised or took longer than its timeout.

        It runs in the worker's event loop and must not block; what it raises is logged, and changes nothing.
        """
        self._check_own("on_failure")
        checks.check_function("on_failure", function, "def report(job, error, retried)", 3, waits=False)
        self._definitions.hooks.failed.append(function)
        return function

    def enqueue_middleware(self, function: EnqueueMiddleware) -> EnqueueMiddleware:
        """Register `async def mw(enqueueing, call_next)` around every enqueue; `call_next()` returns the Job."""
        self._check_own("enqueue_middleware")
        checks.check_function("enqueue_middleware", function, "async def mw(enqueueing, call_next)", 2, waits=True)
        self._definitions.hooks.enqueue.append(function)
        return function

    # Enqueueing

    async def enqueue(self, task_name: str, /, *args: Any, **kwargs: Any) -> Job[Any]:
        """
        Store a call of a task by its name, for a producer that doesn't import the code.

        If the task is registered here, its signature and queue apply; otherwise the arguments must be plain data, and
        the queue is "default" unless `options(queue=...)` names another.
        """
        return await self._producer.enqueue_named(task_name, JobOptions(), args, kwargs)

    def enqueue_sync(self, task_name: str, /, *args: Any, **kwargs: Any) -> Job[Any]:
        """`enqueue` for code without an event loop."""
        return run_now(self._producer.enqueue_named(task_name, JobOptions(), args, kwargs, sync=True))

    def options(self, **options: Unpack[JobOptionsArgs]) -> NamedEnqueue:
        """Options (see JobOptions) for the next enqueue by name, as `Task.options`."""
        return NamedEnqueue(self._producer, job_options(options))

    async def enqueue_many(self, calls: Sequence[PreparedCall[Any]]) -> list[Job[Any]]:
        """
        Store many calls, made by `task.call(...)`, in order and in large portions.

        Everything is checked before anything is sent. A call that appears several times makes several jobs, and one
        that was stored before makes another; only a call with an id of your own makes one job. When Redis fails midway,
        the error's `job_ids` are those that may be missing; the same calls can be sent again, with the same ids.
        """
        return await self._producer.enqueue_many(calls)

    def enqueue_many_sync(self, calls: Sequence[PreparedCall[Any]]) -> list[Job[Any]]:
        """`enqueue_many` for code without an event loop."""
        return self._producer.enqueue_many_sync(calls)

    # Workflows

    async def chain(self, first: PreparedCall[Any] | Job[Any], *steps: Step | PreparedCall[Any]) -> Job[Any]:
        """
        Jobs that run one after the other; a `step` gets the result of the one before as its first argument.

        When one does not succeed, those after it end `failed` without running.

        Args:
            first: A call, or a job that is stored already.

        Returns:
            The handle of the last one.
        """
        return await self._producer.chain(first, *steps)

    def chain_sync(self, first: PreparedCall[Any] | Job[Any], *steps: Step | PreparedCall[Any]) -> Job[Any]:
        """`chain` for code without an event loop."""
        return run_now(self._producer.chain(first, *steps, sync=True))

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
            then: The job that runs when all have ended (the fan-in).
            on_failure: `fail` ends the fan-in as soon as a member has ended without success; `ignore` runs it all the
                same, with None for that member.
        """
        return await self._producer.group(calls, then, on_failure)

    def group_sync(
        self,
        calls: Sequence[PreparedCall[Any] | Job[Any]],
        then: Step | PreparedCall[Any] | None = None,
        on_failure: Literal["fail", "ignore"] = "fail",
    ) -> Group:
        """`group` for code without an event loop."""
        return run_now(self._producer.group(calls, then, on_failure, sync=True))

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
        return await self._producer.batch(calls, success=success, complete=complete)

    def batch_sync(
        self,
        calls: Sequence[PreparedCall[Any] | Job[Any]],
        *,
        success: Step | PreparedCall[Any] | None = None,
        complete: Step | PreparedCall[Any] | None = None,
    ) -> Group:
        """`batch` for code without an event loop."""
        return run_now(self._producer.batch(calls, success=success, complete=complete, sync=True))

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
            tz: The timezone of the expression, by name or as a ZoneInfo. A fixed time ticks once per local day, also on
                the two days when daylight saving changes.
            missed: What to do about ticks that came while no worker ran: `skip`, `once` (run the last one), or `all`.
            name: The schedule's name; default: the task's name.
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
            if task.enqueuer is not self._producer:
                raise UsageError(
                    f"schedule of task {task.name}: it belongs to another app; use that one's cron or every"
                )
            called = task.name if name is None else name
            added = Schedule(name=called, task=task, args=tuple(args), kwargs=dict(kwargs or {}), **rule)
            with contextlib.suppress(UnreadableHintsError):  # looked at when a worker starts
                task.signature.encode(tuple(added.args), added.kwargs, self.settings.max_payload)
            if added.name in self._definitions.schedules:
                raise UsageError(f"schedule {added.name}: there is one of that name already; give it name=...")
            self._definitions.schedules[added.name] = added
            return task

        return register

    def schedule_source(self, *wrong: Never, every: Seconds = 30.0) -> Callable[[PlansT], PlansT]:
        """
        Register `async def source()` (or `source(state)`, with what the lifespan has yielded), which returns a list of
        `Planned(...)`: schedules that come, change and go while workers run, such as those in a table of yours.

        Each worker asks it when it starts, and again and again; a schedule is known by its name, and stands as long as it is
        named. While the source raises, what it named last goes on. One that is wrong is left out, and logged.

        Args:
            every: Seconds (or a timedelta) between two readings, about; a change takes so long to be seen everywhere.
        """
        if wrong:
            raise UsageError("write @app.schedule_source() with parentheses")
        self._check_own("schedule_source")
        every_s = to_seconds("schedule_source: every", every, above=True)

        def register(function: PlansT) -> PlansT:
            takes_state = check_source(function)
            name = f"{function.__module__}.{function.__qualname__}"
            made = ScheduleSource(name=name, function=function, every_s=every_s, takes_state=takes_state)
            self._definitions.sources.append(made)
            return function

        return register

    # Jobs

    async def trigger(self, schedule: str) -> Job[Any]:
        """Run a schedule's task now, besides its ticks. Raises UsageError for a name that this app doesn't have."""
        return await self.operator.trigger(schedule)

    # Jobs

    def job(self, id: str) -> Job[Any]:
        """A handle to a job by its id; Redis is not asked yet. Raises UsageError for what can't be a job id."""
        if callable(id):
            raise UsageError(
                f"app.job({getattr(id, '__name__', id)}): it takes the id of a job; @app.task() makes a task"
            )
        return self._producer.job(id)

    async def read_schedules(self) -> list[ScheduleReport]:
        """See Operator.schedules."""
        return await self.operator.schedules()

    async def pause(
        self, *, queue: str | None = None, task: str | Task[..., Any] | None = None, schedule: str | None = None
    ) -> bool:
        """See Operator.pause."""
        return await self.operator.pause(queue=queue, task=task, schedule=schedule)

    async def resume(
        self, *, queue: str | None = None, task: str | Task[..., Any] | None = None, schedule: str | None = None
    ) -> bool:
        """See Operator.resume."""
        return await self.operator.resume(queue=queue, task=task, schedule=schedule)

    async def cancel_many(self, *, queue: str | None = None, task: str | Task[..., Any] | None = None) -> int:
        """See Operator.cancel_many."""
        return await self.operator.cancel_many(queue=queue, task=task)

    async def retire(self, *, queue: str | None = None, task: str | Task[..., Any] | None = None) -> int:
        """See Operator.retire."""
        return await self.operator.retire(queue=queue, task=task)

    async def recover(self) -> list[Recovered]:
        """See Operator.recover."""
        return await self.operator.recover()

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
        after `heartbeat_ttl`. If a job can't be stopped before the lease runs out, the process ends.

        Args:
            queues: In priority order, or with weights; default: the queues of all tasks.
            concurrency: Default: the setting.
            queue_concurrency: How many jobs of each queue this instance may run at a time.
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
            raise UnguardedScriptError(UNGUARDED)
        check_flag("burst", burst)
        check_flag("handle_signals", handle_signals)
        settings = with_options(self.settings, {"concurrency": concurrency})
        instance = Instance(
            self._producer,
            settings,
            await self._connections.endpoint_async(),
            queues=queues,
            queue_concurrency=queue_concurrency,
            burst=burst,
        )
        return await instance.run(handle_signals=handle_signals)

    # Connections

    # Connections

    async def __aenter__(self) -> TrackedQueue:
        await self._connections.endpoint_async()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close this event loop's connections, and give up the embedded server; a later use opens new ones."""
        await self._connections.aclose()

    def close(self) -> None:
        """
        Close the connections of `enqueue_sync` and `enqueue_many_sync` in all threads, and give up the embedded server unless
        an event loop uses it. A later use opens new ones. For programs without an event loop; others await `aclose()`.
        """
        self._connections.close()


def producer_of(app: TrackedQueue) -> Producer:
    """The machinery of an app (its definitions are there too): for workers, tools and tests."""
    return app._producer


def connections_of(app: TrackedQueue) -> Connections:
    """The connections of an app: for workers, tools and tests."""
    return app._connections


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
            raise UsageError(f"{name}: {kind.__qualname__} is a signal that a job raises on purpose, not an error")
    return tuple(classes)


_INCLUDED = "this app was included in another one; use that one, and define everything before it is included"


class NamedEnqueue:
    """Options of one enqueue by task name."""

    def __init__(self, producer: Producer, options: JobOptions) -> None:
        self._producer, self._options = producer, options

    async def enqueue(self, task_name: str, /, *args: Any, **kwargs: Any) -> Job[Any]:
        """See `TrackedQueue.enqueue`."""
        return await self._producer.enqueue_named(task_name, self._options, args, kwargs)

    def enqueue_sync(self, task_name: str, /, *args: Any, **kwargs: Any) -> Job[Any]:
        """See `TrackedQueue.enqueue_sync`."""
        return run_now(self._producer.enqueue_named(task_name, self._options, args, kwargs, sync=True))
