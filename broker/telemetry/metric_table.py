"""Every metric: its name, its labels, what it means, and when to worry. docs/metrics.md is made of
this; nothing is exposed that is not here.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class Kind(enum.StrEnum):
    """What a metric is to Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric.

    Args:
        name: as it is exposed, with the suffix of its unit and, for a counter, ``_total``.
        kind: what it is.
        labels: their names; a value is one of few. Never a session, an owner or an account.
        meaning: what it says.
        worry: when somebody should look.
        buckets: upper bounds, in the unit of the name.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str
    worry: str
    buckets: tuple[float, ...] = ()


_MS_TO_MINUTE: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)

# -- dials and links ---------------------------------------------------------------------

CONNECTIONS: Final = Metric(
    "ib_gateway_connections_total",
    Kind.COUNTER,
    ("gateway", "status"),
    "Dials that have ended; status is success (handshake completed) or failure. Those of sessions "
    "and of sentinels; not those that were given up because the caller or the broker went away.",
    "Failures without successes: the Gateway is away. See the errors by type.",
)
CONNECTION_DURATION: Final = Metric(
    "ib_gateway_connection_duration_seconds",
    Kind.HISTOGRAM,
    ("gateway",),
    "From the dial to the completed handshake, of the dials that succeeded.",
    "p95 beyond 5 s, or p99 beyond 10 s: the Gateway is overloaded.",
    (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
)
ACTIVE_CONNECTIONS: Final = Metric(
    "ib_gateway_active_connections",
    Kind.GAUGE,
    ("gateway",),
    "Sessions that are CONNECTED. A sentinel is none.",
    "It falls while nobody closes sessions.",
)
CONNECTION_ERRORS: Final = Metric(
    "ib_gateway_connection_errors_total",
    Kind.COUNTER,
    ("gateway", "error_type"),
    "Dials that failed and links that were lost, by the kind of failure (docs/connect-faults.md).",
    "AuthenticationError and IncompatibleVersionError at all: a human must act. The others: when "
    "they go on for minutes outside of maintenance.",
)
CIRCUIT_BREAKER_STATE: Final = Metric(
    "ib_gateway_circuit_breaker_state",
    Kind.GAUGE,
    ("gateway",),
    "0 CLOSED, 1 OPEN (new sessions are refused), 2 HALF_OPEN (the next dial is a trial).",
    "1 or 2 for longer than a restart of the Gateway takes.",
)
RETRY_ATTEMPTS: Final = Metric(
    "ib_gateway_retry_attempts_total",
    Kind.COUNTER,
    ("gateway", "error_type"),
    "Dials of sessions that follow a failure, by the kind of that failure: of the dial before, or "
    "of the link that was lost. The same open under the next client id is one, too.",
    "It rises for long while connections_total has no success.",
)
HEARTBEAT_LATENCY: Final = Metric(
    "ib_gateway_heartbeat_latency_ms",
    Kind.HISTOGRAM,
    ("gateway",),
    "From the request for the Gateway's time to its answer, in milliseconds; of sessions and of "
    "sentinels. One that is not answered loses the link, and is a TimeoutError.",
    "p95 beyond 1000: the Gateway is about to hang, or the machine is overloaded.",
    (10.0, 50.0, 100.0, 500.0, 1000.0, 5000.0),
)

# -- sessions ----------------------------------------------------------------------------

SESSIONS: Final = Metric(
    "gateway_broker_sessions",
    Kind.GAUGE,
    ("gateway", "state"),
    "Sessions that are not final, by state.",
    "RECONNECTING above 0 outside of maintenance.",
)
SESSION_STATE_AGE: Final = Metric(
    "gateway_broker_session_state_age_seconds",
    Kind.GAUGE,
    ("gateway", "state"),
    "How long the session that is longest in a state has been in it; 0 if none is.",
    "RECONNECTING or CONNECTING beyond their budgets (reconnecting_budget, connecting_budget).",
)
SESSION_STATE_DURATION: Final = Metric(
    "gateway_broker_session_state_duration_seconds",
    Kind.HISTOGRAM,
    ("state",),
    "How long a session was in a state that it has left.",
    "Short CONNECTED: links do not last.",
    (0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0, 604800.0),
)
SESSIONS_ENDED: Final = Metric(
    "gateway_broker_sessions_ended_total",
    Kind.COUNTER,
    ("reason",),
    "Sessions that have ended, by close_reason, or by the code of those that FAILED.",
    "LEASE_EXPIRED and CALLER_GONE: programs die. IB_CONN_…: see connect-faults.md.",
)
OUTAGE_SECONDS: Final = Metric(
    "gateway_broker_outage_seconds_total",
    Kind.COUNTER,
    ("gateway", "cause"),
    "Seconds that sessions of this broker have been RECONNECTING, those that are so now included; "
    "ten sessions that are away for a second are ten. cause is the code of the failure that lost "
    "the link, or BROKER_RESTARTED, BROKER_STOPPING, BROKER_ERROR.",
    "It rises outside of maintenance.",
)
CONDITIONS_FALSE: Final = Metric(
    "gateway_broker_conditions_false",
    Kind.GAUGE,
    ("gateway", "type"),
    "Sessions that have a condition of this type which is FALSE.",
    "UPSTREAM: IB's servers are away. DATA_CONTINUOUS for long: an owner does not subscribe anew.",
)

# -- gateways ----------------------------------------------------------------------------

SEATS_USED: Final = Metric(
    "gateway_broker_seats_used",
    Kind.GAUGE,
    ("gateway",),
    "Sessions that hold a seat of the gateway. A sentinel leaves for the first of them.",
    "90 % of gateway_broker_seats_limit.",
)
SEATS_LIMIT: Final = Metric(
    "gateway_broker_seats_limit",
    Kind.GAUGE,
    ("gateway",),
    "How many there may be (session_limit of the gateway; that of the broker may be lower).",
    "Never by itself.",
)
CLIENT_IDS_HELD: Final = Metric(
    "gateway_broker_client_ids_held",
    Kind.GAUGE,
    ("gateway",),
    "Client ids that sessions hold.",
    "More than seats_used for long: ids are not given back.",
)
CLIENT_IDS_QUARANTINED: Final = Metric(
    "gateway_broker_client_ids_quarantined",
    Kind.GAUGE,
    ("gateway",),
    "Client ids that the Gateway may still hold for connections which ended badly.",
    "It does not fall after a restart of the Gateway.",
)
GATEWAY_REACHABLE: Final = Metric(
    "gateway_broker_gateway_reachable",
    Kind.GAUGE,
    ("gateway",),
    "1 if the last dial was answered, else 0; 0 before the first.",
    "0 outside of maintenance.",
)
GATEWAY_DRAINED: Final = Metric(
    "gateway_broker_gateway_drained",
    Kind.GAUGE,
    ("gateway",),
    "1 while an operator takes the gateway out of use.",
    "1 for a day: somebody forgot to resume it.",
)

# -- events, record, watchers ------------------------------------------------------------

EVENTS: Final = Metric(
    "gateway_broker_events_total",
    Kind.COUNTER,
    ("kind",),
    "Events that became visible: transition, attempt, condition, updated, notice.",
    "Ten times the usual rate: something flaps.",
)
EVENT_LAG: Final = Metric(
    "gateway_broker_event_lag_seconds",
    Kind.HISTOGRAM,
    (),
    "From an event until watchers can see it: mostly the database's commit.",
    "p99 beyond 0.25 (store_grace): watchers get events that are not kept yet.",
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
EVENTS_UNRECORDED: Final = Metric(
    "gateway_broker_events_unrecorded",
    Kind.GAUGE,
    (),
    "Events that wait for the database.",
    "Above 1000: lost if the broker dies now; at 8000 observations are given up.",
)
STORE_AVAILABLE: Final = Metric(
    "gateway_broker_store_available",
    Kind.GAUGE,
    (),
    "1 if the database took the last event and its lock is ours, else 0.",
    "0: no session can be opened.",
)
STORE_OPERATION: Final = Metric(
    "gateway_broker_store_operation_seconds",
    Kind.HISTOGRAM,
    ("operation",),
    "How long a statement of the database took, with the wait for a connection; by its name in "
    "broker/store/queries.sql.",
    "p99 of update_connection beyond 0.1: a slow disk, or a slow network.",
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
STORE_ERRORS: Final = Metric(
    "gateway_broker_store_errors_total",
    Kind.COUNTER,
    ("operation",),
    "Statements that failed.",
    "Any.",
)
REVISION: Final = Metric(
    "gateway_broker_revision",
    Kind.GAUGE,
    (),
    "The revision of the newest event that is kept.",
    "It stands still while sessions change.",
)
OLDEST_REVISION: Final = Metric(
    "gateway_broker_oldest_revision",
    Kind.GAUGE,
    (),
    "The oldest event that a watcher can continue with; retention moves it up.",
    "It comes close to gateway_broker_revision: watchers that come back must begin anew.",
)
WATCHERS: Final = Metric(
    "gateway_broker_watchers",
    Kind.GAUGE,
    (),
    "Streams of WatchSessions that follow the log.",
    "0 while strategies run.",
)
WATCHER_LAG: Final = Metric(
    "gateway_broker_watcher_lag_events",
    Kind.GAUGE,
    (),
    "By how many events the watcher that is furthest behind is behind.",
    "Beyond watch_memory it reads the database; beyond watch_lag it is cut.",
)
WATCHERS_CUT: Final = Metric(
    "gateway_broker_watchers_cut_total",
    Kind.COUNTER,
    (),
    "Watchers that were cut because they read too slowly (SLOW_CONSUMER).",
    "Any: find out who.",
)
QUEUE_DEPTH: Final = Metric(
    "gateway_broker_queue_depth",
    Kind.GAUGE,
    ("queue",),
    "What waits: journal (events for the database), quarantine (its changes, likewise), dials "
    "(attempts for their turn, over all gateways).",
    "journal or quarantine above 0 for a minute; dials above 0 while the Gateway is reachable.",
)

# -- rpcs and the process ----------------------------------------------------------------

RPCS: Final = Metric(
    "gateway_broker_rpcs_total",
    Kind.COUNTER,
    ("method", "code"),
    "Rpcs that have ended, by their status; CANCELLED are those whose caller went away first. "
    "Health and reflection are not counted.",
    "INTERNAL at all: a bug; the log has its error_id.",
)
RPC_DURATION: Final = Metric(
    "gateway_broker_rpc_duration_seconds",
    Kind.HISTOGRAM,
    ("method",),
    "How long a unary rpc took in its handler. OpenSession waits for the Gateway.",
    "GetSession beyond 0.05 at p99: the broker's core is busy.",
    _MS_TO_MINUTE,
)
RPCS_IN_PROGRESS: Final = Metric(
    "gateway_broker_rpcs_in_progress",
    Kind.GAUGE,
    ("method",),
    "Rpcs that run now.",
    "OpenSession rises and does not fall: nobody is answered.",
)
REFUSALS: Final = Metric(
    "gateway_broker_refusals_total",
    Kind.COUNTER,
    ("reason",),
    "Errors that were answered, by the reason of their ErrorInfo (error.proto).",
    "SESSION_LIMIT, CIRCUIT_OPEN, STORE_UNAVAILABLE: callers are turned away.",
)
EVENT_LOOP_LAG: Final = Metric(
    "gateway_broker_event_loop_lag_seconds",
    Kind.HISTOGRAM,
    (),
    "How late a timer is, measured four times a second: what everything in the broker waits.",
    "p99 beyond 0.1: too little CPU, or something blocks.",
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
)
BUILD_INFO: Final = Metric(
    "gateway_broker_build_info",
    Kind.GAUGE,
    ("version", "python"),
    "Always 1.",
    "Two versions for long: an upgrade got stuck.",
)

METRICS: Final[tuple[Metric, ...]] = tuple(
    value for value in list(globals().values()) if isinstance(value, Metric)
)
"""All of them, in this order."""
