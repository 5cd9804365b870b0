"""What the simulated Gateway sends after the hello and after startApi, as the fault distorts it,
without I/O.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from broker.simulator import protocol
from broker.simulator.faults import Fault
from broker.simulator.settings import SimulatorSettings
from broker.simulator.upstream import Notice

CLOSE_AFTER_START: Final = {
    Fault.CLOSE_AFTER_START: 0.0,
    Fault.CLOSE_AFTER_START_4_MS: 0.004,
    Fault.CLOSE_AFTER_START_500_MS: 0.5,
}
"""Seconds from startApi to FIN."""
CLOSE_AFTER_326: Final = {
    Fault.CLIENT_ID_IN_USE: 0.0,
    Fault.CLIENT_ID_IN_USE_CLOSE_500_MS: 0.5,
    Fault.CLIENT_ID_IN_USE_NO_CLOSE: None,
}
"""Seconds from error 326 to FIN; None never closes."""

_SEGMENT: Final = 10
_SEGMENT_GAP: Final = 0.002
_OLD_VERSION: Final = 100


class Then(Enum):
    """What follows the answer to a hello."""

    GO_ON = "startApi is awaited"
    CLOSE = "FIN"
    FALL_SILENT = "nothing more is said"


def greeting(fault: Fault | None, version: int, connection_time: bytes) -> tuple[bytes, Then]:
    """The answer to a hello."""
    reply = protocol.version_reply(version, connection_time)
    if fault is Fault.GARBAGE:
        return bytes(range(255, 0, -3)), Then.CLOSE
    if fault is Fault.HTTP:
        return (
            b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            Then.CLOSE,
        )
    if fault is Fault.CUT_VERSION_REPLY:
        return reply[: len(reply) // 2], Then.CLOSE
    if fault is Fault.CLOSE_AFTER_VERSION:
        return reply, Then.CLOSE
    if fault is Fault.OLD_SERVER_VERSION:
        return protocol.version_reply(_OLD_VERSION, connection_time), Then.FALL_SILENT
    return reply, Then.GO_ON


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes for one write. `ready` says that nextValidId is complete with it, `whole` that a
    message ends with it.
    """

    data: bytes
    ready: bool
    whole: bool = True


def gap(settings: SimulatorSettings, fault: Fault | None) -> float:
    """Seconds before each segment."""
    return _SEGMENT_GAP if fault is Fault.SPLIT_SEGMENTS else settings.startup_gap


def segments(
    settings: SimulatorSettings,
    fault: Fault | None,
    version: int,
    *,
    order_id: int,
    notices: list[Notice],
    milliseconds: int,
) -> list[Segment]:
    """The accounts and nextValidId in the configured order, then the notices, as the fault distorts
    them.
    """
    accounts = () if fault is Fault.EMPTY_ACCOUNTS else settings.accounts
    named = Segment(protocol.managed_accounts(accounts), ready=False)
    valid = Segment(protocol.next_valid_id(order_id), ready=True)
    messages = [named, valid] if settings.accounts_first else [valid, named]
    if fault is Fault.NO_MANAGED_ACCOUNTS:
        messages = [valid]
    elif fault is Fault.NO_NEXT_VALID_ID:
        messages = [named]
    for code, text in notices:
        messages.append(
            Segment(protocol.error(version, code, text, milliseconds=milliseconds), ready=False)
        )
    if fault is Fault.ONE_SEGMENT:
        return [Segment(b"".join(item.data for item in messages), ready=True)]
    if fault is Fault.SPLIT_SEGMENTS:
        return [
            Segment(item.data[at : at + _SEGMENT], ready=item.ready and last, whole=last)
            for item in messages
            for at in range(0, len(item.data), _SEGMENT)
            for last in (at + _SEGMENT >= len(item.data),)
        ]
    return messages
