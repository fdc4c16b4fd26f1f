"""`dashboard` and `dashboard-user`: the pages for a browser, and lines for their users file."""

from __future__ import annotations

import asyncio
import getpass
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..app import TrackedQueue
from ..errors import UsageError, did_you_mean
from ..worker import log_setup
from ..worker.exits import FAILED_EXIT
from .common import Where, cli, fail, guarded, say

ROLES = ("view", "operate", "admin")
# Open pages do not hold up the end: what is under way gets so many seconds.
END_S = 1


@cli.command()
@guarded
def dashboard(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = 9381,
    also: Annotated[
        list[str] | None, typer.Option("--also", help="Another namespace on the same Redis; repeat it.")
    ] = None,
    users: Annotated[str | None, typer.Option(help="File of users, made with dashboard-user.")] = None,
    secret_file: Annotated[
        str | None, typer.Option(help="With --users: file with the key that signs sessions; share it between replicas.")
    ] = None,
    proxy_header: Annotated[
        str | None, typer.Option(help="Header in which your proxy passes the user's name, such as X-Forwarded-User.")
    ] = None,
    proxy: Annotated[list[str] | None, typer.Option(help="Address or network of that proxy; repeat it.")] = None,
    admin: Annotated[
        list[str] | None, typer.Option(help="With --proxy-header: a user who is admin; repeat it.")
    ] = None,
    role: Annotated[str, typer.Option(help="With --proxy-header: role of everyone else, or none.")] = "view",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="No login: everyone who can reach it is an admin.")
    ] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="Disable all actions.")] = False,
    prefix: Annotated[str, typer.Option(help="Path below which browsers see it, such as /jobs.")] = "",
    prefix_stripped: Annotated[bool, typer.Option("--prefix-stripped", help="The proxy strips the prefix.")] = False,
    host_name: Annotated[
        list[str] | None, typer.Option(help="Public host name, if the proxy rewrites Host; repeat it.")
    ] = None,
    frame_ancestors: Annotated[str, typer.Option(help="Which pages may show it in a frame, as in a CSP.")] = "'none'",
    badge: Annotated[str, typer.Option(help="Label on every page, such as production (red if it contains prod).")] = "",
    zone: Annotated[str, typer.Option(help="Timezone in which times are shown.")] = "UTC",
    where: Where,
) -> None:
    """Web dashboard for queues, jobs and instances, with what is wrong. Needs no application code."""
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port}: it must be from 0 to 65535")
    try:
        from ..dashboard import dashboard as pages
        from ..dashboard.guard import is_loopback
        from ..dashboard.serve import serve
    except ModuleNotFoundError as error:
        if error.name not in ("uvicorn", "jinja2", "starlette"):
            raise
        raise UsageError(f"dashboard needs {error.name}: pip install 'tracked-queue[dashboard]'") from None
    login = _login(users, secret_file, proxy_header, proxy, admin, role)
    if login is None and not insecure and not is_loopback(host):
        raise UsageError(
            f"--host {host}: anybody who reaches it could purge jobs; give --users FILE or --proxy-header, or --insecure"
        )
    apps = [where.app, *(_other(where, name) for name in also or [])]
    log_setup.set_up()
    application = pages(
        *apps,
        login=login,
        read_only=read_only,
        insecure=insecure,
        prefix=prefix,
        prefix_stripped=prefix_stripped,
        hosts=host_name or [],
        frame_ancestors=frame_ancestors,
        badge=badge,
        zone=zone,
        find_shards=True,
    )

    async def work() -> None:
        try:
            await serve(application, host, port, END_S, lambda at: say(f"the dashboard is at {at}{prefix}/"))
        except OSError as error:
            raise fail(f"--port {port}: {error.strerror or error}", FAILED_EXIT) from None
        finally:
            for app in apps:
                await app.aclose()

    asyncio.run(work())


def _other(where: Where, namespace: str) -> TrackedQueue:
    """An app for another namespace of the same Redis."""
    app = TrackedQueue()
    app.configure(redis_url=where.redis_url, namespace=namespace)
    return app


def _login(
    users: str | None,
    secret_file: str | None,
    header: str | None,
    proxies: list[str] | None,
    admins: list[str] | None,
    role: str,
) -> Any:
    from ..dashboard import ProxyHeader, Users

    if users is not None and header is not None:
        raise UsageError("give --users or --proxy-header, not both")
    if users is None and secret_file is not None:
        raise UsageError("--secret-file goes with --users")
    if header is None and (proxies or admins):
        raise UsageError("--proxy and --admin go with --proxy-header")
    if header is not None and not proxies:
        raise UsageError("--proxy-header needs --proxy, the address or network of your proxy")
    if users is not None:
        try:
            secret = None if secret_file is None else Path(secret_file).read_bytes().strip()
        except OSError as error:
            raise UsageError(f"--secret-file {secret_file}: {error.strerror or error}") from None
        return Users(users, secret)
    if header is None:
        return None
    if role not in (*ROLES, "none"):
        raise UsageError(f"--role {role!r}; {did_you_mean(role, (*ROLES, 'none'))}")
    return ProxyHeader(
        header=header,
        proxies=proxies or [],
        roles=dict.fromkeys(admins or [], "admin"),
        role=None if role == "none" else role,
    )


@cli.command("dashboard-user")
@guarded
def dashboard_user(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    role: Annotated[str, typer.Option(help="view, operate or admin.")] = "view",
    token: Annotated[bool, typer.Option("--token", help="A program: makes a token in place of a password.")] = False,
) -> None:
    """Print a line for the dashboard's users file; asks for the password, or reads it from a pipe."""
    try:
        from ..dashboard.access import Role
        from ..dashboard.logins import hash_password, hash_token, new_token, user_line
    except ModuleNotFoundError as error:
        raise UsageError(f"dashboard-user needs {error.name}: pip install 'tracked-queue[dashboard]'") from None
    if role not in ROLES:
        raise UsageError(f"--role {role!r}; {did_you_mean(role, ROLES)}")
    if token:
        made = new_token()
        print(user_line(name, Role(role), hash_token(made)))
        say(f"the token, shown only now: {made}")
        return
    asks = sys.stdin.isatty()
    password = getpass.getpass(f"Password of {name}: ") if asks else sys.stdin.readline().rstrip("\n")
    if len(password) < 8:
        raise UsageError("the password must have at least 8 characters")
    if asks and getpass.getpass("Again: ") != password:
        raise UsageError("the passwords don't match")
    print(user_line(name, Role(role), hash_password(password)))
