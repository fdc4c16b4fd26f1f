"""An app whose jobs note that they ran; with OUTBOX_DATABASE it has a relay."""

from __future__ import annotations

import os

from tracked_queue import TrackedQueue
from tracked_queue.outbox import Outbox

# Records of ended jobs are gone after a second, so that only `known_for` can tell a row that was sent before.
app = TrackedQueue(result_ttl=0, resend_window=1, enqueue_timeout=2, heartbeat_interval=0.2)
outbox = Outbox(app, os.environ.get("OUTBOX_DATABASE") or None, poll=0.02)


@app.task(name="note", keep_result=False)
async def note(n: int) -> None:
    runs = os.open(os.environ["OUTBOX_RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(runs, f"{n}\n".encode())
    os.close(runs)
