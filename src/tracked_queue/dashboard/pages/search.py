"""Search by id and name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ...model.checks import MAX_NAME
from .common import picture_of
from .page import MOST_TEXT, Ask, Param, now, page


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """Something with that name or id: what it is, and which page shows it."""

    kind: str
    name: str
    path: str
    query: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What was found for a text: a job, a queue, a task, an instance, a schedule; and where to look for it in errors."""

    at: datetime
    text: str
    hits: tuple[Hit, ...]


@page(
    "/search", "Search", "search.html", Param(name="q", doc="An id or a name, or a part of a name.", length=MOST_TEXT)
)
async def search(ask: Ask) -> Search:
    """Finds a job by its id, and queues, tasks, instances and schedules by a part of their name."""
    text, desk = (ask["q"] or "").strip(), ask.desk
    hits: list[Hit] = []
    if not text:
        return Search(at=now(), text="", hits=())
    if text.isprintable() and len(text) <= MAX_NAME:
        place = (await desk.reads.places([text])).get(text)
        if place is not None and desk.may("view", *place):
            hits.append(Hit(kind="job", name=text, path="/job", query={"id": text}))
    picture, part = await picture_of(ask), text.casefold()
    for queue in picture.overview.queues:
        if part in queue.queue.casefold() and desk.may("view", queue=queue.queue):
            hits.append(Hit(kind="queue", name=queue.queue, path="/queue", query={"name": queue.queue}))
    tasks = {name for one in picture.instances for name in one.task_names}
    for name in sorted(tasks):
        if part in name.casefold() and desk.may("view", task=name):
            hits.append(Hit(kind="task", name=name, path="/task", query={"name": name}))
    if desk.sees_fleet:
        for one in picture.instances:
            if part in one.label.casefold() or part in one.lease.casefold() or part in one.host.casefold():
                hits.append(
                    Hit(kind="instance", name=f"{one.label} {one.lease}", path="/instance", query={"lease": one.lease})
                )
        for limit in await desk.cached("limits", 2.0, desk.reads.limits):
            if part in limit.limit.casefold() or part in limit.key.casefold():
                hits.append(
                    Hit(
                        kind="limit",
                        name=f"{limit.limit} {limit.key}".strip(),
                        path="/limit",
                        query={"name": limit.stored},
                    )
                )
    for schedule in desk.seen(await desk.cached("schedules", 2.0, desk.reads.schedules)):
        if part in schedule.name.casefold():
            hits.append(Hit(kind="schedule", name=schedule.name, path="/schedules", query={"like": schedule.name}))
    exact = [one for one in hits if one.name == text]
    rest = [one for one in hits if one.name != text]
    return Search(at=now(), text=text, hits=tuple([*exact, *rest][:100]))
