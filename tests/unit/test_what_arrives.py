"""One promise for everything that a user hands over: what arrives is what was sent, or the call refused it by name."""

from __future__ import annotations

import datetime as dt
import enum
import pathlib
import typing as t
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, RootModel, computed_field

from tracked_queue import ArgumentError, JobContext, PayloadTooLargeError, TrackedQueue, UsageError
from tracked_queue.model.codec import MAX_NESTED, ValueCodec, decode_options, difference

Any = t.Any


class Color(enum.StrEnum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


@dataclass
class Loose:
    payload: dict[str, Any]


@dataclass
class A:
    x: int


@dataclass
class B:
    y: int


@dataclass
class Node:
    kids: list[Node] = field(default_factory=list)


class Cat(BaseModel):
    kind: t.Literal["cat"] = "cat"
    n: int


class Dog(BaseModel):
    kind: t.Literal["dog"] = "dog"
    n: int


class Box(BaseModel):
    pet: t.Annotated[Cat | Dog, Field(discriminator="kind")]


class Alias(BaseModel):
    user_id: int = Field(alias="userId")
    other: int = Field(default=1, validation_alias=AliasChoices("o", "p"), serialization_alias="q")


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    id: uuid.UUID
    at: dt.datetime


class Patch(BaseModel):
    name: str | None = None
    email: str | None = None


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    w: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        return self.w * self.w


class Root(RootModel[list[int]]):
    pass


class Raw(BaseModel):
    data: bytes
    path: pathlib.Path
    hidden: str = Field("x", exclude=True)


class Holder(BaseModel):
    items: list[Patch]


BERLIN = ZoneInfo("Europe/Berlin")
FOLDS = [dt.datetime(2026, 10, 25, hour, 30, tzinfo=BERLIN, fold=fold) for hour in (1, 2, 3) for fold in (0, 1)]
SERVED: list[tuple[Any, list[Any]]] = [
    (A | B, [A(1), B(2)]),
    (Cat | Dog, [Cat(n=1), Dog(n=1)]),
    (t.Annotated[Cat | Dog, Field(discriminator="kind")], [Dog(n=1)]),
    (Cat | int | None, [Cat(n=1), 5, None]),
    (dt.datetime | str, [FOLDS[0], "x", "2026-01-01T00:00:00Z"]),
    (str | uuid.UUID, ["x", str(uuid.UUID(int=5)), uuid.UUID(int=5)]),
    (Color | str, [Color.RED, "red", "blue"]),
    (bytes | str, [b"x", "x"]),
    (Decimal | float, [Decimal("1.5"), 1.5]),
    (pathlib.Path, [pathlib.Path("/x/y")]),
    (dt.datetime, [*FOLDS, dt.datetime(2026, 1, 1)]),
    (list[dt.datetime], [FOLDS]),
    (Any, [{"a": [1, None, True, 1.5, "x", b"x"]}]),
    (Loose, [Loose({"a": [1, "x"]})]),
    (Node, [Node([Node(), Node([Node()])])]),
    (Alias, [Alias(userId=5), Alias.model_validate({"userId": 5, "o": 2})]),
    (Strict, [Strict(id=uuid.UUID(int=1), at=dt.datetime.now(dt.UTC))]),
    (Patch, [Patch(), Patch(name="x"), Patch(name=None), Patch(email=None, name="y")]),
    (Holder, [Holder(items=[Patch(), Patch(name=None)])]),
    (Computed, [Computed(w=2)]),
    (Root, [Root([1, 2])]),
    (Raw, [Raw(data=b"\xff\xfe", path=pathlib.Path("x"), hidden="real")]),
    (Box, [Box(pet=Dog(n=3))]),
    (list[Patch], [[Patch(name="x"), Patch()]]),
]


@pytest.mark.parametrize(("kind", "values"), SERVED, ids=lambda item: str(item)[:40])
def test_what_is_served_arrives_as_it_was_sent(kind: Any, values: list[Any]) -> None:
    async def own(x, *rest, named=None): ...  # type: ignore[no-untyped-def]

    own.__annotations__ = {"x": kind, "rest": kind, "named": kind, "return": kind}
    task = TrackedQueue().task(name="t")(own)
    for value in values:
        args, kwargs = task.signature.decode(*task.signature.encode((value, value), {"named": value}, 10**6))
        arrived = [*args, kwargs["named"], task.signature.result.decode(task.signature.result.encode(value))]
        for one in arrived:
            assert not difference(value, one) and type(one) is type(value)
            assert getattr(one, "fold", 0) == 0 or one.utcoffset() == value.utcoffset()


@pytest.mark.parametrize(("kind", "value"), [
    (Loose, Loose({"c": Color.RED})), (Loose, Loose({"c": Number.ONE})), (Loose, Loose({"c": (1, 2)})),
    (dict[str, Any], {"c": Color.RED}), (t.NewType("Payload", dict), {"c": Color.RED}), (Any, (1, 2)), (Any, {1, 2}),
    (list[Any], [Number.ONE]), (Any, object()), (Any, 2**70), (A, B(1)), (Patch, Cat(n=1)), (A | B, Cat(n=1)), (int, True), (str, 5),
])  # fmt: skip
def test_what_would_arrive_changed_is_refused_by_name(kind: Any, value: Any) -> None:
    async def own(x): ...  # type: ignore[no-untyped-def]

    own.__annotations__ = {"x": kind}
    with pytest.raises(ArgumentError, match="argument x"):
        TrackedQueue().task(name="t")(own).call(value)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
    | st.sampled_from([Color.RED, Number.ONE, (1,), {2}, A(1), Patch(name="x")]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(0, 5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(PLAIN)
def test_any_value_arrives_or_is_refused(value: Any) -> None:
    """Of arguments, results, checkpoints, headers and carried values alike: they have one check."""
    codec = ValueCodec(Any)
    try:
        data = codec.encode(value)
    except TypeError:
        return
    assert not difference(value, codec.decode(data))


@given(st.dictionaries(st.text(max_size=3) | st.integers(), PLAIN, max_size=3))
def test_headers_arrive_or_are_refused_by_name(headers: Any) -> None:
    made = TrackedQueue()
    try:
        request = made.task(name="t")(_nothing).options(headers=headers).call().request
    except UsageError as error:
        assert "headers" in str(error)
        return
    assert not difference(headers, decode_options(request.options).headers or {})


async def _nothing() -> None: ...


def test_headers_and_carried_values_count_as_payload() -> None:
    made = TrackedQueue(max_payload=1000)
    task = made.task(name="t")(_nothing)
    with pytest.raises(PayloadTooLargeError):
        task.options(headers={"a": "x" * 1001}).call()


@pytest.mark.parametrize("deep", [MAX_NESTED - 5, MAX_NESTED + 5, 490, 5000])
def test_one_limit_of_depth_for_both_sides(deep: int) -> None:
    value: Any = []
    for _ in range(deep):
        value = [value]
    codec = ValueCodec(Any)
    if deep < MAX_NESTED:
        assert codec.decode(codec.encode(value)) == value
        return
    with pytest.raises(TypeError, match="too deep"):
        codec.encode(value)


# Annotations


def test_what_can_not_be_served_is_said_at_the_decorator() -> None:
    async def nested(x: list[A | B]) -> None: ...

    async def callback(x: t.Callable[[], int]) -> None: ...

    for wrong in (nested, callback):
        with pytest.raises(ArgumentError, match="argument x"):
            TrackedQueue().task()(wrong)


def test_a_name_that_is_defined_further_down_is_looked_at_later() -> None:
    async def early(x: Any) -> None: ...

    early.__annotations__["x"] = "Later"
    task: Any = TrackedQueue().task(name="early")(early)
    globals()["Later"] = A
    assert task.call(A(1)).request.args
    del globals()["Later"]


Context = JobContext[dict[str, int]]
Noted = t.Annotated[JobContext[Any], "note"]


def test_a_context_is_found_by_whatever_name() -> None:
    async def alias(context: Context, n: int) -> None: ...

    async def text(context: "Noted", n: int) -> None: ...  # noqa: UP037

    async def annotated(context: t.Annotated[JobContext[Any], 1], n: int) -> None: ...

    for function in (alias, text, annotated):
        task = TrackedQueue().task(name="t")(function)
        assert task.takes_context and task.call(5).request.args == msgspec.msgpack.encode([5])
