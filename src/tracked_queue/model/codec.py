"""
Values to bytes and back: a task's arguments, its result, an error's text, a job's options.

Everything is MessagePack, decoded only into plain data and the types that the function's own annotations name:
no pickle, and no name from Redis is ever looked up. What would arrive changed is refused where it is sent.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import sys
import traceback
import types
import typing
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import msgspec.inspect

from ..errors import ArgumentError, PayloadTooLargeError, UnreadableHintsError
from ..protocol.packing import shallow
from .canonical import PLAIN_TEXT, fields_of
from .inputs import Results
from .record import ErrorInfo

FORMAT = 1
T = TypeVar("T")

MAX_MESSAGE = 2_000
MAX_TRACEBACK = 8_000

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_KEYWORD = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Options(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    Options that one job has in place of its task's, stored with it only where they differ; times in ms.

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
    kind = type(value)
    if hasattr(kind, "__pydantic_fields_set__") or hasattr(kind, "__pydantic_validator__"):
        return _fields_of_model(value)
    if isinstance(value, PLAIN_TEXT):
        return str(value)
    core = sys.modules.get("pydantic_core")
    if core is not None and hasattr(kind, "__get_pydantic_core_schema__"):
        return core.to_jsonable_python(
            value
        )  # a type of pydantic's, such as a URL; one that hides its value is refused
    raise TypeError(f"a {kind.__qualname__} can't be stored")


def _fields_of_model(model: Any) -> Any:
    """
    The part of a pydantic model to send: what was set, by the fields' own names. Then what arrives is what was sent,
    with the same fields set, whatever aliases, computed fields, exclusions and serializers the model has for other
    purposes. A field that may distinguish a union's members (a Literal) is always sent.
    """
    if getattr(type(model), "__pydantic_root_model__", False):
        return model.root
    values = {name: value for name, value in model.__dict__.items() if name in model.model_fields_set}
    for name in _tags_of(cast(Hashable, type(model))):
        values.setdefault(name, model.__dict__[name])
    return {**values, **(model.__pydantic_extra__ or {})}


@functools.cache
def _tags_of(kind: Hashable) -> tuple[str, ...]:
    fields = getattr(kind, "model_fields", {}).items()
    return tuple(name for name, field in fields if typing.get_origin(field.annotation) is typing.Literal)


def _decode_foreign(kind: type, value: Any) -> Any:
    if issubclass(kind, PLAIN_TEXT):
        return kind(value)
    validate = getattr(kind, "model_validate", None)
    if not callable(validate):
        raise TypeError(f"{kind.__qualname__} is not a type that can be stored")
    try:
        # Less strictly than a strict model asks elsewhere: here a date arrives as text.
        return validate(value, strict=False, by_alias=False, by_name=True)
    except TypeError as error:
        if "by_alias" not in str(error):
            raise
        return validate(value, strict=False)  # pydantic before 2.11 knows aliases only by the model's own configuration


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_foreign)
_any_decoder = msgspec.msgpack.Decoder()
_raw_map_decoder = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])
_array_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
_error_decoder = msgspec.msgpack.Decoder(tuple[str, str, str])
_options_decoder = msgspec.msgpack.Decoder(Options)


def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind, dec_hook=_decode_foreign)


# How deep values may be nested: beyond it one end or the other could not decode them, depending on its own call depth.
MAX_NESTED = 200


def _is_loose(kind: Any, above: tuple[Any, ...] = ()) -> bool:
    """
    Whether an annotation leaves a value's type or depth open; if so, what is sent is compared with what arrives, type
    by type.
    """
    if kind in (Any, object, inspect.Parameter.empty, list, dict, tuple, set, frozenset) or isinstance(
        kind, typing.TypeVar
    ):
        return True
    if kind in above:  # it may contain itself
        return True
    above = (*above, kind)
    inner = [part for part in typing.get_args(kind) if part is not Ellipsis]
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return False
    for plain in (kind, origin):
        inner += _parts_of(plain)
    return any(_is_loose(part, above) for part in inner)


def _parts_of(kind: Any) -> list[Any]:
    """The annotations inside of one: of its fields, or of what it stands for."""
    for name in ("__value__", "__supertype__"):  # `type X = ...`, NewType
        if hasattr(kind, name):
            return [getattr(kind, name)]
    if not isinstance(kind, type):
        return []
    fields = getattr(kind, "model_fields", None)
    if isinstance(fields, dict):
        return [item.annotation for item in fields.values()]
    made_of_fields = (
        is_dataclass(kind)
        or hasattr(kind, "__struct_fields__")
        or hasattr(kind, "__attrs_attrs__")
        or typing.is_typeddict(kind)
        or (issubclass(kind, tuple) and hasattr(kind, "_fields"))
    )
    if not made_of_fields:
        return []
    try:
        return list(typing.get_type_hints(kind, include_extras=True).values())
    except Exception:  # names that can't be found
        return [Any]


def difference(sent: Any, arrives: Any) -> str:
    """
    Where what arrives is not what was sent, type by type; '' if nowhere. A whole number may arrive as a float of that value.

    Raises:
        TypeError: It is nested deeper than MAX_NESTED.
    """
    left = [(sent, arrives, "", 0)]
    while left:
        one, other, place, depth = left.pop()
        if depth > MAX_NESTED:
            raise TypeError(f"it contains itself, or is nested too deep (more than {MAX_NESTED} values in one another)")
        kind = type(one)
        if kind is int and type(other) is float and one == other:
            continue
        if kind is not type(other):
            return f"{place}: a {_kind_name(one)} would arrive as {_kind_name(other)}" if place else "a part of it"
        deeper = depth + 1
        if isinstance(one, Mapping):
            if len(one) != len(other):
                return place or "its keys"
            for (key, value), (other_key, other_value) in zip(one.items(), other.items(), strict=True):
                left += [
                    (key, other_key, f"{place} key {key!r}", deeper),
                    (value, other_value, f"{place}[{key!r}]", deeper),
                ]
        elif isinstance(one, list | tuple):
            if len(one) != len(other):
                return place or "its length"
            left += [(item, other[at], f"{place}[{at}]", deeper) for at, item in enumerate(one)]
        elif isinstance(one, set | frozenset):
            if {(type(item), item) for item in one} != {(type(item), item) for item in other}:
                return place or "its members"
        elif not _equal(one, other):
            fields, other_fields = fields_of(one), fields_of(other)
            if fields is None or other_fields is None or fields.keys() != other_fields.keys():
                return place or "its value"
            left += [(value, other_fields[name], f"{place}.{name}", deeper) for name, value in fields.items()]
        elif (fields := fields_of(one)) is not None:
            # Equal as wholes, and perhaps not by the types of what is in them.
            other_fields = fields_of(other) or {}
            left += [(value, other_fields.get(name), f"{place}.{name}", deeper) for name, value in fields.items()]
            if hasattr(one, "model_fields_set"):
                tags = set(_tags_of(cast(Hashable, kind)))
                if one.model_fields_set - tags != other.model_fields_set - tags:
                    return f"{place}.model_fields_set"
    return ""


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, datetime) and one.tzinfo is not None and other.tzinfo is not None:
        # Compared as instants: for Python, local times in the hour that a clock change repeats are equal to nothing.
        return bool(one.astimezone(UTC) == other.astimezone(UTC))
    same: bool = one == other
    return bool(same)


class ValueCodec:
    """Bytes of one value of one annotated type, with the promise that it arrives as it was sent."""

    def __init__(self, kind: Any) -> None:
        """Raises TypeError for a type that is not supported."""
        self.kind = kind
        self.loose = _is_loose(kind)
        # The type for MessagePack: the annotation; for a union that msgspec can't handle, one that names the member.
        self.wire: Any = Any if kind in (inspect.Parameter.empty, object) else kind
        self.choices: tuple[ValueCodec, ...] = ()
        try:
            self._decode = _decoder(self.wire).decode
            _check_foreign(self.wire)
        except TypeError:
            members = _members_of(kind)
            if not members:
                raise
            self.choices = tuple(ValueCodec(member) for member in members)
            self.wire = tuple[int, bytes]
            self._decode = _decoder(self.wire).decode

    def told(self, value: Any) -> Any:
        """The value; for a union that needs it, which member it is, with its bytes. Raises TypeError if it is of no member."""
        if not self.choices:
            return value
        problems = []
        by_type = sorted(range(len(self.choices)), key=lambda at: not _is_exactly(value, self.choices[at].kind))
        for at in by_type:
            try:
                return [at, self.choices[at].encode(value)]
            except TypeError as error:
                problems.append(str(error))
        raise TypeError(f"{_kind_name(value)} is none of its types ({problems[0]})")

    def taken(self, value: Any) -> Any:
        """The value again, from what `told` made of it."""
        return self.choices[value[0]].decode(value[1]) if self.choices else value

    def encode(self, value: Any) -> bytes:
        """Raises TypeError with the reason when the value can't be stored or would arrive changed."""
        try:
            data = _encoder.encode(self.told(value))
            self.check(value, self.taken(self._decode(data)))
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
        where = difference(sent, arrives)
        if not where:
            return
        if type(sent) is not type(arrives):
            raise TypeError(f"{_kind_name(sent)} would arrive as {_kind_name(arrives)}")
        hint = "; annotate the parameter with its type" if self.loose else ""
        raise TypeError(f"a value inside of this {_kind_name(sent)} would arrive changed ({where}){hint}")

    def decode(self, data: bytes) -> Any:
        """Raises one of the decoder's errors when the bytes don't fit the type."""
        value = shallow(self._decode, data)
        return self.taken(value) if self.choices else value


def _check_foreign(kind: Any) -> None:
    """Refuse a type that contains a class which can't be decoded here. Raises TypeError."""
    left: list[Any] = [msgspec.inspect.type_info(kind)]
    seen: set[int] = set()
    while left:
        item = left.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, msgspec.inspect.CustomType):
            made = typing.get_origin(item.cls) or item.cls
            known = isinstance(made, type) and (issubclass(made, PLAIN_TEXT) or hasattr(made, "model_validate"))
            if not known:
                raise TypeError(f"{getattr(made, '__qualname__', made)} is not a type that can be stored")
        elif isinstance(item, msgspec.inspect.Type | msgspec.inspect.Field):
            left += [getattr(item, name) for name in item.__struct_fields__]
        elif isinstance(item, tuple | list):
            left += item


def _members_of(kind: Any) -> tuple[Any, ...]:
    """The members of a union, also of one that is annotated or has a name; none for another type."""
    while True:
        if typing.get_origin(kind) is typing.Annotated:
            kind = typing.get_args(kind)[0]
        elif hasattr(kind, "__value__"):
            kind = kind.__value__
        else:
            break
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else ()


def _is_exactly(value: Any, kind: Any) -> bool:
    wanted: Any = type(None) if kind is None else typing.get_origin(kind) or kind
    return type(value) is wanted


STREAMED = "it is a Results[...], which the worker makes from the results of the jobs before this one"


def _check_streams(task: str, parameters: Sequence[inspect.Parameter], kinds: dict[str, Any]) -> bool:
    """Whether the first parameter is a stream of results; its kind becomes that of one result. Raises ArgumentError."""
    streams = False
    for at, item in enumerate(parameters):
        kind = kinds[item.name]
        if kind is not Results and typing.get_origin(kind) is not Results:
            continue
        if at or item.kind not in _POSITIONAL:
            raise ArgumentError(task, item.name, f"{STREAMED}; write it as the first parameter, by position")
        kinds[item.name] = next(iter(typing.get_args(kind)), Any)
        streams = True
    return streams


def _codec(task: str, name: str, kind: Any) -> ValueCodec:
    try:
        return ValueCodec(kind)
    except NameError as error:
        raise UnreadableHintsError(task, name, f"its annotation names what can't be found: {error}") from None
    except TypeError as error:
        raise ArgumentError(
            task, name,
            f"its annotation is not supported: {' '.join(str(error).split())}. A union of such types must be the "
            "whole argument, not inside a container: put it into a field of a pydantic model, or use msgspec "
            "Structs with tags",
        ) from None  # fmt: skip


def _as_it_arrives(codec: ValueCodec, default: Any) -> Any:
    try:
        return codec.decode(codec.encode(default))
    except (TypeError, msgspec.MsgspecError):
        return default  # one that could not be sent; the function itself puts it in


def _kind_name(value: Any) -> str:
    return type(value).__qualname__


class Signature:
    """
    The arguments of one function: checked against its annotations, to bytes and back.

    Bytes: `args`, an array of the positional arguments, and `kwargs`, a map of the named ones, each empty when
    there are none. Names never travel for positional arguments, so that a record stays small.
    """

    def __init__(
        self, task: str, function: Callable[..., Any], *, skip_first: bool = False, made: Collection[str] = ()
    ) -> None:
        self.task, self._made = task, frozenset(made)
        parameters = list(inspect.signature(function).parameters.values())[1 if skip_first else 0 :]
        parameters = [item for item in parameters if item.name not in made]  # those are no arguments of the job
        defaults = {item.name: item.default for item in parameters if item.default is not item.empty}
        hints = _hints(task, function)
        kinds = {item.name: hints.get(item.name, Any) for item in parameters}
        # A first parameter that is a `Results[...]` is given the results of the jobs before it one by one.
        self.streams = _check_streams(task, parameters, kinds)
        self._codecs = {name: _codec(task, name, kind) for name, kind in kinds.items()}
        self._choices = any(codec.choices for codec in self._codecs.values())
        # As they would arrive, so that an argument that is left out has the key of one that is given.
        self._defaults = {name: _as_it_arrives(self._codecs[name], value) for name, value in defaults.items()}
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
        # How to decode a whole call of positional arguments, by its first byte, which gives their number.
        self._plain: dict[bytes, Callable[[bytes], tuple[Any, ...]]] = {}
        self.result = _codec(task, "return", hints.get("return", Any))

    @property
    def positional(self) -> tuple[str, ...]:
        """The names of the parameters that a positional argument can be for, in their order."""
        return tuple(self._positional)

    def encode(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], max_bytes: int, given: int = 0
    ) -> tuple[bytes, bytes]:
        """
        Bytes of a call's arguments; the first `given` positional ones will come from elsewhere.

        Raises:
            ArgumentError: Names the argument that is missing, unexpected, of a wrong type, or can't be stored.
            PayloadTooLargeError: Together they take more than `max_bytes`.
        """
        if self.streams and not given:
            raise ArgumentError(
                self.task, self._positional[0], f"{STREAMED}; use the task as a step of a chain or a group"
            )
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

    def by_name(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """
        Some of a call's arguments by name; the others are not looked at.

        Raises:
            ArgumentError: There are too many, or there is none of that name.
        """
        self._check_count(len(args))
        for name in kwargs:
            self._named_codec(name)
        found = {**dict(zip(self._positional, args, strict=False)), **kwargs}
        if self._rest is not None and len(args) > len(self._positional):
            found[self._rest] = list(args[len(self._positional) :])
        return found

    def arrived(self, packed_args: bytes, packed_kwargs: bytes, given: int = 0) -> dict[str, Any]:
        """The arguments by name as the function will have them, defaults included: what keys are made of."""
        args, kwargs = self.decode(packed_args, packed_kwargs, given)
        return self.bind(args, kwargs, given)

    def decode_first(self, data: bytes) -> Any:
        """A value for the first parameter, or one result for a stream, typed as it says. Raises one of the decoder's errors."""
        name = self._positional[0] if self._positional else self._rest
        if name is None:
            raise ArgumentError(self.task, "", "it takes no argument for the results of the jobs before it")
        return self._codecs[name].decode(data)

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
                if self._choices:
                    args = tuple(self._codecs[self._name_at(given + at)].taken(value) for at, value in enumerate(args))
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
        elif args and not (given or self._choices) and self._rest is None and packed_args[0] in _SHORT_ARRAYS:
            self._plain[packed_args[:1]] = self._tuple_decoder(len(args), 0)[0].decode
        return args, kwargs

    def _encode_positional(self, args: tuple[Any, ...], given: int) -> bytes:
        decoder, loose = self._tuple_decoder(given + len(args), given)
        try:
            if not (loose or self._choices):
                data = _encoder.encode(args)
                if decoder.decode(data) == args:
                    return data
        except Exception:
            pass
        # Slow path: an argument is wrong, loosely typed, or not comparable. One by one names the culprit.
        for position, value in enumerate(args):
            name = self._name_at(given + position)
            self._encode_one(name, self._codecs[name], value)
        return _encoder.encode(self._told(args, given) if self._choices else args)

    def _told(self, args: tuple[Any, ...], given: int) -> tuple[Any, ...]:
        return tuple(self._codecs[self._name_at(given + at)].told(value) for at, value in enumerate(args))

    def _encode_named(self, kwargs: Mapping[str, Any]) -> bytes:
        for name, value in kwargs.items():
            self._encode_one(name, self._named_codec(name), value)
        told = (
            {name: self._named_codec(name).told(value) for name, value in kwargs.items()} if self._choices else kwargs
        )
        return _encoder.encode(told)

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
        if name in self._made:
            raise ArgumentError(self.task, name, "it is no argument: the worker makes it for each run")
        if self._others is not None:
            return self._codecs[self._others]
        raise ArgumentError(self.task, name, "the function has no such argument")

    def _tuple_decoder(self, count: int, given: int) -> tuple[msgspec.msgpack.Decoder[Any], bool]:
        """The decoder of the positional arguments from `given` to `count`."""
        found = self._tuples.get((count, given))
        if found is None:
            codecs = [self._codecs[self._name_at(position)] for position in range(given, count)]
            kinds = tuple(codec.wire for codec in codecs)
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
        raise UnreadableHintsError(
            task, "", f"its annotations can't be read ({error}); import the names at module level, not only for typing"
        ) from None


def decode_any(data: bytes | None) -> Any:
    """A stored value as plain data; None for none."""
    return shallow(_any_decoder.decode, data) if data else None


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


def decode_options(data: bytes | None) -> Options:
    """Raises msgspec.DecodeError for bytes that this package did not write."""
    return shallow(_options_decoder.decode, data) if data else _NO_OPTIONS


_NO_OPTIONS = Options()


def encode_error(kind: str, message: str, trace: str = "") -> bytes:
    """Bytes of an error's text, each part bounded; of a traceback the tail is kept."""
    return _encoder.encode((kind[:MAX_MESSAGE], _clean(message[:MAX_MESSAGE]), _clean(trace[-MAX_TRACEBACK:])))


_PACKAGE = str(Path(__file__).parent.parent) + os.sep


def encode_exception(error: BaseException) -> bytes:
    """Bytes of an exception: its class's name, its text, the tail of its traceback; without frames of ours that lead there."""
    kind = type(error)
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    try:
        message = str(error)
    except BaseException as broken:
        message = f"<its text can't be made: {type(broken).__qualname__}>"
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None and frames.tb_frame.f_code.co_filename.startswith(_PACKAGE):
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
    """An error's text; None for none. Bytes that this package did not write come back as a message that says so."""
    if not data:
        return None
    try:
        kind, message, trace = shallow(_error_decoder.decode, data)
    except msgspec.DecodeError:
        return ErrorInfo(type="", message="the stored error can't be read", traceback="")
    return ErrorInfo(type=kind, message=message, traceback=trace)
