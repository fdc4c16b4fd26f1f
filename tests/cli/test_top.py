"""`top` in a terminal, and what its keys do."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from rich.console import Console

from tests.cli.conftest import Cli
from tests.harness import Scripts, wait_for
from tracked_queue.chaos.server import RedisServer
from tracked_queue.cli.top import TABS, Act, View, pressed, render
from tracked_queue.operator.picture import Picture
from tracked_queue.reports.instances import ActiveJob
from tracked_queue.reports.queues import Overview, QueueReport


class Terminal:
    """`top` in a terminal of 100 columns and 30 lines."""

    def __init__(self, url: str, namespace: str, **env: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        os.set_blocking(self._master, False)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tracked_queue", "top", "--interval", "0.5"],
            env={**os.environ, "REDIS_URL": url, "PROCESSING_NS": namespace, "TERM": "xterm-256color", **env},
            stdin=slave, stdout=slave, stderr=slave,
        )  # fmt: skip
        os.close(slave)
        self.raw = ""

    def press(self, keys: str) -> None:
        self.raw = ""
        os.write(self._master, keys.encode())

    def text(self) -> str:
        try:
            while True:
                self.raw += os.read(self._master, 65536).decode("utf-8", "replace")
        except OSError:
            pass
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw)

    def wait(self, text: str) -> None:
        wait_for(lambda: text in self.text(), 20, f"{text!r} on the screen")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        os.close(self._master)


@pytest.fixture
def terminal(server: RedisServer, namespace: str, store: Scripts) -> Iterator[Terminal]:
    store.register("w", ttl=60)
    store.enqueue("waits", queue="mail")
    store.enqueue("runs")
    store.take("w")
    found = Terminal(server.url, namespace)
    yield found
    found.close()


def test_keys_pause_a_queue_cancel_a_job_and_quiet_an_instance(terminal: Terminal, store: Scripts) -> None:
    terminal.wait("1 waiting   1 active")
    terminal.wait("mail")
    terminal.press("p")
    terminal.wait("pause queue mail? y: yes, any other key: no")
    terminal.press("n")
    terminal.wait("nothing was done")
    assert not store.redis.smembers(store.keys.single("paused"))
    terminal.press("py")
    terminal.wait("pause queue mail: done")
    assert store.redis.smembers(store.keys.single("paused")) == {b"queue:mail"}
    terminal.press("3c")
    terminal.wait("cancel runs (t)?")
    terminal.press("y")
    terminal.wait("runs: requested")
    assert store.job("runs")["cancel"] == "1"
    terminal.press("2uy")
    terminal.wait("w: fetch no more jobs: done")
    terminal.press("q")
    assert terminal.process.wait(10) == 0
    terminal.text()
    assert "\x1b[?1049l" in terminal.raw, "the terminal is as it was"


def test_a_redis_that_goes_away_leaves_the_last_picture(server: RedisServer, namespace: str, store: Scripts) -> None:
    own = RedisServer()
    terminal = Terminal(own.url, namespace)
    try:
        terminal.wait("0 waiting")
        own.close()
        terminal.wait("this is what was read last")
        terminal.press("q")
        assert terminal.process.wait(20) == 0
    finally:
        terminal.close()


def test_piped_it_is_one_picture(cli: Cli, store: Scripts) -> None:
    store.register("w", ttl=60)
    store.enqueue("a", queue="mail")
    text = cli("top").stdout
    assert "mail" in text and "NO INSTANCE" in text and "\x1b" not in text


def picture(queues: int = 3, jobs: int = 0) -> Picture:
    return Picture(
        at=datetime.now(UTC),
        overview=Overview(
            queues=tuple(
                QueueReport(
                    queue=f"queue-{n}", length=n, suspects=0, limited=0, oldest_s=float(n), enqueued_per_min=1.0, succeeded_per_min=2.0,
                    failed_per_min=0.0, paused=False, instances=0,
                )
                for n in range(queues)
            ),
            parked=(), paused_tasks=(), scheduled=0, dead=0, interrupted=(),
        ),
        instances=(), problems=(),
        active=tuple(ActiveJob(id=f"job-{n}", task="t", lease="w", age_s=1.0, buffered=False) for n in range(jobs)),
    )  # fmt: skip


def drawn(view: View, width: int, height: int, **what: int) -> list[str]:
    out = Console(width=width, height=height, force_terminal=True, color_system=None, legacy_windows=False)
    with out.capture() as found:
        out.print(render(view, picture(**what), width, height))
    return found.get().rstrip("\n").split("\n")


@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize(("width", "height"), [(20, 6), (40, 10), (80, 24), (200, 60)])
def test_it_never_leaves_the_screen(tab: str, width: int, height: int) -> None:
    lines = drawn(View(tab=tab, row=500), width, height, queues=900, jobs=400)
    assert len(lines) <= height and max(len(line.rstrip()) for line in lines) <= width


def test_the_chosen_row_is_on_the_screen() -> None:
    assert any("queue-500" in line for line in drawn(View(row=500), 80, 24, queues=900))


def test_nothing_is_done_without_a_yes_and_nothing_beyond_the_list() -> None:
    view, act = pressed(View(row=2), "p", picture())
    assert act is None and view.asks == Act("pause", "queue-2", False, "pause queue queue-2?")
    assert pressed(view, "x", picture()) == (View(row=2, said="nothing was done"), None)
    assert pressed(view, "y", picture())[1] == view.asks
    assert pressed(View(tab="jobs"), "c", picture())[1] is None, "there is none"
    assert pressed(View(), "down", picture(queues=1))[0].row == 0
    assert pressed(View(row=9), "p", picture())[0].asks == Act("pause", "queue-2", False, "pause queue queue-2?")
    assert pressed(View(tab="problems"), "tab", picture())[0].tab == "queues"
