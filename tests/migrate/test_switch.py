"""
A Django project on Celery moves by the steps of one page (docs/how-to/django.md), while workers of both queues are killed: nothing
that was asked for is lost. The project is in celery_shop: beat, canvas, ETA jobs, retries.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import wait_for
from tests.migrate.test_bridge import python
from tracked_queue.chaos.server import RedisServer

pytestmark = pytest.mark.timeout(300)
PROJECT = Path(__file__).parent / "celery_shop"
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "django.md"
ORDERS = 20


class Release:
    """One release of the project: its code, and the Python that runs it."""

    def __init__(self, folder: Path, interpreter: str, url: str, database: Path) -> None:
        self.folder, self.interpreter = folder, interpreter
        base = {
            name: value for name, value in os.environ.items() if not name.startswith(("TRACKED_QUEUE_", "PROCESSING_"))
        }
        self.env = {**base, "REDIS_URL": url, "SHOP_DATABASE": str(database), "DJANGO_SETTINGS_MODULE": "shop.settings"}
        self.started: list[subprocess.Popen[bytes]] = []

    def manage(self, *arguments: str) -> str:
        done = subprocess.run(
            [self.interpreter, "manage.py", *arguments],
            cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [self.interpreter, *arguments],
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def facts(self) -> dict[str, int]:
        found: dict[str, int] = json.loads(self.manage("facts"))
        return found

    def wait(self, fits: Callable[[dict[str, int]], bool], what: str, seconds: float = 60) -> None:
        seen: dict[str, int] = {}

        def look() -> bool:
            seen.update(self.facts())
            return fits(seen)

        try:
            wait_for(look, seconds, what)
        except AssertionError as error:
            raise AssertionError(f"{error}: {seen}\n{(self.folder / 'log').read_text()[-6000:]}") from None


def kill(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGKILL) -> None:
    """The process and what it has started; with SIGTERM it alone, as its supervisor would."""
    if process.poll() is None:
        if number is signal.SIGKILL:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
    process.wait(40)


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    running = RedisServer()
    yield running
    running.close()


@pytest.fixture
def before(redis_server: RedisServer, tmp_path: Path) -> Iterator[Release]:
    folder = tmp_path / "before"
    shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("__pycache__"))
    release = Release(folder, python("celery"), redis_server.url, tmp_path / "db.sqlite3")
    yield release
    for process in release.started:
        kill(process)


@pytest.fixture
def after(before: Release, redis_server: RedisServer, tmp_path: Path) -> Iterator[Release]:
    folder = tmp_path / "after"
    shutil.copytree(before.folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    by_the_page(folder, redis_server.url)
    release = Release(folder, sys.executable, redis_server.url, tmp_path / "db.sqlite3")
    yield release
    for process in release.started:
        kill(process)


def by_the_page(folder: Path, url: str) -> None:
    """Steps 2 and 3 of the page: settings and imports; nothing else is touched."""
    page = PAGE.read_text().partition("### Move, with the tasks as they are")[2]
    tasks = re.search(r"```python\n(.+?)```", page, re.DOTALL)
    assert tasks and '"CELERY": True' in tasks[1]
    settings = (folder / "shop" / "settings.py").read_text()
    settings = re.sub(r"^CELERY_(?!BEAT_SCHEDULE).*\n", "", settings, flags=re.MULTILINE)
    settings = settings.replace('    "orders",\n', '    "orders",\n    "tracked_queue.django",\n')
    block = "\n".join(line[3:] for line in tasks[1].splitlines())
    (folder / "shop" / "settings.py").write_text(f"{settings}\n{block.replace('redis://localhost:6379/0', url)}\n")
    (folder / "shop" / "celery.py").unlink()
    (folder / "shop" / "__init__.py").write_text("")
    for file in (folder / "orders" / "tasks.py", folder / "orders" / "management" / "commands" / "place.py"):
        text = re.sub(
            r"^from celery import", "from tracked_queue.compat.celery import", file.read_text(), flags=re.MULTILINE
        )
        text = text.replace("from celery.utils.log import get_task_logger\n", "import logging\n")
        file.write_text(text.replace("get_task_logger(__name__)", "logging.getLogger(__name__)"))


def test_a_project_moves_while_workers_of_both_are_killed(before: Release, after: Release) -> None:
    before.manage("migrate")
    celery = "-m", "celery", "-A", "shop", "worker", "--concurrency", "2", "--without-gossip", "--without-mingle"
    first, second = (before.start(*celery, "-n", f"{name}@%h") for name in ("first", "second"))
    beat = before.start("-m", "celery", "-A", "shop", "beat")
    before.manage("place", str(ORDERS))
    before.wait(lambda facts: facts["receipts"] >= 2, "some receipts")
    kill(first)
    before.wait(lambda facts: facts["receipts"] > ORDERS // 2 and facts["pulses"] > 1, "Celery to work on")
    before.manage("place", str(ORDERS))

    # Steps 4 and 5: the new release beside the old one.
    after.manage("migrate")
    after.manage("check", "--deploy", "--fail-level", "ERROR")
    worker = (
        "manage.py",
        "tracked_queue",
        "worker",
        "--processes",
        "2",
        "--heartbeat-interval",
        "1",
        "--heartbeat-ttl",
        "4",
    )
    killed, _ = after.start(*worker), after.start(*worker)
    after.manage("place", str(ORDERS))
    kill(beat, signal.SIGTERM)
    after.wait(lambda facts: facts["receipts"] > ORDERS, "receipts of both")
    kill(killed)

    # Step 6: the old workers end, and what waits is moved, reminders that are due in an hour among it.
    kill(second, signal.SIGTERM)
    source = "migrate", "celery", "--from", after.env["REDIS_URL"], "--workers-stopped", "--json"
    plan = json.loads(after.manage("tracked_queue", *source, "--dry-run"))
    moved = json.loads(after.manage("tracked_queue", *source))
    assert {**plan, "dry_run": False} == moved and moved["moved"] >= 2 * ORDERS
    (reminders,) = [one for one in moved["tasks"] if one["task"] == "orders.tasks.remind"]
    assert (reminders["moved"], reminders["left"]) == (2 * ORDERS, {})
    if moved["left"]:  # parts of a canvas: a worker of the old release finishes them
        # What a killed worker held, Celery gives to another one only after an hour (visibility_timeout); here after seconds.
        before.env["SHOP_VISIBILITY"] = "5"
        third = before.start(*celery, "-n", "third@%h")
        after.wait(lambda facts: facts["reports"] == facts["announced"] == 3, "the canvas of the old release")
        kill(third, signal.SIGTERM)
        assert json.loads(after.manage("tracked_queue", *source))["left"] == 0
    after.wait(
        lambda facts: facts["receipts"] == 3 * ORDERS and facts["reports"] == facts["announced"] == 3, "all orders"
    )
    assert json.loads(after.manage("tracked_queue", *source))["moved"] == 0, "it may be called again"
    pulses = after.facts()["pulses"]
    after.wait(lambda facts: facts["pulses"] > pulses, "the schedule to go on without beat")

    # Step 7: nothing is dead; and what is due in an hour is there, and runs.
    assert json.loads(after.manage("tracked_queue", "dead", "list", "--json")) == []
    listing = after.manage("tracked_queue", "jobs", "--state", "scheduled", "--task", "orders.tasks.remind", "--json")
    waiting = [one["id"] for one in json.loads(listing)["rows"]]
    assert len(waiting) == 3 * ORDERS and after.facts()["reminded"] == 0
    after.manage("tracked_queue", "reschedule", *waiting, "--in", "0")
    after.wait(lambda facts: facts["reminded"] == 3 * ORDERS, "reminders")
