"""Bearer tokens: 256 random bits each, of which only the SHA-256 is kept."""

from __future__ import annotations

import functools
import hashlib
import re
import secrets
from typing import Final

PREFIX: Final = "gwb_"
"""So that scanners for leaked secrets know one when they see it."""
_SHAPE: Final = re.compile(re.escape(PREFIX) + r"[A-Za-z0-9_-]{43}")


def new_token() -> str:
    """A token that nobody can guess."""
    return PREFIX + secrets.token_urlsafe(32)


# Callers show the same few again and again, and OpenSSL's SHA-256 was half of the cost of a check.
# gRPC's tables of headers hold the tokens of each connection in memory anyhow.
@functools.lru_cache(maxsize=256)
def digest(token: str) -> bytes | None:
    """What is kept of a token; None if it is none of ours, which need not be looked up.

    That only our own shape counts keeps weak words out of the access file, for which SHA-256
    would be no protection.
    """
    if not _SHAPE.fullmatch(token):
        return None
    return hashlib.sha256(token.encode()).digest()
