"""Checks of the addresses to listen on, and of who has them."""

from __future__ import annotations

import errno
import socket
from typing import Final

from broker.config import reached_at
from broker.doctor.case import Case
from broker.doctor.check import Finding, ok, warning, wrong

GRPC: Final = "grpc_listen"


async def grpc(case: Case) -> Finding:
    """Whether the gRPC address is free, or a running broker has it, which is asked."""
    listen = case.settings.grpc_listen
    trouble = _trouble(listen)
    if trouble is None:
        return ok(f"{listen} is free: no broker runs on this configuration here")
    if trouble.errno != errno.EADDRINUSE:
        return _refused(GRPC, listen, trouble)
    case.broker = await case.ask(reached_at(listen))
    if case.broker is None:
        return wrong(
            f"another program listens on {listen}, and it is no gateway-broker",
            f"`ss -ltnp 'sport = :{listen.rpartition(':')[2]}'` says which. Stop that one, or "
            "choose another address: --grpc-listen, GATEWAY_BROKER_GRPC_LISTEN.",
        )
    if case.broker.gateways is None:
        return warning(
            f"a broker runs there ({listen}) and does not tell us of its gateways: "
            f"{case.broker.refusal}",
            "Ask with the rights that it wants. The gateways are not dialled meanwhile.",
        )
    return ok(f"a broker runs there ({listen}); it is asked, and nothing is dialled")


async def other(case: Case, name: str) -> Finding:
    """Whether an address beside gRPC's is free, or the running broker's."""
    settings = case.settings
    value = settings.metrics_listen if name == "prometheus_port" else getattr(settings, name)
    if value is None or value == "":
        return ok("not used")
    listen = value if isinstance(value, str) else f"127.0.0.1:{value}"
    trouble = _trouble(listen)
    if trouble is None:
        return ok(f"{listen} is free" if not listen.endswith(":0") else "any that is free")
    if trouble.errno == errno.EADDRINUSE and case.broker is not None:
        return ok(f"{listen} is taken, by the running broker as it seems")
    return _refused(name, listen, trouble)


def _trouble(listen: str) -> OSError | None:
    """What keeps us from listening there; the port is bound for an instant, and never opened."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    if port == "0":
        return None
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            # As the server does: a port whose last connections still linger is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error
    return None


def _refused(name: str, listen: str, error: OSError) -> Finding:
    port = listen.rpartition(":")[2]
    advice = {
        errno.EADDRINUSE: f"Another program has it; `ss -ltnp 'sport = :{port}'` says which. "
        f"Stop that one, or choose another address with {name}.",
        errno.EADDRNOTAVAIL: "This machine has no such address: correct the host, or listen on "
        "127.0.0.1.",
        errno.EACCES: "Ports below 1024 are for root: choose a higher one.",
    }.get(error.errno or 0, "The host is probably wrong: correct it, or listen on 127.0.0.1.")
    return wrong(f"{listen} cannot be listened on: {error.strerror}", advice)
