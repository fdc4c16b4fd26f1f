"""
Write docs/operations/grafana.json: one board over the fleet's metrics.

With --check, say whether the file is stale and exit 1.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BOARD = Path(__file__).parent.parent / "docs" / "operations" / "grafana.json"
SOURCE = {"type": "prometheus", "uid": "${source}"}
OF_QUEUE, OF_TASK = '{queue=~"$queue"}', '{task=~"$task"}'

# Rows of panels: title, what it says, unit, expressions with their legends. The unit "stat" shows one number.
Panel = tuple[str, str, str, Sequence[tuple[str, str]]]
ROWS: list[tuple[str, list[Panel]]] = [
    (
        "Promise",
        [
            (
                "Jobs without an owner",
                "For how long the oldest lost instance has owned jobs that nobody has moved. 0 is the promise.",
                "s", [("max(tracked_queue_unrecovered_seconds)", "unrecovered")],
            ),
            (
                "Recovered jobs",
                "Jobs that were moved from lost instances.",
                "short", [('sum(increase(tracked_queue_events_total{event="recovered"}[$__rate_interval]))', "recovered")],
            ),
            (
                "Dead",
                "Jobs that died, and how many are dead now.",
                "short",
                [
                    ('sum(increase(tracked_queue_events_total{event="dead"}[$__rate_interval]))', "died"),
                    ("max(tracked_queue_dead_jobs)", "dead"),
                ],
            ),
            (
                "Overdue",
                "How long ago the first scheduled job was due, and for how long nobody is called dead after an outage.",
                "s",
                [("max(tracked_queue_scheduled_overdue_seconds)", "overdue"), ("max(tracked_queue_hold_remaining_seconds)", "hold")],
            ),
        ],
    ),
    (
        "Queues",
        [
            ("Waiting jobs", "Jobs that wait, by queue.", "short", [(f"sum by (queue) (tracked_queue_queue_jobs{OF_QUEUE})", "{{queue}}")]),
            (
                "Age of the oldest job", "How long the oldest job of each queue has waited.", "s",
                [(f"max by (queue) (tracked_queue_queue_oldest_job_age_seconds{OF_QUEUE})", "{{queue}}")],
            ),
            (
                "Wait, p95", "From being due until the start.", "s",
                [(
                    f"histogram_quantile(0.95, sum by (queue, le) (rate(tracked_queue_fleet_wait_seconds_bucket{OF_QUEUE}[$__rate_interval])))",
                    "{{queue}}",
                )],
            ),
            (
                "What becomes of jobs", "Jobs a second, by event.", "ops",
                [(f"sum by (event) (rate(tracked_queue_events_total{OF_QUEUE}[$__rate_interval]))", "{{event}}")],
            ),
            (
                "Who serves them", "Live instances that fetch, and pauses (-1).", "short",
                [
                    (f"max by (queue) (tracked_queue_queue_instances{OF_QUEUE})", "{{queue}}"),
                    (f"-max by (queue) (tracked_queue_queue_paused{OF_QUEUE}) < 0", "{{queue}} paused"),
                ],
            ),
            (
                "Limits", "Part of a concurrency limit that is taken.", "percentunit",
                [("tracked_queue_limit_in_use / (tracked_queue_limit_capacity > 0)", "{{limit}}"), ("tracked_queue_limit_waiting_lanes > 0", "{{limit}}: lanes that wait")],
            ),
        ],
    ),
    (
        "Tasks",
        [
            ("Runs", "Runs a second.", "ops", [('sum by (task) (rate(tracked_queue_fleet_run_seconds_bucket{task=~"$task",le="+Inf"}[$__rate_interval]))', "{{task}}")]),
            (
                "Run, p50", "How long half of the runs take.", "s",
                [(f"histogram_quantile(0.5, sum by (task, le) (rate(tracked_queue_fleet_run_seconds_bucket{OF_TASK}[$__rate_interval])))", "{{task}}")],
            ),
            (
                "Run, p95", "How long all but a twentieth take.", "s",
                [(f"histogram_quantile(0.95, sum by (task, le) (rate(tracked_queue_fleet_run_seconds_bucket{OF_TASK}[$__rate_interval])))", "{{task}}")],
            ),
            ("Parked jobs", "Jobs of tasks that no live instance knows, or that are paused.", "short", [("sum by (task) (tracked_queue_parked_jobs)", "{{task}}")]),
        ],
    ),
    (
        "Workers",
        [
            ("Instances", "By status.", "short", [("sum by (status) (tracked_queue_instances)", "{{status}}")]),
            ("Active jobs", "Jobs that instances own.", "short", [("sum by (kind) (tracked_queue_active_jobs)", "{{kind}}")]),
            (
                "Later", "Scheduled jobs, and jobs that wait for others.", "short",
                [("max(tracked_queue_scheduled_jobs)", "scheduled"), ("max(tracked_queue_waiting_jobs)", "waiting")],
            ),
            ("Schedules", "Since when no instance has said that it runs the schedule.", "s", [("max by (schedule) (tracked_queue_schedule_silent_seconds)", "{{schedule}}")]),
        ],
    ),
    (
        "Processes (the workers' own ports)",
        [
            ("Busy places", "Jobs that run, and places.", "short", [("sum(tracked_queue_running)", "running"), ("sum(tracked_queue_slots)", "places"), ("sum(tracked_queue_buffered)", "wait in an instance")]),
            ("Runs that fail", "Runs a second that did not succeed, by task and outcome.", "ops", [(f'sum by (task, outcome) (rate(tracked_queue_runs_total{{outcome!="succeeded",{OF_TASK[1:-1]}}}[$__rate_interval]))', "{{task}} {{outcome}}")]),
            ("Errors", "What runs raised, a second, by class.", "ops", [("topk(10, sum by (error) (rate(tracked_queue_errors_total[$__rate_interval])))", "{{error}}")]),
            ("Calls to Redis, p95", "By call.", "s", [("histogram_quantile(0.95, sum by (call, le) (rate(tracked_queue_store_seconds_bucket[$__rate_interval])))", "{{call}}")]),
            ("Event loop, p99", "How long the loops took to answer.", "s", [("histogram_quantile(0.99, sum by (le) (rate(tracked_queue_loop_lag_seconds_bucket[$__rate_interval])))", "lag")]),
            ("Lease margin", "The smallest time that a lease had left at a beat.", "s", [("min(tracked_queue_lease_margin_seconds)", "margin")]),
            ("Processes that ended", "By why.", "short", [("sum by (why) (increase(tracked_queue_process_ends_total[$__rate_interval]))", "{{why}}")]),
            (
                "Late and lost", "Outcomes that came too late, lost leases, strays, cancellations that were ignored.", "short",
                [
                    ("sum(increase(tracked_queue_fenced_total[$__rate_interval]))", "fenced"),
                    ("sum(increase(tracked_queue_leases_lost_total[$__rate_interval]))", "leases lost"),
                    ("sum(increase(tracked_queue_strays_total[$__rate_interval]))", "strays"),
                    ("sum(increase(tracked_queue_cancellations_ignored_total[$__rate_interval]))", "cancellations ignored"),
                ],
            ),
            ("Outbox, p95", "How old rows of the outbox were when they were passed on; relays that can't.", "s", [("histogram_quantile(0.95, sum by (le) (rate(tracked_queue_outbox_seconds_bucket[$__rate_interval])))", "age"), ("sum(rate(tracked_queue_outbox_paused_seconds_total[$__rate_interval]))", "relays that can't"), ("sum(increase(tracked_queue_outbox_refused_total[$__rate_interval]))", "refused rows")]),
        ],
    ),
    (
        "Redis",
        [
            ("Redis answers", "1 if it does; how far replicas are behind.", "short", [("min(tracked_queue_redis_up)", "up"), ("max(tracked_queue_redis_replica_lag_seconds)", "replica lag, s")]),
            ("Operators", "What people did, by action.", "short", [("sum by (action) (increase(tracked_queue_operator_actions_total[$__rate_interval]))", "{{action}}")]),
            (
                "Memory", "What Redis uses, and may use.", "bytes",
                [("tracked_queue_redis_memory_used_bytes", "used, shard {{shard}}"), ("tracked_queue_redis_memory_max_bytes > 0", "most, shard {{shard}}")],
            ),
            ("Scrape", "How long the exporter takes, and readings that failed.", "s", [("max(tracked_queue_scrape_seconds)", "seconds"), ("sum(increase(tracked_queue_scrape_errors_total[$__rate_interval]))", "errors")]),
        ],
    ),
]  # fmt: skip


def board() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": grid(0, y, 24, 1),
                "panels": [],
            }
        )
        y += 1
        width = 24 // min(len(row), 3 if len(row) % 3 == 0 else 4)
        for at, (name, text, unit, queries) in enumerate(row):
            x = at * width % 24
            panels.append(
                panel(len(panels) + 1, name, text, unit, queries, grid(x, y + 8 * (at * width // 24), width, 8))
            )
        y += 8 * (1 + (len(row) - 1) * width // 24)
    return {
        "title": "tracked_queue", "uid": "tracked-queue", "schemaVersion": 39, "version": 1, "editable": True, "tags": ["tracked_queue"],
        "time": {"from": "now-3h", "to": "now"}, "refresh": "30s", "timezone": "browser",
        "templating": {"list": [
            {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
            variable("queue", "tracked_queue_queue_jobs"),
            variable("task", "tracked_queue_fleet_run_seconds_bucket"),
        ]},
        "annotations": {"list": []},
        "panels": panels,
    }  # fmt: skip


def grid(x: int, y: int, w: int, h: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": w, "h": h}


def variable(name: str, metric: str) -> dict[str, Any]:
    query = f"label_values({metric}, {name})"
    return {
        "name": name, "type": "query", "datasource": SOURCE, "definition": query, "query": {"query": query, "refId": name},
        "refresh": 2, "multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}, "sort": 1,
    }  # fmt: skip


def panel(
    number: int, name: str, text: str, unit: str, queries: Sequence[tuple[str, str]], place: dict[str, int]
) -> dict[str, Any]:
    return {
        "id": number, "type": "timeseries", "title": name, "description": text, "datasource": SOURCE, "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "min": None, "custom": {"fillOpacity": 10, "showPoints": "never"}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {"refId": chr(65 + at), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for at, (expression, legend) in enumerate(queries)
        ],
    }  # fmt: skip


def main() -> int:
    text = json.dumps(board(), indent=1) + "\n"
    if "--check" not in sys.argv:
        BOARD.write_text(text, "utf-8")
        return 0
    if BOARD.exists() and BOARD.read_text("utf-8") == text:
        return 0
    print("docs/operations/grafana.json is stale; run `make docs`")
    return 1


if __name__ == "__main__":
    sys.exit(main())
