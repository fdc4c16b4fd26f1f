"""tracked_queue: an asyncio job queue on Redis that does not lose jobs."""

from .app import TrackedQueue
from .current import CurrentJob, current_job
from .errors import (
    ArgumentError,
    EnqueueUnavailableError,
    InvariantError,
    JobCancelledError,
    JobError,
    JobFailedError,
    JobNotFoundError,
    PayloadTooLargeError,
    SettingsError,
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
    TrackedQueueError,
    UsageError,
)
from .handle import Job
from .job import ErrorInfo, JobInfo, State
from .retry import Backoff, Retry
from .task import PreparedCall, Task

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "Backoff",
    "CurrentJob",
    "EnqueueUnavailableError",
    "ErrorInfo",
    "InvariantError",
    "Job",
    "JobCancelledError",
    "JobError",
    "JobFailedError",
    "JobInfo",
    "JobNotFoundError",
    "PayloadTooLargeError",
    "PreparedCall",
    "Retry",
    "SettingsError",
    "State",
    "StoreFullError",
    "StoreRefusedError",
    "StoreUnavailableError",
    "Task",
    "TrackedQueue",
    "TrackedQueueError",
    "UsageError",
    "__version__",
    "current_job",
]
