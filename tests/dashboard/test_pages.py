"""Every page, as HTML and as JSON: what it shows, what it says of itself, and how many commands it costs."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

import jsonschema  # type: ignore[import-untyped]
import pytest
from benchmarks.bench_readers import Counting

from tests.dashboard.conftest import Client, Shop
from tracked_queue import TrackedQueue
from tracked_queue.app import connections_of
from tracked_queue.dashboard.pages import PAGES
from tracked_queue.model.plain import plain


def paths_of(shop: Shop, group: str = "") -> dict[str, str]:
    """A path for each page."""
    found = {
        "/queue": "/queue?name=payments",
        "/task": "/task?name=charge",
        "/job": f"/job?id={shop.ids['dead']}",
        "/instance": "/instance?lease=pod-1.a",
        "/limit": f"/limit?name={quote('n6:narrow')}",
        "/workflow": f"/workflow?id={shop.ids['waiting']}",
        "/bulk/plan": "/bulk/plan?action=purge&state=dead",
        "/confirm": f"/confirm?action=purge&ids={shop.ids['dead']}",
        "/dead": f"/dead?group={group}" if group else "/dead",
    }
    return {path: found.get(path, path) for path in PAGES if path != "/bulk/act"}


async def test_every_page_shows_its_content_and_the_same_as_json(shop: Shop, web: Client) -> None:
    client = web()
    document = (await client.get("/api/openapi.json")).json()
    jsonschema.Draft202012Validator.check_schema(document["components"]["schemas"])
    for page, path in paths_of(shop).items():
        answer = await client.get(path)
        assert answer.status_code == 200, (path, answer.text)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert len(re.findall(r"<h1", answer.text)) == 1, path
        told = await client.get(f"/api{path}")
        assert told.status_code == 200, (path, told.text)
        assert told.headers["content-type"] == "application/json"
        described = document["paths"][f"/api{page}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.Draft202012Validator({**described, "components": document["components"]}).validate(told.json())


async def test_a_namespace_without_anything_has_every_page(app: TrackedQueue, web: Client) -> None:
    client = web()
    for path in PAGES:
        answer = await client.get(path)
        expected = 400 if any(one.needed for one in PAGES[path].params) else 200
        assert answer.status_code == expected, (path, answer.text)


async def test_what_is_wrong_stands_on_the_first_page(shop: Shop, web: Client) -> None:
    found = (await web().get("/api/")).json()
    assert found["promise"] == {
        "kept": False,
        "unowned": 2,
        "last": None,
        "sentence": "2 jobs without an owner, held by 1 lost instance. No recent recoveries.",
    }
    assert found["totals"]["dead"] == 1 and found["totals"]["lost"] == 1
    page = (await web().get("/")).text
    assert "2 jobs without an owner" in page and "Queue payments is paused" in page


async def test_a_job_is_explained_and_its_secrets_are_masked(shop: Shop, web: Client) -> None:
    found = (await web().get(f"/api/job?id={shop.ids['dead']}")).json()
    assert found["explanation"]["code"] == "dead.attempts"
    assert found["job"]["kwargs"] == {"password": "***"} and found["job"]["args"] == [-7]
    assert [one["what"] for one in found["timeline"]] == ["enqueued", "run 1 started", "run 1 dead"]
    assert found["actions"] == ["requeue", "purge"]
    page = (await web().get(f"/job?id={shop.ids['dead']}")).text
    assert "hunter2" not in page and "refused by &#39;bank -7&#39;" in page


async def test_dead_jobs_of_the_same_error_are_one_group(shop: Shop, web: Client, app: TrackedQueue) -> None:
    from tests.harness import running_worker, wait_until

    await app.operator.resume(queue="payments")
    others = [await shop.charge.enqueue(-n) for n in range(1, 5)]
    async with running_worker(app, queues=["payments"]):
        for job in others:
            await wait_until(lambda job=job: _is_dead(job))
    (group,) = (await web().get("/api/dead")).json()["groups"]
    assert (group["task"], group["kind"], group["message"], group["count"]) == (
        "charge",
        "ValueError",
        "order … refused by …",
        5,
    )
    assert re.fullmatch(r"dashboard/conftest\.py:\d+ charge", group["frame"])
    assert sum(group["by_time"]) == 5
    one = (await web().get(f"/api/dead?group={group['key']}")).json()
    assert len(one["rows"]) == 5
    assert (await web().get("/dead?group=nothing")).status_code == 404


async def _is_dead(job: Any) -> bool:
    return str(await job.status()) == "dead"


async def test_filters_and_pages_of_jobs(shop: Shop, web: Client, app: TrackedQueue) -> None:
    client = web()
    await app.enqueue_many([shop.charge.options(queue="many").call(n) for n in range(120)])
    seen: list[str] = []
    path = "/api/jobs?queue=many"
    while True:
        found = (await client.get(path)).json()
        assert found["looked_at"] >= len(found["rows"])
        seen += [row["id"] for row in found["rows"]]
        if found["next"] is None:
            break
        path = f"/api/jobs?queue=many&from={found['next']}"
    assert len(seen) == len(set(seen)) == 120
    assert [row["id"] for row in (await client.get("/api/jobs?state=dead&error=REFUSED")).json()["rows"]] == [
        shop.ids["dead"]
    ]
    assert (await client.get("/api/jobs?state=dead&error=nothing")).json()["rows"] == []
    assert (await client.get("/api/jobs?state=scheduled&task=report")).json()["rows"] == []
    for bad in ("state=unknown", "older=x", "from=x", "queue=" + "q" * 300, "older=-1"):
        answer = await client.get(f"/api/jobs?{bad}")
        assert answer.status_code == 400 and bad.partition("=")[0] in answer.json()["error"].replace("start", "from"), (
            bad
        )


async def test_schedules_show_their_next_ticks_in_two_zones(shop: Shop, web: Client, app: TrackedQueue) -> None:
    store = connections_of(app).store
    rows = [("nightly", "report", "reports", "0 3 * * * Europe/Berlin"), ("often", "report", "reports", "every 15 s")]
    rows += [("odd", "report", "reports", rule) for rule in ()]
    await store.run(t_schedule(rows))
    client = web(zone="America/New_York")
    first, second = (await client.get("/api/schedules")).json()["rows"]
    assert first["zone"] == "Europe/Berlin" and len(first["next_ticks"]) == 5
    assert all("T03:00:00+0" in tick for tick in first["next_ticks"])
    assert len(second["next_ticks"]) == 5
    page = (await client.get("/schedules")).text
    assert "CE" in page and ("EST" in page or "EDT" in page)


def t_schedule(rows: Any) -> Any:
    from tracked_queue.protocol.transitions import schedule

    return schedule(rows)


@pytest.mark.parametrize("rule", ["", "x", "* * * * *", "0 0 30 2 * UTC", "every 0 s", "every 1e999 s", "every -5 s", "*/0 * * * * UTC",
                                  "0 3 * * * Nowhere/There", "0 3 * * * ../../etc/passwd", "every nan s", "* * * * * " * 50, "every 1e15 s"])  # fmt: skip
def test_a_rule_that_is_none_costs_nothing(rule: str) -> None:
    from datetime import UTC, datetime

    from tracked_queue.dashboard.pages.schedules import next_ticks

    assert next_ticks(rule, datetime(2026, 1, 1, tzinfo=UTC))[0] == ()


async def test_a_limit_shows_who_holds_it_and_what_leaked(shop: Shop, web: Client, app: TrackedQueue) -> None:
    found = (await web().get("/api/limit?name=n6:narrow")).json()
    assert [(one["id"], one["leaked"]) for one in found["holders"]] == [(shop.ids["running"], False)]
    assert found["explanations"][0]["code"] == "limit.concurrency"
    await connections_of(app).store.read(("SADD", connections_of(app).keys.named("permits", "n6:narrow"), "nobody"))
    found = (await web().get("/api/limit?name=n6:narrow")).json()
    assert [(one["id"], one["leaked"]) for one in found["holders"]] == [("nobody", True), (shop.ids["running"], False)]


async def test_a_workflow_is_a_graph(shop: Shop, web: Client, app: TrackedQueue) -> None:
    group = await app.group([shop.charge.call(n) for n in range(3)], then=shop.total.step())
    found = (await web().get(f"/api/workflow?id={group.then.id}")).json()
    assert len(found["workflow"]["jobs"]) == 4 and found["workflow"]["whole"]
    assert found["workflow"]["jobs"][-1]["id"] == group.then.id  # each after those that it comes after
    assert found["states"] == {"queued": 3, "waiting": 1} and len(found["blocking"]) == 3
    from_below = (await web().get(f"/api/workflow?id={group.jobs[0].id}")).json()
    assert {one["id"] for one in from_below["workflow"]["jobs"]} == {one["id"] for one in found["workflow"]["jobs"]}
    page = (await web().get(f"/workflow?id={group.then.id}")).text
    assert page.count('class="edge"') == 3


async def test_search_finds_by_id_and_by_name(shop: Shop, web: Client) -> None:
    async def hits(text: str) -> list[tuple[str, str]]:
        found = (await web().get("/api/search", params={"q": text})).json()
        return [(one["kind"], one["path"]) for one in found["hits"]]

    assert await hits(shop.ids["dead"]) == [("job", "/job")]
    assert ("queue", "/queue") in await hits("pay") and ("instance", "/instance") in await hits("pod-1")
    assert ("task", "/task") in await hits("CHARGE") and await hits("nothing like it") == [] and await hits("") == []


# Commands that a page may send when nothing was read before; a script counts as one.
MAY = {
    "/": 400, "/queues": 400, "/queue": 500, "/jobs": 260, "/job": 160, "/dead": 120, "/lost": 140, "/schedules": 10, "/workflows": 60,
    "/workflow": 40, "/search": 130, "/bulk": 1, "/bulk/plan": 30, "/confirm": 10, "/tasks": 300, "/task": 420, "/instances": 120, "/instance": 140, "/limits": 40,
    "/limit": 60, "/audit": 5, "/doctor": 140,
}  # fmt: skip


async def test_each_page_costs_redis_a_bounded_number_of_commands(shop: Shop, web: Client, app: TrackedQueue) -> None:
    """Ten times as many jobs cost no more, by count."""
    await app.operator.resume(queue="payments")
    store = connections_of(app).store
    counting = store._caller = Counting(store._caller)

    async def costs() -> dict[str, int]:
        found = {}
        for page, path in paths_of(shop).items():
            client = web()  # with nothing read before
            before = counting.commands
            answer = await client.get(path)
            assert answer.status_code == 200, (path, answer.text)
            found[page] = counting.commands - before
        return found

    await app.enqueue_many([shop.charge.call(n) for n in range(300)])
    few = await costs()
    assert set(few) == set(MAY) and {page: cost for page, cost in few.items() if cost > MAY[page]} == {}
    await app.enqueue_many([shop.charge.call(n) for n in range(3000)])
    many = await costs()
    assert {page: (cost, many[page]) for page, cost in few.items() if many[page] > cost + 2} == {}


async def test_numbers_stay_what_they_are(app: TrackedQueue, web: Client) -> None:
    @app.task(name="exact")
    async def exact(number: int, real: float, raw: bytes) -> None: ...

    job = await exact.enqueue(2**53 + 1, float("nan"), b"\x00\xff")
    answer = await web().get(f"/api/job?id={job.id}")
    args = json.loads(answer.text, parse_constant=pytest.fail)["job"]["args"]
    assert args[0] == str(2**53 + 1)
    assert args[1] in ("nan", None) and args[2] == {"base64": "AP8="}
    assert str(2**53 + 1) in (await web().get(f"/job?id={job.id}")).text


def test_plain_keeps_what_json_can_not() -> None:
    assert plain({1: 2}) == {"pairs": [[1, 2]]} and plain(2**60) == 2**60 and plain(2**60, exact=True) == str(2**60)
    assert plain(-(2**53), exact=True) == str(-(2**53)) and plain(2**53 - 1, exact=True) == 2**53 - 1
    deep: Any = []
    for _ in range(400):
        deep = [deep]
    assert "…" in json.dumps(plain(deep), ensure_ascii=False)


async def test_several_namespaces_are_apart(app: TrackedQueue, shop: Shop, web: Client, namespace: str) -> None:
    other = TrackedQueue(app.settings.redis_url, namespace=f"{namespace}-b/c")
    try:
        await other.enqueue("elsewhere")
        client = web(app, other)
        first = await client.get("/")
        assert first.status_code == 303 and first.headers["location"] == f"/n/{namespace}/"
        there = await client.get(f"/n/{quote(other.settings.namespace, safe='')}/api/queues")
        assert [row["queue"]["queue"] for row in there.json()["rows"]] == ["default"]
        assert (await client.get(f"/n/{namespace}/job?id={shop.ids['dead']}")).status_code == 200
        assert (
            await client.get(f"/n/{quote(other.settings.namespace, safe='')}/job?id={shop.ids['dead']}")
        ).status_code == 404
        for wrong in ("/n/none/queues", "/n/", "/n", "/nothing"):
            assert (await client.get(wrong)).status_code == 404, wrong
        old = await client.get("/dead?task=charge")
        assert old.headers["location"] == f"/n/{namespace}/dead?task=charge", "a link from before there were several"
    finally:
        await other.operator.retire(queue="default")
        await other.aclose()
