"""
Every exception of tracked_queue, as one tree.

    TrackedQueueError
    ├── UsageError                 wrong use, raised at the call, before any I/O
    │   ├── SettingsError          a setting's value or relation is wrong
    │   ├── ArgumentError          arguments that don't fit the task (also a TypeError)
    │   │   └── UnreadableHintsError   an annotation names something that can't be found
    │   ├── TaskDefinitionError    what was decorated can't be a task (also a TypeError)
    │   ├── PayloadTooLargeError   encoded arguments above `max_payload`
    │   └── UnguardedScriptError   a script without a main guard was loaded again for its isolated jobs
    ├── JobError                   something about one job
    │   ├── JobNotFoundError       no record: never stored, or expired
    │   ├── UnreadableJobError     its key holds something that is not a job record
    │   ├── UnreadableResultError  its result doesn't fit the type that is expected here
    │   ├── ResultLeftOutError     it succeeded, and Redis was too full to store its result
    │   ├── JobFailedError         ended failed, dead or expired; carries the remote traceback's text
    │   ├── JobCancelledError      ended cancelled
    │   ├── DuplicateJobError      its unique key is held by another job (`conflict="reject"`)
    │   └── OwnershipLostError     raised in a job: another delivery owns it by now
    ├── StoreUnavailableError      no answer from Redis; says whether the call may have run
    │   ├── EnqueueUnavailableError    an enqueue got no answer in time; names its jobs
    │   │   └── EnqueueFullError   an enqueue was refused by a full Redis (also a StoreFullError)
    │   ├── NotDurableError        the jobs are stored, and not yet confirmed as `durability` asks
    │   └── StoreFullError         Redis refuses to grow (maxmemory)
    ├── StoreRefusedError          Redis answers, but refuses to serve us: password, role, version
    │   ├── NamespaceMismatchError  the namespace has another number of shards, or another protocol
    │   └── MissingCommandError    it lacks a command
    ├── SealedError                a payload is encrypted, and no key at hand opens it
    ├── IsolatedError              in a worker: what a job in a child process raised, as text
    ├── ProcessLostError           in a worker: the child process of an isolated job died
    ├── AccessError                in the dashboard: somebody may not have what they ask for
    │   ├── NotAllowedError        they may not do this
    │   ├── NotVisibleError        there is no such thing, or it is not for them to see
    │   └── TooManyLoginsError     too many logins at once, or too many that failed
    ├── UnreadableCallError        in migrate: a job of another queue can't be read, or reading it could run code
    ├── MaxRetriesExceededError    in compat.celery: self.retry(...) in a job's last run
    ├── LifespanError              the app's lifespan raised when a worker started
    └── InvariantError             our bug: stop the instance, keep the jobs

`Retry`, `Snooze`, `Discard` and `Dead` are signals that a job raises on purpose, not errors; they stand outside the tree.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


class TrackedQueueError(Exception):
    """Base of every error that tracked_queue raises."""


class UsageError(TrackedQueueError):
    """The call is wrong as written; nothing was sent."""


class SettingsError(UsageError):
    """A setting's value, or its relation to another one, is not usable."""

    def __init__(self, setting: str, problem: str, source: str = "") -> None:
        super().__init__(setting, problem, source)
        self.setting, self.problem, self.source = setting, problem, source

    def __str__(self) -> str:
        origin = f" (from {self.source})" if self.source else ""
        return f"setting {self.setting}{origin}: {self.problem}"


class ArgumentError(UsageError, TypeError):
    """Arguments don't fit the task's signature, or a value can't be stored."""

    def __init__(self, task: str, argument: str, problem: str) -> None:
        super().__init__(task, argument, problem)
        self.task, self.argument, self.problem = task, argument, problem

    def __str__(self) -> str:
        where = f"argument {self.argument}: " if self.argument else ""
        return f"task {self.task}: {where}{self.problem}"


class UnreadableHintsError(ArgumentError):
    """An annotation names what can't be found, or not yet."""


class TaskDefinitionError(UsageError, TypeError):
    """Something that is not a plain function was decorated."""


class PayloadTooLargeError(UsageError):
    """Encoded arguments are larger than `max_payload`."""

    def __init__(self, task: str, payload_bytes: int, max_bytes: int) -> None:
        super().__init__(task, payload_bytes, max_bytes)
        self.task, self.payload_bytes, self.max_bytes = task, payload_bytes, max_bytes

    def __str__(self) -> str:
        return (
            f"task {self.task}: the arguments take {self.payload_bytes} bytes and max_payload is "
            f"{self.max_bytes}; store the data elsewhere and pass a reference, or raise max_payload"
        )


class UnguardedScriptError(UsageError):
    """A script was loaded again for its isolated jobs, and would repeat what it does when it is run."""


class JobError(TrackedQueueError):
    """
    Something about one job.

    `stored` has the handles of the other jobs of a call that stored several (enqueue_many, a workflow).
    """

    stored: tuple[Any, ...] = ()

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id


class JobNotFoundError(JobError):
    """There is no record of this job: it was never stored, or its record has expired."""

    def __str__(self) -> str:
        return f"job {self.job_id}: no record; it was never stored, or ended and expired (see result_ttl)"


class UnreadableJobError(JobError):
    """The key of this job's record holds something that is not a job record."""

    def __str__(self) -> str:
        return f"job {self.job_id}: its key in Redis does not hold a job record; something else wrote it"


class UnreadableResultError(JobError):
    """The job's result does not fit the type that its task has here: another version of it, or another task, made it."""

    def __init__(self, job_id: str, task: str, problem: str) -> None:
        super().__init__(job_id)
        self.args = (job_id, task, problem)
        self.task, self.problem = task, problem

    def __str__(self) -> str:
        return f"job {self.job_id}: the result of task {self.task or '?'} does not fit the type expected here: {self.problem}"


class ResultLeftOutError(JobError):
    """The job has succeeded, and its result was not stored, since Redis was full."""

    def __init__(self, job_id: str, size: int) -> None:
        super().__init__(job_id)
        self.args = (job_id, size)
        self.size = size

    def __str__(self) -> str:
        return f"job {self.job_id} has succeeded; its result ({self.size:,} bytes) was not stored, since Redis was at maxmemory"


class JobFailedError(JobError):
    """The job ended failed, dead or expired. `error_type`, `error_message` and `traceback` are the remote side's text."""

    def __init__(
        self, job_id: str, state: str, reason: str, error_type: str, error_message: str, traceback: str
    ) -> None:
        super().__init__(job_id)
        self.args = (job_id, state, reason, error_type, error_message, traceback)
        self.state, self.reason = state, reason
        self.error_type, self.error_message, self.traceback = error_type, error_message, traceback

    def __str__(self) -> str:
        text = f"job {self.job_id} is {self.state} ({self.reason})"
        if self.error_type and not (self.error_message and self.error_message in self.reason):
            text += f": {self.error_type}: {self.error_message}"
        if self.traceback:
            text += f"\n\nThe job's own traceback:\n{self.traceback}"
        return text


class JobCancelledError(JobError):
    """The job was cancelled before it succeeded."""

    def __str__(self) -> str:
        return f"job {self.job_id} was cancelled"


class DuplicateJobError(JobError):
    """Another job holds the unique key; `job_id` is that job, and nothing was stored."""

    def __init__(self, job_id: str, task: str, problem: str = "another job holds its unique key") -> None:
        super().__init__(job_id)
        self.args = (job_id, task, problem)
        self.task, self.problem = task, problem

    def __str__(self) -> str:
        return f"task {self.task}: {self.problem}: job {self.job_id}; nothing was stored"


class OwnershipLostError(JobError):
    """Raised in a job when it stores something: another delivery owns the job now, so this run has to stop."""

    def __str__(self) -> str:
        return f"job {self.job_id} now belongs to another delivery; nothing was stored"


class StoreUnavailableError(TrackedQueueError):
    """
    Redis gave no usable answer.

    `may_have_run` is False when the call surely changed nothing (no connection, a refusal), and True when
    only its reply is missing.
    """

    def __init__(self, problem: str, may_have_run: bool) -> None:
        super().__init__(problem, may_have_run)
        self.problem, self.may_have_run = problem, may_have_run

    def __str__(self) -> str:
        fate = "the call may have been carried out" if self.may_have_run else "the call was not carried out"
        return f"Redis is not available: {self.problem}; {fate}"


class EnqueueUnavailableError(StoreUnavailableError):
    """An enqueue got no answer within `enqueue_timeout`; `job_ids` may be sent again without doubling a job."""

    def __init__(self, problem: str, may_have_run: bool, job_ids: tuple[str, ...]) -> None:
        super().__init__(problem, may_have_run)
        self.args = (problem, may_have_run, job_ids)
        self.job_ids = job_ids

    def __str__(self) -> str:
        ids = ", ".join(self.job_ids[:3]) + (" …" if len(self.job_ids) > 3 else "")
        fate = "may have been stored" if self.may_have_run else "was not stored"
        return (
            f"enqueue of {ids}: Redis is not available ({self.problem}); the job {fate}; "
            "an enqueue with the same id is safe to send again unless the task is untracked"
        )


class NotDurableError(StoreUnavailableError):
    """
    The jobs of `job_ids` are stored, and will run; but what `durability` asks for was not confirmed in time, so a failover or a
    crash of the server could still lose them. Enqueue them again with their ids to wait once more; none is duplicated.
    """

    def __init__(self, durability: str, seconds: float, job_ids: tuple[str, ...]) -> None:
        super().__init__(f"durability={durability!r} was not confirmed within {seconds:g} s", may_have_run=True)
        self.args = (durability, seconds, job_ids)
        self.durability, self.seconds, self.job_ids = durability, seconds, job_ids

    def __str__(self) -> str:
        ids = ", ".join(self.job_ids[:3]) + (" …" if len(self.job_ids) > 3 else "")
        what = "no replica" if self.durability == "replica" else "no sync of the append-only file"
        return f"job {ids} is stored, but not yet safe: {what} has confirmed it within {self.seconds:g} s"


class StoreFullError(StoreUnavailableError):
    """Redis is at `maxmemory` and takes no new jobs; stored ones go on."""


class EnqueueFullError(EnqueueUnavailableError, StoreFullError):
    """Redis is at `maxmemory`, and `job_ids` were not stored."""

    def __str__(self) -> str:
        ids = ", ".join(self.job_ids[:3]) + (" …" if len(self.job_ids) > 3 else "")
        return f"enqueue of {ids}: Redis is full ({self.problem}); none of it was stored"


class SealedError(TrackedQueueError):
    """A payload is encrypted, and no key that is at hand opens it."""


class StoreRefusedError(TrackedQueueError):
    """Redis answers but will not serve us; waiting doesn't help."""


class NamespaceMismatchError(StoreRefusedError):
    """This program must not work in its namespace: it has another number of shards, or is written in another protocol."""


class MissingCommandError(StoreRefusedError):
    """The server doesn't know a command: it was renamed away, or this is another product."""


class UnreadableCallError(TrackedQueueError):
    """In `migrate`: a job of another queue can't be read, or reading it could run code; says why."""


class MaxRetriesExceededError(TrackedQueueError):
    """In `compat.celery`: `self.retry(...)` in the last run that a job has; the job is dead if nobody catches it."""


class LifespanError(TrackedQueueError):
    """The app's lifespan raised when a worker process started; no job was taken."""


class IsolatedError(TrackedQueueError):
    """
    A job in a child process raised: `text` says what, `packed` is its error for the record, `kinds` are the names of its
    classes.
    """

    def __init__(self, text: str, packed: bytes, kinds: frozenset[str]) -> None:
        super().__init__(text)
        self.args = (text, packed, kinds)
        self.text, self.packed, self.kinds = text, packed, kinds

    def __str__(self) -> str:
        return self.text


class ProcessLostError(TrackedQueueError):
    """The child process of an isolated job died: a crash, or it was killed (out of memory)."""

    def __init__(self, task: str, how: str) -> None:
        super().__init__(task, how)
        self.task, self.how = task, how

    def __str__(self) -> str:
        return f"the child process of task {self.task} died before it returned: {self.how} (a crash, or killed for its memory)"


class AccessError(TrackedQueueError):
    """In the dashboard: somebody may not have what they ask for."""


class NotAllowedError(AccessError):
    """They may not do this."""


class NotVisibleError(AccessError):
    """There is no such thing, or it is not for them to see; which of the two is not said."""


class TooManyLoginsError(AccessError):
    """Too many logins at once, or too many that failed."""


class InvariantError(TrackedQueueError):
    """A reply or state that can't be: a bug of tracked_queue. The instance stops; its jobs are recovered."""


def did_you_mean(name: str, known: Collection[str]) -> str:
    """The ending of an error message about an unknown name."""
    from difflib import get_close_matches  # only mistakes need it

    close = get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there are {', '.join(sorted(known)[:20])}" if known else "there are none"
