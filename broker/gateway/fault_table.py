"""The one table from symptom to error: every failure of an attempt or of a link has a row.

Code, phase, words and advice are decided here only. ``broker.gateway.faults`` tells which
row applies.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from broker.errors import (
    AuthenticationError,
    ClientIDInUseError,
    GatewayConnectionError,
    GatewayError,
    GatewayTimeoutError,
    IncompatibleVersionError,
    NetworkUnreachableError,
    Phase,
)

MIN_SERVER_VERSION: Final = 157
"""The oldest server version that ib_async speaks (TWS 972)."""


class Symptom(enum.StrEnum):
    """What was seen, as exactly as the wire tells."""

    REFUSED = "refused"
    RESET = "reset"
    UNREACHABLE = "unreachable"
    KERNEL_TIMEOUT = "kernel_timeout"
    UNKNOWN_HOST = "unknown_host"
    RESOLVER_DOWN = "resolver_down"
    DIAL_FAILED = "dial_failed"
    SILENT_TCP = "silent_tcp"
    SILENT_HANDSHAKE = "silent_handshake"
    SILENT_START_API = "silent_start_api"
    CLOSED_IN_HANDSHAKE = "closed_in_handshake"
    NOT_TWS = "not_tws"
    TOO_OLD = "too_old"
    CLOSED_AFTER_START_API = "closed_after_start_api"
    UNREADABLE = "unreadable"
    CLIENT_ID_IN_USE = "client_id_in_use"
    OWN_GHOST = "own_ghost"
    DISCLAIMER = "disclaimer"
    NO_ACCOUNTS = "no_accounts"
    WRONG_KIND = "wrong_kind"
    PORT_CHANGED = "port_changed"
    RATE_EXCEEDED = "rate_exceeded"
    PEER_CLOSED = "peer_closed"
    LINK_RESET = "link_reset"
    LINK_TIMED_OUT = "link_timed_out"
    LINK_UNREACHABLE = "link_unreachable"
    LINK_GARBAGE = "link_garbage"
    HEARTBEAT_UNANSWERED = "heartbeat_unanswered"
    CLOSED_BY_BROKER = "closed_by_broker"
    BROKER_ERROR = "broker_error"
    BROKER_STOPPING = "broker_stopping"
    BROKER_RESTARTED = "broker_restarted"


@dataclass(frozen=True, slots=True)
class Fault:
    """One row: ``message`` and ``hint`` are templates over the target and the symptom's facts."""

    error: type[GatewayError]
    phase: Phase
    message: str
    hint: str
    tws_code: int = 0
    answered: bool = False


_THREE_CAUSES: Final = (
    "Three causes look the same on the wire: the broker's address is not among the Gateway's "
    "Trusted IPs (an operator must add it, in the form the Gateway sees, and untick 'Allow "
    "connections from localhost only'); a tunnel or socat accepted the connection while no Gateway"
    " listens behind it; or the Gateway is starting. The last two pass: retrying helps. If it "
    "lasts longer than a restart, an operator must check Trusted IPs and the Gateway's login."
)
_LOST: Final = (
    "The session dials anew by itself. Gateways close their links at the nightly restart (back "
    "within minutes); if it does not come back, an operator must look whether it waits for a login "
    "or second factor."
)
_AFTER_START: Final = (
    "No error 326 came, so this is not known to be a client id in use. The Gateway is restarting "
    "or has reached its limit of 32 clients. Retrying helps; if it goes on, an operator must look "
    "at the API log and the number of clients in the Gateway's window."
)
_ROUTE: Final = (
    "The network between broker and Gateway is down, or the host is off, or a firewall rejects the"
    " broker. Retrying helps once it is back; an operator must check the host, its route and the "
    "VPN. The Gateway itself was not reached."
)

FAULTS: Final[Mapping[Symptom, Fault]] = {
    Symptom.REFUSED: Fault(
        GatewayConnectionError,
        Phase.TCP,
        "{target} refused the connection",
        "Nothing listens there: the Gateway is not running, has not logged in yet (its API port "
        "opens only after login and second factor), restarts, or the port is wrong (Gateway 4001 "
        "live, 4002 paper; TWS 7496, 7497; docker images 4003, 4004) or its API socket disabled. "
        "Retrying helps through a restart; beyond some minutes an operator must look at the "
        "Gateway's login.",
    ),
    Symptom.RESET: Fault(
        GatewayConnectionError,
        Phase.TCP,
        "{target} reset the connection while it was being opened",
        "A firewall, proxy or overloaded listener ended it. Retrying helps; if it goes on, an "
        "operator must look at what stands between the broker and the Gateway.",
    ),
    Symptom.UNREACHABLE: Fault(
        NetworkUnreachableError, Phase.TCP, "{target} cannot be reached: {reason}", _ROUTE
    ),
    Symptom.KERNEL_TIMEOUT: Fault(
        NetworkUnreachableError,
        Phase.TCP,
        "{target} did not answer, and the operating system gave up: {reason}",
        _ROUTE,
    ),
    Symptom.UNKNOWN_HOST: Fault(
        NetworkUnreachableError,
        Phase.TCP,
        "the host name {host!r} does not resolve: {reason}",
        "The name is probably wrong: whoever configures the broker must correct the gateway's "
        "host, or add the name to DNS or the hosts file. Waiting rarely helps.",
    ),
    Symptom.RESOLVER_DOWN: Fault(
        NetworkUnreachableError,
        Phase.TCP,
        "the host name {host!r} cannot be resolved just now: {reason}",
        "The name server did not answer; this usually passes, and retrying helps. If it goes on, "
        "an operator must check the broker's DNS, or configure an address instead of a name.",
    ),
    Symptom.DIAL_FAILED: Fault(
        GatewayConnectionError,
        Phase.TCP,
        "{target} could not be dialled: {reason}",
        "The operating system's own reason is in the message; an operator must look at the "
        "broker's host (open files, local ports, permissions).",
    ),
    Symptom.SILENT_TCP: Fault(
        GatewayTimeoutError,
        Phase.TCP,
        "{target} did not accept the connection within {timeout} s",
        "A firewall drops the packets, the host is off, or the listener's queue is full because "
        "the Gateway hangs. Retrying helps if it is restarting; else an operator must check "
        "firewall and host, and restart the Gateway if it hangs.",
    ),
    Symptom.SILENT_HANDSHAKE: Fault(
        GatewayTimeoutError,
        Phase.HANDSHAKE,
        "{target} accepted the connection but did not answer within {timeout} s",
        "The Gateway hangs, or a dialog in its window waits for somebody: 'accept incoming "
        "connection' (an operator must add the broker to Trusted IPs) or another modal dialog (an "
        "operator must close it). A Gateway that hangs needs a restart; retrying alone rarely "
        "helps.",
    ),
    Symptom.SILENT_START_API: Fault(
        GatewayTimeoutError,
        Phase.START_API,
        "{target} answered, but did not send {missing} within {timeout} s",
        "The Gateway is up but has not finished its own login or is stuck. Retrying helps while it"
        " logs in; if it goes on, an operator must restart the Gateway.",
        answered=True,
    ),
    Symptom.CLOSED_IN_HANDSHAKE: Fault(
        GatewayConnectionError,
        Phase.HANDSHAKE,
        "{target} accepted the connection and {ended} it before answering",
        _THREE_CAUSES,
    ),
    Symptom.NOT_TWS: Fault(
        GatewayConnectionError,
        Phase.HANDSHAKE,
        "{target} does not speak the TWS API: it sent {quote}",
        "Another program listens on that port. Whoever configures the broker must correct host and"
        " port (Gateway 4001 live, 4002 paper; TWS 7496, 7497). Waiting does not help.",
    ),
    Symptom.TOO_OLD: Fault(
        IncompatibleVersionError,
        Phase.HANDSHAKE,
        f"{{target}} speaks server version {{version}}; at least {MIN_SERVER_VERSION} is needed",
        "The Gateway is too old for the client library: an operator must install a current IB "
        "Gateway or TWS. Retrying does not help.",
        answered=True,
    ),
    Symptom.CLOSED_AFTER_START_API: Fault(
        GatewayConnectionError,
        Phase.START_API,
        "{target} answered and then {ended} the connection without saying why",
        _AFTER_START,
        answered=True,
    ),
    Symptom.UNREADABLE: Fault(
        GatewayConnectionError,
        Phase.START_API,
        "{target} sent a message that cannot be read: {quote}",
        "Something between broker and Gateway alters the bytes, or the Gateway speaks a dialect "
        "that the client library does not know. Retrying may help; else an operator must look at "
        "proxies and at the Gateway's version.",
        answered=True,
    ),
    Symptom.CLIENT_ID_IN_USE: Fault(
        ClientIDInUseError,
        Phase.START_API,
        "client id {client_id} is already in use at {target}: {quote}",
        "Another client holds the id, or the Gateway has not noticed yet that its last holder died"
        " (typically up to a minute, at worst until its restart). Wait, use another id, or have an"
        " operator close the other client; ids with open orders should not be changed.",
        tws_code=326,
        answered=True,
    ),
    Symptom.OWN_GHOST: Fault(
        ClientIDInUseError,
        Phase.START_API,
        "{target} still holds client id {client_id} for this session's own last connection, which "
        "was lost {seconds} s ago, at {since} UTC",
        "Nobody needs to act yet: the Gateway lets go of it, typically within a minute, and the "
        "session waits for it under the same id. If it lasts, another client has taken the id, or "
        "the Gateway must be restarted.",
        tws_code=326,
        answered=True,
    ),
    Symptom.DISCLAIMER: Fault(
        AuthenticationError,
        Phase.START_API,
        "{target} waits for somebody to accept the paper trading disclaimer: {quote}",
        "A human must accept the paper trading disclaimer in the Gateway's window, or on the web "
        "by logging in to the paper account once (IBC: AcceptNonBrokerageAccountWarning=yes). "
        "Right after a restart it may pass by itself within half a minute.",
        tws_code=10141,
        answered=True,
    ),
    Symptom.NO_ACCOUNTS: Fault(
        AuthenticationError,
        Phase.START_API,
        "{target} lists no account",
        "The Gateway's user is not fully logged in or has no account with API permissions: an "
        "operator must look at the login in the Gateway's window and at the user's rights in "
        "Client Portal.",
        answered=True,
    ),
    Symptom.WRONG_KIND: Fault(
        AuthenticationError,
        Phase.START_API,
        "the gateway is declared {kind}, but serves account {quote}",
        "Paper accounts begin with D, live ones do not. Nothing was sent. Whoever configures the "
        "broker must correct the gateway's port or kind (IB_GATEWAY_KIND), or an operator must log"
        " the Gateway in to the other account. Retrying does not help.",
        answered=True,
    ),
    Symptom.PORT_CHANGED: Fault(
        GatewayConnectionError,
        Phase.CONNECTED,
        "the Gateway at {target} now listens on {new_port} and dropped the connection: {quote}",
        "Somebody changed the socket port in the Gateway's settings. Whoever configures the broker"
        " must set the new port, or change it back in the Gateway; until then the session goes on "
        "trying the old one.",
        tws_code=1300,
        answered=True,
    ),
    Symptom.RATE_EXCEEDED: Fault(
        GatewayConnectionError,
        Phase.CONNECTED,
        "{target} closed the connection because it got too many messages a second: {quote}",
        "The client of this session must send fewer messages (50 a second by default). The session "
        "dials anew by itself.",
        tws_code=100,
        answered=True,
    ),
    Symptom.PEER_CLOSED: Fault(
        GatewayConnectionError,
        Phase.CONNECTED,
        "{target} closed the connection (peer closed)",
        _LOST,
        answered=True,
    ),
    Symptom.LINK_RESET: Fault(
        GatewayConnectionError,
        Phase.CONNECTED,
        "{target} reset the connection",
        _LOST,
        answered=True,
    ),
    Symptom.LINK_TIMED_OUT: Fault(
        GatewayTimeoutError,
        Phase.CONNECTED,
        "{target} no longer acknowledges what is sent: {reason}",
        "The network or the Gateway's host went away without a word. The session dials anew; if it "
        "goes on, an operator must check host, network and VPN.",
        answered=True,
    ),
    Symptom.LINK_UNREACHABLE: Fault(
        NetworkUnreachableError,
        Phase.CONNECTED,
        "{target} can no longer be reached: {reason}",
        _ROUTE,
        answered=True,
    ),
    Symptom.LINK_GARBAGE: Fault(
        GatewayConnectionError,
        Phase.CONNECTED,
        "{target} sent bytes that are no TWS message (length {length}); the connection was dropped",
        "The stream is out of step, and nothing after it can be trusted. The session dials anew; "
        "if it goes on, an operator must look at what stands between broker and Gateway.",
        answered=True,
    ),
    Symptom.HEARTBEAT_UNANSWERED: Fault(
        GatewayTimeoutError,
        Phase.HEARTBEAT,
        "{target} did not answer the heartbeat within {timeout} s; the connection was dropped",
        "The Gateway hangs, or the network lost it without a word. The session dials anew; if no "
        "answer comes then either, an operator must restart the Gateway.",
        answered=True,
    ),
    Symptom.CLOSED_BY_BROKER: Fault(
        GatewayConnectionError,
        Phase.CONNECTED,
        "the connection to {target} was closed by the broker",
        "The session has ended or is ending; open another.",
        answered=True,
    ),
    Symptom.BROKER_ERROR: Fault(
        GatewayConnectionError,
        Phase.CONNECTED,
        "the broker erred, and has ended the connection to {target}; its log says more",
        "The session goes on by itself. Report it, with the log.",
        answered=True,
    ),
    Symptom.BROKER_STOPPING: Fault(
        GatewayConnectionError,
        Phase.CONNECTED,
        "the broker stops, and closes the connection to {target}",
        "The next broker takes the session up and dials anew. If none comes, an operator must "
        "start it.",
        answered=True,
    ),
    Symptom.BROKER_RESTARTED: Fault(
        GatewayConnectionError,
        Phase.CONNECTED,
        "the broker died, and the connection to {target} with it; another one has taken over",
        "The session dials anew by itself. The log of the broker that died may say why it did.",
        answered=True,
    ),
}
