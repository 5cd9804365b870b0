"""Checks of the database: whether it answers, its schema, who holds it, its clock."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from typing import Final

from broker.doctor.case import Case
from broker.doctor.check import Finding, ok, skipped, warning, wrong
from broker.provenance import masked
from broker.store.inspection import OLDEST_SERVER, Trouble, UnusableError, inspect
from broker.store.postgres import SCHEMA_VERSION

_SLOW: Final = 0.05
"""Seconds of a round trip: every open of a session waits for some of them."""
_CLOCK: Final = 2.0
"""Seconds of difference that begin to mislead whoever compares times."""

_ADVICE: Final[Mapping[Trouble, str]] = {
    Trouble.UNKNOWN_HOST: "The host name is probably wrong: correct DATABASE_URL, or add the name "
    "to DNS. In Compose or Kubernetes it is the name of the service.",
    Trouble.REFUSED: "No PostgreSQL runs there, or it listens on another port or on its socket "
    "alone (listen_addresses). Start it, or correct host and port in DATABASE_URL. In a container "
    "127.0.0.1 is the container itself.",
    Trouble.SILENT: "A firewall drops the packets, the host is off, or the server hangs: look at "
    "host, port and network of DATABASE_URL.",
    Trouble.UNREACHABLE: "There is no way to its host: check network, VPN and the address in "
    "DATABASE_URL.",
    Trouble.NOT_POSTGRESQL: "Several things look the same here: another program listens on that "
    "port, a proxy has no server behind it, the server went away just now, or TLS is asked for "
    "(sslmode) and not offered. Check the port in DATABASE_URL, then the server's log.",
    Trouble.PASSWORD: "User or password is wrong (PostgreSQL does not say which): correct "
    "DATABASE_URL, and escape what a URL cannot hold (@ is %40, / is %2F).",
    Trouble.NOT_ALLOWED: "The server does not let this user in, or at its tables: add a line to "
    "its pg_hba.conf, or GRANT what is missing.",
    Trouble.NO_DATABASE: "Run on the server: CREATE DATABASE, and then: gateway-broker migrate; "
    "or correct the name in DATABASE_URL.",
    Trouble.FULL: "All connections of the server are in use: end some, or raise its "
    "max_connections; the broker needs 5.",
    Trouble.STARTING: "The server starts or stops: try again in a moment.",
    Trouble.BAD_URL: "It must look like postgresql://user:password@host:5432/database; escape "
    "what a URL cannot hold (@ is %40, / is %2F).",
    Trouble.OTHER: "The server's log says more.",
}


async def database(case: Case) -> Finding:
    """Whether the database can be used: address, user, password, version, writes."""
    if case.dsn is None:
        return skipped("the broker's own PostgreSQL runs with it, and no broker runs now")
    where = _where(case.dsn)
    try:
        found = await inspect(
            case.dsn, list(case.settings.gateways), timeout=case.settings.store_timeout
        )
    except UnusableError as error:
        return wrong(f"{where} cannot be used: {error.text}", _ADVICE[error.trouble])
    case.database = found
    text = f"{where}, PostgreSQL {found.server_version}, {found.latency * 1000:.1f} ms away"
    if found.server_major < OLDEST_SERVER:
        return wrong(text, f"Upgrade it: at least PostgreSQL {OLDEST_SERVER} is needed.")
    if not found.writable:
        return wrong(
            f"{text}, and takes no writes",
            "It is a standby, or default_transaction_read_only is on: let DATABASE_URL name the "
            "primary (with several hosts: target_session_attrs=read-write).",
        )
    if not found.may_write:
        made = "write" if found.migration else "make"
        return wrong(
            f"{text}; user {found.username!r} may not {made} the broker's tables",
            "Let the broker use the user that ran `gateway-broker migrate`, or GRANT the rights to "
            f"{found.username} (to make them: CREATE on the schema).",
        )
    if found.latency > _SLOW:
        return warning(text, "Each open of a session waits for it: put it nearer to the broker.")
    return ok(text)


async def migrations(case: Case) -> Finding:
    """Whether the schema is the one that this broker needs."""
    assert case.database is not None
    version = case.database.migration
    behind = version is None or version < SCHEMA_VERSION
    text = f"the database is at {version or 'none'}, this broker needs {SCHEMA_VERSION}"
    if behind and (case.settings.auto_migrate or case.settings.database_url is None):
        return ok(f"{text}; `serve` migrates it at its start")
    if behind:
        return wrong(text, "Stop the broker that uses it, if one does, and run: "
                     "gateway-broker migrate")  # fmt: skip
    if version != SCHEMA_VERSION:
        return wrong(
            text, "A newer broker has migrated it: start that version; this one refuses to start."
        )
    return ok(f"at {version}, as this broker needs it")


async def lock(case: Case) -> Finding:
    """Who holds the database: one broker may."""
    assert case.database is not None
    holder = case.database.holder
    if holder is None:
        if case.broker is not None:
            return warning(
                "a broker runs on this configuration, and does not hold this database",
                "It was started with another database, or has lost its connection just now: its "
                "log says which. Restart it if the configuration was changed.",
            )
        return ok("free: a broker can start")
    since = holder.since.astimezone(UTC).isoformat(sep=" ", timespec="seconds")
    text = f"{holder.name}, since {since} (epoch {holder.epoch})"
    if case.broker is not None:
        return ok(f"held by the running broker: {text}")
    return wrong(
        f"held by another broker, which does not listen on {case.settings.grpc_listen}: {text}",
        "`serve` refuses to start beside it. Ask that one, or stop it; or give this one a "
        "database of its own. If its machine is gone for good, run in the database: "
        f"SELECT pg_terminate_backend({holder.pid})",
    )


async def clock(case: Case) -> Finding:
    """Whether the database's clock agrees with ours."""
    assert case.database is not None
    return skew("the database's", case.database.clock_ahead, case.database.clock_error)


def skew(whose: str, ahead: float, error: float) -> Finding:
    """What a difference of clocks means.

    Args:
        whose: such as "the database's".
        ahead: seconds by which it is ahead of ours.
        error: seconds by which ``ahead`` may be wrong.
    """
    if abs(ahead) - error <= _CLOCK:
        # Within what can be measured it is no difference.
        size = "less than 1 s" if abs(ahead) < 1 else f"about {abs(ahead):.0f} s"
        return ok(f"{whose} clock and this machine's differ by {size}")
    way = "ahead of" if ahead > 0 else "behind"
    return warning(
        f"{whose} clock is {abs(ahead):,.0f} s {way} this machine's",
        "One of them is wrong: run NTP (chrony, systemd-timesyncd) on both. Times of events, and "
        "maintenance windows, are of the broker's clock.",
    )


def _where(dsn: str) -> str:
    shown: str = masked(("database_url",), dsn)
    return shown
