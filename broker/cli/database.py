"""`gateway-broker migrate` and `gateway-broker db`: the record, from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from broker.cli import output
from broker.cli.options import FormatOption
from broker.cli.output import Format
from broker.config import Settings, dev_data_dir, load_settings
from broker.errors import StartupError

if TYPE_CHECKING:
    from broker.store.expiry import Expiry

migration = typer.Typer(add_completion=False)
db = typer.Typer(
    help="Look into the database, and delete from it what is old.",
    no_args_is_help=True,
    add_completion=False,
)

DAY: Final = 86400.0

_CHUNK: Final = 500
"""Rows that are deleted at once: a broker that writes meanwhile must not notice."""
_PAUSE: Final = 0.01
"""Seconds between two chunks, for the same reason."""


def _age(days: float | None) -> float | None:
    if days is not None and not 0 < days <= 36_500:
        raise typer.BadParameter("must be more than 0 and at most 36500")
    return days


DaysOption = Annotated[
    float | None,
    typer.Option(
        "--days",
        metavar="DAYS",
        callback=_age,
        help="How old they must be. Default: retention_days of the configuration.",
        show_default=False,
    ),
]

DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing.")
]


@migration.command(epilog="Example: gateway-broker migrate")
def migrate() -> None:
    """Bring the database to the version that this broker needs.

    The database is that of DATABASE_URL, else the embedded one. Safe to repeat.
    """
    settings = load_settings()
    with output.waiting("waiting for the database"):
        before, after = asyncio.run(_migrate(settings.database_url, settings.data_dir))
    if before == after:
        typer.echo(f"the database is at {after} already")
    else:
        typer.echo(f"migrated the database: {before or 'empty'} -> {after}")


@db.command(epilog="Example: gateway-broker db url --dev")
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


@db.command(epilog="Example: gateway-broker db expire --days 30 --dry-run")
def expire(
    *,
    days: DaysOption = None,
    events: Annotated[
        int | None,
        typer.Option(
            "--events",
            metavar="EVENTS",
            min=1,
            max=10_000_000_000,
            help="How many are kept at most. Default: retention_events of the configuration.",
            show_default=False,
        ),
    ] = None,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Delete old events: those of more than so many days, and those beyond so many.

    A broker that runs does this by itself, by its own settings. Use this while none runs, or to
    delete more than it would. What is deleted is gone for good: a watcher that would continue
    there begins anew. Sessions stay; `db cleanup` deletes those that have ended.

    Safe beside a broker, which need not stop, and safe to interrupt and to repeat. The database is
    that of DATABASE_URL, else the embedded one.
    """
    settings = load_settings()
    max_age = (settings.retention_days if days is None else days) * DAY
    max_events = settings.retention_events if events is None else events
    done = asyncio.run(_expire(settings, max_age, max_events, dry_run=dry_run))
    if form is Format.JSON:
        output.document(asdict(done))
    elif dry_run:
        output.line(
            f"would delete {done.deleted:,} events below revision {done.horizon:,}; "
            f"{done.kept:,} would be kept"
        )
    else:
        output.line(
            f"deleted {done.deleted:,} events below revision {done.horizon:,}; "
            f"{done.kept:,} are kept"
        )


@db.command(epilog="Example: gateway-broker db cleanup --days 90 --dry-run")
def cleanup(
    *, days: DaysOption = None, dry_run: DryRunOption = False, form: FormatOption = Format.TABLE
) -> None:
    """Delete sessions that ended so many days ago and of which no event is left.

    Sessions that are open stay, and so do those whose events are kept: `db expire` comes first.

    A broker that runs does this by itself, by its own settings. Safe beside one, and safe to
    interrupt and to repeat. The database is that of DATABASE_URL, else the embedded one.
    """
    settings = load_settings()
    age = settings.retention_days if days is None else days
    deleted = asyncio.run(_cleanup(settings, age * DAY, dry_run=dry_run))
    if form is Format.JSON:
        output.document({"deleted": deleted, "dry_run": dry_run})
    else:
        output.line(
            f"{'would delete' if dry_run else 'deleted'} {deleted:,} sessions that ended more "
            f"than {age:g} days ago and have no events left"
        )


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
    running = _running_url(data_dir)
    if running is None:
        raise StartupError(
            f"no database runs in {data_dir}; start the broker (gateway-broker serve, or "
            "gateway-broker dev for --dev), or set DATABASE_URL"
        )
    return running


def _running_url(data_dir: Path) -> str | None:
    from broker.store.embedded import running_url

    try:
        return running_url(data_dir)
    except PermissionError as error:
        raise StartupError(
            f"the database in {data_dir} belongs to another user ({error}); "
            "ask as the user that runs the broker"
        ) from error


async def _migrate(database_url: str | None, data_dir: Path) -> tuple[str | None, str]:
    from broker.store.embedded import EmbeddedPostgres, EmbeddedSettings
    from broker.store.migration import upgrade

    if database_url is not None:
        return await upgrade(database_url)
    async with EmbeddedPostgres(EmbeddedSettings(data_dir)) as postgres:
        return await upgrade(postgres.dsn)


@dataclass(frozen=True, slots=True)
class _Expired:
    """What became of the log; ``horizon`` is the oldest revision that is kept."""

    deleted: int
    horizon: int
    kept: int
    dry_run: bool


async def _expire(
    settings: Settings, max_age: float, max_events: int, *, dry_run: bool
) -> _Expired:
    async with _expiry(settings) as expiry:
        if dry_run:
            horizon = await expiry.find_horizon(max_age, max_events)
        else:
            horizon = await expiry.raise_horizon(max_age, max_events)
        oldest, newest = await expiry.log_extent()
        deleted = max(horizon - oldest, 0)
        if not dry_run:
            with output.waiting(f"deleting {deleted:,} events below revision {horizon:,}"):
                deleted = await _all(lambda: expiry.expire_events(_CHUNK))
        return _Expired(deleted, horizon, newest + 1 - horizon, dry_run)


async def _cleanup(settings: Settings, max_age: float, *, dry_run: bool) -> int:
    async with _expiry(settings) as expiry:
        count = await expiry.count_stale_connections(max_age)
        if dry_run:
            return count
        with output.waiting(f"deleting {count:,} sessions"):
            return await _all(lambda: expiry.cleanup_stale_connections(max_age, limit=_CHUNK))


async def _all(delete: Callable[[], Awaitable[int]]) -> int:
    """Delete until there is nothing left; returns how many."""
    total = 0
    while deleted := await delete():
        total += deleted
        await asyncio.sleep(_PAUSE)
    return total


@asynccontextmanager
async def _expiry(settings: Settings) -> AsyncIterator[Expiry]:
    """The record of the configuration, beside the broker that uses it or while none does."""
    from broker.store.embedded import EmbeddedPostgres, EmbeddedSettings, has_cluster
    from broker.store.expiry import Expiry
    from broker.store.postgres import Database, StoreSettings, require_schema

    async with AsyncExitStack() as stack:
        dsn = settings.database_url or _running_url(settings.data_dir)
        if dsn is None:
            if not has_cluster(settings.data_dir):
                raise StartupError(
                    f"there is no database in {settings.data_dir}; set GATEWAY_BROKER_DATA_DIR to "
                    "the broker's data directory, or DATABASE_URL"
                )
            embedded = EmbeddedPostgres(EmbeddedSettings(settings.data_dir))
            with output.waiting("waiting for the embedded PostgreSQL to start"):
                dsn = (await stack.enter_async_context(embedded)).dsn
        store = StoreSettings(dsn, timeout=settings.store_timeout)
        await require_schema(store)
        database = await Database.open(store)
        stack.push_async_callback(database.close)
        yield Expiry(database)
