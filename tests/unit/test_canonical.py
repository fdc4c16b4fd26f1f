"""Keys: different tasks, types and values never meet, and the same call has one key, however it is written."""

from __future__ import annotations

import datetime as dt
import enum
import itertools
import subprocess
import sys
import uuid
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from tracked_queue import Concurrency, Rate, TrackedQueue, Unique, UsageError
from tracked_queue.model.canonical import canonical, part, short
from tracked_queue.model.constraints import of_queue, of_task
from tracked_queue.protocol.packing import decode_extras

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False), st.text(max_size=8), st.binary(max_size=8),
    st.decimals(allow_nan=False, allow_infinity=False), st.datetimes(), st.dates(), st.uuids(),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def typed(value: Any) -> Any:
    """A value with its type at every level, so that Python's `==` does not take 1 for True or 1.0."""
    if isinstance(value, dict):
        return ("dict", frozenset((key, repr(typed(item))) for key, item in value.items()))
    if isinstance(value, list):
        return ("list", tuple(map(typed, value)))
    return (type(value).__name__, value)


@given(VALUES, VALUES)
def test_two_values_have_one_form_exactly_if_they_are_the_same(one: Any, other: Any) -> None:
    assert (canonical(one) == canonical(other)) == (typed(one) == typed(other))


DIGITS = st.lists(st.sampled_from((0, 1, 9)), max_size=3)


# More digits are shared than arithmetic keeps (28), so that a form that is rounded is seen.
@given(st.integers(0, 1), st.sampled_from((0, 1, 30)), DIGITS, DIGITS, st.integers(-5, 5))
def test_decimals_have_one_form_exactly_if_they_are_equal(
    sign: int, shared: int, one: list[int], other: list[int], exponent: int
) -> None:
    first, second = (Decimal((sign, (*[1] * shared, *tail), exponent - len(tail))) for tail in (one, other))
    assert (canonical(first) == canonical(second)) == (Fraction(first) == Fraction(second))


OFFSETS = st.integers(-23, 23).map(lambda hours: dt.timezone(dt.timedelta(hours=hours)))
EDGES = st.sampled_from((dt.datetime.min, dt.datetime.max, dt.datetime(2026, 10, 25, 2, 30)))
MOMENTS = st.builds(
    lambda at, zone, hours: _shifted(at, hours).replace(tzinfo=zone), EDGES, OFFSETS, st.integers(0, 23)
)


def _shifted(at: dt.datetime, hours: int) -> dt.datetime:
    return at - dt.timedelta(hours=hours) if at.year > 1 else at + dt.timedelta(hours=hours)


@given(MOMENTS, MOMENTS)
def test_moments_have_one_form_exactly_if_they_are_equal(one: dt.datetime, other: dt.datetime) -> None:
    assert (canonical(one) == canonical(other)) == (one == other)


@given(st.lists(st.text(), min_size=1, max_size=3), st.lists(st.text(), min_size=1, max_size=3))
def test_lists_of_parts_never_read_alike(one: list[str], other: list[str]) -> None:
    def key(parts: list[str]) -> str:
        return short(part("t", parts[0]) + "".join(map(canonical, parts[1:])))

    assert (key(one) == key(other)) == (one == other)


class Kind(enum.StrEnum):
    A = "a"


class Model(BaseModel):
    tags: set[str]
    at: dt.datetime | None = None


@dataclass
class Data:
    n: float


MOMENT = dt.datetime(2026, 7, 1, 12, tzinfo=dt.UTC)
app = TrackedQueue()


def task(kind: Any, **options: Any) -> Any:
    async def own(x: kind = None) -> None: ...  # type: ignore[valid-type]

    own.__annotations__["x"] = kind
    return TrackedQueue().task(name="t", **options)(own)


def key_of(made: Any, *args: Any, **kwargs: Any) -> str:
    key: str = decode_extras(made.call(*args, **kwargs).request.extras)["unique"][0]
    return key


@pytest.mark.parametrize(("kind", "values"), [
    (float, [1, 1.0]),
    (Decimal, [Decimal("1.0"), Decimal("1.00"), Decimal("1")]),
    (dt.datetime, [MOMENT, MOMENT.astimezone(ZoneInfo("Europe/Berlin"))]),
    (set[str], [{"a", "b", "c"}, {"c", "a", "b"}]),
    (dict[str, int], [{"a": 1, "b": 2}, {"b": 2, "a": 1}]),
    (Model, [Model(tags={"a", "b"}, at=MOMENT), Model(tags={"b", "a"}, at=MOMENT.astimezone(ZoneInfo("Asia/Tokyo")))]),
    (Data, [Data(1), Data(1.0)]),
    (Kind, [Kind.A, Kind("a")]),
])  # fmt: skip
def test_the_same_call_has_one_key(kind: Any, values: list[Any]) -> None:
    for unique in (Unique(), Unique(by="x"), Unique(by=lambda x: x)):
        made = task(kind, unique=unique)
        assert len({key_of(made, value) for value in values}) == 1


def test_arguments_that_are_left_out_are_their_defaults() -> None:
    async def own(a: int, b: float = 1, *, c: list[int] | None = None) -> None: ...

    made = TrackedQueue().task(name="t", unique="until_done")(own)
    calls = [((1,), {}), ((1, 1), {}), ((1, 1.0), {}), ((), {"a": 1, "c": None}), ((1,), {"b": 1.0})]
    assert len({key_of(made, *args, **kwargs) for args, kwargs in calls}) == 1


def test_different_calls_never_share_a_key() -> None:
    loose = task(Any, unique=Unique(by="x"))
    values: list[Any] = [
        1,
        "1",
        1.5,
        "1.5",
        None,
        "None",
        True,
        "True",
        [1],
        ["1"],
        "[1]",
        "",
        [],
        {},
        b"1",
        {"a": 1},
        {"a": "1"},
    ]
    keys = [key_of(loose, value) for value in values]
    assert len(set(keys)) == len(values)

    def named(name: str) -> Any:
        async def own(a: str, b: str = "") -> None: ...

        return TrackedQueue().task(name=name, unique=Unique(by=["a", "b"]))(own)

    calls = [
        ("mail", "send:5", ""),
        ("mail:send", "5", ""),
        ("mail", "Rome", "Via A,1"),
        ("mail", "Rome,Via A", "1"),
        ("m", "ail", ""),
    ]
    assert len({key_of(named(name), a, b) for name, a, b in calls}) == len(calls)


def test_limits_of_different_owners_never_share_a_name() -> None:
    owners = [of_task("queue:reports"), of_queue("reports"), of_task("reports"), of_queue("queue:reports")]
    names = [
        limit.base(owner)
        for owner in owners
        for limit in (Concurrency(1), Concurrency(1, key="k"), Rate(1, 1), Rate(1, 2))
    ]
    names += [Concurrency(1, name=name).base(owners[0]) for name in ("reports", "queue:reports", "t7:reports")]
    assert len(set(names)) == len(names)
    for one, other in itertools.permutations(names, 2):
        assert one != other


def test_what_has_no_value_is_no_part_of_a_key() -> None:
    for wrong in (object(), lambda: None, Exception("x")):
        with pytest.raises(UsageError, match="part of a key"):
            canonical(wrong)
    with pytest.raises(UsageError, match="unique by"):
        task(int, unique=Unique(by=lambda x: object())).call(1)


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_a_key_is_the_same_in_every_process(seed: str) -> None:
    """Sets came in the order of the hash seed."""
    code = "from tracked_queue.model.canonical import canonical; print(canonical({'red', 'green', 'blue', 'white'}))"
    said = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == canonical({"white", "blue", "green", "red"})


def test_every_type_has_a_form() -> None:
    values = [
        dt.time(1, 2),
        dt.timedelta(seconds=5),
        uuid.UUID(int=1),
        frozenset({1}),
        (1, 2),
        bytearray(b"x"),
        Data(1),
        -0.0,
    ]
    assert len({canonical(value) for value in values}) == len(values)
    assert canonical(-0.0) == canonical(0.0) and canonical((1, 2)) == canonical([1, 2])
