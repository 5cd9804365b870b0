"""What one watcher is told, from its first message to its last.

Without a token: the sessions as of one revision, then what follows. With one: what follows it. If
that cannot be had: a reset, and then as without.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from broker.events.archive import Entry
from broker.events.hub import ExpiredError, Hub, Signal
from broker.events.token import NOWHERE, ResumeToken
from broker.session.filters import SessionFilter
from broker.session.model import Session
from broker.store.base import PageKey, Store

_PAGE: Final = 100
"""Final sessions that are read at once for a snapshot."""


class ResetReason(enum.StrEnum):
    """Why a watcher begins anew."""

    TOKEN_TOO_OLD = "TOKEN_TOO_OLD"  # noqa: S105 # nosec B105 # a reason, no secret
    TOKEN_OF_ANOTHER_STORE = "TOKEN_OF_ANOTHER_STORE"  # noqa: S105 # nosec B105
    TOKEN_AHEAD = "TOKEN_AHEAD"  # noqa: S105 # nosec B105
    SNAPSHOT_INCOMPLETE = "SNAPSHOT_INCOMPLETE"
    EVENTS_EXPIRED = "EVENTS_EXPIRED"


class SnapshotComplete(enum.Enum):
    """All sessions were told."""

    SNAPSHOT_COMPLETE = "snapshot complete"


Told = Session | SnapshotComplete | ResetReason | Entry | Signal


@dataclass(frozen=True, slots=True)
class Watches:
    """Serves watchers.

    Args:
        hub: what happens.
        store: the record, for sessions that are final.
        idle: seconds without a message after which an idle watcher is told so.
    """

    hub: Hub
    store: Store
    idle: float

    @property
    def store_id(self) -> UUID:
        """Names the log that tokens belong to."""
        return self.store.store_id

    async def follow(
        self, wanted: SessionFilter, *, include_final: bool, token: ResumeToken | None
    ) -> AsyncGenerator[tuple[Told, int], None]:
        """Tell one watcher all that it should know, until the broker ends.

        Args:
            wanted: which sessions.
            include_final: whether the snapshot has those that have ended, too.
            token: where it left off; None begins with a snapshot.

        Yields:
            What is told, and the revision up to which the watcher has all with it; NOWHERE
            as long as its snapshot is not complete.

        Raises:
            SlowConsumerError: its lag has grown too far.
            StoreUnavailableError: what it asks for is in the record only, and that is away.

        Cancellation is safe.
        """
        reason = self._obstacle(token) if token is not None else None
        position = token.revision if token is not None and reason is None else None
        while True:
            if reason is not None:
                yield reason, NOWHERE
            if position is None:
                # The snapshot is that of one instant; what happens while it is sent follows.
                position = self.hub.revision
                live = [session for session in self.hub.kept.values() if wanted.matches(session)]
                for session in live:
                    yield session, NOWHERE
                if include_final:
                    async for session in self._final(wanted, position):
                        yield session, NOWHERE
                yield SnapshotComplete.SNAPSHOT_COMPLETE, position
            try:
                async for item, reached in self.hub.tail(wanted, position, idle=self.idle):
                    yield item, reached
            except ExpiredError:
                position, reason = None, ResetReason.EVENTS_EXPIRED
            else:
                return

    def _obstacle(self, token: ResumeToken) -> ResetReason | None:
        """Why a token cannot be continued."""
        if token.store_id != self.store.store_id:
            return ResetReason.TOKEN_OF_ANOTHER_STORE
        if token.revision == NOWHERE:
            return ResetReason.SNAPSHOT_INCOMPLETE
        if token.revision > self.hub.revision:
            return ResetReason.TOKEN_AHEAD
        if not self.hub.holds(token.revision):
            return ResetReason.TOKEN_TOO_OLD
        return None

    async def _final(self, wanted: SessionFilter, position: int) -> AsyncIterator[Session]:
        """The final sessions of the record, as of a revision; later ones follow as events."""
        after = None
        while True:
            page = await self.store.list_connections(wanted, after=after, limit=_PAGE)
            for session in page:
                if session.state.is_final and session.revision <= position:
                    yield session
            if len(page) < _PAGE:
                return
            after = PageKey(page[-1].create_time, page[-1].spec.session_id)
