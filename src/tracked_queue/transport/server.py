"""Whether a server can keep the promise."""

from __future__ import annotations

from ..errors import MissingCommandError, StoreRefusedError, StoreUnavailableError
from .store import Store


async def check_server(store: Store) -> list[str]:
    """
    Refuse a server that can't keep the promise; return warnings about one that may not.

    Raises:
        StoreRefusedError: Older than 6.2.
        StoreUnavailableError: It could not be asked, is loading its data, or is a replica, as after a failover.
    """
    warnings = []
    try:
        (info,) = await store.read(("INFO",))
    except StoreRefusedError as error:
        if not isinstance(error, MissingCommandError) and "NOPERM" not in str(error) and "permission" not in str(error):
            raise
        return ["INFO is refused here; version, role and maxmemory-policy were not checked"]
    facts = dict(line.split(":", 1) for line in info.decode("utf-8", "replace").splitlines() if ":" in line)
    version = facts.get("redis_version", "0.0")
    if tuple(map(int, version.split(".")[:2])) < (6, 2):
        raise StoreRefusedError(f"Redis {version} is too old; tracked_queue needs 6.2 or newer")
    if facts.get("role") not in (None, "master"):
        raise StoreUnavailableError(
            "it is a replica (READONLY); redis_url must name the primary, unless a failover is under way",
            may_have_run=False,
        )
    if facts.get("loading") == "1":
        raise StoreUnavailableError("it is loading its data", may_have_run=False)
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        warnings.append(
            f"maxmemory-policy is {policy}: Redis may evict jobs and leases, and then jobs are lost or doubled; "
            "set it to noeviction"
        )
    return warnings
