"""
What a fork, a child process and an exit of a worker process may do; all code that starts or ends one follows these rules.

- A fork that a job makes never speaks for the worker. It has the signal handlers that the program had, but not ours, and none
  of the descriptors that are the worker's own. When the job's function comes back in it, or gives way to the event loop, it
  ends: the job goes on in the process that forked.
- A child process of ours leads a process group of its own. However it ends, its group ends with it.
- An exit is bounded: hooks of the program (`atexit`, a `multiprocessing` child that is waited for) get a moment, then the
  process ends without them, and says where they stood.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NoReturn

from .. import log
from . import signals
from .exits import FAILED_EXIT

# With the phases of a shutdown (shutdown.py) this stays within the 5 s that a supervisor waits beyond the grace.
EXIT_HOOKS_S = 2.0
# How often to look for processes of a dead worker that start others while they are being killed.
PASSES = 5

# The import path of a supervisor, for its children: a launcher may have changed it.
SYS_PATH = "_TRACKED_QUEUE_SYS_PATH"

_guarded: set[CodeType] = set()
_private: set[int] = set()
_watched = False
_forked = False


def guard(function: Callable[..., Any]) -> None:
    """Mark what calls a job's function: a fork that returns to it, or yields to the event loop in it, ends there."""
    _guarded.add(function.__code__)


def keep_from_forks(descriptor: int) -> None:
    """Keep a descriptor to this process alone: neither a fork nor a program that it starts gets it."""
    os.set_inheritable(descriptor, False)
    _private.add(descriptor)


def forget(descriptor: int) -> None:
    """A descriptor that is about to be closed; its number may be another file's next."""
    _private.discard(descriptor)


def watch_forks() -> None:
    """From now on a fork of this process keeps to the rules; called by whatever runs jobs, any number of times."""
    global _watched  # noqa: PLW0603  (hooks of a fork can't be taken back, so there is one for a process)
    if not _watched and hasattr(os, "register_at_fork"):
        os.register_at_fork(before=signals.hold, after_in_parent=signals.let_go, after_in_child=_in_fork)
    _watched = True


def is_fork() -> bool:
    """Whether this process is a fork that a job made."""
    return _forked


def end_fork(error: BaseException | None = None) -> NoReturn:
    """The job's function has come back in a fork: say so, and end without the hooks of the program that it is a copy of."""
    code = 0 if error is None else FAILED_EXIT
    with contextlib.suppress(BaseException):
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else FAILED_EXIT
        else:
            if error is not None:
                traceback.print_exception(error)
            kind = "" if error is None else type(error).__qualname__
            log.fork_ended(pid=os.getpid(), parent=os.getppid(), error=kind)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _in_fork() -> None:
    global _forked  # noqa: PLW0603  (of this process, which is a copy)
    signals.put_back()
    signals.let_go()
    with contextlib.suppress(OSError):
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in _private:
            os.dup2(nothing, descriptor, inheritable=False)
        os.close(nothing)
    caller = _caller_of_job()
    if caller is None:
        return
    _forked = True

    def ends(leaving: FrameType, event: str, _result: Any) -> None:
        # A coroutine that gives way to the event loop returns as well, for the profiler.
        if event == "return" and leaving.f_code is caller:
            sys.setprofile(None)
            end_fork()

    sys.setprofile(ends)


def _caller_of_job() -> CodeType | None:
    """The code that called the job's function in which a bare fork was made; None without a job, or if no fork comes back."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code not in _guarded:
        if frame.f_globals.get("__name__") == "multiprocessing.popen_fork":
            return None  # its child runs its target and ends, and would run it slower with a profiler
        frame = frame.f_back
    return None if frame is None else frame.f_code


# Starts


def child_environment() -> dict[str, str]:
    """This program's environment, and its import path for one that runs parts of the same program: see `take_path`."""
    return {**os.environ, SYS_PATH: json.dumps(sys.path)}


def take_path() -> None:
    """Use the import path of the program that started this one; a launcher may have changed this process's own."""
    path = os.environ.pop(SYS_PATH, None)
    if path is not None:
        sys.path[:] = json.loads(path)


def interpreter_options() -> list[str]:
    """
    What this interpreter was started with, as `-O`, `-I` or `-X utf8`, for one that runs parts of the same program.

    With -P, so that a file in the working folder that is called like a module of the standard library is not imported by the
    interpreter's own start; the program's path is passed on by `child_environment`.
    """
    given = list(subprocess._args_from_interpreter_flags())  # type: ignore[attr-defined]
    return given if "-P" in given or "-I" in given else [*given, "-P"]


# Ends


def end_group(pid: int) -> None:
    """End the process group that a child of ours leads, whether the child still runs or not."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def end_session(pid: int) -> None:
    """End everything that a worker process which led a session has left running: its jobs' children, in groups of their own."""
    end_group(pid)
    for _ in range(PASSES):
        left = [member for member in _session_of(pid) if member != os.getpid()]
        for member in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(member, signal.SIGKILL)
        if not left:
            return


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal or a debugger, so that nothing in it runs."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False


def first_to_go(pid: int) -> None:
    """Make this the process that the kernel kills first when memory runs out."""
    with contextlib.suppress(OSError):
        (Path("/proc") / str(pid) / "oom_score_adj").write_text("1000")


def _session_of(leader: int) -> list[int]:
    """The running processes of a session, as /proc lists them; without /proc, children of jobs notice their parent's end."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, _, _, session = path.read_text("utf-8", "replace").rpartition(")")[2].split()[:4]
            if int(session) == leader and state not in "ZX":
                found.append(int(path.parent.name))
    return found


def leave(code: int) -> NoReturn:
    """
    End this process, whose work is done: threads and jobs that can't be stopped don't keep it, and hooks only for a moment.
    """
    main = threading.get_ident()

    def give_up() -> None:
        frame = sys._current_frames().get(main)
        place = "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
        threading.Thread(target=log.exit_forced, kwargs={"seconds": EXIT_HOOKS_S, "place": place}, daemon=True).start()
        threading.Event().wait(0.2)  # a log that blocks must not keep the process either
        os._exit(code)

    limit = threading.Timer(EXIT_HOOKS_S, give_up)
    limit.daemon = True
    limit.start()
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
