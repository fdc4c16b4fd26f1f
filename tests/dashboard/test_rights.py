"""Who may see and do what: every action by every role, at every prefix; what is hidden is as if it were not there."""

from __future__ import annotations

from typing import Any

import pytest

from tests.dashboard.conftest import Client, Shop
from tests.dashboard.test_pages import paths_of
from tracked_queue import TrackedQueue
from tracked_queue.dashboard import Identity, Role, Wish
from tracked_queue.dashboard.access import ACTIONS, LEAST, READING
from tracked_queue.operator.many import MANY_ACTIONS

NAMES = {"queue": "payments", "task": "charge", "schedule": "nightly"}


def _asked(action: str, shop: Shop) -> tuple[str, dict[str, Any]]:
    """A request for an action that would be done."""
    jobs = {
        "requeue": "dead",
        "purge": "dead",
        "cancel": "queued",
        "delete": "succeeded",
        "run_now": "scheduled",
        "recover": "lost",
        "discard": "lost",
    }
    if action in jobs:
        return f"/api/act/{action}", {"ids": [shop.ids[jobs[action]]]}
    kind = action.partition("_")[2]
    name = NAMES.get(kind) or {"trigger": "nightly", "quiet": "pod-1.a", "unquiet": "pod-1.a"}.get(action, "")
    return f"/api/act/{action}", {"name": name}


@pytest.mark.parametrize("prefix", ["", "/jobs", "/a/b"])
@pytest.mark.parametrize("role", list(Role))
async def test_every_action_by_every_role(shop: Shop, web: Client, app: TrackedQueue, role: Role, prefix: str) -> None:
    from tests.dashboard.test_pages import t_schedule
    from tracked_queue.app import connections_of

    await connections_of(app).store.run(t_schedule([("nightly", "report", "reports", "0 3 * * * UTC")]))
    client = web(login=lambda scope: Identity(name="ada", role=role), prefix=prefix)
    for action in [one for one in ACTIONS if one not in (*READING, "stop")]:
        path, body = _asked(action, shop)
        answer = await client.post(prefix + path, json=body)
        may = {Role.VIEW: 0, Role.OPERATE: 1, Role.ADMIN: 2}[role] >= {Role.VIEW: 0, Role.OPERATE: 1, Role.ADMIN: 2}[
            LEAST[action]
        ]
        if not may:
            assert answer.status_code == 403 and action.replace("_", " ") in answer.json()["error"], (
                action,
                answer.text,
            )
        else:
            assert answer.status_code in (200, 409), (action, answer.text)  # 409: an action before has taken the job
    acts = {one.by for one in await app.operator.acts()}
    assert acts == {"ada"}


async def test_a_read_only_dashboard_changes_nothing(shop: Shop, web: Client) -> None:
    client = web(read_only=True)
    for action in [one for one in ACTIONS if one not in READING]:
        path, body = _asked(action, shop) if action != "stop" else ("/api/act/stop", {"id": "x"})
        answer = await client.post(path, json=body)
        assert answer.status_code in (403, 404), (action, answer.text)
    assert (await client.post("/api/bulk/start?action=purge&state=dead&counted=1")).status_code == 403
    assert "/api/act/purge" not in (await client.get("/api/openapi.json")).json()["paths"]
    page = (await client.get(f"/job?id={shop.ids['dead']}")).text
    assert "/act/" not in page


async def test_arguments_are_not_for_those_who_only_look(shop: Shop, web: Client) -> None:
    viewer = web(login=lambda scope: Identity(name="v", role=Role.VIEW))
    found = (await viewer.get(f"/api/job?id={shop.ids['queued']}")).json()
    assert found["job"]["args"] is None and found["job"]["kwargs"] is None and not found["arguments"]
    operator = web(login=lambda scope: Identity(name="o", role=Role.OPERATE))
    assert (await operator.get(f"/api/job?id={shop.ids['queued']}")).json()["job"]["args"] == [5]


async def test_what_is_hidden_is_not_there(shop: Shop, web: Client, app: TrackedQueue) -> None:
    """Somebody who may see the queue `reports` alone: no page and no answer names the rest."""

    def rights(who: Identity, wish: Wish) -> bool:
        return wish.queue == "reports" or wish.task == "report"

    client = web(login=lambda scope: Identity(name="r", role=Role.ADMIN), rights=rights)
    for page, path in {
        **paths_of(shop),
        "/confirm": f"/confirm?action=purge&ids={shop.ids['queued']}",
        "one job": f"/job?id={shop.ids['lost']}",
    }.items():
        for one in (path, f"/api{path}"):
            answer = await client.get(one)
            assert answer.status_code in (200, 404, 403), (one, answer.text)
            text = answer.text.replace("charge", "", 1) if "name=charge" in path else answer.text
            for secret in ("payments", shop.ids["queued"], "hunter2", "n6:narrow", "pod-1"):
                if secret in path:
                    continue
                assert secret not in text, (one, secret)
        if page in (
            "/instances",
            "/lost",
            "/limits",
            "/audit",
            "/doctor",
            "/queue",
            "/task",
            "/job",
            "/instance",
            "/limit",
            "/workflow",
        ):
            assert (await client.get(path)).status_code == 404, page
    assert (await client.get("/queue?name=reports")).status_code == 200
    assert (await client.get(f"/job?id={shop.ids['lost']}")).status_code == 200
    gone = await client.get("/api/job?id=no-such-job")
    hidden = await client.get(f"/api/job?id={shop.ids['queued']}")
    assert gone.status_code == hidden.status_code == 404
    for action in MANY_ACTIONS:
        answer = await client.post(f"/api/act/{action}", json={"ids": [shop.ids["queued"]]})
        assert answer.status_code == 404, (action, answer.text)
    assert (await client.post("/api/bulk/start?action=purge&state=dead&counted=1")).status_code == 403
    assert (await client.post("/api/act/recover", json={})).status_code == 404


async def test_a_bulk_act_leaves_alone_what_is_not_theirs(shop: Shop, web: Client, app: TrackedQueue) -> None:
    """A filter by queue that also holds jobs of another task: of each job it is asked again."""
    mixed: list[Any] = [
        await shop.charge.options(queue="mixed").enqueue(1),
        await shop.report.options(queue="mixed").enqueue(),
    ]

    def rights(who: Identity, wish: Wish) -> bool:
        return wish.action == "view" or wish.task in ("", "report")

    client = web(login=lambda scope: Identity(name="r", role=Role.ADMIN), rights=rights)
    started = await client.post("/api/bulk/start?action=cancel&state=queued&queue=mixed&counted=2")
    assert started.status_code == 200, started.text
    act = started.json()["bulk"]
    from tests.harness import wait_until

    async def ended() -> Any:
        found = (await client.get(f"/api/bulk/act?id={act}")).json()["bulk"]
        return found if found["state"] != "running" else None

    found = await wait_until(ended)
    assert (found["state"], found["done"], found["refused"]) == ("done", 1, {"not yours to change": 1})
    assert [str(await job.status()) for job in mixed] == ["queued", "cancelled"]


async def test_rights_that_can_only_say_yes_are_refused(app: TrackedQueue, web: Client) -> None:
    """A coroutine is true."""
    from tracked_queue.errors import UsageError

    async def rights(who: Identity, wish: Wish) -> bool:
        return False

    with pytest.raises(UsageError, match="rights"):
        web(rights=rights)
    said: Any = lambda who, wish: "yes"  # noqa: E731
    assert (await web(rights=said).get("/instances")).status_code == 404


async def test_a_role_may_be_a_word(shop: Shop, web: Client) -> None:
    client = web(login=lambda scope: Identity(name="w", role="operate"))  # type: ignore[arg-type]
    assert (await client.get("/")).status_code == 200
    with pytest.raises(ValueError):
        Identity(name="w", role="root")  # type: ignore[arg-type]


async def test_a_group_in_many_queues_shows_only_their_own_jobs(app: TrackedQueue, shop: Shop, web: Client) -> None:
    from tracked_queue.app import connections_of
    from tracked_queue.protocol import transitions as t

    store = connections_of(app).store
    queues = [f"q{at:02}" for at in range(25)]
    await store.run(t.register("killer", 600, 20, {}))
    for queue in queues:
        await shop.charge.options(queue=queue).enqueue(1)
    fetched = await store.run(t.fetch("killer", 1, 30, 0, queues))
    await store.run(
        t.settle(
            "killer", [t.Outcome(job.id, job.delivery, t.OutcomeKind.DEAD, 1, b"", "no") for job in fetched.jobs], 120.0
        )
    )
    await store.run(t.release("killer", t.End.INTERRUPTED))
    client = web(
        login=lambda scope: Identity(name="r", role=Role.ADMIN), rights=lambda who, wish: wish.queue not in ("q24", "")
    )
    (group,) = [one for one in (await client.get("/api/dead")).json()["groups"] if one["count"] > 1]
    assert group["count"] == 24 and "q24" not in str(group)
    plan = (await client.get("/api/bulk/plan?action=purge&state=dead&task=charge")).status_code
    assert plan in (403, 404), "a queue must be named, of those that are theirs"
    assert (await client.get("/api/bulk/plan?action=purge&state=dead&queue=q03")).json()["number"] == 1


async def test_the_way_on_names_nothing_that_is_hidden(app: TrackedQueue, shop: Shop, web: Client) -> None:
    import base64

    await app.enqueue_many([shop.charge.options(queue="zz-secret").call(n) for n in range(120)])
    client = web(
        login=lambda scope: Identity(name="r", role=Role.ADMIN),
        rights=lambda who, wish: wish.queue == "reports" or (not wish.queue and wish.task == "report"),
    )
    path, seen = "/api/jobs", 0
    while True:
        found = (await client.get(path)).json()
        seen += len(found["rows"])
        if found["next"] is None:
            break
        assert b"zz-secret" not in base64.urlsafe_b64decode(found["next"] + "===")
        path = f"/api/jobs?from={found['next']}"
    assert (await client.get("/api/jobs?from=nonsense")).status_code == 400


async def test_a_hidden_job_and_none_are_told_alike(shop: Shop, web: Client) -> None:
    client = web(
        login=lambda scope: Identity(name="r", role=Role.ADMIN), rights=lambda who, wish: wish.queue == "reports"
    )
    hidden, none = shop.ids["queued"], "no-such-job"
    for path in ("/api/job?id={}", "/api/workflow?id={}", "/api/confirm?action=purge&ids={}"):
        first, second = await client.get(path.format(hidden)), await client.get(path.format(none))
        assert first.status_code == second.status_code == 404
        assert first.json()["error"].replace(hidden, none) == second.json()["error"], path
    for action in MANY_ACTIONS:
        first = await client.post(f"/api/act/{action}", json={"ids": [hidden]})
        second = await client.post(f"/api/act/{action}", json={"ids": [none]})
        assert first.json()["error"].replace(hidden, none) == second.json()["error"], action
