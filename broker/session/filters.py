"""Which sessions a list or a watch is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

from broker.session.model import Session, SessionEvent, SessionState, Transition


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """All fields must match; an empty field matches every session."""

    session_ids: frozenset[UUID] = frozenset()
    gateway_id: str = ""
    owner: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    states: frozenset[SessionState] = frozenset()

    def matches(self, session: Session) -> bool:
        """Whether the session is wanted."""
        spec = session.spec
        return (
            (not self.session_ids or spec.session_id in self.session_ids)
            and self.gateway_id in ("", spec.gateway_id)
            and self.owner in ("", spec.owner)
            and (not self.states or session.state in self.states)
            and all(spec.labels.get(key) == value for key, value in self.labels.items())
        )

    def concerned_by(self, event: SessionEvent) -> bool:
        """Whether the session matched before or after the event.

        Of what a filter asks only the state ever changes, and an event says which one it left.
        """
        return self.matches(event.session) or (
            isinstance(event.change, Transition)
            and event.sequence > 1
            and event.change.source in self.states
            and replace(self, states=frozenset()).matches(event.session)
        )
