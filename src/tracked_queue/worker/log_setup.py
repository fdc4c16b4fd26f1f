"""
How log lines look, for programs of ours (the worker, its child processes, commands): one format for tracked_queue's own lines,
the application's structlog lines, and those of the standard library's logging.

An application that runs a worker in its own program keeps its own configuration.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from typing import Any, TextIO

import structlog

from .. import log

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
STYLES = ("auto", "console", "json")


@dataclass(frozen=True, slots=True)
class LogSetup:
    """
    What was chosen.

    Args:
        pretty: For people, else one JSON object a line.
        level: The least that is written, one of LEVELS.
        everything: Lines and warnings of the standard library's logging too.
    """

    pretty: bool
    level: str
    everything: bool


# What this process has set up; its child processes take it over.
current: LogSetup | None = None


class _Unbroken:
    """Standard error that never raises: a line that can't be written is lost and counted."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        try:
            if self._stream is not None:  # closed before this program was started
                self._stream.write(text)
        except UnicodeEncodeError:
            self.write(text.encode("ascii", "backslashreplace").decode())
        except (OSError, ValueError):
            log.log.dropped += 1

    def flush(self) -> None:
        try:
            if self._stream is not None:
                self._stream.flush()
        except (OSError, ValueError):
            log.log.dropped += 1


class _Handler(logging.StreamHandler[Any]):
    """A handler class of our own, so that a second set-up finds the first one's handler."""


def set_up(style: str = "auto", level: str = "info", *, everything: bool = False) -> None:
    """Log to standard error: for people on a terminal, one JSON object a line when piped; `style` overrides that."""
    pretty = sys.stderr is not None and sys.stderr.isatty() if style == "auto" else style == "console"
    apply(LogSetup(pretty, level, everything))


def apply(chosen: LogSetup) -> None:
    """Set up as another process of the same program has."""
    global current  # noqa: PLW0603  (of the process, as structlog's configuration is)
    current = chosen
    stream: Any = _Unbroken(sys.stderr)
    colors = chosen.pretty and sys.stderr is not None and sys.stderr.isatty()
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=colors)
        if chosen.pretty
        else structlog.processors.JSONRenderer(default=str)
    )
    tail: list[Any] = [*([] if chosen.pretty else [structlog.processors.format_exc_info]), renderer]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        log.add_job,
        log.add_trace,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, *tail],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[chosen.level]),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    for handler in [item for item in root.handlers if isinstance(item, _Handler)]:
        root.removeHandler(handler)
    if chosen.everything:
        handler = _Handler(stream)
        named = [structlog.stdlib.ExtraAdder(), structlog.stdlib.add_logger_name, *shared]
        handler.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=named,
                processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tail],
            )
        )
        root.addHandler(handler)
        root.setLevel(LEVELS[chosen.level])
        logging.captureWarnings(True)
