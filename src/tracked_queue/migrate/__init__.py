"""
Moving the jobs that wait in the Redis of Celery, RQ, arq, dramatiq, SAQ, huey or taskiq. None of these packages is imported.

Source: docs/how-to/migrate.md.
"""

from __future__ import annotations

from .bridge import Bridge, Report
from .found import Found, Left
from .sources import SOURCES, source_of

__all__ = ["SOURCES", "Bridge", "Found", "Left", "Report", "source_of"]
