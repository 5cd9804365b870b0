"""That an operator takes a gateway out of use: known to the record and to the Gateway side."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Drain:
    """Who drains a gateway, why in the operator's words, and since when."""

    actor: str
    reason: str
    time: datetime
