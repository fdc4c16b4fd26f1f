"""
Two releases at once: a rolling deploy, and what is refused because it would skip a release.

The releases are copies of this one with other protocol numbers, and other scripts as far as a server can tell.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import tracked_queue
from tests.process.test_workers import ended
from tests.process.worker import Notes, Worker, environment
from tracked_queue import State, StoreRefusedError, TrackedQueue
from tracked_queue.chaos.server import RedisServer

pytestmark = pytest.mark.timeout(120)
Start = Callable[..., Worker]
ROOT = Path(__file__).parents[2]
# What each release reads (oldest, newest) and writes: the next one prepares a change, the one after it makes it.
NUMBERS = {"1.0": (1, 1, 1), "1.1": (1, 2, 1), "1.2": (1, 2, 2)}


@dataclass(frozen=True, slots=True)
class Releases:
    """Installed releases, and how to run their command line on the test's namespace."""

    folder: Path
    url: str
    namespace: str

    def path(self, release: str) -> dict[str, str]:
        return {"PYTHONPATH": str(self.folder / release)}

    def run(self, release: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tracked_queue", *arguments],
            env=environment(self.url, self.namespace, **self.path(release)),
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("releases")
    for release, numbers in NUMBERS.items():
        package = folder / release / "tracked_queue"
        shutil.copytree(Path(tracked_queue.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
        facts = package / "protocol" / "version.py"
        text = facts.read_text()
        changed: Mapping[str, str] = {
            r"^WRITES = .*$": f"WRITES = {numbers[2]}",
            r"^OLDEST, NEWEST = .*$": f"OLDEST, NEWEST = {numbers[0]}, {numbers[1]}",
            r"return version\(.*\)$": f'return "{release}"',
        }
        for pattern, new in changed.items():
            text, count = re.subn(pattern, new, text, flags=re.MULTILINE)
            assert count == 1, pattern
        facts.write_text(text)
        for script in (package / "lua").glob("*.lua"):
            script.write_text(f"{script.read_text()}\n-- {release}\n")
    return folder


@pytest.fixture
def releases(installed: Path, server: RedisServer, namespace: str) -> Releases:
    return Releases(installed, server.url, namespace)


async def test_a_rolling_deploy_has_two_releases_at_once(
    start: Start, queue: TrackedQueue, notes: Notes, releases: Releases
) -> None:
    older = start(**releases.path("1.0"))
    older.ready()
    jobs = []
    for release in ("1.1", "1.2"):
        jobs += [await queue.enqueue("sleep", 0.2) for _ in range(30)]
        newer = start(**releases.path(release))
        (lease,) = newer.ready()
        sent = [
            releases.run(old, "enqueue", "sleep", "--args", "[0.01]", "--app", "tests.process.jobs:app")
            for old in NUMBERS
        ]
        refused = {old: one.stderr.strip() for old, one in zip(NUMBERS, sent, strict=True) if one.returncode}
        if release == "1.1":  # it writes as 1.0 does; only the one that is two ahead must not write
            assert list(refused) == ["1.2"] and "this version (1.2) writes protocol 2, which a worker" in refused["1.2"]
        else:
            assert list(refused) == ["1.0"] and "is written in protocol 2, and this version (1.0)" in refused["1.0"]
        instances = releases.run(release, "instances", "--json").stdout
        assert lease in instances and older.ready()[0] in instances
        older.terminate()
        assert older.wait() == 0
        older = newer
    jobs += [await queue.enqueue("sleep", 0.01) for _ in range(10)]
    assert set(await ended(jobs)) == {State.SUCCEEDED}
    infos = [await job.info() for job in jobs]
    assert all((info.attempts, info.recoveries) == (1, 0) for info in infos)
    notes.wait("end", len(jobs) + 4)
    assert len(notes.all("start")) == len(jobs) + 4 + sum(info.interruptions for info in infos)


async def test_a_skipped_release_waits_until_the_old_workers_are_gone(
    start: Start, queue: TrackedQueue, notes: Notes, releases: Releases
) -> None:
    old = start(**releases.path("1.0"))
    old.ready()
    new = start(**releases.path("1.2"))
    assert new.wait() != 0
    assert "this version (1.2) writes protocol 2, which a worker of namespace" in new.log.read_text()
    assert await ended([await queue.enqueue("sleep", 0.01)]) == [State.SUCCEEDED], "the old one has not noticed"
    old.terminate()
    assert old.wait() == 0
    left = await queue.enqueue("sleep", 0.01)
    start(**releases.path("1.2")).ready()
    assert await ended([left]) == [State.SUCCEEDED]


@pytest.mark.parametrize("processes", [1, 2])
async def test_an_old_worker_that_was_paused_is_refused_when_it_wakes(
    start: Start, queue: TrackedQueue, notes: Notes, releases: Releases, processes: int
) -> None:
    old = start("--processes", str(processes), **releases.path("1.0"))
    leases = old.ready(processes)
    job = await queue.enqueue("sleep", 2.0)
    notes.wait("start", 1)
    programs = [old.process.pid, *old.children()]
    for pid in programs:
        os.kill(pid, signal.SIGSTOP)
    new = start("--concurrency", "2", **releases.path("1.1"))
    new.ready()
    new.wait_event("lease.recovered")
    newest = start("--concurrency", "2", **releases.path("1.2"))
    newest.ready()
    for pid in programs:
        os.kill(pid, signal.SIGCONT)
    assert await ended([job]) == [State.SUCCEEDED]
    assert old.wait() != 0
    assert "written in protocol 2, and this version (1.0) reads up to 1: upgrade it" in old.log.read_text()
    info = await job.info()
    assert info.recoveries + info.interruptions == 1 and info.lease not in leases
    assert len(old.events("instance.registered")) == processes


async def test_programs_of_another_release_are_refused_in_one_line(
    queue: TrackedQueue, releases: Releases, server: RedisServer, namespace: str
) -> None:
    assert releases.run("1.2", "enqueue", "noop", "--args", "[1]", "--app", "tests.process.jobs:app").returncode == 0
    with pytest.raises(
        StoreRefusedError, match=r"is written in protocol 2, and this version \(.+\) reads up to 1: upgrade it"
    ):
        await queue.enqueue("noop", 1)
    with pytest.raises(StoreRefusedError, match="protocol 2"):
        queue.enqueue_sync("noop", 1)
    with pytest.raises(StoreRefusedError, match="protocol 2"):
        await queue.job("a").cancel()
    with pytest.raises(StoreRefusedError, match="protocol 2"):
        queue.job("a").cancel_sync()
    metrics = releases.run("1.0", "metrics", "--port", "0")
    assert metrics.returncode == 2 and "upgrade it" in metrics.stderr
    for command in (["queues"], ["explain"], ["pause", "--queue", "default"], ["doctor"]):
        done = releases.run("1.0", *command)
        assert done.returncode != 0 and "upgrade it" in done.stderr and len(done.stderr.strip().splitlines()) == 1, done
        assert releases.run("1.1", *command).returncode in (0, 1), "it reads what is there"
