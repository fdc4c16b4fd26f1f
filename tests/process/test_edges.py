"""What surrounds a worker: sub-tasks that exit, folders that are gone, streams that are closed, terminals, launchers, hang-ups."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.harness import wait_for, wait_until
from tests.process.worker import Notes, Worker, environment
from tracked_queue import JobFailedError, State, TrackedQueue
from tracked_queue.chaos.server import RedisServer

APP = "tests.process.edge_jobs:app"
Start = Callable[..., Worker]
pytestmark = pytest.mark.timeout(90)


@pytest.mark.parametrize("how", ["task", "group", "gather", "callback"])
async def test_a_sub_task_that_exits_is_its_jobs_affair(start: Start, queue: TrackedQueue, how: str) -> None:
    """asyncio let SystemExit out of the loop: the process died, neighbours were charged, the outcome was never recorded."""
    worker = start(app=APP)
    worker.ready()
    (child,) = worker.children()
    neighbour = await queue.enqueue("beside")
    job = await queue.enqueue("exits", how)
    if how == "callback":
        assert await job.result(20) == "went on"
    else:
        with pytest.raises(JobFailedError, match="boom|SystemExit"):
            await job.result(20)
    assert await neighbour.result(20) == child, "the same process"
    assert worker.events("exit.ignored") and not worker.events("process.died")


async def test_an_isolated_job_leaves_nothing_for_the_next_one(start: Start, queue: TrackedQueue) -> None:
    start(app=APP, TRACKED_QUEUE_ISOLATED_PROCESSES="1").ready()
    pid = await (await queue.enqueue("changes")).result(20)
    assert (await (await queue.enqueue("looks")).result(20))[:3] == [pid, "", False]


@pytest.mark.parametrize("how", ["ignores", "replaces", "blocks"])
async def test_a_deploy_past_a_job_that_does_not_hear_of_it_blames_nobody(
    start: Start, queue: TrackedQueue, how: str
) -> None:
    """The supervisor's own kill was counted as a loss: after a few deploys healthy neighbours were dead."""
    beside = await queue.options(timeout=600).enqueue("beside_it", 300.0)
    for deploy in range(1, 4):
        worker = start("--grace", "0.3", "--cancel-grace", "0.2", app=APP)
        worker.ready()
        await wait_until(lambda: _active(beside), 20, "it to run")
        deaf = await queue.options(max_attempts=1).enqueue("deaf", how)
        await wait_until(partial(_active if how == "blocks" else _ended, deaf), 20, "the deaf one")
        worker.signal(signal.SIGTERM)
        worker.wait(30)
        assert bool(worker.events("process.killed")) == (how == "blocks"), "the others hear it over the pipe"
        if how == "blocks":
            await deaf.cancel()
            worker = start("--grace", "0.3", app=APP)
            worker.ready()
            worker.signal(signal.SIGTERM)
            worker.wait(30)
        info = await beside.info()
        assert info.recoveries == info.charges == 0, (deploy, info)
        assert info.interruptions >= deploy


async def _active(job: Any) -> bool:
    return (await job.info()).state is State.ACTIVE


async def _ended(job: Any) -> bool:
    return (await job.info()).state.ended


def test_the_first_process_of_a_container_hears_a_signal_while_it_is_imported(
    server: RedisServer, namespace: str
) -> None:
    """Without a handler the kernel gives it none, and it was lost."""
    program = "import os, sys; os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"
    child = (
        "import os, signal, sys; os.getpid = lambda: 1; sys.orig_argv = ['python', '-m', 'tracked_queue', 'worker']; "
        "import tracked_queue; print(signal.getsignal(signal.SIGTERM).__module__)"
    )
    done = subprocess.run([sys.executable, "-c", program, child], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "tracked_queue.worker.first_process"
    other = child.replace("'-m', 'tracked_queue', 'worker'", "'-m', 'shop'").replace(
        ".__module__", " is signal.SIG_DFL"
    )
    done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True", "another program's signals are its own"


async def test_sighup_stops_with_grace(start: Start, queue: TrackedQueue, notes: Notes) -> None:
    """A terminal that is gone killed the supervisor at once, without a word."""
    was = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and the worker goes by that
    worker = start()
    signal.signal(signal.SIGHUP, was)
    worker.ready()
    job = await queue.enqueue("sleep", 1.0)
    notes.wait("start", 1)
    worker.signal(signal.SIGHUP)
    assert worker.wait() == 0 and (await job.info()).state is State.SUCCEEDED


def shop(folder: Path) -> None:
    (folder / "shop.py").write_text(
        "import sys\nfrom tracked_queue import TrackedQueue\napp = TrackedQueue()\n"
        "@app.task(name='t')\nasync def t() -> str:\n    return repr((__debug__, sys.flags.utf8_mode))\n"
    )


def burst(url: str, namespace: str, folder: Path, *command: str, **more: Any) -> subprocess.CompletedProcess[str]:
    env = environment(url, namespace, **more.pop("env", {}))
    return subprocess.run(
        [sys.executable, *command], env=env, cwd=folder, capture_output=True, text=True, timeout=60, check=False, **more
    )


async def test_children_have_the_launchers_path_and_flags(
    server: RedisServer, namespace: str, queue: TrackedQueue, tmp_path: Path
) -> None:
    """A launcher that changes sys.path, flags of the interpreter, and a file that is called like one of the standard library."""
    code, elsewhere = tmp_path / "code", tmp_path / "elsewhere"
    code.mkdir()
    elsewhere.mkdir()
    shop(code)
    (elsewhere / "queue.py").write_text("raise RuntimeError('this is not the standard library')\n")
    launcher = f"import sys; sys.path.insert(0, {str(code)!r}); from tracked_queue.cli import main; main()"
    job = await queue.enqueue("t")
    done = burst(
        server.url, namespace, elsewhere, "-O", "-P", "-X", "utf8", "-c", launcher, "worker", "shop:app", "--burst"
    )
    assert done.returncode == 0, done.stderr
    assert await job.result(1) == repr((False, 1))


def test_nowhere_to_write_is_no_reason_to_stop(server: RedisServer, namespace: str, tmp_path: Path) -> None:
    """With a read-only file system the worker died of its sign of life, again and again."""
    shop(tmp_path)
    none = (
        "import tempfile\ndef refused():\n    raise FileNotFoundError('no usable temporary directory')\n"
        "tempfile.gettempdir = refused\n"
    )
    (tmp_path / "sitecustomize.py").write_text(none)
    done = burst(
        server.url, namespace, tmp_path, "-m", "tracked_queue", "worker", "shop:app", "--burst",
        env={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0 and "liveness.unknown" in done.stderr, done.stderr


def test_a_working_folder_that_is_gone(server: RedisServer, namespace: str, tmp_path: Path) -> None:
    code, gone = tmp_path / "code", tmp_path / "gone"
    code.mkdir()
    gone.mkdir()
    shop(code)
    command = 'rm -rf "$PWD"; exec "$0" -P -m tracked_queue worker shop:app --burst'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable], cwd=gone, env=environment(server.url, namespace, PYTHONPATH=str(code)),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and not gone.exists(), done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
async def test_closed_streams_cost_nothing(
    server: RedisServer, namespace: str, queue: TrackedQueue, closed: str, tmp_path: Path
) -> None:
    """A socket took the number of standard error, and what libraries write there went to Redis as commands."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "-", sys.executable, "-m", "tracked_queue", "enqueue", "t", "--id", "x1"],
        env=environment(server.url, namespace), timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0 and (await queue.job("x1").info()).task == "t"
    code = "import os, sys\nfrom tracked_queue import TrackedQueue\napp = TrackedQueue()\napp.enqueue_sync('t')\n"
    code += (
        "for number in range(3):\n    assert os.fstat(number).st_rdev == os.stat(os.devnull).st_rdev or number > 0\n"
    )
    code += "os.write(2, b'*1\\r\\n$8\\r\\nFLUSHALL\\r\\n')\napp.enqueue_sync('t')\n"
    ran = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "-", sys.executable, "-c", code],
        env=environment(server.url, namespace), stderr=subprocess.DEVNULL, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 0 and (await queue.job("x1").info()).task == "t", "nothing was flushed"


async def test_a_terminal_that_is_not_utf8(
    server: RedisServer, namespace: str, queue: TrackedQueue, tmp_path: Path
) -> None:
    await queue.options(id="häß→").enqueue("t")
    env = environment(server.url, namespace, PYTHONIOENCODING="ascii")
    for command in (["job", "häß→"], ["queues"], ["enqueue", "t", "--id", "→"]):
        done = subprocess.run(
            [sys.executable, "-m", "tracked_queue", *command],
            env=env,
            capture_output=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("missing", ["BZPOPMIN", "EVALSHA", "INFO"])
def test_a_server_without_a_command_is_named(missing: str, namespace: str, tmp_path: Path) -> None:
    """Renamed away: it was "our bug", asked again twenty thousand times a second, or called well by `doctor`."""
    server = RedisServer("--rename-command", missing, "")
    shop(tmp_path)
    try:
        worker = Worker(server.url, namespace, tmp_path, app="shop:app", PYTHONPATH=str(tmp_path))
        if missing == "INFO":
            worker.ready()
            worker.signal(signal.SIGTERM)
            assert worker.wait() == 0
        else:
            wait_for(lambda: b"lacks a command" in worker.log.read_bytes(), 20, "the refusal")
            worker.close()
        told = burst(server.url, namespace, tmp_path, "-m", "tracked_queue", "doctor")
        assert missing in told.stdout and "Traceback" not in told.stderr, told.stdout + told.stderr
    finally:
        server.close()


def test_tasks_are_picked_up_again_by_their_module_and_asked_what_they_are() -> None:
    import asyncio
    import copy
    import inspect
    import pickle

    from tests.process.edge_jobs import beside, looks

    for task in (beside, looks):
        assert pickle.loads(pickle.dumps(task)) is task and copy.deepcopy({"task": task})["task"] is task
    assert inspect.iscoroutinefunction(beside) or asyncio.iscoroutinefunction(beside)
    assert not inspect.iscoroutinefunction(looks)


def test_attributes_of_a_function_replace_none_of_a_task() -> None:
    async def function() -> None: ...

    function.name = "evil"  # type: ignore[attr-defined]
    function._app = function.task_options = None  # type: ignore[attr-defined]
    app = TrackedQueue()
    task = app.task(name="good")(function)
    assert task.name == "good" and task.app is app and task.task_options.queue == "default"
