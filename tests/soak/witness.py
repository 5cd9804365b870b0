"""A watcher that believes nothing: it holds each event against the rules of the design."""

from __future__ import annotations

from typing import Any

from ibgateway.broker.v1 import session_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.rpc.convert import STATES
from broker.session.machine import TRANSITIONS
from tests.harness import CONNECTED, CONNECTING, DISCONNECTED, FAILED, RECONNECTING, Client

FINAL = (DISCONNECTED, FAILED)
EDGES = {(STATES[source], STATES[target]) for source, target in TRANSITIONS}


class Witness:
    """Follows every session from its first event; ``sessions`` is what the events add up to."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.sessions: dict[str, session_pb2.Session] = {}
        self.events = 0
        self.revision = 0

    async def follow(self) -> None:
        """Watch until cancelled or until the stream ends."""
        async for message in self._client.sessions.WatchSessions(pb.WatchSessionsRequest()):
            # An event that is not on record yet comes again.
            if message.WhichOneof("message") == "event" and message.event.persisted:
                self.take(message.event)

    def take(self, event: Any) -> None:
        """Hold an event against the rules. Raises AssertionError."""
        now = event.session
        before = self.sessions.get(event.session_id)
        self.events += 1
        assert event.revision > self.revision, "ordered by revision"
        self.revision = event.revision
        assert event.sequence == now.sequence == (before.sequence if before else 0) + 1, "no gap"
        state = before.state if before else DISCONNECTED
        assert state not in FINAL or before is None, "I4: a final session never moves again"
        if event.WhichOneof("change") == "transition":
            edge = (getattr(event.transition, "from"), event.transition.to)
            assert edge in EDGES, f"I1: {edge}"
            assert edge == (state, now.state), "I5: the state is that of the last event"
        else:
            assert now.state == state, "only a transition moves the state"
        if before is not None:
            self._compare(before, now)
        if now.state == FAILED:
            assert now.last_failure.reason.startswith("IB_CONN_00"), "I6: one of the six"
        if now.state == CONNECTED:
            assert now.generation >= 1
            assert now.accounts
        if event.WhichOneof("change") == "attempt":
            assert event.attempt.HasField("next_attempt_time"), "who waits says until when"
            assert event.attempt.failure.hint
        self.sessions[event.session_id] = now

    def _compare(self, before: Any, now: Any) -> None:
        for name in ("gateway_id", "owner", "labels", "readonly", "create_time"):
            assert getattr(now, name) == getattr(before, name), f"I6: {name}"
        if before.state != CONNECTING:
            assert now.client_id == before.client_id, "I6: the client id stays"
        made_anew = before.state != CONNECTED and now.state == CONNECTED
        assert now.generation == before.generation + made_anew, "+1 per handshake"
        if before.state == CONNECTED and now.state == RECONNECTING:
            assert now.HasField("next_attempt_time"), "who waits says until when"
            assert now.last_failure.hint
