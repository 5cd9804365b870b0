"""`gateway-broker doctor` and a database that is not as it should be."""

from __future__ import annotations

import re
import secrets

import pytest

from broker.simulator.gateway import SimulatedGateway
from broker.store.embedded import EmbeddedPostgres
from broker.store.migration import downgrade
from tests.doctor import LINK, examined, peer, settings
from tests.postgres import execute
from tests.program import free_address


@pytest.mark.parametrize(
    ("change", "says", "advises"),
    [
        (("broker:", "broker:x"), "password authentication failed", "escape what a URL cannot"),
        (("/test_", "/none_"), "does not exist", "CREATE DATABASE"),
    ],
)
async def test_a_database_that_refuses_is_named(
    simulator: SimulatedGateway,
    database_url: str,
    change: tuple[str, str],
    says: str,
    advises: str,
) -> None:
    report = await examined(**settings(database_url.replace(*change), simulator.port))
    assert (report.code, report.bad()) == (1, {"database"})
    row = report.rows["database"]
    assert says in row.text
    assert advises in row.advice
    assert ":x" not in row.text
    assert report.rows["database schema"].status == "skipped"
    assert report.rows[LINK].status == "ok"


async def test_a_database_that_is_not_there_is_named(simulator: SimulatedGateway) -> None:
    url = f"postgresql://u:hunter2@{free_address()}/x"
    report = await examined(**settings(url, simulator.port))
    row = report.rows["database"]
    assert row.status == "wrong"
    assert re.search("refused|Connect call failed", row.text)
    assert "No PostgreSQL runs there" in row.advice
    unknown = await examined(**settings("postgresql://u:hunter2@db.invalid/x", simulator.port))
    assert "host name is probably wrong" in unknown.rows["database"].advice
    async with peer(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        web_server = f"postgresql://u:hunter2@127.0.0.1:{port}/x"
        other = await examined(**settings(web_server, simulator.port))
    assert "another program listens" in other.rows["database"].advice
    assert "hunter2" not in repr((report, unknown, other))


async def test_a_silent_database_is_given_up(simulator: SimulatedGateway) -> None:
    more = {"GATEWAY_BROKER_STORE_TIMEOUT": "0.5"}
    async with peer(b"") as port:
        url = f"postgresql://u:p@127.0.0.1:{port}/x"
        report = await examined(**settings(url, simulator.port, **more))
    assert "no answer within 0.5 s" in report.rows["database"].text
    assert report.rows[LINK].status == "ok"


async def test_a_database_behind_is_to_be_migrated(
    simulator: SimulatedGateway, empty_database_url: str, database_url: str
) -> None:
    empty = await examined(**settings(empty_database_url, simulator.port))
    assert (empty.code, empty.bad()) == (1, {"database schema"})
    assert "is at none, this broker needs 0003" in empty.rows["database schema"].text
    assert "gateway-broker migrate" in empty.rows["database schema"].advice
    await downgrade(database_url, "0002")
    behind = await examined(**settings(database_url, simulator.port))
    assert "is at 0002, this broker needs 0003" in behind.rows["database schema"].text
    automatic = {"GATEWAY_BROKER_AUTO_MIGRATE": "true"}
    itself = await examined(**settings(database_url, simulator.port, **automatic))
    assert (itself.code, itself.bad()) == (0, set())


async def test_a_database_ahead_wants_a_newer_broker(
    simulator: SimulatedGateway, database_url: str
) -> None:
    await execute(database_url, "UPDATE alembic_version SET version_num = '0099'")
    report = await examined(**settings(database_url, simulator.port))
    assert (report.code, report.bad()) == (1, {"database schema"})
    assert "0099" in report.rows["database schema"].text
    assert "newer broker" in report.rows["database schema"].advice


async def test_a_database_that_takes_no_writes_is_named(
    simulator: SimulatedGateway, database_url: str, postgres_cluster: EmbeddedPostgres
) -> None:
    name = re.search(r"/(test_\w+)\?", database_url)
    assert name is not None
    await execute(
        postgres_cluster.dsn, f"ALTER DATABASE {name[1]} SET default_transaction_read_only = on"
    )
    report = await examined(**settings(database_url, simulator.port))
    assert "takes no writes" in report.rows["database"].text


async def test_a_user_without_rights_is_named(
    simulator: SimulatedGateway,
    database_url: str,
    empty_database_url: str,
    postgres_cluster: EmbeddedPostgres,
) -> None:
    role = f"reader_{secrets.token_hex(4)}"
    await execute(postgres_cluster.dsn, f"CREATE ROLE {role} LOGIN PASSWORD 'p'")
    grants = f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
    await execute(database_url, grants)
    await execute(empty_database_url, grants)
    try:
        for url, what in ((database_url, "write"), (empty_database_url, "make")):
            as_reader = re.sub(r"//broker:[^@]+@", f"//{role}:p@", url)
            report = await examined(**settings(as_reader, simulator.port))
            assert f"user '{role}' may not {what}" in report.rows["database"].text
    finally:
        for url in (database_url, empty_database_url):
            await execute(url, f"DROP OWNED BY {role}")
        await execute(postgres_cluster.dsn, f"DROP ROLE {role}")
