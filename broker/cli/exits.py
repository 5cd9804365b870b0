"""How the program ends: the one table of its exit codes."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from ibgateway.client.errors import (
    BrokerError,
    BrokerUnreachableError,
    CallTimeoutError,
    UnexpectedAnswerError,
    WatchGapError,
)


class ExitCode(enum.IntEnum):
    """What a script can tell apart. A number never changes its meaning."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    TIMED_OUT = 4
    REFUSED = 5
    NOT_FOUND = 6
    NOT_CONNECTED = 7
    NOT_NOW = 8
    EXHAUSTED = 9
    DENIED = 10
    BROKER_ERRED = 11
    IB_CONN_001 = 21
    IB_CONN_002 = 22
    IB_CONN_003 = 23
    IB_CONN_004 = 24
    IB_CONN_005 = 25
    IB_CONN_006 = 26
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        """What happened, for people."""
        return _MEANINGS[self]


_MEANINGS: Final[Mapping[ExitCode, str]] = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "it is not as asked for: not SERVING, not healthy; or it cannot start",
    ExitCode.USAGE: "the command line is wrong; nothing was sent",
    ExitCode.UNREACHABLE: "no broker answers",
    ExitCode.TIMED_OUT: "no answer in time; whether it was done is unknown",
    ExitCode.REFUSED: "refused as written; nothing happened",
    ExitCode.NOT_FOUND: "no such session, or no such gateway",
    ExitCode.NOT_CONNECTED: "the session has ended, or has no link now",
    ExitCode.NOT_NOW: "refused for now; the same may succeed later",
    ExitCode.EXHAUSTED: "all sessions, client ids or streams are in use",
    ExitCode.DENIED: "not known to the broker, or not allowed to do this",
    ExitCode.BROKER_ERRED: "the broker erred, or what answers is none",
    ExitCode.IB_CONN_001: "the Gateway refused, reset or closed the connection",
    ExitCode.IB_CONN_002: "the client id is in use",
    ExitCode.IB_CONN_003: "the Gateway is silent",
    ExitCode.IB_CONN_004: "no way to the Gateway's host",
    ExitCode.IB_CONN_005: "the Gateway does not accept the session until a human acts",
    ExitCode.IB_CONN_006: "the Gateway is too old",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C",
}

REASONS: Final[Mapping[str, ExitCode]] = {
    "IB_CONN_001": ExitCode.IB_CONN_001,
    "IB_CONN_002": ExitCode.IB_CONN_002,
    "IB_CONN_003": ExitCode.IB_CONN_003,
    "IB_CONN_004": ExitCode.IB_CONN_004,
    "IB_CONN_005": ExitCode.IB_CONN_005,
    "IB_CONN_006": ExitCode.IB_CONN_006,
    "CIRCUIT_OPEN": ExitCode.NOT_NOW,
    "GATEWAY_DRAINING": ExitCode.NOT_NOW,
    "BROKER_DRAINING": ExitCode.NOT_NOW,
    "STORE_UNAVAILABLE": ExitCode.NOT_NOW,
    "SESSION_LIMIT": ExitCode.EXHAUSTED,
    "CLIENT_IDS_EXHAUSTED": ExitCode.EXHAUSTED,
    "SLOW_CONSUMER": ExitCode.EXHAUSTED,
    "SESSION_NOT_CONNECTED": ExitCode.NOT_CONNECTED,
    "SESSION_CLOSED": ExitCode.NOT_CONNECTED,
    "REQUEST_ID_REUSED": ExitCode.REFUSED,
    "INVALID_ARGUMENT": ExitCode.REFUSED,
    "SESSION_NOT_FOUND": ExitCode.NOT_FOUND,
    "GATEWAY_NOT_FOUND": ExitCode.NOT_FOUND,
    "UNAUTHENTICATED": ExitCode.DENIED,
    "PERMISSION_DENIED": ExitCode.DENIED,
    "INTERNAL": ExitCode.BROKER_ERRED,
}
"""The exit code of each reason that a broker refuses with."""

_DENIALS: Final = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})


def exit_code(error: BrokerError) -> ExitCode:
    """The exit code of a call that failed; FAILED for a reason of a newer broker."""
    match error:
        case CallTimeoutError():
            return ExitCode.TIMED_OUT
        case BrokerUnreachableError():
            return ExitCode.UNREACHABLE
        case UnexpectedAnswerError():
            # Something between may be what denies.
            return ExitCode.DENIED if error.code in _DENIALS else ExitCode.BROKER_ERRED
        case WatchGapError():
            return ExitCode.BROKER_ERRED
    return REASONS.get(error.reason, ExitCode.FAILED)


def rows() -> list[tuple[str, str, str]]:
    """The table: each code, what it means, and the reasons that it stands for."""
    return [
        (
            str(code.value),
            code.meaning,
            ", ".join(reason for reason, of in REASONS.items() if of is code),
        )
        for code in ExitCode
    ]
