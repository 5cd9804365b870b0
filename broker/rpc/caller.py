"""Who calls."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, Final

import grpc.aio

from broker.access.identity import Identity
from broker.errors import InvalidArgumentError
from broker.rpc.requests import LONGEST_OWNER

OWNER_KEY: Final = "x-broker-owner"
NOBODY: Final = "local"

Context = grpc.aio.ServicerContext[Any, Any]
Metadata = Iterable[tuple[str, str | bytes]]

proven: ContextVar[Identity | None] = ContextVar("proven", default=None)
"""Who has sent the request being handled; None if callers need not say so."""


def owner(context: Context) -> str:
    """The name under which the caller's sessions stand. Where callers need not prove it, whoever
    reaches the port may say any name.

    Raises:
        InvalidArgumentError: the name is too long.
    """
    identity = proven.get()
    if identity is not None:
        return identity.name
    metadata = dict(context.invocation_metadata() or ())
    value = metadata.get(OWNER_KEY) or NOBODY
    name = value if isinstance(value, str) else value.decode(errors="replace")
    if len(name) > LONGEST_OWNER:
        raise InvalidArgumentError(
            [(f"metadata {OWNER_KEY}", f"must be at most {LONGEST_OWNER} characters")]
        )
    return name
