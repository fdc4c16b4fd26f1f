"""`Outbox`: what an application calls, and the relay that its workers run."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio

from .. import log
from ..app import TrackedQueue, producer_of
from ..errors import NotDurableError, StoreUnavailableError, TrackedQueueError, UsageError
from ..model.checks import to_seconds
from ..model.hooks import run_now
from ..model.job import Job
from ..model.task import PreparedCall
from ..protocol.request import Request
from ..protocol.times import WAIT_EDGES
from ..protocol.transitions import MAX_BATCH, Conflict, ConflictWord
from ..settings import Seconds
from ..transport.backoff import pauses
from ..worker.meter import METER
from .databases import Database, Page, Row, Verdicts, Waits, database_of
from .inserts import insert, insert_sync
from .letters import FORMAT, decode, encode

R = TypeVar("R")

KNOWN_FOR_S = 7 * 86400.0
LEAST_KNOWN_S = 60.0
FIRST_PAUSE_S, MAX_PAUSE_S = 0.2, 10.0
BURST_S = 10.0


@dataclass(slots=True)
class _Trouble:
    """What went wrong with a part of the rows, and whether it was with all of a page."""

    error: TrackedQueueError | None = None
    everywhere: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxStatus:
    """How many rows wait to be passed on, the age of the oldest in s, and how many the store has refused."""

    waiting: int
    oldest_s: float | None
    refused: int


class Outbox:
    """
    Jobs that are enqueued by committing: a row in your database's transaction, which a relay passes on to Redis, exactly once.

    Each worker process of the app runs a relay, if there is a `database`; they need no leader. A relay may be killed
    at any point: the row is there until its job is stored, and a job that was stored already is recognized by its id.

    Args:
        app: The app whose jobs these are.
        database: Where the relay finds the table: an Engine or AsyncEngine of SQLAlchemy; an `async def` that makes a pool of
            asyncpg; a postgresql:// or sqlite:/// URL; a function that returns a connection of psycopg, sqlite3, PyMySQL or
            mysqlclient. None: this program only writes.
        poll: Seconds from one look of a relay to the next, while there is nothing.
        known_for: Seconds for which Redis knows the id of a job that was passed on: longer than a relay, or your database, may
            be away in the middle of its work.

    Raises:
        UsageError: An argument is wrong; the app has been used already.

    Source: docs/how-to/outbox.md.
    """

    def __init__(
        self, app: TrackedQueue, database: Any = None, *, poll: Seconds = 0.5, known_for: Seconds = KNOWN_FOR_S
    ) -> None:
        if not isinstance(app, TrackedQueue):
            raise UsageError(f"outbox: app={app!r}: it must be a TrackedQueue")
        self.app = app
        self._poll_s = to_seconds("poll", poll, above=True)
        known_s = to_seconds("known_for", known_for)
        if known_s < LEAST_KNOWN_S:
            raise UsageError(f"outbox: known_for={known_for!r}: it must be {LEAST_KNOWN_S:g} s or more")
        self._known_ms = round(known_s * 1000)
        self._producer = producer_of(app)
        self._database: Database | None = None if database is None else database_of(database)

        if self._database is not None:
            self._producer.definitions.hooks.companions.append(self)

    # Writing

    async def enqueue(self, connection: Any, call: PreparedCall[R]) -> Job[R]:
        """
        Write a call into the outbox, in the transaction that is open on an async connection.

        Args:
            connection: An AsyncSession or AsyncConnection of SQLAlchemy, an AsyncConnection of psycopg, or one of asyncpg.
            call: Made by `task.call(...)`, or `task.options(...).call(...)`; a delay and an expiry count from now.

        Returns:
            The job's handle. Redis knows of it when the transaction has been committed and a relay has come by.

        Raises:
            UsageError: A connection or a call that can't be meant.
        """
        job, values = await self._letter(call)
        if values is not None:
            await insert(connection, values)
        return job

    def enqueue_sync(self, connection: Any, call: PreparedCall[R]) -> Job[R]:
        """
        `enqueue` in the transaction that is open on a sync connection.

        Args:
            connection: A Session, scoped_session or Connection of SQLAlchemy; a connection or cursor of psycopg, psycopg2,
                sqlite3, PyMySQL or mysqlclient; a connection of Django.
        """
        job, values = run_now(self._letter(call))
        if values is not None:
            insert_sync(connection, values)
        return job

    async def _letter(self, call: PreparedCall[R]) -> tuple[Job[R], tuple[str, str, bytes, int] | None]:
        """The handle, and the row; None in a test that records or runs enqueues in place of storing them."""
        request = await self._producer.held(call)
        if isinstance(request, Job):
            return request, None
        payload = encode(request, int(time.time() * 1000))
        job: Job[R] = Job(request.id, True, self._producer, request.result, request.durability)
        return job, (request.id, self.app.settings.namespace, payload, FORMAT)

    # Passing on

    async def relay(self) -> int:
        """
        Pass on all rows that are committed now, and return their number: for tests, and for right after a commit.

        Raises:
            StoreUnavailableError: Redis, or a part of it, did not answer, or has not confirmed what a row's `durability` asks
                for; those rows stay, and all others were passed on.
            TrackedQueueError: Redis refused.
            Exception: What the database's driver raises.
        """
        database, after, passed, trouble = self._need_database(), 0, 0, _Trouble()
        verdicts = Verdicts()

        async def send(rows: Sequence[Row], waits: Waits) -> Verdicts:
            nonlocal verdicts
            verdicts = await self._send(rows, waits, trouble)
            return verdicts

        while True:
            # Page by page, so that rows that have to stay hold up none behind them. The next call begins from the first again:
            # ids are not in the order of commits.
            rows = await database.pass_on(Page(self.app.settings.namespace, FORMAT, after, MAX_BATCH), send)
            if rows:
                passed += len(verdicts.done) + len(verdicts.refused)
                _count(rows, verdicts)
            if len(rows) < MAX_BATCH or trouble.everywhere:
                break
            after = rows[-1].id
        if trouble.error is not None:
            raise trouble.error
        return passed

    async def run_relay(self) -> None:
        """Pass on rows until this is cancelled; outages of either side are logged once, and waited out."""
        pause = pauses(FIRST_PAUSE_S, MAX_PAUSE_S, random.random)
        problem, counted_at = "", 0.0
        while True:
            began = time.monotonic()
            try:
                if problem.startswith("redis"):
                    await self._answers()  # before rows are locked
                await self.relay()
            except Exception as error:
                now = f"{_side(error)}: {type(error).__qualname__}"
                if now != problem:
                    _tell(error)
                counted_at = _count_pause(counted_at if problem else began)
                problem = now
                await asyncio.sleep(next(pause))
            else:
                if problem:
                    _count_pause(counted_at)
                    log.outbox_resumed(side=problem.partition(":")[0])
                    problem, pause = "", pauses(FIRST_PAUSE_S, MAX_PAUSE_S, random.random)
                # Not all workers at the same moment.
                await asyncio.sleep(self._poll_s * (0.5 + random.random()))

    async def _answers(self) -> None:
        """Raises StoreUnavailableError if no shard answers."""
        errors = []
        for store in self._producer.connections.stores:
            try:
                await store.read(("PING",))
            except StoreUnavailableError as error:
                errors.append(error)
            else:
                return
        raise errors[0]

    async def _send(self, rows: Sequence[Row], waits: Waits, trouble: _Trouble) -> Verdicts:
        verdicts, requests = Verdicts(), dict[int, Request]()
        for row in rows:
            try:
                requests[row.id] = decode(row.payload, self._known_ms)
            except UsageError as error:
                self._refuse(verdicts, row.id, "", str(error))
        lacking = await self._store(requests, verdicts, trouble)
        again = {}
        for id, missing in lacking.items():
            # The job that it comes after may be a row that another relay has; or it was stored by one a moment ago.
            if not await waits(missing):
                again[id] = requests[id]
        for id, missing in (await self._store(again, verdicts, trouble)).items():
            self._refuse(verdicts, id, requests[id].id, f"it comes after job {missing}, of which there is no record")
        return verdicts

    async def _store(self, requests: Mapping[int, Request], verdicts: Verdicts, trouble: _Trouble) -> dict[int, str]:
        """
        Store these by shard and by what they wait for, so that what is wrong with some holds up no others.

        Returns:
            Rows that come after a job of which there is no record, and that job's id.
        """
        connections, lacking = self._producer.connections, dict[int, str]()
        parts: dict[tuple[int, str], dict[int, Request]] = {}
        for id, request in requests.items():
            parts.setdefault((connections.shards.of_id(request.id), request.durability), {})[id] = request
        failed = 0
        for (shard, _), part in parts.items():
            try:
                answers = await connections.here().all[shard].enqueue_many(list(part.values()))
            except NotDurableError as error:  # stored, and to be asked for once more
                trouble.error = error
                verdicts.done += [id for id, request in part.items() if request.id not in error.job_ids]
                continue
            except TrackedQueueError as error:
                trouble.error, failed = error, failed + 1
                continue
            for (id, request), answer in zip(part.items(), answers, strict=True):
                if isinstance(answer, Conflict) and answer.word is ConflictWord.UNKNOWN:
                    lacking[id] = answer.id
                elif isinstance(answer, Conflict) and answer.word is ConflictWord.TAKEN:
                    self._refuse(verdicts, id, request.id, f"its id belongs to a job of task {answer.id}")
                else:
                    verdicts.done.append(id)
        trouble.everywhere = trouble.everywhere or (bool(parts) and failed == len(parts))
        return lacking

    def _refuse(self, verdicts: Verdicts, id: int, job_id: str, problem: str) -> None:
        log.outbox_refused(row=id, job_id=job_id, problem=problem[:300])
        verdicts.refused[id] = problem

    # For operators

    async def status(self) -> OutboxStatus:
        """How far behind the relays are. Raises what the database's driver raises."""
        asked = self._need_database().ask(lambda say: say.status, namespace=self.app.settings.namespace)
        waiting, oldest, refused = await asked
        return OutboxStatus(
            waiting=int(waiting or 0),
            oldest_s=None if oldest is None else max(0.0, float(oldest)),
            refused=int(refused or 0),
        )

    async def retry(self) -> None:
        """Let the relays try refused rows again. Raises what the database's driver raises."""
        await self._need_database().ask(lambda say: say.retry, namespace=self.app.settings.namespace)

    async def aclose(self) -> None:
        """Close the relay's own connection to the database; a later use opens another one."""
        if self._database is not None:
            await self._database.close()

    def _need_database(self) -> Database:
        if self._database is None:
            raise UsageError("outbox: it was made without a database, so it can only write")
        return self._database

    # As a companion of the worker

    async def before_burst(self) -> None:
        """A worker with `--burst` runs what is committed when it starts; a database that is away keeps it from nothing else."""
        try:
            with anyio.fail_after(BURST_S):
                await self.relay()
        except Exception as error:
            _tell(error)

    async def beside(self) -> None:
        """Relay as long as the worker works."""
        try:
            await self.run_relay()
        finally:
            await self.aclose()


def _side(error: Exception) -> str:
    """Whose trouble it is; what is wrong with the way to the database is a UsageError."""
    return "redis" if isinstance(error, TrackedQueueError) and not isinstance(error, UsageError) else "database"


def _count(rows: Sequence[Row], verdicts: Verdicts) -> None:
    done = set(verdicts.done)
    for row in rows:
        if row.id in done:
            METER.observe("outbox_seconds", WAIT_EDGES, row.age_s)
    METER.add("outbox_refused", by=len(verdicts.refused))


def _count_pause(since: float) -> float:
    """Counted as it goes on, so that an alert sees it before its end; the time to which it is counted."""
    now = time.monotonic()
    METER.add("outbox_paused_seconds", by=now - since)
    return now


def _tell(error: Exception) -> None:
    log.outbox_paused(side=_side(error), error=f"{type(error).__qualname__}: {error}"[:300])
