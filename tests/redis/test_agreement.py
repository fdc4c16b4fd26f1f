"""Which shards a program asks before it works in a namespace, and what a refusal leaves behind."""

from __future__ import annotations

import pytest

import redis
from tests.harness import INTERVAL, TTL, request
from tests.rights import admin
from tracked_queue import NamespaceMismatchError, TrackedQueue
from tracked_queue.app import connections_of
from tracked_queue.chaos.server import RedisServer
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.keys import Keys
from tracked_queue.sharding import agreement as module
from tracked_queue.sharding.agreement import Agreement
from tracked_queue.sharding.shards import Shards
from tracked_queue.transport.store import SyncStore
from tracked_queue.transport.sync_link import SyncLink

Release = tuple[int, int, int]
EARLIER, PREPARES, SWITCHES = (1, 1, 1), (1, 2, 1), (1, 2, 2)  # oldest, newest, writes


class Namespace:
    """A namespace that programs of several releases share."""

    def __init__(self, server: RedisServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name, self._patch = name, monkeypatch
        self.client = redis.Redis.from_url(admin(server.url))
        self.endpoint = connections_of(TrackedQueue(server.url, namespace=name)).endpoint()

    def agree(self, release: Release, shards: int) -> None:
        for name, value in zip(("OLDEST", "NEWEST", "WRITES"), release, strict=True):
            self._patch.setattr(module, name, value)
        Agreement(Shards(self.name, shards), True).agree_sync(self.endpoint, 5.0)

    def run(self, keys: Keys, call: t.Call[object]) -> None:
        store = SyncStore(SyncLink(self.endpoint.of(keys)), keys)
        store.run(call)
        store.close()

    def register(self, release: Release, keys: Keys) -> None:
        call = t.register("old", TTL, INTERVAL, {"version": "0.1"})
        call.args[4:6] = release[1:]  # type: ignore[index]
        self.run(keys, call)

    def numbers(self) -> dict[str, str]:
        keys = sorted(key.decode() for key in self.client.scan_iter(f"{{{self.name}*:protocol"))
        return {
            key.partition("}")[0].removeprefix("{" + self.name): (self.client.get(key) or b"").decode() for key in keys
        }

    def whole(self) -> dict[bytes, bytes]:
        return {key: self.client.dump(key) for key in self.client.scan_iter(f"{{{self.name}*")}


@pytest.fixture
def space(server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    return Namespace(server, namespace, monkeypatch)


def test_once_the_number_stands_no_shard_is_asked(space: Namespace) -> None:
    """One that is away holds up nobody's start."""
    space.agree(EARLIER, 3)
    assert space.numbers() == {"": "1", ":0/3": "1", ":1/3": "1", ":2/3": "1"}
    steps = Agreement(Shards(space.name, 3), True)._steps()
    asked = [next(steps)]
    with pytest.raises(StopIteration):
        for value in (t.Agreed(t.ProtocolWord.OK, 1), "3"):
            asked.append(steps.send(value))
    assert [(keys.namespace, call.script) for keys, call in asked] == [(space.name, "protocol"), (space.name, "layout")]


def test_a_program_that_is_refused_has_changed_nothing(space: Namespace) -> None:
    space.agree(SWITCHES, 2)
    before = space.whole()
    for shards in (2, 5):
        with pytest.raises(NamespaceMismatchError, match="written in protocol 2"):
            space.agree(EARLIER, shards)
    assert space.whole() == before


def test_a_worker_that_can_not_read_it_in_the_last_shard_keeps_all_of_them(space: Namespace) -> None:
    space.agree(EARLIER, 3)
    space.register(EARLIER, Shards(space.name, 3).keys(2))
    before = space.numbers()
    with pytest.raises(NamespaceMismatchError, match=r"a worker of namespace .+ doesn't read: old, version 0\.1"):
        space.agree(SWITCHES, 3)
    assert space.numbers() == before
    space.run(Shards(space.name, 3).keys(2), t.release("old", t.End.INTERRUPTED))
    space.agree(PREPARES, 3)
    assert space.numbers() == before
    space.agree(SWITCHES, 3)
    assert set(space.numbers().values()) == {"2"}


def test_shards_that_are_opened_get_the_number_and_one_that_holds_jobs_keeps_it(space: Namespace) -> None:
    space.agree(SWITCHES, 1)
    space.agree(SWITCHES, 3)
    assert space.numbers() == {"": "2", ":0/3": "2", ":1/3": "2", ":2/3": "2"}
    busy = Shards(space.name, 3).keys(2)
    space.run(busy, t.enqueue([request("a")]))
    space.run(busy, t.close("open"))
    assert space.numbers()[":2/3"] == "2", "it was not closed"


def test_shards_that_are_opened_again_have_the_present_number(space: Namespace) -> None:
    for release, shards in [(EARLIER, 3), (EARLIER, 1), (SWITCHES, 1), ((2, 3, 3), 3)]:
        space.agree(release, shards)
    assert {name: number for name, number in space.numbers().items() if name.endswith("/3")} == {
        ":0/3": "3", ":1/3": "3", ":2/3": "3",
    }  # fmt: skip
    assert space.numbers()[""] == "3"
