"""`explain`, `jobs`, `audit` and `wait` in a terminal and as JSON."""

from __future__ import annotations

import json
import time

import pytest

from tests.cli.conftest import Cli
from tests.harness import Scripts
from tests.scripts.common import limited
from tracked_queue import TrackedQueue
from tracked_queue.chaos.server import RedisServer
from tracked_queue.model.canonical import part
from tracked_queue.model.codec import encode_error
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.packing import encode_extras
from tracked_queue.reports.listing import LISTED_STATES


def every_state(store: Scripts) -> None:
    """A job of each state that can be listed, named by it."""
    store.register("w", ttl=60)
    for state in ("succeeded", "failed", "cancelled", "dead", "parked"):
        store.enqueue(state)
        (job,) = store.take("w")
        store.settle("w", job, state, ms=60_000, reason="" if state == "succeeded" else "why")
    store.enqueue("retrying")
    (job,) = store.take("w")
    store.settle("w", job, "retry", ms=30_000, reason="why")
    store.enqueue("expired", extras=encode_extras({"expires": 1}))
    assert [job.id for job in store.take("w")] in ([], [b"expired"])
    store.enqueue("active")
    assert [job.id for job in store.take("w")][-1] == b"active"
    store.enqueue("scheduled", delay_ms=60_000)
    store.enqueue("queued")
    store.enqueue("waiting", extras=encode_extras({"after": ["queued"], "on_failure": "ignore", "wants": 0}))


def test_jobs_lists_each_state(cli: Cli, store: Scripts) -> None:
    every_state(store)
    store.enqueue("elsewhere", queue="other", task="u")
    for state in set(LISTED_STATES) - {"expired", "queued", "scheduled"}:
        assert [row["id"] for row in json.loads(cli("jobs", "--state", state, "--json").stdout)["rows"]] == [state]
    later = json.loads(cli("jobs", "--state", "scheduled", "--json").stdout)["rows"]
    assert [(row["id"], row["why"]) for row in later] == [("retrying", "retry"), ("scheduled", "delay")]
    rows = json.loads(cli("jobs", "--json").stdout)["rows"]
    assert sorted(row["id"] for row in rows) == ["elsewhere", "queued"]
    assert [row["id"] for row in json.loads(cli("jobs", "--queue", "other", "--json").stdout)["rows"]] == ["elsewhere"]
    assert [row["id"] for row in json.loads(cli("jobs", "--task", "u", "--json").stdout)["rows"]] == ["elsewhere"]
    assert len(json.loads(cli("jobs", "--limit", "1", "--json").stdout)["rows"]) == 1
    assert "why" in cli("jobs", "--state", "failed").stdout
    assert "there are active" in cli("jobs", "--state", "nope", exit=2).stderr
    assert "no jobs are queued" in cli("jobs", "--queue", "nowhere").stdout


def test_queued_jobs_come_in_the_order_in_which_they_are_taken(cli: Cli, store: Scripts) -> None:
    store.enqueue(*(f"j{n:03}" for n in range(600)))
    found = [row["id"] for row in json.loads(cli("jobs", "--limit", "550", "--json").stdout)["rows"]]
    assert found == [f"j{n:03}" for n in range(550)]


def test_audit_says_who_did_what_and_who_was_lost(cli: Cli, store: Scripts) -> None:
    store.enqueue("a")
    store.register("w", ttl=60)
    store.take("w")
    store.release("w", t.End.DIED)
    store.recover("w")
    cli("pause", "--queue", "q")
    cli("cancel", "a")
    text = cli("audit").stdout
    assert text.index("cancel") < text.index("pause") < text.index("recovered (died)")
    found = json.loads(cli("audit", "--json").stdout)
    assert [act["action"] for act in found["acts"]] == ["cancel", "pause"] and "@" in found["acts"][0]["by"]
    assert found["recoveries"][0]["jobs"] == 1
    history = json.loads(cli("job", "a", "--json").stdout)["history"]
    assert [event["kind"] for event in history] == ["recovered", "cancel"] and "@" in history[1]["detail"]


def test_explain_tells_people_and_programs_the_same(cli: Cli, store: Scripts) -> None:
    store.enqueue("a")
    text = cli("explain", "a", exit=1).stdout
    (found,) = json.loads(cli("explain", "a", "--json", exit=1).stdout)
    assert found["code"] == "queued.unserved" and found["problem"]
    assert found["code"] in text and found["sentence"] in text and found["do"][0] in text
    assert all(f"({fact['source']}" in text for fact in found["facts"])
    assert "fleet.unserved" in cli("explain", exit=1).stdout, "the problem list"
    assert "absent.unknown" in cli("explain", "nobody", exit=1).stdout
    assert "give one of" in cli("explain", "a", "--queue", "q", exit=2).stderr
    store.store.run(t.register("w", 60, 20, {"queues": "q", "concurrency": "5", "label": "pod"}))
    assert "queue.moving" in cli("explain", "--queue", "q").stdout
    assert "Nothing is wrong" in cli("explain").stdout


def test_a_hostile_name_can_t_steer_a_terminal(cli: Cli, store: Scripts) -> None:
    store.enqueue("a", queue="q\x1b[31m", task="[bold]t")
    text = cli("explain", "a", exit=1).stdout
    assert "\x1b" not in text and "\\x1b[31m" in text
    assert "[bold]t" in cli("jobs").stdout


def test_wait_ends_as_the_job_did(cli: Cli, store: Scripts) -> None:
    every_state(store)
    assert cli("wait", "succeeded").stdout.strip() == "null"
    assert json.loads(cli("wait", "succeeded", "--json").stdout)["state"] == "succeeded"
    assert "it is failed: why" in cli("wait", "failed", exit=1).stderr
    assert cli("wait", "queued", "--timeout", "0.2s", exit=1).stderr
    assert "no record" in cli("wait", "nobody", exit=1).stderr


@pytest.mark.parametrize("shards", [1, 3])
def test_pages_of_jobs_go_on_where_the_last_one_ended(
    cli: Cli, server: RedisServer, namespace: str, shards: int
) -> None:
    app = TrackedQueue(server.url, namespace=namespace, shards=shards)
    jobs = {app.enqueue_sync("x", n).id for n in range(25)}
    app.close()
    seen: list[str] = []
    start: list[str] = []
    for _ in range(10):
        page = json.loads(cli("jobs", "--limit", "7", "--json", *start, TRACKED_QUEUE_SHARDS=str(shards)).stdout)
        seen += [row["id"] for row in page["rows"]]
        if page["next"] is None:
            break
        start = ["--from", page["next"]]
    assert len(seen) == len(jobs) and set(seen) == jobs, "each once"
    assert "give what" in cli("jobs", "--from", "x", exit=2).stderr


def test_jobs_by_error_and_age(cli: Cli, store: Scripts) -> None:
    store.register("w", ttl=60)
    for name, reason in (("a", "ValueError: no such user"), ("b", "TimeoutError: too slow")):
        store.enqueue(name)
        (job,) = store.take("w")
        store.settle("w", job, "dead", ms=1, reason=reason)
    assert [
        row["id"] for row in json.loads(cli("jobs", "--state", "dead", "--error", "timeout", "--json").stdout)["rows"]
    ] == ["b"]
    assert json.loads(cli("jobs", "--state", "dead", "--older", "1d", "--json").stdout)["rows"] == []
    store.redis.hset(store.keys.record_of("a"), "finished_ms", 1_700_000_000_000)
    assert len(json.loads(cli("jobs", "--state", "dead", "--older", "1d", "--json").stdout)["rows"]) == 1


def test_what_people_do_with_jobs_is_told_line_by_line(cli: Cli, store: Scripts) -> None:
    store.enqueue("a", "b", "c")
    store.enqueue("later", delay_ms=60_000)
    assert cli("move", "a", "--to", "other").stdout == "a: moved\n"
    assert "none: no such job" in cli("move", "none", "--to", "other", exit=1).stdout
    assert cli("move", "--queue", "q", "--to", "other", "--limit", "1").stdout == "1 jobs moved\n"
    assert store.listed("queue", "other") == ["b", "a"]
    assert cli("reschedule", "later", "--in", "2h").stdout == "later: rescheduled\n"
    assert "it is not scheduled" in cli("reschedule", "a", "--at", "2030-01-31T08:00:00Z", exit=1).stdout
    assert "no timezone" in cli("reschedule", "a", "--at", "2030-01-31T08:00:00", exit=2).stderr
    cli("cancel", "later")
    assert cli("delete", "later").stdout == "later: deleted\n"
    assert "cancel it first" in cli("delete", "a", exit=1).stdout
    acts = json.loads(cli("audit", "--json").stdout)["acts"]
    assert {"move", "move_queue", "reschedule", "delete"} <= {act["action"] for act in acts}


def test_limits_are_listed_with_what_waits_for_them(cli: Cli, store: Scripts) -> None:
    store.register("w", ttl=60)
    store.store.run(t.register("w", 60, 5, {}, {part("t", "mail"): 1, part("n", "api") + part("p", "1000"): 5}))
    mail = limited(part("t", "mail"), 1, lane="q\nmail")
    store.enqueue("a", extras=mail)
    store.enqueue("b", extras=mail)
    assert [job.id for job in store.take("w")] == [b"a"]
    found = {row["limit"]: row for row in json.loads(cli("limits", "--json").stdout)}
    assert (found["task mail"]["in_use"], found["task mail"]["lanes"], found["task mail"]["kind"]) == (
        1,
        1,
        "concurrency",
    )
    assert (found["api"]["kind"], found["api"]["per_s"], found["api"]["most"]) == ("rate", 1.0, 5)
    assert "5 in 1.0 s" in cli("limits").stdout
    assert "It has places free: it allows 5 starts in 1.0 s" in cli("explain", "--limit", "api").stdout


def test_job_hides_what_stands_under_a_secret_name(cli: Cli, server: RedisServer, namespace: str) -> None:
    app = TrackedQueue(server.url, namespace=namespace)
    job = app.enqueue_sync("x", 1, {"password": "hunter2"}, api_token="hunter2")
    app.close()
    for options in ((), ("--json",)):
        text = cli("job", job.id, *options).stdout
        assert "hunter2" not in text and "***" in text
    assert "hunter2" in cli("job", job.id, TRACKED_QUEUE_MASKED_NAMES="").stdout


def test_pages_miss_nothing_that_waits_while_jobs_are_taken(cli: Cli, store: Scripts) -> None:
    for queue in ("a", "b"):
        store.enqueue(*(f"{queue}{n:03}" for n in range(100)), queue=queue)
    store.register("w", ttl=60)
    first = json.loads(cli("jobs", "--limit", "100", "--json").stdout)
    store.take("w", start=50, queues=("a",))
    second = json.loads(cli("jobs", "--limit", "100", "--json", "--from", first["next"]).stdout)
    assert {row["id"] for row in second["rows"]} == {f"b{n:03}" for n in range(100)}
    middle = json.loads(cli("jobs", "--limit", "60", "--json").stdout)
    store.take("w", start=30, queues=("a",))
    rest = json.loads(cli("jobs", "--limit", "500", "--json", "--from", middle["next"]).stdout)
    waiting = {row["id"] for row in json.loads(cli("jobs", "--limit", "500", "--json").stdout)["rows"]}
    assert waiting <= {row["id"] for row in middle["rows"] + rest["rows"]}


def test_the_newest_ends_of_many_queues_come_first(cli: Cli, store: Scripts) -> None:
    store.register("w", ttl=60)
    names = [f"q{n:02}" for n in range(60)]
    for name in names:
        store.enqueue(f"job-{name}", queue=name)
        (job,) = store.take("w", queues=(name,))
        store.settle("w", job, "failed", ms=60_000, reason="no")
        time.sleep(0.002)  # the ends are told apart by the server's milliseconds
    rows = json.loads(cli("jobs", "--state", "failed", "--limit", "10", "--json").stdout)["rows"]
    assert [row["id"] for row in rows] == [f"job-{name}" for name in reversed(names[-10:])]


def test_filters_of_scheduled_jobs(cli: Cli, store: Scripts) -> None:
    store.register("w", ttl=60)
    store.enqueue("a")
    (job,) = store.take("w")
    store.settle(
        "w", job, "retry", ms=60_000, payload=encode_error("TimeoutError", "slow"), reason="TimeoutError: slow"
    )
    for options, count in (
        (("--error", "timeout"), 1),
        (("--error", "other"), 0),
        (("--older", "0s"), 1),
        (("--older", "1d"), 0),
    ):
        assert len(json.loads(cli("jobs", "--state", "retrying", "--json", *options).stdout)["rows"]) == count, options


def test_a_large_rate_and_a_name_with_two_limits(cli: Cli, store: Scripts) -> None:
    rate, places = part("n", "crm") + part("p", "60000"), part("n", "crm")
    store.store.run(t.register("w", 60, 5, {}, {rate: 3000, places: 2}))
    now = int(store.redis.time()[0]) * 1000
    store.redis.rpush(
        store.keys.named("rate", rate), *(now - n for n in range(2500)), *(now - 100_000 for _ in range(500))
    )
    found = {row["kind"]: row for row in json.loads(cli("limits", "--json").stdout)}
    assert 2400 < found["rate"]["in_use"] <= 2500
    store.redis.ltrim(store.keys.named("rate", rate), 0, 2499)
    store.redis.lpush(store.keys.named("rate", rate), *(now for _ in range(500)))
    codes = [one["code"] for one in json.loads(cli("explain", "--limit", "crm", "--json").stdout)]
    assert codes == ["limit.rate", "limit.free"]
