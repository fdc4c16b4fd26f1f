"""`doctor`: each thing that the promise rests on, wrong on purpose; and the rights that are really needed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import redis
from tests.harness import running_worker
from tests.rights import ROOT, acl_line
from tracked_queue import Concurrency, Rate, TrackedQueue, Unique, current_job
from tracked_queue.app import connections_of
from tracked_queue.chaos.server import RedisServer
from tracked_queue.operator.doctor import _IN_SCRIPTS, Facts, Finding, Level, examine, judge
from tracked_queue.settings import resolve

GOOD = {
    "redis_version": "7.2.4", "role": "master", "maxmemory_policy": "noeviction", "aof_enabled": "1",
    "slave0": "ip=1,port=2,state=online,offset=5,lag=0", "connected_clients": "10",
}  # fmt: skip
WELL = {"cluster_state": "ok", "cluster_slots_assigned": "16384", "cluster_slots_fail": "0"}
CLUSTER = {"redis_url": "redis+cluster://a,b"}
CONFIG = {"appendfsync": "always", "timeout": "0", "tcp-keepalive": "300", "maxclients": "10000"}


def found(info: dict[str, str] | None = None, config: dict[str, str] | None = None, **more: Any) -> list[Finding]:
    settings = resolve(more.pop("settings", {}), environ={})
    facts = Facts(
        info={**GOOD, **(info or {})}, config={**CONFIG, **(config or {})}, refused=more.pop("refused", ()), **more
    )
    return judge(facts, settings)


def test_a_good_server_has_no_finding() -> None:
    assert {finding.level for finding in found()} == {Level.OK}


@pytest.mark.parametrize(
    ("about", "level", "text", "arguments"),
    [
        ("server", Level.PROBLEM, "6.2 or newer", {"info": {"redis_version": "6.0.16"}}),
        ("server", Level.PROBLEM, "7.2", {"info": {"redis_version": "7.0.1"}, "settings": {"durability": "fsync"}}),
        ("role", Level.PROBLEM, "primary", {"info": {"role": "slave"}}),
        ("loading", Level.PROBLEM, "loading", {"info": {"loading": "1"}}),
        ("eviction", Level.PROBLEM, "noeviction", {"info": {"maxmemory_policy": "allkeys-lru"}}),
        ("memory", Level.WARNING, "90%", {"info": {"used_memory": "90", "maxmemory": "100"}}),
        ("append-only file", Level.PROBLEM, "appendonly yes", {"info": {"aof_enabled": "0"}}),
        ("append-only file", Level.PROBLEM, "disk", {"info": {"aof_last_write_status": "err"}}),
        ("append-only file", Level.NOTE, "last second", {"config": {"appendfsync": "everysec"}}),
        ("append-only file", Level.WARNING, "everysec", {"config": {"appendfsync": "no"}}),
        ("replicas", Level.NOTE, "none", {"info": {"slave0": "state=wait"}}),
        ("replicas", Level.PROBLEM, "needs one", {"info": {"slave0": "x"}, "settings": {"durability": "replica"}}),
        ("replicas", Level.PROBLEM, "will raise", {"settings": {"durability": "replica", "durability_replicas": 2}}),
        ("replicas", Level.WARNING, "behind", {"info": {"slave0": "state=online,lag=60"}}),
        ("timeout", Level.WARNING, "timeout 0", {"config": {"timeout": "3"}}),
        ("tcp-keepalive", Level.WARNING, "60", {"config": {"tcp-keepalive": "0"}}),
        ("maxclients", Level.WARNING, "raise", {"info": {"connected_clients": "9000"}}),
        ("ACL", Level.PROBLEM, "LPUSH", {"refused": ["LPUSH"]}),
        ("cluster", Level.PROBLEM, "redis+cluster://", {"cluster": WELL}),
        ("cluster", Level.PROBLEM, "fail", {"cluster": {**WELL, "cluster_state": "fail"}, "settings": CLUSTER}),
        ("slots", Level.PROBLEM, "16000 of", {"cluster": {**WELL, "cluster_slots_assigned": "16000"}, "settings": CLUSTER}),
        ("slots", Level.PROBLEM, "7 failing", {"cluster": {**WELL, "cluster_slots_fail": "7"}, "settings": CLUSTER}),
        ("lease", Level.NOTE, "failover", {"settings": {"heartbeat_ttl": 5.0, "heartbeat_interval": 1.0}}),
        ("grace", Level.NOTE, "terminationGracePeriodSeconds", {"settings": {"grace": 60.0}}),
        ("clock", Level.NOTE, "-7.0 s", {"skew_s": 7.0}),
    ],
)  # fmt: skip
def test_each_finding(about: str, level: Level, text: str, arguments: dict[str, Any]) -> None:
    (finding,) = [item for item in found(**arguments) if item.level is not Level.OK]
    assert (finding.name, finding.level) == (about, level)
    assert text in f"{finding.found} {finding.do}" and finding.do


def test_the_rights_in_the_docs_are_the_commands_of_the_scripts() -> None:
    used: set[str] = set()
    for path in (ROOT / "src/tracked_queue/lua").rglob("*.lua"):
        used |= {name.lower() for name in re.findall(r"redis\.p?call\('([A-Z]+)'", path.read_text())}
    listed = {part[1:] for part in acl_line() if part.startswith("+")}
    assert used <= listed, used - listed
    tried = {command[0].lower() for commands in _IN_SCRIPTS.values() for command in commands}
    assert used - {"time", "publish", "spublish"} <= tried, used - tried


@pytest.fixture
def limited() -> Iterator[tuple[RedisServer, str]]:
    """A server with a user of exactly the rights in the docs; and that user's URL."""
    server = RedisServer(appendonly=True)
    try:
        with redis.Redis.from_url(server.url) as client:
            version = tuple(map(int, client.info("server")["redis_version"].split(".")[:2]))
            client.execute_command("ACL", "SETUSER", "tracked_queue", *acl_line(version, "acl"))
        yield server, server.url.replace("redis://", "redis://tracked_queue:secret@")
    finally:
        server.close()


async def test_everything_works_with_the_rights_in_the_docs(limited: tuple[RedisServer, str]) -> None:
    server, url = limited
    async with TrackedQueue(url, namespace="acl", block=0.5, heartbeat_interval=0.2, heartbeat_ttl=2.0) as app:

        @app.every(1)
        @app.task(name="tick")
        async def tick() -> None: ...

        @app.task(name="all", unique=Unique(by="n"), limit=[Concurrency(2), Rate(100, per=1)], fair_by="n")
        async def everything(n: int) -> int:
            await current_job().progress(n, 10)
            await current_job().checkpoint(n)
            await current_job().log("a line")
            return n

        @app.task(name="total")
        async def total(parts: list[int]) -> int:
            return sum(parts)

        async with running_worker(app):
            group = await app.group([everything.call(n) for n in range(9)], then=total.step())
            assert group.then and await group.then.result(20) == 36
            delayed = await everything.options(delay=0.1).enqueue(20)
            assert [info async for info in delayed.watch()][-1].result == 20
            cancelled = await everything.options(delay=60).enqueue(21)
            assert await cancelled.cancel() and await app.cancel_many(task="tick") >= 0
            assert await app.pause(queue="other") and await app.resume(queue="other")
            assert everything.enqueue_sync(22).created
        findings = await examine(connections_of(app).stores, app.settings)
        (rights,) = [finding for finding in findings if finding.name == "ACL"]
        assert rights.level is Level.OK, rights
        with redis.Redis.from_url(server.url) as client:
            # Nothing of all that was refused; CONFIG GET is what doctor asks beyond.
            refused = {entry["object"] for entry in client.acl_log() if entry["reason"] != "auth"}
            assert refused <= {"config|get", "config", "scan"}, refused
            client.execute_command("ACL", "SETUSER", "tracked_queue", "-lpush", "-evalsha")
        (rights,) = [item for item in await examine(connections_of(app).stores, app.settings) if item.name == "ACL"]
        assert rights.level is Level.PROBLEM and rights.found == "refused: EVALSHA, LPUSH"


def test_the_command_says_what_is_wrong_and_exits_with_it(server: RedisServer) -> None:
    def doctor(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tracked_queue", "doctor", "--redis-url", server.url, *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    shown = doctor()
    assert shown.returncode == 1 and "PROBLEM  append-only file: off -> set appendonly yes" in shown.stdout
    listed = json.loads(doctor("--json").stdout)
    assert {"name", "level", "found", "do"} == set(listed[0])
    away = subprocess.run(
        [sys.executable, "-m", "tracked_queue", "doctor", "--redis-url", "redis://127.0.0.1:1"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert away.returncode == 3 and len(away.stderr.strip().splitlines()) == 1
