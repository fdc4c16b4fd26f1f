"""`explain`, `jobs`, `audit` and `wait` in a terminal and as JSON."""

from __future__ import annotations

import json

from tests.cli.conftest import Cli
from tests.harness import Scripts
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
    for state in set(LISTED_STATES) - {"expired", "queued"}:
        assert [row["id"] for row in json.loads(cli("jobs", "--state", state, "--json").stdout)["rows"]] == [state]
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
