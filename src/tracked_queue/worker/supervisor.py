"""
Starting worker processes, replacing those that die, and recovering a dead one's jobs at once.

A child announces its lease over a pipe before registering it. Each child leads a process group of its own, so that a
signal to the terminal's group reaches only the supervisor, and what a dead child left running can be killed with it.
When the supervisor dies, the other pipe to its children closes, and they stop as on SIGTERM.

Only the supervisor says that a child is to stop without grace, over that pipe: service managers send SIGTERM to every process
of a service, and a child that counted it besides the supervisor's own would deny its jobs the grace. However an end
begins (a signal to the child alone, a recycled process, an error), the child reports it, and then has as long as a stop
may take.

While jobs are under suspicion of killing their process (docs/explanation/blame.md), one or two further children run nothing but
those, so that the others lose no place to them.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from .. import log
from ..errors import StoreUnavailableError, TrackedQueueError, UsageError
from ..protocol.transitions import End, Mode, release
from ..settings import Settings
from ..sharding.shards import Shards
from ..transport.endpoint import Endpoint
from ..transport.pool import LinkPool
from ..transport.store import Store
from . import signals
from .exits import FENCED_EXIT, MISMATCH_EXIT, RECYCLED_EXIT, STALLED_EXIT, USAGE_EXIT
from .lease import EXIT_PART
from .lineage import child_environment, end_session, first_to_go, is_stopped
from .liveness import STALE_S, Sign, default_label, read_signs
from .meter import Tally
from .notify import Notifier
from .outage import Outage, insist
from .pages import WELL, Answer, HttpPages, Page, Query, unwell
from .pipes import AT_ONCE, BEGAN, ENDING, READY, SIGN, STOP, SUSPECTS, hear
from .probes import Standing, live_problem, ready_problem, started_problem
from .recovery import Witness, recover_lease

# A process that dies younger than this is restarted with a growing delay, an older one at once.
YOUNG_S = 5.0
FIRST_DELAY_S = 0.2
# A second process for suspects is started if some still wait this long after the first one is there.
SECOND_AFTER_S = 1.0
# How often the children's signs of life are counted. Only the supervisor's own turns count, so that a machine that stood
# still blames nobody.
LOOK_S = 1.0
MAX_DELAY_S = 30.0
# After the grace a child gets this long for its last phases before it is killed.
KILL_AFTER_S = 5.0
# What a dead child had reported is in the pipe; reading it to its end takes no longer than this.
LAST_NEWS_S = 1.0
# How long the supervisor waits at its end for the recovery of a child that died; after that another instance does it.
LAST_RECOVERY_S = 1.0
# Between two tries to recover a dead child's jobs when Redis went away in the middle.
AGAIN_S = 1.0
# A probe is answered within this time, or not at all: the supervisor's own loop stands still.
PROBE_S = 2.0


@dataclass(eq=False)
class _Child:
    process: asyncio.subprocess.Process
    started_at: float
    life: int  # our end of the pipe whose closing tells the child that we are gone
    leases: list[tuple[int, str]] = field(default_factory=list)  # with their shards
    mode: Mode = Mode.IDLE
    ready: bool = False
    began: bool = False  # it has been given jobs
    silent_looks: int = 0  # since its last sign
    stuck: bool = False  # killed since it gave none
    limit: asyncio.TimerHandle | None = None  # of its end, once that has begun
    replaced: bool = False  # stopped because the code has changed
    ended_by_us: bool = False  # killed since its end took too long
    told_all: asyncio.Event = field(default_factory=asyncio.Event)
    counted_at: float = 0.0  # when it last sent numbers, which its event loop does once a second
    closers: list[Callable[[], None]] = field(default_factory=list)  # of our ends of its pipes


class Supervisor:
    """
    Keeps `processes` children alive.

    Args:
        command: The child's command line; `--supervised R:W:N:MODE` with the ends of three pipes is added.
        metrics: Makes the page `/metrics` from the numbers of all children.
        changes: Names of source files that have changed (`--reload`): children are stopped with grace and started anew.
    """

    def __init__(
        self,
        command: Sequence[str],
        processes: int,
        settings: Settings,
        endpoint: Endpoint,
        shards: Shards,
        *,
        burst: bool,
        witness: Witness,
        metrics: Callable[[Tally], Page] | None = None,
        changes: AsyncIterator[str] | None = None,
    ) -> None:
        self._witness = witness
        self.tally = Tally()
        self._stop_told: Callable[[], object] = lambda: None
        self._metrics = metrics
        self._changes, self._changed = changes, asyncio.Event()
        self._command, self._processes, self._settings, self._burst = list(command), processes, settings, burst
        several = shards.count > 1
        self._shards = [
            (Store(LinkPool(endpoint.of(keys), 2), keys), Outage(f"shard {shard}: " if several else ""))
            for shard, keys in enumerate(map(shards.keys, range(shards.count)))
        ]
        self._children: set[_Child] = set()
        self._stop = asyncio.Event()
        self._quiet = False
        self._ever_served = self._ever_ready = False
        self._usage_error = False
        self._codes: list[int] = []
        self._young_deaths = 0
        self._aftermath: set[asyncio.Task[None]] = set()
        self._for_suspects: dict[Mode, asyncio.Task[None]] = {}
        self._suspects_run_from = 0.0

    @property
    def _stopping(self) -> bool:
        return self._stop.is_set()

    async def run(self, early: Sequence[str] = ()) -> int:
        """
        Supervise until stopped, or with burst until all are done; 0 if every child ended well.

        Args:
            early: Signals that came before it could listen.
        """
        loop = asyncio.get_running_loop()

        def stop(name: str) -> None:
            loop.call_soon_threadsafe(self._on_signal, name)

        def quiet(name: str) -> None:
            loop.call_soon_threadsafe(self._go_quiet, name)

        # As the first process of a container this one inherits what dead children left: each end of a process is looked at.
        reap: dict[int | None, signals.Listener] = {}
        if os.getpid() == 1:
            reap[signals.CHILD_ENDED] = lambda _: loop.call_soon_threadsafe(self._reap_strangers)

        def record(name: str) -> None:
            loop.call_soon_threadsafe(self._record, name)

        listeners = {**signals.stopping(stop), signals.QUIET: quiet, signals.RECORD: record, **reap}
        with signals.listening(listeners):
            for name in dict.fromkeys(early):
                (self._go_quiet if signals.QUIET is not None and name == signals.QUIET.name else self._on_signal)(name)
            return await self._run(loop)

    async def _run(self, loop: asyncio.AbstractEventLoop) -> int:
        pages = self._probes(loop)
        keepers = [loop.create_task(self._keep()) for _ in range(self._processes)]
        watchers = [loop.create_task(self._watch_signs())]
        if self._changes is not None:
            watchers.append(loop.create_task(self._watch(self._changes)))
        notifier = self._notifier()
        if notifier.is_wanted:
            watchers.append(loop.create_task(notifier.run()))
            self._stop_told = lambda: notifier.tell("STOPPING=1", "STATUS=stopping")
        try:
            await asyncio.gather(*keepers)
            while self._for_suspects:
                await asyncio.wait(self._for_suspects.values())
            if self._aftermath:
                await asyncio.wait(self._aftermath, timeout=LAST_RECOVERY_S)
        finally:
            for watcher in watchers:
                watcher.cancel()
            if pages is not None:
                pages.close()
            for child in self._children:
                end_session(child.process.pid)
            for store, _ in self._shards:
                await store.close()
        if self._usage_error:
            return USAGE_EXIT
        return 0 if all(code == 0 for code in self._codes) else 1

    def _probes(self, loop: asyncio.AbstractEventLoop) -> HttpPages | None:
        """The pages for probes, if there is a port for them; they begin to answer with this. Raises UsageError."""
        settings = self._settings
        if not settings.http_port:
            return None
        label = settings.instance_id or default_label()

        async def look() -> tuple[Standing, list[Sign]]:
            return self._standing, read_signs(settings.namespace, label)

        def page(problem: Callable[[Standing, list[Sign]], str]) -> Page:
            def answer(_: Query) -> Answer:
                found = problem(*asyncio.run_coroutine_threadsafe(look(), loop).result(PROBE_S))
                return unwell(found) if found else WELL

            return answer

        try:
            pages = HttpPages(
                settings.http_host,
                settings.http_port,
                {
                    "/live": page(live_problem),
                    "/ready": page(ready_problem),
                    "/started": page(lambda standing, _: started_problem(standing)),
                    **({} if self._metrics is None else {"/metrics": self._metrics(self.tally)}),
                },
            )
        except OSError as error:
            raise UsageError(f"http_port={settings.http_port}: {error.strerror or error}") from None
        pages.start()
        return pages

    def _notifier(self) -> Notifier:
        label = self._settings.instance_id or default_label()

        def signs() -> list[Sign]:
            return read_signs(self._settings.namespace, label)

        return Notifier(
            lambda: started_problem(self._standing),
            lambda: ready_problem(self._standing, signs()),
            self._still,
        )

    def _still(self) -> str:
        """Which process' event loop does not turn, by the numbers that it sends; '' if all do."""
        now = time.monotonic()
        for child in self._children:
            silent_s = now - (child.counted_at or child.started_at)
            if child.ready and child.limit is None and silent_s > STALE_S:
                return f"process {child.process.pid}: its event loop has not turned for {silent_s:.0f} s"
        return ""

    @property
    def _standing(self) -> Standing:
        ready = frozenset(
            child.process.pid for child in self._children if child.ready and child.mode in (Mode.IDLE, Mode.FIRST)
        )
        self._ever_ready = self._ever_ready or len(ready) >= self._processes
        return Standing(self._processes, ready, self._stopping, self._ever_ready)

    def _go_quiet(self, name: str) -> None:
        log.signal_received(name=name, meaning="fetching no more jobs")
        self._quiet = True
        for child in self._children:
            if child.ready:  # before that it has no handler yet, and would die of the signal
                self._signal(child, signal.SIGUSR1)

    def _on_signal(self, name: str) -> None:
        log.signal_received(name=name, meaning="stopping without grace" if self._stopping else "stopping")
        self.stop()

    def _record(self, name: str) -> None:
        log.signal_received(name=name, meaning="writing the last events to files")
        for child in self._children:
            if child.ready and signals.RECORD is not None:
                self._signal(child, signals.RECORD)

    def stop(self) -> None:
        """Stop the children with grace; called again: without."""
        again = self._stopping
        self._stop.set()
        self._stop_told()
        for child in self._children:
            self._end(child)
            if again:
                self._say(child, AT_ONCE)

    def _end(self, child: _Child) -> None:
        """Ask for its end, which has begun with this."""
        self._signal(child, signal.SIGTERM)
        self._say(child, STOP)
        self._bound(child)

    def _signal(self, child: _Child, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            child.process.send_signal(number)

    def _say(self, child: _Child, word: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(child.life, word)

    def _bound(self, child: _Child) -> None:
        """Its end has begun: it has the grace, and a little more for its last phases and its exit hooks."""
        if child.limit is None:
            after = self._settings.grace + KILL_AFTER_S
            child.limit = asyncio.get_running_loop().call_later(after, self._kill, child)

    def _kill(self, child: _Child) -> None:
        why = "it did not end within its grace: it blocks its event loop, or a job does not stop when it is cancelled"
        log.process_killed(pid=child.process.pid, why=why)
        child.ended_by_us = True
        end_session(child.process.pid)

    async def _watch_signs(self) -> None:
        """
        Kill a child that gives no sign while its lease runs out: a job's code holds the interpreter, so that its
        watchdog can do nothing either. Later it would be unknown which job it was. A child that is stopped (SIGSTOP, a
        debugger) is left alone.
        """
        ttl = self._settings.heartbeat_ttl
        look_s = min(LOOK_S, ttl / 10)
        while True:
            await asyncio.sleep(look_s)
            for child in self._children:
                child.silent_looks += 1
                silent_s = child.silent_looks * look_s
                # One whose end has begun is bounded by that; its watch stops before it does.
                watched = child.ready and child.limit is None
                if watched and silent_s > EXIT_PART * ttl and not is_stopped(child.process.pid):
                    log.process_killed(
                        pid=child.process.pid, why=f"a job has not let go of the interpreter for {silent_s:g} s"
                    )
                    child.stuck, child.silent_looks = True, 0
                    end_session(child.process.pid)

    def _suspects_seen(self, child: _Child) -> None:
        """A child saw suspects: they get a process of their own, and a second one if that does not suffice."""
        if self._stopping or self._quiet or self._burst:
            return
        now = time.monotonic()
        if Mode.ONLY not in self._for_suspects:
            self._suspects_run_from = math.inf
            self._keep_for_suspects(Mode.ONLY)
        elif child.mode is Mode.ONLY and child.leases:
            self._suspects_run_from = min(self._suspects_run_from, now)
        elif child.mode is Mode.IDLE and now - self._suspects_run_from > SECOND_AFTER_S:
            self._keep_for_suspects(Mode.SHORT)

    def _keep_for_suspects(self, mode: Mode) -> None:
        if mode not in self._for_suspects:
            task = self._for_suspects[mode] = asyncio.get_running_loop().create_task(self._keep(mode))
            task.add_done_callback(lambda _: self._for_suspects.pop(mode))

    async def _keep(self, mode: Mode = Mode.IDLE) -> None:
        """Keep one child alive, replacing it when it dies; one for suspects only until it ends by itself."""
        if self._burst:
            mode = Mode.FIRST
        for_suspects = mode in (Mode.ONLY, Mode.SHORT)
        while not self._stopping:
            try:
                child = await self._start(mode)
            except OSError as error:  # no process, memory or file to be had: the others go on, this one is tried again
                log.process_not_started(problem=str(error))
                await self._pause(FIRST_DELAY_S * 10)
                continue
            code = await child.process.wait()
            self._children.discard(child)
            self.tally.add("process_ends", _why_of(child, code))
            if child.limit is not None:
                child.limit.cancel()
            os.close(child.life)
            # What it left running (isolated jobs, shells) must not go on beside the recovered jobs.
            end_session(child.process.pid)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_NEWS_S):
                    await child.told_all.wait()
            # Something that the child started may hold its ends of the pipes, and be none of ours.
            for close in child.closers:
                close()
            if child.leases:
                self._clean_up_later(child, _end_of(child, code), time.monotonic())
            if self._stopping or (self._burst and code == 0) or (for_suspects and code == 0):
                # One that was still starting had nothing to hand back, and no handler for the signal yet.
                self._codes.append(0 if code == -signal.SIGTERM and not child.ready else code)
                return
            if child.replaced or code == RECYCLED_EXIT:
                continue
            if self._changes is not None and code == USAGE_EXIT:
                await self._next_change()  # a mistake in the code, which its author is about to mend
                continue
            if code == MISMATCH_EXIT or (code == USAGE_EXIT and not self._ever_served):
                self._usage_error = True
                self.stop()
                return
            ran_s = time.monotonic() - child.started_at
            delay = self._delay(ran_s, child.began)
            if for_suspects:
                delay = max(delay, FIRST_DELAY_S)
            log.process_died(pid=child.process.pid, code=code, ran_s=ran_s, again_s=delay)
            await self._pause(delay)
            if for_suspects and not child.began:
                return  # it could not start, for want of connections, say; the next word of suspects tries again

    async def _watch(self, changes: AsyncIterator[str]) -> None:
        async for path in changes:
            log.code_changed(path=path, children=len(self._children))
            self._changed.set()
            self._changed = asyncio.Event()
            for child in self._children:
                if not child.replaced:
                    child.replaced = True
                    self._end(child)

    async def _next_change(self) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (self._changed, self._stop)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    def _reap_strangers(self) -> None:
        """What dead children left behind would stay as zombies; those of ours are asyncio's to wait for."""
        own = {child.process.pid for child in self._children}
        with contextlib.suppress(ChildProcessError):
            while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if found.si_pid in own:
                    return  # asyncio waits for it; what is behind it is found after its end
                os.waitpid(found.si_pid, os.WNOHANG)

    def _delay(self, ran_s: float, began: bool) -> float:
        """
        The first death is forgiven at once; processes that keep dying young wait longer and longer. Where jobs had begun the
        next one starts at once: such deaths are a job's doing, and come to an end.
        """
        if ran_s >= YOUNG_S or began:
            self._young_deaths = 0
            return 0.0
        self._young_deaths += 1
        if self._young_deaths == 1:
            return 0.0
        delay = min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** min(self._young_deaths - 2, 16))
        return delay * (0.75 + random.random() / 2)

    async def _start(self, mode: Mode) -> _Child:
        pipes: list[tuple[int, int]] = []
        try:
            for _ in range(3):
                pipes.append(os.pipe())
            (life_read, life_write), (news_read, news_write), (numbers_read, numbers_write) = pipes
            process = await asyncio.create_subprocess_exec(
                *self._command,
                "--supervised",
                f"{life_read}:{news_write}:{numbers_write}:{mode.value}",
                pass_fds=(life_read, news_write, numbers_write),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                env=child_environment(),
            )
        except BaseException:
            for end in (end for pipe in pipes for end in pipe):
                os.close(end)
            raise
        for end in (life_read, news_write, numbers_write):
            os.close(end)
        child = _Child(process, time.monotonic(), life_write, mode=mode)
        self._children.add(child)
        self._listen(child, news_read)
        self._count(child, numbers_read)
        log.process_started(pid=process.pid, suspects_only=mode in (Mode.ONLY, Mode.SHORT))
        if mode in (Mode.ONLY, Mode.SHORT):
            first_to_go(process.pid)
        if self._stopping:  # the signal came while it was being started
            self._end(child)
        return child

    def _listen(self, child: _Child, news: int) -> None:
        def take(lines: list[bytes]) -> None:
            child.silent_looks = 0
            for line in lines:
                if line == BEGAN:
                    child.began = True
                elif line == SUSPECTS:
                    self._suspects_seen(child)
                elif line == ENDING:
                    self._bound(child)
                elif line == READY:
                    child.ready = True
                    if self._quiet:
                        self._signal(child, signal.SIGUSR1)
                elif line != SIGN:
                    shard, lease = line.decode().split(" ", 1)
                    child.leases.append((int(shard), lease))
                    self._ever_served = True

        child.closers.append(hear(news, take, child.told_all.set))

    def _count(self, child: _Child, numbers: int) -> None:
        """Take a child's numbers until it has ended."""
        pid = child.process.pid

        def take(lines: list[bytes]) -> None:
            child.counted_at = time.monotonic()
            for line in lines:
                self.tally.hear(pid, line)

        child.closers.append(hear(numbers, take, lambda: self.tally.forget(pid)))

    def _clean_up_later(self, child: _Child, end: End, ended_at: float) -> None:
        for shard in sorted({shard for shard, _ in child.leases}):
            task = asyncio.get_running_loop().create_task(self._clean_up(shard, child.leases, end, ended_at))
            self._aftermath.add(task)
            task.add_done_callback(self._aftermath.discard)

    async def _clean_up(self, shard: int, leases: Sequence[tuple[int, str]], end: End, ended_at: float) -> None:
        """Release a dead child's leases in one shard and recover its jobs, however long Redis is away."""
        elsewhere = [(other, lease) for other, lease in leases if other != shard]
        try:
            beside = await self._owned(elsewhere) if end is End.DIED else 0
            own = [lease for other, lease in leases if other == shard]
            await self._recover(*self._shards[shard], own, end, ended_at, beside)
        except TrackedQueueError as error:
            log.redis_unsafe(problem=f"the jobs of a dead process wait for another instance: {error}")

    async def _owned(self, leases: Sequence[tuple[int, str]]) -> int:
        """How many jobs a dead child has in other shards; 1 where that cannot be determined, so that no job counts as alone."""
        count = 0
        for shard, lease in leases:
            store = self._shards[shard][0]
            try:
                (length,) = await store.read(("SCARD", store.keys.processing_of(lease)))
            except TrackedQueueError:
                length = 1
            count += length
        return count

    async def _recover(
        self, store: Store, outage: Outage, leases: list[str], end: End, ended_at: float, beside: int
    ) -> None:
        for lease in leases:
            # Made anew for each try: the time since its end counts.
            call = lambda lease=lease: release(lease, end, ago=time.monotonic() - ended_at, beside=beside)  # noqa: E731
            left = await insist(store, call, outage, lambda: False)
            while left and self._settings.auto_recovery:
                try:
                    await recover_lease(store, self._settings, lease, f"supervisor.{os.getpid()}", self._witness)
                    break
                except StoreUnavailableError as error:
                    outage.failed(error.problem)
                    await asyncio.sleep(AGAIN_S)


def _end_of(child: _Child, code: int) -> End:
    """What a child's end says about its jobs. One that we ended, or that exited cleanly, blames none of them."""
    if child.stuck:
        return End.DIED
    if child.ended_by_us or code in (0, FENCED_EXIT, RECYCLED_EXIT) or (code > 0 and child.limit is not None):
        return End.INTERRUPTED
    # Somebody asked it to stop before it had a handler for the signal.
    return End.INTERRUPTED if -code in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) else End.DIED


def _why_of(child: _Child, code: int) -> str:
    """What a child's end is counted as."""
    if child.stuck or child.ended_by_us:
        return "killed"
    if code == RECYCLED_EXIT:
        return "recycled"
    if code in (FENCED_EXIT, STALLED_EXIT):
        return "given_up"
    return "stopped" if code == 0 or (child.limit is not None and code > 0) or code == -signal.SIGTERM else "died"
