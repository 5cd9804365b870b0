"""One log line for each caller that was refused, and for each act of an operator."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

logger = logging.getLogger(__name__)

BURST: Final = 20
"""Lines about one caller that come at once; after that one every REFILL seconds."""
REFILL: Final = 1.0
MOST_CALLERS: Final = 1000
"""Callers that are counted apart; those beyond share one count."""
STRANGERS: Final = ""


@dataclass
class _Allowance:
    lines: float
    at: float
    held_back: int = 0


class Audit:
    """Writes the lines.

    A caller that is refused without end does not fill the disk, nor hide what is said of others:
    each has an allowance of its own, and all whose name is not known share one. Lines that were
    held back are counted in the next one.

    Args:
        clock: seconds, of any origin.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._allowances: dict[str, _Allowance] = {}

    def refused(self, caller: str, fields: Mapping[str, str]) -> None:
        """A caller was refused.

        Args:
            caller: its name; STRANGERS if that is not known.
            fields: of the line.
        """
        allowance = self._allowance(caller)
        now = self._clock()
        allowance.lines = min(BURST, allowance.lines + (now - allowance.at) / REFILL)
        allowance.at = now
        if allowance.lines < 1:
            allowance.held_back += 1
            return
        allowance.lines -= 1
        held_back, allowance.held_back = allowance.held_back, 0
        logger.warning("access_refused", extra={**fields, "held_back": held_back})

    def operated(self, fields: Mapping[str, str]) -> None:
        """An operator does what others may not."""
        logger.info("operator_action", extra=dict(fields))

    def _allowance(self, caller: str) -> _Allowance:
        if caller not in self._allowances and len(self._allowances) >= MOST_CALLERS:
            caller = STRANGERS
        return self._allowances.setdefault(caller, _Allowance(BURST, self._clock()))
