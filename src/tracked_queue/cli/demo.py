"""
The demo: real files, real worker processes, one of them killed midway; and a ledger that adds up.

Everything lives in a temporary folder with an embedded Redis, and is gone at the end, on Ctrl-C too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..app import TrackedQueue
from ..errors import UsageError
from ..model.job import Job
from ..model.record import JobInfo
from ..protocol.states import State
from ..transport.embedded import start_embedded
from .common import clean, console
from .demo_tasks import LEDGER_VARIABLE, digest, digest_file
from .demo_tasks import app as demo_app

T = TypeVar("T")

PROCESSES = 2
KILL_AT = 0.4
# The whole run gives up after this long without progress.
PATIENCE_S = 60.0
READ_AT_ONCE = 100
# How long the embedded server may take to end.
GONE_S = 10.0


@dataclass
class _Story:
    """What happened, for the ledger at the end."""

    killed_pid: int = 0
    killed_with: int = 0
    recovered_after_s: float = 0.0


class Interrupts:
    """
    Ctrl-C and similar signals. They are held back while a process is started that must also be ended, and they cancel
    what runs in an event loop: raised in the middle of the loop, they could hit a connection that is reading a reply,
    and leave its caller waiting for ever.
    """

    def __init__(self) -> None:
        self._held = self._came = False
        self._cancel: Callable[[], object] | None = None

    def on_signal(self, *_: Any) -> None:
        """A signal's handler."""
        self._came = True
        if self._cancel is not None:
            self._cancel()
        elif not self._held:
            raise KeyboardInterrupt

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The work in an event loop of its own. Raises KeyboardInterrupt when a signal came, after the loop is closed."""

        async def cancellable() -> T:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            assert task is not None
            self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
            if self._came:
                self._cancel()
            try:
                return await work
            finally:
                self._cancel = None

        self.hold()
        try:
            return asyncio.run(cancellable())
        finally:
            self.release()

    def hold(self) -> None:
        """From now on a signal only counts as having come."""
        self._held = True

    def release(self) -> None:
        """Undo `hold`. Raises KeyboardInterrupt when a signal came meanwhile."""
        self._held = False
        if self._came:
            raise KeyboardInterrupt


_interrupts = Interrupts()


def run_demo(folder: Path | None, limit: int | None) -> int:
    """The whole demo; 0 when every digest agrees and nothing is lost, 130 when it was interrupted."""
    # SIGTERM and a closed terminal end it as Ctrl-C does: with everything cleaned up.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupts.on_signal)
    try:
        return _run_demo(folder, limit)
    except KeyboardInterrupt:
        print("interrupted; the worker, the server and the temporary folder are gone")
        return 130


def _run_demo(folder: Path | None, limit: int | None) -> int:
    root = (folder or Path(sysconfig.get_path("stdlib"))).expanduser().resolve()
    if not root.is_dir():
        raise UsageError(f"{folder}: it is not a folder")
    files = list_files(root, skip=() if folder else ("site-packages", "dist-packages"))[:limit]
    if not files:
        raise UsageError(f"{root}: there are no readable files below it")
    out = console()
    out.print(
        f"{len(files)} files below {clean(str(root))}; one job each, {PROCESSES} worker processes, embedded Redis"
    )
    with embedded_stage("demo") as (place, url):
        demo_app.configure(redis_url=url)
        ledger = place / "runs"
        with _worker(url, ledger, place / "worker.log") as worker:
            jobs, infos, story = _interrupts.run(_run(files, worker, place / "worker.log", out))
        return _settle_up(files, jobs, infos, ledger, _recovered_ids(place / "worker.log"), story, out)


@contextlib.contextmanager
def embedded_stage(name: str) -> Iterator[tuple[Path, str]]:
    """A temporary folder, and the URL of an embedded Redis in it; both are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=f"tracked_queue-{name}-"))
    try:
        server = start_embedded(f"embedded://{folder / 'redis'}")
        try:
            yield folder, server.url
        finally:
            server.close()
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """The embedded server ends within a moment after its last user, and may write into the folder until then."""
    deadline = time.monotonic() + GONE_S
    while (folder / "redis" / "redis.sock").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def list_files(root: Path, skip: Sequence[str] = ()) -> list[str]:
    """Every regular, readable file below a folder, sorted; links and folders of these names are not followed."""
    found = []
    for base, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in skip)
        for name in sorted(names):
            path = os.path.join(base, name)
            with contextlib.suppress(OSError):
                if stat.S_ISREG(os.lstat(path).st_mode) and os.access(path, os.R_OK) and _plain(path):
                    found.append(path)
    return found


def _plain(path: str) -> bool:
    """Whether the name is text; one that is not can't be an argument of a job."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def _worker(url: str, ledger: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable, "-m", "tracked_queue", "worker", f"{__package__}.demo_tasks:app",
        "--processes", str(PROCESSES), "--concurrency", "20", "--grace", "2", "--log-format", "json",
    ]  # fmt: skip
    environment = {**os.environ, "REDIS_URL": url, LEDGER_VARIABLE: str(ledger)}
    environment.pop("TRACKED_QUEUE_REDIS_URL", None)
    with log.open("wb") as file:
        # In a session of its own: Ctrl-C reaches only this program, which then ends the worker in order.
        _interrupts.hold()
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
        try:
            _interrupts.release()
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


async def _run(
    files: Sequence[str], worker: subprocess.Popen[bytes], log: Path, out: Console
) -> tuple[list[Job[Any]], list[JobInfo | None], _Story]:
    story = _Story()
    async with demo_app as app:
        jobs = await app.enqueue_many([digest.call(path) for path in files])
        with _progress(out) as progress:
            bar = progress.add_task("hashing", total=len(files))
            await _watch(app, len(files), worker, log, story, lambda done, text: _show(progress, bar, done, text))
        return jobs, await _read_all(jobs), story


def _progress(out: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=out,
        transient=False,
        disable=not out.is_terminal,
    )


def _show(progress: Progress, bar: Any, done: int, text: str | None) -> None:
    progress.update(bar, completed=done)
    if text:
        progress.console.print(text) if not progress.disable else print(text, flush=True)


async def _watch(
    app: TrackedQueue, total: int, worker: subprocess.Popen[bytes], log: Path, story: _Story, show: Any
) -> None:
    """Wait until all is done; kill a worker process on the way, and mark the kill and the recovery."""
    moved_at, last, killed_at, victim = time.monotonic(), -1, 0.0, ""
    while True:
        overview, instances = await app.operator.queues(), await app.operator.instances()
        waiting = sum(item.length for item in overview.queues)
        owned = sum(item.owned for item in instances)
        done = total - waiting - owned - overview.scheduled
        show(done, None)
        if done != last:
            moved_at, last = time.monotonic(), done
        if not story.killed_pid and done >= total * KILL_AT:
            holder = max(instances, key=lambda item: item.owned if item.alive else -1, default=None)
            if holder is not None and holder.owned:
                os.kill(holder.pid, signal.SIGKILL)
                story.killed_pid, story.killed_with, victim = holder.pid, holder.owned, holder.lease
                killed_at = time.monotonic()
                show(done, f"-- kill -9 of worker process {holder.pid}, which owned {holder.owned} jobs")
        if victim and victim not in {item.lease for item in instances}:
            story.recovered_after_s = time.monotonic() - killed_at
            show(done, f"-- its jobs are back in the queue {story.recovered_after_s:.2f} s after the kill")
            victim = ""
        if done >= total and not victim:
            show(total, None)
            return
        if worker.poll() is not None or time.monotonic() - moved_at > PATIENCE_S:
            tail = log.read_text("utf-8", "replace").strip().splitlines()[-3:]
            show(done, "no progress any more; the worker's last lines:\n" + "\n".join(clean(line) for line in tail))
            return
        await asyncio.sleep(0.02)


async def _read_all(jobs: Sequence[Job[Any]]) -> list[JobInfo | None]:
    infos: list[JobInfo | None] = []
    for at in range(0, len(jobs), READ_AT_ONCE):
        found = await asyncio.gather(*(job.info() for job in jobs[at : at + READ_AT_ONCE]), return_exceptions=True)
        infos += [info if isinstance(info, JobInfo) else None for info in found]
    return infos


def _settle_up(
    files: Sequence[str],
    jobs: Sequence[Job[Any]],
    infos: Sequence[JobInfo | None],
    ledger: Path,
    recovered: set[str],
    story: _Story,
    out: Console,
) -> int:
    runs = Counter(ledger.read_bytes().split(b"\0")[:-1]) if ledger.exists() else Counter()
    succeeded = [info for info in infos if info is not None and info.state is State.SUCCEEDED]
    more_than_once = sum(1 for count in runs.values() if count > 1)
    lost = [job.id for job, info in zip(jobs, infos, strict=True) if info is None or info.state is not State.SUCCEEDED]
    different = [
        path
        for path, info in zip(files, infos, strict=True)
        if info is not None and info.state is State.SUCCEEDED and not _agrees(path, info)
    ]
    table = Table(show_header=False, title="Ledger", title_justify="left")
    for name, value in (
        ("files", len(files)),
        ("succeeded", len(succeeded)),
        ("recovered", len(recovered)),
        ("run more than once", more_than_once),
        ("lost", len(lost)),
        ("digests that differ", len(different)),
    ):
        table.add_row(name, str(value))
        if not out.is_terminal:
            print(f"{name:<20} {value}")
    if out.is_terminal:
        out.print(table)
    for path in different[:10]:
        print(f"differs (or changed meanwhile): {clean(path)}")
    if not story.killed_pid:
        print("no worker owned a job at the moment of the kill; run it with more files")
    well = not lost and not different
    print("every digest agrees with one computed directly; nothing was lost" if well else "NOT WELL: see above")
    return 0 if well else 1


def _recovered_ids(log: Path) -> set[str]:
    """The jobs that the worker's log says were moved back from a lost instance."""
    events = (msgspec.json.decode(line) for line in log.read_bytes().splitlines() if line.startswith(b"{"))
    return {event["job_id"] for event in events if event.get("event") == "job.recovered"}


def _agrees(path: str, info: JobInfo) -> bool:
    try:
        direct = digest_file(path)
    except OSError:
        return False
    return bool(info.result == direct)
