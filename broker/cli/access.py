"""`gateway-broker access`: who may come in, and what a trial of it needs."""

from __future__ import annotations

import re
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from broker.access import roster, tokens
from broker.access.identity import Identity, Role
from broker.access.roster import Entry
from broker.cli import output
from broker.cli.options import FormatOption
from broker.cli.output import Column, Format
from broker.config import access_file
from broker.errors import UnusableFileError

app = typer.Typer(
    help="Say who may come in: certificates, tokens, and what each may do.", no_args_is_help=True
)
token_app = typer.Typer(
    help="The lines of the access file. A running broker follows it within 3 s.",
    no_args_is_help=True,
)
app.add_typer(token_app, name="token")

_COLUMNS: Final = (Column("NAME"), Column("ROLE"), Column("KEY"), Column("UNTIL"))
_SPAN: Final = re.compile(r"([1-9][0-9]{0,4})([dh])")
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")

Directory = Annotated[
    Path, typer.Argument(metavar="DIR", help="Where the files are.", show_default=False)
]
Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="Who: the owner of the sessions it opens.", show_default=False
    ),
]
RoleOption = Annotated[
    str, typer.Option("--role", metavar="viewer|trader|operator", help="What it may do.")
]
DaysOption = Annotated[
    int, typer.Option(min=1, max=3650, help="For how many days the certificates are good.")
]
FileOption = Annotated[
    Path | None,
    typer.Option(
        "--file",
        help="The access file. Default: the one of this configuration "
        "(GATEWAY_BROKER_ACCESS_FILE).",
        show_default=False,
    ),
]


@app.command(epilog="Example: gateway-broker access init ./trial --host broker.example.net")
def init(
    directory: Directory,
    *,
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            help="A name or address under which the broker is reached; repeatable. This machine's "
            "name and loopback are in it anyhow.",
            show_default=False,
        ),
    ] = None,
    client: Annotated[
        list[str] | None,
        typer.Option(
            "--client",
            metavar="NAME=ROLE",
            help="Make a client certificate, too; repeatable.",
            show_default=False,
        ),
    ] = None,
    days: DaysOption = 365,
) -> None:
    """Make all that a broker beyond loopback needs, for a trial, in an empty directory.

    A certificate authority, the server's certificate, an access file with one token of each role,
    and client certificates on request. Nothing is overwritten. Whoever has DIR may do everything:
    it is closed to others.
    """
    from broker.access.trial import Trial

    clients: dict[str, Role] = {}
    for item in client or []:
        name, equals, text = item.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{item!r} is not NAME=ROLE", param_hint="--client")
        clients[name] = _role(text, "--client")
    hosts = list(dict.fromkeys([*(host or []), socket.gethostname(), *_LOOPBACK]))
    trial = Trial(directory)
    trial.make(hosts, clients, now=_now(), days=days)
    where = f"{hosts[0]}:50051"
    lines = [
        f"made in {directory}; the broker:",
        "",
        f"  export GATEWAY_BROKER_TLS_CERTIFICATE={trial.certificate.absolute()}",
        f"  export GATEWAY_BROKER_TLS_KEY={trial.key.absolute()}",
        f"  export GATEWAY_BROKER_ACCESS_FILE={trial.access_file.absolute()}",
    ]
    if clients:
        lines += [
            "  # with this, callers must show a certificate; a token may come with it",
            f"  export GATEWAY_BROKER_TLS_CLIENT_CA={trial.ca.absolute()}",
        ]
    lines += ["  gateway-broker serve --grpc-listen 0.0.0.0:50051", "", "and its callers:", ""]
    if clients:
        certificate, key = trial.client(next(iter(clients)))
        lines += [
            f"  gateway-broker gateways list --broker {where} \\",
            f"    --tls-ca {trial.ca} --cert {certificate} --key {key}",
            f"  grpcurl -cacert {trial.ca} -cert {certificate} -key {key} {where} list",
        ]
    else:
        token = trial.token(Role.TRADER)
        lines += [
            f"  gateway-broker gateways list --broker {where} \\",
            f"    --tls-ca {trial.ca} --token-file {token}",
            f'  grpcurl -cacert {trial.ca} -H "authorization: Bearer $(cat {token})" {where} list',
            "",
            "  import grpc; from ibgateway.client import connect",
            f"  ca = open({str(trial.ca)!r}, 'rb').read()",
            f"  token = open({str(token)!r}).read().strip()",
            f"  connect({where!r}, credentials=grpc.ssl_channel_credentials(ca), token=token)",
        ]
    for line in lines:
        output.line(line)


@app.command(epilog="Example: gateway-broker access client ./trial risk --role viewer")
def client(directory: Directory, name: Name, *, role: RoleOption, days: DaysOption = 365) -> None:
    """Make a client certificate with the authority of `access init`, and let it in."""
    from broker.access.trial import Trial

    trial = Trial(directory)
    trial.add_client(name, _role(role, "--role"), now=_now(), days=days)
    for path in trial.client(name):
        output.line(str(path))


@token_app.command(epilog="Example: gateway-broker access token add momentum --role trader")
def add(
    name: Name,
    *,
    role: RoleOption,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="30d|12h|TIME",
            help="How long it is good, or until when, such as 2027-01-31T00:00:00Z. Default: "
            "until it is revoked.",
            show_default=False,
        ),
    ] = None,
    file: FileOption = None,
) -> None:
    """Make a token, and write it to standard output, once: only its SHA-256 is kept.

    An access file that is not there is made, for nobody but its owner to read. A name may have
    several tokens. To change one: add the new one, give it to the caller, revoke the old one by
    its key.
    """
    if not roster.is_name(name):
        raise typer.BadParameter(
            f"{name!r} is not a name: printable ASCII without blanks, 128 at most",
            param_hint="NAME",
        )
    token = tokens.new_token()
    entry = Entry(
        Identity(name, _role(role, "--role")),
        None if expires is None else _until(expires),
        tokens.digest(token),
    )
    roster.add(_file(file), entry)
    output.line(token)
    typer.echo(f"added {name} as {role}, key {entry.key_id}; keep the token now", err=True)


@token_app.command("list", epilog="Example: gateway-broker access token list --output json")
def list_(*, file: FileOption = None, form: FormatOption = Format.TABLE) -> None:
    """List who may come in, tokens and certificates; never a token itself."""
    entries = roster.read(_file(file)).entries
    rows = [
        (
            entry.identity.name,
            entry.identity.role.name.lower(),
            entry.key_id,
            _said(entry, _now()),
        )
        for entry in entries
    ]
    if form is Format.JSON:
        names = [column.name.lower() for column in _COLUMNS]
        output.document([dict(zip(names, row, strict=True)) for row in rows])
    else:
        output.table(_COLUMNS, rows)


@token_app.command(epilog="Example: gateway-broker access token revoke momentum")
def revoke(
    name: Name,
    *,
    key: Annotated[
        str | None,
        typer.Option(
            help="Only the one with this key, as `list` shows it. Default: all of them.",
            show_default=False,
        ),
    ] = None,
    file: FileOption = None,
) -> None:
    """Take a caller's tokens and certificates out of the access file.

    Its streams end within 3 s, and it is refused from then on. Its sessions live on until their
    leases run out, or an operator closes them.
    """
    path = _file(file)
    out = roster.revoke(path, name, key)
    if not out:
        raise UnusableFileError(
            f"{path}: has no line of {name!r}{'' if key is None else f' with key {key}'}; "
            "`gateway-broker access token list` shows all"
        )
    for entry in out:
        output.line(f"revoked {name}, {entry.identity.role.name.lower()}, key {entry.key_id}")


def _said(entry: Entry, now: datetime) -> str:
    return entry.until_text if entry.is_valid(now) else f"{entry.until_text} (expired)"


def _file(given: Path | None) -> Path:
    path = given or access_file()
    if path is None:
        raise typer.BadParameter("is needed: no access file is configured", param_hint="--file")
    return path


def _role(text: str, option: str) -> Role:
    try:
        return Role[text.upper()]
    except KeyError:
        raise typer.BadParameter(
            f"{text!r} is not viewer, trader or operator", param_hint=option
        ) from None


def _until(text: str) -> datetime:
    span = _SPAN.fullmatch(text)
    if span is not None:
        hours = int(span[1]) * (24 if span[2] == "d" else 1)
        return (_now() + timedelta(hours=hours)).replace(microsecond=0)
    try:
        until = roster.time(text)
    except ValueError:
        until = _now()
    if until <= _now():
        raise typer.BadParameter(
            f"{text!r} is neither a time to come with its zone, such as 2027-01-31T00:00:00Z, nor "
            "a time from now such as 30d",
            param_hint="--expires",
        )
    return until


def _now() -> datetime:
    return datetime.now(UTC)
