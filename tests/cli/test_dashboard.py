"""`dashboard`, `dashboard-user` and `dead groups`: what is refused, what is printed, and the way from one to the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.harness import Scripts
from tracked_queue.chaos.server import RedisServer
from tracked_queue.dashboard import Identity, Role, Users
from tracked_queue.protocol import transitions as t


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: anybody who reaches it could purge jobs; give --users FILE or --proxy-header, or --insecure"),
        (["--host", "::"], "anybody who reaches it"),
        (["--port", "70000"], "--port 70000: it must be from 0 to 65535"),
        (["--users", "/none"], "users file /none"),
        (["--users", "/none", "--proxy-header", "X"], "not both"),
        (["--secret-file", "/none"], "--secret-file goes with --users"),
        (["--proxy", "10.0.0.1"], "go with --proxy-header"),
        (["--proxy-header", "X-User"], "--proxy-header needs --proxy"),
        (["--proxy-header", "X-User", "--proxy", "10.0.0.1", "--role", "root"], "--role 'root'"),
        (["--prefix", "jobs"], "prefix='jobs': write it as /jobs"),
        (["--zone", "Nowhere"], "zone='Nowhere' is not a known timezone"),
        (["--also", "{x}"], "namespace"),
    ],
)  # fmt: skip
def test_what_can_not_be_served_is_one_line(cli: Cli, arguments: list[str], said: str) -> None:
    done = cli("dashboard", *arguments, exit=2)
    assert said in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""


def test_a_port_that_is_taken(cli: Cli) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = cli("dashboard", "--port", str(taken.getsockname()[1]), exit=1)
    assert "Address already in use" in done.stderr


def test_users_are_made_for_the_file(tmp_path: Path) -> None:
    def made(*arguments: str, password: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tracked_queue", "dashboard-user", *arguments],
            input=password,
            capture_output=True,
            text=True,
            timeout=40,
        )

    person = made("ada", "--role", "admin", password="correct horse\n")
    program = made("deploys", "--role", "operate", "--token")
    file = tmp_path / "users"
    file.write_text(person.stdout + program.stdout)
    login = Users(file)
    assert login.of_token(program.stderr.split(": ")[-1].strip()) == Identity(name="deploys", role=Role.OPERATE)
    assert login._users["ada"].identity.role is Role.ADMIN
    assert "correct horse" not in person.stdout + person.stderr
    for arguments, password, said in (
        (["ada"], "short\n", "at least 8 characters"),
        (["a:b"], "correct horse\n", "a name has no colon"),
        (["ada", "--role", "root"], "", "--role 'root'"),
    ):
        wrong = made(*arguments, password=password)
        assert (wrong.returncode, wrong.stdout) == (2, "") and said in wrong.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_two_namespaces_and_ends_by_a_signal(server: RedisServer, namespace: str, number: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tracked_queue", "dashboard", "--port", "0", "--namespace", namespace, "--also", f"{namespace}b"],
        env={**os.environ, "REDIS_URL": server.url}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    with process.stderr:
        address = process.stderr.readline().split(" at ")[1].strip()
        for name in (namespace, f"{namespace}b"):
            with urllib.request.urlopen(f"{address}n/{name}/api/queues", timeout=10) as answer:
                assert answer.status == 200
        process.send_signal(number)
        assert process.wait(10) == 0
        assert "Traceback" not in process.stderr.read()


def test_dead_jobs_in_groups_and_one_group_requeued(cli: Cli, store: Scripts) -> None:
    for at in range(4):
        store.enqueue(f"j{at}", task="charge", queue="q")
    store.register("w")
    store.store.run(t.settle("w", [t.Outcome(job.id, job.delivery, t.OutcomeKind.DEAD, 1, b"", f"card {at} refused" if at else "other") for at, job in enumerate(store.take("w"))], 120.0))  # fmt: skip
    shown = cli("dead", "groups").stdout
    assert "card … refused" in shown and "other" in shown
    import json

    groups = json.loads(cli("dead", "groups", "--json").stdout)
    assert [(one["count"], one["message"]) for one in groups] == [(3, "card … refused"), (1, "other")]
    assert cli("dead", "requeue", "--group", groups[0]["key"]).stdout == "3 dead jobs requeued\n"
    assert [one["count"] for one in json.loads(cli("dead", "groups", "--json").stdout)] == [1]
    assert "--look-at 0" in cli("dead", "groups", "--look-at", "0", exit=2).stderr
