"""Who holds which client id of one gateway, so that the Gateway never sees a double."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
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


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An id that the Gateway may still hold for a connection which did not end cleanly.

    ``reason`` is a constant that says how it ended, ``time`` is when.
    """

    client_id: int
    reason: str
    time: datetime


@dataclass(slots=True)
class ClientIds:
    """The ids held on one gateway.

    ``reserved`` are never given to anybody who did not name them: the master client
    id, which receives the orders of all others, and the id that probes. ``on_quarantine``
    is called with an id and its quarantine, None when that is over.
    """

    gateway_id: str
    pool: Pool
    reserved: frozenset[int] = frozenset()
    on_quarantine: Callable[[int, Quarantined | None], None] = lambda *_: None
    _holders: dict[int, UUID] = field(default_factory=dict)
    _quarantined: dict[int, Quarantined] = field(default_factory=dict)

    @property
    def holders(self) -> Mapping[int, UUID]:
        """The session that holds each id."""
        return self._holders

    @property
    def quarantined(self) -> Mapping[int, Quarantined]:
        """The ids that may still be held at the Gateway."""
        return self._quarantined

    def restore(self, items: Iterable[Quarantined]) -> None:
        """Know again what was in quarantine before the start."""
        self._quarantined.update((item.client_id, item) for item in items)

    def quarantine(self, item: Quarantined) -> None:
        """Do not give an id to anybody who did not name it, until it is seen free."""
        self._quarantined[item.client_id] = item
        self.on_quarantine(item.client_id, item)

    def lift(self, client_id: int) -> None:
        """The id was seen free."""
        if self._quarantined.pop(client_id, None) is not None:
            self.on_quarantine(client_id, None)

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
        """The lowest id of the pool that is free; of those in quarantine, if no other is left,
        the one that has been there longest.

        Raises:
            ClientIdsExhaustedError: there is none.
        """
        for client_id in self._free(self.pool.first, self.pool.last):
            return client_id
        waiting = [
            item
            for item in self._quarantined.values()
            if item.client_id in self.pool and item.client_id not in self._holders
        ]
        if not waiting:
            raise ClientIdsExhaustedError(self.gateway_id, str(self.pool))
        return min(waiting, key=lambda item: item.time).client_id

    def after(self, client_id: int) -> int | None:
        """The next free id above this one; one of the pool is followed by one of the pool."""
        last = self.pool.last if client_id in self.pool else HIGHEST
        return next(self._free(client_id + 1, last), None)

    def _free(self, first: int, last: int) -> Iterator[int]:
        return (
            client_id
            for client_id in range(first, last + 1)
            if client_id not in self._holders
            and client_id not in self.reserved
            and client_id not in self._quarantined
        )
