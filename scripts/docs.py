"""Make the pages that are made from tables in the code, or check that they are current."""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import typer
from alerts import alerts
from architecture import architecture
from dashboard import dashboard
from errors import errors
from pydantic import BaseModel

from broker import config
from broker.cli import exits
from broker.cli.doctor import DEADLINE
from broker.cli.root import app
from broker.doctor.table import checks
from broker.provenance import Location
from broker.runtime.gateways import PROBE_CLIENT_ID
from broker.session.machine import TRANSITIONS
from broker.session.model import SessionState
from broker.telemetry.metric_table import METRICS, Metric

ROOT: Final = Path(__file__).resolve().parent.parent
NOTICE: Final = "<!-- made by `make docs`; change the code that it is made from -->"


def state_machine() -> str:
    """The diagram of the states, and the table of the transitions."""
    names = {state: state.value for state in SessionState}
    arrows = "\n".join(
        f"    {'[*]' if number == 1 else names[source]} --> {names[target]}: {number}"
        for (source, target), number in TRANSITIONS.items()
    )
    ends = "\n".join(f"    {names[state]} --> [*]" for state in SessionState if state.is_final)
    rows = "\n".join(
        f"| {number} | {source} | {target} |" for (source, target), number in TRANSITIONS.items()
    )
    return f"""# The state machine
{NOTICE}

Five states, nine transitions. DISCONNECTED (after the start) and FAILED are final. While an
end is asked for and the link has not ended yet, a session keeps its state, and
`close_reason` says why it is closing.

```mermaid
stateDiagram-v2
{arrows}
{ends}
```

| # | from | to |
|---|---|---|
{rows}

1. The open was admitted and recorded.
2. The handshake was completed: server version, nextValidId, accounts of the declared kind.
3. The failure cannot be retried, or the attempts are used up; `last_failure` has the code.
4. An end was asked for, and the link, if there was one, has ended; or the broker died, and only the
   caller that waited could have known of the session.
5. The link was lost: the peer closed it, a probe went unanswered, or the broker itself erred, was
   stopped or was killed.
6. An end was asked for, and the link has ended.
7. As 2; `generation` is one more.
8. As 3, but attempts are without end unless the open set `reconnect_max_attempts`, and without
   that limit a paper disclaimer (10141) is waited for. With a limit of 0, 8 follows 5 at once.
9. An end was asked for, and the link, if there was one, has ended.

What happens between 5 and 7: [reconnecting.md](reconnecting.md).
"""


def settings() -> str:
    """Every setting: its names, type, range, default and what it is for."""
    return f"""# Settings
{NOTICE}

Values come, strongest first, from the command line, from the environment, and from the TOML
file that `GATEWAY_BROKER_CONFIG` names. An empty variable says nothing. What is refused is named
with its field and where it was said (the variable, or the line of the file), all of it at once,
and the broker does not start. Unknown names in the file are refused, too, with the one that was
probably meant; a variable that begins as ours do is refused if it is nearly a setting, and warned
of if it is like none. The field is the key in the file.

```sh
gateway-broker config check                 # what is wrong, and what is probably not meant
gateway-broker config show                  # every value, and where it was said
gateway-broker config show --output toml    # as a file; passwords are masked
```

Whether database and Gateways answer, [doctor](doctor.md) says.

**Secrets.** A value may be in a file, as container secrets are, and the variable name the file:
{", ".join(f"`{name}_FILE`" for name in config.FROM_FILES)}. Passwords show nowhere: not in
`config show`, not in a refusal, not in the log.

## The broker

{_table(config.Settings, ())}

## A gateway

A table `[gateways.NAME]` of the file; `[gateways.default]` is what callers get who name
none. In the environment, NAME in capitals, such as `GATEWAY_BROKER_GATEWAYS__PAPER__PORT`.

{_table(config.GatewayConfig, ("gateways", "NAME"))}
"""


def _table(model: type[BaseModel], table: Location) -> str:
    texts, schemas = _field_docstrings(model), _schemas(model)
    lines = ["| field | environment | type | default | what it is for |", "|---|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if name == "gateways":
            continue
        text = texts[name]
        lines.append(
            f"| `{name}` | {_variables((*table, name))} | {_type(schemas[name], text)} "
            f"| {_default(field)} | {text} |"
        )
    return "\n".join(lines)


def _variables(location: Location) -> str:
    default = tuple(config.DEFAULT_GATEWAY if part == "NAME" else part for part in location)
    plain = [name for name, at in config.PLAIN_NAMES.items() if at == default]
    names = [*plain, config.PREFIX + "__".join(str(part).upper() for part in location)]
    return ", ".join(f"`{name}`" for name in (names[:1] if len(location) == 1 else names))


def _type(schema: Mapping[str, Any], text: str) -> str:
    """Type or unit, and range, of a value as its JSON schema has them."""
    if "enum" in schema:
        return " ".join(f"`{value}`" for value in schema["enum"])
    unit = next((unit for unit in ("Seconds", "Days") if text.startswith(unit)), "")
    name = unit.lower() or _TYPES.get(schema.get("type", ""), "text")
    if schema.get("format") == "path":
        name = "path"
    low, high = schema.get("minimum"), schema.get("maximum")
    above = schema.get("exclusiveMinimum")
    if low is not None and high is not None:
        return f"{name}, {low:,} to {high:,}"
    bounds = (
        f"{low:,} or more" if low is not None else "",
        f"more than {above:,}" if above is not None else "",
        f"at most {high:,}" if high is not None else "",
    )
    return ", ".join(part for part in (name, *bounds) if part)


_TYPES: Final = {
    "boolean": "true or false",
    "integer": "whole number",
    "number": "number",
    "array": "list; JSON in the environment",
}


def _schemas(model: type[BaseModel]) -> Mapping[str, Mapping[str, Any]]:
    """The JSON schema of each field, without what stands for its absence."""
    whole = model.model_json_schema()

    def plain(schema: Mapping[str, Any]) -> Mapping[str, Any]:
        if "$ref" in schema:
            found: Mapping[str, Any] = whole["$defs"][schema["$ref"].rpartition("/")[2]]
            return found
        choices = [choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"]
        return plain(choices[0]) if choices else schema

    return {name: plain(schema) for name, schema in whole["properties"].items()}


def _default(field: Any) -> str:
    if field.default_factory is not None:
        return "the platform's directory for a user's data; `/var/lib/gateway-broker` for root"
    value = field.default
    if isinstance(value, float):
        value = f"{value:g}"
    return "" if value is None else f"`{str(value).lower() if value in (True, False) else value}`"


def _field_docstrings(model: type[BaseModel]) -> Mapping[str, str]:
    """The string below each field: what pydantic does not keep."""
    [definition] = ast.parse(inspect.getsource(model)).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            assert isinstance(text.value, ast.Constant)
            found[field.target.id] = inspect.cleandoc(str(text.value.value)).replace("\n", " ")
    return found


def metrics() -> str:
    """Every metric, what it means, and when to worry."""
    plan = [metric for metric in METRICS if metric.name.startswith("ib_gateway_")]
    own = [metric for metric in METRICS if metric not in plan]
    return f"""# Metrics
{NOTICE}

The broker counts what happens and exposes it for Prometheus at `/metrics`.
`GATEWAY_BROKER_METRICS=false` switches that off. No label is ever a session, an owner or an
account; `gateway` is a name of the configuration. A counter is there from the start, at 0, for
every label value that is known then, but those of rpcs from the first rpc of their method; a
histogram from its first observation. All of it is of this broker since its start: a restart begins
at 0.

The labels `error_type` and the codes name the same six failures:
ConnectionError is IB_CONN_001, ClientIDInUseError 002, TimeoutError 003, NetworkUnreachableError
004, AuthenticationError 005, IncompatibleVersionError 006 ([connect-faults.md](connect-faults.md)).

## The Gateway

{_metrics(plan)}

## The broker

{_metrics(own)}

Beside these stand `process_*` of Prometheus' own client: CPU seconds, resident memory, open file
descriptors and their limit, and the start time of the process (on Linux only).

Buckets, in the unit of the name:

{_buckets()}
"""


def _metrics(some: Sequence[Metric]) -> str:
    lines = ["| name | kind | meaning | look, if |", "|---|---|---|---|"]
    for metric in some:
        labels = f"{{{','.join(metric.labels)}}}" if metric.labels else ""
        lines.append(
            f"| `{metric.name}{labels}` | {metric.kind} | {metric.meaning} | {metric.worry} |"
        )
    return "\n".join(lines)


def _buckets() -> str:
    return "\n".join(
        f"- `{metric.name}`: {', '.join(f'{bound:g}' for bound in metric.buckets)}"
        for metric in METRICS
        if metric.buckets
    )


def doctor() -> str:
    """The checks, in their order."""
    example = config.Settings(gateways={"name": config.GatewayConfig()})
    rows = [("configuration", "Whether it is accepted, and what is probably not meant.")]
    for check in checks(example):
        run = check.run.func if isinstance(check.run, functools.partial) else check.run
        rows.append((check.name.replace("gateway name", "gateway NAME"), inspect.getdoc(run) or ""))
    table = "\n".join(
        f"| {name} | {text.replace(chr(10), ' ')} |" for name, text in dict(rows).items()
    )
    return f"""# Doctor
{NOTICE}

```sh
gateway-broker doctor
GATEWAY_BROKER_CONFIG=/etc/gateway-broker.toml gateway-broker doctor --output json
```

It says what is wrong with a configuration and everything that it names, and what to do about it.
Run it with the environment and as the user of the broker: before the first start, when the broker
does not start, and when you do not know which of its parts to suspect.

Each check ends as **ok**, **warning** (it works, and may not for long, or not as is meant),
**wrong** (it does not work) or **skipped** (what it needs is wrong, or it was not to be touched);
with what was seen, what to do, and the seconds that it took. Exit codes: 0 nothing is wrong,
1 something is. All of it takes {DEADLINE:g} s at most (`--deadline`), and mostly less than one;
checks that do not depend on each other run at the same time.

| check | what it looks at |
|---|---|
{table}

## What it leaves alone

It changes nothing: it takes no lock, migrates nothing, starts no database.

- **A broker runs already** on the gRPC address of this configuration: it is asked what it knows of
  its Gateways. Nothing is dialled.
- **Another broker holds the database**: the row `database lock` names it, and the Gateways, which
  are probably its own, are not dialled.
- **Somebody drains a gateway**: it is not dialled, and the row says who, why and since when.
- **A maintenance window**: the Gateway is dialled; that it fails is a warning.
- Otherwise each Gateway is dialled once, as the broker does it: a whole handshake with client id
  {PROBE_CLIENT_ID}, one request for the time, and FIN. A bare TCP connect, as port scanners and
  simple probes make it, can wedge a Gateway.

## What it cannot know

- **One sight on the wire may have several causes.** An address that is not among the Gateway's
  Trusted IPs, a tunnel without a Gateway behind it, and a Gateway that starts all look the same:
  accepted, then closed. The advice names all of them, the likeliest first;
  [connect-faults.md](connect-faults.md) has each.
- **A silent port** may be a Gateway that hangs, one whose window shows a dialog, or another
  program. Look what listens there before anybody restarts anything.
- **Whether the Gateway's own Read-Only API is ticked** shows only when an order is sent
  (the condition WRITABLE).
- **Client id {PROBE_CLIENT_ID} in use** means that the Gateway is there and that somebody else
  looks at it: another broker, or another doctor. That is a warning.
- The broker's own PostgreSQL runs with the broker only; without one, the record is not looked into.
- Certificates, keys and the access file are read as the user who runs it: another user than the
  broker's may be told something else than `serve`. `config check` looks at them, too.
"""


def cli() -> str:
    """Every command with its options and an example, and the exit codes."""
    program: Any = typer.main.get_command(app)
    codes = "\n".join(f"| {code} | {meaning} | {why} |" for code, meaning, why in exits.rows())
    return f"""# The command line
{NOTICE}

`gateway-broker --help` and each command's own `--help` say the same. What to look at when a Gateway
goes away is in the [README](../README.md#when-the-gateway-goes-away).

- **Where the broker is**: `--broker`, else `GATEWAY_BROKER_ADDRESS`, else where one with this
  configuration listens.
- **For programs**: `--output json` writes the messages of [the
  contract](../proto/ibgateway/broker/v1) as protobuf's JSON mapping has them, with the names of the
  contract; streams (`sessions watch`, `sessions history`) one message a line. Errors are then an
  object on a line of standard error: `{{"error": {{"message", "reason", "hint", "retry_after",
  "violations", "metadata", "correlation_id", "exit_code"}}}}`, without what is not known. Only a
  command line that is itself wrong is told in text.
- **A watch** in JSON has two lines that no broker sends: `{{"resume_token", "interrupted"}}`, with
  the error and `retry_in`, when the broker is gone, and `{{"resume_token", "resumed"}}` when it is
  back.
- **Colour**: `--color always` or `never` before the command, and `NO_COLOR`. What is piped is
  neither coloured nor wrapped; on a narrow terminal a table leaves columns out, and says so.
- **Completion**: `gateway-broker --install-completion`. Session ids, gateways, owners and labels
  are asked of the broker, for half a second at most.
- **Waiting**: on a terminal, whatever takes longer than a second says what it waits for, and since
  when.

## Exit codes

| code | meaning | reasons of the broker |
|---|---|---|
{codes}
{"".join(_commands(program, None, program.name))}"""


def _commands(command: Any, parent: Any, name: str) -> Iterator[str]:
    """The sections of a command and of those below it."""
    ctx = command.context_class(command, info_name=name, parent=parent)
    if parent is None:
        yield f"\n## {name}\n\n{_options(command, ctx)}"
    elif not hasattr(command, "commands"):
        example = command.epilog.removeprefix("Example: ")
        usage = " ".join(command.collect_usage_pieces(ctx))
        yield (
            f"\n## {ctx.command_path.partition(' ')[2]}\n\n{_text(command.help)}\n\n"
            f"```sh\n{ctx.command_path} {usage}\n{example}\n```\n\n{_options(command, ctx)}"
        )
    for below, sub in getattr(command, "commands", {}).items():
        yield from _commands(sub, ctx, below)


def _text(text: str) -> str:
    """Help as Markdown: what is aligned stays so."""
    return "\n\n".join(
        f"```\n{part}\n```" if "   " in part else part for part in text.split("\n\n")
    )


def _options(command: Any, ctx: Any) -> str:
    rows = [parameter.get_help_record(ctx) for parameter in command.get_params(ctx)]
    lines = [
        f"| `{names}` | {text} |"
        for names, text in ((_cell(names), _cell(text)) for names, text in filter(None, rows))
        if not names.startswith("--help")
    ]
    return "\n".join(["| argument or option | |", "|---|---|", *lines, ""])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "deploy/grafana/gateway-broker.json": dashboard,
    "docs/alerts.md": lambda: alerts(NOTICE),
    "docs/architecture.md": lambda: architecture(NOTICE),
    "docs/errors.md": lambda: errors(NOTICE),
    "docs/doctor.md": doctor,
    "docs/metrics.md": metrics,
    "docs/cli.md": cli,
    "docs/settings.md": settings,
    "docs/state-machine.md": state_machine,
}


def stale() -> list[str]:
    """The pages that differ from what the code gives."""
    return [
        name
        for name, make in PAGES.items()
        if not (ROOT / name).exists() or (ROOT / name).read_text() != make()
    ]


def main() -> int:
    """Run; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a page is stale")
    if parser.parse_args().check:
        names = stale()
        if names:
            sys.stderr.write(f"stale pages (run `make docs`): {', '.join(names)}\n")
        return 1 if names else 0
    for name, make in PAGES.items():
        (ROOT / name).write_text(make())
    return 0


if __name__ == "__main__":
    sys.exit(main())
