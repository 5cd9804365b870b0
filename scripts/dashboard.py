"""The Grafana dashboard, made from a table of panels: `make docs` writes it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
_WIDTH: Final = 24
"""Columns of Grafana's grid."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Args:
        title: what it shows.
        help: what to look for.
        queries: expression and legend of each line.
        unit: one of Grafana's.
        kind: ``timeseries``, ``stat``, ``heatmap`` or ``state-timeline``.
        width: of 24 columns.
        values: a word and a colour for each number that stands for a state.
        bad_above: where the value turns red; None if no number is bad by itself.
    """

    title: str
    help: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    values: Sequence[tuple[int, str, str]] = ()
    bad_above: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: Sequence[Panel]


_WHERE: Final = 'job="$job"'
_AT: Final = f'{_WHERE}, gateway=~"$gateway"'


def _rate(counter: str, *, by: str = "", where: str = _WHERE) -> str:
    return _sum(f"rate({counter}{{{where}}}[$__rate_interval])", by)


def _increase(counter: str, *, by: str = "", where: str = _WHERE) -> str:
    return _sum(f"increase({counter}{{{where}}}[$__rate_interval])", by)


def _sum(expression: str, by: str) -> str:
    return f"sum by ({by}) ({expression})" if by else f"sum({expression})"


def _max(gauge: str, where: str) -> str:
    return f"max({gauge}{{{_AT}, {where}}})"


def _quantile(share: float, histogram: str, where: str = _WHERE, by: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return (
        f"histogram_quantile({share}, sum by ({labels}) "
        f"(rate({histogram}_bucket{{{where}}}[$__rate_interval])))"
    )


ROWS: Final[Sequence[Row]] = (
    Row(
        "What is wrong now",
        (
            Panel(
                "Broker",
                "Nothing works without it.",
                ((f"min(up{{{_WHERE}}})", ""),),
                kind="stat",
                width=4,
                values=((0, "down", "red"), (1, "up", "green")),
            ),
            Panel(
                "Gateways that do not answer",
                "Drained ones included. gateway-broker gateways explain NAME says why.",
                ((f"count(gateway_broker_gateway_reachable{{{_AT}}} == 0) or vector(0)", ""),),
                kind="stat",
                width=4,
                bad_above=1,
            ),
            Panel(
                "Longest outage of a session",
                "How long the session that is away longest has been RECONNECTING.",
                ((_max("gateway_broker_session_state_age_seconds", 'state="RECONNECTING"'), ""),),
                unit="s",
                kind="stat",
                width=4,
                bad_above=300,
            ),
            Panel(
                "Conditions that are FALSE",
                "The link stands, and something behind it does not.",
                ((f"sum(gateway_broker_conditions_false{{{_AT}}})", ""),),
                kind="stat",
                width=4,
                bad_above=1,
            ),
            Panel(
                "Database",
                "Away: sessions live on, new ones are refused.",
                ((f"min(gateway_broker_store_available{{{_WHERE}}})", ""),),
                kind="stat",
                width=4,
                values=((0, "away", "red"), (1, "there", "green")),
            ),
            Panel(
                "Events not on record",
                "Lost if the broker dies before the database is back.",
                ((f"sum(gateway_broker_events_unrecorded{{{_WHERE}}})", ""),),
                kind="stat",
                width=4,
                bad_above=1,
            ),
        ),
    ),
    Row(
        "Gateways and sessions",
        (
            Panel(
                "Reachable",
                "As of the last dial.",
                ((f"gateway_broker_gateway_reachable{{{_AT}}}", "{{gateway}}"),),
                kind="state-timeline",
                width=12,
                values=((0, "unreachable", "red"), (1, "reachable", "green")),
            ),
            Panel(
                "Circuit breaker",
                "OPEN refuses new sessions; those that exist go on trying.",
                ((f"ib_gateway_circuit_breaker_state{{{_AT}}}", "{{gateway}}"),),
                kind="state-timeline",
                width=12,
                values=((0, "CLOSED", "green"), (1, "OPEN", "red"), (2, "HALF_OPEN", "yellow")),
            ),
            Panel(
                "Sessions by state",
                "RECONNECTING is an outage of its owner.",
                ((f"sum by (state) (gateway_broker_sessions{{{_AT}}})", "{{state}}"),),
            ),
            Panel(
                "Seconds of outage by cause",
                "Per second: 3 means that three sessions are away all the time.",
                (
                    (
                        _rate(
                            "gateway_broker_outage_seconds_total", by="gateway, cause", where=_AT
                        ),
                        "{{gateway}} {{cause}}",
                    ),
                ),
            ),
            Panel(
                "Conditions that are FALSE",
                "Sessions of a gateway that are told so.",
                (
                    (
                        f"sum by (gateway, type) (gateway_broker_conditions_false{{{_AT}}})",
                        "{{gateway}} {{type}}",
                    ),
                ),
            ),
            Panel(
                "Seats",
                "32 per Gateway at most.",
                (
                    (f"gateway_broker_seats_used{{{_AT}}}", "{{gateway}} used"),
                    (f"gateway_broker_seats_limit{{{_AT}}}", "{{gateway}} limit"),
                ),
            ),
            Panel(
                "Client ids",
                "Quarantined ones may still be held by the Gateway.",
                (
                    (f"gateway_broker_client_ids_held{{{_AT}}}", "{{gateway}} held"),
                    (f"gateway_broker_client_ids_quarantined{{{_AT}}}", "{{gateway}} quarantined"),
                ),
            ),
            Panel(
                "Drained",
                "By an operator: no new session, no redial.",
                ((f"gateway_broker_gateway_drained{{{_AT}}}", "{{gateway}}"),),
                kind="state-timeline",
                values=((0, "in use", "green"), (1, "drained", "yellow")),
            ),
        ),
    ),
    Row(
        "Connecting",
        (
            Panel(
                "Dials",
                "By their outcome.",
                (
                    (
                        _rate("ib_gateway_connections_total", by="status", where=_AT),
                        "{{status}}",
                    ),
                    (f"sum(ib_gateway_active_connections{{{_AT}}})", "active connections"),
                ),
            ),
            Panel(
                "Failures and retries by kind",
                "ClientIDInUseError: who else dials? AuthenticationError: a human is needed.",
                (
                    (
                        _rate("ib_gateway_connection_errors_total", by="error_type", where=_AT),
                        "{{error_type}}",
                    ),
                    (
                        _rate("ib_gateway_retry_attempts_total", by="error_type", where=_AT),
                        "retry after {{error_type}}",
                    ),
                ),
            ),
            Panel(
                "Time to connect",
                "Of dials that succeeded.",
                (
                    (_quantile(0.5, "ib_gateway_connection_duration_seconds", _AT), "median"),
                    (_quantile(0.99, "ib_gateway_connection_duration_seconds", _AT), "99 %"),
                ),
                unit="s",
            ),
            Panel(
                "Heartbeats",
                "A Gateway that slows down is about to hang.",
                (
                    (_quantile(0.5, "ib_gateway_heartbeat_latency_ms", _AT), "median"),
                    (_quantile(0.95, "ib_gateway_heartbeat_latency_ms", _AT), "95 %"),
                ),
                unit="ms",
            ),
            Panel(
                "Sessions that ended, by reason",
                "IB_CONN_...: FAILED. LEASE_EXPIRED: its program has died.",
                (
                    (
                        _increase("gateway_broker_sessions_ended_total", by="reason"),
                        "{{reason}}",
                    ),
                ),
            ),
            Panel(
                "Time in a state",
                "When it is left.",
                (
                    (
                        _quantile(
                            0.95, "gateway_broker_session_state_duration_seconds", by="state"
                        ),
                        "{{state}} 95 %",
                    ),
                ),
                unit="s",
            ),
        ),
    ),
    Row(
        "Watchers and the record",
        (
            Panel(
                "Watchers",
                "And those that were cut because they read too slowly.",
                (
                    (f"sum(gateway_broker_watchers{{{_WHERE}}})", "watchers"),
                    (
                        _increase("gateway_broker_watchers_cut_total"),
                        "cut",
                    ),
                ),
            ),
            Panel(
                "Lag",
                "From an event until watchers can see it, and of the watcher furthest behind.",
                (
                    (
                        _quantile(0.99, "gateway_broker_event_lag_seconds"),
                        "visible after, 99 % (s)",
                    ),
                    (
                        f"max(gateway_broker_watcher_lag_events{{{_WHERE}}})",
                        "slowest watcher (events)",
                    ),
                ),
            ),
            Panel(
                "Events by kind",
                "A storm of conditions is a farm that flaps.",
                (
                    (
                        _rate("gateway_broker_events_total", by="kind"),
                        "{{kind}}",
                    ),
                ),
            ),
            Panel(
                "Database operations",
                "Beyond 0.25 s events are told before they are kept.",
                (
                    (
                        _quantile(0.99, "gateway_broker_store_operation_seconds", by="operation"),
                        "{{operation}} 99 %",
                    ),
                ),
                unit="s",
            ),
            Panel(
                "Database errors",
                "By operation.",
                (
                    (
                        _rate("gateway_broker_store_errors_total", by="operation"),
                        "{{operation}}",
                    ),
                ),
            ),
            Panel(
                "The log",
                "Newest and oldest revision: what lies between can be resumed from.",
                (
                    (f"gateway_broker_revision{{{_WHERE}}}", "newest"),
                    (f"gateway_broker_oldest_revision{{{_WHERE}}}", "oldest"),
                ),
            ),
        ),
    ),
    Row(
        "Callers and the process",
        (
            Panel(
                "Calls",
                "By method.",
                (
                    (
                        _rate("gateway_broker_rpcs_total", by="method"),
                        "{{method}}",
                    ),
                ),
            ),
            Panel(
                "Refusals",
                "By ErrorInfo reason; docs/errors.md says what each means.",
                (
                    (
                        _rate("gateway_broker_refusals_total", by="reason"),
                        "{{reason}}",
                    ),
                ),
            ),
            Panel(
                "Time to answer",
                "Unary calls; OpenSession waits for the Gateway.",
                (
                    (
                        _quantile(0.99, "gateway_broker_rpc_duration_seconds", by="method"),
                        "{{method}} 99 %",
                    ),
                ),
                unit="s",
            ),
            Panel(
                "In progress",
                "Calls and queues; both have bounds.",
                (
                    (
                        f"sum by (method) (gateway_broker_rpcs_in_progress{{{_WHERE}}})",
                        "{{method}}",
                    ),
                    (f"gateway_broker_queue_depth{{{_WHERE}}}", "queue {{queue}}"),
                ),
            ),
            Panel(
                "Event loop",
                "How late it is; late heartbeats drop links that are well.",
                (
                    (_quantile(0.99, "gateway_broker_event_loop_lag_seconds"), "99 %"),
                    (
                        f"rate(process_cpu_seconds_total{{{_WHERE}}}[$__rate_interval])",
                        "CPU (cores)",
                    ),
                ),
                unit="s",
            ),
            Panel(
                "Memory",
                "256 MB are the bound under normal load.",
                ((f"process_resident_memory_bytes{{{_WHERE}}}", "resident"),),
                unit="bytes",
            ),
            Panel(
                "Version",
                "",
                ((f"gateway_broker_build_info{{{_WHERE}}}", "{{version}} on Python {{python}}"),),
                kind="stat",
            ),
        ),
    ),
)


def queries() -> Iterator[str]:
    """Every expression of the dashboard."""
    for row in ROWS:
        for panel in row.panels:
            for expression, _ in panel.queries:
                yield expression


def dashboard() -> str:
    """The dashboard as Grafana imports it."""
    document = {
        "uid": "gateway-broker",
        "title": "gateway-broker",
        "description": "Sessions with IB Gateway. Made by `make docs` from scripts/dashboard.py.",
        "tags": ["gateway-broker"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_source(), _variable("job", "up"), _gateways()]},
        "panels": list(_panels()),
    }
    return json.dumps(document, indent=1) + "\n"


def _panels() -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for row in ROWS:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": top, "w": _WIDTH, "h": 1},
        }
        top, left, height = top + 1, 0, 0
        for panel in row.panels:
            tall = 4 if panel.kind == "stat" else 8
            if left + panel.width > _WIDTH:
                top, left, height = top + height, 0, 0
            number += 1
            yield _panel(number, panel, {"x": left, "y": top, "w": panel.width, "h": tall})
            left, height = left + panel.width, max(height, tall)
        top += height


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.bad_above is not None:
        steps.append({"color": "red", "value": panel.bad_above})
    mapping = {
        str(value): {"text": word, "color": colour, "index": index}
        for index, (value, word, colour) in enumerate(panel.values)
    }
    by_threshold = panel.bad_above is not None or bool(panel.values)
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.help,
        "datasource": _SOURCE,
        "gridPos": place,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": expression,
                "legendFormat": legend or "__auto",
            }
            for index, (expression, legend) in enumerate(panel.queries)
        ],
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "color": {"mode": "thresholds" if by_threshold else "palette-classic"},
                "thresholds": {"mode": "absolute", "steps": steps},
                "mappings": [{"type": "value", "options": mapping}] if mapping else [],
            },
            "overrides": [],
        },
        "options": (
            {"colorMode": "background", "textMode": "auto"} if panel.kind == "stat" else {}
        ),
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _variable(label: str, metric: str) -> dict[str, Any]:
    return {
        "name": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": f"label_values({metric}, {label})",
        "current": {"text": "gateway-broker", "value": "gateway-broker"},
        "refresh": 1,
    }


def _gateways() -> dict[str, Any]:
    return {
        "name": "gateway",
        "type": "query",
        "datasource": _SOURCE,
        "query": f"label_values(gateway_broker_gateway_reachable{{{_WHERE}}}, gateway)",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
