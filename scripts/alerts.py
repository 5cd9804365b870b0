"""The page of the alerts, from the rules themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

_RULES: Final = Path(__file__).resolve().parent.parent / "deploy" / "prometheus" / "alerts.yaml"


def alerts(notice: str) -> str:
    """What each alert says, why it matters, and what to do."""
    groups = yaml.safe_load(_RULES.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    rows = "\n".join(
        f"| [{rule['alert']}](#{rule['alert'].lower()}) | {rule['labels']['severity']} "
        f"| {_plain(rule['annotations']['summary'])} |"
        for rule in rules
    )
    sections = "\n\n".join(map(_section, rules))
    return f"""# Alerts
{notice}

[deploy/prometheus/alerts.yaml](../deploy/prometheus/alerts.yaml), for any Prometheus that scrapes
the broker as job `gateway-broker`. `critical` is for now, whatever the hour; `warning` is for the
next working hour. Each is played by `alerts.test.yaml`, beside stories that must wake nobody: a
nightly restart of four minutes, a drain, a farm that flaps.

Outside your trading hours, let Alertmanager mute what concerns Gateways (`mute_time_intervals`);
leave BrokerDown and DatabaseAway alone.

| alert | severity | what is so |
|---|---|---|
{rows}

{sections}
"""


def _section(rule: dict[str, Any]) -> str:
    told = {name: _plain(text) for name, text in rule["annotations"].items()}
    path = told["runbook"].removeprefix("docs/")
    after = f", after {rule['for']}" if "for" in rule else ""
    return f"""## {rule["alert"]}

{told["description"]}

**Do.** {told["action"]} [Runbook]({path}).

```promql
{rule["expr"]}
```

{rule["labels"]["severity"].capitalize()}{after}."""


def _plain(text: str) -> str:
    """A text without the templates of Prometheus, which fill in names and numbers."""
    out, rest = "", text
    while "{{" in rest:
        before, _, rest = rest.partition("{{")
        template, _, rest = rest.partition("}}")
        words = template.strip()
        if words.startswith(("with", "else", "end")) or words == ".":
            continue
        out += before + ("NAME" if words == "$labels.gateway" else _word(words))
    return out + rest


def _word(template: str) -> str:
    return template.removeprefix("$labels.").upper() if template.startswith("$labels") else "N"
