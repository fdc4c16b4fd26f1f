"""What is said on the page after an act; signed, so that no link can put words into our mouth."""

from __future__ import annotations

import base64
import hmac
import json
import secrets

from .desk import Done


class Told:
    """The signer of one dashboard process."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def sign(self, done: Done) -> str:
        """What an act came to, as a query can carry it."""
        packed = base64.urlsafe_b64encode(json.dumps([done.said[:500], done.ok]).encode()).decode()
        return f"{packed}.{self._mark(packed)}"

    def read(self, signed: str) -> tuple[str, bool] | None:
        """What was signed here, and whether it went well; None for anything else."""
        packed, _, mark = signed.partition(".")
        if not hmac.compare_digest(mark.encode("utf-8", "replace"), self._mark(packed).encode()):
            return None
        said, ok = json.loads(base64.urlsafe_b64decode(packed))
        return said, ok

    def _mark(self, packed: str) -> str:
        return hmac.new(self._secret, packed.encode("utf-8", "replace"), "sha256").hexdigest()[:32]
