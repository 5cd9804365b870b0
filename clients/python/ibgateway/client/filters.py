"""Which sessions are meant."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ibgateway.client import conversion
from ibgateway.client.model import SessionState


@dataclass(frozen=True, kw_only=True)
class Filter:
    """All of it must match; what is empty asks for nothing."""

    session_ids: tuple[str, ...] = ()
    gateway_id: str = ""
    owner: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    states: tuple[SessionState, ...] = ()
    include_final: bool = False

    @classmethod
    def of(
        cls,
        *,
        session_ids: Collection[str],
        gateway_id: str,
        owner: str,
        labels: Mapping[str, str] | None,
        states: Collection[SessionState],
        include_final: bool,
    ) -> Self:
        """As callers give it.

        Raises:
            TypeError: a single id or state, where several are expected.
            ValueError: a state that does not exist, or UNKNOWN.
        """
        for name, given in (("session_ids", session_ids), ("states", states)):
            if isinstance(given, str):
                raise TypeError(f"{name} must be a collection, such as [{given!r}]")
        wanted = tuple(map(SessionState, states))
        for state in wanted:
            conversion.state_name(state)
        return cls(
            session_ids=tuple(session_ids),
            gateway_id=gateway_id,
            owner=owner,
            labels=dict(labels or {}),
            states=wanted,
            include_final=include_final,
        )

    def fields(self) -> dict[str, Any]:
        """As list and watch requests have them."""
        return {
            "session_ids": self.session_ids,
            "gateway_id": self.gateway_id,
            "owner": self.owner,
            "labels": self.labels,
            "states": [conversion.state_name(state) for state in self.states],
            "include_final": self.include_final,
        }
