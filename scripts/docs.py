"""Make the pages of docs/ that are made from tables in the code, or check that they are current."""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import typer
from pydantic import BaseModel

from broker import config
from broker.cli import exits
from broker.cli.root import app
from broker.session.machine import TRANSITIONS
from broker.session.model import SessionState

ROOT: Final = Path(__file__).resolve().parent.parent
PLAIN_NAMES: Final = {
    "database_url": "DATABASE_URL",
    "log_level": "LOG_LEVEL",
    "gateways.host": "IB_GATEWAY_HOST",
    "gateways.port": "IB_GATEWAY_PORT",
    "gateways.kind": "IB_GATEWAY_KIND",
}
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
    """Every setting, its name in the environment, its default and what it is for."""
    return f"""# Settings
{NOTICE}

Values come, strongest first, from the command line, from the environment, and from the TOML
file that `GATEWAY_BROKER_CONFIG` names. What is refused is named with its field, and the
broker does not start.

## The broker

{_table(config.Settings, "", skip=("gateways",))}

## A gateway

A table `[gateways.NAME]` of the file; `[gateways.default]` is what callers get who name
none. In the environment, `GATEWAY_BROKER_GATEWAYS__NAME__FIELD`.

{_table(config.GatewayConfig, "gateways.")}
"""


def _table(model: type[BaseModel], prefix: str, skip: tuple[str, ...] = ()) -> str:
    texts = _field_docstrings(model)
    lines = ["| field | environment | default | what it is for |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if name in skip:
            continue
        environment = PLAIN_NAMES.get(prefix + name) or (
            f"GATEWAY_BROKER_{name.upper()}" if not prefix else ""
        )
        lines.append(
            f"| `{name}` | {f'`{environment}`' if environment else ''} "
            f"| {_default(field)} | {texts[name]} |"
        )
    return "\n".join(lines)


def _default(field: Any) -> str:
    if field.default_factory is not None:
        return "the platform's directory for a user's data; `/var/lib/gateway-broker` for root"
    value = field.default
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
