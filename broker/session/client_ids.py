"""Who holds which client id of one gateway, so that the Gateway never sees a double."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from broker.errors import ClientIdsExhaustedError

LOWEST: Final = 1
HIGHEST: Final = 9999


@dataclass(frozen=True, slots=True)
class Pool:
    """The client ids that are given to callers who name none, from ``first`` to ``last``."""

    first: int = 100
    last: int = 999

    def __str__(self) -> str:
        """As in the configuration."""
        return f"{self.first}-{self.last}"

    def __contains__(self, client_id: int) -> bool:
        """Whether the id is one of them."""
        return self.first <= client_id <= self.last


@dataclass(slots=True)
class ClientIds:
    """The ids held on one gateway.

    ``reserved`` are never given to anybody who did not name them: the master client
    id, which receives the orders of all others, and the id that probes.
    """

    gateway_id: str
    pool: Pool
    reserved: frozenset[int] = frozenset()
    _holders: dict[int, UUID] = field(default_factory=dict)

    @property
    def holders(self) -> Mapping[int, UUID]:
        """The session that holds each id."""
        return self._holders

    def take(self, client_id: int, session_id: UUID) -> None:
        """Hold an id that nobody holds.

        Raises:
            ValueError: it is held; the caller did not look.
        """
        if client_id in self._holders:
            raise ValueError(f"client id {client_id} is held by {self._holders[client_id]}")
        self._holders[client_id] = session_id

    def release(self, client_id: int, session_id: UUID) -> None:
        """Give an id up; only its holder can."""
        if self._holders.get(client_id) == session_id:
            del self._holders[client_id]

    def from_pool(self) -> int:
        """The lowest id of the pool that is free.

        Raises:
            ClientIdsExhaustedError: there is none.
        """
        for client_id in self._free(self.pool.first, self.pool.last):
            return client_id
        raise ClientIdsExhaustedError(self.gateway_id, str(self.pool))

    def after(self, client_id: int) -> int | None:
        """The next free id above this one; one of the pool is followed by one of the pool."""
        last = self.pool.last if client_id in self.pool else HIGHEST
        return next(self._free(client_id + 1, last), None)

    def _free(self, first: int, last: int) -> Iterator[int]:
        return (
            client_id
            for client_id in range(first, last + 1)
            if client_id not in self._holders and client_id not in self.reserved
        )
