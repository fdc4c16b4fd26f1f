"""The command line: `python -m tracked_queue`, or `tracked-queue`. It decides nothing about jobs."""

from .commands import main

__all__ = ["main"]
