"""tracked_queue: an asyncio job queue on Redis that does not lose jobs."""

# Imported before all else: a worker may be the first process of a container (see that module).
from .worker import first_process as _first_process  # noqa: F401

# isort: split
import importlib
from typing import TYPE_CHECKING, Any

from .app import NamedEnqueue, TaskDecorator, TrackedQueue
from .errors import (
    AccessError,
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
    MaxRetriesExceededError,
    MissingCommandError,
    NamespaceMismatchError,
    NotAllowedError,
    NotDurableError,
    NotVisibleError,
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
    TooManyLoginsError,
    TrackedQueueError,
    UnguardedScriptError,
    UnreadableCallError,
    UnreadableHintsError,
    UnreadableJobError,
    UnreadableResultError,
    UsageError,
)
from .model.constraints import Concurrency, Key, Limit, Rate, Unique
from .model.context import CurrentJob, JobContext, current_job
from .model.dependencies import Depends, injected
from .model.hooks import CallNext, Enqueueing, EnqueueMiddleware, EnqueueNext, FailureHook, Lifespan, RunMiddleware
from .model.inputs import Results
from .model.job import Job
from .model.options import JobOptions, JobOptionsArgs
from .model.record import ErrorInfo, Failure, JobEvent, JobInfo, LogLine, Progress
from .model.retry import Dead, Discard, Exponential, Fixed, Retry, Snooze
from .model.schedules import Planned
from .model.task import PreparedCall, Step, SyncTask, Task, TaskWithOptions
from .model.workflow import BatchProgress, Group
from .protocol.states import State
from .protocol.transitions import CancelWord, DeadWord, DeleteWord, Fate, MoveWord, Recovered, RescheduleWord
from .settings import Settings, SettingsArgs

if TYPE_CHECKING:
    from .operator.doctor import Finding, Level
    from .operator.explanation import Explanation, Fact, Segment
    from .operator.many import Candidate, Count, Course, Selection
    from .operator.operator import DeadOutcome, Operator
    from .operator.picture import Picture
    from .operator.scale import Scale
    from .operator.viewer import TaskReport, Viewer
    from .reports.dead import DeadFilter, DeadGroup, DeadJob
    from .reports.instances import ActiveJob, InstanceReport
    from .reports.limits import Holder, LimitReport
    from .reports.listing import JobPage, JobRow
    from .reports.memory import Act, RecoveryReport
    from .reports.minutes import Minute
    from .reports.numbers import FleetNumbers, LimitNumbers
    from .reports.queues import Overview, ParkedReport, QueueReport
    from .reports.runs import Run
    from .reports.schedules import ScheduleReport
    from .reports.times import Histogram, Times
    from .reports.workflows import Workflow, WorkflowJob

__version__ = "0.1.0"

# The operator's names are imported on first use: most programs only produce.
_LATER = {
    "Candidate": "operator.many",
    "Count": "operator.many",
    "Course": "operator.many",
    "Selection": "operator.many",
    "DeadGroup": "reports.dead",
    "Holder": "reports.limits",
    "Minute": "reports.minutes",
    "Workflow": "reports.workflows",
    "WorkflowJob": "reports.workflows",
    "Act": "reports.memory",
    "ActiveJob": "reports.instances",
    "DeadFilter": "reports.dead",
    "DeadJob": "reports.dead",
    "DeadOutcome": "operator.operator",
    "Explanation": "operator.explanation",
    "Fact": "operator.explanation",
    "Finding": "operator.doctor",
    "FleetNumbers": "reports.numbers",
    "Histogram": "reports.times",
    "InstanceReport": "reports.instances",
    "JobPage": "reports.listing",
    "JobRow": "reports.listing",
    "LimitReport": "reports.limits",
    "Picture": "operator.picture",
    "DeleteWord": "protocol.transitions",
    "MoveWord": "protocol.transitions",
    "RescheduleWord": "protocol.transitions",
    "Viewer": "operator.viewer",
    "Level": "operator.doctor",
    "Operator": "operator.operator",
    "Overview": "reports.queues",
    "ParkedReport": "reports.queues",
    "QueueReport": "reports.queues",
    "RecoveryReport": "reports.memory",
    "Run": "reports.runs",
    "ScheduleReport": "reports.schedules",
    "LimitNumbers": "reports.numbers",
    "Scale": "operator.scale",
    "Segment": "operator.explanation",
    "TaskReport": "operator.viewer",
    "Times": "reports.times",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


__all__ = [
    "AccessError",
    "Act",
    "ActiveJob",
    "ArgumentError",
    "BatchProgress",
    "CallNext",
    "CancelWord",
    "Candidate",
    "Concurrency",
    "Count",
    "Course",
    "CurrentJob",
    "Dead",
    "DeadFilter",
    "DeadGroup",
    "DeadJob",
    "DeadOutcome",
    "DeadWord",
    "DeleteWord",
    "Depends",
    "Discard",
    "DuplicateJobError",
    "EnqueueFullError",
    "EnqueueMiddleware",
    "EnqueueNext",
    "EnqueueUnavailableError",
    "Enqueueing",
    "ErrorInfo",
    "Explanation",
    "Exponential",
    "Fact",
    "Failure",
    "FailureHook",
    "Fate",
    "Finding",
    "Fixed",
    "FleetNumbers",
    "Group",
    "Histogram",
    "Holder",
    "InstanceReport",
    "InvariantError",
    "IsolatedError",
    "Job",
    "JobCancelledError",
    "JobContext",
    "JobError",
    "JobEvent",
    "JobFailedError",
    "JobInfo",
    "JobNotFoundError",
    "JobOptions",
    "JobOptionsArgs",
    "JobPage",
    "JobRow",
    "Key",
    "Level",
    "Lifespan",
    "LifespanError",
    "Limit",
    "LimitNumbers",
    "LimitReport",
    "LogLine",
    "MaxRetriesExceededError",
    "Minute",
    "MissingCommandError",
    "MoveWord",
    "NamedEnqueue",
    "NamespaceMismatchError",
    "NotAllowedError",
    "NotDurableError",
    "NotVisibleError",
    "Operator",
    "Overview",
    "OwnershipLostError",
    "ParkedReport",
    "PayloadTooLargeError",
    "Picture",
    "Planned",
    "PreparedCall",
    "ProcessLostError",
    "Progress",
    "QueueReport",
    "Rate",
    "Recovered",
    "RecoveryReport",
    "RescheduleWord",
    "ResultLeftOutError",
    "Results",
    "Retry",
    "Run",
    "RunMiddleware",
    "Scale",
    "ScheduleReport",
    "SealedError",
    "Segment",
    "Selection",
    "Settings",
    "SettingsArgs",
    "SettingsError",
    "Snooze",
    "State",
    "Step",
    "StoreFullError",
    "StoreRefusedError",
    "StoreUnavailableError",
    "SyncTask",
    "Task",
    "TaskDecorator",
    "TaskDefinitionError",
    "TaskReport",
    "TaskWithOptions",
    "Times",
    "TooManyLoginsError",
    "TrackedQueue",
    "TrackedQueueError",
    "UnguardedScriptError",
    "Unique",
    "UnreadableCallError",
    "UnreadableHintsError",
    "UnreadableJobError",
    "UnreadableResultError",
    "UsageError",
    "Viewer",
    "Workflow",
    "WorkflowJob",
    "__version__",
    "current_job",
    "injected",
]
