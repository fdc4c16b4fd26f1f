"""What systemd hears of a supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import wait_until
from tracked_queue.worker import notify
from tracked_queue.worker.notify import Notifier


class Systemd:
    """The socket of a unit, and what it was told."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, watchdog_s: float | None = None) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        if watchdog_s is not None:
            monkeypatch.setenv("WATCHDOG_USEC", str(round(watchdog_s * 1e6)))
            monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        self.heard: list[str] = []

    def hear(self) -> list[str]:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.heard += self._socket.recv(4096).decode().split("\n")
        return self.heard

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    found = Systemd(tmp_path / "notify", monkeypatch, 0.06)
    yield found
    found.close()


async def test_it_is_ready_once_and_lives_while_its_loops_turn(systemd: Systemd) -> None:
    problems = {"started": "0 of 2 processes have started", "ready": "2 of 2 processes have no lease yet", "live": ""}
    notifier = Notifier(lambda: problems["started"], lambda: problems["ready"], lambda: problems["live"])
    assert notifier.is_wanted and "NOTIFY_SOCKET" not in os.environ and "WATCHDOG_USEC" not in os.environ
    telling = asyncio.ensure_future(notifier.run())
    await wait_until(lambda: systemd.hear().count("WATCHDOG=1") > 3)
    assert "READY=1" not in systemd.heard and "STATUS=2 of 2 processes have no lease yet" in systemd.heard
    problems.update(started="", ready="")
    await wait_until(lambda: "STATUS=works" in systemd.hear())
    assert systemd.heard.count("READY=1") == 1
    problems["live"] = "process 7: its event loop has not turned for 20 s"
    problems["ready"] = problems["live"]
    await wait_until(lambda: f"STATUS={problems['live']}" in systemd.hear())
    fed = systemd.heard.count("WATCHDOG=1")
    problems["ready"] = "again"
    await wait_until(lambda: "STATUS=again" in systemd.hear())
    assert systemd.heard.count("WATCHDOG=1") == fed, "a watchdog that is fed although nothing turns is none"
    notifier.tell("STOPPING=1")
    await wait_until(lambda: "STOPPING=1" in systemd.hear())
    telling.cancel()


async def test_without_systemd_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier(lambda: "", lambda: "", lambda: "")
    notifier.tell("READY=1")
    assert not notifier.is_wanted


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"), [("0", "", None), ("x", "", None), ("5000000", "1", None), ("5000000", "", 5.0)]
)
def test_when_the_watchdog_is_ours(monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, seconds: float | None) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert notify._watchdog_s() == seconds


def test_a_socket_that_is_gone_costs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    Notifier(lambda: "", lambda: "", lambda: "").tell("READY=1")


async def test_what_finds_no_room_is_told_again(systemd: Systemd) -> None:
    notifier = Notifier(lambda: "", lambda: "", lambda: "")
    while notifier.tell("X=1"):  # until systemd's queue is full
        pass
    telling = asyncio.ensure_future(notifier.run())
    await wait_until(lambda: "READY=1" in systemd.hear() and "STATUS=works" in systemd.heard)
    assert systemd.heard.count("READY=1") == 1
    telling.cancel()
