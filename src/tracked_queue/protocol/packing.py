"""Values in MessagePack that scripts read: text and numbers only, which they can on every server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[str, Any])


def shallow(decode: Callable[[bytes], T], data: bytes) -> T:
    """What bytes decode to; the decoder's other errors (too deep, not UTF-8) become decoding errors too."""
    try:
        return decode(data)
    except RecursionError:
        raise msgspec.DecodeError("it is nested too deep") from None
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"a text in it is not UTF-8: {error.reason}") from None


def encode_extras(extras: Mapping[str, Any]) -> bytes:
    """Bytes of an enqueue's extras: text and numbers only, which the scripts can read on every server."""
    return _encoder.encode(extras)


def decode_extras(data: bytes) -> dict[str, Any]:
    """The map that `encode_extras` made."""
    extras: dict[str, Any] = shallow(_decoder.decode, data)
    return extras
