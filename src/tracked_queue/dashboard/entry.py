"""Who asks, and what those see who are not known: the login page, a refusal, or the way out."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from .. import log
from ..errors import NotAllowedError, NotVisibleError
from .access import Identity, Role
from .forms import read_form
from .guard import is_https, is_local, is_own
from .logins import COOKIE, SESSION_S, Login, Users
from .sites import own_path
from .text import link

ANYBODY = Identity(name="local user", role=Role.ADMIN)
NO_LOGIN = (
    "This dashboard has no login, so it answers only to this machine, by the name localhost. Give it a login (login=, "
    "--users), or, if something before it checks who asks, insecure=True (--insecure)."
)


class ShowPage(Protocol):
    """Makes a page of a template: its status, the template, the prefixes, the title, and what it shows."""

    def __call__(self, code: int, template: str, root: str, base: str, title: str, **more: Any) -> Response: ...


class ShowProblem(Protocol):
    """Makes a page, or JSON, that says what was not done."""

    def __call__(self, status: int, said: str, root: str, *, api: bool) -> Response: ...


class Entry:
    """The door of one dashboard."""

    def __init__(
        self, login: Login | Users | None, insecure: bool, hosts: Sequence[str], page: ShowPage, problem: ShowProblem
    ) -> None:
        self._login, self._insecure, self._hosts = login, insecure, frozenset(hosts)
        self._page, self._problem = page, problem

    @property
    def has_logout(self) -> bool:
        """Whether there is something to log out of."""
        return isinstance(self._login, Users)

    def must_be_own(self, request: Request) -> None:
        """Raises NotAllowedError for a request that another site made a browser send."""
        if not self._has_token(request) and not is_own(request.headers, self._hosts):
            raise NotAllowedError(
                "this request does not come from a page of this dashboard; behind a proxy that changes the host's name, name "
                "the one that browsers use (hosts=, --host-name)"
            )

    async def who(self, request: Request) -> Identity | None:
        """Raises NotAllowedError where there is no login, and this is not this machine."""
        login = self._login
        if login is None:
            if self._insecure or is_local(request.scope.get("client"), request.headers):
                return ANYBODY
            raise NotAllowedError(NO_LOGIN)
        if isinstance(login, Users):
            if (token := self._token(request)) is not None:
                return login.of_token(token)
            cookie = request.cookies.get(COOKIE)
            return None if cookie is None else login.of_session(cookie)
        found = login(request.scope)
        if inspect.isawaitable(found):
            found = await found
        if found is not None and not isinstance(found, Identity):
            raise TypeError(f"login returned {found!r}; it must be an Identity or None")
        return found

    def _token(self, request: Request) -> str | None:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        return token.strip() if kind.lower() == "bearer" and token else None

    def _has_token(self, request: Request) -> bool:
        """A program: no page of another site can make a browser send this header."""
        return isinstance(self._login, Users) and self._token(request) is not None

    def ask(self, request: Request, root: str, path: str, api: bool) -> Response:
        """What those get who are not known."""
        if not isinstance(self._login, Users):
            return self._problem(401, "it is not known who you are", root, api=api)
        if api or request.method == "POST":
            response = self._problem(401, "log in, or send a token: Authorization: Bearer ...", root, api=api)
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        query = request.url.query
        return RedirectResponse(link(root, "/login", back=path + (f"?{query}" if query else "")), status_code=303)

    async def log_in_or_out(self, request: Request, root: str, path: str) -> Response:
        """Raises NotVisibleError, NotAllowedError, TooManyLoginsError."""
        login = self._login
        if not isinstance(login, Users):
            raise NotVisibleError("there is nothing to log in to here")
        back = request.query_params.get("back", "/")
        if request.method != "POST":
            if path == "/logout":
                return self._problem(405, "log out with the button", root, api=False)
            return self._page(200, "login.html", root, root, "Log in", back=back, failed=False)
        self.must_be_own(request)
        if path == "/logout":
            response: Response = RedirectResponse(f"{root}/login", status_code=303)
            response.delete_cookie(COOKIE, path=root or "/", httponly=True, samesite="strict")
            return response
        form = await read_form(request)
        found = await login.check(form.get("user", ""), form.get("password", ""))
        log.dashboard_login(user=form.get("user", "")[:256], ok=found is not None)
        if found is None:
            return self._page(401, "login.html", root, root, "Log in", back=back, failed=True)
        response = RedirectResponse(own_path(root, back), status_code=303)
        response.set_cookie(
            COOKIE,
            login.session(found),
            max_age=round(SESSION_S),
            path=root or "/",
            httponly=True,
            samesite="strict",
            secure=is_https(request.url.scheme, request.headers),
        )
        return response
