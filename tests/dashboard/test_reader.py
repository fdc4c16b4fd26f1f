"""A Redis user who may only read is enough to look, by the line in docs/reference/acl.md."""

from __future__ import annotations

import redis
from tests.dashboard.conftest import Client, Shop
from tests.dashboard.test_pages import paths_of
from tests.rights import acl_line, admin
from tracked_queue import TrackedQueue


async def test_every_page_is_there_for_a_user_who_may_only_read(shop: Shop, web: Client, app: TrackedQueue) -> None:
    url = admin(app.settings.redis_url)
    with redis.Redis.from_url(url) as client:
        version = tuple(map(int, client.info("server")["redis_version"].split(".")[:2]))
        client.execute_command("ACL", "SETUSER", "reader", *acl_line(version, "t*", "tracked_queue_reader"))
    reader = TrackedQueue(url.replace("//", "//reader:secret@"), namespace=app.settings.namespace)
    try:
        (group,) = await app.operator.dead_groups()
        client_of_reader = web(reader)
        for path in paths_of(shop, group.key).values():
            answer = await client_of_reader.get(path)
            assert answer.status_code == 200, (path, answer.text)
        refused = await client_of_reader.post("/api/act/pause_queue", json={"name": "slow"})
        assert refused.status_code == 503
        assert {one.queue for one in (await app.operator.queues()).queues if one.paused} == {"payments"}
    finally:
        await reader.aclose()
