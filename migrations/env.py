"""How Alembic reaches the database.

``broker.store.migration`` brings its own connection. The plain ``alembic`` command uses
the database of the broker's configuration, or that of ``-x url=postgresql://…``.
"""

from __future__ import annotations

import asyncio
import runpy
from pathlib import Path

from alembic import context
from sqlalchemy import Connection, text

from broker.cli.database import configured_url
from broker.store.migration import connected

# Loaded by its path: in a wheel this directory is not the package ``migrations``.
METADATA = runpy.run_path(str(Path(__file__).with_name("schema.py")))["METADATA"]

# Two brokers that migrate at once take turns; the second finds the work done.
LOCK = 0x6D696772617465


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=METADATA,
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        context.run_migrations()


async def _run_alone() -> None:
    url = context.get_x_argument(as_dictionary=True).get("url") or configured_url()
    async with connected(url) as connection:
        await connection.run_sync(_run)


if context.is_offline_mode():
    raise SystemExit("migrations run against a database; --sql is not supported")
if (given := context.config.attributes.get("connection")) is not None:
    _run(given)
else:
    asyncio.run(_run_alone())
