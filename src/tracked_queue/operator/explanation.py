"""What `explain` answers with: one sentence, the facts that it rests on, and what would change it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..reports.runs import Run


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is so: where it was read, how old the knowledge is (None: read now); `likely`: it is inferred."""

    text: str
    source: str
    age_s: float | None = None
    likely: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A part of a job's time: 'delay', 'queue', 'paused', 'buffer', 'run', 'lost run' or 'backoff'."""

    what: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """
    Why something is as it is.

    `code` is stable, for programs; docs/reference/explain.md lists all of them. `problem` says that it stays so until
    somebody acts. `do` are commands that would change it. Of a job, `runs` are those that are known, `twice` is the code of
    why there is more than one, with its sentence, and `segments` are where its time went; they sum to `total_s`.
    """

    about: str
    code: str
    sentence: str
    facts: tuple[Fact, ...] = ()
    do: tuple[str, ...] = ()
    problem: bool = False
    runs: tuple[Run, ...] = ()
    twice: str = ""
    twice_sentence: str = ""
    segments: tuple[Segment, ...] = ()
    total_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Cause:
    """A code, its sentence, and what goes with it."""

    code: str
    sentence: str
    facts: Sequence[Fact] = ()
    do: Sequence[str] = ()
    problem: bool = False

    def of(self, about: str) -> Explanation:
        """As the answer about this."""
        return Explanation(
            about=about,
            code=self.code,
            sentence=self.sentence,
            facts=tuple(self.facts),
            do=tuple(self.do),
            problem=self.problem,
        )


def seconds(value: float) -> str:
    """A time as people read it: 20 ms, 0.4 s, 12 s, 3 min, 2 h, 5 d."""
    if value < 0.1:
        return f"{value * 1000:.0f} ms"
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if value >= 2 * size:
            return f"{value / size:.0f} {unit}"
    return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"


def plural(count: int, one: str, many: str = "") -> str:
    """1 job, 2 jobs."""
    return f"{count} {one if count == 1 else many or one + 's'}"
