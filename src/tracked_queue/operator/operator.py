"""What operators see and do, from Python: `app.operator`. The command line parses and prints; this does the work."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeVar

from .. import log
from ..errors import StoreRefusedError, StoreUnavailableError, UsageError, did_you_mean
from ..model.checks import check_flag, check_list, check_name, check_text, check_whole, due_ms_of, to_seconds
from ..model.job import Job
from ..model.task import Task
from ..producer.connections import Connections
from ..producer.producer import Producer
from ..protocol.states import State
from ..protocol.transitions import (
    MAX_BATCH,
    MAX_MOVED,
    MAX_RICH,
    Call,
    CancelWord,
    DeadWord,
    DeleteWord,
    Fate,
    MoveWord,
    PortionWord,
    Recovered,
    RescheduleWord,
    act,
    cancel,
    delete,
    forget,
    move,
    pause,
    purge,
    quiet,
    recover,
    requeue,
    reschedule,
    resume,
    unpark,
)
from ..reports.dead import DeadFilter
from ..reports.jobs import drop_ended, read_leases, read_open_jobs, read_states
from ..settings import Seconds
from ..transport.store import Store
from ..worker.liveness import user_id
from ..worker.recovery import Witness, recover_once
from .jobs import move_line
from .many import (
    ALLOWED,
    DONE_WORDS,
    MANY_ACTIONS,
    Candidate,
    Course,
    ManyAction,
    Selection,
    batches,
    by_place,
    candidates,
    paced,
)
from .viewer import Viewer, filter_of, given, name_of, one_of

# How many ids an act names; its number of jobs counts all of them.
MOST_NAMED = 20
# How long the batch under way gets when an act on many jobs is cancelled.
LAST_BATCH_S = 1.0
W = TypeVar("W")
# A purge's words as those of a deletion.
_PURGED = {
    DeadWord.OK: DeleteWord.OK,
    DeadWord.NOT_DEAD: DeleteWord.NOT_ENDED,  # it was requeued meanwhile
    DeadWord.GONE: DeleteWord.GONE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadOutcome:
    """What became of dead jobs: how many were requeued or purged (or would be), and why others were not, by id."""

    done: int = 0
    refused: Mapping[str, DeadWord] = field(default_factory=dict)


class Operator(Viewer):
    """
    Everything that the command line can do, over all shards of the app's namespace.

    Methods that change something, and `schedules`, first make sure that the namespace has the number of shards in the settings.
    Every method raises StoreUnavailableError when Redis does not answer, and StoreRefusedError when it refuses.
    Source: docs/how-to/operate.md.
    """

    def __init__(self, connections: Connections, producer: Producer, by: str = "") -> None:
        super().__init__(connections)
        self._producer, self._by = producer, by

    @property
    def by(self) -> str:
        """Who is said to act: the operating system's user, as user@host, unless `acting_for` names another."""
        if not self._by:
            try:
                user = getpass.getuser()
            except (OSError, KeyError):  # a container without a passwd entry
                user = str(user_id())
            self._by = f"{user}@{socket.gethostname()}"
        return self._by

    def acting_for(self, who: str) -> Operator:
        """The same, for somebody else: a person who is logged in somewhere, a program. Logs, histories and `acts` name them."""
        return Operator(self._connections, self._producer, check_text("who", who))

    async def note_act(self, action: str, **facts: Any) -> None:
        """
        Log an act, and keep it among the last 500 (see `acts`). Methods that change something do this themselves.

        Args:
            facts: What was done to what, with which result; plain data.
        """
        log.operator_acted(action=action, by=self.by, **facts)
        await self._connections.stores[0].run(act(self.by, action, json.dumps(facts, default=str)))

    async def _note(self, action: str, **facts: Any) -> None:
        """`note_act` for what is done already: that it could not be kept must not look as if the act had failed."""
        with contextlib.suppress(StoreUnavailableError, StoreRefusedError):
            await self.note_act(action, **facts)

    # Dead jobs

    async def requeue(
        self,
        ids: Sequence[str] = (),
        *,
        matching: DeadFilter | None = None,
        everything: bool = False,
        rate: float | None = None,
        dry_run: bool = False,
    ) -> DeadOutcome:
        """
        Queue dead jobs again: those of these ids, those that match, or all.

        Args:
            rate: At most this many a second.
            dry_run: Only look at what would be done.

        Raises:
            UsageError: Not exactly one of the three was given.
        """
        return await self._change_dead("requeue", ids, matching, everything, rate, dry_run)

    async def purge(
        self,
        ids: Sequence[str] = (),
        *,
        matching: DeadFilter | None = None,
        everything: bool = False,
        rate: float | None = None,
        dry_run: bool = False,
    ) -> DeadOutcome:
        """Remove dead jobs for good; arguments as those of `requeue`."""
        return await self._change_dead("purge", ids, matching, everything, rate, dry_run)

    async def _change_dead(
        self,
        action: Literal["requeue", "purge"],
        ids: Sequence[str],
        matching: DeadFilter | None,
        everything: bool,
        rate: float | None,
        dry_run: bool,
    ) -> DeadOutcome:
        wanted = filter_of(matching)
        check_flag("everything", everything)
        check_flag("dry_run", dry_run)
        for job_id in check_list("ids", ids, "ids"):
            check_name("job id", job_id)
        if bool(ids) + (wanted != DeadFilter()) + everything != 1:
            raise UsageError("give ids, or a filter, or everything=True (one of them)")
        _check_rate(rate)
        stores, course = await self._connections.agreed(), Course()
        chosen = self._named(ids) if ids else candidates(stores, Selection.of_dead(wanted), self._connections.cipher)
        if dry_run:
            return await self._look_at_dead(chosen, stores)
        facts = {"ids": list(ids[:MOST_NAMED])} if ids else _fields_of(wanted)
        left = dict[str, str]()
        await self._carry_out(action, chosen, stores, rate, course, left, facts)
        return DeadOutcome(done=course.done, refused={job_id: DeadWord(word) for job_id, word in left.items()})

    async def _named(self, ids: Sequence[str]) -> AsyncIterator[Candidate]:
        for shard, own in sorted(self._connections.shards.by_shard(ids).items()):
            for job_id in own:
                yield Candidate(shard, job_id, "", "")

    async def _look_at_dead(self, chosen: AsyncIterator[Candidate], stores: Sequence[Store]) -> DeadOutcome:
        """What would become of them."""
        done, refused = 0, dict[str, DeadWord]()
        async for batch in batches(chosen, MAX_BATCH):
            for (shard, _), ids in by_place(batch).items():
                for job_id, state in zip(ids, await read_states(stores[shard], ids), strict=True):
                    word = _would_be(state)
                    done += word is DeadWord.OK
                    refused.update({} if word is DeadWord.OK else {job_id: word})
        return DeadOutcome(done=done, refused=refused)

    # Jobs

    async def cancel(self, ids: Sequence[str]) -> dict[str, CancelWord]:
        """Cancel jobs: at once if they have not started, else within a second. What became of each, in the order given."""
        keep = self._connections.settings.ended_ttl
        words = await self._for_each(ids, lambda batch: cancel(batch, keep, self.by))
        await self._note("cancel", **_answers(words))
        return words

    async def cancel_many(self, *, queue: str | None = None, task: str | Task[..., Any] | None = None) -> int:
        """
        Cancel the jobs of a queue or a task that are queued, scheduled, waiting for others, parked or running now.

        Returns:
            How many were cancelled, or asked to end.
        """
        if (queue is None) == (task is None):
            raise UsageError("cancel_many: give queue= or task=")
        if queue is not None:
            check_name("queue", queue)
        named = None if task is None else name_of(task)
        count, keep = 0, self._connections.settings.ended_ttl
        for store in await self._connections.agreed():
            async for ids in read_open_jobs(store, queue=queue, task=named):
                for at in range(0, len(ids), MAX_RICH):
                    answers = await store.run(cancel(ids[at : at + MAX_RICH], keep, self.by))
                    count += sum(word in (CancelWord.CANCELLED, CancelWord.REQUESTED) for word in answers)
            await drop_ended(store, queue=queue, task=named)
        await self._note("cancel_many", **given(queue=queue, task=named), jobs=count)
        return count

    async def move(self, ids: Sequence[str], queue: str) -> dict[str, MoveWord]:
        """
        Let jobs that have not started wait in another queue; what became of each. Those with limits or in a lane stay, since
        their places are counted in their queue.
        """
        check_name("queue", queue)
        words = await self._for_each(ids, lambda batch: move(batch, queue, self.by), MAX_MOVED)
        await self._note("move", queue=queue, **_answers(words))
        return words

    async def move_queue(self, source: str, queue: str, *, limit: int | None = None) -> int:
        """
        Let the queued jobs of one queue wait in another, the oldest first, at most `limit`; how many have been moved. Jobs in
        lanes and suspects stay.
        """
        for name in (source, queue):
            check_name("queue", name)
        if source == queue:
            raise UsageError(f"move_queue: both queues are {queue!r}")
        if limit is not None:
            check_whole("limit", limit)
        moved = 0
        for store in await self._connections.agreed():
            moved += await move_line(store, source, queue, self.by, None if limit is None else limit - moved)
        await self._note("move_queue", source=source, queue=queue, jobs=moved)
        return moved

    async def reschedule(self, ids: Sequence[str], when: Seconds | datetime) -> dict[str, RescheduleWord]:
        """
        Let scheduled jobs, retries and snoozed ones included, be due at another time: in so many seconds (0: now), or at a
        time with a timezone. What became of each.
        """
        if isinstance(when, datetime):
            given = {"due_ms": due_ms_of("when", when)}
        else:
            given = {"delay_ms": round(to_seconds("when", when) * 1000)}
        words = await self._for_each(ids, lambda batch: reschedule(batch, self.by, **given))
        await self._note("reschedule", **given, **_answers(words))
        return words

    async def delete(self, ids: Sequence[str]) -> dict[str, DeleteWord]:
        """
        Delete ended jobs with all that they carried, dead ones included; what became of each. The id of one that has just
        ended stays known for `resend_window`, so that an enqueue that is sent again adds nothing.
        """
        window = self._connections.settings.resend_window
        words = await self._for_each(ids, lambda batch: delete(batch, window))
        dead = [job_id for job_id, word in words.items() if word is DeleteWord.DEAD]
        for job_id, word in (await self._for_each(dead, purge)).items():
            words[job_id] = _PURGED[word]
        await self._note("delete", **_answers(words))
        return words

    async def many(
        self,
        action: ManyAction,
        which: Selection,
        *,
        rate: float | None = None,
        limit: int | None = None,
        allowed: Callable[[str, str], bool] | None = None,
        course: Course | None = None,
    ) -> Course:
        """
        Do the same with all jobs that are selected, batch by batch: `requeue` or `purge` dead ones, `cancel` what has not
        ended, `delete` what has, `run_now` what is scheduled; `recover` or `discard` (cancel) those of lost instances.

        Args:
            rate: At most this many a second.
            limit: At most this many in all.
            allowed: Told the queue and the task of each; those for which it is false are left alone, as 'forbidden'.
            course: Kept up to date on the way, and stops it: see Course.

        Returns:
            The course at its end. What was done is noted even if the call is cancelled, or fails on the way.

        Raises:
            UsageError: The action does not go with the state.
        """
        if action not in MANY_ACTIONS:
            raise UsageError(f"action={action!r}; {did_you_mean(str(action), MANY_ACTIONS)}")
        if not isinstance(which, Selection):
            raise UsageError(f"many: {which!r} is a {type(which).__qualname__}; give a Selection(...)")
        if which.state not in ALLOWED[action]:
            raise UsageError(f"{action} is for jobs that are {', '.join(ALLOWED[action])}; these are {which.state}")
        _check_rate(rate)
        if limit is not None:
            check_whole("limit", limit)
        course = course or Course()
        stores = await self._connections.agreed()

        left = dict[str, str]()

        async def chosen() -> AsyncIterator[Candidate]:
            number = 0
            async for one in candidates(stores, which, self._connections.cipher, course=course):
                # A list that is begun again, since what was done has left it, shows what was left alone a second time.
                if one.id in left:
                    continue
                if allowed is not None and not allowed(one.queue, one.task):
                    course.refused["forbidden"] += 1
                    left[one.id] = "forbidden"
                    continue
                yield one
                number += 1
                if number == limit:
                    return

        facts = {name: value for name, value in asdict(which).items() if value is not None}
        await self._carry_out(action, chosen(), stores, rate, course, left, facts)
        return course

    async def _carry_out(
        self,
        action: ManyAction,
        chosen: AsyncIterator[Candidate],
        stores: Sequence[Store],
        rate: float | None,
        course: Course,
        left: dict[str, str],
        facts: Mapping[str, Any],
    ) -> None:
        """
        Do it with these, batch by batch, and note it, also if it is cancelled or fails on the way.

        Args:
            left: Gets those that were left alone, with the reason.
            facts: What the note says of which jobs.
        """

        def note() -> Awaitable[None]:
            return self._note(action, jobs=course.done, refused=course.refused.total(), **facts)

        try:
            async for batch in paced(chosen, MAX_RICH, rate, course):
                under_way = asyncio.ensure_future(self._do(action, batch, stores, course, left))
                try:
                    await asyncio.shield(under_way)
                except asyncio.CancelledError:
                    # What it does is to be noted, too.
                    await asyncio.wait([under_way], timeout=LAST_BATCH_S)
                    raise
        except BaseException:
            if course.seen:
                await note()
            raise
        await note()

    async def _do(
        self,
        action: ManyAction,
        batch: Sequence[Candidate],
        stores: Sequence[Store],
        course: Course,
        left: dict[str, str],
    ) -> None:
        """Do it with these, and count what became of them."""
        keep, window = self._connections.settings.ended_ttl, self._connections.settings.resend_window
        for (shard, lease), ids in by_place(batch).items():
            store = stores[shard]
            words: Any
            match action:
                case "requeue":
                    words = await store.run(requeue(ids, self.by))
                case "purge":
                    words = await store.run(purge(ids))
                case "cancel":
                    words = await store.run(cancel(ids, keep, self.by))
                case "delete":
                    words = await store.run(delete(ids, window))
                case "run_now":
                    words = await store.run(reschedule(ids, self.by, delay_ms=0))
                case _:
                    words = await self._recover_named(store, lease, ids, discard=action == "discard")
            for job_id, word in zip(ids, words, strict=True):
                if word in DONE_WORDS[action]:
                    course.done += 1
                else:
                    course.refused[word] += 1
                    left[job_id] = word

    async def _recover_named(self, store: Store, lease: str, ids: Sequence[str], *, discard: bool) -> list[str]:
        """Move these jobs of a lost lease back, or let them end as cancelled; what became of each."""
        settings, words = self._connections.settings, list[str]()
        for at in range(0, len(ids), MAX_RICH):
            batch = list(ids[at : at + MAX_RICH])
            portion = await store.run(
                recover(
                    lease,
                    owner="operator",
                    max_recoveries=settings.max_recoveries,
                    lock_ttl=settings.recovery_lock_ttl,
                    resend_window=settings.resend_window,
                    interval=settings.heartbeat_interval,
                    ids=batch,
                    discard_by=self.by if discard else "",
                    keep=settings.ended_ttl,
                )
            )
            fates = {job.id: job.fate.value for job in portion.jobs if job.fate is not Fate.GONE}
            missing = "gone" if portion.word is PortionWord.OK else portion.word.value
            words += [fates.get(job_id, missing) for job_id in batch]
        return words

    async def recover_orphans(self, ids: Sequence[str], *, discard: bool = False) -> dict[str, str]:
        """
        Move some jobs of lost instances back to their queues now, or let them end as cancelled.

        Args:
            discard: They will not run again.

        Returns:
            What became of each: its fate, or 'alive' (the instance goes on), 'hold' (after an outage nobody may be called lost
            yet), or 'gone' (no instance owns it).
        """
        check_flag("discard", discard)
        words: dict[str, str] = {}
        for job_id in check_list("ids", ids, "ids"):
            check_name("job id", job_id)
        stores = await self._connections.agreed()
        for shard, own in self._connections.shards.by_shard(ids).items():
            by_lease: dict[str, list[str]] = {}
            for job_id, lease in (await read_leases(stores[shard], own)).items():
                by_lease.setdefault(lease, []).append(job_id)
            for lease, of_lease in by_lease.items():
                found = await self._recover_named(stores[shard], lease, of_lease, discard=discard)
                words.update(zip(of_lease, found, strict=True))
        words = {job_id: words.get(job_id, "gone") for job_id in ids}
        answers = dict(list(words.items())[:MOST_NAMED])
        await self._note("discard" if discard else "recover", jobs=len(words), answers=answers)
        return words

    async def _for_each(
        self, ids: Sequence[str], make: Callable[[list[str]], Call[list[W]]], most: int = MAX_RICH
    ) -> dict[str, W]:
        """A call for as many jobs as one may have, in each shard; the words by id, in the order given."""
        for job_id in check_list("ids", ids, "ids"):
            check_name("job id", job_id)
        stores, words = await self._connections.agreed(), dict[str, W]()
        for shard, own in self._connections.shards.by_shard(ids).items():
            for at in range(0, len(own), most):
                batch = own[at : at + most]
                answers: list[W] = await stores[shard].run(make(batch))
                words.update(zip(batch, answers, strict=True))
        return {job_id: words[job_id] for job_id in ids}

    async def retire(self, *, queue: str | None = None, task: str | Task[..., Any] | None = None) -> int:
        """
        Let a queue that nobody serves any more, or a task that was removed from the code, leave nothing behind: its jobs are
        cancelled as by `cancel_many`, and the queue's name is forgotten. A later enqueue begins anew.

        Returns:
            How many jobs were cancelled.
        """
        count = await self.cancel_many(queue=queue, task=task)
        if queue is not None:
            kept = [store for store in self._connections.stores if not await store.run(forget(queue))]
            if kept:
                raise UsageError(
                    f"retire: queue {queue!r} got further jobs meanwhile; stop what enqueues there, and retire it again"
                )
        return count

    # The fleet

    async def pause(
        self, *, queue: str | None = None, task: str | Task[..., Any] | None = None, schedule: str | None = None
    ) -> bool:
        """Pause a queue, a task or a schedule over the whole fleet; False if it was paused."""
        what = ":".join(one_of(queue=queue, task=task, schedule=schedule))
        answers = [await store.run(pause(what)) for store in await self._connections.agreed()]
        changed = any(answers)
        await self._note("pause", what=what, changed=changed)
        return changed

    async def resume(
        self, *, queue: str | None = None, task: str | Task[..., Any] | None = None, schedule: str | None = None
    ) -> bool:
        """Undo a pause; False if there was none. A task's parked jobs go back to their queues."""
        kind, name = one_of(queue=queue, task=task, schedule=schedule)
        changed = False
        for store in await self._connections.agreed():
            changed = await store.run(resume(f"{kind}:{name}")) or changed
            while kind == "task":
                moved, remaining = await store.run(unpark(name, []))
                if not moved or not remaining:
                    break
        await self._note("resume", what=f"{kind}:{name}", changed=changed)
        return changed

    async def quiet(self, instance: str, *, undo: bool = False) -> list[str]:
        """
        Tell the live instances of a lease or a label to fetch no more jobs; what runs there goes on.

        Args:
            undo: Let them fetch again.

        Returns:
            The leases of the instances that were asked.
        """
        check_name("instance", instance)
        check_flag("undo", undo)
        leases = [
            item.lease
            for item in await self.instances()
            if instance in (item.lease, item.label) and item.alive
            if await self._connections.stores[item.shard].run(quiet(item.lease, not undo))
        ]
        if leases:
            await self._note("quiet", instance=instance, leases=leases, on=not undo)
        return leases

    async def recover(self) -> list[Recovered]:
        """
        Recover the jobs of all run-out leases now, and return what was moved. With `auto_recovery=False` nothing else
        recovers them. Leases that are alive, and a hold after an outage, are respected.
        """
        moved: list[Recovered] = []
        witness = Witness(self._producer.definitions.hooks.tracing, self._connections.cipher.open)
        for store in await self._connections.agreed():
            moved += await recover_once(store, self._connections.settings, "app.recover", witness)
        await self._note("recover", jobs=len(moved))
        return moved

    async def trigger(self, schedule: str) -> Job[Any]:
        """Run a schedule's task now, besides its ticks. Raises UsageError for a name that this app doesn't have."""
        stored = await self._producer.trigger(schedule)
        await self._note("trigger", schedule=schedule, job_id=stored.id)
        return stored


def _check_rate(rate: float | None) -> None:
    if rate is None:
        return
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not (rate > 0 and math.isfinite(rate)):
        raise UsageError(f"rate={rate!r}: it must be a number above 0")


def _fields_of(wanted: DeadFilter) -> dict[str, Any]:
    """What a filter asks for, without what it leaves open."""
    return given(**{name: getattr(wanted, name) for name in wanted.__dataclass_fields__})


def _would_be(state: State | None) -> DeadWord:
    return DeadWord.OK if state is State.DEAD else DeadWord.GONE if state is None else DeadWord.NOT_DEAD


def _answers(words: Mapping[str, Any]) -> dict[str, Any]:
    """How many jobs an act was about, and what became of the first ones."""
    named = {job_id: words[job_id].value for job_id in list(words)[:MOST_NAMED]}
    return {"jobs": len(words), "answers": named}
