"""What holds together all that is logged and recorded of one session because of one cause."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from broker.session.model import SessionSpec


class Trace:
    """A correlation id, and the facts that every log line of a session has.

    Args:
        spec: the session's.
        correlation_id: that of the request which opened it.
        new_id: makes a UUID4.
    """

    def __init__(self, spec: SessionSpec, correlation_id: UUID, new_id: Callable[[], UUID]) -> None:
        self.correlation_id = correlation_id
        self._new_id = new_id
        self._facts = {"session_id": str(spec.session_id), "gateway_id": spec.gateway_id}

    def begin_anew(self) -> None:
        """What follows has another cause: a link was lost."""
        self.correlation_id = self._new_id()

    def about(self, **more: object) -> dict[str, object]:
        """The facts of a log line."""
        return {**self._facts, "correlation_id": str(self.correlation_id), **more}
