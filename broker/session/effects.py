"""Everything a session may ask of the shell, one frozen class each."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Dial:
    """Dial with this client id, not before that time; answer with LinkUp or AttemptFailed."""

    client_id: int
    not_before: datetime | None


@dataclass(frozen=True, slots=True)
class HoldLink:
    """Watch over the link; answer with LinkLost."""


@dataclass(frozen=True, slots=True)
class EndLink:
    """Close the link, if there is one; answer with LinkEnded."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing, ever again."""


Effect = Dial | HoldLink | EndLink | Rest
