"""The options of a task and of one enqueue, and which of them the store needs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, TypedDict

from ..errors import UsageError, did_you_mean
from ..settings import DURABILITIES, Durability, Seconds
from .checks import check_flag, check_function, check_list, check_mapping, check_name, due_ms_of, to_seconds
from .codec import Options, encode_options
from .constraints import Concurrency, Key, Limit, Unique, checked_key, key_text, lane_of, of_queue, of_task
from .context import CurrentJob
from .job import Job
from .retry import Exponential, RetryPolicy

DEFAULT_QUEUE = "default"
DEFAULT_TIMEOUT = 3600.0
DEFAULT_MAX_ATTEMPTS = 10

OnFailure = Literal["fail", "ignore", "fallback"]
Isolate = Literal["process"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What a task says about its jobs; times in seconds. `result_ttl` None takes the app's setting."""

    queue: str = DEFAULT_QUEUE
    timeout: Seconds | None = DEFAULT_TIMEOUT
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    retry: RetryPolicy = field(default_factory=Exponential)
    retry_on: tuple[type[BaseException], ...] = ()
    give_up_on: tuple[type[BaseException], ...] = ()
    on_exhausted: Callable[[CurrentJob, BaseException], Coroutine[Any, Any, object]] | None = None
    expires: Seconds | None = None
    result_ttl: Seconds | None = None
    tracked: bool = True
    unique: Unique | None = None
    limits: tuple[Limit, ...] = ()
    fair_by: Key | None = None
    isolate: Isolate | None = None
    # Derived from the fields above, once, because every enqueue needs them.
    # `has_constraints`: its jobs are kept apart from others by a unique key, limits or turns. `sends_extras`: an enqueue sends
    # more than the call.
    has_constraints: bool = field(init=False, repr=False, compare=False)
    sends_extras: bool = field(init=False, repr=False, compare=False)
    # `timeout` and `result_ttl` as numbers: every delivery takes them.
    timeout_s: float | None = field(init=False, repr=False, compare=False)
    result_ttl_s: float | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.fair_by is not None:
            object.__setattr__(self, "fair_by", checked_key("fair_by", self.fair_by))
        check_flag("tracked", self.tracked)
        if self.on_exhausted is not None:
            check_function("on_exhausted", self.on_exhausted, "an `async def` function of (job, error)", 2, waits=True)
        has_constraints = self.unique is not None or bool(self.limits) or self.fair_by is not None
        object.__setattr__(self, "has_constraints", has_constraints)
        object.__setattr__(self, "sends_extras", has_constraints or self.expires is not None)
        check_name("queue", self.queue)
        object.__setattr__(self, "timeout_s", _seconds("timeout", self.timeout, above=True))
        _seconds("expires", self.expires, above=True)
        object.__setattr__(self, "result_ttl_s", _seconds("result_ttl", self.result_ttl))
        check_attempts(self.max_attempts)
        if self.isolate not in (None, "process"):
            raise UsageError(f"isolate={self.isolate!r}: it must be 'process' or None")
        if not self.tracked:
            if self.on_exhausted is not None:
                raise UsageError(
                    "tracked=False: such a job runs once and has no attempts, so on_exhausted= is never called"
                )
            if self.unique is not None and self.unique.window is None and self.unique.until == "done":
                raise UsageError("tracked=False: nothing records when such a job is done; use unique='until_started'")
            if any(isinstance(limit, Concurrency) for limit in self.limits):
                raise UsageError("tracked=False: nothing records such a job's end, so Concurrency(...) can't count it")


class JobOptionsArgs(TypedDict, total=False):
    """The options that one enqueue may give; see JobOptions."""

    id: str | None
    queue: str | None
    delay: Seconds | None
    at: datetime | None
    timeout: Seconds | None
    max_attempts: int | None
    expires: Seconds | None
    headers: Mapping[str, Any] | None
    after: Sequence[Job[Any] | str] | None
    on_failure: OnFailure
    known_for: Seconds | None
    durability: Durability | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """
    The options of one enqueue. None takes the task's value.

    Args:
        id: The job's id; a second enqueue of it adds nothing while the job's record is there, and see `known_for`.
        queue: Where it waits.
        delay: Seconds or timedelta from when the server stores it; the past means now.
        at: When it is due, a datetime with a timezone; the past means now.
        timeout: Seconds for one attempt.
        max_attempts: Runs in all.
        expires: Seconds from the enqueue; not started by then, it ends `expired`.
        headers: Plain data that travels with the job, for middleware.
        after: Jobs (or ids) that must end first; at most 100,000.
        on_failure: What an unsuccessful end of one of `after` means: `fail` ends this job too, `ignore` runs it all the
            same once all have ended, `fallback` runs it only then.
        known_for: With an `id`: for so long after the enqueue another one of this id that says `known_for` adds nothing, also
            when the job ended long ago and its record is gone. It costs a key of its own.
        durability: What the enqueue waits for: `memory`, `replica` or `fsync`; None takes the setting.
    """

    id: str | None = None
    queue: str | None = None
    delay: Seconds | None = None
    at: datetime | None = None
    timeout: Seconds | None = None
    max_attempts: int | None = None
    expires: Seconds | None = None
    headers: Mapping[str, Any] | None = None
    after: Sequence[Job[Any] | str] | None = None
    on_failure: OnFailure = "fail"
    known_for: Seconds | None = None
    durability: Durability | None = None
    # Set by schedules and workflows; not an option of an enqueue. How the results of `after` reach the function: "" not
    # at all, "one" as its first argument, "list" as a list; and the results of how many of them, if not of all.
    inputs: str = ""
    wanted: int | None = None
    # Schedule, ms of the tick, mode: for the scheduler.
    tick: tuple[str, int, str] | None = None
    # Worked out once, as above. `delay_ms`: `delay`, counted from when the server stores the job; `due_ms`: `at` since 1970,
    # compared with the server's clock. `has_stored_options`: some of it, besides the headers, is stored with the job;
    # `sends_extras`: it sends more than the call.
    delay_ms: int | None = field(init=False, repr=False, compare=False)
    due_ms: int | None = field(init=False, repr=False, compare=False)
    has_stored_options: bool = field(init=False, repr=False, compare=False)
    sends_extras: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check()
        delay_ms = due_ms = None
        if self.delay is not None:
            delay_ms = max(0, round(to_seconds("delay", self.delay, negative=True) * 1000))
        if self.at is not None:
            due_ms = due_ms_of("at", self.at)
        object.__setattr__(self, "delay_ms", delay_ms)
        object.__setattr__(self, "due_ms", due_ms)
        object.__setattr__(
            self, "has_stored_options", bool(self.timeout or self.max_attempts or self.inputs or self.tick)
        )
        object.__setattr__(
            self,
            "sends_extras",
            any(given is not None for given in (self.expires, self.after, self.tick, self.known_for)),
        )

    def _check(self) -> None:
        if self.id is not None:
            check_name("job id", self.id)
        if self.queue is not None:
            check_name("queue", self.queue)
        _seconds("delay", self.delay, negative=True)
        for name in ("timeout", "expires", "known_for"):
            _seconds(name, getattr(self, name), above=True)
        if self.known_for is not None and self.id is None:
            raise UsageError("known_for: it is about an id of your own; give id=... too")
        if self.max_attempts is not None:
            check_attempts(self.max_attempts)
        if self.at is not None and self.delay is not None:
            raise UsageError("delay and at were both given; a job is due at one time")
        if self.headers is not None:
            check_mapping("headers", self.headers, "text to plain data")
        if self.durability is not None and self.durability not in DURABILITIES:
            raise UsageError(f"durability={self.durability!r}: it must be {', '.join(DURABILITIES)}")
        if self.on_failure not in ("fail", "ignore", "fallback"):
            raise UsageError(f"on_failure={self.on_failure!r}: it must be 'fail', 'ignore' or 'fallback'")
        if self.after is not None:
            for item in check_list("after", self.after, "jobs or ids"):
                if not isinstance(item, str | Job):
                    raise UsageError(f"after: {item!r} is neither a job nor an id")
            if len(self.after) > MAX_AFTER:
                raise UsageError(f"after: {len(self.after)} jobs; one job can come after at most {MAX_AFTER}")
            for id in self.after_ids:
                check_name("after: job id", id)

    @property
    def after_ids(self) -> list[str]:
        """The ids of `after`."""
        return [job if isinstance(job, str) else job.id for job in self.after or ()]

    def stored(self, headers: Mapping[str, Any], context: Mapping[str, Any]) -> bytes:
        """The part that travels with the job, encoded; empty when there is none. `context`: variables that are carried."""
        if not (self.has_stored_options or headers or context):
            return b""
        timeout_ms = None if self.timeout is None else max(1, round(to_seconds("timeout", self.timeout) * 1000))
        return encode_options(
            Options(
                timeout_ms=timeout_ms,
                max_attempts=self.max_attempts,
                headers=dict(headers) or None,
                context=dict(context) or None,
                inputs=self.inputs,
                tick_ms=self.tick[1] if self.tick else None,
            )
        )


def job_options(given: Mapping[str, Any], before: JobOptions | None = None) -> JobOptions:
    """What `options(...)` was given, on top of what was there before. Raises UsageError for an unknown option."""
    for name in given:
        if name not in JobOptionsArgs.__annotations__:
            known = JobOptionsArgs.__annotations__
            raise UsageError(f"options({name}=...): there is no such option; {did_you_mean(name, known)}")
    return JobOptions(**given) if before is None else replace(before, **given)


MAX_AFTER = 100_000
# This many jobs of `after` are named in the enqueue itself (see lua/follow.lua).
AFTER_AT_ONCE = 250
# Runs of one job: a number beyond this is a mistake.
MOST_ATTEMPTS = 10**9


def _seconds(name: str, value: Any, *, above: bool = False, negative: bool = False) -> float | None:
    return None if value is None else to_seconds(name, value, above=above, negative=negative)


def check_attempts(value: object) -> None:
    """Refuse what is not a number of runs: `max_attempts` 1 means no retry."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_ATTEMPTS:
        raise UsageError(f"max_attempts={value!r}: it must be a whole number from 1 (no retry) to {MOST_ATTEMPTS:,}")


def bounds_of(
    task: str,
    queue: str,
    chosen: TaskOptions,
    arguments: Callable[[], Mapping[str, Any]],
    limits_of_queue: Sequence[Limit],
) -> dict[str, Any]:
    """
    What keeps a job apart from others: its unique key, lane and limits, as lua/enqueue.lua and lua/settle.lua take them.

    Args:
        arguments: The call's arguments by name, as they arrive; called only if they are needed.
        limits_of_queue: Those of its queue.

    Raises:
        UsageError: A key needs an argument that the task doesn't have, or a value that can't be part of a key.
    """
    bounds: dict[str, Any] = {}
    if not (chosen.has_constraints or limits_of_queue):
        return bounds
    given = arguments()
    if chosen.unique is not None:
        bounds["unique"] = chosen.unique.parts(task, given)
    if chosen.limits or limits_of_queue or chosen.fair_by is not None:
        limits = [limit.parts(of_task(task), given) for limit in chosen.limits]
        limits += [limit.parts(of_queue(queue), given) for limit in limits_of_queue]
        turn = None if chosen.fair_by is None else key_text(chosen.fair_by, given, f"task {task}: fair_by")
        bounds["lane"] = lane_of(queue, limits, turn)
        if limits:
            bounds["limits"] = limits
    return bounds


def extras_of(
    task: str,
    queue: str,
    chosen: TaskOptions,
    options: JobOptions,
    arguments: Callable[[], Mapping[str, Any]],
    limits_of_queue: Sequence[Limit] = (),
) -> dict[str, Any]:
    """
    What lua/enqueue.lua has to know beyond the call: its `extras`; empty for a plain job.

    Raises:
        UsageError: Options of the task, the enqueue and the queue that can't be kept together.
    """
    if not chosen.tracked and any(isinstance(limit, Concurrency) for limit in limits_of_queue):
        raise UsageError(f"task {task}: tracked=False, and queue {queue!r} has a Concurrency limit")
    if not chosen.tracked and options.after is not None:
        raise UsageError(f"task {task}: tracked=False and after= don't go together")
    if options.inputs and chosen.unique is not None and chosen.unique.by is None:
        raise UsageError(
            f"task {task}: a step of a unique task; its first argument is not known yet, so name those that count: "
            "Unique(by=...)"
        )
    extras = bounds_of(task, queue, chosen, arguments, limits_of_queue)
    expires = options.expires if options.expires is not None else chosen.expires
    if expires is not None:
        extras["expires"] = f"+{max(1, round(to_seconds('expires', expires) * 1000))}"
    if options.after is not None:
        after = options.after_ids
        extras["after"] = after[:AFTER_AT_ONCE]
        extras["on_failure"] = options.on_failure
        if len(after) > AFTER_AT_ONCE:
            extras["more_after"] = len(after) - AFTER_AT_ONCE
        if options.inputs:
            extras["wants"] = 1 if options.inputs == "one" else len(after) if options.wanted is None else options.wanted
    if options.tick is not None:
        extras["tick"] = options.tick
    if options.known_for is not None:
        extras["known"] = max(1, round(to_seconds("known_for", options.known_for) * 1000))
    return extras
