"""Tasks that no worker imports by itself."""

from __future__ import annotations

from tests.django.versions import task
from tracked_queue.django import tracked
from tracked_queue.worker.isolated import about


@task(takes_context=False)
@tracked(isolate="process")
def elsewhere(n: int) -> list:
    return [n, about.get().id, about.get().attempt]
