"""`make dashboard`: what a newcomer looks at second."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.harness import wait_for


@pytest.mark.timeout(120)
def test_the_shop_opens_with_its_troubles_and_leaves_nothing_behind(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tracked_queue", "demo", "--dashboard"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)}, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    with process.stdout, process.stderr:
        assert process.stdout.readline().startswith("a shop opens")
        address = process.stdout.readline().split(" at ")[1].split()[0]

        def asked(path: str) -> Any:
            with urllib.request.urlopen(f"{address}api{path}", timeout=20) as answer:
                return json.load(answer)

        found = wait_for(lambda: (home := asked("/"))["totals"]["dead"] > 100 and home, 30)
        codes = {one["code"] for one in found["problems"]}
        assert {"fleet.unserved", "fleet.dead", "fleet.paused", "fleet.lost"} <= codes
        assert found["promise"]["unowned"] == 12 and found["totals"]["instances"] == 3
        assert len(asked("/dead")["groups"]) >= 2
        limits = asked("/limits")["rows"]
        assert any(one["in_use"] == one["most"] and one["lanes"] for one in limits)
        assert wait_for(lambda: len(asked("/schedules")["rows"]) == 2, 20)
        pids = {int(line.split()[0]) for line in _processes() if str(tmp_path) in line}
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, process.stderr.read()
        assert "gone" in process.stdout.read()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("tracked_queue-dashboard")]
    assert wait_for(lambda: not (pids & {int(line.split()[0]) for line in _processes()}), 20), tempfile.gettempdir()


def _processes() -> list[str]:
    """Each process: its pid and its command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append(
                    f"{entry.name} {(entry / 'cmdline').read_bytes().decode(errors='replace')} {(entry / 'environ').read_bytes().decode(errors='replace')}"
                )
            except OSError:
                continue
    return found
