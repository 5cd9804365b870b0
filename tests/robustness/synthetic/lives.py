"""A log that nobody wrote: sessions that live by the machine's rules, under two brokers, the first
of which is killed while the database is away.
"""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from ibgateway.broker.v1 import session_event_pb2, session_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.errors import ErrorCode, Phase
from broker.rpc import convert
from broker.session import inputs, machine
from broker.session.model import (
    ClientIdPolicy,
    CloseReason,
    Condition,
    ConditionStatus,
    Failure,
    Session,
    SessionEvent,
    SessionSpec,
)
from tests.robustness.history import OK, Call, Incarnation, Outage
from tests.robustness.traffic import OWNERS, TEAMS

EPOCH: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WALL: Final = EPOCH.timestamp()
END: Final = 20.0
DEATH: Final = 10.0
"""When the first broker is killed."""
BIRTH: Final = 11.0
"""When the second one serves."""
AWAY: Final = ((3.0, 5.0), (8.5, 10.5), (14.0, 16.0))
"""When the database is away; in the second of them the broker dies."""
CALM: Final = 18.5
"""From then on all that is broken heals."""
LEASE: Final = 2.0


@dataclass(slots=True)
class Happening:
    """One event.

    Args:
        at: when it happened; while the database is away it is told then, provisionally.
        kept: when it was written, and is told for good; None if it never was.
        epoch: of the broker.
        before: the session before it.
        told: as it is told provisionally; None if it was kept at once.
        event: as it is in the log; None if it is not.
    """

    at: float
    kept: float | None
    epoch: int
    before: session_pb2.Session | None
    told: session_event_pb2.SessionEvent | None = None
    event: session_event_pb2.SessionEvent | None = None
    request_id: str = ""

    @property
    def session(self) -> session_pb2.Session:
        """The session after it."""
        event = self.event or self.told
        assert event is not None
        return event.session


@dataclass(slots=True)
class Life:
    """One session: as its broker has it, who waits for what, when its lease began, and whether the
    log has it CONNECTED.
    """

    session: Session
    opening: Call
    closing: Call | None = None
    renewed: float = 0.0
    connected: bool = False


@dataclass(slots=True)
class Story:
    """What happened."""

    happenings: list[Happening] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    incarnations: list[Incarnation] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)


def away(at: float) -> bool:
    """Whether the database is away."""
    return any(begin <= at < end for begin, end in AWAY)


def tell(dice: random.Random) -> Story:
    """Make up a story."""
    teller = _Teller(dice)
    teller.tell()
    story = teller.story
    story.incarnations = [
        Incarnation(1, -1.0, ready=0.0001, ended=DEATH, how="KILLED", code=-9, epoch=1),
        Incarnation(2, 10.2, ready=BIRTH, ended=END, how="TERMINATED", code=0, epoch=2),
    ]
    story.outages = [Outage("stalled", begin, end) for begin, end in AWAY]
    return story


class _Teller:
    def __init__(self, dice: random.Random) -> None:
        self.story = Story()
        self._dice = dice
        self._now = 0.0
        self._revision = 0
        self._all: dict[uuid.UUID, Life] = {}
        self._lives: dict[uuid.UUID, Life] = {}
        self._kept: dict[uuid.UUID, Session] = {}
        self._free: list[tuple[str, uuid.UUID]] = []
        self._waiting: list[tuple[Happening, SessionEvent]] = []

    def tell(self) -> None:
        self._act_until(DEATH)
        self._now = DEATH
        for call in self.story.calls:
            if not call.end:
                self._answer(call, "UNAVAILABLE")
        self._waiting.clear()
        self._now = BIRTH
        open_ones = [kept for kept in self._kept.values() if not kept.state.is_final]
        self._lives = {kept.spec.session_id: self._all[kept.spec.session_id] for kept in open_ones}
        for kept in open_ones:
            life = self._lives[kept.spec.session_id]
            life.session, life.closing = kept, None
            self._step(life, inputs.BrokerRestarted(self._failure()))
        self._act_until(CALM)
        while any(
            life.session.is_closing or life.session.state is not machine.CONNECTED
            for life in self._lives.values()
        ):
            self._now += 0.05
            for life in list(self._lives.values()):
                if life.session.is_closing:
                    self._step(life, inputs.LinkEnded())
                elif life.session.state is not machine.CONNECTED:
                    self._step(life, self._up())

    def _act_until(self, end: float) -> None:
        while True:
            before, self._now = self._now, self._now + self._dice.uniform(0.02, 0.3)
            if any(before < until <= self._now for _, until in AWAY):
                self._catch_up(next(until for _, until in AWAY if before < until <= self._now))
            if self._now >= end:
                return
            if len(self._lives) < 2 or (len(self._lives) < 6 and self._dice.random() < 0.3):
                if not away(self._now):
                    self._open()
            else:
                self._advance(self._dice.choice(list(self._lives.values())))

    def _open(self) -> None:
        dice = self._dice
        owner = dice.choice(OWNERS)
        request_id = None
        if dice.random() < 0.5:
            free = [one for who, one in self._free if who == owner]
            request_id = dice.choice(free) if free else uuid.UUID(int=dice.getrandbits(128))
            self._free = [pair for pair in self._free if pair != (owner, request_id)]
        leased = dice.random() < 0.4
        session_id = uuid.UUID(int=dice.getrandbits(128), version=4)
        spec = SessionSpec(
            session_id=session_id,
            gateway_id="default",
            host="127.0.0.1",
            port=4002,
            owner=owner,
            requested_client_id=7,
            client_id_policy=ClientIdPolicy.INCREMENT,
            readonly=False,
            timeout=30.0,
            max_attempts=3,
            reconnect_max_attempts=None,
            return_immediately=dice.random() < 0.3,
            labels={"team": dice.choice(TEAMS)},
            request_id=request_id,
        )
        request = pb.OpenSessionRequest(
            labels=spec.labels,
            request_id=str(request_id or ""),
            return_immediately=spec.return_immediately,
        )
        opening = self._call("OpenSession", owner, request)
        step = machine.open_session(
            spec,
            dice.randrange(100, 999),
            lease_ttl=LEASE if leased else None,
            now=self._time(),
            correlation_id=uuid.UUID(int=1),
        )
        life = Life(step.session, opening, renewed=self._now)
        self._all[session_id] = self._lives[session_id] = life
        self._record(life, step, None)
        if spec.return_immediately:
            self._answer(opening, OK, pb.OpenSessionResponse(session=self._last(), created=True))

    def _advance(self, life: Life) -> None:
        session, dice = life.session, self._dice
        if session.is_closing:
            self._step(life, inputs.LinkEnded())
        elif dice.random() < 0.15:
            self._end(life)
        elif session.state is machine.CONNECTED:
            self._while_connected(life)
        elif dice.random() < 0.6:
            self._step(life, self._up())
        else:
            self._step(life, inputs.AttemptFailed(self._failure(), 0.1))

    def _while_connected(self, life: Life) -> None:
        dice = self._dice
        if dice.random() < 0.3:
            self._step(life, inputs.LinkLost(self._failure(), "PEER_CLOSED", 0.1))
        elif life.session.lease_ttl is not None and dice.random() < 0.5:
            life.renewed = self._now
            request = pb.RenewSessionRequest(session_id=str(life.session.spec.session_id))
            call = self._call("RenewSession", life.session.spec.owner, request)
            session = convert.session(life.session)
            self._answer(call, OK, pb.RenewSessionResponse(session=session))
        elif life.opening.request.request_id and life.opening.end == OK and not away(self._now):
            call = self._call("OpenSession", life.opening.owner, life.opening.request)
            session = convert.session(self._kept[life.session.spec.session_id])
            life.renewed = self._now
            self._answer(call, OK, pb.OpenSessionResponse(session=session))
        else:
            self._step(life, inputs.ConditionSeen(self._condition()))

    def _end(self, life: Life) -> None:
        spec = life.session.spec
        if life.session.lease_ttl is not None and self._now > life.renewed + LEASE + 0.1:
            self._step(life, inputs.EndRequested(CloseReason.LEASE_EXPIRED, "broker"))
            return
        request = pb.CloseSessionRequest(session_id=str(spec.session_id))
        life.closing = self._call("CloseSession", spec.owner, request)
        self._step(life, inputs.EndRequested(CloseReason.CLOSE_REQUESTED, spec.owner))

    def _step(self, life: Life, item: inputs.Input) -> None:
        before = convert.session(life.session)
        step = machine.step(
            life.session, item, now=self._time(), correlation_id=uuid.UUID(int=len(self._lives))
        )
        life.session = step.session
        if step.events:
            self._record(life, step, before)
            self._answer_all(life)

    def _record(self, life: Life, step: machine.Step, before: session_pb2.Session | None) -> None:
        for event in step.events:
            happening = Happening(
                at=self._now,
                kept=None,
                epoch=1 if self._now < DEATH else 2,
                before=before,
                request_id=life.opening.request.request_id,
            )
            self.story.happenings.append(happening)
            kept = self._kept.get(event.session_id)
            revision = kept.revision if kept is not None else 0
            happening.told = convert.event(
                replace(event, session=replace(event.session, revision=revision))
            )
            before = happening.told.session
            self._waiting.append((happening, event))
            if not away(self._now):
                self._catch_up(self._now)
                happening.told = None

    def _catch_up(self, at: float) -> None:
        """The database takes what waits."""
        for count, (happening, event) in enumerate(self._waiting):
            self._revision += 1
            session = replace(event.session, revision=self._revision)
            happening.kept = at + count * 1e-6
            happening.event = convert.event(
                replace(event, revision=self._revision, session=session)
            )
            self._kept[event.session_id] = session
            life = self._all[event.session_id]
            if event.sequence == life.session.sequence:
                life.session = session
            life.connected = life.connected or session.state is machine.CONNECTED
            request_id = session.spec.request_id
            if session.state.is_final and request_id is not None and not life.connected:
                self._free.append((session.spec.owner, request_id))
        self._waiting.clear()

    def _answer_all(self, life: Life) -> None:
        session = life.session
        spec = session.spec
        message = self._last()
        if not life.opening.end and session.state is not machine.CONNECTING:
            if away(self._now):
                self._answer(life.opening, "STORE_UNAVAILABLE")
            elif session.state is machine.CONNECTED:
                response = pb.OpenSessionResponse(session=message, created=True)
                life.renewed = self._now
                self._answer(life.opening, OK, response)
            else:
                self._answer(life.opening, "SESSION_CLOSED")
        if session.state.is_final:
            if life.closing is not None:
                self._answer(life.closing, OK, pb.CloseSessionResponse(session=message))
            self._lives.pop(spec.session_id)

    def _last(self) -> session_pb2.Session:
        return self.story.happenings[-1].session

    def _call(self, method: str, owner: str, request: object) -> Call:
        call = Call("caller", owner, method, request, self._now, WALL + self._now, end="")
        self.story.calls.append(call)
        return call

    def _answer(self, call: Call, end: str, response: object = None) -> None:
        call.end, call.response = end, response
        call.ended, call.ended_wall = self._now, WALL + self._now

    def _time(self) -> datetime:
        return EPOCH + timedelta(seconds=self._now)

    def _up(self) -> inputs.Input:
        return inputs.LinkUp(178, ("DU1",), (self._condition(),))

    def _failure(self) -> Failure:
        return Failure(ErrorCode.CONNECTION, Phase.TCP, "refused", "wait", self._time())

    def _condition(self) -> Condition:
        status = self._dice.choice(list(ConditionStatus))
        reason = f"REASON_{self._dice.randrange(1000)}"
        farm = self._dice.choice(("usfarm", "eufarm"))
        return Condition("MARKET_DATA_FARM", farm, status, reason, "said", self._time())
