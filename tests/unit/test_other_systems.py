"""Producing works where there is no Unix: nothing is imported that is not there, and signals and process groups are guarded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tracked_queue.chaos.server import RedisServer

# What Windows doesn't have is hidden before anything of ours is imported; /proc can't be read.
HIDE = """
import asyncio, builtins, os, pathlib, signal, sys
for name in ("fcntl", "resource", "pwd", "grp", "termios", "uvloop"):
    sys.modules[name] = None
for name in ("SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGQUIT", "pthread_sigmask", "setitimer", "ITIMER_REAL"):
    if hasattr(signal, name):
        delattr(signal, name)
for name in ("killpg", "setsid", "setpgid", "getuid", "register_at_fork", "waitid", "fork", "getpgid", "WNOWAIT"):
    if hasattr(os, name):
        delattr(os, name)
def refused(*_):
    raise NotImplementedError
asyncio.BaseEventLoop.add_signal_handler = asyncio.SelectorEventLoop.add_signal_handler = refused
real_open = builtins.open
def opened(path, *args, **kwargs):
    if str(path).startswith("/proc"):
        raise FileNotFoundError(path)
    return real_open(path, *args, **kwargs)
builtins.open = opened
"""
PRODUCE = """
from tracked_queue import TrackedQueue

app = TrackedQueue(sys.argv[1], namespace=sys.argv[2])

@app.task(name="t")
async def t(n: int) -> int:
    return n

async def main():
    async with app:
        job = await t.enqueue(1)
        (other,) = await app.enqueue_many([t.call(2)])
        try:
            await job.result(0.2)
        except TimeoutError:
            pass
        print((await job.status()).value, await other.cancel())

asyncio.run(main())
print(t.enqueue_sync(3).created)
"""
WORKER = """
from tracked_queue.cli import main
sys.platform = "win32"
sys.argv = ["tracked_queue", "worker", "shop:app"]
main()
"""


def run(code: str, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HIDE + code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=folder,
    )


def test_producing_needs_nothing_of_unix(server: RedisServer, namespace: str) -> None:
    done = run(PRODUCE, server.url, namespace)
    assert done.stdout.split() == ["queued", "True", "True"], done.stderr


def test_the_worker_says_in_one_line_what_to_do(tmp_path: Path) -> None:
    done = run(WORKER, folder=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "WSL" in done.stderr, done.stderr


@pytest.mark.parametrize("url", ["embedded://", "embedded://data"])
def test_the_embedded_server_says_what_to_use(url: str, tmp_path: Path) -> None:
    done = run(
        "from tracked_queue import TrackedQueue\nTrackedQueue(sys.argv[1]).enqueue_sync('t')", url, folder=tmp_path
    )
    assert "embedded:// needs a Unix system" in done.stderr, done.stderr
