"""Who gets in: this machine alone without a login; users with passwords, tokens, a proxy's header, a function."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.dashboard.conftest import Client, Shop, client_of
from tracked_queue import TrackedQueue
from tracked_queue.dashboard import Identity, ProxyHeader, Role, Users, dashboard
from tracked_queue.dashboard.logins import MOST_FAILURES, hash_password, hash_token, new_token, user_line
from tracked_queue.errors import TooManyLoginsError, UsageError

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def users(tmp_path: Path) -> Path:
    file = tmp_path / "users"
    file.write_text(
        "# people\n"
        + user_line("ada", Role.ADMIN, hash_password("correct horse"))
        + "\n\n"
        + user_line("vic", Role.VIEW, hash_password("battery staple"))
        + "\n"
    )
    return file


# Closed by default


@pytest.mark.parametrize("peer", ["10.0.0.7", "::ffff:10.0.0.7", "93.184.216.34", "testclient"])
async def test_without_a_login_nobody_else_gets_in(app: TrackedQueue, web: Client, peer: str) -> None:
    for path in ("/", "/api/", "/queues"):
        answer = await web(peer=peer).get(path)
        assert answer.status_code == 403 and "login" in answer.text, path
    assert (await web(peer=peer).post("/act/purge")).status_code == 403
    assert (await web(peer=peer).get("/health")).text == "ok\n"


async def test_a_page_elsewhere_whose_name_leads_here_is_refused(web: Client) -> None:
    """DNS rebinding: the browser is on this machine, and the name is somebody's."""
    assert (await web(host="evil.example").get("/")).status_code == 403
    for name in ("localhost", "127.0.0.1", "[::1]", "jobs.localhost", "localhost:9381"):
        assert (await web(host=name).get("/")).status_code == 200, name


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via", "X-Forwarded-Host"])
async def test_what_a_proxy_on_this_machine_passes_on_is_refused(web: Client, header: str) -> None:
    assert (await web().get("/", headers={header: "1.2.3.4"})).status_code == 403


async def test_insecure_lets_everybody_in(web: Client) -> None:
    assert (await web(peer="10.0.0.7", host="jobs.example.org", insecure=True).get("/")).status_code == 200


async def test_a_socket_without_a_peer_is_not_this_machine(app: TrackedQueue) -> None:
    pages = dashboard(app)
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [(b"host", b"localhost")], "client": None, "scheme": "http",
             "server": None, "root_path": "", "http_version": "1.1"}  # fmt: skip
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    await pages(scope, receive, send)
    assert sent[0]["status"] == 403


# Users


async def test_users_log_in_stay_and_log_out(shop: Shop, web: Client, users: Path) -> None:
    client = web(login=Users(users, SECRET), peer="10.0.0.7", host="jobs.example.org")
    first = await client.get("/queues?sort=name")
    assert first.status_code == 303
    assert first.headers["location"] == "/login?back=%2Fqueues%3Fsort%3Dname"
    page = await client.get(first.headers["location"])
    action = re.search(r'action="(/login\?back=[^"]*)"', page.text)
    assert action
    wrong = await client.post(action[1], data={"user": "ada", "password": "wrong"})
    assert wrong.status_code == 401 and "Wrong name or password." in wrong.text and "set-cookie" not in wrong.headers
    right = await client.post(action[1], data={"user": "ada", "password": "correct horse"})
    assert right.status_code == 303 and right.headers["location"] == "/queues?sort=name"
    cookie = right.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "path=/" in cookie and "secure" not in cookie
    assert (await client.get("/queues")).status_code == 200
    assert "ada" in (await client.get("/")).text
    assert (await client.post(f"/api/act/purge?id={shop.ids['dead']}")).status_code == 200
    out = await client.post("/logout")
    assert out.status_code == 303
    assert (await client.get("/queues")).status_code == 303


async def test_the_cookie_is_for_https_where_that_is_used(web: Client, users: Path) -> None:
    client = web(login=Users(users, SECRET), prefix="/jobs")
    answer = await client.post(
        "/jobs/login", data={"user": "ada", "password": "correct horse"}, headers={"X-Forwarded-Proto": "https"}
    )
    assert "secure" in answer.headers["set-cookie"].lower() and "path=/jobs;" in answer.headers["set-cookie"].lower()


async def test_a_session_ends_with_the_user_or_the_password(users: Path, web: Client) -> None:
    login = Users(users, SECRET)
    client = web(login=login)
    await client.post("/login", data={"user": "ada", "password": "correct horse"})
    assert (await client.get("/queues")).status_code == 200
    other = client_of(dashboard(TrackedQueue(), login=Users(users, SECRET)))
    other.cookies.update(client.cookies)
    assert (await other.get("/bulk")).status_code == 200, "another replica with the same secret knows the session"
    foreign = client_of(dashboard(TrackedQueue(), login=Users(users, "x" * 32)))
    foreign.cookies.update(client.cookies)
    assert (await foreign.get("/bulk")).status_code == 303
    users.write_text(user_line("ada", Role.ADMIN, hash_password("another one")) + "\n")
    assert (await client.get("/queues")).status_code == 303


@pytest.mark.parametrize(
    "cookie", ["", "x", "x.y", "W10=.", "bnVsbA==.00", ".", "W1tdLCAxXQ==.00", "é.00", "WyJhZGEiLDllOTldCg==.00"]
)
async def test_a_forged_cookie_is_nobody(web: Client, users: Path, cookie: str) -> None:
    client = web(login=Users(users, SECRET))
    answer = await client.get("/", headers={"Cookie": f"tracked_queue_session={cookie}".encode("latin-1", "replace")})
    assert answer.status_code == 303


async def test_a_session_runs_out(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    login = Users(users, SECRET)
    cookie = login.session(Identity(name="ada", role=Role.ADMIN))
    assert login.of_session(cookie) == Identity(name="ada", role=Role.ADMIN)
    from tracked_queue.dashboard import logins

    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + logins.SESSION_S + 1)
    assert login.of_session(cookie) is None


async def test_guessing_is_slowed_down(users: Path, monkeypatch: pytest.MonkeyPatch, web: Client) -> None:
    from tracked_queue.dashboard import logins

    monkeypatch.setattr(logins, "_matches", lambda password, hashed: password == "correct horse")  # without its 100 ms
    login = Users(users, SECRET)
    for _ in range(MOST_FAILURES):
        assert await login.check("ada", "guess") is None
    with pytest.raises(TooManyLoginsError):
        await login.check("ada", "correct horse")
    assert await login.check("vic", "correct horse") is not None, "another name is not held up"
    client = web(login=login)
    answer = await client.post("/login", data={"user": "ada", "password": "x"})
    assert answer.status_code == 429
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + logins.FAILURES_S + 1)
    assert await login.check("ada", "correct horse") is not None


async def test_a_program_has_a_token_and_needs_no_page(shop: Shop, web: Client, users: Path) -> None:
    token = new_token()
    users.write_text(user_line("deploys", Role.OPERATE, hash_token(token)) + "\n")
    client = web(login=Users(users), headers={})
    assert (await client.get("/api/queues")).status_code == 401
    assert (await client.get("/api/queues")).headers["www-authenticate"] == "Bearer"
    own = {"Authorization": f"Bearer {token}"}
    assert (await client.get("/api/queues", headers=own)).status_code == 200
    assert (await client.post("/api/act/pause_queue", json={"name": "slow"}, headers=own)).status_code == 200
    assert (await client.post("/api/act/purge", json={"ids": [shop.ids["dead"]]}, headers=own)).status_code == 403
    assert (await client.get("/api/queues", headers={"Authorization": "Bearer tq_wrong"})).status_code == 401
    assert (
        await client.post(
            "/login", data={"user": "deploys", "password": token}, headers={"Sec-Fetch-Site": "same-origin"}
        )
    ).status_code == 401


@pytest.mark.parametrize("text", ["ada", "ada:admin", "ada:admin:plain", "ada:root:sha256$00", ":admin:sha256$" + "0" * 64, "ada:admin:scrypt$1$1$1$00$00",
                                  "ada:admin:scrypt$1073741824$8$1$00$00", "ada:view:sha256$xyz"])  # fmt: skip
def test_a_wrong_users_file_names_its_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "users"
    file.write_text(f"# first\n{text}\n")
    with pytest.raises(UsageError, match="line 2"):
        Users(file)


def test_other_wrong_users_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        Users(tmp_path / "none")
    file = tmp_path / "users"
    file.write_text("\n".join([user_line("a", Role.VIEW, hash_password("12345678"))] * 2))
    with pytest.raises(UsageError, match="second line"):
        Users(file)
    with pytest.raises(UsageError, match="secret"):
        file.write_text("")
        Users(file, "short")
    with pytest.raises(UsageError, match="colon"):
        user_line("a:b", Role.VIEW, "x")


# A proxy, a function


@pytest.mark.parametrize(
    ("peer", "headers", "status"),
    [
        ("10.1.2.3", {"X-Forwarded-User": "ada"}, 200),
        ("10.1.2.3", {}, 401),
        ("10.1.2.3", {"X-Forwarded-User": " "}, 401),
        ("10.1.2.3", [("X-Forwarded-User", "ada"), ("X-Forwarded-User", "eve")], 401),
        ("10.9.2.3", {"X-Forwarded-User": "ada"}, 401),
        ("not-an-address", {"X-Forwarded-User": "ada"}, 401),
    ],
)
async def test_a_header_counts_only_from_the_proxy(web: Client, peer: str, headers: Any, status: int) -> None:
    login = ProxyHeader(header="X-Forwarded-User", proxies=["10.1.0.0/16"], roles={"ada": "admin"}, role=None)
    assert (await web(login=login, peer=peer, headers=headers).get("/bulk")).status_code == status


async def test_roles_by_name_and_for_all_others(web: Client) -> None:
    login = ProxyHeader(header="X-User", proxies=["10.1.0.0/16"], roles={"ada": Role.ADMIN})
    for name, role in (("ada", "admin"), ("bob", "view")):
        page = await web(login=login, peer="10.1.0.1", headers={"X-User": name}).get("/bulk")
        assert f"{name} <small>{role}</small>" in page.text


@pytest.mark.parametrize(
    "wrong", [{"proxies": []}, {"proxies": "10.0.0.0/8"}, {"proxies": ["x"]}, {"proxies": ["10.0.0.1"], "role": "root"}]
)
def test_a_wrong_proxy_login(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ProxyHeader(header="X-User", **wrong)


async def test_a_function_of_ones_own(web: Client) -> None:
    async def login(scope: Any) -> Identity | None:
        return Identity(name="ada") if dict(scope["headers"]).get(b"x-session") == b"1" else None

    assert (await web(login=login).get("/bulk")).status_code == 401
    assert (await web(login=login, headers={"X-Session": "1"}).get("/bulk")).status_code == 200
    answer = await web(login=lambda scope: "ada").get("/bulk")
    assert answer.status_code == 500 and "Identity" not in answer.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"prefix": "jobs"}, {"prefix": "/jobs/"}, {"prefix": "//evil"}, {"zone": "Nowhere"}, {"floor": 0}, {"frame_ancestors": "'none'; script-src *"},
        {"login": "ada"}, {"insecure": True, "login": lambda scope: None},
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        dashboard(TrackedQueue(), **wrong)


def test_apps_must_be_apps_of_different_namespaces() -> None:
    for apps in ((), (TrackedQueue(), TrackedQueue()), ("app",)):
        with pytest.raises(UsageError):
            dashboard(*apps)  # type: ignore[arg-type]


async def test_many_guesses_at_once_are_no_way_round(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from tracked_queue.dashboard import logins

    heard = 0

    def slow(password: str, hashed: str) -> bool:
        nonlocal heard
        heard += 1
        time.sleep(0.001)
        return False

    monkeypatch.setattr(logins, "_matches", slow)
    login = Users(users, SECRET)
    for _ in range(5):
        await asyncio.gather(*(login.check("ada", f"guess {n}") for n in range(20)), return_exceptions=True)
    assert heard == MOST_FAILURES


async def test_a_users_file_that_breaks_lets_nobody_in_for_long(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tracked_queue.dashboard.logins import BROKEN_S

    login = Users(users, SECRET)
    cookie = login.session(Identity(name="ada", role=Role.ADMIN))
    users.write_text("ada:admin:broken")
    assert login.of_session(cookie) is not None, "it may be half written"
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + BROKEN_S + 1)
    assert login.of_session(cookie) is None
    users.unlink()
    assert login.of_session(cookie) is None


@pytest.mark.parametrize("header", ["Origin", "Referer"])
async def test_a_proxy_that_says_nothing_of_itself_is_known_by_the_page(web: Client, header: str) -> None:
    """nginx' default passes Host localhost on, and no header of its own."""
    assert (await web().get("/", headers={header: "https://jobs.example.org/x"})).status_code == 403
    assert (await web().get("/", headers={header: "http://localhost/x"})).status_code == 200


async def test_the_cookie_is_for_the_mount_without_its_slash_too(web: Client, users: Path) -> None:
    client = web(login=Users(users, SECRET), prefix="/jobs")
    await client.post("/jobs/login", data={"user": "ada", "password": "correct horse"})
    assert (await client.get("/jobs")).status_code == 200


async def test_the_description_says_where_it_is(app: TrackedQueue, web: Client) -> None:
    assert (await web(prefix="/ops").get("/ops/api/openapi.json")).json()["servers"] == [{"url": "/ops"}]
    assert (await web().get("/api/openapi.json")).json()["servers"] == [{"url": "/"}]


@pytest.mark.parametrize("path", ["/login", "/logout"])
async def test_another_site_logs_nobody_in_or_out(web: Client, users: Path, path: str) -> None:
    client = web(login=Users(users, SECRET), headers={"Sec-Fetch-Site": "cross-site"})
    answer = await client.post(path, data={"user": "ada", "password": "correct horse"})
    assert answer.status_code == 403 and "set-cookie" not in answer.headers
