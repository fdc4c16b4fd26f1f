"""All interleavings of two instances and two jobs to a stated depth; and proof that the search can fail."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.explorer.explorer import Explorer, Violation
from tracked_queue.chaos.server import RedisServer
from tracked_queue.protocol.scripts import Script, make_script, read_source

# `make explore` goes deeper.
DEPTH = int(os.environ.get("EXPLORER_DEPTH", "5"))
JOBS = ("j1", "j2", "j3")[: int(os.environ.get("EXPLORER_JOBS", "2"))]


@pytest.fixture(scope="module")
def own_server() -> Iterator[RedisServer]:
    running = RedisServer()
    yield running
    running.close()


@pytest.mark.timeout(3600)
def test_all_interleavings(own_server: RedisServer) -> None:
    explorer = Explorer(own_server, JOBS)
    try:
        explorer.explore(DEPTH)
    finally:
        explorer.close()
    print(f"\n{len(JOBS)} jobs, depth {DEPTH}: {explorer.states} states, {explorer.steps} steps")
    assert explorer.states > 1000


@pytest.mark.timeout(3600)
def test_an_id_that_is_known_is_enqueued_once_whatever_has_become_of_its_job(own_server: RedisServer) -> None:
    explorer = Explorer(own_server, ("j1",), known=True)
    try:
        explorer.explore(DEPTH)  # enqueue, fetch, settle, expire, resend
    finally:
        explorer.close()
    print(f"\n1 known job, depth {DEPTH}: {explorer.states} states, {explorer.steps} steps")
    assert explorer.states > 100


def faulty(name: str, old: str, new: str) -> dict[str, Script]:
    source = read_source(name)
    assert source.count(old) == 1, f"{name}.lua changed; the fault no longer fits"
    return {name: make_script(name, source.replace(old, new), "now_ms_test")}


FAULTS = {
    "settle skips the ownership check": (
        "settle", "if seen[1] == delivery and seen[4] == 'active' and seen[5] == lease and", "if seen[1] and seen[1] ~= negative and",
    ),
    "settle skips the delivery check": ("settle", "if seen[1] == delivery and seen[4] == 'active'", "if seen[4] == 'active'"),
    "settle skips the state": ("settle", "seen[4] == 'active' and ", ""),
    "settle leaves the id in the list": ("settle", "  redis.call('SREM', processing, unpack(leaves))\n", ""),
    "recover skips the deadline check": ("recover", "  if deadline > now then", "  if false then"),
    "fetch pops without moving": ("fetch", "  redis.call('SADD', processing, unpack(moved))\n", ""),
    "recover does not revoke": ("recover", "redis.call('ZADD', instances, 0, lease)\n", ""),
    "enqueue forgets ids": ("enqueue", "redis.call('EXISTS', job_prefix .. id) == 1", "false"),
    "unpark forgets the marker": ("unpark", "push_job('RPUSH', ", "wake = function() end push_job('RPUSH', "),
    "recover blames for what ran out": ("recover", "local died = cause == 'died' or cause == 'container'", "local died = true"),
    "recover charges who had company": ("recover", "  if was_alone and cause", "  if cause"),
    "a suspect returns to its queue": ("recover", "        back(id, queue, record[6], record.pool, ", "        back(id, queue, record[6], nil, "),
    "a group leaves its line unseen": ("fetch", "  unsuspend(item[1], item[2])\n", ""),
    "a known id is not remembered": (
        "enqueue", "  redis.call('SET', named('known', id), what[2], 'PX', math.max(1, what[1]))\n", "",
    ),
    "a known id is not looked at": ("enqueue", "job.extras.known and word_of_known(id, ARGV[at + 1])", "nil"),
    "a late fetch keeps the marker": ("fetch", "  return refused('late')", "  return { 'late' }"),
}  # fmt: skip


@pytest.mark.deep
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS)
def test_it_finds_a_fault_put_into_a_script(own_server: RedisServer, fault: str) -> None:
    known = fault.startswith("a known id")
    explorer = Explorer(own_server, ("j1",) if known else ("j1", "j2"), faulty(*FAULTS[fault]), known)
    try:
        with pytest.raises(Violation) as found:
            explorer.explore(depth=6, most_states=30_000)
        print(f"\n{fault}: {found.value}")
    finally:
        explorer.close()
