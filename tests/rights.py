"""The rights that the docs list, and a server whose URL has them and no more (TEST_ACL=1)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import redis.asyncio

import redis
from tracked_queue import TrackedQueue
from tracked_queue.chaos.server import RedisServer

ROOT = Path(__file__).parents[1]
USER = "limited:secret@"


def acl_line(version: tuple[int, ...] = (9,), namespace: str = "tq", user: str = "tracked_queue") -> list[str]:
    """The rules in the docs, without what a server of this version doesn't know."""
    text = (ROOT / "docs/reference/acl.md").read_text()
    block = re.search(rf"```text\nuser {user} (.*?)```", text, re.DOTALL)
    assert block
    skipped = {"+waitaof", "+client|setinfo"} if version < (7, 2) else set[str]()
    if version < (7, 0):
        skipped |= {"+ssubscribe", "+sunsubscribe", "+spublish"}
    rules = [rule for rule in block[1].split() if rule not in skipped]
    return [rule.replace("PASSWORD", "secret").replace("{tq", "{" + namespace) for rule in rules]


def admin(url: str) -> str:
    """The URL of a test's own look at the server, which may do everything."""
    return url.replace(USER, "")


class LimitedServer(RedisServer):
    """`url` is that of a user with exactly the rights in the docs; the tests' own looks go by `admin`."""

    def start(self, wait: bool = True) -> None:
        super().start(wait)
        with redis.Redis(port=self.port) as client:
            version = tuple(map(int, client.info("server")["redis_version"].split(".")[:2]))
            # Every test has a namespace of its own, and all of them begin with a t.
            client.execute_command("ACL", "SETUSER", "limited", *acl_line(version, "t*"))

    @property
    def url(self) -> str:
        return super().url.replace("//", f"//{USER}")


async def look(app: TrackedQueue, *command: object) -> Any:
    """A test's own look at an app's server: one command, its reply as it came."""
    async with redis.asyncio.Redis.from_url(admin(app.settings.redis_url), protocol=2) as client:
        client.response_callbacks.clear()
        return await client.execute_command(*command)
