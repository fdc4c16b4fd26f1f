"""What can be configured: names, units, defaults, relations, and which source wins."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import timedelta
from enum import Enum
from typing import Any, Literal, NamedTuple, TypedDict, get_args
from urllib.parse import urlsplit

from .errors import SettingsError, did_you_mean

PREFIX = "TRACKED_QUEUE_"

# Names that are read without the prefix as well: what deployments already set.
PLAIN_NAMES = {
    "REDIS_URL": "redis_url",
    "PROCESSING_INSTANCE_ID": "instance_id",
    "PROCESSING_NS": "namespace",
    "HEARTBEAT_INTERVAL": "heartbeat_interval",
    "HEARTBEAT_TTL": "heartbeat_ttl",
    "RECOVERY_LOCK_TTL": "recovery_lock_ttl",
}
# Kubernetes gives every pod beside a Service called `tracked-queue` names such as TRACKED_QUEUE_PORT_6379_TCP
# and TRACKED_QUEUE_SERVICE_HOST; they are the platform's and not worth a warning.
SERVICE_PREFIXES = ("PORT", "SERVICE_")

# A worker keeps half a dozen connections a shard; beyond this the slots of a cluster don't spread them well either.
MAX_SHARDS = 1024
# Never printed, not even in an error.
SECRETS = frozenset({"encryption_keys"})
Durability = Literal["memory", "replica", "fsync"]
DURABILITIES = get_args(Durability)
Profile = Literal["standard", "quiet"]
# What a profile sets where nothing else does.
PROFILES: dict[str, dict[str, float]] = {
    "standard": {},
    "quiet": {"block": 60.0, "heartbeat_interval": 30.0, "heartbeat_ttl": 120.0, "recovery_interval": 60.0},
}
URL_SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "embedded",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)


def _setting(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """
    One resolved configuration; times in seconds, sizes in bytes.

    Each field can be given as a keyword of `TrackedQueue`, as a CLI option where a command has one, or as
    `TRACKED_QUEUE_<NAME>` in the environment; the first that is given wins. Source: docs/reference/settings.md.
    """

    redis_url: str = _setting(
        "redis://localhost:6379",
        "Where Redis is: redis://, rediss:// (TLS), unix://, redis+sentinel://host,host/service, "
        "redis+cluster://host,host or embedded://[folder].",
    )
    namespace: str = _setting("tq", "Prefix of all keys; two applications on one Redis need two.")
    profile: Profile = _setting(  # noqa: RUF009
        "standard",
        "quiet: Redis is asked a tenth as often, for servers that charge by the command; a loss is noticed in 2 minutes.",
    )
    shards: int = _setting(
        1,
        "Independent parts of the namespace, for a Redis Cluster; the same in all programs, changed while no jobs exist.",
    )
    instance_id: str = _setting("", "Label of this worker, for people: the pod's name. Default: the host's name.")
    exclusive_label: bool = _setting(
        False, "The platform never runs two workers of this instance_id: a predecessor's lease is released at once."
    )
    heartbeat_interval: float = _setting(5.0, "Seconds between beats of an idle instance; while jobs run, at most 1.")
    heartbeat_ttl: float = _setting(30.0, "Seconds after its last beat until an instance's jobs are recovered.")
    recovery_interval: float = _setting(5.0, "Seconds between two looks for run-out leases, with jitter.")
    recovery_lock_ttl: float = _setting(
        5.0, "Seconds for which one instance keeps a large sweep to itself; renewed while it goes on."
    )
    auto_recovery: bool = _setting(True, "False leaves recovery to a person: `recover`, or app.recover().")
    max_recoveries: int = _setting(
        3, "Charges (deaths of its process while it was the only job there) until a job is dead."
    )
    concurrency: int = _setting(100, "Jobs that one worker process runs at the same time.")
    isolated_processes: int = _setting(0, "Child processes of one worker process for isolated jobs; 0: one per core.")
    durability: Durability = _setting(  # noqa: RUF009
        "memory", "What an enqueue waits for: memory (the server has it), replica, or fsync (Redis 7.2+)."
    )
    durability_replicas: int = _setting(1, "Replicas that must confirm where durability is replica.")
    durability_timeout: float = _setting(
        5.0, "Seconds until an enqueue that is not confirmed raises; the job is stored."
    )
    threads: int = _setting(
        40, "Threads of one worker process: for plain `def` tasks, and for jobs that use `current_job().thread`."
    )
    encryption_keys: str = _setting(
        "", "Fernet keys, separated by commas: what jobs carry is encrypted with the first, and read with any of them."
    )
    masked_names: str = _setting(
        "password,passwd,secret,token,api_key,authorization,cookie",
        "Parts of names, separated by commas: what stands under such a name is not shown to people (`job`).",
    )
    max_jobs: int = _setting(0, "Jobs after which a worker process shuts down cleanly, and is replaced; 0: no limit.")
    max_memory: int = _setting(
        0, "Resident bytes at which a worker process shuts down cleanly, and is replaced; 0: no limit."
    )
    grace: float = _setting(25.0, "Seconds that running jobs get after SIGTERM before they are handed back.")
    cancel_grace: float = _setting(5.0, "Seconds a job gets to end after it was cancelled or timed out.")
    stall_limit: float = _setting(300.0, "Seconds of a blocked event loop after which the process is given up.")
    http_port: int = _setting(
        0, "Port on which a worker's supervisor answers /live, /ready, /started and /metrics; 0: none."
    )
    http_host: str = _setting("0.0.0.0", "Address on which it does.")
    flight_folder: str = _setting(
        "", "Where a worker writes its last events when something has gone wrong. Default: below the temporary folder."
    )
    block: float = _setting(5.0, "Seconds an idle worker waits in Redis before it asks again.")
    connect_timeout: float = _setting(5.0, "Seconds to open a connection to Redis.")
    reply_timeout: float = _setting(10.0, "Seconds to wait for a reply of Redis, beyond the time a call blocks.")
    enqueue_timeout: float = _setting(10.0, "Seconds for which an enqueue tries before it raises.")
    max_connections: int = _setting(8, "Connections of one client to Redis; further calls queue for them.")
    max_payload: int = _setting(1024 * 1024, "Bytes of one job's encoded arguments.")
    max_result: int = _setting(1024 * 1024, "Bytes of one job's encoded result.")
    result_ttl: float = _setting(3600.0, "Seconds for which an ended job and its result stay readable.")
    resend_window: float = _setting(120.0, "Seconds for which an ended job's id is known, whatever result_ttl says.")
    dead_max_age: float = _setting(90 * 86400.0, "Seconds after which a dead job is trimmed.")
    dead_max_count: int = _setting(1_000_000, "Dead jobs that are kept; beyond it the oldest are trimmed.")

    # Where each value came from: "default", "keyword", "option", or the environment variable's name.
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, (rule, text) in _RULES.items():
            if not rule(getattr(self, name)):
                raise SettingsError(name, f"{getattr(self, name)!r} is not usable: {text}", self.source_of(name))
        _check_url(self.redis_url, self.source_of("redis_url"))
        if self.heartbeat_ttl < 3 * self.heartbeat_interval:
            raise SettingsError(
                "heartbeat_ttl",
                f"{self.heartbeat_ttl:g} s must be at least 3 x heartbeat_interval ({self.heartbeat_interval:g} s), "
                "so that two lost beats lose no lease",
                self.source_of("heartbeat_ttl"),
            )

    @property
    def ended_ttl(self) -> float:
        """Seconds for which the record of a cancelled job stays."""
        return max(self.result_ttl, self.resend_window)

    def values(self) -> dict[str, Any]:
        """All settings by name, secrets included: for a process of the same program."""
        return {name: getattr(self, name) for name in setting_names()}

    def source_of(self, name: str) -> str:
        """Where a value came from, if an error should say so: an environment variable or an option."""
        source = self.sources.get(name, "")
        return "" if source in ("default", "keyword") else source

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={self.shown(name)!r}" for name in setting_names())
        return f"Settings({shown})"

    def shown(self, name: str) -> Any:
        """The value as it may be printed: a URL's password and keys are masked."""
        value = getattr(self, name)
        if name == "encryption_keys":
            return ",".join("***" for key in value.split(",") if key)
        return masked_url(value) if name == "redis_url" else value


# A number of seconds, or a timedelta.
Seconds = float | timedelta


class SettingsArgs(TypedDict, total=False):
    """The settings that `TrackedQueue` takes besides `redis_url`; None: not given. See docs/reference/settings.md."""

    namespace: str | None
    profile: Profile | None
    shards: int | None
    instance_id: str | None
    exclusive_label: bool | None
    heartbeat_interval: Seconds | None
    heartbeat_ttl: Seconds | None
    recovery_interval: Seconds | None
    recovery_lock_ttl: Seconds | None
    auto_recovery: bool | None
    max_recoveries: int | None
    concurrency: int | None
    isolated_processes: int | None
    durability: Durability | None
    durability_replicas: int | None
    durability_timeout: Seconds | None
    threads: int | None
    encryption_keys: str | None
    masked_names: str | None
    max_jobs: int | None
    max_memory: int | None
    grace: Seconds | None
    cancel_grace: Seconds | None
    stall_limit: Seconds | None
    http_port: int | None
    http_host: str | None
    flight_folder: str | None
    block: Seconds | None
    connect_timeout: Seconds | None
    reply_timeout: Seconds | None
    enqueue_timeout: Seconds | None
    max_connections: int | None
    max_payload: int | None
    max_result: int | None
    result_ttl: Seconds | None
    resend_window: Seconds | None
    dead_max_age: Seconds | None
    dead_max_count: int | None


# A century, and the largest exact integer in Lua: a number beyond them is a mistake, and more than Redis can hold.
LONGEST_S, MOST = 100 * 366 * 86400.0, 2**53
# An interval of beats or looks that is shorter than this does nothing but add load.
SHORTEST_S = 0.001


def _finite(low: float) -> Callable[[Any], bool]:
    return lambda value: low <= value <= LONGEST_S


_POSITIVE = (_finite(SHORTEST_S), f"it must be a number of seconds above 0, from {SHORTEST_S} to {LONGEST_S:.0f}")
_NOT_NEGATIVE = (_finite(0), f"it must be a number of seconds, 0 to {LONGEST_S:.0f}")
_COUNT = (lambda value: 1 <= value <= MOST, f"it must be a whole number, 1 to {MOST}")
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "namespace": (
        lambda value: 0 < len(value) <= 64 and value.isprintable() and not set(value) & set(" {}:*?[]"),
        "it must be 1 to 64 printable characters without spaces and {}:*?[]",
    ),
    "instance_id": (
        lambda value: len(value) <= 256 and value.isprintable() and " " not in value,
        "it must be at most 256 printable characters without spaces",
    ),
    **dict.fromkeys(
        (
            "heartbeat_interval", "heartbeat_ttl", "recovery_interval", "recovery_lock_ttl", "stall_limit",
            "durability_timeout", "connect_timeout", "reply_timeout", "enqueue_timeout",
            "resend_window", "dead_max_age",
        ),
        _POSITIVE,
    ),
    "http_port": (lambda value: 0 <= value <= 65535, "it must be a port, 1 to 65535, or 0 for none"),
    "http_host": (lambda value: bool(value) and value.isprintable() and " " not in value, "it must be an address"),
    "shards": (lambda value: 1 <= value <= MAX_SHARDS, f"it must be a whole number, 1 to {MAX_SHARDS}"),
    "profile": (lambda value: value in PROFILES, "it must be standard or quiet"),
    "durability": (lambda value: value in DURABILITIES, "it must be memory, replica or fsync"),
    # Redis 6.2 treats a wait of a millisecond as one without end.
    "block": (_finite(0.05), "it must be a number of seconds, 0.05 or more"),
    **dict.fromkeys(
        ("isolated_processes", "max_jobs", "max_memory"),
        (lambda value: 0 <= value <= MOST, "it must be a whole number, 0 or more"),
    ),
    **dict.fromkeys(("grace", "cancel_grace", "result_ttl"), _NOT_NEGATIVE),
    **dict.fromkeys(
        (
            "max_recoveries", "concurrency", "threads", "durability_replicas", "max_connections", "max_payload",
            "max_result", "dead_max_count",
        ),
        _COUNT,
    ),
}  # fmt: skip


# What a URL's query may say besides TLS; endpoint.py uses some of these and ignores the others, which we decide.
QUERY_NAMES = frozenset(
    {
        "username", "password", "db", "socket_keepalive", "sentinel_username", "sentinel_password", "socket_timeout",
        "socket_connect_timeout", "retry_on_timeout", "retry_on_error", "health_check_interval", "max_connections",
        "decode_responses", "encoding", "encoding_errors", "timeout", "protocol", "client_name",
    }
)  # fmt: skip
CERT_REQUIREMENTS = ("none", "optional", "required")


def spelled(url: str) -> str:
    """A pasted URL put right: no line end, no quotes, and our name of the scheme."""
    url = url.strip()
    if len(url) > 1 and url[0] == url[-1] and url[0] in "'\"":
        url = url[1:-1].strip()
    for other, ours in (("valkey://", "redis://"), ("valkeys://", "rediss://")):
        if url.lower().startswith(other):
            return ours + url[len(other) :]
    return url


def _check_query(parts: UrlParts, source: str) -> None:
    for item in parts.query.split("&") if parts.query else []:
        name, _, value = item.partition("=")
        problem = ""
        if name == "ssl":
            problem = "for TLS write rediss://, without ssl="
        elif name.startswith("ssl_"):
            if not parts.scheme.startswith("rediss"):
                problem = f"{name} is for TLS, and the URL says {parts.scheme}://; write rediss://"
            elif name == "ssl_cert_reqs" and value not in CERT_REQUIREMENTS:
                problem = f"ssl_cert_reqs must be one of {', '.join(CERT_REQUIREMENTS)}"
        elif name not in QUERY_NAMES:
            problem = f"its query has the unknown option {name[:40]!r}; {did_you_mean(name, QUERY_NAMES)}"
        elif name == "db" and not value.isdigit():
            problem = "db must be a number"
        if problem:
            raise SettingsError("redis_url", problem, source)


def _check_url(url: str, source: str) -> None:
    parts = split_url(url)
    if hides_password(parts, url):
        # None of it is shown: what looks like a path or a port may be a part of the password.
        raise SettingsError(
            "redis_url",
            "an @ comes after its host: user or password has a character that ends the host: write / as %2F, ? as %3F, "
            "# as %23, @ as %40 (urllib.parse.quote(password, safe=''))",
            source,
        )
    try:
        if "+" not in parts.scheme:  # several hosts; sentinel.py and cluster.py read them
            urlsplit(url).port  # noqa: B018  (raises for a port that is no number)
    except ValueError as error:
        # The parser's text may quote the whole URL, password and all.
        raise SettingsError("redis_url", "it is not a URL: its host or port can't be read", source) from error
    if parts.scheme not in URL_SCHEMES:
        schemes = ", ".join(f"{scheme}://" for scheme in URL_SCHEMES)
        raise SettingsError("redis_url", f"{masked_url(url)!r} must start with one of {schemes}", source)
    if parts.scheme in ("redis", "rediss"):
        database = parts.path.strip("/")
        if database and not database.isdigit():
            raise SettingsError("redis_url", f"the database {database!r} must be a number", source)
    if parts.scheme == "unix" and not parts.path.startswith("/"):
        raise SettingsError("redis_url", "write unix:///path/to/the.sock, with three slashes", source)
    if parts.scheme != "embedded":
        _check_query(parts, source)


class UrlParts(NamedTuple):
    """A URL that may name several hosts."""

    scheme: str
    netloc: str
    path: str
    query: str


def split_url(url: str) -> UrlParts:
    """
    The parts of a URL as text, several hosts included.

    In newer versions the standard library's urlsplit refuses `[::1]` after another host.
    """
    scheme, _, rest = url.partition("://")
    rest, _, query = rest.partition("#")[0].partition("?")
    netloc, slash, path = rest.partition("/")
    return UrlParts(scheme.lower(), netloc, slash + path, query)


def hides_password(parts: UrlParts, url: str) -> bool:
    """Whether a part of the password stands where a path, a query or a fragment does."""
    if parts.scheme in ("unix", "embedded"):
        return False
    bare = any("@" in item and "=" not in item for item in parts.query.split("&"))
    return "@" in parts.path or bare or "@" in url.partition("#")[2]


def masked_url(url: str) -> str:
    """The URL with its password, also one in the query, replaced by ***."""
    if "://" not in url:
        return "***"
    parts = split_url(url)
    if hides_password(parts, url):
        return f"{parts.scheme}://***"
    userinfo, at, location = parts.netloc.rpartition("@")
    if at:
        user, colon, _ = userinfo.partition(":")
        location = f"{user}{':***' if colon else ''}@{location}"
    query = "&".join(
        f"{name}=***" if name.endswith(("password", "username")) else f"{name}{equals}{value}"
        for name, equals, value in (item.partition("=") for item in parts.query.split("&"))
    )
    return f"{parts.scheme}://{location}{parts.path}{'?' if query else ''}{query}"


def setting_names() -> list[str]:
    """The settings' names, in the order of the reference page."""
    return [item.name for item in fields(Settings) if item.name != "sources"]


def setting_doc(name: str) -> str:
    """One sentence on a setting; the reference page and `config` print it."""
    return str(next(item for item in fields(Settings) if item.name == name).metadata["doc"])


def setting_default(name: str) -> Any:
    """The built-in value of a setting."""
    default = next(item for item in fields(Settings) if item.name == name).default
    assert default is not MISSING
    return default


def resolve(
    given: Mapping[str, Any], environ: Mapping[str, str] | None = None, *, given_source: str = "keyword"
) -> Settings:
    """
    Settings from what was given in code or as options, else the environment, else the defaults.

    Args:
        given: Values by setting name; None means "not given".
        environ: Default: os.environ.
        given_source: What to call the first source in errors and in `config`.

    Raises:
        SettingsError: Names the setting, the value, the rule and where it came from.
    """
    environ = os.environ if environ is None else environ
    names = setting_names()
    values: dict[str, Any] = {}
    sources: dict[str, str] = dict.fromkeys(names, "default")
    for name, value in given.items():
        if name not in names:
            raise SettingsError(name, f"there is no such setting; {did_you_mean(name, names)}")
        if value is not None:
            values[name] = _checked_type(name, value, given_source)
            sources[name] = given_source
    for variable, name in _environment_names(environ):
        if sources[name] == "default":
            values[name] = _parse(name, environ[variable], variable)
            sources[name] = variable
    return _profiled(values, sources)


def with_options(base: Settings, options: Mapping[str, Any]) -> Settings:
    """`base` with the CLI options that were given; an option wins over everything."""
    values = base.values()
    sources = dict(base.sources)
    for name, value in options.items():
        if name not in values:
            raise SettingsError(name, f"there is no such setting; {did_you_mean(name, values)}")
        if value is not None:
            values[name], sources[name] = _checked_type(name, value, "option"), "option"
    return _profiled(values, sources)


def _profiled(values: dict[str, Any], sources: dict[str, str]) -> Settings:
    """Settings with what their profile sets where nothing else did."""
    for name in {name for profile in PROFILES.values() for name in profile}:
        if sources.get(name) in ("default", "profile"):
            values.pop(name, None)
            sources[name] = "default"
    for name, value in PROFILES.get(values.get("profile", "standard"), {}).items():
        if sources.get(name) == "default":
            values[name], sources[name] = value, "profile"
    return Settings(**values, sources=sources)


def _environment_names(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """(variable, setting) pairs, the prefixed names first; warns about unknown prefixed ones."""
    names = set(setting_names())
    found = []
    for variable in sorted(environ):
        if variable.startswith(PREFIX):
            rest = variable[len(PREFIX) :]
            if rest.lower() in names:
                found.append((variable, rest.lower()))
            elif not rest.startswith(SERVICE_PREFIXES):
                warnings.warn(f"{variable} is set, but tracked_queue has no setting of that name", stacklevel=4)
    found += [(variable, name) for variable, name in PLAIN_NAMES.items() if environ.get(variable)]
    return found


def _checked_type(name: str, value: Any, source: str) -> Any:
    default = setting_default(name)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(max(-LONGEST_S * 2, min(LONGEST_S * 2, value)))  # a number of any length; the rule refuses it
    if isinstance(default, float) and isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(default, str) and isinstance(value, str):
        text = str(value.value) if isinstance(value, Enum) else str(value)
        return spelled(text) if name == "redis_url" else text
    if type(value) is not type(default):
        shown = "it" if name in SECRETS else repr(value)
        raise SettingsError(name, f"{shown} must be a {_kind(default)}", "" if source == "keyword" else source)
    return value


def _parse(name: str, text: str, variable: str) -> Any:
    default = setting_default(name)
    if isinstance(default, bool):
        lowered = text.strip().lower()
        if lowered in ("1", "true", "yes", "on"):
            return True
        if lowered in ("0", "false", "no", "off"):
            return False
        raise SettingsError(name, f"{text!r} must be true or false", variable)
    if isinstance(default, str):
        return spelled(text) if name == "redis_url" else text
    try:
        return type(default)(text)
    except ValueError:
        raise SettingsError(name, f"{text!r} must be a {_kind(default)}", variable) from None


def _kind(default: Any) -> str:
    return {bool: "true or false", int: "whole number", float: "number of seconds", str: "text"}[type(default)]
