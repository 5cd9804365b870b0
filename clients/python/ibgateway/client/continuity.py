"""Proves that a watch is complete, and keeps what it has told. Pure: no I/O, no clock.

Rules, from the contract of WatchSessions:

1. A stream that begins anew has snapshots, then their completion, then events. One that continues
   has events only, unless a reset says that it begins anew.
2. Persisted events come in the order of their revisions.
3. An event is told if its session matched before or after it. So the event after one whose session
   matches has the next sequence; a session that comes into view later may have any. Only its state
   can bring a session into view later: without a filter on states, a session that the snapshot did
   not have begins with 1.
4. An event that is not persisted yet is told again once it is. Until then it stands beside what is
   kept, and is void when the stream is lost: the broker may have died with it.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping

from ibgateway.client.errors import WatchGapError
from ibgateway.client.events import (
    Bookmark,
    Draining,
    Reset,
    SessionEvent,
    Snapshot,
    SnapshotComplete,
    WatchItem,
)
from ibgateway.client.model import SessionInfo, SessionState


class _Phase(enum.Enum):
    SNAPSHOT = "the snapshot is told"
    EVENTS = "events follow"


class Continuity:
    """What a watch knows, over all of its streams.

    Args:
        states: the filter on states; empty is all.
        include_final: whether the snapshot has final sessions.
        resume_token: where to continue; empty begins with a snapshot.
    """

    def __init__(
        self,
        *,
        states: Collection[SessionState] = (),
        include_final: bool = False,
        resume_token: str = "",
    ) -> None:
        self._states = frozenset(states)
        self._include_final = include_final or any(state.is_final for state in states)
        self._token = resume_token
        self._phase = _Phase.EVENTS if resume_token else _Phase.SNAPSHOT
        self._revision = 0
        # Whether a session that is not known must be new.
        self._knows_all = False
        self._kept: dict[str, SessionInfo] = {}
        self._provisional: dict[str, SessionInfo] = {}
        self._snapshot: dict[str, SessionInfo] = {}

    @property
    def token(self) -> str:
        """Where to continue; empty if that would be in the middle of a snapshot."""
        return self._token

    @property
    def is_complete(self) -> bool:
        """Whether all sessions that match are known."""
        return self._knows_all and self._phase is _Phase.EVENTS

    @property
    def sessions(self) -> Mapping[str, SessionInfo]:
        """The sessions that match, as they are visible; during a new snapshot those of before."""
        return {
            session_id: session
            for session_id, session in (self._kept | self._provisional).items()
            if self._is_shown(session)
        }

    def begin(self) -> Reset | None:
        """A new stream begins with `token`.

        Returns:
            What whoever was told half a snapshot must be told now.
        """
        self._provisional.clear()
        if self._phase is _Phase.EVENTS:
            return None
        told, self._snapshot = bool(self._snapshot), {}
        return Reset(reason="SNAPSHOT_INCOMPLETE") if told else None

    def accept(self, item: WatchItem) -> None:
        """Take an item of the stream.

        Raises:
            WatchGapError: something is missing before it; nothing has changed.
        """
        match item:
            case SessionEvent():
                self._event(item)
            case Snapshot(session=session):
                self._require(_Phase.SNAPSHOT, "a snapshot came where events were due")
                self._snapshot[session.session_id] = session
            case SnapshotComplete():
                self._require(_Phase.SNAPSHOT, "a snapshot ended that had not begun")
                self._kept, self._snapshot = self._snapshot, {}
                self._phase, self._knows_all = _Phase.EVENTS, True
                self._revision, self._token = item.revision, item.token
            case Reset():
                self._provisional.clear()
                self._snapshot = {}
                self._phase, self._token = _Phase.SNAPSHOT, ""
            case Bookmark():
                if item.revision < self._revision:
                    raise WatchGapError(
                        f"a bookmark says {item.revision}, but revision {self._revision} was told",
                        expected=self._revision,
                        received=item.revision,
                    )
                self._revision = item.revision
                self._follow(item.token)
            case Draining():
                self._follow(item.token)

    def _require(self, phase: _Phase, message: str) -> None:
        if self._phase is not phase:
            raise WatchGapError(f"{message}: what happened before it is missing")

    def _follow(self, token: str) -> None:
        if self._phase is _Phase.EVENTS:
            self._token = token

    def _event(self, event: SessionEvent) -> None:
        self._require(_Phase.EVENTS, "an event came before the snapshot was complete")
        session_id = event.session_id
        before = self._kept.get(session_id)
        if not event.persisted:
            self._expect(event, self._provisional.get(session_id, before))
            self._provisional[session_id] = event.session
            self._follow(event.token)
            return
        if event.revision <= self._revision:
            raise WatchGapError(
                f"revision {event.revision} came after {self._revision}",
                session_id=session_id,
                expected=self._revision + 1,
                received=event.revision,
            )
        self._expect(event, before)
        shown = self._provisional.get(session_id)
        if shown is not None and shown.sequence <= event.sequence:
            del self._provisional[session_id]
        if self._is_shown(event.session):
            self._kept[session_id] = event.session
        else:
            self._kept.pop(session_id, None)
        self._revision = event.revision
        self._follow(event.token)

    def _expect(self, event: SessionEvent, before: SessionInfo | None) -> None:
        """Require that no event is missing between the last one of a session and this one."""
        if before is not None and self._matches(before):
            expected, exact = before.sequence + 1, True
        elif before is not None:
            expected, exact = before.sequence + 1, False
        else:
            expected, exact = 1, self._knows_all and not self._states
        if event.sequence == expected or (event.sequence > expected and not exact):
            return
        last = event.sequence - 1
        missing = f"event {expected} is" if last == expected else f"events {expected} to {last} are"
        raise WatchGapError(
            f"{missing} missing of session {event.session_id}"
            if event.sequence > expected
            else f"event {event.sequence} of session {event.session_id} came again",
            session_id=event.session_id,
            expected=expected,
            received=event.sequence,
        )

    def _matches(self, session: SessionInfo) -> bool:
        return not self._states or session.state in self._states

    def _is_shown(self, session: SessionInfo) -> bool:
        return self._matches(session) and (self._include_final or not session.is_final)
