"""The faults of the connect phase: the one table that help, control service and documentation are
made from.

Each connection suffers at most one fault. Armed faults form a queue: the oldest serves its number
of connections, then the next one, and one without a number stays until everything is cleared.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum


class Fault(Enum):
    """What goes wrong with a connection. The value is what the client sees."""

    # From accept to the version reply.
    SILENT_AFTER_ACCEPT = (
        "accepts, reads and never answers: a hung Gateway, or one that waits for a dialog"
    )
    CLOSE_AFTER_ACCEPT = (
        "accepts, then FIN before the version reply: untrusted address, socat without a backend"
    )
    RESET_AFTER_ACCEPT = "accepts, then RST at the hello, or after 20 ms without one"
    GARBAGE = "answers the hello with bytes that are no TWS message, then FIN"
    HTTP = "answers the hello as a web server would, then FIN"
    OLD_SERVER_VERSION = (
        "replies server version 100, older than any client here speaks, then is silent"
    )
    CUT_VERSION_REPLY = "sends half of the version reply, then FIN"
    NEWS_BEFORE_VERSION = "sends a news bulletin before the version reply, then goes on as usual"
    CLOSE_AFTER_VERSION = "replies its version, then FIN without waiting for startApi"
    # From startApi on.
    CLOSE_AFTER_START = "FIN at once after startApi, without an error message"
    CLOSE_AFTER_START_4_MS = "FIN 4 ms after startApi, without an error message"
    CLOSE_AFTER_START_500_MS = "FIN 500 ms after startApi, without an error message"
    SILENT_AFTER_START = "never answers startApi"
    CLIENT_ID_IN_USE = "error 326 after startApi, then FIN at once"
    CLIENT_ID_IN_USE_CLOSE_500_MS = "error 326 after startApi, then FIN 500 ms later"
    CLIENT_ID_IN_USE_NO_CLOSE = "error 326 after startApi, then silence"
    PAPER_DISCLAIMER = "error 10141 after startApi (paper disclaimer not accepted), then FIN"
    EMPTY_ACCOUNTS = "managedAccounts names no account"
    NO_MANAGED_ACCOUNTS = "nextValidId, but no managedAccounts"
    NO_NEXT_VALID_ID = "managedAccounts, but no nextValidId"
    SPLIT_SEGMENTS = "all is well, but the messages after startApi come in many small segments"
    ONE_SEGMENT = "all is well, but the messages after startApi come in a single segment"

    @property
    def label(self) -> str:
        """The name on the command line and in the control service, such as close-after-accept."""
        return self.name.lower().replace("_", "-")

    @classmethod
    def from_label(cls, label: str) -> "Fault":
        """Return the fault of that name, in any case, with - or _. Raises ValueError that lists the
        names.
        """
        try:
            return cls[label.strip().upper().replace("-", "_")]
        except KeyError:
            known = ", ".join(fault.label for fault in cls)
            raise ValueError(f"no fault is named {label!r}; known are {known}") from None


class FaultBlockedError(ValueError):
    """A fault cannot be armed: one before it stays until the faults are cleared, or too many are
    armed.
    """


@dataclass(slots=True)
class ArmedFault:
    """A fault that waits for connections; `remaining` is how many, None until cleared."""

    fault: Fault
    remaining: int | None


class FaultQueue:
    """The armed faults, oldest first."""

    LIMIT = 1000

    def __init__(self) -> None:
        self._queue: deque[ArmedFault] = deque()

    @property
    def armed(self) -> tuple[ArmedFault, ...]:
        """Copies, in the order in which they will act."""
        return tuple(ArmedFault(item.fault, item.remaining) for item in self._queue)

    def arm(self, fault: Fault, times: int | None) -> None:
        """Append a fault. Raises ValueError for a number that is none, FaultBlockedError if it
        cannot be armed now.
        """
        if times is not None and not 1 <= times <= 1_000_000:
            raise ValueError(f"a fault can be armed for 1 to 1000000 connections, not {times}")
        if self._queue and self._queue[-1].remaining is None:
            stays = self._queue[-1].fault.label
            raise FaultBlockedError(
                f"{fault.label} would never act: {stays} stays armed until the faults are cleared"
            )
        if len(self._queue) >= self.LIMIT:
            raise FaultBlockedError(f"{self.LIMIT} faults are armed already")
        self._queue.append(ArmedFault(fault, times))

    def clear(self) -> None:
        """Disarm everything; connections that suffer a fault already keep it."""
        self._queue.clear()

    def take(self) -> Fault | None:
        """Return the fault of a new connection and count it."""
        if not self._queue:
            return None
        first = self._queue[0]
        if first.remaining is not None:
            first.remaining -= 1
            if first.remaining == 0:
                self._queue.popleft()
        return first.fault


def markdown_table() -> str:
    """The faults as the table in the documentation."""
    rows = [f"| `{fault.label}` | {fault.value} |" for fault in Fault]
    return "\n".join(["| fault | what the client sees |", "|---|---|", *rows]) + "\n"
