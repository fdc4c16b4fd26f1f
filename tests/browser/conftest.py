"""A Redis with jobs in every state, the dashboard as a program of its own, and a browser."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.dashboard.conftest import Shop
from tests.dashboard.test_acts import _dead
from tracked_queue import TrackedQueue
from tracked_queue.chaos.server import RedisServer

ROOT = Path(__file__).parent.parent.parent
PICTURES = ROOT / ".artifacts" / "dashboard"


def chromium() -> str:
    """Where the browser is."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert found, "install a browser (Debian: apt-get install chromium), or name it in CHROMIUM"
    return found


def in_thread(work: Coroutine[Any, Any, Any]) -> Any:
    """Run it in a loop of its own: the browser's driver holds this thread's."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


class Stage:
    """One namespace of a server, and the dashboard of it."""

    def __init__(self, url: str, namespace: str, *options: str, filled: bool = True, dead: int = 0) -> None:
        self.url, self.namespace = url, namespace
        self.ids: dict[str, str] = {}
        if filled:
            in_thread(self._fill(dead))
        command = [
            sys.executable,
            "-m",
            "tracked_queue",
            "dashboard",
            "--redis-url",
            url,
            "--namespace",
            namespace,
            "--port",
            "0",
            *options,
        ]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert " at http" in line, line
        self.address = line.split(" at ")[1].strip().rstrip("/")

    async def _fill(self, dead: int) -> None:
        async with TrackedQueue(self.url, namespace=self.namespace) as app:
            shop = await Shop(app).open()
            await app.operator.resume(queue="payments")
            group = await app.group([shop.charge.call(n) for n in range(4)], then=shop.total.step())
            self.ids = {**shop.ids, "group": group.then.id}
            from tests.dashboard.test_pages import t_schedule
            from tracked_queue.app import connections_of

            rules = [
                ("nightly", "report", "reports", "0 3 * * * Europe/Berlin"),
                ("often", "report", "reports", "every 15 s"),
            ]
            await connections_of(app).store.run(t_schedule(rules))
            if dead:
                await _dead(app, shop, dead)

    def run(self, work: Any) -> Any:
        """Do something with the app, in a loop of its own."""

        async def opened() -> Any:
            async with TrackedQueue(self.url, namespace=self.namespace) as app:
                return await work(app)

        return in_thread(opened())

    def pages(self) -> dict[str, str]:
        """A path for each page that there is."""
        (group, *_) = self.run(lambda app: app.operator.dead_groups())
        return {
            "home": "/", "queues": "/queues", "queue": "/queue?name=payments", "jobs": "/jobs?queue=payments", "jobs-active": "/jobs?state=active",
            "jobs-scheduled": "/jobs?state=scheduled", "job-dead": f"/job?id={self.ids['dead']}", "job-lost": f"/job?id={self.ids['lost']}", "job-queued": f"/job?id={self.ids['queued']}",
            "dead": "/dead", "dead-group": f"/dead?group={group.key}", "lost": "/lost", "instances": "/instances", "instance": "/instance?lease=pod-1.a",
            "schedules": "/schedules", "limits": "/limits", "limit": f"/limit?name={quote('n6:narrow')}", "workflows": "/workflows",
            "workflow": f"/workflow?id={self.ids['group']}", "tasks": "/tasks", "task": "/task?name=charge", "audit": "/audit", "doctor": "/doctor",
            "search": "/search?q=pay", "acts": "/bulk", "plan": "/bulk/plan?action=purge&state=dead", "not-found": "/job?id=nothing",
        }  # fmt: skip

    def close(self) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
        if self.process.stderr is not None:
            self.process.stderr.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--host-resolver-rules=MAP jobs.example 127.0.0.1"]
        )
        yield started
        started.close()


class Watched:
    """A context whose pages report what a browser complains about."""

    def __init__(self, context: BrowserContext) -> None:
        self.context, self.complaints = context, list[str]()
        context.expose_function("reportPolicy", lambda said: self.complaints.append(said))
        context.add_init_script(
            "document.addEventListener('securitypolicyviolation', e => reportPolicy(`CSP ${e.violatedDirective} ${e.blockedURI}`))"
        )

    def open(self, url: str) -> Page:
        page = self.context.new_page()
        page.on(
            "console",
            lambda message: (
                self.complaints.append(f"{message.type}: {message.text}")
                if message.type in ("error", "warning")
                else None
            ),
        )
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(url)
        return page


@pytest.fixture
def watched(browser: Browser) -> Iterator[Any]:
    made: list[Watched] = []

    def make(**options: Any) -> Watched:
        made.append(Watched(browser.new_context(**options)))
        return made[-1]

    yield make
    for one in made:
        one.context.close()
        assert not one.complaints, one.complaints


@pytest.fixture(scope="session")
def shared_stage() -> Iterator[Stage]:
    """Of those tests that only look."""
    server = RedisServer()
    stage = Stage(server.url, "looked-at")
    yield stage
    stage.close()
    server.close()


@pytest.fixture
def stage(server: RedisServer, namespace: str) -> Iterator[Stage]:
    made = Stage(server.url, namespace)
    yield made
    made.close()
