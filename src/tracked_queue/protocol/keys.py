"""
Every Redis key name of tracked_queue.

Scripts get the tag as KEYS[1] and build the same names from it (lua/include/keys.lua); a test compares the two.
Everything of one namespace shares the hash tag `{namespace}`, so that each transition stays in one slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """
    Key names of one namespace. Source: docs/reference/keys.md.

    `clock` says by which clock its scripts go: the server's, or `now_ms_test`, a key that a test moves.
    """

    namespace: str
    clock: str = "now_ms"

    @property
    def tag(self) -> str:
        """The hash tag that all keys begin with; KEYS[1] of every script."""
        return "{" + self.namespace + "}"

    def named(self, kind: str, name: str) -> str:
        """The key of one thing of a kind: job, queue, suspected, processing, instance, wake, parked, cancel, ended."""
        return f"{self.tag}:{kind}:{name}"

    def record_of(self, job_id: str) -> str:
        """A job's record."""
        return self.named("job", job_id)

    def channel_of(self, job_id: str) -> str:
        """The channel on which a job's end and its progress are published."""
        return self.named("ended", job_id)

    def wake_of(self, queue: str) -> str:
        """The marker for which idle workers wait: something of this queue can be taken."""
        return self.named("wake", queue)

    def processing_of(self, lease: str) -> str:
        """What an instance owns."""
        return self.named("processing", lease)

    @property
    def contact(self) -> str:
        """When the fleet last reached the server."""
        return self.single("contact")

    @property
    def parked(self) -> str:
        """The tasks with parked jobs."""
        return self.single("parked")

    @property
    def shard_count(self) -> str:
        """The number of shards of the namespace; in its first tag only."""
        return self.single("shards")

    @property
    def protocol(self) -> str:
        """The protocol that the shard is written in."""
        return self.single("protocol")

    @property
    def moved_clock(self) -> str:
        """What the clock of a test or a chaos run says."""
        return self.single("clock")

    def markers(self, queues: Sequence[str], *, fresh: bool, suspects: bool) -> list[str]:
        """
        The wake markers on which an idle worker waits.

        Args:
            fresh: Include those for fresh jobs of these queues, and for timed jobs.
            suspects: Include those for their suspects.
        """
        found = [self.wake_of(queue) for queue in queues] + [self.single("wake_timer")] if fresh else []
        return found + [self.named("wake_suspects", queue) for queue in queues] if suspects else found

    def single(self, kind: str) -> str:
        """The one key of a kind: instances, scheduled, dead, parked, queues, paused, contact, hold, recovery_lock."""
        return f"{self.tag}:{kind}"
