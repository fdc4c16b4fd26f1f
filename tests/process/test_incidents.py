"""`demo --incidents`: what it prints is what is promised of `explain`, the metrics and the log."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.harness import wait_for

# For each: the code of `explain`, a series with a value, a line of the log, and what it ends with.
INCIDENTS = {
    "A machine is lost": [
        r"lost\.waiting", r"tracked_queue_unrecovered_seconds [0-9.]+", r"warning  lease\.recovered .* jobs=1",
        r"2 runs are known: run 1 .* was recovered, because its lease ran out", r"Its [0-9.]+ s: lost run [0-9.]+ s, .*run 2\.[0-9] s",
    ],
    "A frozen worker wakes up": [
        r"it went on .* beside run 2", r"what it came to \(interrupted\) was not counted|died", r"tracked_queue_leases_lost_total 1\.0",
        r"warning  (lease\.lost|flight\.written) ",
    ],
    "A blocked event loop": [
        r"active\.running", r'loop_lag_seconds_bucket\{le="1\.0"\} ', r"warning  loop\.blocked .* place=.*incident_tasks\.py:\d+ compute",
        r"flight\.written  why=loop-blocked",
    ],
    "A full limit that nobody frees": [
        r"lane\.concurrency", r"Limit printer is full: 1 of 1 places are taken", r'limit_in_use\{limit="printer"\} 1\.0', r"waiting: 1 lane of reports",
        r"and the second page is printed",
    ],
    "Poison at a deploy": [
        r"dead\.charges", r"its process died 3 times while it was the only job there", r'process_ends_total\{why="died"\} [3-9]\.0',
        r"process\.died .* code=-9", r"The other 19 jobs have succeeded",
    ],
    "A queue that nobody serves": [
        r"queued\.unserved", r"No instance serves queue invoices", r'queue_instances\{queue="invoices"\} 0\.0', r"fleet\.unserved",
        r"tracked-queue worker MODULE:APP --queue invoices", r"and the job runs",
    ],
}  # fmt: skip


@pytest.mark.timeout(300)
def test_each_incident_is_explained() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tracked_queue", "demo", "--incidents"], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "Traceback" not in done.stderr and done.stdout.rstrip().endswith("Six incidents; no job was lost.")
    parts = re.split(r"\n\d\. (.+)\n", done.stdout)
    told = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert list(told) == list(INCIDENTS)
    for title, patterns in INCIDENTS.items():
        for pattern in patterns:
            assert re.search(pattern, told[title]), (title, pattern, told[title])


@pytest.mark.parametrize(
    ("number", "again_s"), [(signal.SIGINT, 0.3), (signal.SIGINT, 0.8), (signal.SIGTERM, None), (signal.SIGHUP, None)]
)
def test_an_interrupted_demo_leaves_nothing_behind(
    number: signal.Signals, again_s: float | None, tmp_path: Path
) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "tracked_queue", "demo", "--incidents"],
        stdout=subprocess.PIPE, text=True, start_new_session=True, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    try:
        wait_for(lambda: workers_of(tmp_path), 40, "a worker")
        demo.send_signal(number)
        if again_s is not None:
            time.sleep(again_s)  # the second Ctrl-C of somebody who is impatient
            demo.send_signal(number)
        out, _ = demo.communicate(timeout=30)
        # The second one may come when all is done, and Python has given the signal back to the system.
        assert demo.returncode in {130, 130 if again_s is None else -number} and out.rstrip().endswith("are gone")
        wait_for(lambda: not workers_of(tmp_path), 10, "its workers to be gone")
        assert not list(tmp_path.glob("tracked_queue-incidents-*"))
    finally:
        demo.kill()


def workers_of(folder: Path) -> list[int]:
    """Worker programs whose flight folder is below this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (
                b"incident_tasks" in (path / "cmdline").read_bytes()
                and str(folder).encode() in (path / "environ").read_bytes()
            ):
                found.append(int(path.name))
    return found
