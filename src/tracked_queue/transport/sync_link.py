"""A connection for code without an event loop."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

import redis.exceptions as rex

from .endpoint import Endpoint
from .link import CHECK_S, IDLE_S, MIN_S, PING, Command, packed
from .replies import CONNECT_FAILED, CUT_SHORT, demoted, missing, not_connected


class SyncLink:
    """
    A synchronous connection, guarded by a lock, reopened after a fork: each process has its own.

    A host's name is looked up by the system, whose time for that can't be limited here.
    """

    def __init__(self, endpoint: Endpoint, timeout: float | None = None) -> None:
        self._endpoint, self._timeout = endpoint, timeout or endpoint.reply_timeout
        self._lock = threading.Lock()
        self._connection = endpoint.sync_connection(self._timeout)
        self._pid = os.getpid()
        self._used_at = 0.0
        self._closes = False

    def call(self, commands: Sequence[Command], timeout: float | None = None) -> list[Any]:
        """See `Link.call`; `timeout` None is the link's own."""
        if self._pid != os.getpid():
            # The parent's socket must not be used, nor shut down, by its child; its lock may be held for ever.
            self._lock, self._pid = threading.Lock(), os.getpid()
            self._connection = self._endpoint.sync_connection(self._timeout)
        until = time.monotonic() + (self._timeout if timeout is None else timeout)
        with self._lock:
            connection = self._connection
            try:
                if _is_open(connection) and not self._still_there(until):
                    self._drop()
                if not _is_open(connection):
                    self._limit(until)
                    connection.connect()
            except CONNECT_FAILED as error:
                self._drop()
                raise not_connected(error, self._endpoint.shown) from error
            except BaseException:
                self._drop()
                raise
            try:
                replies = self._asked(commands, until)
                if any(map(demoted, replies)):
                    self._endpoint.doubt()
                    self._drop()
                if self._closes:
                    self._closes = False
                    self._drop()
                self._used_at = time.monotonic()
                return replies
            except CUT_SHORT as error:
                self._drop()
                raise missing(error, self._endpoint.shown) from error
            except BaseException:
                self._drop()
                raise

    def _still_there(self, until: float) -> bool:
        """Whether the connection is open, holds nothing unasked, and answers if it was idle."""
        now = time.monotonic()
        try:
            if self._connection.can_read(timeout=0):
                return False
            if now - self._used_at > IDLE_S:
                self._asked(PING, now + min(CHECK_S, (until - now) / 2))
        except CUT_SHORT:
            return False
        return True

    def _asked(self, commands: Sequence[Command], until: float) -> list[Any]:
        self._limit(until)
        self._connection.send_packed_command(packed(commands), check_health=False)
        return [self._read(until) for _ in commands]

    def _limit(self, until: float) -> None:
        """Let whatever the connection does next end by then."""
        connection, left = self._connection, max(MIN_S, until - time.monotonic())
        connection.socket_timeout = left
        connection.socket_connect_timeout = min(left, self._endpoint.connect_timeout)
        if connection._sock is not None:
            connection._sock.settimeout(left)

    def _read(self, until: float) -> Any:
        self._limit(until)
        try:
            return self._connection.read_response(disable_decoding=True)
        except rex.AuthenticationError as error:  # for redis-py a ConnectionError; it is an answer all the same
            return error
        except rex.ConnectionError:
            raise
        except rex.ResponseError as error:
            return error

    def _drop(self) -> None:
        with contextlib.suppress(Exception):
            self._connection.disconnect()

    def close(self) -> None:
        """Close the connection, at the end of a call that is under way; a later call opens a new one."""
        if self._pid != os.getpid():
            return
        if self._lock.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._lock.release()
        else:  # in use, by another thread or in the middle of a call of this one (a signal's handler)
            self._closes = True


def _is_open(connection: Any) -> bool:
    return connection._sock is not None
