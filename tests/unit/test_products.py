"""`doctor` names the server that answers, and warns of those that nobody has tested."""

from __future__ import annotations

import pytest

from tracked_queue.operator.doctor import product_of

REDIS = {"redis_version": "7.4.0", "executable": "/usr/bin/redis-server"}


@pytest.mark.parametrize(("info", "shown"), [
    ({}, "Redis 7.4.0"),
    ({"server_name": "valkey", "valkey_version": "9.1.2"}, "Valkey 9.1.2"),
])  # fmt: skip
def test_what_is_tested_is_named_without_a_warning(info: dict[str, str], shown: str) -> None:
    assert product_of({**REDIS, **info}) == (shown, "", "")


@pytest.mark.parametrize(("info", "shown"), [
    ({"dragonfly_version": "df-v1.25.0"}, "Dragonfly 1.25.0 (as Redis 7.4.0)"),
    ({"executable": "/usr/bin/KeyDB-server"}, "KeyDB (as Redis 7.4.0)"),
    ({"garnet_version": "1.0.40"}, "Garnet 1.0.40 (as Redis 7.4.0)"),
    ({"kvrocks_version": "2.9.0"}, "Kvrocks 2.9.0 (as Redis 7.4.0)"),
    ({"os": "Amazon ElastiCache Serverless"}, "a serverless cache (as Redis 7.4.0)"),
])  # fmt: skip
def test_what_is_not_tested_is_named_with_what_to_do(info: dict[str, str], shown: str) -> None:
    named, limits, do = product_of({**REDIS, **info})
    assert named == shown and limits and do
