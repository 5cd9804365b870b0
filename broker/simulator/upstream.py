"""What the simulated Gateway knows of IB's servers and says of them, in IB's words, without I/O.

The words are those of the error messages that users have logged. What is said to all clients is
remembered, and told to those that connect later.
"""

from collections.abc import Iterable
from typing import Final

Notice = tuple[int, str]
"""Code and text of an error message that is about no request."""

LOST: Final = 1100
DATA_LOST: Final = 1101
DATA_MAINTAINED: Final = 1102
BROKEN: Final = 2110
ABOUT_A_REQUEST: Final = frozenset({10182, 10197})
"""Codes of messages that carry the id of a request."""

_OK: Final = frozenset({2104, 2106, 2158})
_FARM_WORDS: Final = {
    2103: "Market data farm connection is broken:",
    2104: "Market data farm connection is OK:",
    2105: "HMDS data farm connection is broken:",
    2106: "HMDS data farm connection is OK:",
    2107: "HMDS data farm connection is inactive but should be available upon demand.",
    2108: "Market data farm connection is inactive but should be available upon demand.",
    2119: "Market data farm is connecting:",
    2157: "Sec-def data farm connection is broken:",
    2158: "Sec-def data farm connection is OK:",
}
"""To be followed by the name of the farm."""
_USUAL_FARM: Final = {
    **dict.fromkeys((2103, 2104, 2108, 2119), "usfarm"),
    **dict.fromkeys((2105, 2106, 2107), "ushmds"),
    **dict.fromkeys((2157, 2158), "secdefil"),
}
_WORDS: Final = {
    LOST: "Connectivity between IBKR and Trader Workstation has been lost.",
    DATA_LOST: "Connectivity between IBKR and Trader Workstation has been restored - data lost.",
    DATA_MAINTAINED: "Connectivity between IBKR and Trader Workstation has been restored"
    " - data maintained.",
    BROKEN: "Connectivity between Trader Workstation and server is broken."
    " It will be restored automatically.",
    10182: "Failed to request live updates (disconnected).",
    10197: "No market data during competing live session",
}
KNOWN_CODES: Final = tuple(sorted({*_WORDS, *_FARM_WORDS}))
"""The codes that the Gateway's own words are known of."""


class Upstream:
    """Whether IB's servers are reached, and how each farm is. `notices` is how it all begins."""

    MAX_FARMS = 100

    def __init__(self, notices: Iterable[Notice]) -> None:
        self._first = tuple(notices)
        self.lost = False
        self._told: dict[str, Notice] = {}
        self.restart()

    def restart(self) -> None:
        """Begin anew, as a Gateway that was restarted."""
        self.lost = False
        self._told = {}
        for code, text in self._first:
            self._told[_farm(code, text) or text] = (code, text)

    def note(self, code: int, text: str) -> None:
        """Remember what all clients are told. Of farms beyond MAX_FARMS nothing is remembered."""
        if code in (LOST, BROKEN):
            self.lost = True
        elif code in (DATA_LOST, DATA_MAINTAINED):
            self.lost = False
        farm = _farm(code, text)
        if farm is not None and (farm in self._told or len(self._told) < self.MAX_FARMS):
            self._told[farm] = (code, text)

    def startup_notices(self) -> list[Notice]:
        """What a new client is told: how each farm is; while IB's servers are lost 2110 first, and
        nothing of farms that were well.
        """
        if not self.lost:
            return list(self._told.values())
        broken = [(code, text) for code, text in self._told.values() if code not in _OK]
        return [(BROKEN, _WORDS[BROKEN]), *broken]

    def words(self, code: int) -> str:
        """IB's text for a code: farm messages name the usual farm, 1101 and 1102 the farms as they
        are. Raises ValueError for a code that has no known text.
        """
        if code in _FARM_WORDS:
            return _FARM_WORDS[code] + _USUAL_FARM[code]
        if code not in _WORDS:
            known = ", ".join(map(str, KNOWN_CODES))
            raise ValueError(f"code {code} needs a text; IB's words are known for {known}")
        if code not in (DATA_LOST, DATA_MAINTAINED):
            return _WORDS[code]
        farms = {farm: told[0] in _OK for farm, told in self._told.items() if _farm(*told)}
        lists = (("connected", True), ("not connected", False))
        return _WORDS[code] + "".join(
            f" The following farms are {word}: {'; '.join(names)}."
            for word, ok in lists
            if (names := [farm for farm, well in farms.items() if well is ok])
        )


def port_was_reset(new_port: int) -> Notice:
    """What clients are told before they are dropped because the port was changed."""
    text = "TWS socket port has been reset and this connection is being dropped."
    return 1300, f"{text} Please reconnect on the new port - {new_port}"


def _farm(code: int, text: str) -> str | None:
    """The farm that a message names, or None."""
    words = _FARM_WORDS.get(code)
    return None if words is None or not text.startswith(words) else text.removeprefix(words) or None
