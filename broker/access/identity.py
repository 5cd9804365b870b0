"""Who calls, and what it may do."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Role(enum.IntEnum):
    """What an identity may do. Each may do what those before it may."""

    VIEWER = 1
    """Sees everything, changes nothing."""
    TRADER = 2
    """Opens sessions, and does as it likes with those that it owns."""
    OPERATOR = 3
    """Does so with everybody's, and with gateways."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller whose name is proven.

    Args:
        name: at most 128 characters; the owner of the sessions that it opens.
        role: what it may do.
    """

    name: str
    role: Role
