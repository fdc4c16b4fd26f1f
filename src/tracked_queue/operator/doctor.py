"""What the promise rests on, looked at on a real server: version, persistence, replication, rights, settings, clocks."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from ..errors import InvariantError, StoreRefusedError
from ..protocol.packing import encode_extras
from ..protocol.version import NEWEST, OLDEST, WRITES, number_in
from ..reports.instances import InstanceReport, read_instances
from ..settings import Settings
from ..transport.store import Store

# How far a replica may be behind, and how far clocks may differ, before that is reported.
MAX_LAG_S, MAX_SKEW_S = 5.0, 1.0
# A usual failover; leases that are shorter run out in one.
FAILOVER_S = 10.0
# Kubernetes kills a pod this long after SIGTERM unless terminationGracePeriodSeconds says otherwise.
POD_GRACE_S = 30.0

# Commands of the scripts, each with arguments that fit a key of its kind; see docs/reference/acl.md.
_IN_SCRIPTS: dict[str, Sequence[Sequence[str]]] = {
    "h": (
        ("HSET", "a", "1"), ("HGET", "a"), ("HMGET", "a"), ("HSTRLEN", "a"), ("HINCRBY", "a", "1"), ("HSETNX", "b", "1"),
        ("HDEL", "a"),
    ),
    "l": (
        ("LPUSH", "a"), ("RPUSH", "a"), ("LRANGE", "0", "-1"), ("LINDEX", "0"), ("LLEN",), ("LPOS", "a"), ("LREM", "1", "b"),
        ("LSET", "0", "c"), ("LTRIM", "0", "9"), ("LPOP",),
    ),
    "z": (
        ("ZADD", "1", "a"), ("ZSCORE", "a"), ("ZRANK", "a"), ("ZRANGE", "0", "-1"), ("ZREVRANGE", "0", "0"), ("ZCARD",),
        ("ZRANGEBYSCORE", "0", "1"), ("ZREVRANGEBYSCORE", "1", "0"), ("ZRANGEBYLEX", "-", "+"), ("ZUNIONSTORE", "0"),
        ("ZREM", "a"),
    ),
    "s": (("SADD", "a"), ("SCARD",), ("SMEMBERS",), ("SISMEMBER", "a"), ("SRANDMEMBER",), ("SSCAN", "0"), ("SREM", "a")),
    "k": (
        ("SET", "1"), ("GET",), ("EXISTS",), ("TYPE",), ("PEXPIRE", "1000"), ("PTTL",), ("PERSIST",), ("SETRANGE", "0", "x"),
        ("DEL",),
    ),
}  # fmt: skip
_TRY = """
local refused = {}
for at = 1, #ARGV, 2 do
  local command = cmsgpack.unpack(ARGV[at + 1]).command
  table.insert(command, 2, KEYS[1] .. ':doctor:' .. ARGV[at])
  local reply = redis.pcall(unpack(command))
  local problem = type(reply) == 'table' and reply.err or ''
  if string.find(problem, 'permission') or string.find(problem, 'executing the script') then
    refused[#refused + 1] = command[1]
  end
end
for _, kind in ipairs({ 'h', 'l', 'z', 's', 'k' }) do
  redis.pcall('DEL', KEYS[1] .. ':doctor:' .. kind)
end
return refused
"""


class Level(StrEnum):
    """How much a finding matters: only a problem makes `doctor` fail."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at: what it is, how it stands, and what to do about it ('' if nothing)."""

    name: str
    level: Level
    found: str
    do: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was read: INFO, CONFIG GET (None where this user may not), refused commands, live instances, clock skew in s."""

    info: Mapping[str, str]
    config: Mapping[str, str] | None
    refused: Sequence[str]
    instances: Sequence[InstanceReport] = ()
    skew_s: float = 0.0
    cluster: Mapping[str, str] | None = None  # CLUSTER INFO of a node
    owners: int = 0  # servers of the cluster that have slots
    protocol: int = 0  # that the shard is written in; 0 if nothing has been written yet


async def examine(stores: Sequence[Store], settings: Settings, *, try_scripts: bool = True) -> list[Finding]:
    """
    Read the facts of every shard's server, and judge them; with several servers each finding names its shards.

    Raises like `Store.read` when Redis doesn't answer.
    """
    all_facts = [await read_facts(store, try_scripts) for store in stores]
    servers: dict[str, list[int]] = {}
    for shard, facts in enumerate(all_facts):
        servers.setdefault(facts.info.get("run_id", ""), []).append(shard)
    findings: list[Finding] = []
    for shards in servers.values():
        where = f" (shard{'s' * (len(shards) > 1)} {', '.join(map(str, shards))})" if len(servers) > 1 else ""
        findings += [replace(item, name=item.name + where) for item in judge(all_facts[shards[0]], settings)]
    return [*findings, *_spread(all_facts[0], len(stores), len(servers)), _spoken(all_facts)]


async def read_facts(store: Store, try_scripts: bool = True) -> Facts:
    """Read what the judgement needs; what this user may not read is left out."""
    refused = []

    async def ask(*command: Any) -> Any:
        try:
            (reply,) = await store.read(command)
        except (StoreRefusedError, InvariantError):
            refused.append(
                " ".join(str(part) for part in command[:2])
                if command[0] in ("CLIENT", "CONFIG", "CLUSTER")
                else command[0]
            )
            return None
        return reply

    info: dict[str, str] = {}
    for line in (await ask("INFO") or b"").decode("utf-8", "replace").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            info[name] = value
    pairs = await ask("CONFIG", "GET", "*")
    config = None if pairs is None else dict(zip(map(_text, pairs[::2]), map(_text, pairs[1::2]), strict=True))
    cluster, owners = None, 0
    if info.get("cluster_enabled") == "1":
        told_of = (await ask("CLUSTER", "INFO") or b"").decode()
        cluster = dict(line.split(":", 1) for line in told_of.splitlines() if ":" in line)
        owners = len({one[2][0] + b":%d" % one[2][1] for one in await ask("CLUSTER", "SLOTS") or ()})
    before = time.time()
    told = await ask("TIME")
    skew = 0.0 if told is None else int(told[0]) + int(told[1]) / 1e6 - (before + time.time()) / 2
    await ask("CLIENT", "ID")
    protocol = await ask("GET", store.keys.protocol)
    try:
        await store.read(("EVALSHA", "0" * 40, 1, store.keys.tag))
    except InvariantError:
        pass  # there is no such script, which is an answer
    except StoreRefusedError:  # also of one who doesn't know the command
        refused.append("EVALSHA")
    await ask("SCAN", "0", "COUNT", "1")
    if try_scripts:
        await ask("BZPOPMIN", store.keys.wake_of("doctor"), "0.01")
        await ask("PUBLISH", store.keys.channel_of("doctor"), "")
    if try_scripts and info.get("role") != "slave":
        refused += [_text(name) for name in await _try_in_scripts(store) or ()]
    instances: list[InstanceReport] = []
    with contextlib.suppress(StoreRefusedError):  # what is refused is among the findings
        if info.get("role") != "slave":
            instances = [item for item in await read_instances(store) if item.alive]
    return Facts(
        info=info, config=config, refused=refused, instances=instances, skew_s=skew, cluster=cluster, owners=owners,
        protocol=number_in(protocol),
    )  # fmt: skip


async def _try_in_scripts(store: Store) -> Sequence[bytes] | None:
    arguments: list[Any] = []
    for kind, commands in _IN_SCRIPTS.items():
        for command in commands:
            arguments += (kind, encode_extras({"command": list(command)}))
    try:
        (reply,) = await store.read(("EVAL", _TRY, 1, store.keys.tag, *arguments))
    except (StoreRefusedError, InvariantError):
        return [b"EVAL"]
    found: Sequence[bytes] = reply
    return found


def judge(facts: Facts, settings: Settings) -> list[Finding]:
    """Every finding, in the order of what it rests on; pure."""
    parts: list[Callable[[Facts, Settings], list[Finding]]] = [
        _server, _memory, _persistence, _replication, _connections, _rights, _cluster, _times, _clocks, _labels,
    ]  # fmt: skip
    return [finding for part in parts for finding in part(facts, settings)]


_UNTESTED = "nobody has run the test suite on it"
# By a field of INFO that only this product has: its name, what is known of it, and what to do.
_PRODUCTS = (
    ("dragonfly_version", "Dragonfly", f"{_UNTESTED}; it runs scripts whose keys are not declared under a global lock", (
        "start it with --cluster_mode=emulated --lock_on_hashtags, and run your own jobs on it before you trust it"
    )),
    ("keydb_version", "KeyDB", f"{_UNTESTED}; its active replicas break atomic scripts", "use Redis or Valkey"),
    ("garnet_version", "Garnet", f"{_UNTESTED}; its Lua is off by default, and incomplete", "use Redis or Valkey"),
    ("kvrocks_version", "Kvrocks", _UNTESTED, "use Redis or Valkey"),
)  # fmt: skip


def product_of(info: Mapping[str, str]) -> tuple[str, str, str]:
    """The server as people know it, what is known against it ('' for nothing), and what to do about that."""
    version, executable = info.get("redis_version", ""), info.get("executable", "").lower()
    for field, name, limits, do in _PRODUCTS:
        if field in info or name.lower() in executable:
            own = info.get(field, "").removeprefix("df-v")
            return f"{name}{own and ' '}{own} (as Redis {version})", limits, do
    if info.get("server_name") == "valkey":
        return f"Valkey {info.get('valkey_version', version)}", "", ""
    if "serverless" in info.get("os", "").lower() or "serverless" in executable:
        return f"a serverless cache (as Redis {version})", f"{_UNTESTED}, and it bills each command", (
            "raise block and heartbeat_interval for idle workers, and run your own jobs on it before you trust it"
        )  # fmt: skip
    return f"Redis {version}", "", ""


def _server(facts: Facts, settings: Settings) -> list[Finding]:
    version = facts.info.get("redis_version")
    if version is None:
        return [
            _warning("server", "INFO is refused to this user", "allow +info, else version and role can't be checked")
        ]
    number = tuple(int(part) for part in version.split(".")[:2])
    shown, limits, do = product_of(facts.info)
    found = [_ok("server", shown) if not limits else _warning("server", f"{shown}: {limits}", do)]
    if number < (6, 2):
        found = [_problem("server", f"Redis {version}", "use 6.2 or newer")]
    elif settings.durability == "fsync" and number < (7, 2):
        found = [_problem("server", f"Redis {version}", "durability=fsync needs 7.2 or newer")]
    if facts.info.get("role") == "slave":
        found.append(_problem("role", "it is a replica", "redis_url must name the primary"))
    else:
        found.append(_ok("role", "primary"))
    if facts.info.get("loading") == "1":
        found.append(_problem("loading", "it is loading its data", "wait, and run doctor again"))
    return found


def _memory(facts: Facts, settings: Settings) -> list[Finding]:
    policy = facts.info.get("maxmemory_policy")
    if policy is None:
        return []
    found = [_ok("eviction", policy)]
    if policy != "noeviction":
        found = [
            _problem(
                "eviction",
                policy,
                "set maxmemory-policy noeviction: an evicted job is lost",
            )
        ]
    used, most = int(facts.info.get("used_memory", 0)), int(facts.info.get("maxmemory", 0))
    if most and used > 0.8 * most:
        found.append(
            _warning("memory", f"{used / most:.0%} of maxmemory is used", "give it more: at 100% no job is stored")
        )
    return found


def _persistence(facts: Facts, settings: Settings) -> list[Finding]:
    if "aof_enabled" not in facts.info:
        return []
    if facts.info["aof_enabled"] != "1":
        return [
            _problem(
                "append-only file",
                "off",
                "set appendonly yes, else a restart loses jobs",
            )
        ]
    if facts.info.get("aof_last_write_status", "ok") != "ok":
        return [_problem("append-only file", "its last write failed", "look at Redis' log and disk")]
    sync = facts.config.get("appendfsync") if facts.config else None
    match sync:
        case "always":
            return [_ok("append-only file", "on, appendfsync always")]
        case "everysec":
            do = "set appendfsync always, or durability=fsync for what may not be lost"
            return [
                _note(
                    "append-only file", "on, appendfsync everysec: a crash of its machine may lose the last second", do
                )
            ]
        case "no":
            return [_warning("append-only file", "on, appendfsync no", "set appendfsync everysec or always")]
    return [_note("append-only file", "on; CONFIG GET is refused, so appendfsync is not known", "ask who runs it")]


def _replication(facts: Facts, settings: Settings) -> list[Finding]:
    if facts.info.get("role") != "master":
        return []
    replicas = [
        dict(part.split("=", 1) for part in value.split(",") if "=" in part)
        for name, value in facts.info.items()
        if name.startswith("slave") and name[5:].isdigit()
    ]
    online = [replica for replica in replicas if replica.get("state") == "online"]
    if not online:
        if settings.durability == "replica":
            return [_problem("replicas", "none", "durability=replica needs one")]
        return [
            _note("replicas", "none", "with one, a lost machine is a failover that loses the last milliseconds at most")
        ]
    found = []
    if settings.durability == "replica" and len(online) < settings.durability_replicas:
        do = f"durability_replicas is {settings.durability_replicas}; every such enqueue will raise"
        found.append(_problem("replicas", str(len(online)), do))
    behind = [replica for replica in online if float(replica.get("lag", 0)) > MAX_LAG_S]
    if behind:
        found.append(
            _warning("replicas", f"{len(behind)} of {len(online)} behind", "a failover now would lose that much")
        )
    return found or [_ok("replicas", f"{len(online)} in step")]


def _connections(facts: Facts, settings: Settings) -> list[Finding]:
    if facts.config is None:
        return []
    found = []
    idle = int(facts.config.get("timeout", 0))
    if 0 < idle <= settings.heartbeat_interval:
        do = f"set timeout 0, or above {settings.heartbeat_interval:g}"
        found.append(_warning("timeout", f"idle connections are cut after {idle} s, before the next beat", do))
    if facts.config.get("tcp-keepalive") == "0":
        found.append(
            _warning("tcp-keepalive", "off", "set tcp-keepalive 60: connections of vanished machines stay for hours")
        )
    most, now = int(facts.config.get("maxclients", 0)), int(facts.info.get("connected_clients", 0))
    if most and now > 0.8 * most:
        found.append(
            _warning("maxclients", f"{now} of {most} connections", "raise maxclients before workers are refused")
        )
    return found or [_ok("connections", "timeout, tcp-keepalive and maxclients")]


def _rights(facts: Facts, settings: Settings) -> list[Finding]:
    needed = [name for name in facts.refused if name not in ("INFO", "CONFIG GET", "SCAN", "CLUSTER INFO")]
    if needed:
        return [
            _problem(
                "ACL", f"refused: {', '.join(sorted(set(needed)))}", "give the user what docs/reference/acl.md lists"
            )
        ]
    return [_ok("ACL", "every command that is needed")]


def _cluster(facts: Facts, settings: Settings) -> list[Finding]:
    if facts.cluster is None:
        return []
    if "+cluster" not in settings.redis_url:
        do = "use redis+cluster://host,host, which looks up each slot's server, also after a failover"
        return [_problem("cluster", "redis_url names one node of a cluster, and redirects are not followed", do)]
    found = []
    if facts.cluster.get("cluster_state") != "ok":
        found.append(_problem("cluster", f"its state is {facts.cluster.get('cluster_state')}", "look at CLUSTER NODES"))
    slots, failing = facts.cluster.get("cluster_slots_assigned"), facts.cluster.get("cluster_slots_fail", "0")
    if slots != "16384" or failing != "0":
        do = "a shard whose slot has no server stands still; give every slot a server"
        found.append(_problem("slots", f"{slots} of 16384 assigned, {failing} failing", do))
    return found or [_ok("cluster", f"ok, {facts.owners} primaries")]


def _spread(facts: Facts, shards: int, servers: int) -> list[Finding]:
    """How many shards there are, and how they lie on a cluster's servers."""
    count = f"{shards} shard{'s' * (shards > 1)}"
    if facts.cluster is None or "CLUSTER SLOTS" in facts.refused:
        return [_ok("shards", count)]
    text = f"{count} on {servers} of {facts.owners} primaries"
    if servers < facts.owners:
        do = "more shards spread the load over more of them; the number can only be changed while there are no jobs"
        return [_note("shards", text, do)]
    return [_ok("shards", text)]


def _spoken(all_facts: Sequence[Facts]) -> Finding:
    """The protocol of the namespace. One that this version doesn't read has been refused already."""
    ours = f"this version writes {WRITES}, and reads {OLDEST}{f' to {NEWEST}' * (NEWEST > OLDEST)}"
    number = min(facts.protocol for facts in all_facts)
    return _ok("protocol", f"{number or 'not set yet'}; {ours}")


def _times(facts: Facts, settings: Settings) -> list[Finding]:
    found = []
    interval, ttl = settings.heartbeat_interval, settings.heartbeat_ttl
    if ttl < FAILOVER_S:
        do = f"a failover takes about {FAILOVER_S:g} s; a longer TTL keeps running jobs through it"
        found.append(_note("lease", f"TTL {ttl:g} s", do))
    if settings.grace >= POD_GRACE_S:
        do = f"set terminationGracePeriodSeconds above {settings.grace + 5:g}, or Kubernetes kills the pod first"
        found.append(_note("grace", f"{settings.grace:g} s", do))
    return found or [_ok("lease", f"interval {interval:g} s, TTL {ttl:g} s, grace {settings.grace:g} s")]


def _clocks(facts: Facts, settings: Settings) -> list[Finding]:
    if abs(facts.skew_s) <= MAX_SKEW_S:
        return [_ok("clock", "as the server's")]
    do = "nothing here depends on it: leases and due times are the server's; set the clock for your own logs"
    return [_note("clock", f"this machine's is {-facts.skew_s:+.1f} s off the server's", do)]


def _labels(facts: Facts, settings: Settings) -> list[Finding]:
    places: dict[str, set[str]] = {}
    for item in facts.instances:
        places.setdefault(item.label, set()).add(item.host)
    shared = sorted(label for label, hosts in places.items() if len(hosts) > 1)
    if shared:
        do = "give each pod its own instance_id (its name); nothing runs twice, but people can't tell them apart"
        return [_warning("labels", f"on several machines: {', '.join(shared)}", do)]
    counts = Counter(item.label for item in facts.instances)
    return [_ok("labels", f"{len(counts)} of {len(facts.instances)} live instances")] if facts.instances else []


def _ok(name: str, found: str) -> Finding:
    return Finding(name=name, level=Level.OK, found=found)


def _note(name: str, found: str, do: str) -> Finding:
    return Finding(name=name, level=Level.NOTE, found=found, do=do)


def _warning(name: str, found: str, do: str) -> Finding:
    return Finding(name=name, level=Level.WARNING, found=found, do=do)


def _problem(name: str, found: str, do: str) -> Finding:
    return Finding(name=name, level=Level.PROBLEM, found=found, do=do)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
