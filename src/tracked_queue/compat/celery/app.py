"""`Celery` over a queue, and `shared_task` for modules that don't know it."""

from __future__ import annotations

import importlib
import importlib.util
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, overload

from ...app import TrackedQueue
from ...errors import UsageError, did_you_mean
from ...model.task import task_name
from .beat import source_of
from .canvas import Signature
from .options import sent
from .results import AsyncResult
from .tasks import CeleryTask, checked
from .values import plain

_EARLY = (
    "autodiscover_tasks: Django's apps are not loaded yet. Leave it out: with 'tracked_queue.django' in INSTALLED_APPS workers "
    "import the module tasks of each app"
)
# The entries stand in the code; what may change is which tasks are known.
BEAT_S = 60.0
P = ParamSpec("P")
R = TypeVar("R")


class _Shared:
    """What `shared_task` declares in this process: where it goes, and what waits until that is known."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._app: Celery | None = None
        self._waiting: list[CeleryTask[..., Any]] = []

    def belongs_to(self, app: Celery) -> None:
        """The first app gets all shared tasks."""
        with self._lock:
            if self._app is None:
                while self._waiting:
                    app.add(self._waiting[0])
                    del self._waiting[0]
                self._app = app

    @property
    def app(self) -> Celery:
        """The app that has them. Raises UsageError while there is none."""
        if self._app is None:
            raise UsageError(
                "there is no queue yet: write app = Celery(TrackedQueue(...)), and import that module first"
            )
        return self._app

    def add(self, task: CeleryTask[..., Any]) -> None:
        """Another one."""
        with self._lock:
            if self._app is None:
                self._waiting.append(task)
            else:
                self._app.add(task)


shared = _Shared()


class Celery:
    """
    The tasks of a queue by Celery's interface. The first one of a process takes what `shared_task` declares.

    Args:
        queue: The queue, with all its settings; workers run it: `tracked-queue worker shop.jobs:queue`.
        beat_schedule: Celery's entries by name: {"nightly": {"task": "shop.nightly", "schedule": crontab(hour=3, minute=0)}}.
        timezone: In which their crontabs are read.

    Raises:
        UsageError: Not a queue; or a shared task has a name that is taken there.

    Source: docs/how-to/celery.md.
    """

    def __init__(
        self,
        queue: TrackedQueue,
        *,
        beat_schedule: Mapping[str, Mapping[str, Any]] | None = None,
        timezone: str = "UTC",
    ) -> None:
        if not isinstance(queue, TrackedQueue):
            raise UsageError(
                f"Celery({queue!r}): here it takes the queue, with its settings: app = Celery(TrackedQueue('redis://...'))"
            )
        self.queue = queue
        self.tasks: dict[str, CeleryTask[..., Any]] = {}
        if beat_schedule:
            if not isinstance(beat_schedule, Mapping) or not all(
                isinstance(one, Mapping) for one in beat_schedule.values()
            ):
                raise UsageError(f"beat_schedule={beat_schedule!r}: it must be a dict of entries, each a dict")
            queue.schedule_source(every=BEAT_S)(source_of(self, beat_schedule, timezone))
        shared.belongs_to(self)

    def __repr__(self) -> str:
        return f"<Celery over {self.queue!r}>"

    def __getattr__(self, name: str) -> Any:
        if name == "conf":
            raise AttributeError("a Celery app has no .conf here: settings are the queue's, schedules @queue.cron(...)")
        if name == "control":
            raise AttributeError(
                "a Celery app has no .control here: see app.queue.operator, and `tracked-queue --help`"
            )
        raise AttributeError(f"a Celery app has no attribute {name!r} here: see app.queue")

    @overload
    def task(self, function: Callable[P, R], /) -> CeleryTask[P, R]: ...
    @overload
    def task(self, **options: Any) -> Callable[[Callable[..., R]], CeleryTask[..., R]]: ...
    def task(self, *function: Any, **options: Any) -> Any:
        """Register a function, with Celery's options: `@app.task`, or `@app.task(bind=True, max_retries=5)`."""
        return _declared(function[0] if function else None, options, self.add)

    def send_task(
        self, name: str, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[Any]:
        """Store a call of a task by its name; of one that this program doesn't know, for a worker that does."""
        if name in self.tasks:
            return self.tasks[name].apply_async(args, kwargs, **options)
        elsewhere = self.queue.options(**sent(name, options))
        return AsyncResult(elsewhere.enqueue_sync(name, *plain(args or ()), **plain(kwargs or {})))

    def signature(self, name: str, args: Sequence[Any] = (), kwargs: Any = None, **options: Any) -> Signature:
        """A call of a task by its name, for a canvas."""
        return self._named(name).signature(args, kwargs, **options)

    def AsyncResult(self, task_id: str) -> AsyncResult[Any]:
        """The result of a job by its id."""
        return AsyncResult(self.queue.job(task_id))

    def autodiscover_tasks(self, packages: Iterable[str] | None = None, related_name: str = "tasks") -> None:
        """
        Import the module `tasks` of each package, now.

        Args:
            packages: None: the installed apps of Django.

        Raises:
            UsageError: No packages, and no Django.
        """
        if callable(packages):
            packages = packages()
        if packages is None:
            try:
                from django.apps import apps
            except ImportError:
                raise UsageError("autodiscover_tasks(): name the packages: autodiscover_tasks(['shop'])") from None
            if not apps.ready:
                raise UsageError(_EARLY)
            packages = [config.name for config in apps.get_app_configs()]
        for package in packages:
            name = f"{package}.{related_name}"
            try:
                if importlib.util.find_spec(name) is not None:
                    importlib.import_module(name)
            except Exception as error:
                if type(error).__qualname__ == "AppRegistryNotReady":
                    raise UsageError(_EARLY) from error
                raise

    def _named(self, name: str) -> CeleryTask[..., Any]:
        found = self.tasks.get(name)
        if found is None:
            raise UsageError(f"there is no task {name!r}; {did_you_mean(name, self.tasks)}")
        return found

    def add(self, task: CeleryTask[..., Any]) -> None:
        """Register a task that was declared. Raises UsageError for a name that is taken."""
        task.bind_to(self.queue)
        self.tasks[task.name] = task


class _Current:
    """The first `Celery` of this process, as Celery's `current_app`; with Django the one of `"CELERY": True`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(shared.app, name)


current_app: Any = _Current()


@overload
def shared_task(function: Callable[P, R], /) -> CeleryTask[P, R]: ...
@overload
def shared_task(**options: Any) -> Callable[[Callable[..., R]], CeleryTask[..., R]]: ...
def shared_task(function: Any = None, /, **options: Any) -> Any:
    """Register a function with the first `Celery(queue)` of this process, whether that is there already or comes later."""

    return _declared(function, options, shared.add)


def _declared(function: Any, options: dict[str, Any], add: Callable[[CeleryTask[..., Any]], None]) -> Any:
    def register(function: Any) -> CeleryTask[..., Any]:
        checked(function, options)
        name = options.get("name") or task_name(function)
        task: CeleryTask[..., Any] = CeleryTask(function, name, options)
        add(task)
        return task

    return register if function is None else register(function)
