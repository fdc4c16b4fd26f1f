"""Reading code that uses Celery: what to write instead, what has no counterpart. The code is parsed and never imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One place. `carries_over`: there is a counterpart, which `say` names; else `say` says what to do without one."""

    path: str
    line: int
    what: str
    say: str
    carries_over: bool = True


# Options of a task's decorator.
_OPTIONS = {
    "name": "name=",
    "queue": "queue=",
    "max_retries": "max_attempts= counts all runs: one more than max_retries",
    "default_retry_delay": "retry=Fixed(seconds)",
    "autoretry_for": "retry_on=; every error is retried by itself, unless max_attempts=1",
    "dont_autoretry_for": "give_up_on=",
    "retry_kwargs": "max_attempts=, retry=",
    "retry_backoff": "retry=Exponential(base=...), which is the default",
    "retry_backoff_max": "retry=Exponential(cap=...)",
    "retry_jitter": "retry=Exponential() has full jitter",
    "time_limit": "timeout=",
    "soft_time_limit": "timeout=: the job is cancelled then, and has cancel_grace seconds to end",
    "expires": "expires=",
    "ignore_result": "keep_result=False",
    "acks_late": "leave it out: a job is done when it has run",
    "reject_on_worker_lost": "leave it out: a lost worker's jobs are recovered",
    "track_started": "leave it out: job.info() knows",
    "bind": "leave it out: current_job() has .id and .attempt; raise Retry(after=...) in place of self.retry(...)",
    "typing": "leave it out: arguments are checked at the enqueue",
}
_NO_OPTIONS = {
    "rate_limit": "Celery counts it for one worker; limit=Rate(n, seconds) holds over the whole fleet",
    "serializer": "arguments are plain data and annotated types",
    "compression": "there is none; send an id of large data",
    "priority": "use queues: a worker serves them in order or by weights",
    "base": "a task is a function; put what a class did into middleware, a lifespan or a decorator",
    "after_return": "middleware",
    "on_failure": "@app.on_failure, or on_exhausted=",
    "on_success": "middleware",
    "on_retry": "@app.on_failure with retried=True",
}
# Arguments of apply_async.
_SEND = {
    "args": "positional arguments", "kwargs": "named arguments", "countdown": "options(delay=)", "eta": "options(at=)",
    "expires": "options(expires=)", "queue": "options(queue=)", "task_id": "options(id=)", "headers": "options(headers=)",
    "time_limit": "options(timeout=)", "soft_time_limit": "options(timeout=)", "retry": "leave it out",
    "retry_policy": "enqueue_timeout=", "ignore_result": "keep_result=False at the task",
}  # fmt: skip
_NO_SEND = {
    "link": "a chain: await app.chain(first.call(...), then.step())",
    "link_error": "options(after=[job], on_failure='fallback') for the job that mends it",
    "priority": "use queues", "serializer": "leave it out", "compression": "leave it out", "exchange": "there are queues only",
    "routing_key": "options(queue=)", "connection": "leave it out", "producer": "leave it out",
}  # fmt: skip
_METHODS = {
    "delay": "task.enqueue_sync(...), or await task.enqueue(...)",
    "delay_on_commit": "transaction.on_commit, tracked_queue.django, or an outbox",
    "apply_async_on_commit": "transaction.on_commit, tracked_queue.django, or an outbox",
    "apply_async": "task.options(...).enqueue_sync(...)",
    "send_task": "app.enqueue_sync('name', ...)",
    "signature": "task.step(...) or task.call(...)",
    "si": "task.call(...)",
}
_ENQUEUES = ("delay", "delay_on_commit", "apply_async", "apply_async_on_commit")
_CANVAS = {
    "chain": "await app.chain(first.call(...), second.step(...))",
    "group": "await app.group([task.call(...), ...])",
    "chord": "await app.group([...], then=callback.step())",
    "chunks": "app.enqueue_many([...]) of portions",
    "starmap": "app.enqueue_many([...])",
}
_REMOTE = {
    "control": "pause, resume, cancel, quiet: see `tracked-queue --help`, or app.operator",
    "inspect": "app.operator: queues(), instances(), explain()",
}
_SETTINGS = {
    "task_routes": "queue= at each task",
    "task_annotations": "options at each task",
    "beat_schedule": "@app.cron(...) or @app.every(...) above the task; no process of its own runs them",
    "task_always_eager": "tracked_queue.testing: inline(app) or fake(app)",
    "broker_transport_options": "leave it out: there is no visibility timeout",
    "worker_prefetch_multiplier": "leave it out: a worker takes what it has slots for",
    "task_acks_late": "leave it out: a job is done when it has run",
    "worker_max_tasks_per_child": "max_jobs=",
    "worker_max_memory_per_child": "max_memory=",
    "result_expires": "result_ttl=",
    "task_serializer": "leave it out",
    "task_time_limit": "timeout= at each task; without it none has a limit",
    "task_soft_time_limit": "timeout= at each task; without it none has a limit",
    "task_default_queue": "queue= at each task",
    "enable_utc": "times without a timezone are of UTC",
}
# Settings that need a change at each task.
_EVERYWHERE = ("task_routes", "task_annotations", "task_time_limit", "task_soft_time_limit", "task_default_queue")
# Names of Celery that nothing here stands for.
_NO_NAMES = {
    "SoftTimeLimitExceeded": "a job over its time is cancelled: asyncio.CancelledError in an async def; a plain def runs on",
    "Ignore": "return, or raise Discard()",
    "Reject": "raise Discard() or Dead()",
    "current_task": "current_job()",
    "AbortableTask": "job.cancel()",
    "AbortableAsyncResult": "job.cancel()",
}


def scan(root: Path) -> list[Finding]:
    """
    All places of a file, or of the Python files below a folder, in their order.

    Raises:
        UsageError: There is no such path.
    """
    if not root.exists():
        raise UsageError(f"{root}: there is no such file or folder")
    files = (
        [root]
        if root.is_file()
        else sorted(path for path in root.rglob("*.py") if not _skipped(path.relative_to(root)))
    )
    readers = [(path, _read(path, str(path))) for path in files]
    # A module that only calls tasks names Celery nowhere.
    project = any(reader.uses_celery for _, reader in readers)
    return [found for _, reader in readers for found in reader.places(project)]


def _skipped(path: Path) -> bool:
    return any(part.startswith(".") or part in ("node_modules", "site-packages", "__pycache__") for part in path.parts)


def _read(path: Path, shown: str) -> _Reader:
    reader = _Reader(shown)
    try:
        reader.visit(ast.parse(path.read_bytes()))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", 0) or 0
        reader.found = [Finding(path=shown, line=line, what="not Python", say=str(error), carries_over=False)]
        reader.uses_celery = True
    return reader


class _Reader(ast.NodeVisitor):
    def __init__(self, path: str) -> None:
        self._path = path
        self.found: list[Finding] = []
        self.uses_celery = False
        self._imported: set[str] = set()
        self._calls: list[Finding] = []
        self._canvas: set[str] = set()

    def places(self, project: bool) -> list[Finding]:
        """What was found, in order; of a module that doesn't name Celery, in a project that does, calls of imported tasks."""
        found = self.found if self.uses_celery else self._calls if project else []
        return sorted(found, key=lambda found: found.line)

    def _note(self, node: ast.AST, what: str, say: str, carries_over: bool = True) -> None:
        line = getattr(node, "lineno", 0)
        self.found.append(Finding(path=self._path, line=line, what=what, say=say, carries_over=carries_over))

    def visit_Import(self, node: ast.Import) -> None:
        """`import celery`."""
        self._imported |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        self.uses_celery |= any(alias.name.split(".")[0] in ("celery", "django_celery_beat") for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """`from celery import shared_task`."""
        module = node.module or ""
        names = {alias.name for alias in node.names}
        self._imported |= {alias.asname or alias.name for alias in node.names}
        if module.split(".")[0] in ("celery", "django_celery_beat"):
            self.uses_celery = True
        elif names & {"app", "celery_app", "celery"} or module.split(".")[-1] in ("celery", "celery_app"):
            self.uses_celery = True  # the project's own
        if module.startswith("celery"):
            self._canvas |= names & set(_CANVAS)
            for name in sorted(names & set(_NO_NAMES)):
                self._note(node, name, _NO_NAMES[name], False)
        if module == "celery.signals":
            self._note(node, f"signals ({', '.join(sorted(names))})", "middleware, lifespan or on_failure", False)
        if module.startswith("django_celery_beat"):
            self._note(
                node, "django_celery_beat", "@app.schedule_source reads a table of yours; or @app.cron(...) in the code"
            )

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """A task's decorator."""
        self._decorators(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """A task's decorator."""
        self._decorators(node)

    def _decorators(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for decorator in node.decorator_list:
            call = decorator if isinstance(decorator, ast.Call) else None
            name = _name(call.func if call else decorator)
            if name.split(".")[-1] not in ("shared_task", "task", "periodic_task"):
                continue
            self._note(decorator, f"@{name}", f"@app.task() above {node.name}; annotate its arguments")
            for keyword in call.keywords if call else ():
                option = keyword.arg or "**"
                if option in _OPTIONS:
                    self._note(keyword.value, f"{option}=", _OPTIONS[option])
                else:
                    say = _NO_OPTIONS.get(option, "there is no such option: see docs/explanation/coming-from.md")
                    self._note(keyword.value, f"{option}=", say, False)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """An enqueue, a canvas, a retry."""
        name = _name(node.func)
        last = name.split(".")[-1]
        if last in _METHODS and "." in name:
            before = len(self.found)
            self._note(node, f".{last}(...)", _METHODS[last])
            if last.startswith("apply_async"):
                self._options(node)
            if last in _ENQUEUES and name.partition(".")[0] in self._imported:
                self._calls += self.found[before:]
        elif last in self._canvas or (name.startswith("celery.") and last in _CANVAS):
            nested = any(_name(inner.func).split(".")[-1] in _CANVAS for inner in _calls_within(node))
            self._note(
                node,
                f"{last}(...)",
                _CANVAS[last] + ("; one inside another: build it in steps" if nested else ""),
                not nested,
            )
        elif name.endswith(".retry") and not name.endswith("self.retry") and self._is_retry(node):
            say = "raise Retry(after=seconds); with the interface of Celery, bind=True and self.retry"
            self._note(node, f"{name}(...)", say, False)
        elif name.endswith("self.retry"):
            self._note(node, "self.retry(...)", "raise Retry(after=seconds); or just let the error out")
            for keyword in node.keywords:
                if keyword.arg in ("args", "kwargs", "queue", "throw"):
                    self._note(
                        node, f"self.retry({keyword.arg}=)", "a retry is the same job: enqueue another one", False
                    )
        elif last == "AsyncResult":
            self._note(node, "AsyncResult(...)", "app.job(id); await job.result(), job.info()")
        elif last == "crontab":
            self._note(node, "crontab(...)", f'@app.cron("{_cron(node)}") above the task')
        self.generic_visit(node)

    @staticmethod
    def _is_retry(node: ast.Call) -> bool:
        return any(keyword.arg in ("exc", "countdown", "eta", "max_retries") for keyword in node.keywords)

    def _options(self, node: ast.Call) -> None:
        for keyword in node.keywords:
            option = keyword.arg or "**"
            if option in _NO_SEND:
                self._note(keyword.value, f"apply_async({option}=)", _NO_SEND[option], False)
            elif option in _SEND:
                self._note(keyword.value, f"apply_async({option}=)", _SEND[option])

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Remote control, settings, the request."""
        name = _name(node)
        if node.attr in _REMOTE and name.split(".")[0] in ("app", "celery", "celery_app", "current_app"):
            self._note(node, f".{node.attr}", _REMOTE[node.attr], False)
        elif name.startswith("self.request."):
            say = {"id": "current_job().id", "retries": "current_job().attempt - 1"}.get(node.attr, "current_job()")
            self._note(node, name, say)
        elif node.attr in _SETTINGS and ".conf" in name:
            self._note(node, f"conf.{node.attr}", _SETTINGS[node.attr], node.attr not in _EVERYWHERE)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """CELERY_BEAT_SCHEDULE of Django's settings."""
        for target in node.targets:
            if isinstance(target, ast.Name) and target.id.startswith("CELERY_"):
                self.uses_celery = True
                setting = target.id.removeprefix("CELERY_").lower()
                if setting in _SETTINGS:
                    self._note(node, target.id, _SETTINGS[setting], setting not in _EVERYWHERE)
        self.generic_visit(node)


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        before = _name(node.value)
        return f"{before}.{node.attr}" if before else f"?.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _calls_within(node: ast.Call) -> Iterator[ast.Call]:
    for part in [*node.args, *(keyword.value for keyword in node.keywords)]:
        for inner in ast.walk(part):
            if isinstance(inner, ast.Call):
                yield inner


def _cron(node: ast.Call) -> str:
    """`crontab(hour=3, minute=0)` as five fields."""
    order = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
    given = dict(zip(("minute", "hour", "day_of_week", "day_of_month", "month_of_year"), node.args, strict=False))
    given |= {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    values = [given.get(name) for name in order]
    return " ".join(
        "*" if value is None else str(value.value) if isinstance(value, ast.Constant) else "?" for value in values
    )
