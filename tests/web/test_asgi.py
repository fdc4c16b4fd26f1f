"""A queue beside FastAPI and Starlette: what docs/how-to/fastapi.md promises."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.responses import StreamingResponse

from tests.harness import running_worker
from tracked_queue import TrackedQueue, UsageError, current_job
from tracked_queue.app import connections_of
from tracked_queue.asgi import WebState, attach, job_events, lifespan_of
from tracked_queue.chaos.server import RedisServer


class Counted:
    """How often a lifespan was entered and left."""

    def __init__(self, yields: Any = None) -> None:
        self.entered = self.left = 0
        self.yields = yields

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[Any]:
        self.entered += 1
        app.state.pool = f"pool {self.entered}"
        yield self.yields
        self.left += 1


@pytest.fixture
def queue(server: RedisServer, namespace: str) -> TrackedQueue:
    return TrackedQueue(server.url, namespace=namespace)


@pytest.mark.parametrize("kind", [FastAPI, Starlette])
@pytest.mark.parametrize("yields", [None, {"http": "client"}])
def test_the_queue_opens_and_closes_with_the_application(queue: TrackedQueue, kind: Any, yields: Any) -> None:
    counted = Counted(yields)
    web = kind(lifespan=counted.lifespan)
    attach(web, queue)

    @queue.task()
    async def work(n: int) -> int:
        return n

    async def order(request: Any) -> Any:
        from starlette.responses import JSONResponse

        job = await work.enqueue(1)
        return JSONResponse({"id": job.id, "http": getattr(request.state, "http", None)})

    web.add_route("/order", order, methods=["POST"])
    for times in (1, 2):  # a second start, with an event loop of its own
        with TestClient(web) as client:
            assert counted.entered == times
            answer = client.post("/order").json()
            assert answer["http"] == (yields or {}).get("http")
            assert connections_of(queue).are_open
        assert counted.left == times and not connections_of(queue).are_open


async def test_endpoints_work_without_the_lifespan(app: TrackedQueue) -> None:
    """As in a test with httpx alone: connections open at their first use."""
    web = FastAPI()
    attach(web, app)

    @app.task()
    async def work(n: int) -> int:
        return n * 2

    @web.post("/order/{n}")
    async def order(n: int) -> str:
        return (await work.enqueue(n)).id

    async with httpx.AsyncClient(transport=httpx.ASGITransport(web), base_url="http://t") as client:
        id = (await client.post("/order/4")).json()
    async with running_worker(app):
        assert await app.job(id).result(10) == 8


async def test_a_worker_enters_the_web_application_s_lifespan_once(
    server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted({"http": "client"})
    queue = TrackedQueue(server.url, namespace=namespace, lifespan=lifespan_of("shop_main:app"))
    other = TrackedQueue(server.url, namespace=namespace + "b")

    @queue.task()
    async def look() -> list[Any]:
        state = current_job().state
        assert isinstance(state, WebState) and not hasattr(state, "nothing")
        with pytest.raises(KeyError, match="nothing"):
            state["nothing"]
        return [state.http, state["pool"], state.app is web, counted.entered]

    web = FastAPI(lifespan=counted.lifespan)
    attach(web, other)
    attach(web, queue)
    module = ModuleType("shop_main")
    module.app = web  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "shop_main", module)
    async with running_worker(queue):
        assert await (await look.enqueue()).result(10) == ["client", "pool 1", True, 1]
    assert (counted.entered, counted.left) == (1, 1)
    await queue.aclose()
    await other.aclose()


@pytest.mark.parametrize("how", ["attach", "by hand"])
async def test_a_worker_inside_of_the_web_application_enters_nothing_again(
    server: RedisServer, namespace: str, how: str
) -> None:
    web = FastAPI()
    queue = TrackedQueue(server.url, namespace=namespace, lifespan=lifespan_of(web))
    entered = 0

    @queue.task()
    async def look() -> list[Any]:
        return [current_job().state.pool, entered]

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        nonlocal entered
        entered += 1
        app.state.pool = "pool"
        if how == "attach":
            yield
            return
        worker = asyncio.create_task(queue.run_worker(handle_signals=False))
        yield
        worker.cancel()
        await asyncio.wait({worker})

    web.router.lifespan_context = lifespan
    attach(web, queue, worker=how == "attach")

    async def used() -> None:
        async with web.router.lifespan_context(web):
            assert await (await look.enqueue()).result(10) == ["pool", 1]

    await asyncio.create_task(used())


async def test_fastapi_s_overrides_hold_in_jobs(app: TrackedQueue) -> None:
    def settings() -> str:
        return "real"

    web = FastAPI()
    attach(web, app)

    @app.task()
    async def work(*, which: Annotated[str, Depends(settings)]) -> str:
        return which

    other = FastAPI()
    attach(other, app)
    web.dependency_overrides[settings] = lambda: "test"
    async with running_worker(app):
        assert await (await work.enqueue()).result(10) == "test"  # type: ignore[call-arg]
        web.dependency_overrides = {}
        assert await (await work.enqueue()).result(10) == "real"  # type: ignore[call-arg]
        other.dependency_overrides = {settings: lambda: "other"}
        assert await (await work.enqueue()).result(10) == "other"  # type: ignore[call-arg]


async def test_routers_that_are_included_later_change_nothing(server: RedisServer, namespace: str) -> None:
    """FastAPI puts their lifespans around what is there."""
    entered = []

    @contextlib.asynccontextmanager
    async def of_router(app: Any) -> AsyncIterator[dict[str, str]]:
        entered.append("router")
        yield {"router": "state"}

    web = FastAPI(lifespan=Counted({"http": "client"}).lifespan)
    queue = TrackedQueue(server.url, namespace=namespace, lifespan=lifespan_of(web))

    @queue.task()
    async def look() -> list[str]:
        return [current_job().state.http, current_job().state.router]

    attach(web, queue, worker=True)
    web.include_router(APIRouter(lifespan=of_router))
    with pytest.raises(UsageError, match="already"):
        attach(web, queue)
    async with running_worker(queue):
        assert await (await look.enqueue()).result(10) == ["client", "state"]
        assert len(await queue.operator.instances()) == 1, "no worker within the worker"
    assert entered == ["router"]
    await queue.aclose()


async def test_a_worker_in_the_web_process_takes_the_application_that_is_served(
    server: RedisServer, namespace: str
) -> None:
    """Also where the worker is told to make one."""
    queue = TrackedQueue(server.url, namespace=namespace, lifespan=lifespan_of("no_such_module:create_app()"))
    counted = Counted({"app": "mine", "yielded": "too"})
    web = FastAPI(lifespan=counted.lifespan)
    attach(web, queue, worker=True)

    @queue.task()
    async def look() -> list[Any]:
        state = current_job().state
        return [state.pool, state.app is web, state["app"], state.yielded]

    async def used() -> None:
        async with web.router.lifespan_context(web):
            assert await (await look.enqueue()).result(10) == ["pool 1", True, "mine", "too"]

    await asyncio.create_task(used())
    assert (counted.entered, counted.left) == (1, 1)


def parsed(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in lines:
            found.append((lines.get("event", "message"), json.loads(lines["data"])))
    return found


async def chunks(answer: StreamingResponse) -> str:
    return "".join([str(chunk) async for chunk in answer.body_iterator])


async def test_a_job_s_progress_is_streamed_until_its_end(app: TrackedQueue) -> None:
    go = asyncio.Event()

    @app.task()
    async def work(n: int) -> dict[str, int]:
        await current_job().progress(1, 2, "half")
        await go.wait()
        return {"n": 2**60}

    web = FastAPI()

    @web.get("/events/{id}")
    async def events(id: str, result: bool = False) -> StreamingResponse:
        return await job_events(app.job(id), result=result)

    async with (
        running_worker(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(web), base_url="http://t") as client,
    ):
        job = await work.enqueue(1)
        reading = asyncio.create_task(client.get(f"/events/{job.id}?result=1"))
        async for info in job.watch():
            if info.progress is not None:
                go.set()
        answer = await asyncio.wait_for(reading, 10)
        assert answer.headers["content-type"].startswith("text/event-stream") and answer.text.startswith("retry: 1000")
        got = parsed(answer.text)
        assert [name for name, _ in got[:-1]] == ["message"] * (len(got) - 1) and got[-1][0] == "end"
        last = got[-1][1]
        assert last == {
            "id": job.id, "state": "succeeded", "done": 1, "total": 2, "note": "half", "result": {"n": str(2**60)},
        }  # fmt: skip
        # One that has ended is told at once, without its result unless it is asked for.
        again = parsed((await client.get(f"/events/{job.id}")).text)
        assert len(again) == 1 and again[0][0] == "end" and "result" not in again[0][1]
        assert (await client.get("/events/none")).status_code == 404


async def test_a_stream_ends_after_its_time_and_says_nothing_meanwhile(
    app: TrackedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tracked_queue.asgi import events

    @app.task()
    async def work() -> None: ...

    monkeypatch.setattr(events, "QUIET_S", 0.02)
    job = await work.options(delay=60).enqueue()
    text = await chunks(await job_events(job, seconds=0.2))
    assert [name for name, _ in parsed(text)] == ["message"] and ": \n\n" in text


async def test_a_browser_that_leaves_ends_its_watch(app: TrackedQueue) -> None:
    @app.task()
    async def work() -> None: ...

    job = await work.options(delay=60).enqueue()
    answer = await job_events(job)
    reading = asyncio.create_task(chunks(answer))
    hub = connections_of(app).here().of_id(job.id).results
    while not hub._waiters:
        await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait({reading})
    assert not hub._waiters


async def test_without_redis_it_is_a_503(server: RedisServer) -> None:
    away = TrackedQueue("redis://127.0.0.1:1", reply_timeout=0.2)
    with pytest.raises(Exception) as raised:
        await job_events(away.job("x"))
    assert getattr(raised.value, "status_code", 0) == 503
    await away.aclose()


def test_wrong_uses_are_named(queue: TrackedQueue) -> None:
    web = FastAPI()
    attach(web, queue)
    for wrong, says in (
        (lambda: attach(web, queue), "already"), (lambda: attach(object(), queue), "FastAPI or Starlette"),
        (lambda: attach(web, "queue"), "TrackedQueue"),  # type: ignore[arg-type]
        (lambda: asyncio.run(job_events(queue.job("x"), seconds=-1)), "seconds"),  # type: ignore[arg-type]
        (lambda: lifespan_of("shop.main"), "module:app"), (lambda: lifespan_of("a b:c"), "module:app"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=says):
            wrong()


@pytest.mark.parametrize(
    ("path", "says"),
    [("no_such_module:app", "no_such_module"), ("json:nothing", "nothing"), ("json:dumps", "no lifespan")],
)
async def test_what_can_t_be_entered_is_named_when_a_worker_starts(
    server: RedisServer, namespace: str, path: str, says: str
) -> None:
    queue = TrackedQueue(server.url, namespace=namespace, lifespan=lifespan_of(path))

    @queue.task()
    async def work() -> None: ...

    with pytest.raises(Exception, match=says):
        await queue.run_worker(handle_signals=False, burst=True)
    await queue.aclose()
