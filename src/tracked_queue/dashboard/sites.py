"""Where a request leads: below which prefix, to which namespace and page; and paths that lead back here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from starlette.requests import Request
from starlette.types import Scope

from ..app import TrackedQueue
from ..errors import NotVisibleError
from .pages import PAGES


@dataclass(slots=True)
class Source:
    """One app, and whether the number of its shards is still to be asked for."""

    app: TrackedQueue
    find_shards: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request leads: the prefix of all links, that of this namespace, the path below it, and the app."""

    root: str
    base: str
    path: str
    source: Source
    api: bool


class Sites:
    """
    The namespaces of one dashboard, by their names.

    Args:
        prefix: The path below which browsers see it, where a proxy adds one.
        prefix_stripped: The proxy takes it off.
    """

    def __init__(self, sources: Sequence[Source], prefix: str, prefix_stripped: bool) -> None:
        self._sources = {one.app.settings.namespace: one for one in sources}
        self._prefix, self._prefix_stripped = prefix, prefix_stripped

    @property
    def names(self) -> list[str]:
        """The namespaces."""
        return list(self._sources)

    def elsewhere(self, request: Request, root: str, path: str) -> str | None:
        """Where a page is that was asked for without a namespace, as from before there were several."""
        if len(self._sources) == 1 or path not in PAGES or request.method == "POST":
            return None
        query = f"?{request.url.query}" if request.url.query else ""
        return f"{root}/n/{quote(self.names[0], safe='')}{path}{query}"

    def split(self, scope: Scope) -> tuple[str, str]:
        """The prefix of all links, and the path below it, for a mount at any prefix and a proxy that strips its own or not."""
        path, mounted = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
        if mounted and (path == mounted or path.startswith(mounted + "/")):
            path = path[len(mounted) :]
        prefix = self._prefix
        if prefix and not self._prefix_stripped and (path == prefix or path.startswith(prefix + "/")):
            path = path[len(prefix) :]
        # What a browser would take for another host is no prefix.
        root = quote(f"{prefix}{mounted}" if prefix else mounted, safe="/~@:!$&'()*+,;=-._")
        return "/" + root.strip("/") if root.strip("/") else "", path or "/"

    def place(self, root: str, path: str) -> Place:
        """Raises NotVisibleError."""
        base, source, api = root, next(iter(self._sources.values())), self.is_api(path)
        if len(self._sources) > 1:
            # A name may have slashes in it, which are not escaped any more here.
            names = [one for one in self._sources if path.startswith(f"/n/{one}/")]
            if not names:
                raise NotVisibleError("there is no such page, or no such namespace")
            name = max(names, key=len)
            base, path, source = f"{root}/n/{quote(name, safe='')}", path[len(name) + 3 :], self._sources[name]
        return Place(root, base, path.removeprefix("/api") or "/" if api else path, source, api)

    def is_api(self, path: str) -> bool:
        """Whether JSON is asked for, also below a namespace."""
        below = [""] if len(self._sources) == 1 else [f"/n/{one}" for one in self._sources]
        return any(path == f"{one}/api" or path.startswith(f"{one}/api/") for one in below)


def here(path: str, query: Mapping[str, str]) -> str:
    """The page that one is on, to come back to."""
    rest = {name: value for name, value in query.items() if name not in ("told", "ids")}
    return path + (f"?{urlencode(rest)}" if rest else "")


def own_path(base: str, wanted: str) -> str:
    """A path of ours, whatever was asked for; never another host."""
    try:
        parts = urlsplit(wanted)
    except ValueError:
        return f"{base}/"
    path = parts.path if parts.path in PAGES or parts.path.startswith("/n/") else "/"
    if "//" in path or "\\" in path or ".." in path:
        path = "/"
    query = urlencode([(name, value) for name, value in parse_qsl(parts.query)[:50] if name != "told"])
    return f"{base}{quote(path, safe='/')}" + (f"?{query}" if query else "")
