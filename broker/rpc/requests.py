"""What callers send, checked field by field before anything happens."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, Protocol
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from ibgateway.broker.v1 import gateway_service_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.config import DEFAULT_GATEWAY
from broker.errors import InvalidArgumentError
from broker.rpc import convert
from broker.session.client_ids import HIGHEST, LOWEST
from broker.session.filters import SessionFilter
from broker.session.model import ClientIdPolicy, SessionState
from broker.session.open_request import OpenRequest
from broker.store.base import PageKey

DEFAULT_PAGE: Final = 50
LARGEST_PAGE: Final = 1000
MOST_SESSION_IDS: Final = 100
MOST_LABELS: Final = 32
MOST_VIOLATIONS: Final = 16  # the trailers of an error end at 8 KiB
LONGEST_NAME: Final = 63
LONGEST_OWNER: Final = 128
LONGEST_TEXT: Final = 256
TIMEOUT_RANGE: Final = (0.1, 600.0)
LEASE_RANGE: Final = (1.0, 86_400.0)
ATTEMPTS_RANGE: Final = (1, 100)
RECONNECTS_RANGE: Final = (0, 1_000_000)

_STATES: Final[Mapping[int, SessionState]] = {
    number: state for state, number in convert.STATES.items()
}
_POLICIES: Final = {
    pb.CLIENT_ID_POLICY_UNSPECIFIED: ClientIdPolicy.INCREMENT,
    pb.CLIENT_ID_POLICY_INCREMENT: ClientIdPolicy.INCREMENT,
    pb.CLIENT_ID_POLICY_EXACT: ClientIdPolicy.EXACT,
}
_PAGE_KEY: Final = struct.Struct(">q16s")
_SEQUENCE: Final = struct.Struct(">Q")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


_uuid = lru_cache(maxsize=4096)(UUID)
"""Reading one costs a fiftieth of an rpc, and most ask for a session again."""


class Checked:
    """Collects what is wrong with a request, so that the caller is told all of it at once."""

    def __init__(self) -> None:
        self._violations: list[tuple[str, str]] = []

    def require(self, ok: bool, field: str, description: str) -> None:
        """Note a violation unless ``ok``."""
        if not ok:
            self._violations.append((field, description))

    def finish(self) -> None:
        """Raise InvalidArgumentError if anything was wrong."""
        if self._violations:
            raise InvalidArgumentError(self._violations[:MOST_VIOLATIONS])

    def text(self, value: str, field: str, longest: int) -> str:
        """A text of bounded length that PostgreSQL can keep."""
        self.require(
            len(value) <= longest,
            field,
            f"must be at most {longest} characters, not {len(value)}",
        )
        self.require("\0" not in value, field, "must not contain NUL")
        return value

    def labels(self, labels: Mapping[str, str]) -> Mapping[str, str]:
        """Labels, within bounds."""
        self.require(
            len(labels) <= MOST_LABELS,
            "labels",
            f"must be at most {MOST_LABELS}, not {len(labels)}",
        )
        for key, value in sorted(labels.items())[:MOST_LABELS]:
            self.require(bool(key), "labels", "a key must not be empty")
            self.text(key, "labels", LONGEST_NAME)
            self.text(value, "labels", LONGEST_TEXT)
        return dict(labels)

    def session_id(self, value: str, field: str = "session_id") -> UUID:
        """A UUID; the broker's own are version 4."""
        try:
            return _uuid(value[:64])
        except ValueError:
            self.require(
                False,
                field,
                "is required" if not value else "must be a UUID, as OpenSession returned it",
            )
            return UUID(int=0)

    def request_id(self, value: str) -> UUID | None:
        """A UUID of version 4, or none at all."""
        if not value:
            return None
        try:
            result = UUID(value[:64])
        except ValueError:
            result = None
        self.require(
            result is not None and result.version == 4,
            "request_id",
            "must be a UUID of version 4, made anew for each open",
        )
        return result

    def page_size(self, value: int) -> int:
        """How many are wanted on a page; 0 leaves it to us."""
        self.require(value >= 0, "page_size", "must not be negative")
        return min(value or DEFAULT_PAGE, LARGEST_PAGE)

    def page_token(self, value: str, layout: struct.Struct) -> tuple[Any, ...] | None:
        """What a page token holds; None for the first page."""
        if not value:
            return None
        try:
            return layout.unpack(base64.b64decode(value, altchars=b"-_", validate=True))
        except (binascii.Error, struct.error, ValueError):
            self.require(False, "page_token", "must be a next_page_token as it was received")
            return None

    def seconds(self, value: Duration, field: str, low: float, high: float) -> float:
        """A duration within a range."""
        seconds = value.seconds + value.nanos / 1e9
        self.require(
            low <= seconds <= high,
            field,
            f"must be between {low:g} s and {high:g} s, not {seconds:g} s",
        )
        return seconds

    def number(self, value: int, field: str, low: int, high: int) -> int:
        """An integer within a range."""
        self.require(low <= value <= high, field, f"must be between {low} and {high}, not {value}")
        return value


class _Filtered(Protocol):
    """The filter fields that list and watch share."""

    @property
    def session_ids(self) -> Iterable[str]: ...
    @property
    def gateway_id(self) -> str: ...
    @property
    def owner(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def states(self) -> Iterable[int]: ...


def open_request(request: pb.OpenSessionRequest, owner: str) -> OpenRequest:
    """Check an OpenSessionRequest.

    Raises:
        InvalidArgumentError: names every field that is wrong.
    """
    checked = Checked()
    policy = _POLICIES.get(request.client_id_policy)
    checked.require(policy is not None, "client_id_policy", "is not a ClientIdPolicy")
    result = OpenRequest(
        gateway_id=checked.text(request.gateway_id, "gateway_id", LONGEST_NAME) or DEFAULT_GATEWAY,
        owner=owner,
        client_id=checked.number(request.client_id, "client_id", LOWEST, HIGHEST)
        if request.HasField("client_id")
        else None,
        client_id_policy=policy or ClientIdPolicy.INCREMENT,
        readonly=request.readonly,
        timeout=checked.seconds(request.timeout, "timeout", *TIMEOUT_RANGE)
        if request.HasField("timeout")
        else None,
        max_attempts=checked.number(request.max_attempts, "max_attempts", *ATTEMPTS_RANGE)
        if request.HasField("max_attempts")
        else None,
        reconnect_max_attempts=checked.number(
            request.reconnect_max_attempts, "reconnect_max_attempts", *RECONNECTS_RANGE
        )
        if request.HasField("reconnect_max_attempts")
        else None,
        request_id=checked.request_id(request.request_id),
        lease_ttl=checked.seconds(request.lease_ttl, "lease_ttl", *LEASE_RANGE)
        if request.HasField("lease_ttl")
        else None,
        return_immediately=request.return_immediately,
        labels=checked.labels(request.labels),
    )
    checked.finish()
    return result


def renew_request(request: pb.RenewSessionRequest) -> tuple[UUID, float | None]:
    """Check a RenewSessionRequest.

    Returns:
        The session_id, and the seconds that its lease shall last; None for as before.

    Raises:
        InvalidArgumentError: names every field that is wrong.
    """
    checked = Checked()
    result = checked.session_id(request.session_id)
    lease_ttl = None
    if request.HasField("lease_ttl"):
        lease_ttl = checked.seconds(request.lease_ttl, "lease_ttl", *LEASE_RANGE)
    checked.finish()
    return result, lease_ttl


def gateway_id(value: str) -> str:
    """Check the gateway_id that a request is about; empty is the default one.

    Raises:
        InvalidArgumentError: no gateway can have this name.
    """
    checked = Checked()
    checked.text(value, "gateway_id", LONGEST_NAME)
    checked.finish()
    return value or DEFAULT_GATEWAY


def drain_request(request: gateway_service_pb2.DrainGatewayRequest) -> str:
    """Check a DrainGatewayRequest; returns the gateway_id.

    Raises:
        InvalidArgumentError: names every field that is wrong.
    """
    checked = Checked()
    checked.text(request.gateway_id, "gateway_id", LONGEST_NAME)
    checked.text(request.reason, "reason", LONGEST_TEXT)
    checked.finish()
    return request.gateway_id or DEFAULT_GATEWAY


def acknowledge_request(request: pb.AcknowledgeDataRequest) -> UUID:
    """Check an AcknowledgeDataRequest; returns the session_id.

    Raises:
        InvalidArgumentError: names every field that is wrong.
    """
    checked = Checked()
    result = checked.session_id(request.session_id)
    checked.require(request.generation >= 1, "generation", "must be that of a session, from 1 on")
    checked.finish()
    return result


def session_id(value: str) -> UUID:
    """Check the session_id that a request is about.

    Raises:
        InvalidArgumentError: it is missing, or not a UUID.
    """
    checked = Checked()
    result = checked.session_id(value)
    checked.finish()
    return result


def close_request(request: pb.CloseSessionRequest) -> UUID:
    """Check a CloseSessionRequest.

    Raises:
        InvalidArgumentError: names every field that is wrong.
    """
    checked = Checked()
    result = checked.session_id(request.session_id)
    checked.text(request.reason, "reason", LONGEST_TEXT)
    checked.finish()
    return result


def session_filter(request: _Filtered) -> SessionFilter:
    """Check the filter of a list or a watch.

    Raises:
        InvalidArgumentError: names every field that is wrong.
    """
    checked = Checked()
    session_ids = list(request.session_ids)
    checked.require(
        len(session_ids) <= MOST_SESSION_IDS,
        "session_ids",
        f"must be at most {MOST_SESSION_IDS}, not {len(session_ids)}",
    )
    states = list(request.states)
    checked.require(
        all(state in _STATES for state in states), "states", "must be values of SessionState"
    )
    result = SessionFilter(
        session_ids=frozenset(
            checked.session_id(value, "session_ids") for value in session_ids[:MOST_SESSION_IDS]
        ),
        gateway_id=checked.text(request.gateway_id, "gateway_id", LONGEST_NAME),
        owner=checked.text(request.owner, "owner", LONGEST_OWNER),
        labels=checked.labels(request.labels),
        states=frozenset(_STATES.get(state, SessionState.FAILED) for state in states),
    )
    checked.finish()
    return result


def page(request: pb.ListSessionsRequest) -> tuple[int, PageKey | None]:
    """Check the page that is wanted.

    Returns:
        Its size, and where it begins.

    Raises:
        InvalidArgumentError: names every field that is wrong.
    """
    checked = Checked()
    size = checked.page_size(request.page_size)
    place = checked.page_token(request.page_token, _PAGE_KEY)
    after = None
    if place is not None:
        micros, raw = place
        try:
            after = PageKey(_EPOCH + timedelta(microseconds=micros), UUID(bytes=raw))
        except OverflowError:
            checked.require(False, "page_token", "must be a next_page_token as it was received")
    checked.finish()
    return size, after


def page_token(create_time: datetime, session_id: UUID) -> str:
    """The token of the page after this session."""
    micros = (create_time - _EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(_PAGE_KEY.pack(micros, session_id.bytes)).decode()


def events_page(request: pb.ListSessionEventsRequest) -> tuple[UUID, int, int]:
    """Check which events are wanted.

    Returns:
        The session_id, the page's size, and the sequence after which it begins.

    Raises:
        InvalidArgumentError: names every field that is wrong.
    """
    checked = Checked()
    result = checked.session_id(request.session_id)
    size = checked.page_size(request.page_size)
    place = checked.page_token(request.page_token, _SEQUENCE)
    after = place[0] if place is not None else 0
    checked.require(after < 2**63, "page_token", "must be a next_page_token as it was received")
    checked.finish()
    return result, size, after


def events_page_token(sequence: int) -> str:
    """The token of the page after the event with this sequence."""
    return base64.urlsafe_b64encode(_SEQUENCE.pack(sequence)).decode()
