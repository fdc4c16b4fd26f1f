"""What an app consists of besides its settings: tasks, schedules, limits of queues, hooks."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..errors import UsageError
from .checks import check_carry
from .constraints import Limit
from .hooks import Hooks
from .schedules import Schedule, ScheduleSource
from .task import Enqueuer, Registry


class Definitions:
    """The definitions of one app; `include` takes those of other apps over."""

    def __init__(self, hooks: Hooks) -> None:
        self.tasks = Registry()
        self.hooks = hooks
        self.schedules: dict[str, Schedule] = {}
        self.sources: list[ScheduleSource] = []
        self.queue_limits: dict[str, tuple[Limit, ...]] = {}
        # Where the app can be imported from, `module:attribute`, if it is not just where a module holds it.
        self.home = ""

    def check_merge(self, other: Definitions, before: Sequence[Definitions]) -> None:
        """
        Check that another app's definitions can be added to these, and to those of `before`, which are added first.

        Raises:
            UsageError: It has a lifespan of its own, or a name that is taken.
        """
        if other.hooks.lifespan is not None:
            raise UsageError(
                "include: the app has a lifespan of its own, which would be lost; give it to the app that includes"
            )
        for own in (self, *before):
            check_carry([*own.hooks.carry, *(item for item in other.hooks.carry if item not in own.hooks.carry)])
            kinds: list[tuple[str, Collection[str], Collection[str]]] = [
                ("a task", [task.name for task in own.tasks], [task.name for task in other.tasks]),
                ("a schedule", own.schedules, other.schedules),
                ("limits for a queue", own.queue_limits, other.queue_limits),
            ]
            for kind, here, there in kinds:
                for name in there:
                    if name in here:
                        raise UsageError(
                            f"include: both apps have {kind} called {name}; give one of them a different name"
                        )

    def merge(self, other: Definitions, enqueuer: Enqueuer) -> None:
        """Take over another app's definitions, whose tasks enqueue through `enqueuer` from now on."""
        for task in other.tasks:
            self.tasks.add(task)
            task.enqueuer = enqueuer
        self.hooks.carry += tuple(item for item in other.hooks.carry if item not in self.hooks.carry)
        self.hooks.run += other.hooks.run
        self.hooks.failed += other.hooks.failed
        self.hooks.thread_contexts += other.hooks.thread_contexts
        self.hooks.thread_lifespans += other.hooks.thread_lifespans
        self.hooks.enqueue += other.hooks.enqueue
        self.hooks.companions += other.hooks.companions
        self.hooks.further_overrides += [lambda: other.hooks.overrides, *other.hooks.further_overrides]
        self.hooks.tracing = self.hooks.tracing or other.hooks.tracing
        self.queue_limits.update(other.queue_limits)
        self.schedules.update(other.schedules)
        self.sources += other.sources
