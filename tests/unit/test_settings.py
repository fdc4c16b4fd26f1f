"""Settings: which source wins, what is refused, what is never shown."""

from __future__ import annotations

import warnings

import pytest

from tracked_queue import SettingsError, TrackedQueue
from tracked_queue.settings import masked_url, resolve, setting_doc, setting_names, with_options


def test_defaults_and_their_sources() -> None:
    settings = resolve({}, {})
    assert settings.redis_url == "redis://localhost:6379" and settings.heartbeat_ttl == 30
    assert set(settings.sources.values()) == {"default"}


def test_a_keyword_beats_the_environment_and_an_option_beats_both() -> None:
    env = {"TRACKED_QUEUE_CONCURRENCY": "7", "TRACKED_QUEUE_GRACE": "3"}
    settings = resolve({"concurrency": 5}, env)
    assert settings.concurrency == 5 and settings.grace == 3
    assert settings.sources["concurrency"] == "keyword" and settings.sources["grace"] == "TRACKED_QUEUE_GRACE"
    settings = with_options(settings, {"concurrency": 9, "grace": None})
    assert settings.concurrency == 9 and settings.grace == 3 and settings.sources["concurrency"] == "option"


@pytest.mark.parametrize(
    "variable, value, name",
    [
        ("REDIS_URL", "redis://h:1/2", "redis_url"),
        ("PROCESSING_INSTANCE_ID", "pod-1", "instance_id"),
        ("PROCESSING_NS", "shop", "namespace"),
        ("HEARTBEAT_INTERVAL", "2", "heartbeat_interval"),
        ("HEARTBEAT_TTL", "60", "heartbeat_ttl"),
        ("RECOVERY_LOCK_TTL", "9", "recovery_lock_ttl"),
    ],
)
def test_plain_names_work(variable: str, value: str, name: str) -> None:
    assert str(getattr(resolve({}, {variable: value}), name)).startswith(value)


def test_the_prefixed_name_beats_the_plain_one() -> None:
    assert resolve({}, {"PROCESSING_NS": "a", "TRACKED_QUEUE_NAMESPACE": "b"}).namespace == "b"


def test_an_unknown_prefixed_name_warns_and_kubernetes_names_do_not() -> None:
    with pytest.warns(UserWarning, match="TRACKED_QUEUE_GRAZE"):
        resolve({}, {"TRACKED_QUEUE_GRAZE": "1"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve({}, {"TRACKED_QUEUE_PORT": "tcp://10.0.0.1:6379", "TRACKED_QUEUE_SERVICE_HOST": "10.0.0.1"})


@pytest.mark.parametrize(
    "env, said",
    [
        ({"HEARTBEAT_TTL": "soon"}, "number"),
        ({"HEARTBEAT_TTL": "5"}, "3 x heartbeat_interval"),
        ({"HEARTBEAT_TTL": "nan"}, "above 0"),
        ({"TRACKED_QUEUE_CONCURRENCY": "0"}, "1 to "),
        ({"TRACKED_QUEUE_CONCURRENCY": "2.5"}, "whole number"),
        ({"TRACKED_QUEUE_AUTO_RECOVERY": "perhaps"}, "true or false"),
        ({"REDIS_URL": "http://x"}, "must start with"),
        ({"REDIS_URL": "redis://h:port"}, "can't be read"),
        ({"REDIS_URL": "redis://h/queue"}, "must be a number"),
        ({"PROCESSING_NS": "a b"}, "without spaces"),
        ({"PROCESSING_NS": "{x}"}, "without spaces"),
    ],
)
def test_a_bad_value_is_one_line_that_names_setting_rule_and_source(env: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError) as found:
        resolve({}, env)
    text = str(found.value)
    assert "\n" not in text and said in text and next(iter(env)) in text and found.value.setting in text


def test_a_bad_keyword_is_refused_where_it_is_given() -> None:
    for bad in ({"concurrency": "5"}, {"concurrency": True}, {"nonsense": 1}, {"grace": "1"}, {"namespace": 3}):
        with pytest.raises(SettingsError):
            TrackedQueue(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url, shown",
    [
        ("redis://u:p@h:1/0", "redis://u:***@h:1/0"),
        ("redis://:p@h", "redis://:***@h"),
        ("rediss://u:p%40x@h?password=p", "rediss://u:***@h?password=***"),
        ("unix:///tmp/s?db=1", "unix:///tmp/s?db=1"),
        ("rediss+cluster://u:p@a:1,[::1]:7/0?ssl_password=p", "rediss+cluster://u:***@a:1,[::1]:7/0?ssl_password=***"),
        ("redis+sentinel://:p@a,b/main/1", "redis+sentinel://:***@a,b/main/1"),
    ],
)
def test_passwords_are_masked(url: str, shown: str) -> None:
    """CASE-77."""
    assert masked_url(url) == shown
    assert "p%40x" not in repr(resolve({"redis_url": url}, {}))


def test_a_url_that_can_not_be_read_is_not_quoted() -> None:
    with pytest.raises(SettingsError) as found:
        resolve({"redis_url": "redis://u:secret@h:bad/0"}, {})
    assert "secret" not in str(found.value)


def test_every_setting_is_described() -> None:
    assert all(setting_doc(name) for name in setting_names())


def test_a_profile_sets_what_nothing_else_does() -> None:
    quiet = resolve({"profile": "quiet", "block": 9.0}, environ={"HEARTBEAT_TTL": "99"})
    assert (quiet.heartbeat_interval, quiet.heartbeat_ttl, quiet.recovery_interval, quiet.block) == (
        30.0,
        99.0,
        60.0,
        9.0,
    )
    assert quiet.sources["heartbeat_interval"] == "profile" and quiet.sources["heartbeat_ttl"] == "HEARTBEAT_TTL"
    back = with_options(quiet, {"profile": "standard"})
    assert back.heartbeat_interval == resolve({}, environ={}).heartbeat_interval and back.block == 9.0
    again = with_options(back, {"profile": "quiet", "heartbeat_interval": 10.0})
    assert (again.heartbeat_interval, again.recovery_interval) == (10.0, 60.0)
    with pytest.raises(SettingsError, match="it must be standard or quiet"):
        resolve({"profile": "loud"}, environ={})
