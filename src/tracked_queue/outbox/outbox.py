"""`Outbox`: what an application calls, and the relay that its workers run."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio

from .. import log
from ..app import TrackedQueue, producer_of
from ..errors import StoreUnavailableError, TrackedQueueError, UsageError
from ..model.checks import to_seconds
from ..model.hooks import run_now
from ..model.job import Job
from ..model.task import PreparedCall
from ..protocol.transitions import MAX_BATCH, Conflict, ConflictWord
from ..settings import Seconds
from ..transport.backoff import pauses
from .databases import Database, Row, Verdicts, database_of
from .inserts import insert, insert_sync
from .letters import decode, encode

R = TypeVar("R")

KNOWN_FOR_S = 7 * 86400.0
FIRST_PAUSE_S, MAX_PAUSE_S = 0.2, 10.0
CLOSE_S = 2.0


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
        self._known_ms = round(to_seconds("known_for", known_for, above=True) * 1000)
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
        insert_sync(connection, values)
        return job

    async def _letter(self, call: PreparedCall[R]) -> tuple[Job[R], tuple[str, str, bytes]]:
        request = await self._producer.held(call)
        payload = encode(request, int(time.time() * 1000))
        job: Job[R] = Job(request.id, True, self._producer, request.result, request.durability)
        return job, (request.id, self.app.settings.namespace, payload)

    # Passing on

    async def relay(self) -> int:
        """
        Pass on all rows that are committed now, and return their number: for tests, and for right after a commit.

        Raises:
            StoreUnavailableError: Redis did not answer; the rows stay.
            Exception: What the database's driver raises.
        """
        database, passed = self._need_database(), 0
        while True:
            found = await database.pass_on(self.app.settings.namespace, MAX_BATCH, self._send)
            passed += found
            if found < MAX_BATCH:
                return passed

    async def run_relay(self) -> None:
        """Pass on rows until this is cancelled; outages of either side are logged once, and waited out."""
        pause = pauses(FIRST_PAUSE_S, MAX_PAUSE_S, random.random)
        problem = ""
        while True:
            try:
                await self.relay()
            except StoreUnavailableError as error:
                problem = self._told(problem, "redis", error)
                await asyncio.sleep(next(pause))
            except TrackedQueueError as error:
                problem = self._told(problem, "redis", error)
                await asyncio.sleep(next(pause))
            except Exception as error:  # of the database's driver
                problem = self._told(problem, "database", error)
                await asyncio.sleep(next(pause))
            else:
                if problem:
                    log.outbox_resumed(side=problem)
                    problem, pause = "", pauses(FIRST_PAUSE_S, MAX_PAUSE_S, random.random)
                # Not all workers at the same moment.
                await asyncio.sleep(self._poll_s * (0.5 + random.random()))

    def _told(self, before: str, side: str, error: Exception) -> str:
        if before != side:
            log.outbox_paused(side=side, error=f"{type(error).__qualname__}: {error}"[:300])
        return side

    async def _send(self, rows: Sequence[Row]) -> Verdicts:
        verdicts, requests, sent = Verdicts(), [], []
        for row in rows:
            try:
                requests.append(decode(row.payload, self._known_ms))
                sent.append(row.id)
            except UsageError as error:
                self._refuse(verdicts, row.id, "", str(error))
        stored = await self._producer.connections.here().enqueue_many(requests) if requests else []
        for id, request, answer in zip(sent, requests, stored, strict=True):
            if isinstance(answer, Conflict) and answer.word is ConflictWord.UNKNOWN:
                self._refuse(verdicts, id, request.id, f"it comes after job {answer.id}, of which there is no record")
            elif isinstance(answer, Conflict) and answer.word is ConflictWord.TAKEN:
                self._refuse(verdicts, id, request.id, f"its id belongs to a job of task {answer.id}")
            else:
                verdicts.done.append(id)
        return verdicts

    def _refuse(self, verdicts: Verdicts, id: int, job_id: str, problem: str) -> None:
        log.outbox_refused(row=id, job_id=job_id, problem=problem[:300])
        verdicts.refused[id] = problem

    # For operators

    async def status(self) -> OutboxStatus:
        """How far behind the relays are. Raises what the database's driver raises."""
        name = self.app.settings.namespace
        waiting, oldest, refused = await self._need_database().ask(lambda say: say.status, name, name, name)
        return OutboxStatus(
            waiting=int(waiting), oldest_s=None if oldest is None else max(0.0, float(oldest)), refused=int(refused)
        )

    async def retry(self) -> None:
        """Let the relays try refused rows again. Raises what the database's driver raises."""
        await self._need_database().ask(lambda say: say.retry, self.app.settings.namespace)

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
        """What is committed when a worker with `--burst` starts, it runs."""
        await self.relay()

    async def beside(self) -> None:
        """Relay as long as the worker works."""
        try:
            await self.run_relay()
        finally:
            with anyio.move_on_after(CLOSE_S, shield=True):
                await self.aclose()
