"""Celery's options of a task and of an enqueue as ours. What has no counterpart is refused, with what to do instead."""

from __future__ import annotations

import contextlib
import datetime
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import UsageError, did_you_mean
from ...model.options import MOST_ATTEMPTS
from ...settings import Seconds

# True already, here: given or not, it changes nothing.
HELD = (
    "acks_late", "reject_on_worker_lost", "acks_on_failure_or_timeout", "track_started", "send_events", "trail", "typing",
    "store_errors_even_if_ignored", "shared", "store_eager_result",
)  # fmt: skip
REFUSED = {
    "rate_limit": "Celery's is of one worker; options={'limit': Rate(10, 1)} holds over the fleet",
    "serializer": "arguments are Celery's JSON; leave it out, or pass ids of what is larger",
    "compression": "leave it out; pass ids of large data",
    "priority": "use queues: a worker serves them in order, or by weights",
    "base": "write a function; what a class did belongs into middleware, a lifespan or a decorator",
    "after_return": "use @queue.middleware",
    "on_success": "use @queue.middleware",
    "on_failure": "use @queue.on_failure",
    "on_retry": "use @queue.on_failure; its third argument says whether the job runs again",
    "throws": "leave it out",
    "pydantic": "annotate the arguments of a task of the queue's own: @queue.task()",
    "link": "use chain(...), or `|`",
    "link_error": "enqueue what mends it by queue.options(after=[result.job], on_failure='fallback')",
    "shadow": "leave it out",
    "exchange": "name a queue",
    "routing_key": "name a queue",
    "producer": "leave it out",
    "connection": "leave it out",
    "chord": "use chord(...)",
    "group_id": "use group(...)",
    "ignore_result": "say it at the task: ignore_result=True",
    "reply_to": "use AsyncResult",
}
TASK = (
    "name", "queue", "bind", "max_retries", "default_retry_delay", "autoretry_for", "dont_autoretry_for", "retry_kwargs",
    "retry_backoff", "retry_backoff_max", "retry_jitter", "time_limit", "soft_time_limit", "expires", "ignore_result",
    "options",
)  # fmt: skip
SEND = (
    "countdown",
    "eta",
    "expires",
    "queue",
    "task_id",
    "headers",
    "time_limit",
    "soft_time_limit",
    "retry",
    "retry_policy",
)
# Of `queue.task(...)`, what Celery has no word for: `options={...}`.
QUEUE = ("result_ttl", "on_exhausted", "unique", "limit", "fair_by", "isolate")
DEFAULT_DELAY_S = 180.0
# How long a result that nobody asks for is kept.
IGNORED_S = 60.0
_MARK = "__tracked_queue_retried__"


class _Marked(type):
    """A class whose instances are the errors with its mark: which errors are retried is known only as they come."""

    def __instancecheck__(cls, error: object) -> bool:
        return getattr(error, _MARK, "") == cls.__name__


# Stand for any error that is to be retried, and any after which nothing is.
Retried: Any = _Marked("retried", (Exception,), {})
Final: Any = _Marked("final", (Exception,), {})


def mark(error: BaseException, fate: str) -> None:
    """
    Say what becomes of the job that raised it: "retried", or dead if it has no runs left; "final": failed, whatever else is
    said of errors of its class; "" for nothing.
    """
    with contextlib.suppress(Exception):  # an error may refuse attributes; what is said of its class holds then
        setattr(error, _MARK, fate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What a task's decorator said."""

    bind: bool = False
    max_retries: int | None = 3
    default_retry_delay: Seconds = DEFAULT_DELAY_S
    autoretry_for: tuple[type[BaseException], ...] = ()
    countdown: Seconds | None = None
    backoff: float = 0.0
    backoff_max: float = 600.0
    jitter: bool = True

    @property
    def max_attempts(self) -> int:
        """All runs: one more than the retries; Celery's None is without end."""
        return MOST_ATTEMPTS if self.max_retries is None else self.max_retries + 1

    def delay(self, attempt: int, error: BaseException) -> Seconds:
        """Seconds until the next run after an error that `autoretry_for` names."""
        if not self.backoff:
            return self.default_retry_delay if self.countdown is None else self.countdown
        seconds = min(self.backoff_max, self.backoff * 2.0 ** min(attempt - 1, 64))
        return random.uniform(0, seconds) if self.jitter else seconds


def declared(name: str, given: Mapping[str, Any]) -> tuple[Declared, dict[str, Any]]:
    """
    Celery's options of a task, and those for `queue.task(...)`.

    Raises:
        UsageError: One of them has no counterpart, or there is no such option.
    """
    _check(f"task {name}: ", given, TASK)
    more = dict(given.get("retry_kwargs") or {})
    for option in more:
        if option not in ("max_retries", "countdown"):
            raise UsageError(f"task {name}: retry_kwargs={{{option!r}: ...}}: it can be max_retries or countdown")
    backoff = given.get("retry_backoff", False)
    own = Declared(
        bind=bool(given.get("bind", False)),
        max_retries=more.get("max_retries", given.get("max_retries", 3)),
        default_retry_delay=given.get("default_retry_delay", DEFAULT_DELAY_S),
        autoretry_for=tuple(given.get("autoretry_for") or ()),
        countdown=more.get("countdown"),
        backoff=float(backoff),
        backoff_max=float(given.get("retry_backoff_max", 600)),
        jitter=bool(given.get("retry_jitter", True)),
    )
    ours: dict[str, Any] = {
        "max_attempts": own.max_attempts,
        "retry": own.delay,
        "retry_on": (Retried, *own.autoretry_for),
        "give_up_on": (Final, *(given.get("dont_autoretry_for") or ())),
    }
    for theirs in ("queue", "expires"):
        if given.get(theirs) is not None:
            ours[theirs] = given[theirs]
    timeout = given.get("soft_time_limit") or given.get("time_limit")
    ours["timeout"] = timeout  # Celery has none, unless it is given
    if given.get("ignore_result"):
        ours["result_ttl"] = IGNORED_S  # and not 0: a chain or chord passes it on
    for option, value in (given.get("options") or {}).items():
        if option not in QUEUE:
            raise UsageError(f"task {name}: options={{{option!r}: ...}}: {did_you_mean(option, QUEUE)}")
        ours[option] = value
    return own, ours


def sent(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """
    Celery's options of `apply_async`, without the arguments, as those of `task.options(...)`.

    Raises:
        UsageError: See `declared`.
    """
    _check(f"{name}.apply_async: ", given, SEND)
    if given.get("retry") is False:
        raise UsageError(f"{name}.apply_async: retry=False: an enqueue ends within enqueue_timeout= of the queue")
    ours: dict[str, Any] = {}
    for theirs, name_here in (
        ("countdown", "delay"), ("eta", "at"), ("expires", "expires"), ("queue", "queue"), ("task_id", "id"),
        ("headers", "headers"),
    ):  # fmt: skip
        if given.get(theirs) is not None:
            ours[name_here] = given[theirs]
    if "delay" in ours:
        ours.pop("at", None)  # Celery puts a countdown in the place of an eta
    if "at" in ours:
        ours["at"] = in_utc(ours["at"])
    if "id" in ours:
        ours["id"] = str(ours["id"])
    expires = ours.get("expires")
    if isinstance(expires, datetime.datetime | str):
        expires = (in_utc(expires) - datetime.datetime.now(datetime.UTC)).total_seconds()
    if isinstance(expires, int | float):
        ours["expires"] = max(expires, 0.001)  # one that is over already: the job ends expired
    timeout = given.get("soft_time_limit") or given.get("time_limit")
    if timeout is not None:
        ours["timeout"] = timeout
    return ours


def in_utc(moment: datetime.datetime | str) -> datetime.datetime:
    """A moment as Celery reads it, with enable_utc: one without a timezone is of UTC."""
    found = datetime.datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)


def _check(where: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for option in given:
        if option in REFUSED and option not in known:
            raise UsageError(f"{where}{option}= has no counterpart: {REFUSED[option]}")
        if option not in known and option not in HELD:
            raise UsageError(f"{where}there is no option {option!r}; {did_you_mean(option, known)}")
