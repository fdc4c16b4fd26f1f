"""What a browser is told to refuse, and which requests are refused: those that another site made it send."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

SAFE_METHODS = ("GET", "HEAD")
_LOCAL_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost")
# Headers by which something in between says that it passes on what somebody else asks.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "x-forwarded-host", "via")


def headers(frame_ancestors: str) -> dict[str, str]:
    """Headers of every answer. Nothing inline and nothing of other hosts is run, shown or sent to."""
    return {
        "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        f"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors {frame_ancestors}",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Robots-Tag": "noindex, nofollow",
        **({"X-Frame-Options": "DENY"} if frame_ancestors == "'none'" else {}),
    }


# Where the origin is not trustworthy, a browser ignores it, and says so in its console.
OPENER = ("Cross-Origin-Opener-Policy", "same-origin")


def is_trustworthy(scheme: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser takes the address for one that nobody on the way can change: https, or this machine."""
    return is_https(scheme, headers) or _is_local_name(headers)


def is_https(scheme: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser came by https, as far as is known here."""
    return scheme == "https" or headers.get("x-forwarded-proto") == "https"


def is_own(headers: Mapping[str, str], hosts: Collection[str]) -> bool:
    """
    Whether a request that would change something comes from a page of ours. Browsers say so by Sec-Fetch-Site; on plain http
    under a name they do not, but send Origin, which must be of the host that was asked, or of one in `hosts`.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = headers.get("origin")
    if origin is None or origin == "null":
        return False
    host = _host_of(origin)
    return bool(host) and (host == headers.get("host") or host in hosts)


def is_local(client: tuple[str, int] | None, headers: Mapping[str, str]) -> bool:
    """
    Whether a request was made on this machine, by a name of this machine: so that a page elsewhere, whose name was made to
    lead here, is refused; and not passed on by a proxy, whose guests may be anybody.
    """
    if client is None or not is_loopback(client[0]) or any(name in headers for name in _FORWARDED):
        return False
    # A proxy that says nothing of itself is known by what a browser says of the page that it is on.
    for name in ("origin", "referer"):
        if name in headers and headers[name] != "null" and _host_of(headers[name]) != headers.get("host"):
            return False
    return _is_local_name(headers)


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


def _is_local_name(headers: Mapping[str, str]) -> bool:
    try:
        name = urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:
        return False
    return name in _LOCAL_NAMES or name.endswith(".localhost") or is_loopback(name)


def is_loopback(host: str) -> bool:
    """Whether an address, or the usual name, is of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in _LOCAL_NAMES
