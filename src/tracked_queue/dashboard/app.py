"""
The dashboard as an ASGI application: who asks is found out, what another site made a browser send is refused, and the answer is
a page, a redirect after an act, or JSON.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlencode
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import Receive, Send
from starlette.types import Scope as ASGIScope

from .. import log
from ..app import TrackedQueue, connections_of
from ..errors import (
    NotAllowedError,
    NotVisibleError,
    StoreRefusedError,
    StoreUnavailableError,
    TooManyLoginsError,
    TrackedQueueError,
    UnreadableJobError,
    UsageError,
    did_you_mean,
)
from ..model.checks import check_function
from ..model.plain import plain
from ..operator.many import MANY_ACTIONS
from ..operator.picture import Shared
from .access import ACTIONS, Access, Identity, Rights
from .bulk import Bulks
from .desk import Desk, Done
from .entry import Entry
from .forms import read_form, read_ids
from .guard import OPENER, SAFE_METHODS, headers, is_trustworthy
from .logins import Login, Users
from .minutes import Minutes
from .openapi import document
from .pages import PAGES
from .pages.bulk import BULK_PARAMS, UNTYPED, BulkPlan, bulk_plan, selection_of
from .pages.page import Ask, Cursors, Page, Param
from .sites import Place, Sites, Source, here, own_path
from .static import STATIC
from .templates import Templates
from .text import link
from .told import Told

# Readings and last pages that are kept, the latest used.
MOST_SHARED, MOST_LAST = 500, 200
_COUNTED = Param(name="counted", doc="how many jobs the plan found", least=1, most=10**9, needed=True)
_NAME = Param(name="name", doc="The queue, task, schedule or instance.", length=1000)
# The first that fits counts; other errors of ours: it can't be done as things are.
_STATUSES: tuple[tuple[type[TrackedQueueError], int], ...] = (
    (UsageError, 400),
    (NotAllowedError, 403),
    (NotVisibleError, 404),
    (UnreadableJobError, 404),
    (TooManyLoginsError, 429),
    (StoreUnavailableError, 503),
    (StoreRefusedError, 503),
)


class Dashboard:
    """See `dashboard`."""

    def __init__(
        self,
        sources: Sequence[Source],
        access: Access,
        *,
        login: Login | Users | None,
        insecure: bool,
        prefix: str,
        prefix_stripped: bool,
        hosts: Sequence[str],
        frame_ancestors: str,
        badge: str,
        zone: ZoneInfo,
        floor: int,
    ) -> None:
        self._sites = Sites(sources, prefix, prefix_stripped)
        self._access = access
        self._entry = Entry(login, insecure, hosts, self._page, self._problem)
        self._headers = headers(frame_ancestors)
        self._zone = zone
        self._templates = Templates(badge=badge, zone=zone, floor=floor)
        self._told = Told()
        self._shared: OrderedDict[tuple[str, Hashable], Shared[Any]] = OrderedDict()
        self._last: OrderedDict[Hashable, Any] = OrderedDict()
        self._minutes, self._bulks, self._cursors = Minutes(), Bulks(), Cursors()

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] == "http":
            request = Request(scope, receive)
            response = await self._answer(request)
            for name, value in self._headers.items():
                response.headers.setdefault(name, value)
            if is_trustworthy(request.url.scheme, request.headers):
                response.headers.setdefault(*OPENER)
            if request.method == "HEAD":
                response.body = b""
            with contextlib.suppress(ClientDisconnect):
                await response(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def aclose(self) -> None:
        """End bulk actions that run; what they did is noted."""
        await self._bulks.close()

    # From a request to an answer

    async def _answer(self, request: Request) -> Response:
        api, root, known = False, "", dict[str, Any]()
        try:
            root, path = self._sites.split(request.scope)
            if (found := _static(path)) is not None:
                return found
            if request.method not in (*SAFE_METHODS, "POST"):
                return self._problem(405, "only GET and POST are answered here", root, api=True)
            who = await self._entry.who(request)
            if path in ("/login", "/logout"):
                return await self._entry.log_in_or_out(request, root, path)
            api = self._sites.is_api(path)
            if who is None:
                return self._entry.ask(request, root, path, api)
            if (other := self._sites.elsewhere(request, root, path)) is not None:
                return RedirectResponse(other, status_code=303)
            place = self._sites.place(root, path)
            api = place.api
            known = {"place": place, "desk": self._bare_desk(place, who), "request": request}
            if request.method == "POST":
                self._entry.must_be_own(request)
                return await self._post(request, place, who)
            return await self._get(request, place, who)
        except ClientDisconnect:
            return Response(status_code=400)
        except TrackedQueueError as error:
            status = next((code for kind, code in _STATUSES if isinstance(error, kind)), 409)
            return self._problem(status, str(error), root, api=api, acted=request.method == "POST", **known)
        except Exception as error:
            log.dashboard_failed(path=request.url.path[:300], error=f"{type(error).__qualname__}: {error}"[:300])
            return self._problem(500, "the dashboard failed; its log says how", root, api=api, **known)

    # Looking

    async def _get(self, request: Request, place: Place, who: Identity) -> Response:
        if place.api and place.path == "/openapi.json":
            return JSONResponse(document(place.base, self._access.read_only))
        found = PAGES.get(place.path)
        if found is None:
            raise NotVisibleError("there is no such page")
        desk = await self._desk(place, who)
        query = dict(request.query_params)
        names = [*(one.name for one in found.params), "told", *(["ids"] if found.with_ids else [])]
        for name in query:
            if name not in names:
                raise UsageError(f"{name[:60]!r}: there is no such parameter here; {did_you_mean(name, names)}")
        ids = [unquote(one) for one in request.query_params.getlist("ids")]
        ask = self._ask(desk, found.params, query, ids)
        key = (who, place.base, place.path, tuple(sorted(query.items())), tuple(ids))
        try:
            content = await found.read(ask)
        except StoreUnavailableError as error:
            if place.api or key not in self._last:
                raise
            return self._show(503, found, self._last[key], place, desk, query, stale=str(error))
        if place.api:
            return JSONResponse(plain(content, exact=True))
        self._last[key] = content
        self._last.move_to_end(key)
        while len(self._last) > MOST_LAST:
            self._last.popitem(last=False)
        return self._show(200, found, content, place, desk, query)

    def _ask(self, desk: Desk, params: Sequence[Param], given: Mapping[str, str], ids: Sequence[str] = ()) -> Ask:
        args = {one.name: one.read(given.get(one.name)) for one in params}
        return Ask(desk, args, ids, self._bulks, self._minutes, self._zone, self._cursors)

    async def _desk(self, place: Place, who: Identity) -> Desk:
        source = place.source
        if source.find_shards:
            # Until it is known: a dashboard may be there before the fleet.
            key = source.app.settings.namespace, "shards"
            source.find_shards = not await self._read_shared(key, 5.0, connections_of(source.app).find_shards)
        return self._bare_desk(place, who)

    def _bare_desk(self, place: Place, who: Identity) -> Desk:
        return Desk(place.source.app, who, self._access, self._read_shared)

    async def _read_shared(self, key: tuple[str, Hashable], seconds: float, read: Callable[[], Awaitable[Any]]) -> Any:
        found = self._shared.get(key)
        if found is None:
            found = self._shared[key] = Shared(read, seconds)
            while len(self._shared) > MOST_SHARED:
                self._shared.popitem(last=False)
        self._shared.move_to_end(key)
        return await found.get()

    def _show(
        self,
        status: int,
        page: Page,
        content: Any,
        place: Place,
        desk: Desk,
        query: Mapping[str, str],
        stale: str = "",
    ) -> Response:
        return self._page(
            status,
            page.template,
            place.root,
            place.base,
            page.title,
            page=content,
            desk=desk,
            query=query,
            path=place.path,
            stale=stale,
            told=self._told.read(query.get("told", "")),
            here=here(place.path, query),
            api=link(place.base, f"/api{place.path}", **{k: v for k, v in query.items() if k != "told"}),
        )

    def _page(self, code: int, template: str, root: str, base: str, title: str, **more: Any) -> Response:
        text = self._templates.render(
            template,
            root=root,
            base=base,
            title=title,
            namespaces=self._sites.names,
            has_logout=self._entry.has_logout,
            **more,
        )
        return Response(text, code, media_type="text/html")

    def _problem(
        self,
        status: int,
        said: str,
        root: str,
        *,
        api: bool,
        acted: bool = False,
        place: Place | None = None,
        desk: Desk | None = None,
        request: Request | None = None,
    ) -> Response:
        """What was not done, and why; with the pages to go on to, where it is known who asks."""
        if api:
            return JSONResponse({"error": plain(said)}, status)
        more: dict[str, Any] = {}
        if place is not None and desk is not None and request is not None:
            query = dict(request.query_params)
            back = query.get("back", "/")
            if place.path == "/bulk/start":
                names = {one.name for one in BULK_PARAMS}
                back = f"/bulk/plan?{urlencode({name: value for name, value in query.items() if name in names})}"
            more = {
                "desk": desk,
                "path": place.path,
                "told": self._told.read(query.get("told", "")),
                "back": own_path(place.base, back),
            }
        return self._page(
            status,
            "problem.html",
            root,
            place.base if place else root,
            "Not done" if status < 500 else "Redis does not answer" if status == 503 else "Internal error",
            status=status,
            said=said,
            acted=acted,
            **more,
        )

    # Acting

    async def _post(self, request: Request, place: Place, who: Identity) -> Response:
        desk = await self._desk(place, who)
        form = {**dict(request.query_params), **await read_form(request)}
        ids = [*request.query_params.getlist("id"), *(await read_ids(request))]
        kind, _, name = place.path.removeprefix("/").partition("/")
        if kind == "act":
            done = await self._act(desk, name, form, ids)
            back = form.get("back") or "/"
        elif place.path == "/bulk/start":
            done, back = await self._start(desk, form)
        else:
            raise NotVisibleError("there is no such act")
        for key in [one for one in self._shared if one[0] == desk.namespace]:
            del self._shared[key]  # what was read before shows it as it was
        if place.api:
            return JSONResponse(plain(done, exact=True), 200 if done.ok else 409)
        where = own_path(place.base, back)
        mark = "&" if "?" in where else "?"
        return RedirectResponse(f"{where}{mark}{urlencode({'told': self._told.sign(done)})}", status_code=303)

    async def _act(self, desk: Desk, name: str, form: Mapping[str, str], ids: Sequence[str]) -> Done:
        if name == "stop":
            self._bulks.stop(desk, form.get("id", ""))
            return Done(said="stopping after the current batch")
        if name not in ACTIONS or name in ("view", "see_arguments"):
            raise NotVisibleError("there is no such act")
        if name in MANY_ACTIONS and (ids or name != "recover"):
            return await desk.act_on_jobs(name, list(dict.fromkeys(ids)))
        return await desk.act_on_name(name, _NAME.read(form.get("name")) or "")

    async def _start(self, desk: Desk, form: Mapping[str, str]) -> tuple[Done, str]:
        """Begin a bulk action: what was counted must be said again, and typed where it is much."""
        ask = self._ask(desk, BULK_PARAMS, form)
        plan: BulkPlan = await bulk_plan(ask)
        if plan.number == 0 and plan.count.exact:
            raise UsageError("no jobs match any more; nothing was done")
        # What was counted is the most that is done: what has come to match since was not confirmed.
        counted, typed = _COUNTED.read(form.get("counted")), form.get("typed", "").strip().casefold()
        limit: int | None = min(counted, ask["limit"] or counted)
        if typed == "all" and not plan.count.exact and ask["limit"] is None:
            limit = None
        elif typed != str(counted) and (counted > UNTYPED or plan.number > UNTYPED):
            raise UsageError(f"type the number of jobs, {counted}, to confirm; nothing was done")
        bulk_id = self._bulks.start(
            desk,
            plan.action,
            selection_of(ask.args),
            rate=ask["rate"],
            limit=limit,
            expected=None if limit is None else min(limit, plan.number) if plan.count.exact else limit,
        )
        said = f"started in the background as {bulk_id}"
        return Done(said=said, bulk=bulk_id), f"/bulk/act?id={bulk_id}"


def _static(path: str) -> Response | None:
    """What anybody may have: it says nothing of the jobs."""
    if path == "/robots.txt":
        return Response("User-agent: *\nDisallow: /\n", media_type="text/plain")
    if path == "/health":
        return Response("ok\n", media_type="text/plain")
    found = STATIC.get(path)
    if found is None:
        return None
    return Response(found.data, media_type=found.kind, headers={"Cache-Control": "public, max-age=31536000, immutable"})


def dashboard(
    *apps: TrackedQueue,
    login: Login | Users | None = None,
    rights: Rights | None = None,
    read_only: bool = False,
    insecure: bool = False,
    prefix: str = "",
    prefix_stripped: bool = False,
    hosts: Sequence[str] = (),
    frame_ancestors: str = "'none'",
    badge: str = "",
    zone: str = "UTC",
    floor: int = 2,
    find_shards: bool = False,
) -> Dashboard:
    """
    A dashboard for one app or several, as an ASGI application: `web.mount("/jobs", dashboard(app))`.

    Without a login it answers to this machine alone.

    Args:
        apps: One for each namespace.
        login: `Users(file)`, `ProxyHeader(...)`, or a function of the ASGI scope that returns an Identity or None, and may be
            async: for a session of your own.
        rights: `def rights(who, wish) -> bool`, beyond the roles: by action, namespace, queue and task.
        read_only: Nobody changes anything here.
        insecure: Answer to everybody, as an admin, without a login: something before it checks who asks.
        prefix: The path below which browsers see it, where a proxy adds one. A mount's own path is known without.
        prefix_stripped: The proxy takes the prefix off.
        hosts: Names with port by which browsers know it, where a proxy changes the Host header: `jobs.example.org`.
        frame_ancestors: Which pages may show it in a frame, as in the CSP: "'none'", "'self'", or origins.
        badge: What is said beside its name on each page, such as the environment; with `prod` in it, in red.
        zone: The timezone in which times are shown.
        floor: The shortest time in seconds after which a page may look again by itself.
        find_shards: Take the number of shards from Redis: for apps that are made of settings alone.

    Raises:
        UsageError: An argument is not what it should be; two apps have one namespace.
    """
    if not apps:
        raise UsageError("dashboard: give it at least one app")
    for app in apps:
        if not isinstance(app, TrackedQueue):
            raise UsageError(f"dashboard: {app!r} is a {type(app).__qualname__}, not a TrackedQueue")
    names = [app.settings.namespace for app in apps]
    if len(set(names)) != len(names):
        raise UsageError("dashboard: two apps have the same namespace")
    if login is not None and not callable(login) and not isinstance(login, Users):
        raise UsageError(f"login={login!r}: give Users(...), ProxyHeader(...), or a function of the scope")
    if rights is not None:
        check_function("rights", rights, "def rights(who, wish) -> bool", 2, waits=False)
    if login is not None and insecure:
        raise UsageError("give login= or insecure=True, not both")
    if prefix and (not prefix.startswith("/") or prefix.endswith("/") or "//" in prefix or not prefix.isprintable()):
        raise UsageError(f"prefix={prefix!r}: write it as /jobs, with a slash at its beginning and none at its end")
    if ";" in frame_ancestors or "," in frame_ancestors or not frame_ancestors.isprintable() or not frame_ancestors:
        raise UsageError(
            f"frame_ancestors={frame_ancestors!r}: write 'none' or 'self' in quotes, or origins with spaces between"
        )
    try:
        known_zone = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"zone={zone!r} is not a known timezone") from None
    if not isinstance(floor, int) or floor < 1:
        raise UsageError(f"floor={floor!r}: it must be a whole number of seconds, 1 or more")
    return Dashboard(
        [Source(app, find_shards) for app in apps],
        Access(rights=rights, read_only=read_only),
        login=login,
        insecure=insecure,
        prefix=prefix,
        prefix_stripped=prefix_stripped,
        hosts=hosts,
        frame_ancestors=frame_ancestors,
        badge=badge,
        zone=known_zone,
        floor=floor,
    )
