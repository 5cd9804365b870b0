"""A PostgreSQL of the test's own, which can be killed, behind an address that stays."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import asyncpg

from broker.errors import StartupError
from broker.store.embedded import EmbeddedPostgres, EmbeddedSettings
from broker.store.migration import upgrade
from tests.harness import eventually
from tests.robustness.proxy import Proxy


class Database:
    """A cluster in a directory, and a proxy in front of it.

    Args:
        directory: the cluster's, which its server's user can pass through.
    """

    def __init__(self, directory: Path, proxy: Proxy) -> None:
        self.proxy = proxy
        self._directory = directory
        self._postgres: EmbeddedPostgres | None = None

    @classmethod
    def of(cls, postgres: EmbeddedPostgres, proxy: Proxy) -> Self:
        """A cluster that runs already, and is another's to stop."""
        database = cls(Path(), proxy)
        database._use(postgres)
        return database

    def url(self, name: str) -> str:
        """How we reach a database: past the proxy. Only while the cluster runs."""
        assert self._postgres is not None
        return urlsplit(self._postgres.url)._replace(path=f"/{name}").geturl()

    def proxied_url(self, name: str) -> str:
        """How the broker reaches it; the same for ever."""
        parts = urlsplit(self.url(name))
        host = f"{parts.username}:{parts.password}@127.0.0.1:{self.proxy.port}"
        return parts._replace(netloc=host).geturl()

    async def start(self) -> None:
        """Start the cluster; after a kill, as soon as its last process is gone."""

        async def started() -> bool:
            postgres = EmbeddedPostgres(EmbeddedSettings(self._directory))
            try:
                await postgres.__aenter__()
            except StartupError:
                return False
            self._use(postgres)
            return True

        await eventually(started, timeout=30)

    def _use(self, postgres: EmbeddedPostgres) -> None:
        self._postgres = postgres
        self.proxy.upstream = urlsplit(postgres.url).port

    async def stop(self) -> None:
        """Stop it as an administrator does."""
        self.proxy.upstream = None
        if self._postgres is not None:
            await self._postgres.__aexit__(None, None, None)
            self._postgres = None

    async def kill(self) -> None:
        """End it with -9; its children follow."""
        assert self._postgres is not None
        self.proxy.upstream = None
        os.kill(self._postgres.pid, signal.SIGKILL)
        await self.stop()

    @property
    def running(self) -> bool:
        """Whether the cluster runs."""
        return self._postgres is not None

    async def create(self, name: str) -> None:
        """Make a database with all tables."""
        connection = await asyncpg.connect(self.url("postgres"), timeout=10)
        try:
            await connection.execute(f"CREATE DATABASE {name}")
        finally:
            await connection.close()
        await upgrade(self.url(name))

    async def answers(self, name: str, timeout: float = 1.0) -> bool:
        """Whether the broker would be answered."""
        if not self.running:
            return False
        with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError):
            connection = await asyncpg.connect(self.proxied_url(name), timeout=timeout)
            try:
                return bool(await connection.fetchval("SELECT true", timeout=timeout))
            finally:
                connection.terminate()
        return False


@asynccontextmanager
async def database(directory: Path) -> AsyncIterator[Database]:
    """A cluster that runs meanwhile."""
    async with Proxy().serving() as proxy:
        it = Database(directory, proxy)
        try:
            await it.start()
            yield it
        finally:
            await it.stop()
