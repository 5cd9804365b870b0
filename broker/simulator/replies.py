"""What the simulated Gateway answers to the requests of a client that is ready, without I/O.

Enough for the startup synchronisation of ib_async and for ibapi: lists are short, and always ended.
Layouts are the same at all server versions 157 to 200 but for errors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from broker.simulator.protocol import NO_ID, error, managed_accounts, message, next_valid_id, number

CURRENT_TIME: Final = 49
PLACE_ORDER: Final = 3
_INVALID_REQUEST: Final = 321

_VALUES: Final = (
    ("AccountType", "INDIVIDUAL", ""),
    ("NetLiquidation", "1000000.00", "USD"),
    ("TotalCashValue", "1000000.00", "USD"),
    ("AvailableFunds", "1000000.00", "USD"),
    ("BuyingPower", "4000000.00", "USD"),
)


@dataclass(frozen=True, slots=True)
class Desk:
    """What answers depend on: the negotiated version, the accounts, the client's next order id and
    the time.
    """

    version: int
    accounts: tuple[str, ...]
    order_id: int
    now: float
    """Seconds since 1970."""

    def refuse(self, text: str, request_id: int = NO_ID, *, by: str = "sim") -> list[bytes]:
        """Error 321 as the Gateway words it."""
        text = f"Error validating request.-'{by}' : cause - {text}"
        milliseconds = int(self.now * 1000)
        return [
            error(
                self.version,
                _INVALID_REQUEST,
                text,
                milliseconds=milliseconds,
                request_id=request_id,
            )
        ]


_Answer = Callable[[Desk, list[str]], list[bytes]]


def _text(fields: list[str], index: int) -> str:
    return fields[index] if index < len(fields) else ""


def _account_updates(desk: Desk, fields: list[str]) -> list[bytes]:
    """6: account values, the time of the update, and the end of the download; nothing when it
    unsubscribes.
    """
    if _text(fields, 2) not in ("1", "True"):
        return []
    account = _text(fields, 3) or (desk.accounts[0] if desk.accounts else "")
    if account not in desk.accounts:
        return desk.refuse("Invalid account code")
    values = [message(6, 2, key, value, currency, account) for key, value, currency in _VALUES]
    return [*values, message(8, 1, "00:00"), message(54, 1, account)]


def _account_updates_multi(desk: Desk, fields: list[str]) -> list[bytes]:
    """76: the same values under a request id, and model code."""
    request_id, account, model = number(fields, 2), _text(fields, 3), _text(fields, 4)
    account = account or (desk.accounts[0] if desk.accounts else "")
    if account not in desk.accounts:
        return desk.refuse("Invalid account code", request_id)
    values = [
        message(73, 1, request_id, account, model, key, value, currency)
        for key, value, currency in _VALUES
    ]
    return [*values, message(74, 1, request_id)]


def _account_summary(desk: Desk, fields: list[str]) -> list[bytes]:
    """62: of each account the values that the comma list of tags names."""
    request_id, tags = number(fields, 2), set(_text(fields, 4).split(","))
    rows = [
        message(63, 1, request_id, account, key, value, currency)
        for account in desk.accounts
        for key, value, currency in _VALUES
        if key in tags
    ]
    return [*rows, message(64, 1, request_id)]


def _nothing(_desk: Desk, _fields: list[str]) -> list[bytes]:
    return []


_ANSWERS: Final[dict[int, _Answer]] = {
    PLACE_ORDER: _nothing,  # noted for nextValidId, never filled
    5: lambda _desk, _fields: [message(53, 1)],
    6: _account_updates,
    7: lambda _desk, fields: [message(55, 1, number(fields, 2))],
    8: lambda desk, _fields: [next_valid_id(desk.order_id)],
    15: _nothing,  # reqAutoOpenOrders
    16: lambda _desk, _fields: [message(53, 1)],
    17: lambda desk, _fields: [managed_accounts(desk.accounts)],
    CURRENT_TIME: lambda desk, _fields: [message(49, 1, int(desk.now))],
    61: lambda _desk, _fields: [message(62, 1)],
    62: _account_summary,
    63: _nothing,  # cancelAccountSummary
    64: _nothing,  # cancelPositions
    76: _account_updates_multi,
    77: _nothing,  # cancelAccountUpdatesMulti
    99: lambda _desk, _fields: [message(102)],
}


_AFTER_VERSION: Final = 2
_CANCEL_WITHOUT_VERSION: Final = 192
"""From this server version on, cancelOrder has no field for its own version."""
_ORDER_REQUESTS: Final[dict[int, int | None]] = {
    PLACE_ORDER: 1,
    4: _AFTER_VERSION,  # cancelOrder
    5: None,  # reqOpenOrders
    15: None,  # reqAutoOpenOrders
    58: None,  # reqGlobalCancel
    99: None,  # reqCompletedOrders
}
"""What a read-only Gateway refuses, and which field has the request's id."""


def is_about_orders(request: int) -> bool:
    """Whether a read-only Gateway refuses the request."""
    return request in _ORDER_REQUESTS


def refuse_read_only(desk: Desk, fields: list[str], request_id: int | None) -> list[bytes]:
    """Return error 321 about a request that is about orders; an id replaces that of the request.
    Raises ProtocolError if the request is malformed.
    """
    at = _ORDER_REQUESTS[number(fields, 0)]
    if at == _AFTER_VERSION and desk.version >= _CANCEL_WITHOUT_VERSION:
        at = 1
    own = NO_ID if at is None else number(fields, at)
    text = "The API interface is currently in Read-Only mode."
    return desk.refuse(text, own if request_id is None else request_id, by="cp")


def answer(desk: Desk, fields: list[str]) -> list[bytes] | None:
    """Return the frames that answer a request, or None if it is not known. Raises ProtocolError if
    it is malformed.
    """
    handler = _ANSWERS.get(number(fields, 0))
    return None if handler is None else handler(desk, fields)
