"""What the Gateway's notices say beside the state: from its number to a condition.

Numbers and texts are IBKR's (message codes of the TWS API documentation). None of these
closes a socket: a farm that flaps costs no session, and a farm that is dead shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from broker.gateway import faults
from broker.gateway.base import Notice
from broker.session.machine import CONDITIONS, DATA_CONTINUOUS
from broker.session.model import Condition, ConditionStatus

TRUE: Final = ConditionStatus.TRUE
FALSE: Final = ConditionStatus.FALSE
UNKNOWN: Final = ConditionStatus.UNKNOWN

UPSTREAM: Final = "UPSTREAM"
_MARKET: Final = "MARKET_DATA_FARM"
_HISTORY: Final = "HISTORICAL_DATA_FARM"
_SECDEF: Final = "SECDEF_FARM"
_FARMS: Final = frozenset({_MARKET, _HISTORY, _SECDEF})

_BY_CODE: Final[dict[int, tuple[tuple[str, ConditionStatus, str], ...]]] = {
    1100: ((UPSTREAM, FALSE, "CONNECTIVITY_LOST"),),
    1101: ((UPSTREAM, TRUE, "RESTORED_DATA_LOST"), (DATA_CONTINUOUS, FALSE, "DATA_LOST")),
    1102: ((UPSTREAM, TRUE, "RESTORED"),),
    2110: ((UPSTREAM, FALSE, "CONNECTIVITY_BROKEN"),),
    2103: ((_MARKET, FALSE, "BROKEN"),),
    2104: ((_MARKET, TRUE, "OK"),),
    2108: ((_MARKET, TRUE, "INACTIVE"),),
    2119: ((_MARKET, UNKNOWN, "CONNECTING"),),
    2105: ((_HISTORY, FALSE, "BROKEN"),),
    2106: ((_HISTORY, TRUE, "OK"),),
    2107: ((_HISTORY, TRUE, "INACTIVE"),),
    2157: ((_SECDEF, FALSE, "BROKEN"),),
    2158: ((_SECDEF, TRUE, "OK"),),
    321: (("WRITABLE", FALSE, "READ_ONLY_API"),),
    10197: (("NO_COMPETING_LOGIN", FALSE, "COMPETING_LOGIN"),),
}
CONDITION_TYPES: Final = tuple(
    dict.fromkeys(kind for conditions in _BY_CODE.values() for kind, _, _ in conditions)
)
"""All that a session can have."""

_SUBJECT_LIMIT: Final = 64
_READ_ONLY: Final = "read-only"
_ON_DEMAND: Final = "upon demand."


def conditions_of(notice: Notice, time: datetime) -> tuple[Condition, ...]:
    """The conditions that a notice tells of; none for most.

    Args:
        notice: with the id of no request.
        time: when it came, in UTC.
    """
    if notice.code == 321 and _READ_ONLY not in notice.text.lower():
        return ()  # the number stands for every request that is not valid
    return tuple(
        Condition(
            type=kind,
            subject=_farm(notice.text) if kind in _FARMS else "",
            status=status,
            reason=reason,
            message=notice.text,
            tws_code=notice.code,
            transition_time=time,
        )
        for kind, status, reason in _BY_CODE.get(notice.code, ())
    )


class News:
    """Which notices of one link are to be logged.

    Not what a Gateway says to everybody who connects, that all is well; nor what it ends an attempt
    with, which is told as the failure.
    """

    def __init__(self) -> None:
        self._troubles: set[tuple[str, str]] = set()

    def has(self, notice: Notice, conditions: Sequence[Condition], *, live: bool) -> bool:
        """Whether this is one.

        Args:
            notice: what the Gateway says.
            conditions: what that means.
            live: whether the handshake is complete.
        """
        keys = {(item.type, item.subject): item.status for item in conditions}
        over = {key for key, status in keys.items() if status is TRUE}
        mended = self._troubles & over
        self._troubles = {*self._troubles, *keys} - over
        if len(self._troubles) > CONDITIONS:  # the peer names them
            self._troubles.clear()
        if conditions:
            return bool(keys.keys() - over or mended)
        return live or not faults.ends_attempt(notice)


def _farm(text: str) -> str:
    """The farm's name, which stands last: "… connection is OK:usfarm", "… upon demand.usfarm".

    One name whatever is said, or a farm that was broken would seem so for good.
    """
    behind = text.rpartition(_ON_DEMAND if _ON_DEMAND in text else ":")[2]
    return behind.lstrip(": ").rstrip()[:_SUBJECT_LIMIT]
