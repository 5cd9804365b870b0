"""What is accepted in a configuration and is probably not meant."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from broker.config import DEFAULT_GATEWAY, Configuration, GatewayConfig, Settings, is_loopback
from broker.gateway.base import GatewayKind
from broker.provenance import DEFAULT, Kind, Location, is_secret, masked

_PORTS: Final = {
    4001: GatewayKind.LIVE,
    4002: GatewayKind.PAPER,
    4003: GatewayKind.LIVE,
    4004: GatewayKind.PAPER,
    7496: GatewayKind.LIVE,
    7497: GatewayKind.PAPER,
}
"""Gateway, docker images and TWS, as they come: https://www.interactivebrokers.com/campus/."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """One of them.

    Args:
        field: which setting, or a variable that is none.
        text: what is doubted.
        advice: what to do.
        source: where it was said; empty for a default.
        told: whether ``serve`` says it by itself, in its own words.
    """

    field: str
    text: str
    advice: str
    source: str = ""
    told: bool = False


def doubts(configuration: Configuration) -> list[Doubt]:
    """All doubts about a configuration."""
    return [
        *_of_sources(configuration),
        *_of_strangers(configuration),
        *_of_broker(configuration),
        *_of_gateways(configuration),
    ]


def _doubt(
    configuration: Configuration, field: Location, text: str, advice: str, *, told: bool = False
) -> Doubt:
    origin = configuration.origins.around(field)
    source = "" if origin is DEFAULT else str(origin)
    return Doubt(".".join(str(part) for part in field), text, advice, source, told)


def _of_sources(configuration: Configuration) -> Iterator[Doubt]:
    for name in configuration.strays:
        yield Doubt(
            name,
            "begins like a setting, and none has this name; it has no effect",
            "Correct the name (docs/settings.md has them all), or take the variable away.",
            "the environment",
        )
    path = configuration.file
    secrets = [
        name
        for name, value in configuration.settings
        if configuration.origins.of((name,)).kind is Kind.FILE
        and (is_secret(name) or masked((name,), value) != value)
    ]
    if path is not None and secrets and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        yield _doubt(
            configuration,
            (secrets[0],),
            f"{path} holds a password, and others than its owner may read it",
            f"Run: chmod 600 {path}; or put the address into a file of its own, which "
            "DATABASE_URL_FILE names.",
        )


def _of_strangers(configuration: Configuration) -> Iterator[Doubt]:
    """What others on the network can do or read."""
    settings = configuration.settings
    if settings.insecure_no_auth:
        yield _doubt(configuration, ("insecure_no_auth",), *_insecure(settings), told=True)
    has_tokens = settings.access_file is not None
    if has_tokens and settings.http_listen and not is_loopback(settings.http_listen):
        yield _doubt(
            configuration,
            ("http_listen",),
            "the console is plain HTTP beyond loopback: tokens can be read on their way",
            "Listen on 127.0.0.1, set it to off, or put something before it that speaks TLS.",
        )
    if settings.metrics and not is_loopback(settings.metrics_listen):
        yield _doubt(
            configuration,
            ("metrics_host",),
            "is beyond loopback: whoever connects can read the metrics",
            "Set it to 127.0.0.1, or make sure that only Prometheus can connect.",
        )


def _insecure(settings: Settings) -> tuple[str, str]:
    """What is doubted of insecure_no_auth, and what to do."""
    if not settings.knows_callers:
        return (
            "whoever reaches the port can open and close sessions",
            "Listen on 127.0.0.1, or make sure that the network itself keeps strangers out.",
        )
    if settings.tls_certificate is None:
        return (
            "callers are known, but tokens can be read on their way unless something encrypts them",
            "Set tls_certificate and tls_key, or make sure that something in front speaks TLS.",
        )
    return (
        "gRPC does not need it: callers are known, and what they send is encrypted",
        "Take it away.",
    )


def _of_broker(configuration: Configuration) -> Iterator[Doubt]:
    settings, origins = configuration.settings, configuration.origins
    if settings.database_url is None:
        yield _doubt(
            configuration,
            ("database_url",),
            "there is no DATABASE_URL: the broker runs a PostgreSQL of its own",
            f"That is fine on one machine; the record is in {settings.data_dir}, so back that up.",
            told=True,
        )
        if settings.auto_migrate:
            yield _doubt(
                configuration,
                ("auto_migrate",),
                "has no effect: the broker's own PostgreSQL is always migrated",
                "Take it away, or set DATABASE_URL.",
            )
    elif origins.of(("data_dir",)) is not DEFAULT:
        yield _doubt(
            configuration,
            ("data_dir",),
            "has no effect beside DATABASE_URL: nothing is kept there",
            "Take it away, or DATABASE_URL.",
        )
    seats = sum(gateway.session_limit for gateway in settings.gateways.values())
    if settings.session_limit > seats:
        yield _doubt(
            configuration,
            ("session_limit",),
            f"{settings.session_limit} sessions cannot be open: all gateways together take {seats}",
            "Lower it, or raise the session_limit of the gateways; a Gateway has 32 seats.",
        )
    if DEFAULT_GATEWAY not in settings.gateways:
        names = ", ".join(settings.gateways)
        yield _doubt(
            configuration,
            ("gateways",),
            f"none is named {DEFAULT_GATEWAY!r}: callers must name theirs ({names})",
            f"Name one [gateways.{DEFAULT_GATEWAY}] if callers are to leave the name out.",
        )


def _of_gateways(configuration: Configuration) -> Iterator[Doubt]:
    for name, gateway in configuration.settings.gateways.items():
        for field, text, advice in _of_gateway(gateway):
            yield _doubt(configuration, ("gateways", name, field), text, advice)


def _of_gateway(gateway: GatewayConfig) -> Iterator[tuple[str, str, str]]:
    usual = _PORTS.get(gateway.port)
    if gateway.kind is GatewayKind.UNKNOWN:
        yield (
            "kind",
            "is not declared: live accounts are taken where paper ones are meant, and vice versa",
            "Set it to paper or live (IB_GATEWAY_KIND); the wrong accounts are refused then.",
        )
    elif usual is not None and usual is not gateway.kind:
        yield (
            "port",
            f"{gateway.port} is usually {usual.value}, and the kind is {gateway.kind.value}",
            "Correct the port or the kind, unless this Gateway was set up differently.",
        )
    pool = gateway.client_ids.last - gateway.client_ids.first + 1
    if pool < gateway.session_limit:
        yield (
            "client_ids",
            f"the pool has {pool} ids for {gateway.session_limit} sessions",
            "Widen it, if callers leave the choice of their id to the broker.",
        )
    if gateway.retry_initial_delay > gateway.retry_max_delay:
        yield (
            "retry_initial_delay",
            f"{gateway.retry_initial_delay:g} s is above retry_max_delay, which wins",
            "Raise retry_max_delay, or lower this.",
        )
    if gateway.heartbeat_timeout > gateway.heartbeat_interval:
        yield (
            "heartbeat_timeout",
            "is longer than heartbeat_interval: a Gateway that hangs is found late",
            "Lower it: an answer takes milliseconds.",
        )
