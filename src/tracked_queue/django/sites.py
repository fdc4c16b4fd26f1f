"""The queue behind each alias of TASKS: one app for a whole process, whatever threads and event loops it has."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from ..app import TrackedQueue, producer_of
from ..errors import SettingsError, UsageError, did_you_mean
from ..model.task import Task as AppTask
from ..settings import setting_names
from . import bands, connections, runs
from .api import InvalidTask, task_backends
from .declare import check_defaults, options_of, refused

if TYPE_CHECKING:
    from ..outbox import Outbox

Mode = Literal["on_commit", "now", "outbox"]

# Of OPTIONS; all others are settings of the app.
OWN_OPTIONS = ("ENQUEUE", "DATABASE", "TASK_OPTIONS", "TASK_MODULES", "DASHBOARD_URL", "CELERY")
_MODES = ("on_commit", "now", "outbox")


class Site:
    """
    One alias of TASKS.

    Args:
        alias: Its name.
        queues: QUEUES, in the order of the settings; empty for any name.
        options: OPTIONS.

    Raises:
        ImproperlyConfigured: One of the options is wrong; names it.
    """

    def __init__(self, alias: str, queues: list[str], options: Mapping[str, Any]) -> None:
        self.alias = alias
        if "." in alias or ":" in alias:
            raise ImproperlyConfigured(f"TASKS[{alias!r}]: a name of this backend has no dot and no colon")
        known = (*OWN_OPTIONS, "redis_url", *setting_names())
        for name in options:
            if name not in known:
                raise ImproperlyConfigured(f"TASKS[{alias!r}]: OPTIONS has no {name!r}; {did_you_mean(name, known)}")
        self.mode = self._mode(options.get("ENQUEUE", "on_commit"))
        self.database: str = options.get("DATABASE", "default")
        self.task_modules: list[str] = list(options.get("TASK_MODULES", ["tasks"]))
        self.dashboard_url: str = options.get("DASHBOARD_URL", "")
        try:
            self._task_options = check_defaults(options.get("TASK_OPTIONS", {}))
            self.app = TrackedQueue(**{name: value for name, value in options.items() if name not in OWN_OPTIONS})
        except (SettingsError, UsageError) as error:
            raise ImproperlyConfigured(f"TASKS[{alias!r}]: {error}") from error
        producer_of(self.app).definitions.home = f"tracked_queue.django.workers:{alias}"
        connections.install(self.app)
        self.outbox: Outbox | None = None
        if self.mode == "outbox":
            from .outbox import outbox_of

            self.outbox = outbox_of(self.app, self.database)
        self._runners: dict[str, runs.Runner] = {}
        self._lock = threading.RLock()
        self._serve(queues)
        for task in [task for (of, _), task in _defined.items() if of == alias]:
            self.app_task(task)

    def _mode(self, mode: object) -> Mode:
        if mode not in _MODES:
            raise ImproperlyConfigured(
                f"TASKS[{self.alias!r}]: ENQUEUE={mode!r}: it must be one of {', '.join(_MODES)}"
            )
        return cast(Mode, mode)

    def _serve(self, names: list[str]) -> None:
        for name in names:
            if bands.name_of(name) != name:
                problem = f"the ends {bands.HIGH} and {bands.LOW} stand for priorities; choose another name"
                raise ImproperlyConfigured(f"TASKS[{self.alias!r}]: queue {name!r}: {problem}")
        served = self.app.tasks.further_queues
        served[:] = bands.queues_of([*map(bands.name_of, served), *names])

    def app_task(self, task: Any) -> AppTask[..., Any]:
        """
        The task of the app that runs a Django task; made at its first use.

        Raises:
            InvalidTask: Its options are wrong, or the app has another task of its name.
        """
        runner = self._runners.get(task.module_path)
        if runner is None or runner.task.func is not task.func:
            with self._lock:
                runner = self._runners.get(task.module_path)
                if runner is None:
                    runner = self._made(task)
                elif runner.task.func is not task.func:
                    # Its module was loaded anew: the newest function counts; its options do when the process starts anew.
                    runner.task, runner.options = task, options_of(task, self._task_options)
        assert runner.app_task is not None
        if options_of(task, self._task_options) != runner.options:
            raise InvalidTask(
                f"{task.module_path}: there is a task of this function with other options; write another function for them"
            )
        _defined[self.alias, task.module_path] = runner.task
        return runner.app_task

    def _made(self, task: Any) -> runs.Runner:
        runner = runs.Runner(self.alias, task)
        if task.takes_context and options_of(task, self._task_options).get("isolate"):
            raise InvalidTask(
                f"{task.module_path}: isolate='process' runs apart from the worker, so it takes no context"
            )
        self._serve([task.queue_name])
        try:
            options = runner.options = options_of(task, self._task_options)
            runner.app_task = self.app.task(name=task.module_path, queue=task.queue_name, **options)(runner.function())
        except (UsageError, TypeError) as error:
            raise refused(task, error) from error
        self._runners[task.module_path] = runner
        return runner

    def task_called(self, path: str) -> Any:
        """The Django task of this name, if it was defined in this process; else None."""
        runner = self._runners.get(path)
        return None if runner is None else runner.task


# Every task that was defined, by alias and name: an app that takes another's place, after changed settings, has them too.
_defined: dict[tuple[str, str], Any] = {}
_sites: dict[str, list[tuple[dict[str, Any], Site]]] = {}
_lock = threading.Lock()


def site(alias: str) -> Site:
    """
    The one of an alias.

    Raises:
        ImproperlyConfigured: TASKS has no such alias, it is another backend's, or its options are wrong.
    """
    backend = task_backends[alias]
    found = getattr(backend, "site", None)
    if not isinstance(found, Site):
        raise ImproperlyConfigured(
            f"TASKS[{alias!r}] has the backend {type(backend).__module__}.{type(backend).__qualname__}; name "
            "tracked_queue.django.TrackedQueueBackend"
        )
    return found


def site_for(alias: str, params: Mapping[str, Any]) -> Site:
    """
    The one of an alias with these settings: the first backend of a process makes it, and all others share it. A test that
    changes settings gets another one, and afterwards the first one again.
    """
    with _lock:
        for known, found in _sites.setdefault(alias, []):
            if known == params:
                return found
        made = Site(alias, list(params.get("QUEUES", ["default"])), params.get("OPTIONS", {}))
        _sites[alias].append((copy.deepcopy(dict(params)), made))
        return made


def aliases() -> list[str]:
    """The aliases of TASKS that are ours."""
    found = []
    for alias in getattr(settings, "TASKS", {}):
        backend = task_backends[alias]
        if isinstance(getattr(backend, "site", None), Site):
            found.append(alias)
    return found


def queue(alias: str = "default") -> TrackedQueue:
    """
    The app behind an alias of TASKS: for tasks with typed arguments, workflows, schedules, and all else that it can do.

    Raises:
        ImproperlyConfigured: See `site`.
    """
    return site(alias).app
