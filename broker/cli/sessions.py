"""`gateway-broker sessions`: open, close, renew, find, verify, watch and acknowledge sessions."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated, Final

import typer
from ibgateway.broker.v1 import error_pb2, session_pb2
from ibgateway.client.model import SessionState as StateName
from rich.text import Text

from broker.cli import complete, output
from broker.cli.client import OPEN_TIMEOUT, Broker, Filter, calling
from broker.cli.exits import ExitCode
from broker.cli.options import ActorOption, BrokerOption, FormatOption, SessionId
from broker.cli.output import Column, Format, moment
from broker.cli.story import Story, condition, state, troubled
from broker.session.model import SessionState

app = typer.Typer(
    help="Open, close, renew, find, verify, watch and acknowledge sessions.",
    no_args_is_help=True,
    add_completion=False,
)

TICK: Final = 0.5
"""Seconds after which a live table is drawn again, though nothing has happened."""
_COLUMNS: Final = (
    Column("SESSION"),
    Column("STATE"),
    Column("CLIENT"),
    Column("WHY", folds=True),
    Column("GATEWAY", optional=True),
    Column("OWNER", optional=True),
    Column("SINCE", optional=True),
)

SessionIds = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SESSION_ID",
        autocompletion=complete.sessions,
        help="Only these.",
        show_default=False,
    ),
]
GatewayOption = Annotated[
    str,
    typer.Option(
        autocompletion=complete.gateways, help="Only those of this gateway.", show_default=False
    ),
]
OwnerOption = Annotated[
    str,
    typer.Option(
        autocompletion=complete.owners, help="Only those of this owner.", show_default=False
    ),
]
LabelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="KEY=VALUE",
        autocompletion=complete.labels,
        help="Only those with this label; repeatable.",
    ),
]
LeaseOption = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="End the session unless it is renewed within this time. Default: none.",
        show_default=False,
    ),
]
StateOption = Annotated[
    list[SessionState] | None,
    typer.Option("--state", help="Only those in this state; repeatable.", case_sensitive=False),
]


@app.command(
    "open",
    epilog="Example: gateway-broker sessions open --client-id 7 --label strategy=momentum",
)
def open_(
    *,
    gateway: Annotated[
        str, typer.Option(autocompletion=complete.gateways, help="The gateway to use.")
    ] = "default",
    client_id: Annotated[
        int | None,
        typer.Option(
            help="The TWS client id, 1 to 9999. Without it the broker takes one from its pool.",
            show_default=False,
        ),
    ] = None,
    increment: Annotated[
        bool,
        typer.Option(
            "--increment",
            help="If the client id is in use, take the next one. Orders belong to a client id: "
            "without this a session never gets another one than it asked for.",
        ),
    ] = False,
    readonly: Annotated[bool, typer.Option("--readonly", help="Without order entry.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="How long one attempt may take. Default: the gateway's own.",
            show_default=False,
        ),
    ] = None,
    max_attempts: Annotated[
        int | None,
        typer.Option(
            help="How often to dial before giving up. Default: the gateway's own.",
            show_default=False,
        ),
    ] = None,
    reconnect_max_attempts: Annotated[
        int | None,
        typer.Option(
            help="How often to dial for a link that was lost before the session has FAILED; 0 "
            "fails at once. Default: without end.",
            show_default=False,
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="KEY=VALUE",
            autocompletion=complete.labels,
            help="A label of the session; repeatable.",
        ),
    ] = None,
    lease: LeaseOption = None,
    request_id: Annotated[
        str,
        typer.Option(
            metavar="UUID",
            help="Repeat with the same one to get the same session, whatever became of the first "
            "answer.",
            show_default=False,
        ),
    ] = "",
    owner: ActorOption = None,
    return_immediately: Annotated[
        bool, typer.Option("--return-immediately", help="Do not wait until it is CONNECTED.")
    ] = False,
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Only say whether it would be admitted.")
    ] = False,
    deadline: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=86_400,
            metavar="SECONDS",
            help="How long to wait; a session that is not CONNECTED by then is given up.",
        ),
    ] = OPEN_TIMEOUT,
    broker: BrokerOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Open a session and wait until it is CONNECTED.

    It lives on when this command has ended, until it is closed or its lease runs out. Ctrl-C while
    waiting gives it up.
    """
    with calling(broker, owner=owner) as client:
        answer = client.open(
            gateway_id=gateway,
            client_id=client_id,
            exact=client_id is not None and not increment,
            readonly=readonly,
            timeout=timeout,
            max_attempts=max_attempts,
            reconnect_max_attempts=reconnect_max_attempts,
            labels=_labels(label),
            lease=lease,
            request_id=request_id,
            return_immediately=return_immediately,
            validate_only=validate_only,
            deadline=deadline,
        )
    if validate_only:
        _validated(form)
        return
    if not (answer.created or form is Format.JSON):
        output.remark("This request_id has opened it before; this is the same session.")
    _show(answer.session, form)


@app.command(epilog="Example: gateway-broker sessions close 03221cdb-2c92-4373-a073-be6333b5d812")
def close(
    session_id: SessionId,
    *,
    reason: Annotated[
        str, typer.Option(help="Why, for the broker's log.", show_default=False)
    ] = "",
    broker: BrokerOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Close a session and wait until its link has ended. Closing twice is no error."""
    with calling(broker) as client:
        session = client.close(session_id, reason)
    _show(session, form)


@app.command(
    epilog="Example: gateway-broker sessions renew 03221cdb-2c92-4373-a073-be6333b5d812 --lease 60"
)
def renew(
    session_id: SessionId,
    *,
    lease: LeaseOption = None,
    owner: ActorOption = None,
    broker: BrokerOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Let a session's lease begin anew, as long as before or as said here.

    A session whose lease runs out ends; one without a lease lives until it is closed.
    """
    with calling(broker, owner=owner) as client:
        session = client.renew(session_id, lease)
    _show(session, form)


@app.command(
    epilog="Example: gateway-broker sessions get 03221cdb-2c92-4373-a073-be6333b5d812 -o json"
)
def get(
    session_id: SessionId, *, broker: BrokerOption = None, form: FormatOption = Format.TABLE
) -> None:
    """Show one session, also one that has ended."""
    with calling(broker) as client:
        session = client.get(session_id)
    _show(session, form)


@app.command(
    "list", epilog="Example: gateway-broker sessions list --state reconnecting --owner momentum"
)
def list_(
    session_ids: SessionIds = None,
    *,
    gateway: GatewayOption = "",
    owner: OwnerOption = "",
    label: LabelOption = None,
    state: StateOption = None,
    include_final: Annotated[
        bool, typer.Option("--include-final", help="Sessions that have ended, too.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1_000_000,
            help="How many at most; how to go on is said. Default: all.",
            show_default=False,
        ),
    ] = None,
    page_token: Annotated[
        str,
        typer.Option(
            metavar="TOKEN",
            help="Go on where a list with --limit ended: its next_page_token.",
            show_default=False,
        ),
    ] = "",
    broker: BrokerOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List sessions, the oldest first.

    The JSON is a ListSessionsResponse: sessions, and next_page_token if there are more.
    """
    wanted = _filter(session_ids, gateway, owner, label, state, include_final=include_final)
    with calling(broker) as client:
        found = client.sessions(wanted, limit=limit, token=page_token)
    if form is Format.JSON:
        output.document(output.message(found))
        return
    if found.sessions:
        output.table(_COLUMNS, (_row(session) for session in found.sessions))
    else:
        output.line("no session" if include_final else "no open session")
    if found.next_page_token:
        output.remark(f"There are more: --page-token {found.next_page_token}")


@app.command(epilog="Example: gateway-broker sessions verify 03221cdb-2c92-4373-a073-be6333b5d812")
def verify(
    session_id: SessionId, *, broker: BrokerOption = None, form: FormatOption = Format.TABLE
) -> None:
    """Ask the Gateway itself, over the session's link, whether the session works.

    Exit codes: 0 it answered, 1 the session does not work; others as for all commands.
    """
    with calling(broker) as client:
        answer = client.verify(session_id)
    if form is Format.JSON:
        output.document(output.message(answer))
    elif answer.healthy:
        latency = answer.latency.ToNanoseconds() / 1e6
        age = answer.age.ToNanoseconds() / 1e9
        output.line(
            f"healthy: the Gateway answered in {latency:.1f} ms, {age:.1f} s ago; "
            f"its clock says {moment(answer.server_time)}"
        )
    else:
        output.line("not healthy")
        output.fields(_failure(answer.failure))
    if not answer.healthy:
        raise typer.Exit(ExitCode.FAILED)


@app.command(
    epilog="Example: gateway-broker sessions acknowledge 03221cdb-2c92-4373-a073-be6333b5d812 "
    "--generation 2"
)
def acknowledge(
    session_id: SessionId,
    *,
    generation: Annotated[
        int | None,
        typer.Option(
            help="The generation of the link over which you have subscribed: refused if the link "
            "was made anew since. Default: the session's as it is now.",
            show_default=False,
        ),
    ] = None,
    owner: ActorOption = None,
    broker: BrokerOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Say that you have subscribed anew to what was interrupted: DATA_CONTINUOUS is TRUE again.

    It became FALSE when the link was made anew, or when the Gateway lost data (1101).
    """
    with calling(broker, owner=owner) as client:
        session = client.acknowledge(session_id, generation)
    _show(session, form)


@app.command(epilog="Example: gateway-broker sessions history 03221cdb-2c92-4373-a073-be6333b5d812")
def history(
    session_id: SessionId, *, broker: BrokerOption = None, form: FormatOption = Format.TABLE
) -> None:
    """Tell all that is on record of a session, the oldest first; also of one that has ended.

    Beside each event stands how long after the one before it was, and at the end how long the
    session has been in which state. With `--output json` each event is one line.
    """
    from broker.cli.timeline import Timeline

    with calling(broker) as client:
        if form is Format.JSON:
            for event in client.events(session_id):
                output.line(output.compact(output.message(event)))
            return
        session = client.get(session_id)
        output.line(
            f"session {session.session_id}  client {session.client_id} on {session.gateway_id}  "
            f"owner {session.owner}"
        )
        timeline = Timeline()
        for event in client.events(session_id):
            for line in timeline.recall(event):
                output.line(line)
        output.line("")
        for line in timeline.summary(session, datetime.now(UTC)):
            output.line(line)


@app.command(epilog="Example: gateway-broker sessions watch --gateway default --events")
def watch(
    session_ids: SessionIds = None,
    *,
    gateway: GatewayOption = "",
    owner: OwnerOption = "",
    label: LabelOption = None,
    state: StateOption = None,
    include_final: Annotated[
        bool, typer.Option("--include-final", help="Begin with sessions that have ended, too.")
    ] = False,
    events: Annotated[
        bool,
        typer.Option("--events", help="Line by line, also on a terminal, instead of a table."),
    ] = False,
    resume_token: Annotated[
        str,
        typer.Option(
            metavar="TOKEN",
            help="Go on after the message that had this resume_token: nothing is missed, nothing "
            "comes twice. Give the same filter.",
            show_default=False,
        ),
    ] = "",
    broker: BrokerOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Show all sessions as they are, and then every change as it happens.

    On a terminal: a table that is drawn anew, what is wrong first, with cause and hint, and below
    it the last events. Piped, with `--events` or with `--resume-token`: a line or two for each
    event. With `--output json`: each message on one line, with its resume_token.

    When the broker goes away it says so, waits for it and goes on where it was. Only a broker that
    is away from the start ends it. So does Ctrl-C.
    """
    wanted = _filter(session_ids, gateway, owner, label, state, include_final=include_final)
    with calling(broker) as client:
        # One that goes on has no snapshot, and so nothing to fill a table with.
        if sys.stdout.isatty() and not (events or resume_token or form is Format.JSON):
            _live(client, wanted)
            return
        story = Story()
        for told in client.watch(wanted, token=resume_token):
            if told is not None:
                for line in story.tell(told, form):
                    output.line(line)


def _live(client: Broker, wanted: Filter) -> None:
    """Draw a table until interrupted, and leave the last one on the screen."""
    from rich.live import Live

    from broker.cli.board import Board

    console = output.console()
    board = Board(client.address, wanted, datetime.now(UTC))
    watched = client.watch(wanted, tick=TICK)
    # What cannot be watched at all is told before the screen is taken.
    board.take(next(watched), datetime.now(UTC))
    try:
        with Live(board, console=console, screen=True, auto_refresh=False) as live:
            live.refresh()
            for told in watched:
                board.take(told, datetime.now(UTC))
                live.refresh()
    finally:
        console.print(board)


def _show(session: session_pb2.Session, form: Format) -> None:
    if form is Format.JSON:
        output.document(output.message(session))
        return
    output.fields(
        (
            ("session", session.session_id),
            ("state", state(session)),
            ("gateway", session.gateway_id),
            ("client id", _client_id(session)),
            ("readonly", "yes" if session.readonly else ""),
            ("owner", session.owner),
            ("labels", ", ".join(f"{key}={value}" for key, value in session.labels.items())),
            ("accounts", ", ".join(session.accounts)),
            ("server version", str(session.server_version or "")),
            ("generation", str(session.generation or "")),
            ("conditions", Text("\n").join(condition(fact) for fact in troubled(session))),
            ("attempt", str(session.attempt or "")),
            ("created", moment(session.create_time)),
            ("connected", moment(session.connect_time)),
            ("since", moment(session.state_time)),
            ("next attempt", moment(session.next_attempt_time)),
            ("ended", moment(session.disconnect_time)),
            ("lease", _lease(session)),
            ("why", session.close_reason),
            ("errors", str(session.error_count or "")),
            *_failure(session.last_failure),
        )
    )


def _lease(session: session_pb2.Session) -> str:
    if not session.HasField("lease_ttl"):
        return ""
    length = f"{session.lease_ttl.ToNanoseconds() / 1e9:g} s"
    until = moment(session.lease_expire_time)
    return f"{length}, until {until}" if until else length


def _failure(failure: error_pb2.ConnectionFailure) -> tuple[tuple[str, str | Text], ...]:
    return (
        ("last failure", f"{failure.reason}: {failure.message}" if failure.reason else ""),
        ("  phase", failure.phase),
        ("  hint", failure.hint),
        ("  at", moment(failure.time)),
    )


def _client_id(session: session_pb2.Session) -> str:
    return f"{session.client_id}{' (changed)' if session.client_id_changed else ''}"


def _row(session: session_pb2.Session) -> tuple[str | Text, ...]:
    return (
        session.session_id,
        state(session),
        _client_id(session),
        session.close_reason or _trouble(session),
        session.gateway_id,
        session.owner,
        moment(session.state_time),
    )


def _trouble(session: session_pb2.Session) -> str:
    """Why it does not work, or what does not work of it; a failure that is over is none."""
    if session.state != session_pb2.SESSION_STATE_CONNECTED:
        return session.last_failure.reason
    names = dict.fromkeys(
        fact.type for fact in troubled(session) if fact.status == session_pb2.CONDITION_STATUS_FALSE
    )
    return ", ".join(names)


def _validated(form: Format) -> None:
    if form is Format.JSON:
        output.document({"valid": True})
    else:
        output.line("it would be admitted")


def _labels(given: list[str] | None) -> dict[str, str]:
    labels: dict[str, str] = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--label")
        if labels.setdefault(key, value) != value:
            raise typer.BadParameter(f"{key!r} is given twice", param_hint="--label")
    return labels


def _filter(
    session_ids: list[str] | None,
    gateway: str,
    owner: str,
    label: list[str] | None,
    states: list[SessionState] | None,
    *,
    include_final: bool,
) -> Filter:
    return Filter.of(
        session_ids=session_ids or (),
        gateway_id=gateway,
        owner=owner,
        labels=_labels(label),
        states=[StateName(item) for item in states or ()],
        include_final=include_final,
    )
