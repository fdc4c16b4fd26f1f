"""tracked_queue: an asyncio job queue on Redis that does not lose jobs."""

# First of all: the worker may be the first process of a container (see the module).
from .app import TrackedQueue
from .errors import (
    ArgumentError,
    DuplicateJobError,
    EnqueueFullError,
    EnqueueUnavailableError,
    InvariantError,
    JobCancelledError,
    JobError,
    JobFailedError,
    JobNotFoundError,
    NotDurableError,
    OwnershipLostError,
    PayloadTooLargeError,
    ResultLeftOutError,
    SettingsError,
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
    TrackedQueueError,
    UsageError,
)
from .model.constraints import Concurrency, Rate, Unique
from .model.context import CurrentJob, JobContext, current_job
from .model.hooks import Enqueueing
from .model.inputs import Results
from .model.job import Job
from .model.record import ErrorInfo, Failure, JobInfo, LogLine, Progress
from .model.retry import Dead, Discard, Exponential, Fixed, Retry, Snooze
from .model.task import PreparedCall, Step, Task
from .model.workflow import Group
from .protocol.states import State
from .worker import first_process as _first_process  # noqa: F401

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "Concurrency",
    "CurrentJob",
    "Dead",
    "Discard",
    "DuplicateJobError",
    "EnqueueFullError",
    "EnqueueUnavailableError",
    "Enqueueing",
    "ErrorInfo",
    "Exponential",
    "Failure",
    "Fixed",
    "Group",
    "InvariantError",
    "Job",
    "JobCancelledError",
    "JobContext",
    "JobError",
    "JobFailedError",
    "JobInfo",
    "JobNotFoundError",
    "LogLine",
    "NotDurableError",
    "OwnershipLostError",
    "PayloadTooLargeError",
    "PreparedCall",
    "Progress",
    "Rate",
    "ResultLeftOutError",
    "Results",
    "Retry",
    "SettingsError",
    "Snooze",
    "State",
    "Step",
    "StoreFullError",
    "StoreRefusedError",
    "StoreUnavailableError",
    "Task",
    "TrackedQueue",
    "TrackedQueueError",
    "Unique",
    "UsageError",
    "__version__",
    "current_job",
]
