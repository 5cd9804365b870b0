"""The log as the record has it, for watchers that memory no longer serves."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from broker.errors import StoreUnavailableError
from broker.session.model import SessionEvent
from broker.store.base import LogPage, Store

BLOCK: Final = 64
"""Events that are read at once: decoding them must not hold up those who are up to date."""

BLOCKS: Final = 32
"""Blocks that are kept, so that many who come back to the same place read it once."""


@dataclass(slots=True)
class Entry:
    """One event as all watchers share it; a provisional one has the revision 0.

    ``encoded`` is for the transport: the first watcher to send the event leaves its message there
    for the others who have all up to the revision ``encoded_for``.
    """

    event: SessionEvent
    encoded: bytes | None = None
    encoded_for: int = -1


class Archive:
    """Reads the record in blocks, one at a time for all.

    Args:
        store: the record.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        # By the revision before the first of them; only whole ones, which never change.
        self._blocks: OrderedDict[int, Sequence[Entry]] = OrderedDict()
        self._turn = asyncio.Lock()
        self._failed_at = float("-inf")

    async def after(self, revision: int) -> Sequence[Entry]:
        """The events that follow a revision, without gap, as many as a block still holds.

        Returns:
            At least one, or none if the next one was deleted.

        Raises:
            StoreUnavailableError: the record cannot be read.

        Cancellation is safe.
        """
        start = revision - revision % BLOCK
        came_at = asyncio.get_running_loop().time()
        async with self._turn:
            block = self._blocks.get(start)
            if block is not None:
                self._blocks.move_to_end(start)
                return block[revision - start :]
            page = await self._read(start, came_at)
        entries = [Entry(event) for event in page.events if event.revision > revision]
        if not entries or entries[0].event.revision != revision + 1:
            return ()
        if len(page.events) == BLOCK:
            block = self._blocks[start] = [Entry(event) for event in page.events]
            entries = block[revision - start :]
            if len(self._blocks) > BLOCKS:
                self._blocks.popitem(last=False)
        return entries

    async def _read(self, start: int, came_at: float) -> LogPage:
        """Read one block; a failure is that of all who waited for their turn meanwhile."""
        if self._failed_at >= came_at:
            raise StoreUnavailableError("the record cannot be read now")
        try:
            return await self._store.read_log(start, limit=BLOCK)
        except StoreUnavailableError:
            self._failed_at = asyncio.get_running_loop().time()
            raise
