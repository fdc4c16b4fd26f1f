"""Everything from Redis and from requests is hostile text: it is shown, and does nothing. No look changes anything."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.dashboard.conftest import Client, client_of
from tests.harness import Scripts, request
from tracked_queue import TrackedQueue
from tracked_queue.app import connections_of
from tracked_queue.chaos.server import RedisServer
from tracked_queue.dashboard import dashboard
from tracked_queue.dashboard.access import ACTIONS
from tracked_queue.dashboard.pages import PAGES
from tracked_queue.dashboard.text import shown
from tracked_queue.protocol import transitions as t
from tracked_queue.protocol.scripts import load_scripts
from tracked_queue.protocol.version import NEWEST

# What would act if it were not escaped: as an element, in an attribute, in a URL, for a reader's eyes.
PROBES = [
    "<script>probe()</script>", "\"><img src=x onerror=probe()>", "' onmouseover='probe()", "javascript:probe()", "//evil.example/x", "{{7*7}}{% raw %}",
    "</title><svg/onload=probe()>", "a/b/../../c?d=e&f=g#h", "\u202egnp.exe\u2066", "nul\x00bell\x07esc\x1b[31m\r\nSet-Cookie: x=y", "%2e%2e%2f%00", "é" * 200,
    "\u200b\u2028zero", "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
]  # fmt: skip
# Elements and attributes of ours.
ELEMENTS = {
    "html",
    "head",
    "meta",
    "title",
    "link",
    "script",
    "body",
    "a",
    "header",
    "strong",
    "nav",
    "span",
    "form",
    "label",
    "input",
    "button",
    "small",
    "main",
    "p",
    "div",
    "h1",
    "h2",
    "footer",
    "kbd",
    "section",
    "dl",
    "dt",
    "dd",
    "ul",
    "ol",
    "li",
    "table",
    "caption",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "time",
    "code",
    "pre",
    "details",
    "summary",
    "figure",
    "figcaption",
    "svg",
    "line",
    "text",
    "polyline",
    "rect",
    "select",
    "option",
    "em",
    "b",
    "br",
}
ATTRIBUTES = {
    "lang",
    "charset",
    "name",
    "content",
    "rel",
    "href",
    "type",
    "src",
    "defer",
    "class",
    "id",
    "tabindex",
    "data-floor",
    "data-live",
    "data-key",
    "data-problem",
    "action",
    "role",
    "method",
    "value",
    "maxlength",
    "placeholder",
    "autocomplete",
    "for",
    "aria-label",
    "aria-current",
    "aria-live",
    "aria-labelledby",
    "aria-hidden",
    "scope",
    "hidden",
    "datetime",
    "viewbox",
    "width",
    "height",
    "x",
    "y",
    "x1",
    "x2",
    "y1",
    "y2",
    "rx",
    "points",
    "text-anchor",
    "preserveaspectratio",
    "selected",
    "required",
    "inputmode",
    "size",
    "http-equiv",
    "formaction",
    "formmethod",
    "open",
    "checked",
}


class Page(HTMLParser):
    """A page as a browser takes it apart: its elements, its links, and what in it is not ours."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ELEMENTS:
            self.wrong.append(f"<{tag}>")
        for name, value in attrs:
            if name not in ATTRIBUTES:
                self.wrong.append(f"{tag} {name}={value!r}")
            if name in ("href", "src", "action", "formaction"):
                if not (value.startswith("#") or (value.startswith("/") and not value.startswith(("//", "/\\")))):
                    self.wrong.append(f"{tag} {name}={value!r}")
                if name == "href" and not value.startswith("#"):
                    self.links.append(value)
            if (
                tag == "script"
                and name == "src"
                and not re.fullmatch(r"(/jobs)?/static/dashboard\.[0-9a-f]{12}\.js", value)
            ):
                self.wrong.append(f"script {value!r}")

    def handle_decl(self, decl: str) -> None:
        if decl != "doctype html":
            self.wrong.append(decl)

    def handle_comment(self, data: str) -> None:
        self.wrong.append(f"comment {data!r}")


def check(answer: httpx.Response) -> Page | None:
    """What must hold of every answer."""
    about = answer.headers
    assert answer.status_code < 500, (answer.request.url, answer.text[-300:])
    assert about["x-content-type-options"] == "nosniff" and "default-src 'none'" in about["content-security-policy"]
    assert about["referrer-policy"] == "same-origin" and "set-cookie" not in about
    if "/static/" not in answer.request.url.path:
        assert about["cache-control"] == "no-store"
    if 300 <= answer.status_code < 400:
        assert re.match(r"/(?![/\\])", about["location"]), about["location"]
        return None
    kind = about["content-type"]
    if kind.startswith("text/html"):
        found = Page(answer.text)
        assert not found.wrong, (answer.request.url, found.wrong[:5])
        invisible = [char for char in answer.text if not char.isprintable() and char not in "\n\t"]
        assert not invisible, (answer.request.url, invisible[:5])
        return found
    if kind == "application/json":
        answer.json()
    else:
        assert kind.split(";")[0] in ("text/plain", "text/css", "text/javascript", "image/svg+xml"), kind
    return None


@pytest.fixture
def hostile(server: RedisServer, namespace: str) -> Iterator[Scripts]:
    """Jobs, queues, tasks, instances, schedules, limits and errors whose names are the probes, past all checks of the library."""
    q = Scripts(server.url, namespace, load_scripts())
    for at, probe in enumerate(PROBES):
        name = probe[:200]
        about = dict.fromkeys(
            ("label", "host", "version", "queues", "tasks", "machine", "born", "program", "pid", "concurrency", "most"),
            name,
        )
        q.store.run(t.register(f"{name}.{at}", 600, 20, about))
        q.store.run(t.enqueue([request(f"{name}/{n}", task=name, queue=name) for n in range(4)]))
        fetched = q.store.run(t.fetch(f"{name}.{at}", 1, 3, 0, [name]))
        kinds = (t.OutcomeKind.DEAD, t.OutcomeKind.FAILED)
        q.store.run(
            t.settle(
                f"{name}.{at}",
                [
                    t.Outcome(job.id, job.delivery, kind, 1, b"", name)
                    for job, kind in zip(fetched.jobs, kinds, strict=False)
                ],
                120.0,
            )
        )
        q.store.run(t.schedule([(name, name, name, name)]))
        q.store.run(t.act(name, name, '{"' + "what" + '": "x"}'))
        q.store.run(t.pause(f"queue:{name}"))
        keys = q.keys
        q.redis.hset(keys.single("limits"), name, "1")
        q.redis.hset(
            keys.record_of(f"{name}/1"),
            mapping={
                "progress": b"\xc1",
                "checkpoint": b"\xc1",
                "line:0": b"1 x",
                "lines": "1",
                "unique": name,
                "lane": name,
            },
        )
        if at % 3 == 0:
            q.store.run(t.release(f"{name}.{at}", t.End.DIED))
    # What something else wrote under our names.
    q.redis.hset(
        q.keys.record_of("odd"),
        mapping={"state": "no state", "task": b"\xff\xfe", "queue": "q", "queued_ms": "9" * 30, "delivery": "x"},
    )
    q.redis.zadd(q.keys.single("dead"), {"odd": 1e300, "no record": 5})
    q.redis.lpush(q.keys.single("acts"), b"\xc1", b"x")
    yield q
    q.close()


async def test_a_crawler_finds_nothing_that_acts_and_changes_nothing(
    hostile: Scripts, app: TrackedQueue, web: Client
) -> None:
    await app.operator.queues()
    before = hostile.snapshot()
    client = web(prefix="/jobs", badge="<b>prod</b>")
    seen, kinds = set[str](), dict[str, int]()
    waiting = [
        "/jobs/",
        *(f"/jobs/search?q={quote(probe[:200])}" for probe in PROBES),
        *(f"/jobs/workflow?id={quote(probe[:200] + '/3', safe='')}" for probe in PROBES),
    ]
    while waiting:
        path = waiting.pop()
        kind = urlsplit(path).path
        if path in seen or kinds.get(kind, 0) >= 60:
            continue
        seen.add(path)
        kinds[kind] = kinds.get(kind, 0) + 1
        answer = await client.get(path)
        page = check(answer)
        assert answer.status_code in (200, 303, 400, 404), (path, answer.text[-300:])
        waiting += page.links if page else []
    assert {f"/jobs{page}" for page in PAGES} - {"/jobs/bulk/act"} <= set(kinds), "it came to every page"
    after = hostile.snapshot()
    assert {
        key: value for key, value in after.items() if before.get(key) != value
    } == {} and before.keys() == after.keys()


async def test_every_probe_is_shown_as_it_is(hostile: Scripts, web: Client) -> None:
    """Nothing is swallowed: what can be seen is there, what can't is an escape."""
    text = (await web().get("/queues")).text
    from html import unescape

    for probe in PROBES:
        assert shown(probe[:200]) in unescape(text), probe
    assert "\\u202egnp.exe" in text and "\u202e" not in text and "\\x00" in text


TEXTS = st.one_of(st.sampled_from(PROBES), st.text(max_size=300))
POSTED = [f"/act/{action}" for action in (*ACTIONS, "nothing")] + [
    "/bulk/start",
    "/api/bulk/start",
    "/login",
    "/logout",
    "/queues",
    "/api/act/cancel",
]
NAMES = ["name", "id", "q", "like", "queue", "task", "error", "from", "state", "action", "sort", "older", "hours", "newest", "group", "lease", "rate", "limit",
         "minutes", "told", "back", "counted", "typed", "by"]  # fmt: skip


class _Held:
    """One app, loop and client for all examples."""

    def __init__(self, url: str, namespace: str) -> None:
        self.runner = asyncio.Runner()
        self.app = TrackedQueue(url, namespace=namespace)
        self.pages = dashboard(self.app)
        self.client = client_of(self.pages)

    def ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        return self.runner.run(self.client.request(method, path, **given))

    def close(self) -> None:
        self.runner.run(self.pages.aclose())
        self.runner.run(self.client.aclose())
        self.runner.run(self.app.aclose())
        self.runner.close()


@pytest.fixture
def held(server: RedisServer, namespace: str) -> Iterator[_Held]:
    made = _Held(server.url, namespace)
    yield made
    made.close()


_MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_MANY
@given(
    path=st.sampled_from(
        [*PAGES, "/api/", *(f"/api{one}" for one in PAGES), "/login", "/health", "/robots.txt", "/static/x", "/n/x/"]
    ),
    query=st.lists(st.tuples(st.one_of(st.sampled_from(NAMES), st.text(max_size=20)), TEXTS), max_size=6),
)
def test_no_query_breaks_a_page(hostile: Scripts, held: _Held, path: str, query: list[tuple[str, str]]) -> None:
    encoded = "&".join(
        f"{quote(name, safe='', errors='replace')}={quote(value, safe='', errors='replace')}" for name, value in query
    )
    check(held.ask("GET", f"{path}?{encoded}"))


@_MANY
@given(
    path=st.sampled_from(POSTED),
    fields=st.dictionaries(
        st.one_of(st.sampled_from([*NAMES, "ids", "user", "password"]), st.text(max_size=20)), TEXTS, max_size=6
    ),
    as_json=st.booleans(),
)
def test_no_form_breaks_an_act(held: _Held, path: str, fields: dict[str, str], as_json: bool) -> None:
    fields = {
        name.encode("utf-8", "replace").decode(): value.encode("utf-8", "replace").decode()
        for name, value in fields.items()
    }
    check(held.ask("POST", path, **({"json": fields} if as_json else {"data": fields})))


@_MANY
@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.sampled_from(
            [b"[]", b"null", b'{"ids": [[1]]}', b'{"name": true}', b"{" * 5000, b'{"ids": "' + b"x" * 70_000 + b'"}']
        ),
    ),
    kind=st.sampled_from(
        ["application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", ""]
    ),
)
def test_no_body_breaks_an_act(held: _Held, body: bytes, kind: str) -> None:
    check(
        held.ask(
            "POST", "/api/act/cancel", content=body, headers={"Content-Type": kind, "Sec-Fetch-Site": "same-origin"}
        )
    )


@_MANY
@given(
    name=st.sampled_from(
        [
            "Host",
            "Origin",
            "Sec-Fetch-Site",
            "Cookie",
            "Authorization",
            "Referer",
            "Accept",
            "X-Forwarded-Host",
            "X-Forwarded-Prefix",
            "Range",
        ]
    ),
    value=st.one_of(st.sampled_from([probe.encode("utf-8") for probe in PROBES]), st.binary(max_size=100)),
    path=st.sampled_from(["/", "/queues", "/api/jobs"]),
)
def test_no_header_breaks_a_page(held: _Held, name: str, value: bytes, path: str) -> None:
    value = bytes(byte for byte in value if byte not in b"\r\n\x00")
    answer = held.ask("GET", path, headers={name.encode(): value})
    check(answer)
    assert "evil.example" not in answer.headers.get("location", "")


@pytest.mark.parametrize("back", ["//evil.example", "https://evil.example/", "/\\evil.example", "\\\\evil.example", "/login//evil.example", "javascript:probe()",
                                  "/n//evil.example", "/n/../../x", "http:evil.example", "//[", "/queues?told=x&a=b", " //evil.example", "/queues#//evil"])  # fmt: skip
async def test_a_redirect_stays_here(hostile: Scripts, web: Client, back: str) -> None:
    answer = await web().post("/act/pause_queue", params={"name": "q", "back": back})
    assert answer.status_code == 303
    where = urlsplit(answer.headers["location"])
    assert (
        (where.scheme, where.netloc) == ("", "")
        and where.path.startswith("/")
        and not where.path.startswith("//")
        and "\\" not in where.path
    )
    assert [name for name, _ in parse_qsl(where.query)].count("told") == 1


@pytest.mark.parametrize("told", ["x", "x.y", "WyJoYWNrZWQiLCB0cnVlXQ==.0000", "." * 100, "é.é"])
async def test_nobody_puts_words_into_our_mouth(web: Client, told: str) -> None:
    answer = await web().get("/queues", params={"told": told})
    assert answer.status_code == 200 and 'class="told' not in answer.text


@pytest.mark.parametrize(
    ("prefix", "stripped", "asked"),
    [
        ("", False, ""),
        ("/a/b", False, "/a/b"),
        ("/a/b", True, ""),
        ("/queues", False, "/queues"),
        ("/queues", True, ""),
    ],
)
async def test_links_lead_below_the_prefix(
    hostile: Scripts, web: Client, prefix: str, stripped: bool, asked: str
) -> None:
    client = web(prefix=prefix, prefix_stripped=stripped)
    for path in ("/", "/queues", "/jobs"):
        answer = await client.get(f"{asked}{path}")
        assert answer.status_code == 200, path
        links = re.findall(r'(?:href|action|src)="([^"#][^"]*)"', answer.text)
        assert links and all(
            link.startswith(f"{prefix}/") and not link.startswith(f"{prefix}{prefix or '/'}/") for link in links
        ), links[:3]


@pytest.mark.parametrize("where", ["/jobs", "/a/b", "/queues"])
async def test_mounted_in_another_application(hostile: Scripts, app: TrackedQueue, where: str) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    outer = Starlette(routes=[Mount(where, app=dashboard(app))])
    client = client_of(outer)
    for path in ("/", "/queues", "/api/queues"):
        answer = await client.get(where + path)
        assert answer.status_code == 200, path
    links = re.findall(r'(?:href|action|src)="([^"#][^"]*)"', (await client.get(f"{where}/jobs")).text)
    assert all(link.startswith(f"{where}/") for link in links)
    for link in {link for link in links if "/static/" in link}:
        assert (await client.get(link)).status_code == 200
    done = await client.post(f"{where}/act/pause_queue", params={"name": "q", "back": "/queues"})
    assert done.headers["location"].startswith(f"{where}/queues?told=")
    await client.aclose()


async def test_frames_are_allowed_where_they_are_named(web: Client) -> None:
    answer = await web().get("/")
    assert (
        "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        and answer.headers["x-frame-options"] == "DENY"
    )
    answer = await web(frame_ancestors="'self' https://intranet.example").get("/")
    assert answer.headers["content-security-policy"].endswith("frame-ancestors 'self' https://intranet.example")
    assert "x-frame-options" not in answer.headers


async def test_a_head_has_no_body_and_a_static_file_is_kept(web: Client) -> None:
    answer = await web().head("/queues")
    assert answer.status_code == 200 and answer.content == b""
    page = (await web().get("/queues")).text
    style = re.search(r'href="(/static/[^"]+css)"', page)
    assert style
    kept = await web().get(style[1])
    assert "immutable" in kept.headers["cache-control"] and kept.headers["content-type"].startswith("text/css")
    assert (await web().get("/robots.txt")).text.startswith("User-agent")


async def test_a_redis_that_goes_away_leaves_the_last_picture(app: TrackedQueue, web: Client, namespace: str) -> None:
    own = RedisServer()
    try:
        there = TrackedQueue(own.url, namespace=namespace, connect_timeout=0.5, reply_timeout=1.0)
        await there.enqueue("something")
        client = web(there)
        assert (await client.get("/queues")).status_code == 200
        own.close()
        for _ in range(200):  # what was read shortly before is still shown
            answer = await client.get("/queues")
            if answer.status_code == 503:
                break
            await asyncio.sleep(0.02)
        assert answer.status_code == 503
        assert "Redis does not answer." in answer.text and "default" in answer.text and 'class="stale"' in answer.text
        other = await client.get("/jobs?state=dead")
        assert other.status_code == 503 and "jobs wait in Redis" in other.text
        assert (await client.get("/api/queues")).status_code == 503
        assert (await client.post("/api/act/pause_queue", json={"name": "default"})).status_code == 503
        await there.aclose()
    finally:
        own.close()


def test_what_can_not_be_seen_is_made_visible() -> None:
    assert shown("plain ünïcode 😀") == "plain ünïcode 😀"
    assert shown("a\x00b\x7f\u202e\ufeff\U000e0041") == "a\\x00b\\x7f\\u202e\\ufeff\\U000e0041"
    assert shown("a\nb\tc\r") == "a\\x0ab\\x09c\\x0d" and shown("a\nb\tc\r", lines=True) == "a\nb\tc\\x0d"


def test_every_connection_is_left_to_the_app(server: RedisServer, namespace: str) -> None:
    """A dashboard that was never asked anything opens nothing."""
    made = TrackedQueue(server.url, namespace=namespace)
    dashboard(made)
    assert not connections_of(made).are_open


async def test_times_beyond_the_calendar_are_shown(app: TrackedQueue, web: Client) -> None:
    from tests.rights import look

    keys = connections_of(app).keys
    job = await app.options(queue="q").enqueue("late")
    await look(app, "HSET", keys.record_of(job.id), "queued_ms", "253402300799000")
    for at, score in enumerate(("-inf", "-1e17", "1e17", "inf", "0")):
        await look(app, "ZADD", keys.single("dead"), score, f"odd-{at}")
    for zone in ("Asia/Tokyo", "America/New_York"):
        client = web(zone=zone)
        for path in (f"/job?id={job.id}", "/dead", "/jobs?state=dead", "/jobs?queue=q", "/api/dead"):
            check(await client.get(path))


async def test_ids_that_are_no_text_are_refused(web: Client) -> None:
    for body in (b'{"ids": ["\\ud800"]}', b'{"ids": ["\\u0000"]}', b'{"ids": [""]}'):
        answer = await web().post("/api/act/cancel", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, body


async def test_a_parameter_that_is_none_is_named(web: Client) -> None:
    answer = await web().get("/api/jobs?taks=x")
    assert answer.status_code == 400 and "did you mean 'task'" in answer.json()["error"]
    assert (await web().get("/api/jobs?older=15m")).status_code == 200


async def test_a_dashboard_that_was_there_before_the_fleet_finds_its_shards(
    server: RedisServer, namespace: str
) -> None:
    from tests.harness import wait_until

    early = TrackedQueue(server.url, namespace=namespace)
    pages = dashboard(early, find_shards=True)
    client = client_of(pages)
    assert (await client.get("/api/")).json()["totals"]["queued"] == 0
    async with TrackedQueue(server.url, namespace=namespace, shards=3) as fleet:
        for n in range(12):
            await fleet.options(queue="q").enqueue("task", n)

        async def seen() -> bool:
            for key in [key for key in pages._shared if key[1] == "shards"]:
                pages._shared[key]._until = 0.0  # as if it had been long ago
            return (await client.get("/api/queues")).json()["rows"][:1] != [] and (await client.get("/api/")).json()[
                "totals"
            ]["queued"] == 12

        await wait_until(seen)
        assert (await client.post("/api/act/pause_queue", json={"name": "q"})).status_code == 200
    await client.aclose()
    await early.aclose()


async def _has_instances(app: TrackedQueue) -> bool:
    return len(await app.operator.instances()) == app.settings.shards


async def test_slots_of_a_process_count_once_in_all_shards(server: RedisServer, namespace: str) -> None:
    from tests.harness import running_worker, wait_until

    app = TrackedQueue(server.url, namespace=namespace, shards=3, heartbeat_interval=0.2, heartbeat_ttl=2.0, block=1.0)

    @app.task(name="t", queue="q")
    async def task() -> None: ...

    await task.enqueue()
    client = client_of(dashboard(app))
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(app.aclose)
        await stack.enter_async_context(running_worker(app, concurrency=10))
        await wait_until(lambda: _has_instances(app), what="the instance in all shards")
        found = (await client.get("/api/")).json()
        assert (found["totals"]["slots"], found["totals"]["instances"], len(found["starts"])) == (10, 1, 1)
        (queue,) = (await client.get("/api/queues")).json()["rows"]
        assert queue["slots"] == 10
        assert (await client.get("/api/tasks")).json()["rows"][0]["instances"] == 1
        assert (await app.operator.scale(["q"])).slots == 10
    await client.aclose()


def test_one_dashboard_in_two_loops(server: RedisServer, namespace: str) -> None:
    app = TrackedQueue(server.url, namespace=namespace)
    pages = dashboard(app, find_shards=True)

    async def looks() -> None:
        client = client_of(pages)
        found = await asyncio.gather(*(client.get("/queues") for _ in range(5)))
        assert {one.status_code for one in found} == {200}
        await client.aclose()
        await app.aclose()

    for _ in range(2):
        asyncio.run(looks())


async def test_looks_at_the_same_thing_share_a_reading(app: TrackedQueue, web: Client) -> None:
    """Twenty tabs on any page that looks again by itself cost about what one does."""
    from benchmarks.bench_readers import Counting

    from tests.dashboard.conftest import Shop
    from tests.dashboard.test_pages import paths_of

    shop = await Shop(app).open()
    store = connections_of(app).store
    counting = store._caller = Counting(store._caller)
    client = web()
    for path in paths_of(shop).values():
        if path.startswith(("/bulk", "/confirm", "/search")):
            continue  # these don't look again
        await client.get(path)
        before = counting.commands
        for _ in range(20):
            assert (await client.get(path)).status_code == 200
        assert counting.commands - before < 200, path


async def test_a_rare_error_does_not_read_all_the_dead(app: TrackedQueue, web: Client) -> None:
    from benchmarks.bench_readers import Counting

    from tests.dashboard.conftest import Shop
    from tests.dashboard.test_acts import _dead

    shop = await Shop(app).open()
    await _dead(app, shop, 3000)
    store = connections_of(app).store
    counting = store._caller = Counting(store._caller)
    await web().get("/api/dead?newest=1&error=zzz")
    assert counting.commands < 1000


async def test_a_namespace_of_a_later_release_is_no_fault_of_who_asks(app: TrackedQueue) -> None:
    keys = connections_of(app).keys
    await connections_of(app).store.read(("SET", keys.protocol, NEWEST + 1))
    pages = dashboard(app, find_shards=True)
    async with client_of(pages) as client:
        for path in ("/", "/api/queues"):
            answer = await client.get(path)
            assert answer.status_code == 503 and "upgrade it" in answer.text
    await pages.aclose()
