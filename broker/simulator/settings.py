"""What a simulated Gateway is told at its start."""

from dataclasses import dataclass
from typing import Final

from broker.simulator.protocol import MAX_SERVER_VERSION, MIN_SERVER_VERSION

DEFAULT_SERVER_VERSION: Final = 178
FARM_NOTICES: Final = (
    (2104, "Market data farm connection is OK:usfarm"),
    (2106, "HMDS data farm connection is OK:ushmds"),
    (2158, "Sec-def data farm connection is OK:secdefil"),
)


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
    """The same after RST or silent loss. Seen in the field: 10 s to 60 s, or until the Gateway
    restarts.
    """
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
        durations = (
            *("startup_gap", "hold_after_fin", "hold_after_reset", "silent_loss"),
            *("id_in_use_close", "current_time_interval", "close_linger"),
            *("handshake_deadline", "frame_deadline"),
        )
        for name in durations:
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value}, not a duration")
