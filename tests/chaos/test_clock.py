"""The clock of a chaos run: what the scripts go by, and what is left of every expiry, jump together."""

from __future__ import annotations

import redis.asyncio as redis_client

from tests.harness import Scripts
from tracked_queue.chaos.clock import set_clock
from tracked_queue.chaos.server import RedisServer
from tracked_queue.protocol.scripts import load_scripts

S = 1000


async def test_it_jumps_with_every_expiry(server: RedisServer, namespace: str) -> None:
    scripts = Scripts(server.url, namespace, load_scripts("now_ms_ahead"))
    name = scripts.keys.single
    async with redis_client.Redis.from_url(server.url) as client:
        await client.delete(name("clock"))
        for key, left_ms in (("brief", 60 * S), ("long", 7200 * S)):
            await client.set(name(key), "1", px=left_ms)
        await client.set(name("lasting"), "1")
        times = []
        for ahead_s in (0, 3600, -60, -60):  # the last changes nothing: a call may be sent twice
            await set_clock(client, [scripts.keys.tag], ahead_s)
            scripts.enqueue(f"job{len(times)}")
            times.append(int(scripts.job(f"job{len(times)}")["queued_ms"]))
        left = [await client.pttl(name(key)) for key in ("brief", "long", "lasting")]
    scripts.close()
    assert [round((time - times[0]) / 60 / S) for time in times] == [0, 60, -1, -1]
    assert left[0] == -2, "it went when an hour passed"
    assert round(left[1] / 60 / S) == 121 and left[2] == -1
