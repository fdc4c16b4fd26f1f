"""
A transactional outbox: jobs are written in the transaction of the rows that they are about, and a relay enqueues each once.

Source: docs/how-to/outbox.md, docs/explanation/outbox.md.
"""

from __future__ import annotations

from .outbox import Outbox, OutboxStatus
from .statements import ddl

__all__ = ["Outbox", "OutboxStatus", "ddl"]
