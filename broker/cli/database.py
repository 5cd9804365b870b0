"""`gateway-broker migrate` and `gateway-broker db url`: the record, from outside."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from broker.config import dev_data_dir, load_settings
from broker.errors import StartupError

db = typer.Typer(help="Look into the database.", no_args_is_help=True)


def migrate() -> None:
    """Bring the database to the version that this broker needs.

    The database is that of DATABASE_URL, else the embedded one. Safe to repeat.
    """
    settings = load_settings()
    before, after = asyncio.run(_migrate(settings.database_url, settings.data_dir))
    if before == after:
        typer.echo(f"the database is at {after} already")
    else:
        typer.echo(f"migrated the database: {before or 'empty'} -> {after}")


@db.command()
def url(
    *,
    dev: Annotated[
        bool, typer.Option("--dev", help="The database of `gateway-broker dev`.")
    ] = False,
) -> None:
    """Print the address of the database, for psql. It contains the password.

    It is DATABASE_URL, else that of the embedded PostgreSQL, which runs as long as the broker.
    """
    typer.echo(embedded_url(dev_data_dir()) if dev else configured_url())


def configured_url() -> str:
    """DATABASE_URL, else the embedded PostgreSQL that runs in the data directory.

    Raises:
        StartupError: there is neither.
    """
    settings = load_settings()
    return settings.database_url or embedded_url(settings.data_dir)


def embedded_url(data_dir: Path) -> str:
    """The address of the embedded PostgreSQL that runs in a data directory.

    Raises:
        StartupError: none runs there, or it belongs to another user.
    """
    from broker.store.embedded import running_url

    try:
        running = running_url(data_dir)
    except PermissionError as error:
        raise StartupError(
            f"the database in {data_dir} belongs to another user ({error}); "
            "ask as the user that runs the broker"
        ) from error
    if running is None:
        raise StartupError(
            f"no database runs in {data_dir}; start the broker (gateway-broker serve, or "
            "gateway-broker dev for --dev), or set DATABASE_URL"
        )
    return running


async def _migrate(database_url: str | None, data_dir: Path) -> tuple[str | None, str]:
    from broker.store.embedded import EmbeddedPostgres, EmbeddedSettings
    from broker.store.migration import upgrade

    if database_url is not None:
        return await upgrade(database_url)
    async with EmbeddedPostgres(EmbeddedSettings(data_dir)) as postgres:
        return await upgrade(postgres.dsn)
