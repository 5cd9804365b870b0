"""Ways to break tokens, resets and snapshots in one place."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from ibgateway.broker.v1 import session_service_pb2 as pb

from tests.robustness.guarantees.positions import RESETS
from tests.robustness.history import History, Received, Start
from tests.robustness.synthetic.mutations import (
    NotHereError,
    breaks,
    event_at,
    message,
    of_kind,
    persisted,
    pick,
    snapshots,
    tails,
)
from tests.robustness.timeline import FINAL, Log, Segment, differences, matches, wants_final

# -- resumable -------------------------------------------------------------------------


def _continued(history: History) -> Iterator[tuple[Segment, int]]:
    """Streams that were continued by their token, and have told two events; the place of the
    first.
    """
    for segment in tails(history):
        if segment.stream.start is Start.CONTINUE and segment.reset is None:
            places = [index for index, _ in segment.persisted]
            if len(places) >= 2:
                yield segment, places[0]


@breaks("resumable", "reliable", "heard")
def a_stream_begins_one_event_too_late(history: History, dice: random.Random) -> None:
    segment, index = pick(dice, _continued(history))
    del segment.stream.received[index]


@breaks("resumable", "unique", "bookmarkable")
def a_stream_begins_one_event_too_early(history: History, dice: random.Random) -> None:
    log = Log(history.log)

    def places() -> Iterator[tuple[Segment, int]]:
        for segment, _ in _continued(history):
            before = log.concerning(segment.stream.request, 0, segment.stream.position)
            if before:
                yield segment, before[-1].revision

    segment, revision = pick(dice, places())
    stream = segment.stream
    early = message(stream.received[0].at, revision, event=log.by_revision[revision].event)
    stream.received.insert(0, early)


@breaks("resumable", "fresh")
def a_good_token_is_reset(history: History, dice: random.Random) -> None:
    segment, _ = pick(dice, _continued(history))
    stream, log = segment.stream, Log(history.log)
    at, position = stream.received[0].at, stream.position
    fresh = [
        message(at, -1, snapshot=session)
        for session in log.sessions_at(position)
        if matches(stream.request, session)
        and (session.state not in FINAL or wants_final(stream.request))
    ]
    stream.received[:0] = [
        message(at, -1, reset=pb.Reset(oldest_revision=1, reason="TOKEN_TOO_OLD")),
        *fresh,
        message(at, position, snapshot_complete=pb.SnapshotComplete()),
    ]


@breaks("resumable")
def a_good_token_gets_a_snapshot(history: History, dice: random.Random) -> None:
    segment, _ = pick(dice, _continued(history))
    stream, session = segment.stream, dice.choice(sorted(history.rows))
    snapshot = message(stream.received[0].at, -1, snapshot=history.rows[session])
    stream.received.insert(0, snapshot)


def _resets(history: History) -> Iterator[tuple[Segment, int]]:
    for segment in tails(history):
        if segment.reset is not None:
            yield segment, segment.reset[0]


@breaks("resumable")
def a_bad_token_is_not_reset(history: History, dice: random.Random) -> None:
    def places() -> Iterator[tuple[Segment, int]]:
        for segment, index in _resets(history):
            if segment.stream.start in RESETS and index == 0:
                yield segment, index

    segment, index = pick(dice, places())
    del segment.stream.received[index]


@breaks("resumable")
def a_reset_gives_another_reason(history: History, dice: random.Random) -> None:
    segment, index = pick(dice, _resets(history))
    event_at(segment.stream, index).reset.reason = "TOKEN_NOT_LIKED"


@breaks("resumable")
def a_reset_lies_about_the_oldest_event(history: History, dice: random.Random) -> None:
    segment, index = pick(dice, _resets(history))
    event_at(segment.stream, index).reset.oldest_revision = history.oldest + 1


@breaks("resumable")
def a_stream_without_a_token_is_reset(history: History, dice: random.Random) -> None:
    def places() -> Iterator[tuple[Segment, int]]:
        for segment in tails(history):
            if segment.stream.start is Start.SNAPSHOT and segment.complete is not None:
                yield segment, 0

    segment, _ = pick(dice, places())
    reset = pb.Reset(oldest_revision=1, reason="TOKEN_TOO_OLD")
    stream = segment.stream
    stream.received.insert(0, message(stream.received[0].at, -1, reset=reset))


@breaks("resumable", "heard")
def a_snapshot_is_never_complete(history: History, dice: random.Random) -> None:
    def places() -> Iterator[tuple[Segment, int]]:
        for segment in tails(history):
            if segment.complete is not None and segment.tail:
                yield segment, segment.complete

    segment, index = pick(dice, places())
    del segment.stream.received[index]


@breaks("resumable", "unique", "reliable", "fresh")
def a_watcher_is_reset_although_nothing_expired(history: History, dice: random.Random) -> None:
    segment, index = pick(dice, persisted(history))
    stream, log = segment.stream, Log(history.log)
    at, position = stream.received[index].at, stream.received[index].message.revision
    fresh = [
        message(at, -1, snapshot=session)
        for session in log.sessions_at(position)
        if matches(stream.request, session)
        and (session.state not in FINAL or wants_final(stream.request))
    ]
    stream.received[index + 1 : index + 1] = [
        message(at, -1, reset=pb.Reset(oldest_revision=1, reason="EVENTS_EXPIRED")),
        *fresh,
        message(at, position, snapshot_complete=pb.SnapshotComplete()),
    ]


# -- bookmarkable ----------------------------------------------------------------------


def _move(received: Received, position: int) -> Received:
    moved = pb.WatchSessionsResponse()
    moved.CopyFrom(received.message)
    moved.revision, moved.resume_token = position, f"token of {position}"
    return replace(received, message=moved)


@breaks("bookmarkable")
def a_bookmark_comes_too_early(history: History, dice: random.Random) -> None:
    def places() -> Iterator[tuple[Segment, int]]:
        for segment, index in of_kind(history, "bookmark"):
            after = segment.stream.received[index + 1 : index + 2]
            if after and after[0].event is not None and after[0].event.persisted:
                yield segment, index

    segment, index = pick(dice, places())
    received = segment.stream.received
    received[index] = _move(received[index], received[index + 1].message.revision)


@breaks("bookmarkable")
def a_bookmark_goes_back(history: History, dice: random.Random) -> None:
    def places() -> Iterator[tuple[Segment, int]]:
        for segment, index in of_kind(history, "bookmark"):
            if index and segment.stream.received[index].message.revision > (segment.start or 0):
                yield segment, index

    segment, index = pick(dice, places())
    received = segment.stream.received
    received[index] = _move(received[index], received[index].message.revision - 1)
    if not any(
        other.message.revision == received[index].message.revision + 1 for other in received[:index]
    ):
        raise NotHereError


@breaks("bookmarkable", "reliable")
def a_bookmark_is_beyond_the_log(history: History, dice: random.Random) -> None:
    def places() -> Iterator[tuple[Segment, int]]:
        for segment, index in of_kind(history, "bookmark"):
            if index == len(segment.stream.received) - 1:
                yield segment, index

    segment, index = pick(dice, places())
    received = segment.stream.received
    received[index] = _move(received[index], history.newest + 1)


@breaks("bookmarkable")
def an_event_has_the_token_of_another(history: History, dice: random.Random) -> None:
    segment, index = pick(dice, persisted(history))
    first = next(other for other, _ in segment.persisted)
    token = segment.stream.received[first].message.resume_token
    event_at(segment.stream, index).resume_token = token


@breaks("bookmarkable", "reliable")
def an_event_has_the_position_before_it(history: History, dice: random.Random) -> None:
    segment, index = pick(dice, persisted(history))
    received = segment.stream.received
    received[index] = _move(received[index], received[index].message.revision - 1)


@breaks("bookmarkable")
def a_message_has_no_token(history: History, dice: random.Random) -> None:
    segment, index = pick(dice, persisted(history))
    event_at(segment.stream, index).resume_token = ""


@breaks("bookmarkable")
def a_snapshot_claims_a_position(history: History, dice: random.Random) -> None:
    segment, index = pick(dice, snapshots(history))
    event_at(segment.stream, index).revision = 1


# -- atomic ----------------------------------------------------------------------------


@breaks("atomic")
def a_snapshot_is_mixed_from_two_revisions(history: History, dice: random.Random) -> None:
    log = Log(history.log)

    def places() -> Iterator[tuple[Segment, int]]:
        for segment, index in snapshots(history):
            if len(log.by_session[_session(segment, index)]) > 1:
                yield segment, index

    segment, index = pick(dice, places())
    snapshot = event_at(segment.stream, index).snapshot
    others = [
        entry.event.session
        for entry in log.by_session[snapshot.session_id]
        if differences(entry.event.session, snapshot)
    ]
    snapshot.CopyFrom(dice.choice(others))


def _session(segment: Segment, index: int) -> str:
    return segment.stream.received[index].message.snapshot.session_id


@breaks("atomic")
def a_session_is_missing_in_a_snapshot(history: History, dice: random.Random) -> None:
    log = Log(history.log)

    def places() -> Iterator[tuple[Segment, int]]:
        for segment, index in snapshots(history):
            last = log.by_session[_session(segment, index)][-1].event
            if last.session.state not in FINAL or last.revision >= history.oldest:
                yield segment, index

    segment, index = pick(dice, places())
    del segment.stream.received[index]


@breaks("atomic")
def a_session_is_twice_in_a_snapshot(history: History, dice: random.Random) -> None:
    segment, index = pick(dice, snapshots(history))
    segment.stream.received.insert(index, segment.stream.received[index])


@breaks("atomic")
def a_snapshot_holds_what_nobody_asked_for(history: History, dice: random.Random) -> None:
    log = Log(history.log)

    def places() -> Iterator[tuple[Segment, int]]:
        for segment, index in snapshots(history):
            told = {session.session_id for _, session in segment.snapshot}
            if any(one.session_id not in told for one in log.sessions_at(segment.start or 0)):
                yield segment, index

    segment, index = pick(dice, places())
    told = {session.session_id for _, session in segment.snapshot}
    others = [one for one in log.sessions_at(segment.start or 0) if one.session_id not in told]
    stream = segment.stream
    extra = message(stream.received[index].at, -1, snapshot=dice.choice(others))
    stream.received.insert(index, extra)


@breaks("atomic")
def an_event_holds_the_session_before_it(history: History, dice: random.Random) -> None:
    log = Log(history.log)

    def places() -> Iterator[tuple[Segment, int]]:
        for segment, index in persisted(history):
            if segment.stream.received[index].message.event.sequence > 1:
                yield segment, index

    segment, index = pick(dice, places())
    event = event_at(segment.stream, index).event
    before = log.before(event)
    assert before is not None
    event.session.CopyFrom(before)
    event.session.revision = event.revision


@breaks("atomic")
def an_event_tells_another_change(history: History, dice: random.Random) -> None:
    segment, index = pick(dice, persisted(history))
    event = event_at(segment.stream, index).event
    event.notice.reason = "SOMETHING_ELSE"


@breaks("atomic")
def an_event_has_another_time(history: History, dice: random.Random) -> None:
    segment, index = pick(dice, persisted(history))
    event_at(segment.stream, index).event.time.seconds += 1
