"""The metrics that dashboards and alerts may ask for, until the code's own table is here.

Replace by an import of the table of broker/telemetry/metrics: one list, not two.
"""

from __future__ import annotations

from typing import Final

COUNTERS: Final = {
    "ib_gateway_connections_total",
    "ib_gateway_connection_errors_total",
    "ib_gateway_retry_attempts_total",
    "gateway_broker_sessions_ended_total",
    "gateway_broker_outage_seconds_total",
    "gateway_broker_events_total",
    "gateway_broker_store_errors_total",
    "gateway_broker_watchers_cut_total",
    "gateway_broker_rpcs_total",
    "gateway_broker_refusals_total",
}
GAUGES: Final = {
    "ib_gateway_active_connections",
    "ib_gateway_circuit_breaker_state",
    "gateway_broker_build_info",
    "gateway_broker_sessions",
    "gateway_broker_session_state_age_seconds",
    "gateway_broker_seats_used",
    "gateway_broker_seats_limit",
    "gateway_broker_client_ids_held",
    "gateway_broker_client_ids_quarantined",
    "gateway_broker_gateway_reachable",
    "gateway_broker_gateway_drained",
    "gateway_broker_conditions_false",
    "gateway_broker_events_unrecorded",
    "gateway_broker_store_available",
    "gateway_broker_revision",
    "gateway_broker_oldest_revision",
    "gateway_broker_watchers",
    "gateway_broker_watcher_lag_events",
    "gateway_broker_queue_depth",
    "gateway_broker_rpcs_in_progress",
}
HISTOGRAMS: Final = {
    "ib_gateway_connection_duration_seconds",
    "ib_gateway_heartbeat_latency_ms",
    "gateway_broker_session_state_duration_seconds",
    "gateway_broker_event_lag_seconds",
    "gateway_broker_store_operation_seconds",
    "gateway_broker_rpc_duration_seconds",
    "gateway_broker_event_loop_lag_seconds",
}
OTHERS: Final = {
    "up",
    "process_start_time_seconds",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
}
"""Prometheus' own, and those of its client library."""

SERIES: Final = (
    COUNTERS
    | GAUGES
    | OTHERS
    | {f"{name}_{suffix}" for name in HISTOGRAMS for suffix in ("bucket", "count", "sum")}
)
