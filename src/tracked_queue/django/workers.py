"""
The apps of a Django project as `tracked-queue worker` names them: `tracked_queue.django.workers:default`, or another alias.

Importing it sets Django up, and imports the tasks of all installed apps.
"""

from __future__ import annotations

from typing import Any

import django
from django.apps import apps
from django.utils.module_loading import autodiscover_modules

from . import sites

if not apps.ready:
    django.setup()


def __getattr__(alias: str) -> Any:
    if alias.startswith("__"):
        raise AttributeError(alias)
    if alias not in sites.aliases():
        raise AttributeError(f"TASKS has no alias {alias!r} with the backend tracked_queue.django.TrackedQueueBackend")
    site = sites.site(alias)
    autodiscover_modules(*site.task_modules)
    # A child process of isolate="process" finds the app under this name.
    globals()[alias] = site.app
    return site.app
