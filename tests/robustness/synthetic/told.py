"""What watchers of a story are told, by the contract: a watch that has never been served."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable

from ibgateway.broker.v1 import session_event_pb2, session_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb

from tests.robustness.guarantees.positions import RESETS
from tests.robustness.history import CANCELLED, OK, Entry, History, Limits, Received, Start, Stream
from tests.robustness.synthetic.lives import BIRTH, CALM, DEATH, END, WALL, Happening, tell
from tests.robustness.timeline import FINAL, matches, wants_final
from tests.robustness.traffic import OWNERS, TEAMS
from tests.robustness.watchers import STATES

WATCHERS = 5
EXPIRY, EXPIRED = 13.0, 12.3
"""When it is deleted, and what: all that is older."""


def clean(seed: int) -> History:
    """A history in which every guarantee holds."""
    dice = random.Random(seed)
    story = tell(dice)
    kept = [item for item in story.happenings if item.event is not None]
    log = [
        Entry(item.event, item.epoch, item.request_id) for item in kept if item.event is not None
    ]
    rows: dict[str, session_pb2.Session] = {}
    for item in kept:
        rows[item.session.session_id] = item.session
    history = History(
        limits=Limits(),
        calls=story.calls,
        incarnations=story.incarnations,
        outages=story.outages,
        log=log,
        newest=len(log),
        oldest=sum((item.kept or 0) < EXPIRED for item in kept) + 1,
        rows=rows,
        listed={key: _listed(row) for key, row in rows.items() if row.state not in FINAL},
        recorded=rows,
        listed_wall=WALL + CALM,
        held=[row.client_id for row in rows.values() if row.state not in FINAL],
        claims={7: 1},
    )
    for number in range(WATCHERS):
        _watch(f"watcher {number}", history, story.happenings, dice)
    return history


def _listed(row: session_pb2.Session) -> session_pb2.Session:
    """A session as the broker lists it: with what is no part of its log."""
    session = session_pb2.Session()
    session.CopyFrom(row)
    if session.HasField("lease_ttl"):
        session.lease_expire_time.FromNanoseconds(int((WALL + CALM + 1) * 1e9))
    return session


def _watch(name: str, history: History, happenings: list[Happening], dice: random.Random) -> None:
    """One watcher's life: stream after stream, over the death of a broker."""
    now, mine = dice.uniform(0.01, 2.0), list[Stream]()
    while now < END - 0.5:
        until = now + dice.choice((1.0, 4.0, 30.0)) * dice.uniform(0.3, 1.0)
        limit = DEATH if now < DEATH else END
        stream = _begin(f"{name}, stream {len(mine)}", mine, rows=history.rows, at=now, dice=dice)
        told = _Told(stream, history, happenings)
        lag = dice.uniform(now, until) if dice.random() < 0.4 else None
        if until < limit:
            told.serve(until, lag)
            stream.end = CANCELLED
        elif limit == DEATH:
            told.serve(DEATH, lag)
            stream.end, until = "UNAVAILABLE", DEATH
        else:
            told.serve(END, lag)
            if stream.pauses and stream.pauses[-1][1] >= END:
                stream.end = CANCELLED
            else:
                told.say(draining=pb.Draining())
                told.say(bookmark=pb.Bookmark())
                stream.end = OK
            until = END
        stream.ended = until
        history.streams.append(stream)
        mine.append(stream)
        now = until + dice.uniform(0.01, 0.2)
        if DEATH <= now < BIRTH:
            now = BIRTH + dice.uniform(0.01, 0.5)


def _begin(
    name: str,
    mine: list[Stream],
    *,
    rows: dict[str, session_pb2.Session],
    at: float,
    dice: random.Random,
) -> Stream:
    request = pb.WatchSessionsRequest(include_final=dice.random() < 0.4)
    if dice.random() < 0.25:
        request.owner = dice.choice(OWNERS)
    if dice.random() < 0.2:
        request.labels["team"] = dice.choice(TEAMS)
    if dice.random() < 0.3:
        request.states.extend(dice.sample(STATES, 2))
    if dice.random() < 0.1:
        request.session_ids.extend(dice.sample(sorted(rows), 3))
    stream = Stream(name, request, Start.SNAPSHOT, began=at)
    places = [
        (one, index)
        for one in mine
        for index, received in enumerate(one.received)
        if received.complete
    ]
    start = dice.choice((*Start, Start.CONTINUE, Start.CONTINUE, Start.CONTINUE))
    if start is Start.CONTINUE and places:
        one, index = dice.choice((places[-1], places[-1], dice.choice(places)))
        stream.known = one.told(index)
        stream.position = one.received[index].message.revision
        stream.request.resume_token = one.received[index].message.resume_token
        stream.start = start
    elif start in RESETS:
        stream.request.resume_token = start.name
        stream.start = start
    return stream


class _Told:
    """Tells one stream what it should be told."""

    def __init__(self, stream: Stream, history: History, happenings: list[Happening]) -> None:
        self._stream = stream
        self._history = history
        self._now = stream.began
        self._epoch = 1 if stream.began < DEATH else 2
        self._all = happenings
        self._kept = [item for item in happenings if item.kept is not None]
        self._kept_times = [item.kept or 0.0 for item in self._kept]
        self._position = stream.position
        self._told: set[int] = set()
        """Provisional happenings that were told, by their place in the story."""

    def serve(self, end: float, lag: float | None) -> None:
        """Tell all from the beginning to an end, but for a lag of 3 s from some moment on."""
        stream, start = self._stream, self._stream.start
        oldest = self._oldest()
        if start in RESETS:
            self._reset(RESETS[start])
        elif start is Start.CONTINUE and self._position + 1 < oldest:
            self._reset("TOKEN_TOO_OLD")
        elif start is Start.SNAPSHOT:
            self._snapshot()
        self._catch_up()
        if lag is None or lag >= end:
            self._follow(end)
            return
        self._follow(lag)
        self._now = min(end, lag + 3.0)
        stream.pauses.append((lag, self._now))
        if self._now < end:
            if self._position + 1 < self._oldest() and self._position < self._newest():
                self._reset("EVENTS_EXPIRED")
            self._catch_up()
            self._follow(end)

    def say(self, position: int | None = None, **message: object) -> None:
        """One message, now."""
        if position is None:
            position = self._position
        token = f"token of {position}" if position >= 0 else "token of no place"
        self._stream.received.append(
            Received.of(
                self._now,
                pb.WatchSessionsResponse(
                    resume_token=token,
                    revision=max(position, 0),
                    **message,  # type: ignore[arg-type]  # one of the oneof, by its name
                ),
            )
        )

    def _newest(self) -> int:
        return bisect_right(self._kept_times, self._now)

    def _oldest(self) -> int:
        return self._history.oldest if self._now >= EXPIRY else 1

    def _reset(self, reason: str) -> None:
        self.say(-1, reset=pb.Reset(oldest_revision=self._oldest(), reason=reason))
        self._snapshot()

    def _snapshot(self) -> None:
        request = self._stream.request
        self._position = self._newest()
        sessions = {item.session.session_id: item.session for item in self._kept[: self._position]}
        for session in sessions.values():
            if matches(request, session) and (session.state not in FINAL or wants_final(request)):
                self.say(-1, snapshot=session)
        self.say(snapshot_complete=pb.SnapshotComplete())

    def _catch_up(self) -> None:
        """What is in the log, and then what is not there yet."""
        for item in self._kept[self._position : self._newest()]:
            self._persisted(item)
        for item in self._all:
            late = item.kept is None or item.kept > self._now
            if (
                item.epoch == self._epoch
                and item.told is not None
                and item.at <= self._now
                and late
            ):
                self._provisional(item)

    def _follow(self, end: float) -> None:
        spoke = self._now
        for at, tell_it, item in self._coming(end):
            while at - spoke > 1.0:
                self._now = spoke = spoke + 1.0
                self.say(bookmark=pb.Bookmark())
            self._now = at
            if tell_it(item):
                spoke = at
        while end - spoke > 1.0:
            self._now = spoke = spoke + 1.0
            self.say(bookmark=pb.Bookmark())
        self._now = end

    def _coming(self, end: float) -> list[tuple[float, Callable[[Happening], bool], Happening]]:
        coming: list[tuple[float, Callable[[Happening], bool], Happening]] = []
        for item in self._all:
            if item.epoch != self._epoch:
                continue
            if item.told is not None and self._now < item.at <= end:
                coming.append((item.at, self._provisional, item))
            if item.kept is not None and self._now < item.kept <= end:
                coming.append((item.kept, self._persisted, item))
        return sorted(coming, key=lambda one: one[0])

    def _persisted(self, item: Happening) -> bool:
        assert item.event is not None
        self._position = item.event.revision
        return self._tell(item, item.event)

    def _provisional(self, item: Happening) -> bool:
        assert item.told is not None
        if id(item) in self._told:
            return False
        self._told.add(id(item))
        return self._tell(item, item.told)

    def _tell(self, item: Happening, event: session_event_pb2.SessionEvent) -> bool:
        request = self._stream.request
        concerned = matches(request, event.session) or (
            item.before is not None and matches(request, item.before)
        )
        if concerned:
            self.say(event=event)
        return concerned
