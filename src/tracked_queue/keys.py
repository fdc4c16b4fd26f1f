"""
Every Redis key name of tracked_queue.

Scripts get the tag as KEYS[1] and build the same names from it (lua/include/keys.lua); a test compares the two.
Everything of one namespace shares the hash tag `{namespace}`, so that each transition stays in one slot.
"""

from __future__ import annotations

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
        """The key of one thing of a kind: job, queue, suspects, processing, instance, wake, parked, cancel, ended."""
        return f"{self.tag}:{kind}:{name}"

    def single(self, kind: str) -> str:
        """The one key of a kind: instances, scheduled, dead, parked, queues, paused, contact, hold, recovery_lock."""
        return f"{self.tag}:{kind}"
