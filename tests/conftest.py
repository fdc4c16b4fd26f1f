"""Fixtures: one private server for the run, a namespace and an app per test, and the check for keys left behind."""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import structlog

from tests.harness import Scripts
from tests.rights import LimitedServer
from tracked_queue import TrackedQueue
from tracked_queue.chaos.server import RedisServer

# What a terminal or a CI sets changes how commands print; some libraries read it when they are imported.
for _name in ("CI", "GITHUB_ACTIONS", "COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "PY_COLORS", "PYTEST_ADDOPTS"):
    os.environ.pop(_name, None)

_names = itertools.count()
# How long an example takes says something of the machine, not of the code.
if importlib.util.find_spec("hypothesis"):  # not in every environment that these tests run in
    from hypothesis import settings

    settings.register_profile("tests", deadline=None)
    settings.load_profile("tests")


# Both event loops, unless a run is about something that does not know of them, such as another server.
LOOPS = os.environ.get("TEST_LOOPS", "asyncio asyncio+uvloop").split()


@pytest.fixture(scope="session", params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return "asyncio", {"use_uvloop": request.param == "asyncio+uvloop"}


@pytest.fixture(scope="session")
def server() -> Iterator[RedisServer]:
    running = LimitedServer() if os.environ.get("TEST_ACL") else RedisServer()
    yield running
    running.close()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("TRACKED_QUEUE_", "PROCESSING_", "HEARTBEAT_")) or name in (
            "REDIS_URL",
            "RECOVERY_LOCK_TTL",
        ):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def fresh_structlog() -> Iterator[None]:
    """Commands configure structlog; no test sees what another one set."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def namespace() -> str:
    # Unique on this machine: pytest workers share the folder of the signs of life, which are told apart by namespace.
    return f"t{os.getpid()}x{next(_names)}"


@pytest.fixture
def q(server: RedisServer, namespace: str) -> Iterator[Scripts]:
    """The scripts with a steered clock; fails the test if a key is left without expiry that should have one."""
    scripts = Scripts(server.url, namespace)
    yield scripts
    leftovers = unexpired_keys(scripts)
    scripts.close()
    assert not leftovers, f"keys of ended things without expiry: {leftovers}"


def unexpired_keys(scripts: Scripts) -> list[str]:
    """Keys of ended jobs or dead instances that nothing will remove."""
    bad: list[str] = []
    records: list[bytes] = []
    tag = scripts.keys.tag
    look = scripts.redis.register_script(ENDED_WITHOUT_EXPIRY)
    for raw in scripts.redis.scan_iter(match=tag.replace("{", "[{]") + ":*", count=1000):
        key = raw.decode("utf-8", "replace")
        kind = key[len(tag) + 1 :].split(":")[0]
        if kind == "job":
            records.append(raw)
        elif kind in ("instance", "processing", "cancel"):
            lease = key[len(tag) + 2 + len(kind) :]
            if scripts.redis.zscore(scripts.keys.single("instances"), lease) is None:
                bad.append(key)
        elif kind == "stats" and scripts.redis.pttl(raw) == -1:
            bad.append(key)
    for at in range(0, len(records), 1000):
        bad += [key.decode("utf-8", "replace") for key in look(keys=records[at : at + 1000])]
    return bad


# A job cancelled while it was queued expires when it leaves its list; keep_ms is the sign of that.
ENDED_WITHOUT_EXPIRY = """
local bad = {}
for _, key in ipairs(KEYS) do
  if redis.call('TYPE', key).ok == 'hash' then
    local found = redis.call('HMGET', key, 'state', 'keep_ms')
    local ended = found[1] == 'succeeded' or found[1] == 'failed' or found[1] == 'cancelled'
    if ended and not found[2] and redis.call('PTTL', key) == -1 then
      bad[#bad + 1] = key
    end
  end
end
return bad
"""


@pytest.fixture
async def app(server: RedisServer, namespace: str) -> AsyncIterator[TrackedQueue]:
    """An app on the shared server, in a namespace of its own, with times short enough for tests."""
    made = TrackedQueue(
        server.url,
        namespace=namespace,
        heartbeat_interval=0.2,
        heartbeat_ttl=2.0,
        recovery_interval=0.3,
        block=1.0,
        enqueue_timeout=3.0,
        cancel_grace=0.5,
    )
    yield made
    await made.aclose()
