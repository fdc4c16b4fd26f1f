"""docs/operations: the alert rules name what is there, and each has its runbook and its test; `make alerts` runs promtool."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
RULES, TESTS, RUNBOOK = (
    (DOCS / "operations" / name).read_text() for name in ("alerts.yml", "alerts_test.yml", "alerts.md")
)
ALERTS = re.findall(r"- alert: (\w+)", RULES)


def test_every_metric_of_the_rules_is_one_of_ours() -> None:
    listed = set(re.findall(r"^\| `(tracked_queue_\w+)` \|", (DOCS / "reference" / "metrics.md").read_text(), re.M))
    used = set(re.findall(r"tracked_queue_\w+", "".join(re.findall(r"expr: (.*)", RULES))))
    used = {re.sub("_bucket$", "", name) for name in used}
    assert used and used <= listed, used - listed


def test_every_alert_has_a_paragraph_and_both_kinds_of_test() -> None:
    assert len(ALERTS) == len(set(ALERTS)) >= 18
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


def test_the_board_is_fresh_and_asks_for_metrics_of_ours() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/make_board.py", "--check"],
        cwd=DOCS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    board = json.loads((DOCS / "operations" / "grafana.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    listed = set(re.findall(r"^\| `(tracked_queue_\w+)` \|", (DOCS / "reference" / "metrics.md").read_text(), re.M))
    used = {re.sub("_bucket$", "", name) for one in expressions for name in re.findall(r"tracked_queue_\w+", one)}
    assert used <= listed, used - listed
    shown = {
        "queues_left_out",
        "queue_slots",
        "schedule_last_tick_timestamp_seconds",
        "schedule_paused",
        "exporter_info",
        "info",
        "run_seconds",
        "wait_seconds",
        "threads_busy",
        "children_busy",
        "outcomes_pending",
        "store_retries_total",
        "store_outage_seconds_total",
        "enqueue_seconds",
        "enqueue_errors_total",
        "payload_bytes",
    }
    assert listed - used == {f"tracked_queue_{name}" for name in shown}, "on the board, or left out knowingly"
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(places) == len(set(places)) and all(x + w <= 24 for x, _, w, _ in places)


def test_the_expressions_of_the_board_are_of_prometheus_form() -> None:
    """Brackets and quotes close; promtool sees the rules of the alerts, not these."""
    board = json.loads((DOCS / "operations" / "grafana.json").read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            for pair in ("()", "{}", "[]"):
                assert target["expr"].count(pair[0]) == target["expr"].count(pair[1]), target["expr"]
            assert target["expr"].count('"') % 2 == 0


def test_the_image_is_not_root_and_lets_signals_through() -> None:
    lines = (DOCS / "operations" / "Dockerfile").read_text().splitlines()
    steps = [line.split(" ", 1) for line in lines if re.match(r"[A-Z]+ ", line)]
    last = dict(steps)
    assert last["USER"].isdigit() and int(last["USER"]) > 0  # Kubernetes' runAsNonRoot does not read names
    assert last["STOPSIGNAL"] == "SIGTERM"
    command = json.loads(last["ENTRYPOINT"]) + json.loads(last["CMD"])  # in brackets: no shell is the first process
    assert command[:4] == ["python", "-m", "tracked_queue", "worker"]
    order = [step for step, _ in steps]
    assert order.index("USER") > max(at for at, step in enumerate(order) if step in ("RUN", "COPY"))
