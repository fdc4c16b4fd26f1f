"""Spellings of `redis_url`: taken as meant, or refused with the setting's name and without a part of a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracked_queue import SettingsError, TrackedQueue
from tracked_queue.settings import masked_url, resolve
from tracked_queue.transport.endpoint import Endpoint

GOOD = "redis://:p%40ss@host:6379/0"


@pytest.mark.parametrize("written", [
    GOOD + "\n", f" {GOOD}", f"'{GOOD}'", f'"{GOOD}"', "valkey://:p%40ss@host:6379/0",
])  # fmt: skip
def test_what_people_paste_is_taken_as_meant(written: str) -> None:
    assert resolve({"redis_url": written}, {}).redis_url == GOOD
    assert resolve({}, {"REDIS_URL": written}).redis_url == GOOD


def test_valkeys_is_tls() -> None:
    assert resolve({"redis_url": "valkeys://host"}, {}).redis_url == "rediss://host"


@pytest.mark.parametrize(("url", "words"), [
    ("redis://:123/SECRET@host:6379/0", "percent|%2F"), ("redis://:123#SECRET@host:6379/0", "%23"),
    ("redis://:123?SECRET@host:6379/0", "%3F"), ("redis+sentinel://:12/SECRET@host/service", "%2F"),
    ("redis://host/abc", "database"), ("redis://host?db=abc", "db"), ("redis://host?ssl=true", "rediss://"),
    ("redis://host?foo=bar", "'foo'"), ("redis://host?ssl_cert_reqs=none", "rediss://"),
    ("rediss://host?ssl_cert_reqs=CERT_NONE", "none, optional, required"), ("unix://zoo.sock", "unix:///"),
    ("redis://host:99999", "port"), ("http://host", "redis://"), ("host:6379", "redis://"), ("redis:host", "redis://"),
    ("redis://host?dbb=1", "did you mean 'db'"),
])  # fmt: skip
def test_a_url_that_can_not_be_meant_is_refused_by_the_settings_name(url: str, words: str) -> None:
    with pytest.raises(SettingsError) as found:
        TrackedQueue(url)
    said = str(found.value)
    assert said.startswith("setting redis_url") and any(word in said for word in words.split("|")), said
    assert "SECRET" not in said and "123" not in said and "SECRET" not in masked_url(url)


@pytest.mark.parametrize(
    "query", ["health_check_interval=x", "ssl_ca_certs=/no/such/file", "ssl_certfile=/no/such/file"]
)
def test_what_only_the_client_can_read_is_refused_as_well(query: str) -> None:
    with pytest.raises(SettingsError, match="redis_url"):
        Endpoint(resolve({"redis_url": f"rediss://host?{query}"}, {}))


def test_a_database_out_of_range_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    from tracked_queue import StoreRefusedError
    from tracked_queue.chaos.server import RedisServer

    server = RedisServer("--databases", "4")
    try:
        with pytest.raises(StoreRefusedError, match="out of range"):
            TrackedQueue(f"{server.url}/9").enqueue_sync("t")
    finally:
        server.close()
