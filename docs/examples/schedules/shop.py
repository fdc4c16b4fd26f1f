"""Reports for tenants, each by a schedule of its own: a row in a table, which may come, change and go at any time."""

import contextlib
import sqlite3
import sys
from collections.abc import Iterator

from tracked_queue import Planned, TrackedQueue

app = TrackedQueue()


@contextlib.contextmanager
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect("shop.db")
    with contextlib.closing(connection), connection:
        connection.execute("CREATE TABLE IF NOT EXISTS reports (tenant TEXT PRIMARY KEY, cron TEXT, tz TEXT)")
        yield connection


@app.task(name="report")
def report(tenant: str) -> None:
    with open("reports.txt", "a") as reports:
        print(f"report of {tenant}", file=reports)


@app.schedule_source(every=1)
async def reports() -> list[Planned]:
    with database() as known:
        rows = known.execute("SELECT tenant, cron, tz FROM reports").fetchall()
    return [Planned(name=f"report-{tenant}", call=report.call(tenant), cron=cron, tz=tz) for tenant, cron, tz in rows]


if __name__ == "__main__":
    with database() as shop:
        if sys.argv[1] == "set":
            shop.execute("INSERT OR REPLACE INTO reports VALUES (?, ?, ?)", sys.argv[2:5])
        else:
            shop.execute("DELETE FROM reports WHERE tenant = ?", sys.argv[2:3])
