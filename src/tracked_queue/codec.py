"""
Values to bytes and back: a task's arguments, its result, an error's text, a job's options.

Everything is MessagePack, decoded only into plain data and the types that the function's own annotations name:
no pickle, and no name from Redis is ever looked up. What would arrive changed is refused where it is sent.
"""

from __future__ import annotations

import inspect
import math
import traceback
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, TypeVar

import msgspec

from .errors import ArgumentError, PayloadTooLargeError
from .job import ErrorInfo

FORMAT = 1
T = TypeVar("T")

MAX_MESSAGE = 2_000
MAX_TRACEBACK = 8_000

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_KEYWORD = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Options(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    What one job overrides of its task, stored with it only where it differs; times in ms.

    `format` is the version of the stored job; a worker parks a job of a newer one for a newer worker.
    """

    timeout_ms: int | None = None
    max_attempts: int | None = None
    headers: dict[str, Any] | None = None
    context: dict[str, Any] | None = None
    inputs: str = ""
    tick_ms: int | None = None
    format: int = FORMAT


def _encode_foreign(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if callable(dump):  # pydantic, without importing it
        return dump(mode="json")
    raise TypeError(f"a {type(value).__qualname__} can't be stored")


def _decode_foreign(kind: type, value: Any) -> Any:
    validate = getattr(kind, "model_validate", None)
    if callable(validate):
        return validate(value)
    raise TypeError(f"{kind.__qualname__} is not a type that can be stored")


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_foreign)
_canonical_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_foreign, order="deterministic")
_any_decoder = msgspec.msgpack.Decoder()
_raw_map_decoder = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])
_array_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
_error_decoder = msgspec.msgpack.Decoder(tuple[str, str, str])
_options_decoder = msgspec.msgpack.Decoder(Options)


def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind, dec_hook=_decode_foreign)


def _is_loose(kind: Any) -> bool:
    """Whether an annotation leaves some value's type open, so that it could arrive as another type."""
    if kind in (Any, object, inspect.Parameter.empty, list, dict, tuple, set, frozenset) or isinstance(
        kind, typing.TypeVar
    ):
        return True
    return any(_is_loose(part) for part in typing.get_args(kind) if part is not Ellipsis)


def _same(sent: Any, arrives: Any) -> bool:
    """Equal, and of the same type all the way down."""
    if type(sent) is not type(arrives):
        return False
    if isinstance(sent, dict):
        return sent.keys() == arrives.keys() and all(
            _same(key, other) and _same(value, arrives[key])
            for (key, value), other in zip(sent.items(), arrives, strict=True)
        )
    if isinstance(sent, list | tuple):
        return len(sent) == len(arrives) and all(map(_same, sent, arrives))
    if isinstance(sent, float) and math.isnan(sent):
        return math.isnan(arrives)
    if is_dataclass(sent) and not isinstance(sent, type):
        return all(_same(getattr(sent, name), getattr(arrives, name)) for name in sent.__dataclass_fields__)
    return bool(sent == arrives)


def _shallow(decode: Callable[[bytes], T], data: bytes) -> T:
    """What bytes decode to; what the decoder meets with an error of another kind is a decoding error all the same."""
    try:
        return decode(data)
    except RecursionError:
        raise msgspec.DecodeError("it is nested too deep") from None
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"a text in it is no UTF-8: {error.reason}") from None


class ValueCodec:
    """Bytes of one value of one annotated type, with the promise that it arrives as it was sent."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        self.loose = _is_loose(kind)
        self._decode = _decoder(Any if kind in (inspect.Parameter.empty, object) else kind).decode

    def encode(self, value: Any) -> bytes:
        """Raises TypeError with the reason when the value can't be stored or would arrive changed."""
        try:
            data = _encoder.encode(value)
            self.check(value, self._decode(data))
        except RecursionError:
            raise TypeError("it contains itself, or is nested too deep") from None
        except OverflowError as error:
            raise TypeError(f"{error} (integers have 64 bits)") from None
        except Exception as error:  # a type's own code may raise anything
            raise TypeError(str(error) or type(error).__qualname__) from None
        return data

    def check(self, sent: Any, arrives: Any) -> None:
        """Raises TypeError when a value would not arrive as it was sent."""
        if not self.loose and sent == arrives:
            return
        if not _same(sent, arrives):
            hint = "; annotate the parameter with its type" if self.loose else ""
            raise TypeError(
                f"{_kind_name(sent)} would arrive as {_kind_name(arrives)}"
                if type(sent) is not type(arrives)
                else f"a value inside of this {_kind_name(sent)} would arrive changed{hint}"
            )

    def decode(self, data: bytes) -> Any:
        """Raises one of the decoder's errors when the bytes don't fit the type."""
        return _shallow(self._decode, data)


def _codec(task: str, name: str, kind: Any) -> ValueCodec:
    try:
        return ValueCodec(kind)
    except TypeError as error:
        raise ArgumentError(task, name, f"its annotation can't be served: {error}") from None


def _kind_name(value: Any) -> str:
    return type(value).__qualname__


class Signature:
    """
    The arguments of one function: checked against its annotations, to bytes and back.

    Bytes: `args`, an array of the positional arguments, and `kwargs`, a map of the named ones, each empty when
    there are none. Names never travel for positional arguments, so that a record stays small.
    """

    def __init__(self, task: str, function: Callable[..., Any], *, skip_first: bool = False) -> None:
        self.task = task
        parameters = list(inspect.signature(function).parameters.values())[1 if skip_first else 0 :]
        self._defaults = {item.name: item.default for item in parameters if item.default is not item.empty}
        hints = _hints(task, function)
        kinds = {item.name: hints.get(item.name, Any) for item in parameters}
        self._codecs = {name: _codec(task, name, kind) for name, kind in kinds.items()}
        self._positional = [item.name for item in parameters if item.kind in _POSITIONAL]
        self._named = frozenset(item.name for item in parameters if item.kind in _KEYWORD)
        self._required = frozenset(
            item.name for item in parameters if item.default is item.empty and item.kind in (*_POSITIONAL, *_KEYWORD)
        )
        self._rest = next((item.name for item in parameters if item.kind is item.VAR_POSITIONAL), None)
        self._others = next((item.name for item in parameters if item.kind is item.VAR_KEYWORD), None)
        self._tuples: dict[tuple[int, int], tuple[msgspec.msgpack.Decoder[Any], bool]] = {}
        self._fits: set[tuple[int, frozenset[str]]] = set()
        self._fits_alone: set[int] = set()  # counts of positional arguments that are enough without named ones
        # How to decode a whole call of positional arguments, by its first byte, which tells their number.
        self._plain: dict[bytes, Callable[[bytes], tuple[Any, ...]]] = {}
        self.result = _codec(task, "return", hints.get("return", Any))

    def encode(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], max_bytes: int, given: int = 0
    ) -> tuple[bytes, bytes]:
        """
        Bytes of a call's arguments; the first `given` positional ones will come from elsewhere.

        Raises:
            ArgumentError: Names the argument that is missing, too much, of a wrong type, or can't be stored.
            PayloadTooLargeError: Together they take more than `max_bytes`.
        """
        if kwargs or given + len(args) not in self._fits_alone:
            self._check_fit(given + len(args), kwargs.keys())
        packed_args = self._encode_positional(args, given) if args else b""
        packed_kwargs = self._encode_named(kwargs) if kwargs else b""
        size = len(packed_args) + len(packed_kwargs)
        if size > max_bytes:
            raise PayloadTooLargeError(self.task, size, max_bytes)
        return packed_args, packed_kwargs

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], given: int = 0) -> dict[str, Any]:
        """The arguments by name, defaults included, of a call that `encode` accepts; without those from elsewhere."""
        names = self._positional[given:]
        bound = {**self._defaults, **dict(zip(names, args, strict=False)), **kwargs}
        for name in self._positional[:given]:
            bound.pop(name, None)
        if self._rest is not None:
            bound[self._rest] = list(args[len(names) :])
        return bound

    def canonical(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Bytes that two calls share exactly if they mean the same, however their arguments were given."""
        return _canonical_encoder.encode(self.bind(args, kwargs))

    def decode_first(self, data: bytes) -> Any:
        """A value for the first parameter, typed as it says. Raises one of the decoder's errors."""
        if not self._positional:
            raise ArgumentError(self.task, "", "it takes no argument for the results of the jobs before it")
        return self._codecs[self._positional[0]].decode(data)

    def decode(
        self, packed_args: bytes, packed_kwargs: bytes, given: int = 0
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """
        The arguments of a stored job; the first `given` positional ones come from elsewhere.

        Raises:
            ArgumentError: The bytes don't decode, or don't fit the function any more.
        """
        try:
            plain = None if packed_kwargs or given else self._plain.get(packed_args[:1])
            if plain is not None:
                return plain(packed_args), {}
            args: tuple[Any, ...] = ()
            if packed_args:
                count = len(_array_decoder.decode(packed_args)) if self._rest else _array_length(packed_args)
                self._check_count(given + count)
                args = self._tuple_decoder(given + count, given)[0].decode(packed_args)
            kwargs = {}
            if packed_kwargs:
                for name, data in _raw_map_decoder.decode(packed_kwargs).items():
                    kwargs[name] = self._named_codec(name).decode(bytes(data))
        except ArgumentError:
            raise
        except BaseException as error:  # bytes of any kind, and types whose own code may raise anything
            raise ArgumentError(self.task, "", f"the stored arguments don't fit: {error}") from None
        if kwargs or given + len(args) not in self._fits_alone:
            self._check_fit(given + len(args), kwargs.keys())
        elif args and not given and self._rest is None and packed_args[0] in _SHORT_ARRAYS:
            self._plain[packed_args[:1]] = self._tuple_decoder(len(args), 0)[0].decode
        return args, kwargs

    def _encode_positional(self, args: tuple[Any, ...], given: int) -> bytes:
        decoder, loose = self._tuple_decoder(given + len(args), given)
        try:
            data = _encoder.encode(args)
            if not loose and decoder.decode(data) == args:
                return data
        except Exception:
            pass
        # Slow path: an argument is wrong, loosely typed, or not comparable. One by one names the culprit.
        for position, value in enumerate(args):
            name = self._name_at(given + position)
            self._encode_one(name, self._codecs[name], value)
        return _encoder.encode(args)

    def _encode_named(self, kwargs: Mapping[str, Any]) -> bytes:
        for name, value in kwargs.items():
            self._encode_one(name, self._named_codec(name), value)
        return _encoder.encode(kwargs)

    def _encode_one(self, name: str, codec: ValueCodec, value: Any) -> None:
        try:
            codec.encode(value)
        except TypeError as error:
            raise ArgumentError(self.task, name, str(error)) from None

    def _name_at(self, position: int) -> str:
        return self._positional[position] if position < len(self._positional) else str(self._rest)

    def _named_codec(self, name: str) -> ValueCodec:
        if name in self._named:
            return self._codecs[name]
        if self._others is not None:
            return self._codecs[self._others]
        raise ArgumentError(self.task, name, "the function has no such argument")

    def _tuple_decoder(self, count: int, given: int) -> tuple[msgspec.msgpack.Decoder[Any], bool]:
        """The decoder of the positional arguments from `given` to `count`."""
        found = self._tuples.get((count, given))
        if found is None:
            codecs = [self._codecs[self._name_at(position)] for position in range(given, count)]
            kinds = tuple(Any if codec.kind in (inspect.Parameter.empty, object) else codec.kind for codec in codecs)
            found = _decoder(tuple[kinds]), any(codec.loose for codec in codecs)  # type: ignore[valid-type]
            if count <= len(self._positional):  # with *args there is no end of counts to remember
                self._tuples[count, given] = found
        return found

    def _check_count(self, count: int) -> None:
        if count > len(self._positional) and self._rest is None:
            raise ArgumentError(
                self.task, "", f"takes {len(self._positional)} positional arguments, and {count} were given"
            )

    def _check_fit(self, count: int, names: Any) -> None:
        """The rules by which Python binds a call, with the task's name in the error."""
        shape = (count, frozenset(names))
        if shape in self._fits:
            return
        self._check_count(count)
        placed = set(self._positional[:count])
        for name in names:
            if name in placed and name in self._named:
                raise ArgumentError(self.task, name, "given twice, by position and by name")
            self._named_codec(name)
        missing = [name for name in self._codecs if name in self._required and name not in placed | shape[1]]
        if missing:
            raise ArgumentError(self.task, missing[0], "missing")
        if len(self._fits) < 256:
            self._fits.add(shape)
            if not names:
                self._fits_alone.add(count)


_SHORT_ARRAYS = range(0x90, 0xA0)  # heads of MessagePack arrays that hold their length


def _array_length(data: bytes) -> int:
    """The length of a MessagePack array, read from its head."""
    head = data[0]
    if head in _SHORT_ARRAYS:
        return head & 0x0F
    return len(_array_decoder.decode(data))


def _hints(task: str, function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    except Exception as error:
        raise ArgumentError(
            task, "", f"its annotations can't be read ({error}); import the names at module level, not only for typing"
        ) from None


def decode_any(data: bytes | None) -> Any:
    """A stored value as plain data; None for none."""
    return _shallow(_any_decoder.decode, data) if data else None


NIL = b"\xc0"


def packed_list(items: Sequence[bytes]) -> bytes:
    """A MessagePack array of values that are encoded already."""
    return b"\xdd" + len(items).to_bytes(4, "big") + b"".join(items)


def encode_any(value: Any) -> bytes:
    """A call's arguments for a task whose code is not at hand: plain data only. Raises TypeError."""
    return _UNTYPED.encode(value)


_UNTYPED = ValueCodec(Any)


def encode_options(options: Options) -> bytes:
    """Bytes of a job's own options."""
    return _encoder.encode(options)


def encode_extras(extras: Mapping[str, Any]) -> bytes:
    """Bytes of an enqueue's extras: text and numbers only, which the scripts can read on every server."""
    return _encoder.encode(extras)


def decode_extras(data: bytes) -> dict[str, Any]:
    """The map that `encode_extras` made."""
    extras: dict[str, Any] = _shallow(_extras_decoder.decode, data)
    return extras


_extras_decoder = msgspec.msgpack.Decoder(dict[str, Any])


def decode_options(data: bytes | None) -> Options:
    """Raises msgspec.DecodeError for bytes that are none of ours."""
    return _shallow(_options_decoder.decode, data) if data else _NO_OPTIONS


_NO_OPTIONS = Options()


def encode_error(kind: str, message: str, trace: str = "") -> bytes:
    """Bytes of an error's text, each part bounded; of a traceback the tail is kept."""
    return _encoder.encode((kind[:MAX_MESSAGE], _clean(message[:MAX_MESSAGE]), _clean(trace[-MAX_TRACEBACK:])))


def encode_exception(error: BaseException, hidden: tuple[types.CodeType, ...] = ()) -> bytes:
    """Bytes of an exception: its class's name, its text and the tail of its traceback, without our own frames."""
    kind = type(error)
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    try:
        message = str(error)
    except BaseException as broken:
        message = f"<its text can't be made: {type(broken).__qualname__}>"
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None and frames.tb_frame.f_code in hidden:
        frames = frames.tb_next
    try:
        trace = "".join(traceback.format_exception(kind, error, frames, limit=-30))
    except BaseException:
        trace = "".join(traceback.format_tb(frames, limit=-30))
    return encode_error(name, message, trace)


def _clean(text: str) -> str:
    """Text without lone surrogates, which can't be encoded."""
    return text.encode("utf-8", "replace").decode()


def decode_error(data: bytes | None) -> ErrorInfo | None:
    """An error's text; None for none. Bytes that are none of ours come back as a message that says so."""
    if not data:
        return None
    try:
        kind, message, trace = _shallow(_error_decoder.decode, data)
    except msgspec.DecodeError:
        return ErrorInfo(type="", message="the stored error can't be read", traceback="")
    return ErrorInfo(type=kind, message=message, traceback=trace)
