"""How somebody is known: users with passwords and programs with tokens, a proxy that says who asks, or a function."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import json
import os
import secrets
import time
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import log
from ..errors import TooManyLoginsError, UsageError
from ..model.checks import check_name
from .access import Identity, Role

SESSION_S = 12 * 3600.0
COOKIE = "tracked_queue_session"
# Of one name so many failed logins are heard in this time; a check takes 100 ms and 32 MB, so at most two run at once.
MOST_FAILURES, FAILURES_S, CHECKS_AT_ONCE, CHECKS_WAITING = 10, 300.0, 2, 20
# Names whose failures are kept; and for how long a users file that can't be read leaves those in that were known.
MOST_NAMES, BROKEN_S = 1000, 60.0
_N, _R, _P = 2**15, 8, 1
Scope = Mapping[str, Any]
Login = Callable[[Scope], Identity | Awaitable[Identity | None] | None]


def hash_password(password: str) -> str:
    """A password as a users file has it: scrypt, with a salt of its own."""
    salt = secrets.token_bytes(16)
    return f"scrypt${_N}${_R}${_P}${salt.hex()}${_scrypt(password, salt, _N, _R, _P).hex()}"


def hash_token(token: str) -> str:
    """A program's token as a users file has it; tokens are long and random, so a fast hash will do."""
    return f"sha256${hashlib.sha256(token.encode()).hexdigest()}"


def new_token() -> str:
    """A token for a program."""
    return f"tq_{secrets.token_urlsafe(32)}"


def user_line(name: str, role: Role, hashed: str) -> str:
    """A line of a users file. Raises UsageError."""
    if ":" in check_name("user", name):
        raise UsageError(f"user {name!r}: a name has no colon")
    return f"{name}:{role.value}:{hashed}"


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode("utf-8", "surrogatepass"), salt=salt, n=n, r=r, p=p, maxmem=2**27, dklen=32)


@dataclass(frozen=True, slots=True)
class _User:
    identity: Identity
    hashed: str


class Users:
    """
    People with passwords, who log in at a page, and programs with tokens, from a file with a line for each: `name:role:hash`,
    as `tracked-queue dashboard-user` makes them. The file is read again when it has changed; a user who is gone from it, or has
    another password, is logged out.

    Args:
        path: The file.
        secret: What sessions are signed with, the same in all replicas; without it sessions end with the process.
    """

    def __init__(self, path: str | os.PathLike[str], secret: str | bytes | None = None) -> None:
        self._path = Path(path)
        self._stamp: tuple[int, int] | None = None
        self._users: dict[str, _User] = {}
        self._tokens: dict[str, _User] = {}
        self._secret = secret.encode() if isinstance(secret, str) else secret or secrets.token_bytes(32)
        if len(self._secret) < 16:
            raise UsageError("secret: it must have 16 characters or more")
        self._failures: OrderedDict[str, list[float]] = OrderedDict()
        self._waiting = 0
        # A semaphore belongs to one event loop.
        self._checks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )
        self._broken_since: float | None = None
        self._read()

    def _read(self) -> None:
        """Raises UsageError where the file is not as it should be."""
        try:
            found = self._path.stat()
            stamp = found.st_mtime_ns, found.st_size
            if stamp == self._stamp:
                return
            text = self._path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"users file {self._path}: {getattr(error, 'strerror', None) or error}") from None
        users, tokens = dict[str, _User](), dict[str, _User]()
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            name, role, hashed = [*line.strip().split(":", 2), "", ""][:3]
            if role not in list(Role) or not name or not _is_hash(hashed):
                raise UsageError(
                    f"users file {self._path}, line {number}: write name:role:hash as `tracked-queue dashboard-user` "
                    "prints it; roles are view, operate and admin"
                )
            user = _User(Identity(name=name, role=Role(role)), hashed)
            if hashed.startswith("sha256$"):
                tokens[hashed] = user
            elif name in users:
                raise UsageError(f"users file {self._path}, line {number}: there is a second line for {name!r}")
            else:
                users[name] = user
        self._users, self._tokens, self._stamp = users, tokens, stamp

    def _now(self) -> None:
        """A file that is being written, or is gone for a moment, leaves those that were known; then nobody is."""
        try:
            self._read()
            self._broken_since = None
        except UsageError as error:
            now = time.monotonic()
            if self._broken_since is None:
                self._broken_since = now
                log.dashboard_users_unreadable(problem=str(error), seconds=BROKEN_S)
            if now - self._broken_since > BROKEN_S:
                self._users, self._tokens, self._stamp = {}, {}, None

    async def check(self, name: str, password: str) -> Identity | None:
        """
        Whose password this is.

        Raises:
            TooManyLoginsError: Too many wrong ones for this name lately, or too many to check at once.
        """
        self._now()
        now = time.monotonic()
        failures = [at for at in self._failures.get(name, []) if at > now - FAILURES_S]
        if len(failures) >= MOST_FAILURES or self._waiting >= CHECKS_WAITING:
            raise TooManyLoginsError
        # Counted as wrong before it is known, so that many at once are no way round.
        self._failures[name] = [*failures, now]
        self._failures.move_to_end(name)
        while len(self._failures) > MOST_NAMES:
            self._failures.popitem(last=False)
        self._waiting += 1
        try:
            async with self._checks.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(CHECKS_AT_ONCE)):
                user = self._users.get(name)
                hashed = user.hashed if user is not None else _NOBODY
                right = await asyncio.to_thread(_matches, password, hashed)
        finally:
            self._waiting -= 1
        if right and user is not None:
            self._failures.pop(name, None)
            return user.identity
        return None

    def session(self, who: Identity) -> str:
        """A cookie's value that says who it is, for SESSION_S."""
        told = base64.urlsafe_b64encode(json.dumps([who.name, round(time.time() + SESSION_S)]).encode()).decode()
        return f"{told}.{self._sign(told, self._users[who.name].hashed)}"

    def _sign(self, told: str, hashed: str) -> str:
        return hmac.new(self._secret, f"session {told} {hashed}".encode(), "sha256").hexdigest()

    def of_session(self, cookie: str) -> Identity | None:
        """Whom a cookie names, if it was made here, has not run out, and the password is still the same."""
        self._now()
        told, _, signed = cookie.partition(".")
        try:
            name, until = json.loads(base64.urlsafe_b64decode(told.encode("ascii")))
            user = self._users.get(name)
        except (ValueError, TypeError, RecursionError):
            return None
        if user is None or not hmac.compare_digest(signed.encode(), self._sign(told, user.hashed).encode()):
            return None
        return user.identity if time.time() < until else None

    def of_token(self, token: str) -> Identity | None:
        """Whose token this is."""
        self._now()
        user = self._tokens.get(hash_token(token))
        return None if user is None else user.identity


def _is_hash(text: str) -> bool:
    kind, *parts = text.split("$")
    if kind == "sha256":
        return len(parts) == 1 and len(parts[0]) == 64 and _is_hex(parts[0])
    if kind != "scrypt" or len(parts) != 5 or not all(part.isascii() and part.isdigit() for part in parts[:3]):
        return False
    n, r, p = map(int, parts[:3])
    return 2**10 <= n <= 2**17 and n & (n - 1) == 0 and 0 < r <= 8 and 0 < p <= 4 and all(map(_is_hex, parts[3:]))


def _is_hex(text: str) -> bool:
    try:
        return bool(bytes.fromhex(text))
    except ValueError:
        return False


def _matches(password: str, hashed: str) -> bool:
    _, n, r, p, salt, wanted = hashed.split("$")
    return hmac.compare_digest(_scrypt(password, bytes.fromhex(salt), int(n), int(r), int(p)), bytes.fromhex(wanted))


# Checked where there is no such user, so that this takes as long.
_NOBODY = f"scrypt${_N}${_R}${_P}${'00' * 16}${'00' * 32}"


class ProxyHeader:
    """
    Trusts a proxy that has checked who asks, and says so in a header; from other addresses nobody is known.

    Args:
        header: Which has the name.
        proxies: Addresses and networks of the proxies, as the server sees them.
        roles: The role of each name.
        role: That of all others; None: they are refused.
    """

    def __init__(
        self,
        *,
        header: str,
        proxies: Sequence[str],
        roles: Mapping[str, Role | str] | None = None,
        role: Role | str | None = Role.VIEW,
    ) -> None:
        self._header = header.lower().encode("latin-1")
        if isinstance(proxies, str) or not proxies:
            raise UsageError("proxies: give the addresses or networks of your proxies, as a list")
        try:
            self._proxies = [ipaddress.ip_network(one) for one in proxies]
        except ValueError as error:
            raise UsageError(f"proxies: {error}") from None
        self._roles = {name: _role(one) for name, one in (roles or {}).items()}
        self._role = None if role is None else _role(role)

    def __call__(self, scope: Scope) -> Identity | None:
        """Who the proxy says asks."""
        client = scope.get("client")
        try:
            address = ipaddress.ip_address(client[0]) if client else None
        except ValueError:
            address = None
        if address is None or not any(address in network for network in self._proxies):
            return None
        values = [value for name, value in scope.get("headers", ()) if name.lower() == self._header]
        if len(values) != 1:  # a second one was not put there by the proxy
            return None
        name = values[0].decode("utf-8", "replace").strip()
        role = self._roles.get(name, self._role)
        return Identity(name=name[:256], role=role) if name and role is not None else None


def _role(given: Role | str) -> Role:
    try:
        return Role(given)
    except ValueError:
        raise UsageError(f"role={given!r}: roles are view, operate and admin") from None
