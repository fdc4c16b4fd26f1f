"""The commands as programs: what they print, how they exit, what they change."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli
from tests.harness import Scripts, wait_for
from tests.process.worker import QUICK, Worker
from tracked_queue.chaos.server import RedisServer
from tracked_queue.cli.demo import Interrupts

APP = "tests.process.jobs:app"


@pytest.fixture
def worker(server: RedisServer, namespace: str, tmp_path: Path) -> Iterator[Worker]:
    running = Worker(server.url, namespace, tmp_path, "--concurrency", "1", PROCESSING_INSTANCE_ID="pod-1")
    running.ready()
    yield running
    running.close()


def dead_jobs(store: Scripts, *ids: str, task: str = "t", reason: str = "why") -> None:
    store.enqueue(*ids, task=task)
    store.register("w", ttl=60)
    for job in store.take("w", start=len(ids)):
        store.settle("w", job, "dead", 0, b"", reason)


def test_enqueue_wait_and_job(cli: Cli, worker: Worker) -> None:
    done = cli("enqueue", "noop", "--args", "[7]", "--wait", "20s", "--json")
    found = json.loads(done.stdout)
    assert found["created"] and found["result"] == 7
    info = json.loads(cli("job", found["id"], "--json").stdout)
    assert info["state"] == "succeeded" and info["result"] == 7 and info["task"] == "noop"
    text = cli("job", found["id"]).stdout
    assert "succeeded" in text and "recoveries" in text
    assert "exists already" in cli("enqueue", "noop", "--args", "[7]", "--id", found["id"]).stdout
    log = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert log[0]["event"] == "operator.acted" and log[0]["action"] == "enqueue" and "@" in log[0]["by"]


@pytest.mark.parametrize(
    "arguments, exit, said",
    [
        (("job", "nobody"), 1, "no record"),
        (("job", "a\nb"), 2, "printable"),
        (("enqueue", "noop", "--args", "{"), 2, "not valid JSON"),
        (("enqueue", "noop", "--args", "{}"), 2, "array"),
        (("enqueue", "noop", "--delay", "soon"), 2, "duration"),
        (("enqueue", "noop", "--app", APP, "--args", '["x"]'), 2, "argument number"),
        (("queues", "--redis-url", "redis://127.0.0.1:1"), 3, "not available"),
        (("queues", "--app", "nowhere:app"), 2, "can't be imported"),
        (("pause",), 2, "give one of"),
        (("cancel", "nobody"), 1, "no such job"),
        (("quiet", "nobody"), 1, "no live instance"),
        (("dead", "requeue"), 2, "--all"),
        (("dead", "purge", "x", "--all"), 2, "one of them"),
        (("pause", "--queue", ""), 2, "queue ''"),
        (("cancel", ""), 2, "job id ''"),
        (("health", "--queue", "", "--max-age", "1s"), 2, "queue ''"),
        (("health",), 2, "give one"),
        (("health", "--live", "--instance-id", "nobody"), 1, "no worker process"),
        (("health", "--queue", "q"), 2, "--max-age"),
        (("health", "--live", "--max-age", "5"), 2, "give --queue"),
        (("dead", "purge", "--reason", ""), 2, "--reason: it is empty"),
        (("dead", "requeue", "--task", "t", "--older-than", ""), 2, "--older-than: it is empty"),
        (("dead", "list", "--limit", "-5"), 2, "--limit -5"),
        (("dead", "requeue", "--all", "--rate", "inf"), 2, "--rate inf"),
        (("enqueue", "noop", "--args", "[1e999]"), 2, "beyond the range"),
        (("enqueue", "noop", "--wait", "1e300"), 2, "not a duration"),
    ],
)
def test_wrong_use_is_one_line(cli: Cli, arguments: tuple[str, ...], exit: int, said: str) -> None:
    done = cli(*arguments, exit=exit)
    errors = [line for line in (done.stderr + done.stdout).splitlines() if line and not line.startswith("{")]
    assert len(errors) == 1 and said in errors[0], errors


def test_a_failed_job_is_one_line_and_a_foreign_key_hides_nothing(cli: Cli, worker: Worker, store: Scripts) -> None:
    done = cli("enqueue", "failing", "--wait", "20s", exit=1)
    assert len(done.stdout.split()) == 1 and "attempts exhausted" in done.stderr.splitlines()[-1]
    store.redis.set(store.keys.named("job", "odd"), "foreign")
    store.redis.rpush(store.keys.named("queue", "lonely"), "odd")
    store.redis.sadd(store.keys.single("queues"), "lonely")
    assert json.loads(cli("queues", "--json").stdout)["queues"]
    assert "does not hold a job record" in cli("job", "odd", exit=1).stderr


def test_an_import_that_exits_is_one_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "leaving.py").write_text("import sys; sys.exit(7)")
    assert "can't be imported" in cli("worker", "leaving:app", exit=2, PYTHONPATH=str(tmp_path)).stderr


def test_a_wrong_environment_value_names_it(cli: Cli) -> None:
    assert "HEARTBEAT_TTL" in cli("queues", exit=2, HEARTBEAT_TTL="soon").stderr


def test_queues_shows_who_serves_what(cli: Cli, store: Scripts, worker: Worker) -> None:
    store.enqueue("a", "b", queue="lonely")
    store.enqueue("c", delay_ms=60_000)
    overview = json.loads(cli("queues", "--json").stdout)
    by_name = {queue["queue"]: queue for queue in overview["queues"]}
    assert by_name["lonely"]["length"] == 2 and by_name["lonely"]["instances"] == 0
    assert by_name["default"]["instances"] == 1 and overview["scheduled"] == 1
    text = cli("queues").stdout
    assert "NO INSTANCE SERVES IT" in text and "\x1b" not in text, "plain when piped"


def test_pause_and_resume(cli: Cli, store: Scripts) -> None:
    assert "paused" in cli("pause", "--queue", "q").stdout
    assert "was paused" in cli("pause", "--queue", "q").stdout
    assert json.loads(cli("queues", "--json").stdout)["queues"][0]["paused"]
    assert "resumed" in cli("resume", "--queue", "q").stdout
    store.enqueue("a", task="slow")
    cli("pause", "--task", "slow")
    store.register("w", ttl=60)
    assert store.take("w") == [] and store.state("a") == "parked"
    assert "the task is paused" in cli("queues").stdout
    cli("resume", "--task", "slow")
    assert store.state("a") == "queued"


def test_dead_list_requeue_purge_with_filters(cli: Cli, store: Scripts) -> None:
    dead_jobs(store, *(f"a{n}" for n in range(5)), task="alpha", reason="ValueError: x")
    dead_jobs(store, "b0", "b1", task="beta", reason="its process died 3 times")
    assert len(json.loads(cli("dead", "list", "--json").stdout)) == 7
    assert len(json.loads(cli("dead", "list", "--json", "--reason", "died").stdout)) == 2
    assert len(json.loads(cli("dead", "list", "--json", "--older-than", "1h").stdout)) == 0
    assert "alpha" in cli("dead", "list", "--limit", "3").stdout
    assert "5 dead jobs would be requeued" in cli("dead", "requeue", "--task", "alpha", "--dry-run").stdout
    assert store.state("a0") == "dead"
    done = cli("dead", "requeue", "--task", "alpha", "--rate", "100")
    assert "5 dead jobs requeued" in done.stdout and '"operator.acted"' in done.stderr
    assert store.state("a0") == "queued"
    assert "1 dead jobs purged" in cli("dead", "purge", "b0").stdout
    assert "not_dead" in cli("dead", "purge", "a0", exit=1).stderr
    assert "1 dead jobs purged" in cli("dead", "purge", "--all").stdout
    assert "no dead jobs match" in cli("dead", "list").stdout


def test_a_dry_run_says_what_would_be_refused(cli: Cli, store: Scripts) -> None:
    dead_jobs(store, "a")
    store.enqueue("b")
    done = cli("dead", "requeue", "--dry-run", "a", "b", "nobody", exit=1)
    assert "1 dead jobs would be requeued" in done.stdout
    assert "b: not_dead" in done.stderr and "nobody: gone" in done.stderr


def test_many_dead_jobs_are_paged(cli: Cli, store: Scripts) -> None:
    for at in range(0, 600, 200):
        dead_jobs(store, *(f"d{n}" for n in range(at, at + 200)))
    assert "600 dead jobs purged" in cli("dead", "purge", "--all").stdout


def test_retire(cli: Cli, store: Scripts) -> None:
    store.enqueue("a", "b", queue="old")
    assert "2 jobs cancelled" in cli("retire", "--queue", "old").stdout
    assert "old" not in cli("queues").stdout
    cli("retire", exit=2)


def test_cancel(cli: Cli, store: Scripts) -> None:
    store.enqueue("a", "b")
    out = cli("cancel", "a", "b").stdout
    assert out.count("cancelled") == 2 and store.state("a") == "cancelled"


def test_instances_orphans_and_recover(cli: Cli, store: Scripts, worker: Worker) -> None:
    """CASE-66: running, orphaned and dead jobs are visible with their instance."""
    store.enqueue("orphan")
    store.register("gone", ttl=60)
    store.take("gone")
    store.release("gone")
    found = json.loads(cli("instances", "--jobs", "--json").stdout)
    states = {item["lease"]: (item["alive"], item["revoked"], len(item["jobs"])) for item in found}
    lease = worker.ready()[0]
    assert states[lease] == (True, False, 0)
    if "gone" in states:  # the worker may have swept it already
        assert states["gone"] == (False, True, 1)
    cli("recover")
    wait_for(lambda: store.state("orphan") in ("queued", "parked", "active"), what="the orphan to be recovered")
    assert "pod-1" in cli("instances").stdout


def test_recover_by_hand_without_auto_recovery(cli: Cli, store: Scripts) -> None:
    store.enqueue("orphan")
    store.register("gone", ttl=60)
    store.take("gone")
    store.release("gone")
    moved = json.loads(cli("recover", "--json").stdout)
    assert [(one["id"], one["fate"]) for one in moved] == [("orphan", "requeued")]
    assert store.state("orphan") == "queued"


def test_quiet_and_undo(cli: Cli, store: Scripts, worker: Worker) -> None:
    assert "fetches no more jobs" in cli("quiet", "pod-1").stdout
    worker.wait_event("instance.quieted")
    assert json.loads(cli("instances", "--json").stdout)[0]["quiet"]
    waiting = cli("enqueue", "noop", "--args", "[1]").stdout.strip()
    assert json.loads(cli("job", waiting, "--json").stdout)["state"] == "queued"
    cli("quiet", "pod-1", "--undo")
    wait_for(lambda: json.loads(cli("job", waiting, "--json").stdout)["state"] == "succeeded", what="the job")


def lease_is_over(store: Scripts, worker: Worker) -> bool:
    seconds, micros = store.redis.time()
    deadline = store.redis.zscore(store.keys.single("instances"), worker.ready()[0])
    return deadline is None or deadline < seconds * 1000 + micros // 1000


def test_health(cli: Cli, store: Scripts, worker: Worker, server: RedisServer, namespace: str) -> None:
    """CASE-67: each probe can fail; --live needs no Redis."""
    env: dict[str, Any] = {"PROCESSING_INSTANCE_ID": "pod-1", **QUICK}
    assert "live: 1" in cli("health", "--live", **env).stdout
    assert "ready: 1" in cli("health", "--ready", **env).stdout
    away = {**env, "REDIS_URL": "redis://127.0.0.1:1"}
    cli("health", "--live", **away)
    cli("health", "--ready", exit=3, **away)
    os.kill(worker.children()[0], signal.SIGSTOP)
    wait_for(lambda: lease_is_over(store, worker), what="the lease to run out")
    assert "not held" in cli("health", "--ready", exit=1, **env).stderr
    store.enqueue("old", queue="slow")
    store.redis.hset(store.keys.named("job", "old"), "queued_ms", 1_700_000_000_000)
    assert "more than" in cli("health", "--queue", "slow", "--max-age", "1h", exit=1).stderr
    cli("health", "--queue", "empty", "--max-age", "1s")


def test_config_shows_sources_and_no_password(cli: Cli) -> None:
    done = cli("config", "--json", REDIS_URL="redis://u:hunter2@h:1/0", TRACKED_QUEUE_GRACE="7")
    rows = {row["setting"]: row for row in json.loads(done.stdout)}
    assert rows["grace"]["value"] == 7 and rows["grace"]["source"] == "TRACKED_QUEUE_GRACE"
    assert rows["redis_url"]["value"] == "redis://u:***@h:1/0"
    assert "hunter2" not in done.stdout + cli("config", REDIS_URL="redis://u:hunter2@h:1/0").stdout


def test_text_from_redis_is_no_terminal_escape(cli: Cli, store: Scripts) -> None:
    dead_jobs(store, "x", reason="\x1b[31mred\x1b]0;title\x07")
    out = cli("dead", "list").stdout
    assert "\x1b" not in out and "\\x1b" in out


def test_unknown_variables_warn_and_kubernetes_ones_do_not(cli: Cli) -> None:
    done = cli("queues", TRACKED_QUEUE_GRAZE="1", TRACKED_QUEUE_PORT="tcp://10.0.0.1:6379")
    assert "TRACKED_QUEUE_GRAZE" in done.stderr and "PORT" not in done.stderr


def test_demo(cli: Cli, tmp_path: Path) -> None:
    for n in range(40):
        (tmp_path / f"file {n}").write_text("x" * n * 1000)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "empty").touch()
    (tmp_path / "link").symlink_to("nowhere")
    out = cli("demo", str(tmp_path)).stdout
    assert "lost                 0" in out and "files                41" in out
    assert "is not a folder" in cli("demo", str(tmp_path / "none"), exit=2).stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_cleans_up(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out"
    with out.open("wb") as file:
        demo = subprocess.Popen(
            [sys.executable, "-m", "tracked_queue", "demo"],
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stdout=file,
            stderr=file,
        )
    # A signal that comes while Python makes an event loop leaves its half-made loop's warning behind; past that it is clean.
    wait_for(
        lambda: any(
            "instance.registered" in log.read_text() for log in tmp_path.glob("tracked_queue-demo-*/worker.log")
        ),
        40,
        "the worker to work",
    )
    demo.send_signal(number)
    assert demo.wait(30) == 130
    assert "interrupted" in out.read_text() and "Traceback" not in out.read_text()
    assert not list(tmp_path.glob("tracked_queue-demo-*"))


def test_a_folder_is_removed_though_its_server_still_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that appears while the folder is emptied leaves it not empty; the demo ended with an error of the output then."""
    from tracked_queue.cli import demo

    folder, left = tmp_path / "stage", 3
    (folder / "redis").mkdir(parents=True)
    original = os.rmdir

    def rmdir(path: Any, **given: Any) -> None:
        nonlocal left
        if left:
            left -= 1
            raise OSError(39, "Directory not empty")
        original(path, **given)

    monkeypatch.setattr(os, "rmdir", rmdir)
    demo._remove(folder)
    assert not folder.exists() and not left
    demo._remove(folder)  # gone already
    (folder / "redis").mkdir(parents=True)
    left = 10**9
    monkeypatch.setattr(demo, "GONE_S", 0.2)
    with pytest.raises(OSError, match="not empty"):
        demo._remove(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_hits_no_callback_of_the_event_loop(number: signal.Signals) -> None:
    """A reply that was being read was lost by it; what waited for that waited for ever, and the demo did not end."""
    interrupts = Interrupts()
    cleaned = []

    async def work() -> None:
        reply = asyncio.get_running_loop().create_future()

        def read() -> None:
            signal.raise_signal(number)
            reply.set_result(None)

        asyncio.get_running_loop().call_soon(read)
        try:
            await asyncio.sleep(60)
        finally:
            await reply
            cleaned.append(True)

    before = signal.signal(number, interrupts.on_signal)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupts.run(work())
    finally:
        signal.signal(number, before)
    assert cleaned


def test_a_pause_of_a_name_that_nobody_knows_says_so(cli: Cli, worker: Worker, store: Scripts) -> None:
    """Without --app a typo paused nothing, and nobody heard of it; a queue that is to come may still be paused."""
    assert "no instance and no job knows that name" in cli("pause", "--queue", "defualt").stderr
    assert "knows that name" in cli("pause", "--task", "nopo").stderr
    for arguments in (("--queue", "default"), ("--task", "noop")):
        assert "knows that name" not in cli("pause", *arguments).stderr
        cli("resume", *arguments)


def test_a_wait_that_ends_without_a_result_tells_the_id_as_json(cli: Cli) -> None:
    done = cli("enqueue", "nobody", "--wait", "0", "--json", exit=1)
    told = json.loads(done.stdout)
    assert told["id"] and told["created"] is True and "has not ended" in told["error"]
