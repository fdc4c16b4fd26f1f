"""What commands print: strict JSON, an id before a wait, one line when the output can't be written; typos of names are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.worker import environment
from tracked_queue import TrackedQueue
from tracked_queue.chaos.server import RedisServer
from tracked_queue.cli.common import print_json
from tracked_queue.worker.exits import OUTPUT_EXIT

Cli = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def cli(server: RedisServer, namespace: str, tmp_path: Path) -> Iterator[Cli]:
    (tmp_path / "shop.py").write_text(
        "from tracked_queue import TrackedQueue\napp = TrackedQueue()\n"
        "@app.every(60)\n@app.task(name='shop.mail', queue='mail')\nasync def mail() -> None: ...\n"
    )

    def run(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        options: dict[str, Any] = {"capture_output": True, **more}
        return subprocess.run(
            [sys.executable, "-m", "tracked_queue", *arguments], text=True, env=environment(server.url, namespace),
            cwd=tmp_path, timeout=60, check=False, **options,
        )  # fmt: skip

    yield run


def test_json_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    value = {
        "a": float("nan"),
        "b": float("inf"),
        "c": b"\xff",
        "d": {1: 2, (1, 2): 3},
        "e": "\ud800",
        "f": {1},
        "g": [True, None],
    }
    print_json(value)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found == {
        "a": "nan", "b": "inf", "c": {"base64": "/w=="}, "d": {"pairs": [[1, 2], [[1, 2], 3]]}, "e": "?", "f": [1], "g": [True, None],
    }  # fmt: skip


@pytest.mark.parametrize("command", [
    ["enqueue", "shop.mial"], ["pause", "--task", "shop.mial"], ["pause", "--queue", "mial"], ["pause", "--schedule", "shop.mial"],
    ["cancel", "--task", "shop.mial"], ["cancel", "--queue", "mial"],
])  # fmt: skip
def test_a_typo_of_a_name_is_refused(cli: Cli, command: list[str]) -> None:
    done = cli(*command, "--app", "shop:app")
    assert done.returncode == 2 and "did you mean" in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_an_id_is_printed_before_the_wait(cli: Cli) -> None:
    for wait in ("0", "0.2"):
        done = cli("enqueue", "shop.mail", "--id", f"x{wait}", "--wait", wait)
        assert done.returncode == 1 and done.stdout.strip() == f"x{wait}" and "has not ended" in done.stderr
    assert cli("enqueue", "t", "--wait", "").returncode == 2 and cli("enqueue", "t", "--delay", "").returncode == 2
    assert cli("enqueue", "t", "--args", "[NaN]").returncode == 2
    assert "nested too deep" in cli("enqueue", "t", "--args", "[" * 50_000 + "]" * 50_000).stderr


def test_a_full_disk_is_one_line_that_says_what_was_done(cli: Cli, server: RedisServer, namespace: str) -> None:
    """It was a traceback and exit code 1 after the job was stored, so that it was sent again."""
    with open("/dev/full", "w") as full:
        done = cli("enqueue", "t", "--id", "stored", capture_output=False, stdout=full, stderr=subprocess.PIPE)
        assert (
            done.returncode == OUTPUT_EXIT
            and "was done" in done.stderr.splitlines()[-1]
            and "Traceback" not in done.stderr
        )
        looked = cli("queues", capture_output=False, stdout=full, stderr=subprocess.PIPE)
        assert (
            looked.returncode == OUTPUT_EXIT
            and "could not be written" in looked.stderr
            and "was done" not in looked.stderr
        )
    assert not TrackedQueue(server.url, namespace=namespace).options(id="stored").enqueue_sync("t").created
