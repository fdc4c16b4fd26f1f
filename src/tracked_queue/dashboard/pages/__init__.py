"""What each page shows: a function that reads it for one person, and a template for it; `/api` sends the same as JSON."""

from . import (  # noqa: F401  (each registers its pages)
    audit,
    bulk,
    confirm,
    dead,
    doctor,
    home,
    instances,
    job,
    jobs,
    limits,
    lost,
    queues,
    schedules,
    search,
    tasks,
    workflows,
)
from .page import PAGES

__all__ = ["PAGES"]
