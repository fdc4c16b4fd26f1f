"""The private server behind embedded://: one per folder, shared, and gone with its last user (CASE-84)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import wait_for
from tracked_queue import SettingsError, TrackedQueue
from tracked_queue.app import connections_of
from tracked_queue.transport.embedded import answers, folder_of, socket_path, start_embedded

USER = """
import sys, time
from tracked_queue.transport.embedded import start_embedded
server = start_embedded(sys.argv[1])
print(server.url, flush=True)
time.sleep(60)
"""


@pytest.fixture
def users() -> Iterator[list[subprocess.Popen[str]]]:
    programs: list[subprocess.Popen[str]] = []
    yield programs
    for program in programs:
        if program.poll() is None:
            program.kill()
        program.wait()
        assert program.stdout is not None
        program.stdout.close()


def use(users: list[subprocess.Popen[str]], folder: Path) -> str:
    program = subprocess.Popen([sys.executable, "-c", USER, f"embedded://{folder}"], stdout=subprocess.PIPE, text=True)
    users.append(program)
    assert program.stdout is not None
    return program.stdout.readline().strip()


def server_pid(folder: Path) -> int:
    import redis

    with redis.Redis(unix_socket_path=str(socket_path(folder))) as client:
        return int(client.info()["process_id"])


def gone(folder: Path) -> bool:
    return not answers(socket_path(folder))


def test_two_programs_share_one_server_and_it_ends_with_the_last(
    tmp_path: Path, users: list[subprocess.Popen[str]]
) -> None:
    folder = tmp_path / "with a space"
    first = use(users, folder)
    pid = server_pid(folder)
    assert use(users, folder) == first and server_pid(folder) == pid
    users[0].terminate()
    users[0].wait()
    assert server_pid(folder) == pid, "never earlier"
    users[1].kill()
    users[1].wait()
    wait_for(lambda: gone(folder), what="the server to end with a user that was killed")


def test_jobs_survive_the_end_of_the_server(tmp_path: Path) -> None:
    url = f"embedded://{tmp_path / 'data'}"
    app = TrackedQueue(url)
    assert app.enqueue_sync("x", 1).created
    app.close()
    wait_for(lambda: gone(tmp_path / "data"), what="the server to end")
    again = TrackedQueue(url)
    connections_of(again).endpoint()
    import redis

    with redis.Redis(unix_socket_path=str(socket_path(tmp_path / "data"))) as client:
        assert client.llen("{tq}:queue:default") == 1
    again.close()
    wait_for(lambda: gone(tmp_path / "data"), what="the server to end")


def test_a_killed_server_leaves_a_stale_socket_that_is_recognised(
    tmp_path: Path, users: list[subprocess.Popen[str]]
) -> None:
    folder = tmp_path / "data"
    use(users, folder)
    os.kill(server_pid(folder), signal.SIGKILL)
    wait_for(lambda: gone(folder), what="the server to be gone")
    assert socket_path(folder).exists()
    use(users, folder)
    assert answers(socket_path(folder)) == "+PONG"


def test_a_long_path_moves_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the temporary folder is long itself."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("long" * 25)))
    folder = tmp_path / ("deep" * 20) / ("deeper" * 10)
    server = start_embedded(f"embedded://{folder}")
    try:
        assert len(str(socket_path(server.folder))) <= 100 and answers(socket_path(server.folder)) == "+PONG"
    finally:
        server.close()
    wait_for(lambda: gone(server.folder), what="the server to end")


def test_a_folder_that_can_not_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SettingsError, match="embedded folder") as found:
        start_embedded(f"embedded://{tmp_path / 'file'}")
    assert "\n" not in str(found.value)


def test_where_the_folder_is() -> None:
    assert folder_of("embedded://") == Path(".tracked_queue")
    assert folder_of("embedded://data/here") == Path("data/here")
    assert folder_of("embedded:///abs/with%20space") == Path("/abs/with space")
