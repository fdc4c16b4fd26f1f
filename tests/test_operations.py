"""docs/operations: the alert rules name what is there, and each has its runbook and its test; `make alerts` runs promtool."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
RULES, TESTS, RUNBOOK = (
    (DOCS / "operations" / name).read_text() for name in ("alerts.yml", "alerts_test.yml", "alerts.md")
)
ALERTS = re.findall(r"- alert: (\w+)", RULES)


def test_every_metric_of_the_rules_is_one_of_ours() -> None:
    listed = set(re.findall(r"^\| `(tracked_queue_\w+)` \|", (DOCS / "reference" / "metrics.md").read_text(), re.M))
    used = set(re.findall(r"tracked_queue_\w+", "".join(re.findall(r"expr: (.*)", RULES))))
    assert used and used <= listed, used - listed


def test_every_alert_has_a_paragraph_and_both_kinds_of_test() -> None:
    assert len(ALERTS) == len(set(ALERTS)) >= 15
    for alert in ALERTS:
        assert f"\n## {alert}\n" in RUNBOOK and f"alerts.md#{alert.lower()}" in RULES
        assert f"name: {alert} fires" in TESTS and f"name: {alert} is quiet" in TESTS
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.M) == ALERTS


def test_the_events_of_the_rules_are_counted() -> None:
    named = re.search(r"\| `tracked_queue_events_total` .*", (DOCS / "reference" / "metrics.md").read_text())
    assert named
    known = set(re.findall(r"`(\w+)`", named[0]))
    for expression in re.findall(r'event=~?"([\w|]+)"', RULES):
        assert set(expression.split("|")) <= known
