"""tracked_queue: an asyncio job queue on Redis that does not lose jobs."""

# First of all: the worker may be the first process of a container (see the module).
from . import first_process as _first_process  # noqa: F401
from .app import TrackedQueue
from .constraints import Concurrency, Rate, Unique
from .current import CurrentJob, JobContext, current_job
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
from .handle import Job
from .inputs import Results
from .job import ErrorInfo, Failure, JobInfo, LogLine, Progress, State
from .middleware import Enqueueing
from .retry import Dead, Discard, Exponential, Fixed, Retry, Snooze
from .task import PreparedCall, Step, Task
from .workflow import Group

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
