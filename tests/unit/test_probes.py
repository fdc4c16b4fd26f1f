"""worker/probes.py and worker/pages.py: what the probes of a worker say."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest

from tracked_queue import StoreUnavailableError, UsageError
from tracked_queue.worker.liveness import STALE_S, Sign
from tracked_queue.worker.pages import WELL, HttpPages, Query
from tracked_queue.worker.probes import Standing, live_problem, ready_problem, started_problem

TURNS, STANDS = 1.0, STALE_S + 1


def sign(pid: int, silent_s: float = TURNS, leases: bool = True) -> Sign:
    return Sign(pid, {0: "lease"} if leases else {}, silent_s)


def standing(*ready: int, wanted: int = 2, stopping: bool = False, ever: bool = True) -> Standing:
    return Standing(wanted, frozenset(ready), stopping, ever)


def test_a_loop_that_stands_still_is_not_live() -> None:
    assert live_problem(standing(1, 2), [sign(1), sign(2)]) == ""
    assert "process 2" in live_problem(standing(1, 2), [sign(1), sign(2, STANDS)])


def test_a_process_that_starts_or_belongs_to_another_worker_is_no_reason_to_restart() -> None:
    assert live_problem(standing(1), [sign(1), sign(7, STANDS)]) == ""
    assert live_problem(standing(), []) == "", "Redis may be away"


@pytest.mark.parametrize(
    "stands, signs, problem",
    [
        (standing(1, 2), [sign(1), sign(2)], ""),
        (standing(1), [sign(1)], "1 of 2"),
        (standing(1, 2), [sign(1), sign(2, leases=False)], "1 of 2"),
        (standing(1, 2, stopping=True), [sign(1), sign(2)], "stopping"),
        (standing(1, 2), [sign(1, STANDS), sign(2)], "not turned"),
    ],
)
def test_ready_means_that_all_processes_take_jobs(stands: Standing, signs: list[Sign], problem: str) -> None:
    found = ready_problem(stands, signs)
    assert problem in found and bool(problem) == bool(found)


def test_started_stays() -> None:
    assert started_problem(standing(1, ever=False)) == "1 of 2 processes have started"
    assert started_problem(standing(ever=True)) == ""


def test_pages_answer_by_path_and_errors_have_their_status() -> None:
    def away(_: Query) -> tuple[str, str, str]:
        raise StoreUnavailableError("it is away", may_have_run=False)

    def wrong(query: Query) -> tuple[str, str, str]:
        raise UsageError(f"{query}: no")

    pages = HttpPages("127.0.0.1", 0, {"/well": lambda _: WELL, "/away": away, "/wrong": wrong})
    pages.start()
    try:
        found = {}
        for path in ("/well", "/away", "/wrong?a=1", "/nothing"):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{pages.port}{path}", timeout=10) as answer:
                    found[path] = answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                found[path] = error.code, error.read().decode()
        assert found["/well"] == (200, "ok\n")
        assert found["/away"][0] == 503 and "it is away" in found["/away"][1]
        assert found["/wrong?a=1"][0] == 400 and "'a': ['1']" in found["/wrong?a=1"][1]
        assert found["/nothing"] == (404, "there are /well, /away, /wrong\n")
    finally:
        pages.close()
    with socket.socket() as gone:
        assert gone.connect_ex(("127.0.0.1", pages.port)) != 0, "closed"
