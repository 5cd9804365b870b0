"""`gateway-broker migrate` and `gateway-broker db url`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import typer

from broker.config import load_settings
from broker.errors import StartupError
from broker.store.embedded import EmbeddedPostgres, EmbeddedSettings, running_url
from broker.store.migration import upgrade

db = typer.Typer(help="Look into the database.", no_args_is_help=True)


def migrate() -> None:
    """Bring the database to the version that this broker needs.

    The database is that of DATABASE_URL, else the embedded one. Safe to repeat.
    """
    try:
        settings = load_settings()
        before, after = asyncio.run(_migrate(settings.database_url, settings.data_dir))
    except StartupError as error:
        raise _failed(error) from None
    if before == after:
        typer.echo(f"the database is at {after} already")
    else:
        typer.echo(f"migrated the database: {before or 'empty'} -> {after}")


@db.command()
def url() -> None:
    """Print the address of the database, for psql.

    It contains the password.
    """
    try:
        typer.echo(configured_url())
    except StartupError as error:
        raise _failed(error) from None


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(migrate)
    app.add_typer(db, name="db")


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
    try:
        running = running_url(data_dir)
    except PermissionError as error:
        raise StartupError(
            f"the database in {data_dir} belongs to another user ({error}); "
            "ask as the user that runs the broker"
        ) from error
    if running is None:
        raise StartupError(
            f"no database runs in {data_dir}; start the broker (gateway-broker serve), "
            "or set DATABASE_URL"
        )
    return running


async def _migrate(database_url: str | None, data_dir: Path) -> tuple[str | None, str]:
    if database_url is not None:
        return await upgrade(database_url)
    async with EmbeddedPostgres(EmbeddedSettings(data_dir)) as postgres:
        return await upgrade(postgres.dsn)


def _failed(error: StartupError) -> typer.Exit:
    typer.echo(f"error: {error}", err=True)
    return typer.Exit(1)
