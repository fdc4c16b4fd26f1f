"""A call becomes a stored job: checked, encoded, through the middleware, into its shard; and its end a value."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast

import msgspec

from ..errors import (
    ArgumentError,
    DuplicateJobError,
    JobError,
    JobNotFoundError,
    PayloadTooLargeError,
    StoreUnavailableError,
    UsageError,
    did_you_mean,
)
from ..model.checks import check_list, check_name, to_seconds
from ..model.codec import encode_any
from ..model.context import current
from ..model.definitions import Definitions
from ..model.hooks import Enqueueing, chained, run_now
from ..model.job import Job
from ..model.options import AFTER_AT_ONCE, DEFAULT_QUEUE, MAX_AFTER, JobOptions, OnFailure, TaskOptions, extras_of
from ..model.record import JobInfo
from ..model.schedules import Planned, Schedule
from ..model.task import PreparedCall, Step, Task
from ..model.workflow import Group, check_calls, check_step
from ..protocol.packing import encode_extras
from ..protocol.request import Request
from ..protocol.states import State
from ..protocol.transitions import Call, CancelWord, ConflictWord, Ended, Stored, await_end, cancel
from ..reports.jobs import read_job, read_states
from ..settings import Seconds
from ..sharding.placement import required_shards
from .client import enqueue_sync
from .connections import Connections
from .results import LAST_LOOK_S, value_of

# A watcher looks at its job this often even if nothing is pushed: the start of a job, for one, is not pushed.
WATCH_S = 1.0
# Between two looks of a thread that waits for a result, at first and later.
LEAST_PAUSE_S, MOST_PAUSE_S = 0.02, 0.5


class Producer:
    """
    What tasks and handles need of their app (`Enqueuer`, `JobReader`): calls become requests, requests become jobs, and jobs
    are read and waited for.
    """

    def __init__(self, app: Any, definitions: Definitions, connections: Connections) -> None:
        self.app = app
        self.definitions, self.connections = definitions, connections

    def job(self, job_id: str) -> Job[Any]:
        """A handle to a job by its id; Redis is not asked yet. Raises UsageError for what can't be a job id."""
        return Job(check_name("job id", job_id), False, self)

    # Calls become requests

    def request(
        self,
        task: Task[..., Any],
        options: JobOptions,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        headers: Mapping[str, Any] | None = None,
        id: str | None = None,
    ) -> Request:
        """A checked, encoded call. Raises ArgumentError, PayloadTooLargeError."""
        signature, chosen = task.signature, task.task_options
        given = 1 if options.inputs else 0  # positional arguments that come from the jobs before it
        packed_args, packed_kwargs = signature.encode(args, kwargs, self.connections.settings.max_payload, given)
        queue = options.queue or chosen.queue
        extras: dict[str, Any] = {}
        if chosen.sends_extras or options.sends_extras or self.definitions.queue_limits:
            extras = extras_of(
                task.name,
                queue,
                chosen,
                options,
                lambda: signature.arrived(packed_args, packed_kwargs, given),
                self.definitions.queue_limits.get(queue, ()),
            )
        return self._made(
            task.name, queue, packed_args, packed_kwargs, options, chosen, headers, extras, id, signature.result
        )

    def _made(
        self,
        task: str,
        queue: str,
        args: bytes,
        kwargs: bytes,
        options: JobOptions,
        chosen: TaskOptions,
        headers: Mapping[str, Any] | None,
        extras: dict[str, Any],
        id: str | None = None,
        result: Any = None,
    ) -> Request:
        connections = self.connections
        id, pinned = id or options.id, False
        if connections.settings.shards > 1:
            shards, limits = connections.shards, self.definitions.queue_limits.get(queue, ())
            where = required_shards(shards, task, queue, chosen.unique, chosen.limits, limits, extras)
            if options.after:
                where += [
                    ("after=", shard)
                    for shard in [shards.common(f"task {task}", options.after_ids)]
                    if shard is not None
                ]
            home = shards.home(f"task {task}", id, where)
            id, pinned = id or shards.new_id(home), home is not None
        stored = b""
        if options.has_stored_options or options.headers or headers or self.definitions.hooks.carry:
            if not chosen.tracked and options.max_attempts not in (None, 1):
                raise UsageError(
                    f"task {task}: tracked=False: such a job runs at most once, so max_attempts= has no effect"
                )
            stored = self._travelling(task, options, headers, len(args) + len(kwargs))
        cipher = connections.cipher
        if cipher.active:
            args, kwargs, stored = cipher.seal(args), cipher.seal(kwargs), cipher.seal(stored)
        # By position: this is made for every enqueue, and names cost as much again.
        return Request(
            id or connections.shards.new_id(), task, queue, args, kwargs, stored, options.delay_ms, options.due_ms,
            chosen.tracked, encode_extras(extras) if extras else b"", result,
            options.durability or connections.settings.durability, pinned,
            tuple(options.after_ids[AFTER_AT_ONCE:]) if options.after is not None else (), extras.get("wants", 0),
        )  # fmt: skip

    def _travelling(self, task: str, options: JobOptions, headers: Mapping[str, Any] | None, size: int) -> bytes:
        """Headers, carried variables and options, encoded; with the arguments (`size`) they must fit max_payload."""
        sent, context = {**(options.headers or {}), **(headers or {})}, self.definitions.hooks.carried()
        for what, values in (("headers", sent), ("carry", context)):
            for name, value in values.items():
                if not isinstance(name, str):
                    raise ArgumentError(task, what, f"the key {name!r} is a {type(name).__qualname__}; keys are text")
                try:
                    encode_any({name: value})
                except TypeError as error:
                    raise ArgumentError(task, f"{what}[{name!r}]", f"{error}; plain data travels here") from None
        stored = options.stored(sent, context)
        if size + len(stored) > self.connections.settings.max_payload:
            raise PayloadTooLargeError(task, size + len(stored), self.connections.settings.max_payload)
        return stored

    def _named_request(
        self,
        name: str,
        options: JobOptions,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        headers: Mapping[str, Any] | None = None,
    ) -> Request:
        packed = (_encode_plain(name, args) if args else b"", _encode_plain(name, kwargs) if kwargs else b"")
        size = sum(map(len, packed))
        if size > self.connections.settings.max_payload:
            raise PayloadTooLargeError(name, size, self.connections.settings.max_payload)
        queue = options.queue or DEFAULT_QUEUE
        chosen = TaskOptions()
        extras = extras_of(name, queue, chosen, options, dict, self.definitions.queue_limits.get(queue, ()))
        return self._made(name, queue, *packed, options, chosen, headers, extras)

    def tick(self, schedule: Schedule, tick_ms: int, mode: str) -> Request:
        """The job of one tick; its id comes from the tick, so that any number of workers store it only once."""
        options = dataclasses.replace(schedule.options, tick=(schedule.name, tick_ms, mode))
        request = self.request(schedule.task, options, tuple(schedule.args), dict(schedule.kwargs))
        shards = self.connections.shards
        home = shards.of_id(request.id) if request.pinned else shards.of_text(f"schedule:{schedule.name}")
        return msgspec.structs.replace(request, id=shards.moved(f"cron:{schedule.name}:{tick_ms}", home))

    # Requests become jobs

    async def enqueue_call(
        self,
        task: Task[..., Any],
        options: JobOptions,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        sync: bool = False,
    ) -> Job[Any]:
        """What `task.enqueue` ends in: middleware, checks, one job stored. `sync`: without an event loop."""
        if not self.definitions.hooks.see_enqueues:
            return await self._store(self.request(task, options, args, kwargs), sync)
        return await self._through_middleware(
            task.name, options.queue or task.task_options.queue, options, args, kwargs,
            lambda headers: self.request(task, options, args, kwargs, headers), sync=sync,
        )  # fmt: skip

    def enqueue_call_sync(
        self, task: Task[..., Any], options: JobOptions, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Job[Any]:
        """`enqueue_call` without an event loop."""
        return run_now(self.enqueue_call(task, options, args, kwargs, sync=True))

    async def enqueue_named(
        self, name: str, options: JobOptions, args: tuple[Any, ...], kwargs: dict[str, Any], *, sync: bool = False
    ) -> Job[Any]:
        """`enqueue_call` of a task by its name, whether its code is at hand or not."""
        if isinstance(name, Task):
            raise UsageError(
                f"enqueue({name.name}, ...): it takes a task's name; with the task at hand write {name.name}.enqueue(...)"
            )
        task = self.definitions.tasks.get(check_name("task name", name))
        if task is not None:
            return await self.enqueue_call(task, options, args, kwargs, sync=sync)
        return await self._through_middleware(
            name, options.queue or DEFAULT_QUEUE, options, args, kwargs,
            lambda headers: self._named_request(name, options, args, kwargs, headers), sync=sync,
        )  # fmt: skip

    async def _through_middleware(
        self,
        task: str,
        queue: str,
        options: JobOptions,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        make: Callable[[Mapping[str, Any]], Request],
        id: str | None = None,
        *,
        sync: bool = False,
        hold: bool = False,
    ) -> Job[Any]:
        on_its_way = Enqueueing(task=task, queue=queue, id=id or options.id, args=args, kwargs=kwargs, options=options)

        async def store() -> Job[Any]:
            request = make(on_its_way.headers)
            if hold:  # it is stored with the others of its batch
                return Job(request.id, True, self, request.result)
            return await self._store(request, sync)

        hooks = self.definitions.hooks
        if hooks.tracing is None:
            job = await chained(hooks.enqueue, on_its_way, store)
        else:
            with hooks.tracing.enqueueing(on_its_way, hold) as made:
                job = await chained(hooks.enqueue, on_its_way, store)
                made(getattr(job, "id", ""))
        if not isinstance(job, Job):
            raise UsageError(
                f"an enqueue middleware returned a {type(job).__qualname__}; return the Job that `await call_next()` gives"
            )
        return job

    async def _store(self, request: Request, sync: bool) -> Job[Any]:
        if sync:
            (stored,) = self._stored_sync([request])
        else:
            stored = await self.connections.here().of_id(request.id).enqueue(request)
        return self._handle(request, stored)

    def _stored_sync(self, requests: Sequence[Request]) -> list[Stored]:
        of = self.connections
        return enqueue_sync(of.sync_stores, requests, of.settings, of.shards, of.agree_sync)

    def _handle(self, request: Request, stored: Stored) -> Job[Any]:
        """The handle to what an enqueue stored, or to the job that was there instead."""
        if isinstance(stored, bool):
            return Job(request.id, stored, self, request.result, request.durability)
        task = self.definitions.tasks.get(request.task)
        if stored.word is ConflictWord.UNKNOWN:
            raise JobNotFoundError(stored.id)
        if stored.word is ConflictWord.TAKEN:
            raise DuplicateJobError(request.id, request.task, f"the id belongs to a job of task {stored.id}")
        unique = task.task_options.unique if task is not None else None
        if unique is not None and stored.word is ConflictWord.HELD and unique.conflict != "existing":
            problem = "another job holds its unique key"
            if unique.conflict == "replace":
                problem = "the job that holds its unique key has started, and can't be replaced"
            raise DuplicateJobError(stored.id, request.task, problem)
        return Job(stored.id, False, self, request.result, request.durability)

    async def enqueue_many(self, calls: Sequence[PreparedCall[Any]]) -> list[Job[Any]]:
        """See TrackedQueue.enqueue_many."""
        with self._taken("enqueue_many", calls) as taken:
            return await self._store_many(taken)

    def enqueue_many_sync(self, calls: Sequence[PreparedCall[Any]]) -> list[Job[Any]]:
        """See TrackedQueue.enqueue_many_sync."""
        with self._taken("enqueue_many_sync", calls) as taken:
            return run_now(self._store_many(taken, sync=True))

    async def _store_many(self, calls: Sequence[PreparedCall[Any]], *, sync: bool = False) -> list[Job[Any]]:
        with self._sending(calls):
            ready = [await self._ready(call) for call in calls]
            requests = [item for item in ready if isinstance(item, Request)]
            if not requests:
                stored = []  # middleware has answered all of them
            elif sync:
                stored = self._stored_sync(requests)
            else:
                stored = await self.connections.here().enqueue_many(requests)
        return self._handles(ready, requests, stored)

    def _sending(self, calls: Sequence[PreparedCall[Any]]) -> contextlib.AbstractContextManager[None]:
        tracing = self.definitions.hooks.tracing
        if tracing is None or not calls:
            return contextlib.nullcontext()
        return tracing.sending([call.request.queue for call in calls])

    @contextlib.contextmanager
    def _taken(
        self,
        what: str,
        given: Sequence[PreparedCall[Any] | Job[Any]],
        kinds: tuple[type, ...] = (PreparedCall,),
        most: float = math.inf,
    ) -> Iterator[list[PreparedCall[Any]]]:
        """
        The calls among what was given, each with an id of its own; if they could not be stored, the ids are given back,
        so that the calls can be sent again with them.
        """
        check_calls(what, given, self, kinds, most=most)
        calls = [call for call in given if isinstance(call, PreparedCall)]
        taken = [call.taken(self.connections.shards.new_like) for call in calls]
        try:
            yield taken
        except JobError:  # what it says is the store's answer
            raise
        except BaseException:
            for call, own in zip(reversed(calls), reversed(taken), strict=True):
                call.give_back(own.request.id)
            raise

    async def held(self, call: PreparedCall[Any]) -> Request | Job[Any]:
        """
        A prepared call as it is to be stored later, by somebody else: with an id, and seen by middleware. In a test that sends
        enqueues elsewhere (`fake`, `inline`), the handle that this has given.

        Raises:
            UsageError: It is no call of this app, or middleware gave another handle in its place.
        """
        with self._taken("outbox", [call]) as (own,):
            ready = await self._ready(own)
        if isinstance(ready, Job) and not any(
            hasattr(layer, "in_place_of_redis") for layer in self.definitions.hooks.enqueue
        ):
            raise UsageError(f"outbox: enqueue middleware answered the call of task {call.request.task} itself")
        return ready

    async def _ready(self, call: PreparedCall[Any]) -> Request | Job[Any]:
        """The request of a prepared call, after middleware has seen it; or the handle that middleware gave in its place."""
        if not self.definitions.hooks.see_enqueues:
            return call.request
        made: list[Request] = []

        def make(headers: Mapping[str, Any]) -> Request:
            made.append(self.request(call.task, call.options, call.args, call.kwargs, headers, call.request.id))
            return made[0]

        job = await self._through_middleware(
            call.task.name, call.request.queue, call.options, call.args, call.kwargs, make, call.request.id, hold=True
        )
        return made[0] if made else job

    def _handles(
        self, ready: Sequence[Request | Job[Any]], requests: Sequence[Request], stored: Sequence[Stored]
    ) -> list[Job[Any]]:
        """The handles of a call's jobs; the first that was refused raises, with those of the others."""
        outcomes: list[Job[Any] | JobError] = []
        for request, one in zip(requests, stored, strict=True):
            try:
                outcomes.append(self._handle(request, one))
            except JobError as error:
                outcomes.append(error)
        refused = [item for item in outcomes if isinstance(item, JobError)]
        handles = iter(item for item in outcomes if isinstance(item, Job))
        if refused:
            refused[0].stored = tuple(handles)
            if refused[0].stored:
                refused[0].add_note(f"{len(refused[0].stored)} other jobs of this call were stored; see .stored")
            raise refused[0]
        return [next(handles) if isinstance(item, Request) else item for item in ready]

    async def trigger(self, schedule: str) -> Job[Any]:
        """Run a schedule's task now, besides its ticks. Raises UsageError for a name that this app doesn't have."""
        known = dict(self.definitions.schedules)
        if check_name("schedule", schedule) not in known:
            known.update(await self.planned())
        found = known.get(schedule)
        if found is None:
            untold = [source.name for source in self.definitions.sources if source.takes_state]
            more = (
                f"; what {', '.join(untold)} names is known to workers only, since it takes their state"
                if untold
                else ""
            )
            raise UsageError(
                f"schedule {schedule!r}: this app has none of that name; {did_you_mean(schedule, known)}{more}"
            )
        return await self.enqueue_call(found.task, found.options, tuple(found.args), dict(found.kwargs))

    async def planned(self) -> dict[str, Schedule]:
        """What the sources name now that can be asked outside of a worker, by name; what is wrong with one is left out."""
        found: dict[str, Schedule] = {}
        for source in self.definitions.sources:
            for planned in () if source.takes_state else await source.read(None):
                if (
                    isinstance(planned, Planned)
                    and planned.name not in found
                    and planned.name not in self.definitions.schedules
                ):
                    with contextlib.suppress(UsageError):
                        found[planned.name] = planned.schedule(self)
        return found

    # Workflows

    async def chain(
        self, first: PreparedCall[Any] | Job[Any], *steps: Step | PreparedCall[Any], sync: bool = False
    ) -> Job[Any]:
        """See TrackedQueue.chain. `sync`: without an event loop, as `run_now` runs it."""
        check_calls("chain", steps, self, (PreparedCall, Step))
        with self._taken("chain", [first], (PreparedCall, Job)) as taken:
            head = taken[0] if taken else first
            home = self._home("chain", [head, *steps])
            calls = [self._in_shard(call, home) for call in taken]
            before = _id_of(calls[0] if calls else head)
            seed = _seed(calls)
            for at, step in enumerate(steps):
                calls.append(self._after(step, [before], "fail", "one", seed and f"{seed} {at}"))
                before = calls[-1].request.id
            jobs = await self._store_many(calls, sync=sync)
        return jobs[-1] if jobs else cast(Job[Any], first)

    async def group(
        self,
        calls: Sequence[PreparedCall[Any] | Job[Any]],
        then: Step | PreparedCall[Any] | None = None,
        on_failure: Literal["fail", "ignore"] = "fail",
        *,
        sync: bool = False,
    ) -> Group:
        """See TrackedQueue.group."""
        return await self._group("group", calls, {"then": (then, on_failure)}, sync)

    async def batch(
        self,
        calls: Sequence[PreparedCall[Any] | Job[Any]],
        *,
        success: Step | PreparedCall[Any] | None = None,
        complete: Step | PreparedCall[Any] | None = None,
        sync: bool = False,
    ) -> Group:
        """See TrackedQueue.batch."""
        last: dict[str, tuple[Any, OnFailure]] = {"success": (success, "fail"), "complete": (complete, "ignore")}
        return await self._group("batch", calls, last, sync)

    async def _group(
        self,
        what: str,
        calls: Sequence[PreparedCall[Any] | Job[Any]],
        callbacks: Mapping[str, tuple[Any, OnFailure]],
        sync: bool,
    ) -> Group:
        if not check_list(what, calls, "calls made by task.call(...)"):
            raise UsageError(f"{what}: it needs at least one job")
        for name, (step, on_failure) in callbacks.items():
            check_step(f"{what}: {name}", step, self)
            if on_failure not in ("fail", "ignore"):
                raise UsageError(f"{what}: on_failure={on_failure!r}: it must be 'fail' or 'ignore'")
        steps = [step for step, _ in callbacks.values() if step is not None]
        with self._taken(what, calls, (PreparedCall, Job), most=MAX_AFTER) as taken:
            stored = [call for call in calls if isinstance(call, Job)]
            home = self._home(what, [*taken, *stored, *steps])
            members = [self._in_shard(call, home) for call in taken]
            new = iter(members)
            ids = [_id_of(call if isinstance(call, Job) else next(new)) for call in calls]
            seed = _seed(members)
            last = {
                name: self._after(step, ids, on_failure, "list", seed and f"{seed} {name}")
                for name, (step, on_failure) in callbacks.items()
                if step is not None
            }
            jobs = await self._store_many([*members, *last.values()], sync=sync)
        handles = dict(zip(last, jobs[len(members) :], strict=True))
        made = iter(jobs)
        return Group(jobs=tuple(call if isinstance(call, Job) else next(made) for call in calls), **handles)

    def _after(
        self, step: Step | PreparedCall[Any], ids: Sequence[str], on_failure: OnFailure, inputs: str, seed: str
    ) -> PreparedCall[Any]:
        """
        A step as a job that comes after these; its own `after` and `on_failure` are kept.

        With a `seed` its id follows from it: a workflow that is sent again, since its reply was lost, makes no second one.
        """
        own = step.options
        named = set(ids)
        more = [id for id in own.after_ids if id not in named]
        takes = inputs if isinstance(step, Step) else ""
        options = dataclasses.replace(
            own,
            after=[*ids, *more],
            on_failure=on_failure if own.on_failure == "fail" else own.on_failure,
            inputs=takes,
            wanted=len(ids),  # it gets no results of jobs outside the workflow that it comes after
        )
        id = self.connections.shards.derived(ids[0], seed) if seed and own.id is None else None
        request = self.request(step.task, options, step.args, step.kwargs, id=id)
        return PreparedCall(request, step.task, options, step.args, step.kwargs)

    def _home(self, what: str, calls: Sequence[PreparedCall[Any] | Job[Any] | Step]) -> int:
        """The shard of a workflow: the one that some member has to be in, else that of the first. Raises UsageError."""
        if self.connections.shards.count == 1:
            return 0
        known = [call.request for call in calls if isinstance(call, PreparedCall)]
        stored = [call.id for call in calls if isinstance(call, Job)]
        for call in calls:
            if isinstance(call, Step):
                options = dataclasses.replace(call.options, inputs="list")
                known.append(self.request(call.task, options, call.args, call.kwargs))
        found = self.connections.shards.common(what, [*stored, *(request.id for request in known if request.pinned)])
        return self.connections.shards.of_id(known[0].id) if found is None else found

    def _in_shard(self, call: PreparedCall[Any], shard: int) -> PreparedCall[Any]:
        request = call.request
        if request.pinned:
            return call
        return msgspec.structs.replace(
            call, request=msgspec.structs.replace(request, id=self.connections.shards.moved(request.id, shard))
        )

    # Jobs, for their handles

    async def job_info(self, job_id: str, codec: Any) -> JobInfo:
        """See `Job.info`."""
        return await read_job(self.connections.store_of(job_id), job_id, codec, self.connections.cipher)

    def job_info_sync(self, job_id: str, codec: Any) -> JobInfo:
        """See `Job.info_sync`."""
        of = self.connections
        with of.sync_stores.lent(of.shards.of_id(job_id)) as sync_store:
            return sync_store.read(lambda store: read_job(store, job_id, codec, of.cipher))

    async def job_states(self, job_ids: Sequence[str]) -> list[State | None]:
        """See `Group.progress`."""
        found: dict[str, State | None] = {}
        for shard, ids in self.connections.shards.by_shard(job_ids).items():
            found.update(zip(ids, await read_states(self.connections.stores[shard], ids), strict=True))
        return [found[id] for id in job_ids]

    async def job_watch(self, job_id: str, codec: Any) -> AsyncIterator[JobInfo]:
        """See `Job.watch`."""
        shown = await read_job(self.connections.store_of(job_id), job_id, codec, self.connections.cipher)
        yield shown
        if shown.state.ended:
            return
        async with self.connections.here().of_id(job_id).results.notices(job_id) as wait:
            while not shown.state.ended:
                info = await read_job(self.connections.store_of(job_id), job_id, codec, self.connections.cipher)
                if info != shown:
                    yield info
                shown = info
                if not info.state.ended:
                    await wait(WATCH_S)

    async def job_result(self, job_id: str, codec: Any, timeout: Seconds | None) -> Any:
        """See `Job.result`."""
        seconds = None if timeout is None else to_seconds("timeout", timeout)
        job = current.get()
        with contextlib.nullcontext() if job is None else job.waiting():
            ended = await self.connections.here().of_id(job_id).results.wait(job_id, seconds)
        task = self.definitions.tasks.get(ended.task) if codec is None else None
        return value_of(job_id, ended, codec if task is None else task.signature.result, self.connections.cipher)

    def job_result_sync(self, job_id: str, codec: Any, timeout: Seconds | None) -> Any:
        """See `Job.result_sync`."""
        seconds = math.inf if timeout is None else to_seconds("timeout", timeout)
        job = current.get()
        with contextlib.nullcontext() if job is None else job.waiting():
            ended = self._wait_sync(job_id, time.monotonic() + seconds, seconds)
        task = self.definitions.tasks.get(ended.task) if codec is None else None
        return value_of(job_id, ended, codec if task is None else task.signature.result, self.connections.cipher)

    def _wait_sync(self, job_id: str, deadline: float, seconds: float) -> Ended:
        of, pause = self.connections, LEAST_PAUSE_S
        while True:
            left = deadline - time.monotonic()
            reply: Ended | bool = True
            away: StoreUnavailableError | None = None
            try:
                with of.sync_stores.lent(of.shards.of_id(job_id)) as store:
                    reply = store.run(await_end(job_id), min(of.settings.reply_timeout, max(left, LAST_LOOK_S)))
            except StoreUnavailableError as error:
                away = error
            if isinstance(reply, Ended):
                return reply
            if not reply:
                raise JobNotFoundError(job_id)
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"job {job_id} has not ended within {seconds:g} s") from away
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, MOST_PAUSE_S)

    async def job_cancel(self, job_id: str) -> bool:
        """See `Job.cancel`."""
        await self.connections.agreed()
        return _was_cancelled(await self.connections.store_of(job_id).run(self._cancel(job_id)))

    def job_cancel_sync(self, job_id: str) -> bool:
        """See `Job.cancel_sync`."""
        of = self.connections
        of.agree_sync(of.settings.reply_timeout)
        with of.sync_stores.lent(of.shards.of_id(job_id)) as store:
            return _was_cancelled(store.run(self._cancel(job_id)))

    def _cancel(self, job_id: str) -> Call[list[CancelWord]]:
        return cancel([job_id], self.connections.settings.ended_ttl)


def _seed(calls: Sequence[PreparedCall[Any]]) -> str:
    """What the ids of a workflow's steps follow from: an id that was made for this very storing; '' if there is none."""
    return next((call.request.id for call in calls if call.options.id is None), "")


def _was_cancelled(words: list[CancelWord]) -> bool:
    return words[0] in (CancelWord.CANCELLED, CancelWord.REQUESTED)


def _id_of(member: PreparedCall[Any] | Job[Any]) -> str:
    return member.id if isinstance(member, Job) else member.request.id


def _encode_plain(name: str, value: Any) -> bytes:
    try:
        return encode_any(list(value) if isinstance(value, tuple) else value)
    except TypeError as error:
        raise ArgumentError(name, "", f"{error}; without the task's code arguments must be plain data") from None
