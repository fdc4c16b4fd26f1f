"""The dashboard in a real browser: what it looks like, that it updates itself without disturbing, and what a person can do."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.conftest import PICTURES, Stage, Watched
from tests.harness import wait_for
from tracked_queue import TrackedQueue
from tracked_queue.chaos.server import RedisServer
from tracked_queue.dashboard import Role
from tracked_queue.dashboard.logins import hash_password, user_line

RULES = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("width", [1280, 320])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_each_page_is_accessible_and_fits(shared_stage: Stage, watched: Any, theme: str, width: int) -> None:
    looked: Watched = watched(color_scheme=theme, viewport={"width": width, "height": 900}, reduced_motion="reduce")
    found: list[str] = []
    folder = PICTURES / f"{theme}-{width}"
    folder.mkdir(parents=True, exist_ok=True)
    page = looked.open(f"{shared_stage.address}/")
    for name, path in shared_stage.pages().items():
        page.goto(shared_stage.address + path)
        page.screenshot(path=folder / f"{name}.png", full_page=True)
        for wrong in Axe().run(page, options=RULES).response["violations"]:
            found.append(
                f"{name}: {wrong['id']}: {wrong['nodes'][0]['html'][:150]} {wrong['nodes'][0].get('failureSummary', '')[:200]}"
            )
        wide = page.evaluate("document.documentElement.scrollWidth")
        if wide > width:
            found.append(f"{name}: {wide} px wide")
    if "not-found" in shared_stage.pages():
        looked.complaints[:] = [
            one for one in looked.complaints if "404" not in one
        ]  # the browser's own line for an answer that is meant
    assert not found, "\n".join(found)


def test_an_empty_namespace_and_200_percent(server: RedisServer, namespace: str, watched: Any) -> None:
    stage = Stage(server.url, namespace, filled=False)
    try:
        page = watched(viewport={"width": 640, "height": 450}, device_scale_factor=2).open(stage.address + "/")
        for path in (
            "/",
            "/queues",
            "/jobs",
            "/dead",
            "/lost",
            "/instances",
            "/schedules",
            "/limits",
            "/workflows",
            "/tasks",
            "/audit",
            "/doctor",
            "/bulk",
        ):
            page.goto(stage.address + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= 640, path
            assert not Axe().run(page, options=RULES).response["violations"], path
        page.goto(stage.address + "/")
        expect(page.locator(".promise")).to_contain_text("0 jobs without an owner")
        expect(page.get_by_text("No instance lives.")).to_be_visible()
    finally:
        stage.close()


def test_a_page_updates_itself(stage: Stage, watched: Any) -> None:
    page = watched().open(f"{stage.address}/queues")
    page.get_by_label("Refresh every").select_option("2")
    row = page.get_by_role("row", name=re.compile("payments"))
    ready = row.locator("td").first
    before = ready.inner_text()
    marked = page.evaluate("document.querySelector('h1').dataset.same = 'yes'")
    assert marked == "yes"

    async def more(app: TrackedQueue) -> None:
        for n in range(3):
            await app.options(queue="payments").enqueue("charge", n)

    stage.run(more)
    expect(ready).to_have_text(str(int(before) + 3), timeout=15_000)
    assert page.evaluate("document.querySelector('h1').dataset.same") == "yes", "the page was not loaded anew"
    expect(page.locator("#updated")).to_contain_text("Updated")


def test_what_is_in_use_is_left_alone(stage: Stage, watched: Any) -> None:
    """A focused button, a chosen box, an open part, selected text: the region around it stays, the others go on."""
    page = watched().open(f"{stage.address}/lost")
    page.get_by_label("Refresh every").select_option("2")
    box = page.get_by_role("checkbox").first
    box.check()
    page.locator("h1").click()
    stage.run(lambda app: app.operator.recover())
    expect(page.locator("[data-live=lost]")).to_contain_text("No job is without an owner", timeout=15_000)
    expect(box).to_be_checked()
    page.goto(f"{stage.address}/")
    page.locator("summary").first.click()
    stage.run(lambda app: app.operator.pause(queue="reports"))
    expect(page.locator("[data-live=problems]")).to_contain_text("Queue reports is paused", timeout=15_000)
    expect(page.locator("details").first).to_have_attribute("open", "")
    page.goto(f"{stage.address}/queues")
    page.get_by_role("button", name="Resume").focus()
    stage.run(lambda app: app.operator.pause(queue="slow"))
    page.wait_for_timeout(3_000)
    expect(page.get_by_role("button", name="Resume")).to_have_count(1)
    expect(page.get_by_role("button", name="Resume")).to_be_focused()
    page.locator("h1").click()
    expect(page.get_by_role("button", name="Resume")).to_have_count(2, timeout=15_000)


def test_a_hidden_page_does_not_ask(stage: Stage, watched: Any) -> None:
    page = watched().open(f"{stage.address}/queues")
    page.get_by_label("Refresh every").select_option("2")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true}); document.dispatchEvent(new Event('visibilitychange'))"
    )
    page.wait_for_timeout(500)
    asked.clear()
    page.wait_for_timeout(4_500)
    assert not asked
    page.evaluate(
        "Object.defineProperty(document, 'hidden', {value: false, configurable: true}); document.dispatchEvent(new Event('visibilitychange'))"
    )
    expect(page.locator("#updated")).to_contain_text("Updated")
    wait_for(lambda: page.wait_for_timeout(100) or asked, 10)
    page.get_by_label("Refresh every").select_option("0")
    page.wait_for_timeout(500)
    asked.clear()
    page.wait_for_timeout(3_000)
    assert not asked
    expect(page.locator("#updated")).to_contain_text("auto-refresh off")


@pytest.mark.timeout(180)
def test_ten_thousand_are_requeued_at_a_pace_and_stopped(server: RedisServer, namespace: str, watched: Any) -> None:
    stage = Stage(server.url, namespace, dead=10_000)
    try:
        page = watched().open(f"{stage.address}/dead?queue=doomed")
        page.get_by_role("link", name="Requeue…").click()
        expect(page.locator(".sentence")).to_contain_text("10,000")
        page.get_by_label("Jobs per second").fill("500")
        page.get_by_label("Type 10000 to confirm").fill("10000")
        page.get_by_role("button", name="Requeue 10,000").click()
        expect(page.locator("h1")).to_contain_text("Bulk action")
        page.get_by_label("Refresh every").select_option("2")
        expect(page.locator("[data-live=act] .sentence strong")).not_to_have_text("0", timeout=15_000)
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("[data-live=act]")).to_contain_text("stopped", timeout=15_000)
        done = int(page.locator("[data-live=act] .sentence strong").inner_text().replace(",", ""))
        assert 0 < done < 10_000
        assert stage.run(lambda app: app.operator.queues()).dead == 10_001 - done
        page.goto(f"{stage.address}/audit")
        expect(page.locator("[data-live=acts]")).to_contain_text("requeue")
        page.goto(f"{stage.address}/bulk/plan?action=requeue&state=dead&queue=doomed")
        number = page.get_by_role("button", name=re.compile("Requeue [0-9]")).inner_text().split()[1].replace(",", "")
        page.get_by_label(re.compile("Type")).fill(number)
        page.get_by_role("button", name=re.compile("Requeue [0-9]")).click()
        expect(page.locator("[data-live=act]")).to_contain_text("done", timeout=60_000)
        wait_for(lambda: stage.run(lambda app: app.operator.queues()).dead == 1, 60)
    finally:
        stage.close()


def test_a_dead_group_five_first(server: RedisServer, namespace: str, watched: Any) -> None:
    stage = Stage(server.url, namespace, dead=40)
    try:
        page = watched().open(f"{stage.address}/dead")
        page.get_by_role("row", name=re.compile("^40")).get_by_role("link").last.click()
        expect(page.locator("[data-live=group]")).to_contain_text("40 jobs")
        page.get_by_role("link", name="Try five first…").click()
        page.get_by_role("button", name="Requeue 5").click()
        expect(page.locator("[data-live=act]")).to_contain_text("5 of 5 done")
        assert stage.run(lambda app: app.operator.queues()).dead == 36
    finally:
        stage.close()


def test_orphans_one_by_one_and_all_at_once(stage: Stage, watched: Any) -> None:
    page = watched().open(f"{stage.address}/lost")
    page.get_by_role("button", name=f"Recover {stage.ids['lost']}").click()
    expect(page.locator(".told")).to_contain_text("1 job recovered")
    expect(page.locator(".promise")).to_contain_text("1 job of 1 lost instance")
    page.get_by_role("link", name="Discard all…").first.click()
    page.get_by_role("button", name="Discard 1").click()
    expect(page.locator("[data-live=act]")).to_contain_text("1 of 1 done")
    page.goto(f"{stage.address}/lost")
    expect(page.locator(".promise")).to_contain_text("No job is without an owner")
    assert str(stage.run(lambda app: app.job(stage.ids["lost too"]).status())) == "cancelled"
    assert str(stage.run(lambda app: app.job(stage.ids["lost"]).status())) == "queued"


def test_recover_now_takes_all(stage: Stage, watched: Any) -> None:
    page = watched().open(f"{stage.address}/lost")
    page.get_by_role("button", name="Recover all now").click()
    expect(page.locator(".told")).to_contain_text("2 jobs of lost instances recovered")
    expect(page.locator("[data-live=recoveries]")).to_contain_text("gone-1")


def test_by_keyboard_alone(stage: Stage, watched: Any) -> None:
    page = watched().open(f"{stage.address}/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("g")
    page.keyboard.press("q")
    expect(page.locator("h1")).to_have_text("Queues")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("g q Queues")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("/")
    page.keyboard.type("payments")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Search")
    link = page.get_by_role("link", name="payments", exact=True)
    for _ in range(60):
        if link.evaluate("one => one === document.activeElement"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("Queue payments")
    pause = page.get_by_role("button", name="Pause")
    for _ in range(80):
        if pause.evaluate("one => one === document.activeElement"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.locator(".told")).to_contain_text("Queue payments paused")


def test_without_javascript(stage: Stage, watched: Any) -> None:
    page = watched(java_script_enabled=False).open(f"{stage.address}/")
    expect(page.locator("#updated")).to_contain_text("Read at")
    page.get_by_role("link", name="Dead", exact=True).first.click()
    page.get_by_role("table").get_by_role("link").last.click()
    page.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Requeue").click()
    expect(page.locator(".told")).to_contain_text("1 job requeued")
    page.get_by_role("link", name="Schedules").click()
    page.get_by_role("row", name=re.compile("nightly")).get_by_role("button", name="Pause").click()
    expect(page.locator(".told")).to_contain_text("Schedule nightly paused")


def test_redis_goes_away_and_comes_back(namespace: str, watched: Any) -> None:
    server = RedisServer()
    stage = Stage(server.url, namespace)
    try:
        looked = watched()
        page = looked.open(f"{stage.address}/queues")
        page.get_by_label("Refresh every").select_option("2")
        second = looked.open(f"{stage.address}/tasks")
        server.kill()
        expect(page.locator("#updated")).to_contain_text("No answer", timeout=30_000)
        expect(page.locator("body")).to_have_class("stale")
        expect(page.get_by_role("row", name=re.compile("payments"))).to_be_visible()
        second.goto(f"{stage.address}/jobs?state=failed")
        expect(second.locator("h1")).to_have_text("Redis does not answer")
        server.start()
        expect(page.locator("#updated")).to_contain_text("Updated", timeout=60_000)
        expect(page.locator("body")).not_to_have_class("stale")
        expect(second.locator("h1")).to_contain_text("Jobs", timeout=60_000)
        looked.complaints[:] = [
            one for one in looked.complaints if "503" not in one
        ]  # the browser's own line for each answer
    finally:
        stage.close()
        server.close()


def test_a_login_on_plain_http_under_a_name(server: RedisServer, namespace: str, tmp_path: Path, watched: Any) -> None:
    """Browsers send no Sec-Fetch-Site there, but Origin; the cookie is kept, and a log out ends it."""
    users = tmp_path / "users"
    users.write_text(user_line("ada", Role.ADMIN, hash_password("correct horse")))
    stage = Stage(server.url, namespace, "--users", str(users))
    try:
        looked = watched()
        page = looked.open(stage.address.replace("127.0.0.1", "jobs.example") + "/dead")
        expect(page.locator("h1")).to_have_text("Log in")
        page.get_by_label("Name").fill("ada")
        page.get_by_label("Password").fill("correct horse")
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("h1")).to_have_text("Dead jobs")
        page.goto(page.url.replace("/dead", "/queues"))
        page.get_by_role("row", name=re.compile("payments")).get_by_role("button", name="Pause").click()
        expect(page.locator(".told")).to_contain_text("Queue payments paused")
        page.get_by_role("button", name="Log out").click()
        expect(page.locator("h1")).to_have_text("Log in")
    finally:
        stage.close()


def test_sigterm_ends_it_within_two_seconds_with_tabs_open(stage: Stage, watched: Any) -> None:
    looked = watched()
    pages = [looked.open(f"{stage.address}{path}") for path in ("/", "/queues", "/jobs", "/dead", "/lost", "/tasks")]
    for page in pages:
        page.get_by_label("Refresh every").select_option("2")
    pages[0].wait_for_timeout(2_500)
    began = time.monotonic()
    stage.process.send_signal(signal.SIGTERM)
    code = stage.process.wait(20)
    took = time.monotonic() - began
    looked.complaints[:] = [one for one in looked.complaints if "ERR_CONNECTION" not in one]
    assert code == 0 and took < 2.0, (code, took)
