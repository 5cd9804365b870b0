"""Checks of one Gateway: its name, one handshake, and what that has shown.

A Gateway is never just connected to: bare connections wedge it. It is dialled once, as the broker
does, with the client id that the broker itself looks with; and not at all while somebody else
watches over it, who is asked instead.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from broker.config import GatewayConfig
from broker.doctor.case import Case, GatewayReport, Visit
from broker.doctor.check import Finding, Status, ok, skipped, warning, wrong
from broker.doctor.database import skew
from broker.errors import ClientIDInUseError, GatewayError
from broker.gateway.base import GatewayKind, Notice
from broker.gateway.conditions import FALSE, conditions_of
from broker.gateway.fault_table import Symptom
from broker.gateway.faults import account_failure, quoted
from broker.gateway.ib import IBConnector
from broker.runtime.gateways import PROBE_CLIENT_ID

PATIENCE: Final = 10.0
"""Seconds for the handshake, if the gateway's own timeout is longer: a Gateway that is well takes
less than one."""

_KINDS: Final = (GatewayKind.PAPER, GatewayKind.LIVE)

_SPEAKERS: Final = (
    ("HTTP/", "a web server"),
    ("SSH-", "an SSH server"),
    (r"\x15\x03", "a TLS server"),
    ("220 ", "a mail or file server"),
    ("-ERR", "a Redis server"),
)
"""How the answers begin of what else may listen on a port."""

_ALSO: Final[Mapping[Symptom, str]] = {
    Symptom.REFUSED: "If this runs in a container, 127.0.0.1 is the container itself.",
    Symptom.SILENT_HANDSHAKE: "A program that is no Gateway may be as silent: many web servers "
    "wait for more than the Gateway's greeting. If the port is not surely the Gateway's, look what "
    "listens there before anybody restarts anything.",
    Symptom.CLOSED_IN_HANDSHAKE: "A program that is no Gateway, such as one that expects TLS, may "
    "do the same: make sure of the port first.",
}
"""What else the same sight on the wire may mean to somebody who has just configured it."""


async def host(case: Case, name: str) -> Finding:
    """Whether the host's name can be resolved."""
    gateway = case.settings.gateways[name]
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(gateway.host, gateway.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        again = getattr(error, "errno", None) == socket.EAI_AGAIN
        return wrong(
            f"IB_CONN_004: {gateway.host!r} does not resolve: "
            f"{getattr(error, 'strerror', None) or error}",
            "The name server did not answer: try again; if it goes on, look at this machine's DNS."
            if again
            else "The name is probably wrong: correct the gateway's host, or add the name to DNS "
            "or the hosts file. In Compose or Kubernetes it is the name of the service.",
        )
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    if addresses == [gateway.host]:
        return ok(f"{gateway.host} is an address")
    return ok(f"{gateway.host} is {', '.join(addresses)}")


async def connection(case: Case, name: str) -> Finding:
    """One handshake, unless somebody is there who can be asked, or does not want it."""
    finding = await _connection(case, name)
    return finding if name in case.visits else replace(finding, ends=True)


async def _connection(case: Case, name: str) -> Finding:
    gateway = case.settings.gateways[name]
    if case.broker is not None:
        return _asked(case, name, gateway)
    if case.database is not None:
        if case.database.holder is not None:
            return skipped(
                "not dialled: the broker that holds the database watches over it; ask that one"
            )
        drain = case.database.drains.get(name)
        if drain is not None:
            return warning(
                f"not dialled: {drain.actor!r} drains it"
                f"{': ' + drain.reason if drain.reason else ''}, since {_moment(drain.time)}",
                f"Sessions wait until somebody runs: gateway-broker gateways resume {name}",
            )
    notices: list[Notice] = []
    timeout = min(gateway.timeout, PATIENCE)
    try:
        link = await IBConnector().connect(
            host=gateway.host,
            port=gateway.port,
            client_id=PROBE_CLIENT_ID,
            timeout=timeout,
            on_notice=notices.append,
        )
        try:
            probe = await link.probe(min(gateway.heartbeat_timeout, PATIENCE))
        finally:
            await link.close()
    except GatewayError as error:
        return _in_window(case, name, _failed(error))
    case.visits[name] = Visit(link.server_version, link.accounts, tuple(notices), probe, case.now())
    return ok(
        f"{gateway.host}:{gateway.port} accepts connections, speaks server version "
        f"{link.server_version} and answers in {probe.latency * 1000:.0f} ms"
    )


def _failed(error: GatewayError) -> Finding:
    text = f"{error.reason}: {error.message}"
    if isinstance(error, ClientIDInUseError):
        return warning(
            f"the Gateway is there, and client id {PROBE_CLIENT_ID}, with which a broker looks "
            f"after it, is taken: {text}",
            "Probably another broker watches over this Gateway, or another doctor looks at it; or "
            "it has not noticed yet that one died. Two brokers on one Gateway need client_ids that "
            "do not overlap. Its accounts were not looked at.",
        )
    symptom = Symptom(error.metadata["symptom"])
    if symptom is Symptom.NOT_TWS:
        quote = error.metadata.get("quote", "").lstrip("b'\"")
        speaker = next((what for start, what in _SPEAKERS if quote.startswith(start)), "")
        text += f": that is {speaker}" if speaker else ""
    return wrong(text, " ".join(part for part in (error.hint, _ALSO.get(symptom, "")) if part))


def _in_window(case: Case, name: str, finding: Finding) -> Finding:
    """A failure inside a maintenance window is no fault yet."""
    end = case.settings.gateways[name].settings(name).maintenance.until(case.now())
    if end is None or finding.status is not Status.WRONG:
        return finding
    return warning(
        f"{finding.text}; it is in its maintenance window, until {_moment(end)}",
        f"Nothing yet: look again after the window. {finding.advice}",
    )


def _asked(case: Case, name: str, gateway: GatewayConfig) -> Finding:
    """What the running broker says of it."""
    assert case.broker is not None
    if case.broker.gateways is None:
        return skipped("not dialled: the broker that runs here watches over it")
    report = next((item for item in case.broker.gateways if item.gateway_id == name), None)
    restart = "Restart the broker to let it read the configuration again."
    if report is None:
        return warning("the running broker does not know this gateway", restart)
    address = f"{gateway.host}:{gateway.port}"
    if report.address != address:
        return warning(
            f"the running broker has it at {report.address}, the configuration at {address}",
            restart,
        )
    return _judged(name, report)


def _judged(name: str, report: GatewayReport) -> Finding:
    used = f"{report.sessions} sessions" if report.sessions != 1 else "1 session"
    if report.drained:
        return warning(
            f"the running broker says: drained by {report.drained}; {used}",
            f"Sessions wait until somebody runs: gateway-broker gateways resume {name}",
        )
    if report.reachable is None:
        return warning(
            "the running broker has not finished an attempt yet",
            "Look again in a moment.",
        )
    if report.reachable:
        text = f"the running broker says: reachable, server version {report.server_version}, {used}"
        if report.circuit != "CLOSED":
            return warning(
                f"{text}; its circuit is {report.circuit}: new sessions are refused",
                f"`gateway-broker gateways reset-breaker {name}` saves the wait.",
            )
        return ok(text)
    after = f"; tried again at {_moment(report.next_attempt)}" if report.next_attempt else ""
    text = f"the running broker says: not reachable{after}; {used}. {report.failure}"
    if report.maintenance_end is not None:
        end = _moment(report.maintenance_end)
        return warning(
            f"{text}; it is in its maintenance window, until {end}",
            "Nothing yet: look again after the window.",
        )
    return wrong(text, report.hint or f"gateway-broker gateways get {name} says more.")


async def accounts(case: Case, name: str) -> Finding:
    """Whether the accounts are of the kind that is declared."""
    visit = case.visits[name]
    declared = case.settings.gateways[name].kind
    named = quoted(", ".join(visit.accounts))
    failure = account_failure(declared, visit.accounts)
    if failure is not None:
        return wrong(f"{failure.reason}: {failure.message}", failure.hint)
    if declared is GatewayKind.UNKNOWN:
        kind = next(
            (kind.value for kind in _KINDS if account_failure(kind, visit.accounts) is None),
            "of both kinds",
        )
        return warning(
            f"{named}: {kind}; the gateway is not declared paper or live",
            "Set its kind (IB_GATEWAY_KIND), so that the wrong accounts are refused.",
        )
    return ok(f"{named}: {declared.value}, as declared")


async def upstream(case: Case, name: str) -> Finding:
    """What the Gateway said of itself: its way to IB's servers, farms, rights."""
    visit = case.visits[name]
    bad = {
        f"{condition.type}{' ' + condition.subject if condition.subject else ''}": notice
        for notice in visit.notices
        for condition in conditions_of(notice, visit.seen_at)
        if condition.status is FALSE
    }
    readonly = (
        "the broker makes its sessions read-only"
        if case.settings.gateways[name].readonly
        else "orders are allowed, unless the Gateway's own Read-Only API is ticked: that shows "
        "only when one is sent"
    )
    if bad:
        told = "; ".join(f"{what}: {quoted(item.text)} ({item.code})" for what, item in bad.items())
        return warning(
            f"the Gateway says: {told}",
            "The Gateway lives, IB's servers or a part of them do not: wait, and look at IBKR's "
            "system status. At the nightly reset this passes within minutes.",
        )
    return ok(f"nothing is amiss; {readonly}")


async def clock(case: Case, name: str) -> Finding:
    """Whether the Gateway's clock agrees with ours."""
    visit = case.visits[name]
    # The Gateway tells whole seconds; the middle of one is half a second away at most.
    ahead = (visit.probe.server_time - visit.seen_at).total_seconds() + 0.5
    return skew("the Gateway's", ahead, 0.5 + visit.probe.latency)


def _moment(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
