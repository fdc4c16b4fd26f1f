"""Django's system checks: what can be known without Redis, and with `--deploy` what Redis itself says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.utils.module_loading import autodiscover_modules

from ..errors import TrackedQueueError
from ..operator.doctor import Finding, Level
from ..settings import Settings

if TYPE_CHECKING:
    from .sites import Site


def same_place(one: Settings, other: Settings) -> bool:
    """Whether two apps have the same keys."""
    return (one.redis_url, one.namespace) == (other.redis_url, other.namespace)


def of_site(site: Site, others: Mapping[str, Site]) -> Iterator[checks.CheckMessage]:
    """Of one alias of TASKS, among the others."""
    if not apps.is_installed("tracked_queue.django"):
        yield checks.Warning(
            "tracked_queue.django is not in INSTALLED_APPS, so there is no `manage.py tracked_queue` and no admin of jobs.",
            hint='Add "tracked_queue.django".',
            obj=f"TASKS[{site.alias!r}]",
            id="tracked_queue.W001",
        )
    for alias, other in others.items():
        if alias != site.alias and same_place(site.app.settings, other.app.settings):
            yield checks.Error(
                f"it has the redis_url and the namespace of TASKS[{alias!r}], so their workers park each other's jobs.",
                hint='Give one of them another "namespace" in OPTIONS.',
                obj=f"TASKS[{site.alias!r}]",
                id="tracked_queue.E003",
            )
    if site.mode == "outbox" and not apps.is_installed("tracked_queue.django"):
        yield checks.Error(
            "ENQUEUE='outbox': its table is made by the migrations of tracked_queue.django, which is not in INSTALLED_APPS.",
            hint='Add "tracked_queue.django", and run migrate.',
            obj=f"TASKS[{site.alias!r}]",
            id="tracked_queue.E002",
        )
    if site.mode != "now" and site.database not in settings.DATABASES:
        yield checks.Error(
            f"DATABASE={site.database!r}: DATABASES has no such alias, so no transaction can be waited for.",
            hint='Name one in OPTIONS, or set "ENQUEUE": "now".',
            obj=f"TASKS[{site.alias!r}]",
            id="tracked_queue.E001",
        )


def register() -> None:
    """Have `manage.py check --deploy` look at Redis, and at what only workers import."""
    checks.register(look_at_redis, "tracked_queue", deploy=True)
    checks.register(look_at_tasks, "tracked_queue", deploy=True)


def look_at_tasks(app_configs: Any = None, **kwargs: Any) -> Iterable[checks.CheckMessage]:
    """Whether a worker could import the tasks, and would run each entry of CELERY_BEAT_SCHEDULE."""
    from . import sites

    found: list[checks.CheckMessage] = []
    for alias in sites.aliases():
        where = f"TASKS[{alias!r}]"
        try:
            autodiscover_modules(*sites.site(alias).task_modules)
        except Exception as error:  # of any kind: it is a project's own module
            text = f"a module with tasks can't be imported: {type(error).__name__}: {error}"
            found.append(checks.Error(text, hint="No worker would start.", obj=where, id="tracked_queue.E004"))
            return found
    entries = getattr(settings, "CELERY_BEAT_SCHEDULE", None)
    if entries and any(params.get("OPTIONS", {}).get("CELERY") for params in settings.TASKS.values()):
        from ..compat.celery import current_app
        from ..compat.celery.beat import refused

        for name, why in refused(current_app, entries).items():
            hint = "No worker would run it; beat did."
            found.append(checks.Error(why, hint=hint, obj=f"CELERY_BEAT_SCHEDULE[{name!r}]", id="tracked_queue.E005"))
    return found


def look_at_redis(app_configs: Any = None, **kwargs: Any) -> Iterable[checks.CheckMessage]:
    """Whether Redis answers, and what `doctor` finds there."""
    from . import sites

    found: list[checks.CheckMessage] = []
    for alias in sites.aliases():
        app, where = sites.site(alias).app, f"TASKS[{alias!r}]"

        async def examine() -> list[Finding]:
            async with app:  # noqa: B023  (it runs before the next one)
                return await app.operator.examine()  # noqa: B023

        try:
            findings = asyncio.run(examine())
        except TrackedQueueError as error:
            hint = "Is it running, and is redis_url right?"
            found.append(checks.Warning(f"Redis: {error}", hint=hint, obj=where, id="tracked_queue.W002"))
            continue
        for finding in findings:
            if finding.level in (Level.WARNING, Level.PROBLEM):
                text = f"{finding.name}: {finding.found}"
                found.append(checks.Warning(text, hint=finding.do or None, obj=where, id="tracked_queue.W003"))
    return found
