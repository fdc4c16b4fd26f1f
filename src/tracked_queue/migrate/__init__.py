"""
Moving the jobs that wait in another queue's Redis: Celery, RQ, arq, dramatiq, huey. None of these packages is imported.

Source: docs/how-to/migrate.md.
"""

from __future__ import annotations

from .bridge import Bridge, Report
from .found import Found, Left
from .sources import SOURCES, source_of

__all__ = ["SOURCES", "Bridge", "Found", "Left", "Report", "source_of"]
