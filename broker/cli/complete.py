"""What a shell offers for an argument, as the broker that is meant knows it.

Whoever presses Tab waits, and did not ask for a complaint: a broker that does not answer at once
offers nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, TypeVar

import typer

if TYPE_CHECKING:
    from ibgateway.broker.v1 import session_pb2

    from broker.cli.client import Broker

T = TypeVar("T")
Offers = list[tuple[str, str]]

DEADLINE: Final = 0.5
"""Seconds that a shell waits for the broker."""
_MOST: Final = 200
"""How many sessions are looked at."""


def sessions(ctx: typer.Context, incomplete: str) -> Offers:
    """Ids of sessions that are open, with what they are."""
    return [
        (session.session_id, _described(session))
        for session in _sessions(ctx)
        if session.session_id.startswith(incomplete)
    ]


def gateways(ctx: typer.Context, incomplete: str) -> Offers:
    """Names of gateways, with where they are."""
    return [
        (gateway.gateway_id, f"{gateway.host}:{gateway.port}")
        for gateway in _ask(ctx, lambda broker: broker.gateways().gateways)
        if gateway.gateway_id.startswith(incomplete)
    ]


def owners(ctx: typer.Context, incomplete: str) -> Offers:
    """Names of those that have sessions open."""
    return _counted((session.owner for session in _sessions(ctx)), incomplete)


def labels(ctx: typer.Context, incomplete: str) -> Offers:
    """Labels of sessions that are open."""
    return _counted(
        (f"{key}={value}" for session in _sessions(ctx) for key, value in session.labels.items()),
        incomplete,
    )


def _counted(values: Iterable[str], incomplete: str) -> Offers:
    counts: dict[str, int] = {}
    for value in values:
        if value.startswith(incomplete):
            counts[value] = counts.get(value, 0) + 1
    return [
        (value, f"{count} session{'s' if count > 1 else ''}")
        for value, count in sorted(counts.items())
    ]


def _described(session: session_pb2.Session) -> str:
    from ibgateway.broker.v1 import session_pb2

    state = session_pb2.SessionState.Name(session.state).removeprefix("SESSION_STATE_")
    return f"client {session.client_id} on {session.gateway_id}, {session.owner}, {state}"


def _sessions(ctx: typer.Context) -> Iterable[session_pb2.Session]:
    from broker.cli.client import Filter

    return _ask(ctx, lambda broker: broker.sessions(Filter(), limit=_MOST).sessions)


def _ask(ctx: typer.Context, ask: Callable[[Broker], Iterable[T]]) -> list[T]:
    """What the broker of the command line answers; nothing if it does not."""
    from broker.cli.caller import give
    from broker.cli.client import BrokerError, calling
    from broker.errors import StartupError

    give(ctx.params)
    try:
        with calling(ctx.params.get("broker"), patience=DEADLINE) as broker:
            return list(ask(broker))
    except (BrokerError, StartupError, ValueError, typer.BadParameter):
        return []
