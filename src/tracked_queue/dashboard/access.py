"""Who somebody is, and what they may see and do: roles by action, and a function of one's own by queue and task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, get_args

Action = Literal[
    "view",
    "see_arguments",
    "requeue",
    "cancel",
    "run_now",
    "recover",
    "pause_queue",
    "resume_queue",
    "pause_task",
    "resume_task",
    "pause_schedule",
    "resume_schedule",
    "trigger",
    "quiet",
    "unquiet",
    "stop",
    "purge",
    "delete",
    "discard",
]
ACTIONS: tuple[Action, ...] = get_args(Action)
# What changes nothing.
READING: tuple[Action, ...] = ("view", "see_arguments")


class Role(StrEnum):
    """What somebody may do: look; operate what can be undone, and read arguments; or everything."""

    VIEW = "view"
    OPERATE = "operate"
    ADMIN = "admin"


_RANK = {Role.VIEW: 0, Role.OPERATE: 1, Role.ADMIN: 2}
# The least role for each. What is lost for good is for admins.
LEAST: Mapping[Action, Role] = {
    action: Role.VIEW if action == "view" else Role.ADMIN if action in ("purge", "delete", "discard") else Role.OPERATE
    for action in ACTIONS
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Somebody: the name that logs and the audit have, and the role."""

    name: str
    role: Role = Role.VIEW

    def __post_init__(self) -> None:
        object.__setattr__(self, "role", Role(self.role))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """
    What somebody wants: an action on a queue and a task. Both are empty for what concerns the whole fleet, such as instances,
    limits and the audit.
    """

    action: Action
    namespace: str
    queue: str = ""
    task: str = ""


Rights = Callable[[Identity, Wish], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """
    The rules of one dashboard.

    Args:
        rights: What else must hold, beyond the role; also for `view`, where what is refused is as if it were not there.
        read_only: Nobody changes anything.
    """

    rights: Rights | None = None
    read_only: bool = False

    def allows(self, who: Identity, wish: Wish) -> bool:
        """Whether they may."""
        if self.read_only and wish.action not in READING:
            return False
        if _RANK[who.role] < _RANK[LEAST[wish.action]]:
            return False
        return self.rights is None or self.rights(who, wish) is True
