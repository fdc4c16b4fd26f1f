"""An application that starts a helper while it is imported, which outlives its process and holds whatever it inherited."""

from __future__ import annotations

import os
import time

from tracked_queue import TrackedQueue

app = TrackedQueue()


@app.task(name="noop")
async def noop() -> None: ...


if os.environ.get("HELPERS") and os.fork() == 0:
    os.setsid()  # of a session of its own, so it is not found among what a dead process has left
    with open(os.environ["HELPERS"], "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(120)
    os._exit(0)
