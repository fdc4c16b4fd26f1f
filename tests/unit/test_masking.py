"""What people see of a job's arguments."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracked_queue.model.cipher import Cipher
from tracked_queue.model.codec import encode_any
from tracked_queue.model.masking import MASKED, masked, masked_info, names_of
from tracked_queue.reports.jobs import make_info
from tracked_queue.settings import setting_default

NAMES = names_of(setting_default("masked_names"))
SECRET = "hunter2"


@pytest.mark.parametrize("value", [
    {"password": SECRET}, {"db_password": SECRET}, {"API_KEY": [SECRET]}, {"user": {"token": {"x": SECRET}}}, [{"a": ({"Authorization": SECRET},)}],
])  # fmt: skip
def test_what_stands_under_such_a_name_is_hidden_at_any_depth(value: Any) -> None:
    assert SECRET not in repr(masked(value, NAMES)) and MASKED in repr(masked(value, NAMES))


def test_the_rest_stays() -> None:
    value = {"user": "ann", "items": [1, {"n": None}], b"raw": 2.5}
    assert masked(value, NAMES) == value and masked(value, ()) == value


def test_positional_arguments_go_by_their_parameters() -> None:
    record = {
        b"state": b"queued",
        b"task": b"t",
        b"args": encode_any(["ann", SECRET, {"secret": SECRET}]),
        b"kwargs": encode_any({"token": SECRET}),
    }
    info = make_info("a", record, None, Cipher([]))
    shown = masked_info(info, NAMES, ("user", "password"))
    assert shown.args == ("ann", MASKED, {"secret": MASKED}) and shown.kwargs == {"token": MASKED}
    unknown = masked_info(info, NAMES)
    assert unknown.args is not None and unknown.args[2] == {"secret": MASKED}
    assert masked_info(info, ()) is info


@given(
    st.recursive(
        st.none() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    )
)
def test_whatever_is_there_keeps_its_shape(value: Any) -> None:
    assert masked(value, ("zz",)) == value or "zz" in repr(value).casefold()
