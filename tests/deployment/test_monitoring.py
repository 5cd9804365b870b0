"""Alerts fire in their stories; they and the dashboard ask for metrics that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.telemetry.metric_table import METRICS
from scripts import dashboard
from tests.deployment.tools import DEPLOY, ROOT, ask
from tests.documentation.pages import anchor

PROMETHEUS = DEPLOY / "prometheus"
ALERTS: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
NAMES = [alert["alert"] for alert in ALERTS]
RUNBOOK = ROOT / "docs" / "runbooks" / "connection-troubleshooting.md"
OTHERS = {
    "up",
    "process_start_time_seconds",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
}
"""Prometheus' own, and those of its client library."""
SERIES = OTHERS | {
    name
    for metric in METRICS
    for name in (
        [f"{metric.name}_{suffix}" for suffix in ("bucket", "count", "sum")]
        if metric.buckets
        else [metric.name]
    )
}
NAME = re.compile(r"\b(?:up|(?:ib_gateway|gateway_broker|process)_\w+)(?=[\s{)\[,]|$)")


def metrics(expression: str) -> set[str]:
    """The metrics that an expression asks for: names in strings and labels are none."""
    return set(NAME.findall(re.sub(r'"[^"]*"', '""', expression)))


def sections() -> dict[str, str]:
    """The text below each heading of the runbook, by its anchor."""
    found: dict[str, str] = {}
    for part in re.split(r"^#{2,4} ", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        found[anchor(heading)] = text
    return found


def test_promtool_finds_nothing_in_rules_and_configuration() -> None:
    ask("promtool", "check", "config", PROMETHEUS / "prometheus.yml")


def test_each_alert_fires_in_its_story_and_no_other() -> None:
    ask("promtool", "test", "rules", PROMETHEUS / "alerts.test.yaml")


def test_each_alert_has_a_story() -> None:
    played = re.findall(r'alertname="(\w+)"', (PROMETHEUS / "alerts.test.yaml").read_text())
    assert set(played) == set(NAMES)
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_an_alert_says_what_why_and_what_to_do_and_the_runbook_knows_it(
    alert: dict[str, Any],
) -> None:
    told = alert["annotations"]
    assert told.keys() == {"summary", "description", "action", "runbook"}
    assert alert["labels"]["severity"] in {"critical", "warning"}
    path, _, section = told["runbook"].partition("#")
    assert ROOT / path == RUNBOOK
    assert alert["alert"] in sections()[section], f"{section} does not mention it"


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_an_alert_asks_for_metrics_that_exist(alert: dict[str, Any]) -> None:
    asked = metrics(alert["expr"])
    assert asked
    assert asked <= SERIES


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    for expression in dashboard.queries():
        asked = metrics(expression)
        assert asked, expression
        assert asked <= SERIES, expression


def test_the_dashboard_shows_every_metric_of_ours() -> None:
    shown = set().union(*map(metrics, dashboard.queries()))
    named = {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown}
    ours = {
        re.sub(r"_(bucket|count|sum)$", "", name)
        for name in SERIES
        if name.startswith(("ib_gateway", "gateway_broker"))
    }
    assert named >= ours, ours - named


def test_promtool_understands_the_dashboards_queries(tmp_path: Path) -> None:
    rules = {
        "groups": [
            {
                "name": "dashboard",
                "rules": [
                    {"record": f"query:{number}", "expr": bare(expression)}
                    for number, expression in enumerate(dashboard.queries())
                ],
            }
        ]
    }
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rules))
    ask("promtool", "check", "rules", path)


def bare(expression: str) -> str:
    """A query without Grafana's variables."""
    return (
        expression.replace("$__rate_interval", "1m").replace("$job", "j").replace("$gateway", "g")
    )


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for place in places():
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


def places() -> Iterator[dict[str, int]]:
    for panel in json.loads(dashboard.dashboard())["panels"]:
        yield panel["gridPos"]
