"""Resume tokens: a place in one broker's log, opaque to clients."""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from broker.errors import InvalidArgumentError

_LAYOUT: Final = struct.Struct(">16sQ")

NOWHERE: Final = 2**64 - 1
"""The revision of a token that stands for no place: its watcher must begin anew."""


@dataclass(frozen=True, slots=True)
class ResumeToken:
    """After ``revision`` in the log that ``store_id`` names; the same for all watchers."""

    store_id: UUID
    revision: int

    def encode(self) -> str:
        """The token as clients keep it."""
        packed = _LAYOUT.pack(self.store_id.bytes, self.revision)
        return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str) -> ResumeToken:
        """Read a token.

        Raises:
            InvalidArgumentError: no broker of this kind has given it.
        """
        try:
            packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            store_id, revision = _LAYOUT.unpack(packed)
        except (binascii.Error, struct.error, ValueError):
            raise InvalidArgumentError(
                [("resume_token", "is not a token of this API; send it back as it was received")]
            ) from None
        return cls(UUID(bytes=store_id), revision)
