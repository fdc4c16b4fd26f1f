"""What an error reply of the server, or a call that was cut short, means to us: the one place that decides it."""

from __future__ import annotations

import re
from typing import Any

import redis.exceptions as rex

from ..errors import (
    InvariantError,
    MissingCommandError,
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
    TrackedQueueError,
)

# Refusals that pass by themselves: nothing was carried out. A script's error quotes the code behind a dash.
_PASSING = re.compile(
    r"(?:^|-)(?:LOADING|READONLY|MASTERDOWN|TRYAGAIN|CLUSTERDOWN|MOVED|ASK|BUSY|NOREPLICAS|MISCONF|UNBLOCKED)\b"
    r"|non local key|max number of clients"
)
_REFUSING = re.compile(
    r"(?:^|-)(?:NOAUTH|WRONGPASS|NOPERM|DENIED)\b|invalid password|invalid username-password|DB index is out of range"
    r"|invalid DB index|user executing the script can't|ACL failure in script"
)
_MISSING = re.compile(r"unknown command|Unknown Redis command called from", re.IGNORECASE)
# redis-py strips the code off the errors that it has classes for.
_PASSING_CLASSES = (
    rex.BusyLoadingError, rex.MasterDownError, rex.TryAgainError, rex.ClusterDownError, rex.AskError, rex.MovedError,
)  # fmt: skip
_REFUSING_CLASSES = (rex.AuthenticationError, rex.NoPermissionError)


def short(error: BaseException) -> str:
    """An error's text on one line, without the tail by which Redis 7 names the script and its line."""
    text = re.sub(r"\.? script: \w+, on @.*$", "", " ".join(str(error).split()))
    return text[:300] or type(error).__name__


def not_connected(error: Exception, shown: str) -> TrackedQueueError:
    """The error for a connection that could not be opened."""
    refusal = refused_reply(error) if isinstance(error, rex.ResponseError | rex.AuthenticationError) else None
    if isinstance(refusal, StoreRefusedError | StoreUnavailableError):
        return refusal
    # redis-py wraps a refused password into a ConnectionError of its own.
    if isinstance(error, rex.AuthenticationError) or _REFUSING.search(str(error)):
        return StoreRefusedError(f"{shown}: {short(error)}; check the user, password and database of redis_url")
    return StoreUnavailableError(f"{shown}: {short(error)}", may_have_run=False)


def refused_reply(error: Exception) -> TrackedQueueError:
    """What an error reply of the server means to us."""
    text = short(error)
    if isinstance(error, rex.OutOfMemoryError) or "OOM command not allowed" in text:
        return StoreFullError("it is at maxmemory and takes no new jobs", may_have_run=False)
    if isinstance(error, rex.ReadOnlyError):
        return StoreUnavailableError(
            "it is a replica (READONLY); redis_url must name the primary, unless a failover is under way",
            may_have_run=False,
        )
    if isinstance(error, rex.AskError):  # MOVED is one of its kind; redis-py strips the word
        verb = "has moved" if isinstance(error, rex.MovedError) else "is moving"
        return StoreUnavailableError(f"a slot of the cluster {verb}: {text}", may_have_run=False)
    if isinstance(error, _PASSING_CLASSES) or _PASSING.search(text):
        return StoreUnavailableError(text, may_have_run=False)
    if _MISSING.search(text):
        return MissingCommandError(
            f"this server lacks a command ({text}): it was renamed, or this is not Redis or Valkey; `doctor` says more"
        )
    if "DB index is out of range" in text or "invalid DB index" in text:
        return StoreRefusedError(
            f"redis_url: this server has no such database ({text}); it has `databases` of them, from 0"
        )
    if isinstance(error, _REFUSING_CLASSES) or _REFUSING.search(text):
        return StoreRefusedError(f"Redis refuses us: {text}; check the user, the password and the ACL")
    return InvariantError(f"Redis refused a command of ours: {text}")


# How an open call may fail: the reply is missing, the call may have run. uvloop raises a RuntimeError for a write to a
# connection that was cut a moment ago.
CUT_SHORT = (
    rex.ConnectionError, rex.TimeoutError, rex.InvalidResponse, TimeoutError, OSError, EOFError, RuntimeError,
)  # fmt: skip
CONNECT_FAILED = (rex.RedisError, TimeoutError, OSError, ValueError, RuntimeError)


def demoted(reply: Any) -> bool:
    """Whether a reply says that this server is no longer a primary, or not the slot's."""
    return isinstance(reply, Exception) and (
        isinstance(reply, rex.ReadOnlyError | rex.MovedError | rex.ClusterDownError) or "READONLY" in str(reply)
    )


def missing(error: BaseException, shown: str) -> StoreUnavailableError:
    """The error for a missing reply: the call may have run."""
    if isinstance(error, rex.BusyLoadingError):
        return StoreUnavailableError(f"{shown}: {short(error)}", may_have_run=False)
    what = "no reply in time" if isinstance(error, TimeoutError | rex.TimeoutError) else short(error)
    return StoreUnavailableError(f"{shown}: {what}", may_have_run=True)
