"""What can be done from the pages: single acts, orphans, many jobs in the background; and who may send the request."""

from __future__ import annotations

import asyncio
import re
from html import unescape
from typing import Any

import pytest

from tests.dashboard.conftest import Client, Shop
from tests.harness import wait_until
from tracked_queue import TrackedQueue


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match
    return match[1]


async def _ended(client: Any, act: str) -> Any:
    found = (await client.get(f"/api/bulk/act?id={act}")).json()["bulk"]
    return found if found["state"] != "running" else None


# Which requests are refused


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Origin": "http://localhost"}, 303),  # plain http under a name: browsers send no Sec-Fetch-Site
        ({"Origin": "http://localhost:81"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "https://jobs.example.org"}, 303),  # named in hosts=
        ({"Referer": "http://localhost/"}, 403),
        ({}, 403),
    ],
)
async def test_only_pages_of_our_own_change_something(
    shop: Shop, web: Client, headers: dict[str, str], status: int
) -> None:
    client = web(headers=headers, hosts=["jobs.example.org"], insecure=True)
    for path in (
        "/act/pause_queue?name=slow",
        "/bulk/start?action=purge&state=dead&counted=1",
        "/act/pause_queue?name=slow",
    ):
        answer = await client.post(path)
        assert answer.status_code == status, path
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_other_methods_are_not_answered(web: Client, method: str) -> None:
    assert (await web().request(method, "/act/pause_queue?name=slow")).status_code == 405


async def test_a_look_does_not_act(shop: Shop, web: Client, app: TrackedQueue) -> None:
    for path in (
        f"/act/purge?id={shop.ids['dead']}",
        "/bulk/start?action=purge&state=dead&counted=1",
        "/api/act/recover",
        "/logout",
    ):
        assert (await web().get(path)).status_code in (404, 405), path
    assert (await app.operator.queues()).dead == 1


# Single acts


async def test_acts_on_one_job(shop: Shop, web: Client, app: TrackedQueue) -> None:
    client = web()
    for action, job, state in (
        ("run_now", "scheduled", "queued"),
        ("cancel", "queued", "cancelled"),
        ("requeue", "dead", "queued"),
        ("cancel", "waiting", "cancelled"),
    ):
        answer = await client.post(f"/act/{action}?id={shop.ids[job]}&back=%2Fjob%3Fid%3D{shop.ids[job]}")
        assert answer.status_code == 303 and answer.headers["location"].startswith(f"/job?id={shop.ids[job]}&told="), (
            action
        )
        said = await client.get(answer.headers["location"])
        assert 'class="told well"' in said.text, action
        if action != "run_now":
            assert str(await app.job(shop.ids[job]).status()) == state, action
    assert (await client.post(f"/api/act/delete?id={shop.ids['succeeded']}")).json()["said"] == "1 job deleted"
    again = await client.post("/api/act/requeue", json={"ids": [shop.ids["running"]]})
    assert again.status_code == 409 and again.json()["words"] == {shop.ids["running"]: "not_dead"}
    acts = await app.operator.acts()
    assert {one.action for one in acts} >= {"reschedule", "cancel", "requeue", "delete"}
    assert {one.by for one in acts} == {"ada", "local user"}


async def test_several_are_chosen_in_a_form(shop: Shop, web: Client, app: TrackedQueue) -> None:
    jobs = [await shop.charge.enqueue(n) for n in range(3)]
    odd = await shop.charge.options(id="a/b c&d=é\"'<x>").enqueue(4)
    answer = await web().post(
        "/act/cancel?back=%2Fjobs", data={"ids": [job.id for job in jobs] + ["a%2Fb%20c%26d%3D%C3%A9%22%27%3Cx%3E"]}
    )
    assert answer.status_code == 303
    assert {str(await job.status()) for job in [*jobs, odd]} == {"cancelled"}
    nothing = await web().post("/act/cancel")
    assert nothing.status_code == 400 and "elect at least one job" in nothing.text
    many = await web().post("/api/act/cancel", json={"ids": [str(n) for n in range(251)]})
    assert many.status_code == 400 and "at most 250" in many.json()["error"]
    some = await web().post("/api/act/cancel", json={"ids": [jobs[0].id, "no such job"]})
    assert some.status_code == 404


async def test_queues_tasks_schedules_instances(shop: Shop, web: Client, app: TrackedQueue) -> None:
    client = web()
    for action, name, said in (
        ("pause_queue", "slow", "queue slow paused"),
        ("pause_queue", "slow", "queue slow was paused already"),
        ("resume_queue", "slow", "queue slow resumed"),
        ("pause_task", "charge", "task charge paused"),
        ("resume_task", "charge", "task charge resumed"),
        ("quiet", "pod-1.a", "instance pod-1.a fetches no more jobs; what runs there goes on"),
        ("unquiet", "pod-1.a", "instance pod-1.a fetches again"),
        ("recover", "", "2 jobs of lost instances recovered"),
    ):
        answer = await client.post(f"/api/act/{action}", json={"name": name})
        assert (answer.status_code, answer.json().get("said")) == (200, said), answer.text
    for action, name in (
        ("quiet", "nobody"),
        ("pause_schedule", "none"),
        ("trigger", "none"),
        ("nonsense", "x"),
        ("view", "x"),
        ("see_arguments", "x"),
    ):
        assert (await client.post(f"/api/act/{action}", json={"name": name})).status_code == 404, action
    assert (await client.post("/api/act/pause_queue", json={})).status_code == 400


async def test_a_schedule_is_run_now_only_with_the_applications_code(
    shop: Shop, web: Client, app: TrackedQueue
) -> None:
    from tests.dashboard.test_pages import t_schedule
    from tracked_queue.app import connections_of

    await connections_of(app).store.run(t_schedule([("nightly", "report", "reports", "0 3 * * * UTC")]))
    done = (await web().post("/api/act/trigger", json={"name": "nightly"})).json()
    assert str(await app.job(next(iter(done["words"]))).status()) == "queued"
    bare = TrackedQueue(app.settings.redis_url, namespace=app.settings.namespace)
    answer = await web(bare).post("/api/act/trigger", json={"name": "nightly"})
    assert answer.status_code == 400 and "--app" in answer.json()["error"]
    assert "/act/trigger" not in (await web(bare).get("/schedules")).text
    await bare.aclose()


# Orphans


async def test_orphans_one_by_one_and_all_at_once(shop: Shop, web: Client, app: TrackedQueue) -> None:
    client = web()
    found = (await client.get("/api/lost")).json()
    assert found["orphans"] == 2 and {row["id"] for row in found["rows"]} == {shop.ids["lost"], shop.ids["lost too"]}
    assert (await client.get("/api/lost?lease=gone-1.b")).json()["rows"] == found["rows"]
    assert (await client.get("/lost?lease=pod-1.a")).status_code == 404
    assert (await client.post("/api/act/recover", json={"ids": [shop.ids["lost"]]})).json()["words"] == {
        shop.ids["lost"]: "interrupted"
    }
    assert str(await app.job(shop.ids["lost"]).status()) == "queued"
    assert str(await app.job(shop.ids["lost too"]).status()) == "active", "only what was named moves"
    assert (await client.get("/api/lost")).json()["orphans"] == 1
    assert (await client.post("/api/act/discard", json={"ids": [shop.ids["lost too"]]})).json()["words"] == {
        shop.ids["lost too"]: "cancelled"
    }
    assert (await client.get("/api/lost")).json()["orphans"] == 0
    alive = await client.post("/api/act/discard", json={"ids": [shop.ids["running"]]})
    assert alive.status_code == 409 and alive.json()["words"] == {shop.ids["running"]: "alive"}
    assert not (await app.job(shop.ids["running"]).info()).cancel_requested
    queued = await client.post("/api/act/recover", json={"ids": [shop.ids["lost"]]})
    assert queued.json()["words"] == {shop.ids["lost"]: "gone"}


@pytest.mark.parametrize(("action", "state"), [("recover", "queued"), ("discard", "cancelled")])
async def test_all_orphans_of_an_instance(shop: Shop, web: Client, app: TrackedQueue, action: str, state: str) -> None:
    client = web()
    started = await client.post(f"/api/bulk/start?action={action}&state=lost&lease=gone-1.b&counted=2")
    found = await wait_until(lambda: _ended(client, started.json()["bulk"]))
    assert (found["state"], found["done"]) == ("done", 2)
    for name in ("lost", "lost too"):
        assert str(await app.job(shop.ids[name]).status()) == state


# Many


async def _dead(app: TrackedQueue, shop: Shop, count: int) -> None:
    """So many dead jobs more, by scripts."""
    from tracked_queue.app import connections_of
    from tracked_queue.protocol import transitions as t

    store = connections_of(app).store
    await store.run(t.register("killer", 600, 20, {}))
    await app.enqueue_many([shop.charge.options(queue="doomed").call(n) for n in range(count)])
    for number in range(1, -(-count // 250) + 1):
        fetched = await store.run(t.fetch("killer", number, 250, 0, ["doomed"]))
        for at in range(0, len(fetched.jobs), t.MAX_RICH):
            part = fetched.jobs[at : at + t.MAX_RICH]
            await store.run(
                t.settle(
                    "killer", [t.Outcome(job.id, job.delivery, t.OutcomeKind.DEAD, 1, b"", "no") for job in part], 120.0
                )
            )
    await store.run(t.release("killer", t.End.INTERRUPTED))


async def test_many_are_counted_confirmed_and_done_in_the_background(
    shop: Shop, web: Client, app: TrackedQueue
) -> None:
    client = web()
    await _dead(app, shop, 150)
    plan = (await client.get("/api/bulk/plan?action=requeue&state=dead&queue=doomed")).json()
    assert (plan["count"]["number"], plan["count"]["exact"], plan["confirm"]) == (150, True, "150") and len(
        plan["count"]["sample"]
    ) == 5
    assert (await app.operator.queues()).dead == 151, "a plan does nothing"
    page = (await client.get("/bulk/plan?action=requeue&state=dead&queue=doomed")).text
    action = unescape(_found(r'<form method="post" class="fields" action="([^"]+)"', page))
    for typed in ("", "15", "151", "one"):
        refused = await client.post(action, data={"typed": typed})
        assert refused.status_code == 400 and "ype the number of jobs, 150" in refused.text, typed
    started = await client.post(action, data={"typed": "150", "rate": ""})
    assert started.status_code == 303 and started.headers["location"].startswith("/bulk/act?id=")
    act = _found(r"id=(\w+)", started.headers["location"])
    found = await wait_until(lambda: _ended(client, act))
    assert (found["state"], found["done"], found["refused"], found["expected"]) == ("done", 150, {}, 150)
    assert (await app.operator.queues()).dead == 1
    noted = (await app.operator.acts(1))[0]
    assert (noted.action, noted.by, noted.facts["jobs"], noted.facts["queue"]) == (
        "requeue",
        "local user",
        150,
        "doomed",
    )
    assert (await client.get("/api/bulk")).json()["rows"][0]["id"] == act


async def test_a_pace_and_a_stop(shop: Shop, web: Client, app: TrackedQueue) -> None:
    client = web()
    await _dead(app, shop, 500)
    started = await client.post("/api/bulk/start?action=requeue&state=dead&queue=doomed&counted=500&typed=500&rate=50")
    act = started.json()["bulk"]

    async def begun() -> bool:
        return bool((await client.get(f"/api/bulk/act?id={act}")).json()["bulk"]["done"])

    await wait_until(begun)
    assert (await client.post("/act/stop", params={"id": act})).status_code == 303
    found = await wait_until(lambda: _ended(client, act))
    assert found["state"] == "stopped" and 0 < found["done"] < 500
    assert (await app.operator.queues()).dead == 501 - found["done"], "what was done is what it says"
    assert (await app.operator.acts(1))[0].facts["jobs"] == found["done"]


async def test_try_five_first(shop: Shop, web: Client, app: TrackedQueue) -> None:
    client = web()
    await _dead(app, shop, 200)
    groups = (await client.get("/api/dead")).json()["groups"]
    group = next(one for one in groups if one["count"] == 200)
    plan = (
        await client.get(f"/api/bulk/plan?action=requeue&state=dead&group={group['key']}&task=charge&limit=5")
    ).json()
    assert plan["number"] == 5 and plan["confirm"] is None
    started = await client.post(
        f"/api/bulk/start?action=requeue&state=dead&group={group['key']}&task=charge&limit=5&counted=5"
    )
    found = await wait_until(lambda: _ended(client, started.json()["bulk"]))
    assert (found["done"], (await app.operator.queues()).dead) == (5, 196)


async def test_no_more_is_done_than_was_confirmed(shop: Shop, web: Client, app: TrackedQueue) -> None:
    client = web()
    await _dead(app, shop, 20)
    await client.get("/api/bulk/plan?action=purge&state=dead&queue=doomed")
    await _dead(app, shop, 30)
    started = await client.post("/api/bulk/start?action=purge&state=dead&queue=doomed&counted=20")
    found = await wait_until(lambda: _ended(client, started.json()["bulk"]))
    assert found["done"] == 20


async def test_acts_that_go_with_no_state_are_refused(shop: Shop, web: Client) -> None:
    client = web()
    for wrong in ("action=purge&state=queued", "action=cancel&state=dead", "action=recover&state=active", "action=purge&state=dead&lease=x",
                  "action=cancel&state=queued&group=x", "action=nothing&state=dead", "action=purge", "state=dead", "action=requeue&state=dead&rate=0",
                  "action=requeue&state=dead&limit=0", "action=run_now&state=waiting"):  # fmt: skip
        assert (await client.get(f"/api/bulk/plan?{wrong}")).status_code == 400, wrong
        assert (await client.post(f"/api/bulk/start?{wrong}&counted=1")).status_code == 400, wrong
    nothing = await client.post("/api/bulk/start?action=purge&state=dead&queue=none&counted=1")
    assert nothing.status_code == 400 and "no jobs match" in nothing.json()["error"]


async def test_an_act_ends_with_the_dashboard_and_is_noted(shop: Shop, app: TrackedQueue) -> None:
    from tests.dashboard.conftest import client_of
    from tracked_queue.dashboard import dashboard

    pages = dashboard(app)
    client = client_of(pages)
    await _dead(app, shop, 300)
    started = await client.post("/api/bulk/start?action=requeue&state=dead&queue=doomed&counted=300&typed=300&rate=20")
    act = started.json()["bulk"]

    async def begun() -> bool:
        return bool((await client.get(f"/api/bulk/act?id={act}")).json()["bulk"]["done"])

    await wait_until(begun)
    await pages.aclose()
    found = (await client.get(f"/api/bulk/act?id={act}")).json()["bulk"]
    assert found["state"] == "stopped" and found["error"] == "the dashboard was ended"
    assert (await app.operator.acts(1))[0].facts["jobs"] == found["done"] > 0


async def test_two_looks_at_once_read_once(shop: Shop, web: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from tracked_queue import Viewer

    reads, original = 0, Viewer.picture

    async def counted(self: Any, **given: Any) -> Any:
        nonlocal reads
        reads += 1
        await asyncio.sleep(0)
        return await original(self, **given)

    monkeypatch.setattr(Viewer, "picture", counted)
    client = web()
    await asyncio.gather(*(client.get("/") for _ in range(20)))
    assert reads == 1


async def _bulk(client: Any, query: str) -> Any:
    started = await client.post(f"/api/bulk/start?{query}")
    assert started.status_code == 200, started.text
    return await wait_until(lambda: _ended(client, started.json()["bulk"]), timeout=30)


@pytest.mark.parametrize("typed", ["20", "all", ""])
async def test_what_came_to_match_since_is_left(shop: Shop, web: Client, app: TrackedQueue, typed: str) -> None:
    """Counted exactly, a little or too much to count by then, with a limit or without: the number that was confirmed is the most."""
    client = web()
    await app.enqueue_many([shop.charge.options(queue="many").call(n) for n in range(11_000)])
    for more in ("", "&limit=5000"):
        query = f"action=cancel&state=queued&queue=many&counted=20&typed={typed}{more}"
        if typed == "20" or (typed == "all" and not more):
            found = await _bulk(client, query) if typed == "20" else None
            assert found is None or found["done"] == 20
        else:
            assert (await client.post(f"/api/bulk/start?{query}")).status_code == 400, query


async def test_all_however_many_must_be_said(shop: Shop, web: Client, app: TrackedQueue) -> None:
    client = web()
    await app.enqueue_many([shop.charge.options(queue="many").call(n) for n in range(11_000)])
    plan = (await client.get("/api/bulk/plan?action=cancel&state=queued&queue=many")).json()
    assert not plan["count"]["exact"] and plan["count"]["looked_at"] >= plan["number"] >= 10_000
    assert "ALL for all that match" in (await client.get("/bulk/plan?action=cancel&state=queued&queue=many")).text
    first = await _bulk(
        client, f"action=cancel&state=queued&queue=many&counted={plan['number']}&typed={plan['number']}"
    )
    assert first["done"] == plan["number"]
    await app.enqueue_many([shop.charge.options(queue="many").call(n) for n in range(11_000)])
    assert (await _bulk(client, "action=cancel&state=queued&queue=many&counted=10500&typed=ALL"))["done"] >= 11_000


@pytest.mark.parametrize("counted", ["", "0", "-1", "²", "9" * 5000, "1e3", "x"])
async def test_a_number_that_is_none_confirms_nothing(shop: Shop, web: Client, app: TrackedQueue, counted: str) -> None:
    answer = await web().post(
        "/api/bulk/start", params={"action": "purge", "state": "dead", "counted": counted, "typed": counted}
    )
    assert answer.status_code == 400 and "counted" in answer.json()["error"]
    assert (await app.operator.queues()).dead == 1


@pytest.mark.parametrize("rate", ["", "&rate=2000"])
async def test_all_parked_jobs_are_cancelled(app: TrackedQueue, web: Client, rate: str) -> None:
    """What is done leaves the list, and the list is gone on with all the same."""
    from tests.harness import running_worker
    from tracked_queue.app import connections_of

    @app.task(name="known", queue="q")
    async def known() -> None: ...

    other = TrackedQueue(app.settings.redis_url, namespace=app.settings.namespace)
    for at in range(0, 1000, 250):
        for n in range(250):
            await other.options(queue="q").enqueue("unknown", at + n)
    await other.aclose()
    async with running_worker(app, queues=["q"]):
        store, keys = connections_of(app).store, connections_of(app).keys

        async def parked() -> bool:
            return (await store.read(("LLEN", keys.named("parked", "unknown"))))[0] == 1000

        await wait_until(parked, timeout=30)
    client = web()
    found = await _bulk(client, f"action=cancel&state=parked&task=unknown&counted=1000&typed=1000{rate}")
    assert (found["done"], found["refused"]) == (1000, {})
    assert (await client.get("/api/jobs?state=parked")).json()["rows"] == []


async def test_a_filter_that_does_not_go_with_lost_jobs_is_refused(shop: Shop, web: Client) -> None:
    for wrong in ("error=x", "older=1h"):
        assert (await web().get(f"/api/bulk/plan?action=discard&state=lost&{wrong}")).status_code == 400, wrong


async def test_those_that_died_within_a_time(shop: Shop, web: Client, app: TrackedQueue) -> None:
    """What the page shows is what its buttons do."""
    from tracked_queue.app import connections_of

    await _dead(app, shop, 6)
    store, keys = connections_of(app).store, connections_of(app).keys
    (ids,) = await store.read(("ZRANGE", keys.single("dead"), 0, 3))
    await store.read(("ZADD", keys.single("dead"), *(part for job_id in ids for part in (1_000_000, job_id))))
    client = web()
    shown = (await client.get("/api/dead?younger=1h")).json()
    assert sum(one["count"] for one in shown["groups"]) == 3
    page = (await client.get("/dead?younger=1h")).text
    link = unescape(_found(r'href="(/bulk/plan\?action=purge[^"]*)"', page))
    assert (await client.get(f"/api{link}")).json()["number"] == 3
    assert (await _bulk(client, "action=purge&state=dead&younger=1h&counted=3"))["done"] == 3
    assert (await app.operator.queues()).dead == 4


async def test_what_can_not_be_undone_is_asked_once_more(shop: Shop, web: Client, app: TrackedQueue) -> None:
    client = web()
    page = (await client.get(f"/job?id={shop.ids['dead']}")).text
    link = unescape(_found(r'href="(/confirm\?action=purge[^"]*)"', page))
    asked = (await client.get(link)).text
    assert "Purge 1 job?" in asked and shop.ids["dead"] in asked and (await app.operator.queues()).dead == 1
    done = await client.post(
        unescape(_found(r'<form method="post" action="(/act/purge[^"]*)"', asked)), data={"ids": shop.ids["dead"]}
    )
    assert done.status_code == 303 and done.headers["location"].startswith("/dead?told=")
    assert "1 job purged" in (await client.get(done.headers["location"])).text
    for wrong in ("action=requeue&ids=x", "action=purge", "action=purge&ids=nothing", f"action=purge&ids={'x' * 300}"):
        assert (await client.get(f"/confirm?{wrong}")).status_code in (400, 404), wrong


async def test_the_batch_under_way_at_the_end_is_noted_too(shop: Shop, app: TrackedQueue) -> None:
    from tests.dashboard.conftest import client_of
    from tracked_queue.app import connections_of
    from tracked_queue.dashboard import dashboard

    pages = dashboard(app)
    client = client_of(pages)
    await _dead(app, shop, 300)
    store = connections_of(app).store
    original, slow = store._caller.call, asyncio.Event()

    async def late(commands: Any, timeout: Any = None) -> Any:
        replies = await original(commands, timeout)
        if any(b"requeue" in str(part).encode() or len(command) > 60 for command in commands for part in command[:1]):
            slow.set()
            await asyncio.sleep(0.2)  # done in Redis, and the reply is on its way
        return replies

    store._caller.call = late  # type: ignore[method-assign]
    started = await client.post("/api/bulk/start?action=requeue&state=dead&queue=doomed&counted=300&typed=300")
    assert started.status_code == 200
    await slow.wait()
    await pages.aclose()
    store._caller.call = original  # type: ignore[method-assign]
    noted = (await app.operator.acts(1))[0].facts["jobs"]
    assert noted == 301 - (await app.operator.queues()).dead > 0
    await client.aclose()


async def test_the_last_hundred_acts_are_kept(shop: Shop, web: Client, app: TrackedQueue) -> None:
    client = web()
    for _ in range(70):
        await _bulk(client, "action=cancel&state=queued&task=charge&limit=1&counted=1") if (
            await shop.charge.enqueue(1)
        ) else None
    assert len((await client.get("/api/bulk")).json()["rows"]) == 70


async def test_who_may_stop_stops_what_others_began(shop: Shop, web: Client, app: TrackedQueue) -> None:
    from tracked_queue.dashboard import Identity, Role

    await _dead(app, shop, 300)
    client = web(login=lambda scope: Identity(name="x", role=Role(dict(scope["headers"])[b"x-role"].decode())))
    admin, operate, view = ({"X-Role": role, "Sec-Fetch-Site": "same-origin"} for role in ("admin", "operate", "view"))
    started = await client.post(
        "/api/bulk/start?action=purge&state=dead&queue=doomed&counted=300&typed=300&rate=20", headers=admin
    )
    act = started.json()["bulk"]
    assert (await client.get(f"/api/bulk/act?id={act}", headers=operate)).json()["can_stop"]
    assert not (await client.get(f"/api/bulk/act?id={act}", headers=view)).json()["can_stop"]
    assert (await client.post(f"/api/act/stop?id={act}", headers=view)).status_code == 403
    assert (await client.post(f"/api/act/stop?id={act}", headers=operate)).status_code == 200


async def test_an_act_that_finds_nothing_for_long_can_be_stopped(shop: Shop, app: TrackedQueue) -> None:
    from tracked_queue import Course, Selection

    await _dead(app, shop, 2000)
    course = Course()
    course.stop()
    await app.operator.many("purge", Selection(state="dead"), course=course, allowed=lambda queue, task: False)
    assert course.looked_at <= 250
