"""tracked_queue: an asyncio job queue on Redis that does not lose jobs."""

# First of all: the worker may be the first process of a container (see the module).
from .worker import first_process as _first_process  # noqa: F401

# isort: split
from .app import TrackedQueue
from .errors import (
    ArgumentError,
    DuplicateJobError,
    EnqueueFullError,
    EnqueueUnavailableError,
    InvariantError,
    IsolatedError,
    JobCancelledError,
    JobError,
    JobFailedError,
    JobNotFoundError,
    LifespanError,
    MissingCommandError,
    NotDurableError,
    OwnershipLostError,
    PayloadTooLargeError,
    ProcessLostError,
    ResultLeftOutError,
    SealedError,
    SettingsError,
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
    TaskDefinitionError,
    TrackedQueueError,
    UnguardedScriptError,
    UnreadableHintsError,
    UnreadableJobError,
    UnreadableResultError,
    UsageError,
)
from .model.constraints import Concurrency, Rate, Unique
from .model.context import CurrentJob, JobContext, current_job
from .model.hooks import CallNext, Enqueueing, EnqueueMiddleware, EnqueueNext, Lifespan, RunMiddleware
from .model.inputs import Results
from .model.job import Job
from .model.options import JobOptions
from .model.record import ErrorInfo, Failure, JobInfo, LogLine, Progress
from .model.retry import Dead, Discard, Exponential, Fixed, Retry, Snooze
from .model.task import PreparedCall, Step, Task
from .model.workflow import BatchProgress, Group
from .protocol.states import State
from .protocol.transitions import Fate, Recovered
from .reports import ScheduleReport
from .settings import Settings

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "BatchProgress",
    "CallNext",
    "Concurrency",
    "CurrentJob",
    "Dead",
    "Discard",
    "DuplicateJobError",
    "EnqueueFullError",
    "EnqueueMiddleware",
    "EnqueueNext",
    "EnqueueUnavailableError",
    "Enqueueing",
    "ErrorInfo",
    "Exponential",
    "Failure",
    "Fate",
    "Fixed",
    "Group",
    "InvariantError",
    "IsolatedError",
    "Job",
    "JobCancelledError",
    "JobContext",
    "JobError",
    "JobFailedError",
    "JobInfo",
    "JobNotFoundError",
    "JobOptions",
    "Lifespan",
    "LifespanError",
    "LogLine",
    "MissingCommandError",
    "NotDurableError",
    "OwnershipLostError",
    "PayloadTooLargeError",
    "PreparedCall",
    "ProcessLostError",
    "Progress",
    "Rate",
    "Recovered",
    "ResultLeftOutError",
    "Results",
    "Retry",
    "RunMiddleware",
    "ScheduleReport",
    "SealedError",
    "Settings",
    "SettingsError",
    "Snooze",
    "State",
    "Step",
    "StoreFullError",
    "StoreRefusedError",
    "StoreUnavailableError",
    "Task",
    "TaskDefinitionError",
    "TrackedQueue",
    "TrackedQueueError",
    "UnguardedScriptError",
    "Unique",
    "UnreadableHintsError",
    "UnreadableJobError",
    "UnreadableResultError",
    "UsageError",
    "__version__",
    "current_job",
]
