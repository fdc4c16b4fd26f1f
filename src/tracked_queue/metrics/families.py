"""
The fleet's metrics: their names, types and labels, made from one reading of numbers.

No label is called `job`, `instance` or `namespace`, which Prometheus and Kubernetes use themselves, and none holds a job's
id, a lease or a key's value. Source: docs/reference/metrics.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from .. import __version__
from ..protocol.times import MOST_QUEUES, MOST_TASKS, OTHER, RUN_EDGES, WAIT_EDGES, Field
from ..reports.memory import Act
from ..reports.numbers import FleetNumbers

_PREFIX = "tracked_queue_"


class Totals:
    """
    Counters that only grow, out of counters by the minute: what those have gained since they were last seen. They begin at
    0 with the exporter, which for Prometheus is an ordinary reset.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int, str], int] = {}
        self._first = True
        self.events: Counter[tuple[str, str]] = Counter()
        self.times: Counter[Field] = Counter()
        self.acts: Counter[str] = Counter()
        self._acts_to, self._acts_seen = (0.0, 0), False

    def add(self, numbers: FleetNumbers) -> None:
        """Add what is new."""
        seen: dict[tuple[int, int, str], int] = {}
        for (shard, minute, event, queue), count in numbers.events.items():
            key = (shard, minute, f"{event}:{queue}")
            self.events[event, queue] += self._gain(seen, key, count)
        for (shard, minute, name), count in numbers.times.items():
            counter = Field.read(name)
            if counter is not None:
                self.times[counter] += self._gain(seen, (shard, minute, name), count)
        self._seen, self._first = seen, False
        self._add_acts(numbers.acts)

    def _add_acts(self, acts: Sequence[Act]) -> None:
        """Those that are newer than the newest one of the last look; of one time, those that have come since."""
        times = [act.at.timestamp() for act in acts if act.at is not None]
        newest, known = self._acts_to
        for act in acts:
            at = 0.0 if act.at is None else act.at.timestamp()
            if self._acts_seen and (at > newest or (at == newest and known <= 0)):
                self.acts[act.action] += 1
            known -= at == newest
        last = max(times, default=newest)
        self._acts_to, self._acts_seen = (last, times.count(last)), True

    def _gain(self, seen: dict[tuple[int, int, str], int], key: tuple[int, int, str], count: int) -> int:
        seen[key] = count
        return 0 if self._first else max(0, count - self._seen.get(key, 0))


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, text, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family


def _capped(values: Mapping[str, float], most: int) -> dict[str, float]:
    """What goes beyond a number of names counts for `_other`."""
    if len(values) <= most:
        return dict(values)
    names = sorted(values)
    kept = {name: values[name] for name in names[:most]}
    kept[OTHER] = kept.get(OTHER, 0.0) + sum(values[name] for name in names[most:])
    return kept


def families_of(numbers: FleetNumbers, totals: Totals) -> Iterator[Metric]:
    """All families; gauges are 0 and not absent where there is nothing."""
    overview, instances = numbers.overview, numbers.instances
    queues = overview.queues[:MOST_QUEUES]
    live = [item for item in instances if item.alive]
    yield _gauge(
        "queue_jobs", "Jobs that can be taken, suspects, and jobs in lanes.", ("queue", "kind"),
        [
            value
            for one in queues
            for value in (
                ((one.queue, "ready"), one.length - one.suspects - one.limited),
                ((one.queue, "suspect"), one.suspects),
                ((one.queue, "limited"), one.limited),
            )
        ],
    )  # fmt: skip
    yield _gauge(
        "queue_oldest_job_age_seconds", "How long the oldest job has waited; 0 for an empty queue.", ("queue",),
        [((one.queue,), one.oldest_s or 0.0) for one in queues],
    )  # fmt: skip
    yield _gauge(
        "queue_instances", "Live instances that serve the queue and fetch.", ("queue",),
        [((one.queue,), one.instances) for one in queues],
    )  # fmt: skip
    yield _gauge(
        "queue_slots", "Places of those instances.", ("queue",),
        [((one.queue,), sum(i.concurrency for i in live if one.queue in i.queues and not i.quiet)) for one in queues],
    )  # fmt: skip
    yield _gauge("queue_paused", "1 while it is paused.", ("queue",), [((one.queue,), one.paused) for one in queues])
    yield _gauge(
        "queues_left_out", "Queues beyond those that have series.", (), [((), len(overview.queues) - len(queues))]
    )
    yield _gauge(
        "active_jobs", "Jobs that live instances own, and that lost ones own.", ("kind",),
        [
            (("active",), sum(item.owned for item in live)),
            (("lost",), sum(item.owned for item in instances if not item.alive)),
        ],
    )  # fmt: skip
    yield _gauge("scheduled_jobs", "Jobs that are due later: delays, retries, snoozes.", (), [((), overview.scheduled)])
    yield _gauge("waiting_jobs", "Jobs that wait for others.", (), [((), numbers.waiting)])
    yield _gauge("dead_jobs", "Jobs that are dead.", (), [((), overview.dead)])
    yield _gauge(
        "scheduled_overdue_seconds", "How long ago the first scheduled job was due.", (), [((), numbers.overdue_s)]
    )
    parked = _capped({one.task: one.length for one in overview.parked}, MOST_TASKS)
    yield _gauge("parked_jobs", "Parked jobs.", ("task",), [((task,), count) for task, count in parked.items()])
    states = Counter("lost" if not item.alive else "quiet" if item.quiet else "live" for item in instances)
    yield _gauge(
        "instances", "Instances.", ("status",), [((name,), states[name]) for name in ("live", "quiet", "lost")]
    )
    yield _gauge(
        "unrecovered_seconds", "For how long the oldest lost instance has owned jobs that nobody has moved.", (),
        [((), numbers.unrecovered_s)],
    )  # fmt: skip
    yield _gauge(
        "hold_remaining_seconds", "For how long nobody is called dead, after an outage.", (), [((), numbers.hold_s)]
    )
    limits = sorted(numbers.limits.items())
    yield _gauge(
        "limit_in_use", "Places taken in a limit without a key.", ("limit",), [((n,), one.in_use) for n, one in limits]
    )
    yield _gauge("limit_waiting_lanes", "Lanes that wait for it.", ("limit",), [((n,), one.lanes) for n, one in limits])
    yield _gauge("limit_capacity", "Its places.", ("limit",), [((n,), it.capacity) for n, it in limits])
    ticks = [(one.name, one.last_tick.timestamp()) for one in numbers.schedules if one.last_tick]
    yield _gauge(
        "schedule_last_tick_timestamp_seconds",
        "When a schedule last ticked.",
        ("schedule",),
        [((n,), at) for n, at in ticks],
    )
    yield _gauge(
        "schedule_silent_seconds", "Since when no instance has said that it runs the schedule.", ("schedule",),
        [((one.name,), one.seen_s) for one in numbers.schedules],
    )  # fmt: skip
    yield _gauge(
        "schedule_paused",
        "1 while it is paused.",
        ("schedule",),
        [((one.name,), one.paused) for one in numbers.schedules],
    )
    events = CounterMetricFamily(_PREFIX + "events", "What became of jobs.", labels=("queue", "event"))
    for (event, queue), count in sorted(totals.events.items()):
        events.add_metric((queue, event), count)
    yield events
    acts = CounterMetricFamily(_PREFIX + "operator_actions", "What operators did.", labels=("action",))
    for action, count in sorted(totals.acts.items()):
        acts.add_metric((action,), count)
    yield acts
    yield _histogram("fleet_run_seconds", "How long runs took.", "run", "task", RUN_EDGES, totals.times)
    yield _histogram(
        "fleet_wait_seconds",
        "How long jobs waited from being due until their start.",
        "wait",
        "queue",
        WAIT_EDGES,
        totals.times,
    )
    for name, text, values in (
        ("redis_memory_used_bytes", "Memory that Redis uses.", numbers.memory_used),
        ("redis_memory_max_bytes", "maxmemory; 0: no limit.", numbers.memory_max),
        ("redis_replica_lag_seconds", "Of the replica that is furthest behind; 0 without any.", numbers.replica_lag_s),
    ):
        yield _gauge(name, text, ("shard",), [((str(shard),), value) for shard, value in enumerate(values)])
    yield _gauge("exporter_info", "This exporter.", ("version",), [((__version__,), 1)])


def _histogram(
    name: str, text: str, kind: str, label: str, edges: tuple[float, ...], times: Mapping[Field, int]
) -> Metric:
    family = HistogramMetricFamily(_PREFIX + name, text, labels=(label,))
    for of in sorted({counter.name for counter in times if counter.kind == kind}):
        total, buckets = 0, list[tuple[str, float]]()
        for bucket, edge in enumerate((*map(str, edges), "+Inf")):
            total += times.get(Field(kind, bucket, of), 0)
            buckets.append((edge, total))
        family.add_metric((of,), buckets, sum_value=None)
    return family
