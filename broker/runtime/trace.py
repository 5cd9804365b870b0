"""What holds together all that is logged, recorded and traced because of one cause."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from uuid import UUID

from broker.runtime.observer import Observer
from broker.session.model import Session, SessionSpec, SessionState

correlation_id: contextvars.ContextVar[str] = contextvars.ContextVar("correlation_id")
"""That of what the running task is at: a request, or the outage of a session or of a sentinel. Each
log line has it. A UUID4."""


class Trace:
    """A correlation id, and the facts that every log line of a session has.

    All but ``about`` is for the session's own task: the cause is also that of its context.

    Args:
        spec: the session's.
        correlation_id: that of the request which opened it.
        new_id: makes a UUID4.
        observer: is told when the cause changes.
    """

    def __init__(
        self,
        spec: SessionSpec,
        correlation_id: UUID,
        new_id: Callable[[], UUID],
        observer: Observer,
    ) -> None:
        self.correlation_id = correlation_id
        self._new_id = new_id
        self._observer = observer
        self._facts = {"session_id": str(spec.session_id), "gateway_id": spec.gateway_id}

    def begin(self, session: Session) -> None:
        """The session's task begins, in the context of whoever made it."""
        correlation_id.set(str(self.correlation_id))
        if session.state is SessionState.RECONNECTING:  # as a broker before this one has left it
            self._observer.outage_began(session, self.correlation_id)

    def begin_anew(self, session: Session) -> None:
        """What follows has another cause: a link was lost, or the broker stops."""
        self.correlation_id = self._new_id()
        correlation_id.set(str(self.correlation_id))
        if session.state is SessionState.CONNECTED:
            self._observer.outage_began(session, self.correlation_id)

    def adopt(self, cause: UUID, context: contextvars.Context) -> None:
        """What follows is because of a request, which was made in this context."""
        for variable, value in context.items():
            variable.set(value)
        self.correlation_id = cause
        correlation_id.set(str(cause))

    def settle(self) -> None:
        """What was caused has come to its end."""
        self._observer.settled()

    def about(self, **more: object) -> dict[str, object]:
        """The facts of a log line."""
        return {**self._facts, "correlation_id": str(self.correlation_id), **more}
