"""
The exit codes of our programs.

With them a worker process reports to its supervisor how it ended, and the supervisor and every command to their caller.
Source: docs/reference/commands.md.
"""

from __future__ import annotations

# Used by every command; the first also by a job's fork that raised.
FAILED_EXIT = 1
USAGE_EXIT = 2
UNAVAILABLE_EXIT = 3
OUTPUT_EXIT = 4  # the output could not be written
# Used by a worker process: its event loop was blocked; its lease ran out while a job did not stop; it reached
# max_jobs or max_memory; it must not work in this namespace (any more).
STALLED_EXIT = 70
FENCED_EXIT = 71
RECYCLED_EXIT = 72
MISMATCH_EXIT = 73
