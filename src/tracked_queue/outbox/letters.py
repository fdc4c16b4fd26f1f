"""A request as a row of the outbox holds it: bytes that a later version can still read."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec

from ..errors import UsageError
from ..protocol.packing import decode_extras, encode_extras, shallow
from ..protocol.request import Request

# What a row's column of this name says; a relay takes no rows of a newer one.
FORMAT = 1
_SUM_BYTES = 4


class _Letter(msgspec.Struct, frozen=True, array_like=True):
    """What a row carries; times are absolute, in ms since 1970, by the clock of the program that wrote it."""

    id: str
    task: str
    queue: str
    args: bytes
    kwargs: bytes
    options: bytes
    due_ms: int | None
    tracked: bool
    extras: bytes
    durability: str
    more_after: tuple[str, ...]
    wants: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Letter)


def encode(request: Request, now_ms: int) -> bytes:
    """
    Bytes of a request that is written at this time: its delay and its expiry count from now, not from when the relay comes.
    """
    extras, due_ms = request.extras, request.due_ms
    if request.delay_ms is not None:
        due_ms = now_ms + request.delay_ms
    if extras:
        fields = decode_extras(extras)
        expires = fields.get("expires", "")
        if expires.startswith("+"):
            fields["expires"] = str(now_ms + int(expires[1:]))
            extras = encode_extras(fields)
    letter = _encoder.encode(
        _Letter(
            request.id, request.task, request.queue, request.args, request.kwargs, request.options, due_ms,
            request.tracked, extras, request.durability, request.more_after, request.wants,
        )
    )  # fmt: skip
    return zlib.crc32(letter).to_bytes(_SUM_BYTES, "big") + letter


def decode(payload: Any, known_ms: int) -> Request:
    """
    The request, whose id stays known for this long.

    Raises:
        UsageError: Bytes that `encode` did not write, or that have been damaged: the scripts trust what they are given.
    """
    try:
        data = payload.encode() if isinstance(payload, str) else bytes(payload)
        if zlib.crc32(data[_SUM_BYTES:]).to_bytes(_SUM_BYTES, "big") != data[:_SUM_BYTES]:
            raise UsageError("the row's payload is damaged, or something else wrote it: its checksum is wrong")
        letter = shallow(_decoder.decode, data[_SUM_BYTES:])
        extras = decode_extras(letter.extras) if letter.extras else {}
    except (msgspec.DecodeError, msgspec.ValidationError, TypeError) as error:
        raise UsageError(f"the row's payload can't be read: {error}") from None
    extras.setdefault("known", known_ms)
    return Request(
        letter.id, letter.task, letter.queue, letter.args, letter.kwargs, letter.options, None, letter.due_ms, letter.tracked,
        encode_extras(extras), None, letter.durability, True, letter.more_after, letter.wants,
    )  # fmt: skip
