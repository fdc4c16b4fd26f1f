"""
An instance's predecessors: leases of processes that are certainly gone are released at once, without waiting for their
TTL.

There are two kinds of proof: the same pid namespace of the same machine and boot no longer has the process; or the
label is exclusive, which the platform promises (`exclusive_label`). Without proof an instance waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from .. import log
from ..errors import StoreUnavailableError
from ..protocol.transitions import End, release
from ..reports.instances import InstanceReport, read_instances
from ..reports.reading import now_ms
from ..transport.store import Store

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Origin:
    """
    Where a process is from.

    Args:
        machine: The boot's id and the pid namespace; '' where they can't be read, and nothing can be proven.
        pid, born: The process, and its start in clock ticks since the boot, so that a pid that is used again is another.
        program: The supervisor, or the process itself; processes with the same label and program are one worker.
        began: When that program began, by `time.monotonic`; where the system doesn't tell, when it was asked.
    """

    machine: str
    pid: int
    born: str
    program: str
    began: float = field(default_factory=time.monotonic)


def origin_of(pid: int, program_pid: int) -> Origin:
    """The origin of a process on this machine."""
    machine = machine_id()
    born = born_at(pid) or ""
    program_born = born_at(program_pid) or ""
    program = f"{machine}/{program_pid}/{program_born}"
    return Origin(machine if born else "", pid, born, program, time.monotonic() - age_s(program_born))


def age_s(born: str) -> float:
    """How long a process with this birth (`born_at`) has lived; 0.0 for an unknown one."""
    if not born.isdecimal():
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - int(born) / os.sysconf("SC_CLK_TCK"))


def machine_id() -> str:
    """This boot and this pid namespace; '' if they can't be read."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink(PROC / 'self/ns/pid')}"
    except OSError:
        return ""


def born_at(pid: int) -> str | None:
    """When a process began; None if there is none. One that has ended and is not reaped yet runs no job any more."""
    try:
        after_name = (PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] in ("Z", "X") else after_name[19]


def proof_of_death(
    me: Origin, label: str, exclusive: tuple[datetime, datetime] | None, other: InstanceReport
) -> str | None:
    """
    Why another instance is surely gone, or None.

    Args:
        exclusive: If its label is exclusive: when the program of this instance began, and now, by the server's clock. An
            instance that registered between the two is no predecessor, but of a live program, which breaks the promise: it is
            told of and left alone. Otherwise every process that starts would take the jobs of the other program again.
    """
    if me.machine and other.machine == me.machine and other.born and born_at(other.pid) != other.born:
        return "its process is gone"
    before = (
        exclusive and other.started_at and not exclusive[0] <= other.started_at <= exclusive[1]
    )  # by a clock ahead, too
    if before and other.label == label and other.program != me.program:
        return "its label is exclusive, and this instance has it now"
    return None


def sharing(me: Origin, label: str, instances: Sequence[InstanceReport]) -> list[InstanceReport]:
    """Live instances of another program that have the same label."""
    return [item for item in instances if item.alive and item.label == label and item.program != me.program]


async def release_predecessors(store: Store, me: Origin, label: str, exclusive: bool, *, several: bool) -> None:
    """Release what is surely dead; the next sweep recovers its jobs. A live one of an exclusive label is fenced by this."""
    with contextlib.suppress(StoreUnavailableError):  # then they run out by their TTL
        others = [item for item in await read_instances(store) if not item.revoked]
        now = datetime.fromtimestamp(await now_ms(store) / 1000, UTC)
        lived = now - timedelta(seconds=time.monotonic() - me.began), now
        why = {other.lease: proof_of_death(me, label, lived if exclusive else None, other) for other in others}
        # Only these count in `end_of`: a process that still lives says nothing about how another one ended.
        gone = [other for other in others if why[other.lease] is not None or here_before(me, label, other)]
        for other in gone:
            proof, end = why[other.lease], end_of(other, gone, several)
            await store.run(release(other.lease, end, proven=proof is not None))
            if proof is not None:
                log.predecessor_released(lease=other.lease, label=other.label, why=proof)


def end_of(gone: InstanceReport, others: Sequence[InstanceReport], several: bool) -> End:
    """
    What the end of an instance says about its jobs: one that had been told to stop was ended on purpose. With several shards
    there may have been other jobs beside them.
    """
    if gone.quiet:
        return End.INTERRUPTED
    beside = several or any(item.program == gone.program and item.owned for item in others if item is not gone)
    return End.CONTAINER if beside else End.DIED


def here_before(me: Origin, label: str, other: InstanceReport) -> bool:
    """
    Whether another program had this label on this machine: if its lease runs out, its container died, and not the machine (a
    label is a container's host name, unless somebody chose one).
    """
    boot = me.machine.partition("/")[0]
    elsewhere = other.machine != me.machine and other.machine.startswith(boot + "/")  # here its pid would tell
    return bool(boot) and elsewhere and other.label == label and other.program != me.program


async def watch_label(store: Store, me: Origin, label: str, every_s: float) -> None:
    """Two live programs must not share an exclusive label; each logs the other once."""
    told: set[str] = set()
    while True:
        with contextlib.suppress(StoreUnavailableError):
            others = sharing(me, label, await read_instances(store))
            if {item.program for item in others} - told:
                told |= {item.program for item in others}
                log.label_shared(label=label, leases=[item.lease for item in others])
        await asyncio.sleep(every_s)
