"""The next version of the application: it knows one task more."""

from tests.process.jobs import app as app
from tests.process.jobs import note


@app.task(name="new-task")
async def new_task() -> str:
    await note("start")
    return "new"
