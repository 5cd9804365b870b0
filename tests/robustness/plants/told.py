"""Bugs in what watchers are told."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any
from uuid import UUID

from broker.events.archive import Entry
from broker.events.hub import Hub, Signal
from broker.events.token import ResumeToken
from broker.events.watch import Watches
from broker.session.model import Session, SessionEvent
from tests.robustness.plants.plant import plant, put

Told = tuple[Entry | Signal, int]
Tail = AsyncIterator[Told]


def _through(change: Callable[[Tail], AsyncGenerator[Told, None]]) -> None:
    """Let everything that watchers are told pass through a change."""
    tail = Hub.tail

    async def changed(self: Hub, *args: Any, **kwargs: Any) -> AsyncGenerator[Told, None]:
        async with (
            aclosing(tail(self, *args, **kwargs)) as told,
            aclosing(change(told)) as changed_too,
        ):
            async for item in changed_too:
                yield item

    put(Hub, "tail", changed)


def _is_kept(item: Entry | Signal) -> bool:
    return isinstance(item, Entry) and item.event.revision > 0


# -- what watchers are told ------------------------------------------------------------


@plant("ordered")
def neighbours_are_swapped() -> None:
    """Two events that are ready at once leave in the wrong order."""

    async def change(told: Tail) -> AsyncGenerator[Told, None]:
        held: list[Told] = []
        async for item, position in told:
            if _is_kept(item) and position % 10 == 0:
                held.append((item, position))
                continue
            yield item, position
            while held:
                yield held.pop()

    _through(change)


@plant("unique")
def an_event_is_sent_again() -> None:
    """A retry of a write that had succeeded."""

    async def change(told: Tail) -> AsyncGenerator[Told, None]:
        async for item, position in told:
            yield item, position
            if _is_kept(item) and position % 10 == 0:
                yield item, position

    _through(change)


@plant("reliable")
def an_event_is_skipped() -> None:
    """An off by one where memory ends and the record begins."""

    async def change(told: Tail) -> AsyncGenerator[Told, None]:
        async for item, position in told:
            if not (_is_kept(item) and position % 10 == 0):
                yield item, position

    _through(change)


@plant("reliable", card="stall_database")
def what_was_told_early_is_not_told_again() -> None:
    """A watcher that knows an event already does not get it for good."""

    async def change(told: Tail) -> AsyncGenerator[Told, None]:
        known: set[tuple[UUID, int]] = set()
        async for item, position in told:
            if isinstance(item, Entry):
                key = (item.event.session_id, item.event.sequence)
                if item.event.revision and key in known:
                    continue
                known.add(key)
            yield item, position

    _through(change)


@plant("provisional", card="stall_database")
def a_provisional_event_is_another() -> None:
    """What is told is not what is written."""
    publish = Hub.publish_provisional

    def changed(self: Hub, events: Sequence[SessionEvent]) -> Sequence[Session]:
        return publish(
            self,
            [replace(event, session=replace(event.session, error_count=1000)) for event in events],
        )

    put(Hub, "publish_provisional", changed)


@plant("resumable")
def a_token_means_the_next_event() -> None:
    """An off by one in what a token stands for."""
    follow = Watches.follow

    def changed(self: Watches, *args: Any, token: ResumeToken | None, **kwargs: Any) -> Any:
        if token is not None and token.revision < self.hub.revision:
            token = replace(token, revision=token.revision + 1)
        return follow(self, *args, token=token, **kwargs)

    put(Watches, "follow", changed)


@plant("resumable")
def a_good_token_is_reset() -> None:
    """A horizon that is taken for higher than it is."""

    def changed(self: Hub, revision: int) -> bool:
        return False

    put(Hub, "holds", changed)


@plant("bookmarkable")
def a_bookmark_overtakes_an_event() -> None:
    """The position moves before what is there has been told."""

    async def change(told: Tail) -> AsyncGenerator[Told, None]:
        async for item, position in told:
            if _is_kept(item) and position % 10 == 0:
                yield Signal.IDLE, position
            yield item, position

    _through(change)


@plant("heard")
def nobody_is_told_that_nothing_happens() -> None:
    """No bookmarks."""

    async def change(told: Tail) -> AsyncGenerator[Told, None]:
        async for item, position in told:
            if item is not Signal.IDLE:
                yield item, position

    _through(change)


@plant("ended", card="stop_broker")
def nobody_is_told_of_the_stop() -> None:
    """No draining."""

    async def change(told: Tail) -> AsyncGenerator[Told, None]:
        async for item, position in told:
            if item is not Signal.DRAINING:
                yield item, position

    _through(change)


@plant("atomic")
def a_snapshot_is_behind_its_position() -> None:
    """The sessions are read before the revision is."""
    publish = Hub.publish
    behind: dict[UUID, Session] = {}

    def changed(self: Hub, events: Sequence[SessionEvent]) -> None:
        behind.clear()
        behind.update(self._kept)
        publish(self, events)

    def kept(self: Hub) -> Mapping[UUID, Session]:
        return behind or self._kept

    put(Hub, "publish", changed)
    put(Hub, "kept", property(kept))
