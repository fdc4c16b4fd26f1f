"""Arguments and results: checked against annotations, equal and of the same type on arrival, or refused by name."""

from __future__ import annotations

import contextlib
import enum
import math
import threading
import uuid
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, TypedDict

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracked_queue import ArgumentError, PayloadTooLargeError
from tracked_queue.model.codec import Signature, decode_error, encode_exception

LIMIT = 1 << 20


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Item:
    name: str
    price: Decimal
    tags: set[str] = field(default_factory=set)


class Point(msgspec.Struct):
    x: int
    y: int = 0


@attrs.define
class Box:
    items: list[Item]


class Model(pydantic.BaseModel):
    id: int
    when: datetime


class Row(TypedDict):
    id: int
    note: str | None


@dataclass
class Angry:
    value: int

    def __post_init__(self) -> None:
        if self.value == 13:
            raise KeyError("not this one")


VALUES: list[tuple[Any, Any]] = [
    (int, 5), (float, 1.5), (str, "ü✓"), (bool, True), (None, None), (bytes, b"\x00\xff"), (float, math.inf),
    (datetime, datetime(2026, 10, 25, 2, 30, tzinfo=UTC)), (date, date(2026, 1, 2)), (timedelta, timedelta(seconds=90)),
    (Decimal, Decimal("1.10")), (uuid.UUID, uuid.UUID(int=7)), (Colour, Colour.RED), (Level, Level.HIGH),
    (tuple[int, str], (1, "a")), (set[int], {1, 2}), (frozenset[str], frozenset({"a"})), (dict[int, int], {1: 2}),
    (list[tuple[int, ...]], [(1, 2), (3,)]), (Item, Item("a", Decimal(2), {"x"})), (Point, Point(1)),
    (Box, Box([Item("a", Decimal(1))])), (Row, {"id": 1, "note": None}), (int | str | None, "x"),
    (Literal["a", "b"], "b"), (Model, Model(id=1, when=datetime(2026, 1, 1, tzinfo=UTC))), (dict[str, Any], {"a": [1, None]}),
    (object, [1, {"a": 2.5}]),
]  # fmt: skip


def signature_of(kind: Any) -> Signature:
    async def task(value, *, named=None): ...  # type: ignore[no-untyped-def]

    task.__annotations__ = {"value": kind, "named": kind}
    return Signature("t", task)


@pytest.mark.parametrize("kind, value", VALUES, ids=[str(kind) for kind, _ in VALUES])
def test_values_arrive_equal_and_of_the_same_type(kind: Any, value: Any) -> None:
    """CASE-52."""
    signature = signature_of(kind)
    args, kwargs = signature.decode(*signature.encode((value,), {"named": value}, LIMIT))
    assert args == (value,) and type(args[0]) is type(value)
    assert kwargs == {"named": value}
    assert signature_of(kind).result.kind is not None
    result = Signature("t", signature_returning(kind)).result
    assert result.decode(result.encode(value)) == value


def signature_returning(kind: Any) -> Any:
    async def task(): ...  # type: ignore[no-untyped-def]

    task.__annotations__ = {"return": kind}
    return task


@pytest.mark.parametrize(
    "kind, value",
    [
        (int, "5"), (int, True), (str, 5), (list[int], ["x"]), (list[int], (1, 2)), (Any, (1, 2)), (Any, {1}),
        (Any, Decimal(1)), (Any, Level.HIGH), (Any, datetime(2026, 1, 1)), (Any, [(1,)]), (dict, {"a": (1,)}),
        (int, 2**70), (Any, 2**70), (Any, threading.Lock()), (Item, {"name": "a"}), (Literal["a"], "b"), (Angry, Angry(1)),
    ],
)  # fmt: skip
def test_what_would_arrive_changed_is_refused_by_name(kind: Any, value: Any) -> None:
    if isinstance(value, Angry):
        value.value = 13
    for args, kwargs, name in (((value,), {}, "value"), ((None,), {"named": value}, "named")):
        signature = signature_of(kind)
        if name == "named":
            args = (VALID.get(kind),)
            if args == (None,):
                continue
        with pytest.raises(ArgumentError, match=name) as found:
            signature.encode(args, kwargs, LIMIT)
        assert isinstance(found.value, TypeError) and found.value.argument == name and "task t" in str(found.value)


VALID: dict[Any, Any] = {int: 1, str: "a"}


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ArgumentError, match="contains itself"):
        signature_of(Any).encode((loop,), {}, LIMIT)


def test_nan_arrives_as_nan() -> None:
    for kind in (float, Any):
        signature = signature_of(kind)
        args, _ = signature.decode(*signature.encode((math.nan,), {}, LIMIT))
        assert math.isnan(args[0])


async def several(a: int, b: str = "x", /, c: int = 0, *rest: int, d: bool = False, **others: int) -> None: ...


@pytest.mark.parametrize(
    "args, kwargs", [((1,), {}), ((1, "b"), {"c": 2}), ((1, "b", 3, 4, 5), {"d": True}), ((1,), {"e": 5, "d": False})]
)
def test_every_kind_of_parameter(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    signature = Signature("t", several)
    assert signature.decode(*signature.encode(args, kwargs, LIMIT)) == (args, kwargs)


async def plain(a: int, b: int = 2, *, c: int) -> None: ...


@pytest.mark.parametrize(
    "args, kwargs, said",
    [
        ((), {"c": 1}, "argument a: missing"),
        ((1,), {}, "argument c: missing"),
        ((1, 2, 3), {"c": 1}, "takes 2 positional arguments, and 3 were given"),
        ((1,), {"c": 1, "z": 1}, "argument z: the function has no such argument"),
        ((1,), {"c": 1, "a": 1}, "argument a: given twice"),
        ((1,), {"c": "x"}, "argument c: Expected `int`"),
    ],
)
def test_a_call_that_does_not_fit(args: tuple[Any, ...], kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        Signature("t", plain).encode(args, kwargs, LIMIT)


def test_how_an_array_is_written_does_not_matter() -> None:
    """Other encoders may write a short array in the long form; what was learnt from one call holds for no call of another length."""

    def many(
        a: int = 0, b: int = 0, c: int = 0, d: int = 0, e: int = 0, f: int = 0, g: int = 0, h: int = 0, i: int = 0,
        j: int = 0, k: int = 0, x: int = 0, m: int = 0, n: int = 0, o: int = 0, p: int = 0, q: int = 0, r: int = 0,
    ) -> None: ...  # fmt: skip

    signature = Signature("t", many)
    long_form = b"\xdc\x00\x02\x01\x02"
    calls = [
        (long_form, (1, 2)),
        (msgspec.msgpack.encode(list(range(18))), tuple(range(18))),
        (b"\x92\x03\x04", (3, 4)),
    ]
    for _ in range(2):
        for packed, args in calls:
            assert signature.decode(packed, b"") == (args, {})


def test_arguments_of_an_older_producer_get_defaults_and_of_another_one_are_refused() -> None:
    async def old(a: int) -> None: ...

    async def new(a: int, b: str = "added") -> None: ...

    packed = Signature("t", old).encode((1,), {}, LIMIT)
    assert Signature("t", new).decode(*packed) == ((1,), {})
    packed = Signature("t", new).encode((1, "b"), {}, LIMIT)
    with pytest.raises(ArgumentError, match="takes 1 positional"):
        Signature("t", old).decode(*packed)


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_bytes_decode_or_are_refused_in_one_way(args: bytes, kwargs: bytes) -> None:
    """CASE-74: decoding builds plain data and annotated types, or raises our own error; nothing else."""
    with contextlib.suppress(ArgumentError):
        Signature("t", several).decode(args, kwargs)


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON_LIKE)
def test_plain_data_round_trips(value: Any) -> None:
    signature = signature_of(Any)
    args, _ = signature.decode(*signature.encode((value,), {}, 1 << 30))
    assert args == (value,)


def test_size_is_limited() -> None:
    with pytest.raises(PayloadTooLargeError) as found:
        signature_of(bytes).encode((b"x" * 100,), {}, 50)
    assert found.value.payload_bytes > 100 and "max_payload" in str(found.value)


def test_annotations_that_can_not_be_read_are_named() -> None:
    async def task(value: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ArgumentError, match="Missing"):
        Signature("t", task)


@dataclass
class Other:
    a: int


def test_an_annotation_that_can_not_be_served_is_named() -> None:
    async def task(value: list[Item | Other]) -> None: ...

    with pytest.raises(ArgumentError, match="value"):
        Signature("t", task)


class Picky(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one, two)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "error, kind",
    [(Picky(1, 2), "Picky"), (Mute(), "Mute"), (ValueError("\udcff" * 5000), "ValueError"), (KeyError(), "KeyError")],
)
def test_any_exception_becomes_bounded_text(error: Exception, kind: str) -> None:
    """CASE-53, CASE-59: errors are text, never rebuilt as classes."""
    try:
        raise error
    except Exception as caught:
        packed = encode_exception(caught)
    info = decode_error(packed)
    assert info is not None and info.type.endswith(kind) and len(packed) < 50_000 and kind in info.traceback
    assert decode_error(b"\xc1") is not None and decode_error(b"") is None
