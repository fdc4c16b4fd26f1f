"""What a request carries in its body: a form, or a JSON object of the same names."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl, unquote

from starlette.requests import Request

from ..errors import UsageError

MOST_BODY = 64 * 1024


async def _body(request: Request) -> bytes:
    """At most MOST_BODY bytes; kept, since it is looked at twice. Raises UsageError."""
    kept: bytes | None = getattr(request.state, "body", None)
    if kept is not None:
        return kept
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BODY:
            raise UsageError(f"the request is larger than {MOST_BODY} bytes")
        parts.append(part)
    request.state.body = b"".join(parts)
    return b"".join(parts)


async def _pairs(request: Request) -> list[tuple[str, str]]:
    """The fields of a form, or of a JSON object."""
    body = await _body(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not body:
        return []
    try:
        if kind == "application/json":
            found = json.loads(body)
            if not isinstance(found, dict):
                raise ValueError("it is no object")
            pairs: list[tuple[str, str]] = []
            for name, value in found.items():
                for one in value if isinstance(value, list) else [value]:
                    if not isinstance(one, str | int | None) or isinstance(one, bool):
                        raise ValueError(f"{name}: it must be text, a whole number, or a list of these")
                    if one is not None:
                        pairs.append((name, str(one)))
            return pairs
        if kind != "application/x-www-form-urlencoded":
            raise ValueError(f"{kind or 'no content type'}: send application/x-www-form-urlencoded or application/json")
        return parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=1000, errors="strict")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the request can't be read: {error}") from None


async def read_form(request: Request) -> dict[str, str]:
    """Its fields, the last of each name, without `ids`. Raises UsageError."""
    return {name: value for name, value in await _pairs(request) if name != "ids"}


async def read_ids(request: Request) -> list[str]:
    """
    The jobs that were chosen: `ids`, once for each; percent-encoded in forms, whose line breaks browsers change.

    Raises UsageError.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    raw = [value for name, value in await _pairs(request) if name == "ids"]
    return raw if kind == "application/json" else [unquote(value) for value in raw]
