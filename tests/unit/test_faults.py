"""The table from symptom to error: complete, bounded, and honest about who must act."""

from __future__ import annotations

import errno
import os
import socket
from string import Formatter
from typing import Any

import pytest

from broker.errors import ErrorCode, GatewayError, Phase
from broker.gateway import faults
from broker.gateway.base import GatewayKind, Notice
from broker.gateway.fault_table import FAULTS, Symptom
from broker.gateway.faults import Target

TARGET = Target("gw.example", 4002, 7)


def os_error(number: int) -> OSError:
    """Return the error as the operating system words it."""
    return OSError(number, os.strerror(number))


def facts(symptom: Symptom, value: str) -> dict[str, Any]:
    """Return a value for each fact that the row names, beside those of the target."""
    named = {name for _, name, _, _ in Formatter().parse(FAULTS[symptom].message) if name}
    return dict.fromkeys(named - {"target", "host", "port", "client_id"}, value)


def test_every_symptom_has_a_row() -> None:
    assert set(FAULTS) == set(Symptom)


@pytest.mark.parametrize("symptom", Symptom)
def test_every_row_says_what_happened_and_what_to_do(symptom: Symptom) -> None:
    error = faults.failure(symptom, TARGET, **facts(symptom, "x"))
    assert error.code is FAULTS[symptom].error.code
    assert error.metadata["symptom"] == symptom
    assert "{" not in error.message + error.hint
    assert len(error.hint) > 40
    assert error.hint.endswith(".")


@pytest.mark.parametrize("symptom", Symptom)
def test_message_and_hint_are_bounded_whatever_the_gateway_says(symptom: Symptom) -> None:
    error = faults.failure(symptom, Target("h" * 5000, 4002, 7), **facts(symptom, "ü" * 5000))
    assert len(error.message.encode()) <= faults.TEXT_LIMIT
    assert len(error.hint.encode()) <= faults.TEXT_LIMIT
    assert all(len(value.encode()) <= faults.TEXT_LIMIT for value in error.metadata.values())


@pytest.mark.parametrize(
    ("errors", "code", "symptom"),
    [
        ([os_error(errno.ECONNREFUSED)], 1, Symptom.REFUSED),
        (
            [OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 111] Connect")],
            1,
            Symptom.REFUSED,
        ),
        ([os_error(errno.EADDRNOTAVAIL), os_error(errno.ECONNREFUSED)], 1, Symptom.REFUSED),
        ([TimeoutError(), os_error(errno.ECONNREFUSED)], 1, Symptom.REFUSED),
        ([os_error(errno.ECONNRESET)], 1, Symptom.RESET),
        ([TimeoutError()], 3, Symptom.SILENT_TCP),
        ([os_error(errno.ENETUNREACH), TimeoutError()], 3, Symptom.SILENT_TCP),
        ([os_error(errno.EHOSTUNREACH)], 4, Symptom.UNREACHABLE),
        ([os_error(errno.ENETUNREACH)], 4, Symptom.UNREACHABLE),
        ([TimeoutError(errno.ETIMEDOUT, "Connection timed out")], 4, Symptom.KERNEL_TIMEOUT),
        (
            [socket.gaierror(socket.EAI_NONAME, "Name or service not known")],
            4,
            Symptom.UNKNOWN_HOST,
        ),
        ([socket.gaierror(socket.EAI_AGAIN, "Temporary failure")], 4, Symptom.RESOLVER_DOWN),
        ([UnicodeError("label too long")], 4, Symptom.UNKNOWN_HOST),
        ([os_error(errno.EMFILE)], 1, Symptom.DIAL_FAILED),
        ([OSError("no number at all")], 1, Symptom.DIAL_FAILED),
    ],
)
def test_a_failed_dial_is_told_by_its_errors(
    errors: list[Exception], code: int, symptom: Symptom
) -> None:
    error = faults.dial_failure(errors, TARGET, 5)
    assert (error.code, error.phase, error.answered) == (code, Phase.TCP, False)
    assert error.metadata["symptom"] == symptom


def test_a_name_that_does_not_exist_and_a_resolver_that_is_down_get_different_advice() -> None:
    unknown = faults.dial_failure([socket.gaierror(socket.EAI_NONAME, "unknown")], TARGET, 5)
    down = faults.dial_failure([socket.gaierror(socket.EAI_AGAIN, "again")], TARGET, 5)
    assert "probably wrong" in unknown.hint
    assert "passes" in down.hint


def test_a_close_before_the_version_names_its_three_causes() -> None:
    error = faults.close_failure(TARGET, Phase.HANDSHAKE, None, None)
    assert error.code is ErrorCode.CONNECTION
    assert all(word in error.hint for word in ("Trusted IPs", "socat", "starting"))


@pytest.mark.parametrize(
    ("error", "cause", "code", "tws_code", "words"),
    [
        (None, None, 1, 0, "peer closed"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), None, 1, 0, "reset"),
        (TimeoutError(errno.ETIMEDOUT, "timed out"), None, 3, 0, "no longer acknowledges"),
        (os_error(errno.EHOSTUNREACH), None, 4, 0, "no longer be reached"),
        (None, Notice(1300, "Please reconnect on the new port - 4005"), 1, 1300, "port 4005"),
        (None, Notice(1300, "settings were changed"), 1, 1300, "another port"),
        (
            os_error(errno.ECONNRESET),
            Notice(100, "Max rate of messages"),
            1,
            100,
            "too many messages",
        ),
    ],
)
def test_a_lost_link_is_told_by_its_socket_and_by_what_announced_it(
    error: Exception | None, cause: Notice | None, code: int, tws_code: int, words: str
) -> None:
    lost = faults.close_failure(TARGET, Phase.CONNECTED, error, cause)
    assert (lost.code, lost.tws_code, lost.phase) == (code, tws_code, Phase.CONNECTED)
    assert words in lost.message


@pytest.mark.parametrize("phase", [Phase.TCP, Phase.HANDSHAKE, Phase.START_API, Phase.HEARTBEAT])
def test_silence_is_a_timeout_that_names_its_phase(phase: Phase) -> None:
    error = faults.silence_failure(TARGET, phase, 5.0, ["nextValidId"])
    assert (error.code, error.phase) == (ErrorCode.TIMEOUT, phase)
    assert "5 s" in error.message or phase is Phase.TCP


@pytest.mark.requirement("AC-004")
@pytest.mark.parametrize(
    ("kind", "accounts", "fits"),
    [
        (GatewayKind.PAPER, ["DU1", "DF2"], True),
        (GatewayKind.PAPER, ["DU1", "U2"], False),
        (GatewayKind.LIVE, ["U1", "F2"], True),
        (GatewayKind.LIVE, ["U1", "DU2"], False),
        (GatewayKind.LIVE, ["du2"], False),
        (GatewayKind.UNKNOWN, ["U1", "DU2"], True),
    ],
)
def test_accounts_must_fit_the_declared_kind(
    kind: GatewayKind, accounts: list[str], fits: bool
) -> None:
    error = faults.account_failure(kind, accounts)
    assert (error is None) is fits
    if error is not None:
        assert (error.code, error.answered) == (ErrorCode.AUTHENTICATION, True)
        assert kind.value in error.message


def test_what_the_gateway_says_is_quoted_on_one_line_and_cut() -> None:
    text = faults.quoted("a\r\nb\x1b[31m\0" + "c" * 500)
    assert text.startswith("a b [31m c")
    assert len(text) == faults.QUOTE_LIMIT
    assert text.isprintable()


def test_errors_carry_every_dynamic_part_as_metadata() -> None:
    error: GatewayError = faults.notice_failure(Notice(326, "in use"), TARGET, Phase.START_API)
    assert error.code is ErrorCode.CLIENT_ID_IN_USE
    assert {
        "host": "gw.example",
        "port": "4002",
        "client_id": "7",
        "quote": "in use",
    }.items() <= error.metadata.items()
