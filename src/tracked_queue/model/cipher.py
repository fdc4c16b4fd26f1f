"""
Encryption of what jobs carry, where keys are set: arguments, results, options with headers, checkpoints, notes and errors.

Sealed bytes begin with 0xC1, as no MessagePack value and no text does, so sealed and plain bytes can coexist while
keys are introduced.
Source: https://cryptography.io/en/latest/fernet/; docs/how-to/encrypt.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import SealedError, SettingsError

MARK = b"\xc1"
PLAIN = "plain"


class Cipher:
    """
    The first key seals; any of them opens, so that keys can be rotated. With `plain` as the first
    key nothing is sealed yet: for the deploy that brings the first real key to every program.
    """

    def __init__(self, keys: Sequence[str], source: str = "") -> None:
        self.active = bool(keys) and keys[0] != PLAIN  # whether it seals
        real = [key for key in keys if key != PLAIN]
        self._fernet: Any = _fernet(real, source) if real else None

    def seal(self, data: bytes) -> bytes:
        """Encrypted bytes; unchanged when there is no key, or nothing to encrypt."""
        if not self.active or not data:
            return data
        token: bytes = self._fernet.encrypt(data)
        return MARK + token

    def open(self, data: bytes) -> bytes:
        """
        The bytes that were sealed; bytes that never were are returned unchanged.

        Raises:
            SealedError: No key of ours fits.
        """
        if not data.startswith(MARK):
            return data
        if self._fernet is None:
            raise SealedError("it is encrypted, and encryption_keys is not set here")
        from cryptography.fernet import InvalidToken

        try:
            opened: bytes = self._fernet.decrypt(data[len(MARK) :])
        except InvalidToken:
            raise SealedError("it is encrypted with a key that is not among encryption_keys, or was changed") from None
        return opened

    def peek(self, data: bytes | None) -> bytes | None:
        """`open` for reports: None for what no key of ours opens."""
        try:
            return None if data is None else self.open(data)
        except SealedError:
            return None


def parse_keys(text: str) -> list[str]:
    """Keys as the setting names them, separated by commas."""
    return [key for key in (part.strip() for part in text.split(",")) if key]


def _fernet(keys: Sequence[str], source: str) -> Any:
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError:
        raise SettingsError(
            "encryption_keys", "it needs cryptography: pip install 'tracked-queue[encryption]'", source
        ) from None
    try:
        return MultiFernet([Fernet(key) for key in keys])
    except ValueError:
        # The library's own text may quote a key.
        raise SettingsError(
            "encryption_keys",
            "each must be a Fernet key: 32 bytes in URL-safe base64, as Fernet.generate_key() makes them",
            source,
        ) from None
