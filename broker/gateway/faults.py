"""What went wrong with a Gateway: from what was seen to the error that names it.

Who sees something on the wire asks here; the rows themselves are in
``broker.gateway.fault_table``. No input or output, no clock.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from broker.errors import AuthenticationError, GatewayError, Phase
from broker.gateway.base import GatewayKind, Notice
from broker.gateway.fault_table import FAULTS, Symptom

TEXT_LIMIT: Final = 1024
"""Bytes of a message and of a hint: gRPC trailers end at 8 KiB."""

QUOTE_LIMIT: Final = 160
"""Characters kept of what the Gateway said, so that its text never crowds out ours."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom an attempt or a link speaks to, and as whom."""

    host: str
    port: int
    client_id: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def failure(
    symptom: Symptom, target: Target | None, *, phase: Phase | None = None, **facts: object
) -> GatewayError:
    """The error that a symptom stands for.

    Args:
        symptom: the row.
        target: whom it concerns; None for rows that name nobody.
        phase: where it was seen, for those that can occur in several phases.
        facts: what the row's templates name.
    """
    row = FAULTS[symptom]
    values = dict(facts)
    if target is not None:
        values |= {"host": target.host, "port": target.port, "client_id": target.client_id}
    return row.error(
        _limited(row.message.format(target=target, **values)),
        phase=phase or row.phase,
        hint=_limited(row.hint),
        tws_code=row.tws_code,
        answered=row.answered,
        metadata={name: _limited(str(value)) for name, value in values.items()}
        | {"symptom": symptom.value},
    )


# What a single refusal says outranks what a silence says, and that an unreachable address:
# a name may resolve to addresses of which only one is meant.
_DIAL_ORDER: Final = (
    Symptom.REFUSED,
    Symptom.RESET,
    Symptom.SILENT_TCP,
    Symptom.KERNEL_TIMEOUT,
    Symptom.UNREACHABLE,
    Symptom.RESOLVER_DOWN,
    Symptom.UNKNOWN_HOST,
    Symptom.DIAL_FAILED,
)
_UNREACHABLE: Final = frozenset(
    {
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.EHOSTDOWN,
        # A host without IPv6 says so when it dials ::1.
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
    }
)
_RESET: Final = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN})
_ERRNO: Final = re.compile(r"\[Errno (\d+)\]")


def dial_failure(errors: Sequence[Exception], target: Target, timeout: float) -> GatewayError:
    """The error of a dial that failed at every address that the host has.

    Args:
        errors: what each address (or the resolver) said, at least one; an empty TimeoutError
            is an address that stayed silent.
        target: whom it concerns.
        timeout: the seconds that it was given.
    """
    symptom, error = min(
        ((symptom, error) for error in errors for symptom in _dial_symptoms(error)),
        key=lambda found: _DIAL_ORDER.index(found[0]),
    )
    reason = quoted(getattr(error, "strerror", None) or str(error))
    return failure(symptom, target, reason=reason, timeout=_seconds(timeout))


def _dial_symptoms(error: Exception) -> list[Symptom]:
    if isinstance(error, socket.gaierror):
        return [Symptom.RESOLVER_DOWN if error.errno == socket.EAI_AGAIN else Symptom.UNKNOWN_HOST]
    if isinstance(error, UnicodeError):  # the name cannot even be asked for
        return [Symptom.UNKNOWN_HOST]
    number = getattr(error, "errno", None)
    if number is None:
        if isinstance(error, TimeoutError):
            return [Symptom.SILENT_TCP]
        # asyncio folds the refusals of several addresses into one OSError without errno.
        return [_of_errno(int(found)) for found in _ERRNO.findall(str(error))] or [
            Symptom.DIAL_FAILED
        ]
    return [_of_errno(number)]


def _of_errno(number: int) -> Symptom:
    if number == errno.ECONNREFUSED:
        return Symptom.REFUSED
    if number in _RESET:
        return Symptom.RESET
    if number == errno.ETIMEDOUT:
        return Symptom.KERNEL_TIMEOUT
    return Symptom.UNREACHABLE if number in _UNREACHABLE else Symptom.DIAL_FAILED


def close_failure(
    target: Target, phase: Phase, error: Exception | None, cause: Notice | None
) -> GatewayError:
    """The error of a connection that the other side ended.

    Args:
        target: whom it concerns.
        phase: how far the connection had come: HANDSHAKE, START_API or CONNECTED.
        error: what the socket said; None is an orderly end.
        cause: the notice that announced the end, if one did (see ``announces_end``).
    """
    if cause is not None:
        return notice_failure(cause, target, phase)
    number = getattr(error, "errno", None)
    if error is not None and phase is Phase.CONNECTED:
        if number == errno.ETIMEDOUT:
            return failure(Symptom.LINK_TIMED_OUT, target, reason=quoted(str(error)))
        if number in _UNREACHABLE:
            return failure(Symptom.LINK_UNREACHABLE, target, reason=quoted(str(error)))
    symptom = {
        Phase.HANDSHAKE: Symptom.CLOSED_IN_HANDSHAKE,
        Phase.START_API: Symptom.CLOSED_AFTER_START_API,
        Phase.CONNECTED: Symptom.PEER_CLOSED if error is None else Symptom.LINK_RESET,
    }[phase]
    return failure(symptom, target, ended="closed" if error is None else "reset")


_BY_NOTICE: Final = {
    326: Symptom.CLIENT_ID_IN_USE,
    10141: Symptom.DISCLAIMER,
    1300: Symptom.PORT_CHANGED,
    100: Symptom.RATE_EXCEEDED,
}
_NEW_PORT: Final = re.compile(r"port\s*-?\s*(\d{2,5})\D*$")


def ends_attempt(notice: Notice) -> bool:
    """Whether a notice during the handshake decides the attempt, whatever the socket does next."""
    return notice.code in (326, 10141)


def announces_end(notice: Notice) -> bool:
    """Whether the Gateway closes the connection after this notice."""
    return notice.code in (1300, 100)


def notice_failure(notice: Notice, target: Target, phase: Phase) -> GatewayError:
    """The error that a notice stands for, if ``ends_attempt`` or ``announces_end`` says so."""
    port = _NEW_PORT.search(notice.text)
    return failure(
        _BY_NOTICE[notice.code],
        target,
        phase=phase,
        quote=quoted(notice.text),
        new_port=f"port {port[1]}" if port else "another port",
    )


def silence_failure(
    target: Target, phase: Phase, timeout: float, missing: Sequence[str] = ()
) -> GatewayError:
    """The error of a wait that ran out in ``phase``; ``missing`` is what never came."""
    symptom = {
        Phase.TCP: Symptom.SILENT_TCP,
        Phase.HANDSHAKE: Symptom.SILENT_HANDSHAKE,
        Phase.START_API: Symptom.SILENT_START_API,
        Phase.HEARTBEAT: Symptom.HEARTBEAT_UNANSWERED,
    }[phase]
    return failure(symptom, target, timeout=_seconds(timeout), missing=" and ".join(missing))


def account_failure(kind: GatewayKind, accounts: Sequence[str]) -> AuthenticationError | None:
    """Why these accounts do not fit the kind that the gateway is declared; None if they do."""
    if kind is GatewayKind.UNKNOWN:
        return None
    paper = kind is GatewayKind.PAPER
    for account in accounts:
        if account.upper().startswith("D") is not paper:
            error = failure(Symptom.WRONG_KIND, None, kind=kind.value, quote=quoted(account))
            assert isinstance(error, AuthenticationError)
            return error
    return None


def quoted(text: str) -> str:
    """What the other side said, on one line, printable and bounded."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= QUOTE_LIMIT else line[: QUOTE_LIMIT - 1] + "…"


def _limited(text: str) -> str:
    data = text.encode(errors="replace")
    return data[:TEXT_LIMIT].decode(errors="ignore")


def _seconds(timeout: float) -> str:
    return f"{timeout:g}"
