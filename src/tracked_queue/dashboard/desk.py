"""What one person sees and does in one namespace. All rights are checked here, below the routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from ..app import TrackedQueue
from ..errors import JobNotFoundError, NotAllowedError, NotVisibleError, UsageError
from ..model.checks import check_name
from ..model.masking import masked_info, names_of
from ..model.record import JobInfo
from ..operator.explanation import Explanation, plural
from ..operator.many import DONE_WORDS, Course, ManyAction, Selection
from ..operator.operator import Operator
from ..operator.viewer import Viewer
from ..reports.schedules import ScheduleReport
from .access import Access, Action, Identity, Wish

T = TypeVar("T")
# Of so many jobs at once the queue and task are looked up before something is done with them.
MOST_IDS = 250


class Placed(Protocol):
    """What has a queue and a task."""

    @property
    def queue(self) -> str: ...

    @property
    def task(self) -> str: ...


P = TypeVar("P", bound=Placed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """
    What an act came to: a sentence, whether all of it was done, what became of each job, where it was about jobs, and the bulk
    action that it began.
    """

    said: str
    ok: bool = True
    words: dict[str, str] = field(default_factory=dict)
    bulk: str | None = None


class Desk:
    """
    The operator of one app as one person may use it. What may not be seen is not there; what may not be done raises
    NotAllowedError.
    """

    def __init__(
        self,
        app: TrackedQueue,
        who: Identity,
        access: Access,
        shared: Callable[[tuple[str, Hashable], float, Callable[[], Awaitable[Any]]], Awaitable[Any]],
    ) -> None:
        self._app, self.who, self._access, self._shared = app, who, access, shared
        self.namespace = app.settings.namespace
        self.settings = app.settings

    @property
    def _operator(self) -> Operator:
        return self._app.operator.acting_for(self.who.name)

    @property
    def reads(self) -> Viewer:
        """What only reads; what it returns goes through `seen` and its like."""
        return self._app.operator

    @property
    def has_code(self) -> bool:
        """Whether the app's own code is here, and not only its settings."""
        return any(True for _ in self._app.tasks)

    async def cached(self, key: Hashable, seconds: float, read: Callable[[], Awaitable[T]]) -> T:
        """One reading for all who look; what may not be seen must be left out of it afterwards."""
        found: T = await self._shared((self.namespace, key), seconds, read)
        return found

    # Seeing

    def may(self, action: Action, queue: str = "", task: str = "") -> bool:
        """Whether they may do this."""
        wish = Wish(action=action, namespace=self.namespace, queue=queue, task=task)
        return self._access.allows(self.who, wish) and (
            action == "view"
            or self._access.allows(self.who, Wish(action="view", namespace=self.namespace, queue=queue, task=task))
        )

    @property
    def sees_fleet(self) -> bool:
        """Whether they may see what concerns all queues and tasks."""
        return self.may("view")

    def must_see_fleet(self) -> None:
        """Raises NotVisibleError."""
        if not self.sees_fleet:
            raise NotVisibleError("not found")

    def must_see(self, queue: str = "", task: str = "") -> None:
        """Raises NotVisibleError."""
        if not self.may("view", queue, task):
            raise NotVisibleError("not found")

    def must(self, action: Action, queue: str = "", task: str = "") -> None:
        """Raises NotVisibleError for what they may not see, and NotAllowedError for what they may not do."""
        self.must_see(queue, task)
        if not self.may(action, queue, task):
            why = "this dashboard is read-only" if self._access.read_only else f"your role is {self.who.role.value}"
            raise NotAllowedError(f"you may not {action.replace('_', ' ')} here: {why}")

    def seen(self, rows: Iterable[P]) -> list[P]:
        """Those of them that they may see."""
        return [one for one in rows if self.may("view", one.queue, one.task)]

    def explained(self, found: Iterable[Explanation]) -> tuple[Explanation, ...]:
        """As they may see them: facts and commands can name what is not for them."""
        if self.sees_fleet:
            return tuple(found)
        return tuple(
            replace(one, facts=(), do=(), twice_sentence="", runs=tuple(replace(run, lease="") for run in one.runs))
            for one in found
        )

    def seen_problems(self, found: Iterable[Explanation]) -> list[Explanation]:
        """Those that concern what they may see."""
        if self.sees_fleet:
            return list(found)
        seen = []
        for one in found:
            kind, _, name = one.about.partition(" ")
            if (kind == "queue" and self.may("view", queue=name)) or (kind == "task" and self.may("view", task=name)):
                seen.append(one)
        return seen

    async def job(self, job_id: str) -> JobInfo:
        """
        A job as they may see it: without the values under masked names, and without arguments and results where those are not
        for them.

        Raises:
            NotVisibleError: No such job.
        """
        try:
            info = await self._app.job(job_id).info()
        except JobNotFoundError:
            raise NotVisibleError(NO_JOB.format(job_id)) from None
        if not self.may("view", info.queue, info.task):
            raise NotVisibleError(NO_JOB.format(job_id))
        if not self.sees_fleet:
            failures = tuple(replace(one, lease="") for one in info.failures)
            history = tuple(replace(one, lease="") for one in info.history)
            info = replace(info, lease=None, after=(), lane=None, failures=failures, history=history)
        if not self.may("see_arguments", info.queue, info.task):
            return _without_arguments(info)
        task = self._app.tasks.get(info.task)
        names = names_of(self.settings.masked_names)
        return masked_info(info, names, () if task is None else task.signature.positional)

    # Acting

    async def must_jobs(self, action: ManyAction, ids: Sequence[str]) -> dict[str, tuple[str, str]]:
        """
        The queue and the task of each of some jobs, all of which they must see and may do this with.

        Raises:
            UsageError, NotVisibleError, NotAllowedError
        """
        if not ids:
            raise UsageError("select at least one job")
        if len(ids) > MOST_IDS:
            raise UsageError(f"{len(ids)} jobs at once; at most {MOST_IDS}, or act on all that match a filter")
        for job_id in ids:
            check_name("job id", job_id)
        places = await self.reads.places(ids)
        for job_id in ids:
            if job_id not in places or not self.may("view", *places[job_id]):
                raise NotVisibleError(NO_JOB.format(job_id))
            self.must(action, *places[job_id])
        return places

    async def act_on_jobs(self, action: ManyAction, ids: Sequence[str]) -> Done:
        """Do something with some jobs, each of which they must see and may do this with; else nothing is done."""
        await self.must_jobs(action, ids)
        operator, words = self._operator, dict[str, str]()
        match action:
            case "requeue" | "purge":
                act = operator.requeue if action == "requeue" else operator.purge
                refused = (await act(ids)).refused
                words = {job_id: refused[job_id].value if job_id in refused else "ok" for job_id in ids}
            case "cancel":
                words = {job_id: word.value for job_id, word in (await operator.cancel(ids)).items()}
            case "delete":
                words = {job_id: word.value for job_id, word in (await operator.delete(ids)).items()}
            case "run_now":
                words = {job_id: word.value for job_id, word in (await operator.reschedule(ids, 0)).items()}
            case _:
                words = await operator.recover_orphans(ids, discard=action == "discard")
        done = sum(word in DONE_WORDS[action] for word in words.values())
        rest = {word for word in words.values() if word not in DONE_WORDS[action]}
        why = f"; of the others: {', '.join(_WHY.get(word, word) for word in sorted(rest))}" if rest else ""
        return Done(said=f"{plural(done, 'job')} {_SAID[action]}{why}", ok=not rest, words=words)

    async def many(
        self, action: ManyAction, which: Selection, *, rate: float | None, limit: int | None, course: Course
    ) -> None:
        """Do something with all that match; jobs with which they may not are left alone. Runs until it is done or stopped."""
        await self._operator.many(
            action,
            which,
            rate=rate,
            limit=limit,
            course=course,
            allowed=lambda queue, task: self.may(action, queue, task),
        )

    def must_many(self, action: ManyAction, which: Selection) -> None:
        """Whether they may ask for that; of each job it is asked again."""
        if which.queue is not None or which.task is not None:
            self.must(action, which.queue or "", which.task or "")
        elif not self.sees_fleet:
            raise NotAllowedError("name a queue or a task: you see only some of them")
        else:
            self.must(action)

    async def act_on_name(self, action: Action, name: str) -> Done:
        """Do something with a queue, a task, a schedule, an instance or, without a name, the fleet."""
        operator = self._operator
        kind = action.partition("_")[2]
        if kind in ("queue", "task", "schedule"):
            queue, task = (name, "") if kind == "queue" else ("", name)
            if kind == "schedule":
                one = await self.schedule(name)
                queue, task = one.queue, one.task
            self.must(action, queue, task)
            change = operator.pause if action.startswith("pause") else operator.resume
            changed = await change(**{kind: name})
            word = "paused" if action.startswith("pause") else "resumed"
            return Done(said=f"{kind} {name} {word}" if changed else f"{kind} {name} was {word} already")
        match action:
            case "trigger":
                one = await self.schedule(name)
                self.must(action, one.queue, one.task)
                if not self.has_code:
                    raise UsageError(
                        "trigger: a schedule's arguments are in the application's code; "
                        "start the dashboard with --app module:app"
                    )
                job = await operator.trigger(name)
                return Done(said=f"schedule {name} runs now, as job {job.id}", words={job.id: "ok"})
            case "quiet" | "unquiet":
                self.must(action)
                leases = await operator.quiet(name, undo=action == "unquiet")
                if not leases:
                    raise NotVisibleError(f"there is no live instance {name}")
                what = "fetches again" if action == "unquiet" else "fetches no more jobs; what runs there goes on"
                return Done(said=f"instance {name} {what}")
            case "recover":
                self.must(action)
                moved = await operator.recover()
                return Done(said=f"{plural(len(moved), 'job')} of lost instances recovered")
        raise UsageError(f"{action} is not for this")

    async def schedule(self, name: str) -> ScheduleReport:
        """One schedule. Raises NotVisibleError."""
        for one in self.seen(await self.reads.schedules()):
            if one.name == name:
                return one
        raise NotVisibleError(f"there is no schedule {name}")


NO_JOB = "there is no job {}: it has ended and expired, never was here, or is not for you to see"
_SAID: dict[ManyAction, str] = {
    "requeue": "requeued",
    "purge": "purged",
    "cancel": "cancelled (running ones were asked to stop)",
    "delete": "deleted",
    "run_now": "due now",
    "recover": "recovered",
    "discard": "discarded",
}
_WHY = {
    "gone": "gone meanwhile",
    "not_dead": "not dead any more",
    "held": "its unique key is held by another job",
    "unusable": "its record can't be used",
    "ended": "ended before",
    "not_ended": "may still run",
    "wanted": "another job has yet to read its result",
    "not_scheduled": "not scheduled any more",
    "alive": "its instance is alive",
    "hold": "after an outage, nobody may be called lost yet",
    "forbidden": "not yours to change",
}


def why(word: str) -> str:
    """A word of the scripts as people read it."""
    return _WHY.get(word, word)


def _without_arguments(info: JobInfo) -> JobInfo:
    return replace(
        info,
        args=None,
        kwargs=None,
        headers={},
        checkpoint=None,
        result=None,
        unique=None,
        lines=(),
        lane=None,
        limits=(),
    )
