"""What a simulated Gateway is told at its start."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from broker.simulator.protocol import MAX_SERVER_VERSION, MIN_SERVER_VERSION

DEFAULT_SERVER_VERSION: Final = 178
FARM_NOTICES: Final = (
    (2104, "Market data farm connection is OK:usfarm"),
    (2106, "HMDS data farm connection is OK:ushmds"),
    (2158, "Sec-def data farm connection is OK:secdefil"),
)


CHANGEABLE: Final = frozenset(
    {
        *("hold_after_fin", "hold_after_reset", "hold_after_loss", "id_in_use_close"),
        *("rate_limit", "rate_violations", "read_only", "read_only_id"),
        *("accounts_first", "startup_gap", "close_on_early_request", "current_time_interval"),
    }
)
"""The settings that may change while the simulator runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorSettings:
    """How the simulated Gateway behaves. All durations are seconds. Raises ValueError for what
    cannot be.
    """

    host: str = "127.0.0.1"
    """A name or an address; of a name the first address is listened on."""
    port: int = 0
    """0 lets the operating system choose."""
    server_version: int = DEFAULT_SERVER_VERSION
    """157 to 200; a client that speaks less is answered with its own maximum."""
    accounts: tuple[str, ...] = ("DU1234567",)
    connection_time: bytes | None = None
    """The second field of the version reply, in any encoding and without NUL; None is the time in
    UTC.
    """
    first_order_id: int = 1
    accounts_first: bool = True
    """managedAccounts before nextValidId; the real order is not fixed."""
    startup_gap: float = 0.0
    """Between the messages after startApi."""
    farm_notices: tuple[tuple[int, str], ...] = FARM_NOTICES
    seats: int = 32
    """The documented maximum. How the real Gateway turns the next one away is not known; here:
    accept, then FIN.
    """
    hold_after_fin: float = 0.0
    """How long a client id stays in use after its client closed properly."""
    hold_after_reset: float = 5.0
    """The same after RST. Seen in the field: 10 s to 60 s, or until the Gateway restarts."""
    hold_after_loss: float = 5.0
    """The same after silent loss."""
    silent_loss: float | None = None
    """A ready client that sends nothing for so long is taken for lost and reset. None: never, as
    far as is known.
    """
    id_in_use_close: float | None = 0.0
    """From error 326 to the FIN when a client id is really in use; None never closes."""
    close_on_early_request: bool = False
    """Close a client that sends requests before nextValidId, instead of dropping them; both are
    documented.
    """
    close_on_version_mismatch: bool = False
    """Close a client that shares no version with this server, instead of ignoring it."""
    current_time_interval: float = 1.0
    """A request for the time sooner than this after the last answer is silently ignored, as Gateway
    10.45 does.
    """
    rate_limit: int | None = 50
    """The messages that a client may send at once, and in each second after that; more are rejected
    with error 100. None: any number, as for a client that connects with +PACEAPI.
    """
    rate_violations: int = 3
    """At which error 100, of which there is one a second at most, the client is closed with FIN.
    Documented is only that it likely is.
    """
    read_only: bool = False
    """Refuse what concerns orders with error 321, as with the Gateway's setting Read-Only API."""
    read_only_id: int | None = None
    """The request id of that refusal; None is that of the request. Seen as well: -1, 2147483647."""
    handshake_deadline: float = 30.0
    """From accept to startApi; then the connection is closed. (A connection that we keep silent has
    no deadline.)
    """
    frame_deadline: float = 10.0
    """From the first byte of a frame to its last, once the client is ready."""
    close_linger: float = 1.0
    """How long a connection that we ended with FIN waits for the client's FIN before its socket is
    closed.
    """
    journal_limit: int = 10_000
    """How many connections the journal remembers."""

    def __post_init__(self) -> None:
        if not MIN_SERVER_VERSION <= self.server_version <= MAX_SERVER_VERSION:
            known = f"{MIN_SERVER_VERSION} to {MAX_SERVER_VERSION}"
            raise ValueError(f"server version {self.server_version} is not simulated: {known}")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port {self.port} is not between 0 and 65535")
        for account in self.accounts:
            if not (account.isascii() and account.isalnum()):
                raise ValueError(f"account {account!r} is not made of ASCII letters and digits")
        if self.connection_time is not None and b"\0" in self.connection_time:
            raise ValueError("connection_time contains a NUL, which would end the field")
        if self.seats < 1 or self.journal_limit < 1:
            raise ValueError("seats and journal_limit are at least 1")
        if self.rate_limit is not None and not 1 <= self.rate_limit <= 1_000_000:
            raise ValueError(f"rate_limit is {self.rate_limit}, not 1 to 1000000")
        if self.rate_violations < 1:
            raise ValueError(f"rate_violations is {self.rate_violations}, not at least 1")
        if self.read_only_id is not None and not -1 <= self.read_only_id < 2**31:
            raise ValueError(f"read_only_id is {self.read_only_id}, not -1 to 2147483647")
        check_durations(
            self,
            *("startup_gap", "hold_after_fin", "hold_after_reset", "hold_after_loss"),
            *("silent_loss", "id_in_use_close", "current_time_interval", "close_linger"),
            *("handshake_deadline", "frame_deadline"),
        )

    def changed(self, changes: Mapping[str, Any]) -> "SimulatorSettings":
        """Return these settings with some of CHANGEABLE changed. Raises ValueError for others."""
        for name in changes:
            if name not in CHANGEABLE:
                known = ", ".join(sorted(CHANGEABLE))
                raise ValueError(
                    f"{name} cannot change while the simulator runs; what can: {known}"
                )
        return replace(self, **changes)


def check_durations(owner: object, *names: str) -> None:
    """Raise ValueError that names the first attribute that is no duration in seconds; None is."""
    for name in names:
        value = getattr(owner, name)
        if value is not None and not 0 <= value < float("inf"):
            raise ValueError(f"{name} is {value}, not a duration")
