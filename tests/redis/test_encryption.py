"""Payload encryption: what Redis and logs never see, rotation of keys, and what happens without the right one."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest
from cryptography.fernet import Fernet
from structlog.testing import capture_logs

import redis
from tests.harness import running_worker
from tests.rights import admin
from tracked_queue import Discard, JobFailedError, SettingsError, TrackedQueue, Unique, current_job
from tracked_queue.app import connections_of
from tracked_queue.chaos.server import RedisServer
from tracked_queue.errors import SealedError
from tracked_queue.model.cipher import Cipher
from tracked_queue.protocol.states import State
from tracked_queue.settings import resolve
from tracked_queue.worker.outcome import without_text

SECRET = "4929-1234-5678"
OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))


def app_at(url: str, namespace: str, keys: str) -> TrackedQueue:
    made = TrackedQueue(
        url, namespace=namespace, encryption_keys=keys, block=0.5, heartbeat_interval=0.2, heartbeat_ttl=2.0
    )

    @made.task(name="pay", unique=Unique(by="number"))
    async def pay(number: int, card: str, *, note: str = "") -> str:
        job = current_job()
        assert job.headers == {"who": SECRET}
        await job.progress(1, 2, f"card {card}")
        await job.log(f"charging {card}")
        await job.checkpoint({"card": card})
        return f"paid {card}"

    @made.task(name="fails", max_attempts=2, retry=[0.01])
    async def fails(card: str) -> None:
        raise ValueError(f"no such card: {card}")

    @made.task(name="discards")
    async def discards(card: str) -> None:
        raise Discard(card)

    @made.task(name="resumes")
    async def resumes(card: str) -> str:
        if current_job().saved is None:
            await current_job().checkpoint(card)
            raise RuntimeError("again")
        return str(current_job().saved)

    @made.task(name="join")
    async def join(cards: list[str]) -> str:
        return "+".join(cards)

    @made.task(name="give")
    async def give(card: str) -> str:
        return card

    return made


async def test_nothing_that_a_job_carries_is_readable_in_redis(server: RedisServer, namespace: str) -> None:
    async with app_at(server.url, namespace, NEW) as app:
        task = app.tasks.get
        pay, fails = task("pay"), task("fails")
        assert pay and fails
        paid = await pay.options(headers={"who": SECRET}).enqueue(1, SECRET, note=SECRET)
        waits = await pay.options(headers={"who": SECRET}, delay=600).enqueue(2, SECRET)
        assert not (await pay.options(headers={"who": SECRET}).enqueue(1, SECRET)).created, "unique keys hold"
        failed = await fails.enqueue(SECRET)
        discarded = await task("discards").enqueue(SECRET)  # type: ignore[union-attr]
        resumed = await task("resumes").enqueue(SECRET)  # type: ignore[union-attr]
        named = await app.enqueue("give", SECRET)
        group = await app.group([task("give").call(f"{SECRET}-{n}") for n in range(2)], then=task("join").step())  # type: ignore[union-attr]
        async with running_worker(app):
            assert await paid.result(10) == f"paid {SECRET}"
            assert await resumed.result(20) == SECRET
            assert await named.result(10) == SECRET
            assert await group.then.result(10) == f"{SECRET}-0+{SECRET}-1"  # type: ignore[union-attr]
            with pytest.raises(JobFailedError, match=f"ValueError: no such card: {SECRET}"):
                await failed.result(10)
            with pytest.raises(JobFailedError):
                await discarded.result(10)
        info = await paid.info()
        assert info.progress and info.progress.note == f"card {SECRET}" and info.checkpoint == {"card": SECRET}
        assert [line.text for line in info.lines] == [f"charging {SECRET}"] and info.result == f"paid {SECRET}"
        assert (await failed.info()).reason == "attempts exhausted (2 of 2): ValueError"
        assert (await failed.info()).failures[0].message == f"no such card: {SECRET}"
        assert (await discarded.info()).reason == "discarded"
        await waits.status()
        with redis.Redis.from_url(admin(server.url)) as client:
            for key in client.scan_iter(match=connections_of(app).keys.tag.replace("{", "[{]") + "*"):
                content = client.dump(key) or b""
                texts = [content, key, *(client.hgetall(key) if client.type(key) == b"hash" else {}).values()]  # type: ignore[union-attr]
                assert not any(SECRET.encode() in text for text in texts), key


async def test_keys_are_rotated_while_jobs_wait(server: RedisServer, namespace: str) -> None:
    async with app_at(server.url, namespace, "") as before, app_at(server.url, namespace, OLD) as old:
        plain = await before.tasks.get("give").enqueue("plain")  # type: ignore[union-attr]
        sealed = await old.tasks.get("give").enqueue("old")  # type: ignore[union-attr]
        async with app_at(server.url, namespace, f"{NEW}, {OLD}") as new:
            fresh = await new.tasks.get("give").enqueue("new")  # type: ignore[union-attr]
            async with running_worker(new):
                assert [await new.job(job.id).result(10) for job in (plain, sealed, fresh)] == ["plain", "old", "new"]
            with pytest.raises(SealedError, match="a key that is not among"):
                await old.job(fresh.id).result(5)
            with pytest.raises(SealedError, match="encryption_keys is not set here"):
                await before.job(fresh.id).result(5)
            shown = await old.job(fresh.id).info()
            assert shown.result is None and shown.sealed, "a report shows the rest"
            assert not (await new.job(fresh.id).info()).sealed


async def test_a_first_key_is_brought_to_everyone_before_it_is_used(server: RedisServer, namespace: str) -> None:
    async with app_at(server.url, namespace, f"plain,{NEW}") as stage, app_at(server.url, namespace, NEW) as app:
        assert not connections_of(stage).cipher.active and connections_of(app).cipher.active
        early = await stage.tasks.get("give").enqueue("early")  # type: ignore[union-attr]
        (args,) = await connections_of(stage).store.read(
            ("HGET", connections_of(stage).keys.named("job", early.id), "args")
        )
        assert b"early" in args
        sealed = await app.tasks.get("give").enqueue("sealed")  # type: ignore[union-attr]
        assert await stage.run_worker(burst=True, handle_signals=False) == 0
        assert [await app.job(job.id).result(5) for job in (early, sealed)] == ["early", "sealed"]


async def test_a_worker_without_the_key_sets_the_job_aside_and_a_requeue_runs_it(
    server: RedisServer, namespace: str
) -> None:
    async with app_at(server.url, namespace, NEW) as app, app_at(server.url, namespace, OTHER) as other:
        give = app.tasks.get("give")
        assert give is not None
        jobs = [await give.enqueue(SECRET), await give.options(headers={"a": 1}).enqueue(SECRET)]
        assert await other.run_worker(burst=True, handle_signals=False) == 0
        for job in jobs:
            info = await job.info()
            assert info.state is State.DEAD and "encrypted" in str(
                (await other.job(job.id).info()).error or info.reason
            )
        from tracked_queue.protocol.transitions import requeue

        await connections_of(app).store.run(requeue([job.id for job in jobs]))
        assert await app.run_worker(burst=True, handle_signals=False) == 0
        assert [await job.result(5) for job in jobs] == [SECRET, SECRET]


async def test_tampered_bytes_are_refused(server: RedisServer, namespace: str) -> None:
    async with app_at(server.url, namespace, NEW) as app:
        give = app.tasks.get("give")
        assert give is not None
        job = await give.enqueue(SECRET)
        key = connections_of(app).keys.named("job", job.id)
        (args,) = await connections_of(app).store.read(("HGET", key, "args"))
        await connections_of(app).store.read(("HSET", key, "args", args[:-5] + b"AAAA="))
        assert await app.run_worker(burst=True, handle_signals=False) == 0
        assert await job.status() is State.DEAD


def test_keys_are_never_shown(server: RedisServer, namespace: str) -> None:
    app = app_at(server.url, namespace, f"{NEW},{OLD}")
    shown = [repr(app), repr(app.settings), str(app.settings.shown("encryption_keys"))]
    with pytest.raises(SettingsError) as wrong:
        TrackedQueue(encryption_keys=f"{NEW[:-4]}")
    with pytest.raises(SettingsError) as kind:
        TrackedQueue(encryption_keys=[NEW])
    shown += [str(wrong.value), repr(wrong.value), str(kind.value), repr(kind.value.__cause__)]
    environment = {**os.environ, "TRACKED_QUEUE_ENCRYPTION_KEYS": f"{NEW},{OLD}"}
    for options in ([], ["--json"]):
        command = [sys.executable, "-m", "tracked_queue", "config", *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        shown.append(done.stdout + done.stderr)
    assert "***,***" in shown[-1] and json.loads(done.stdout)
    assert not any(key[:12] in text for text in shown for key in (NEW, OLD))
    with pytest.raises(SettingsError, match="must be a Fernet key"):
        resolve({}, environ={"TRACKED_QUEUE_ENCRYPTION_KEYS": "x"}) and Cipher(["x"])


async def test_logs_never_carry_arguments(server: RedisServer, namespace: str) -> None:
    async with app_at(server.url, namespace, "") as app:
        give = app.tasks.get("give")
        assert give is not None
        with capture_logs() as logs:
            await give.enqueue(SECRET)
            assert await asyncio.wait_for(app.run_worker(burst=True, handle_signals=False), 20) == 0
        assert logs and SECRET not in str(logs)


@pytest.mark.parametrize(
    ("reason", "left"),
    [
        ("attempts exhausted (3 of 3): shop.NoCard: 4929: x", "attempts exhausted (3 of 3): shop.NoCard"),
        ("not retried: ValueError: x", "not retried: ValueError"),
        ("ValueError: x", "ValueError"),
        ("ValueError", "ValueError"),
        ("discarded: secret", "discarded"),
        ("set aside: a: b", "set aside"),
        ("cancelled while it ran", "cancelled while it ran"),
        ("", ""),
    ],
)
def test_what_is_left_of_a_reason(reason: str, left: str) -> None:
    assert without_text(reason) == left
