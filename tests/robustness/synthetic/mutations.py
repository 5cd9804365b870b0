"""Ways to break a history of streams in one place, each with the guarantee that it breaks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ibgateway.broker.v1 import session_service_pb2 as pb

from tests.robustness.history import OK, History, Received, Stream
from tests.robustness.timeline import Log, Segment, segments


class NotHereError(Exception):
    """This history has no place where it could be broken like that."""


Change = Callable[[History, random.Random], None]


@dataclass(frozen=True, slots=True)
class Mutation:
    """A way to break a history.

    Args:
        breaks: the guarantee that must be reported.
        also: others that may be, as what they say is broken by it, too; None allows any.
    """

    name: str
    breaks: str
    also: frozenset[str] | None
    change: Change


MUTATIONS: list[Mutation] = []
STRANGER = "00000000-0000-4000-8000-000000000000"


def breaks(guarantee: str, *also: str) -> Callable[[Change], Change]:
    """Register a mutation, with the others that it may break; "any" allows all."""

    def register(change: Change) -> Change:
        others = None if "any" in also else frozenset(also)
        MUTATIONS.append(Mutation(change.__name__, guarantee, others, change))
        return change

    return register


def pick(dice: random.Random, places: Iterator[tuple[Segment, int]]) -> tuple[Segment, int]:
    """One of the places, by the dice."""
    found = list(places)
    if not found:
        raise NotHereError
    return dice.choice(found)


def tails(history: History) -> Iterator[Segment]:
    """All stretches that tell events."""
    for stream in history.streams:
        yield from (one for one in segments(stream) if one.start is not None)


def persisted(history: History) -> Iterator[tuple[Segment, int]]:
    """All places of persisted events; but for the first and the last of a stretch."""
    for segment in tails(history):
        places = [index for index, _ in segment.persisted]
        yield from ((segment, index) for index in places[1:-1])


def provisional(history: History) -> Iterator[tuple[Segment, int]]:
    """All places of provisional events."""
    for segment in tails(history):
        yield from ((segment, index) for index, _ in segment.provisional)


def of_kind(history: History, kind: str) -> Iterator[tuple[Segment, int]]:
    """All places of one kind of message in the right place."""
    for segment in tails(history):
        for index, received in segment.tail:
            if received.kind == kind:
                yield segment, index


def event_at(stream: Stream, index: int) -> pb.WatchSessionsResponse:
    """A message that will be changed: it is no longer shared."""
    received = stream.received[index]
    message = pb.WatchSessionsResponse()
    message.CopyFrom(received.message)
    stream.received[index] = replace(received, message=message)
    return message


def message(at: float, position: int, **what: object) -> Received:
    """A message as the synthetic watch would tell it."""
    return Received.of(
        at,
        pb.WatchSessionsResponse(
            resume_token=f"token of {position}" if position >= 0 else "token of no place",
            revision=max(position, 0),
            **what,  # type: ignore[arg-type]  # one of the oneof, by its name
        ),
    )


# -- ordered ---------------------------------------------------------------------------


@breaks("ordered", "bookmarkable", "resumable")
def two_events_are_swapped(history: History, dice: random.Random) -> None:
    def places() -> Iterator[tuple[Segment, int]]:
        for segment, index in persisted(history):
            after = segment.stream.received[index + 1].event
            if after is not None and after.persisted:
                yield segment, index

    segment, index = pick(dice, places())
    received = segment.stream.received
    received[index], received[index + 1] = received[index + 1], received[index]


@breaks("ordered", "provisional")
def two_provisional_events_are_swapped(history: History, dice: random.Random) -> None:
    def places() -> Iterator[tuple[Segment, int]]:
        for segment, index in provisional(history):
            here, *after = (item.event for item in segment.stream.received[index : index + 2])
            if here is None or not after or after[0] is None or after[0].persisted:
                continue
            if here.session_id == after[0].session_id:
                yield segment, index

    segment, index = pick(dice, places())
    received = segment.stream.received
    received[index], received[index + 1] = received[index + 1], received[index]


@breaks("ordered", "bookmarkable", "provisional")
def a_provisional_event_comes_after_it_was_persisted(history: History, dice: random.Random) -> None:
    def places() -> Iterator[tuple[Segment, int]]:
        for segment, index in provisional(history):
            if _form(segment, index) is not None:
                yield segment, index

    segment, index = pick(dice, places())
    later = _form(segment, index)
    assert later is not None
    segment.stream.received.insert(later, segment.stream.received.pop(index))


def _form(segment: Segment, provisional_index: int) -> int | None:
    """Where the provisional event is told as persisted."""
    told = segment.stream.received[provisional_index].message.event
    for index, event in segment.persisted:
        if (event.session_id, event.sequence) == (told.session_id, told.sequence):
            return index
    return None


# -- unique ----------------------------------------------------------------------------


@breaks("unique")
def an_event_is_told_twice(history: History, dice: random.Random) -> None:
    segment, index = pick(dice, persisted(history))
    segment.stream.received.insert(index, segment.stream.received[index])


@breaks("unique")
def a_provisional_event_is_told_twice(history: History, dice: random.Random) -> None:
    segment, index = pick(dice, provisional(history))
    segment.stream.received.insert(index, segment.stream.received[index])


@breaks("unique", "resumable", "bookmarkable")
def a_resumed_stream_repeats_the_event_of_its_token(history: History, dice: random.Random) -> None:
    log = Log(history.log)

    def places() -> Iterator[tuple[Segment, int]]:
        for segment in tails(history):
            stream = segment.stream
            if segment.reset is None and segment.tail and stream.position in stream.known:
                yield segment, stream.position

    segment, revision = pick(dice, places())
    at = segment.stream.received[0].at
    again = message(at, revision, event=log.by_revision[revision].event)
    segment.stream.received.insert(0, again)


# -- reliable --------------------------------------------------------------------------


@breaks("reliable", "ordered")
def an_event_is_dropped(history: History, dice: random.Random) -> None:
    segment, index = pick(dice, persisted(history))
    del segment.stream.received[index]


@breaks("reliable", "resumable")
def an_event_is_told_that_nobody_asked_for(history: History, dice: random.Random) -> None:
    log = Log(history.log)

    def places() -> Iterator[tuple[Segment, int]]:
        for segment in tails(history):
            for revision in range((segment.start or 0) + 1, segment.last + 1):
                if not log.concerns(segment.stream.request, log.by_revision[revision].event):
                    yield segment, revision

    segment, revision = pick(dice, places())
    index, after = next(
        (index, item) for index, item in segment.tail if item.message.revision >= revision
    )
    extra = message(after.at, revision, event=log.by_revision[revision].event)
    segment.stream.received.insert(index, extra)


@breaks("reliable", "bookmarkable", "ended")
def an_event_is_told_that_is_not_in_the_log(history: History, dice: random.Random) -> None:
    segment, index = pick(dice, persisted(history))
    invented = pb.WatchSessionsResponse()
    invented.CopyFrom(segment.stream.received[index].message)
    event = invented.event
    invented.revision = event.revision = event.session.revision = history.newest + 1
    event.sequence = event.session.sequence = 1000
    invented.resume_token = f"token of {event.revision}"
    at = segment.stream.received[-1].at
    segment.stream.received.append(Received.of(at, invented))


@breaks("reliable")
def a_watcher_does_not_get_on(history: History, dice: random.Random) -> None:
    history.stuck.append("watcher 1")


# -- provisional -----------------------------------------------------------------------


def _of_broker(history: History, number: int) -> Iterator[tuple[Segment, int]]:
    for segment, index in provisional(history):
        broker = history.incarnation_of(segment.stream)
        if broker is not None and broker.number == number:
            yield segment, index


@breaks("provisional")
def a_provisional_event_never_comes_back(history: History, dice: random.Random) -> None:
    segment, index = pick(dice, _of_broker(history, 2))
    told = event_at(segment.stream, index).event
    told.session_id, told.sequence = STRANGER, 1


@breaks("provisional")
def one_is_lost_while_a_later_one_is_kept(history: History, dice: random.Random) -> None:
    def places() -> Iterator[tuple[Segment, int]]:
        for segment, index in _of_broker(history, 1):
            later = [
                other
                for other, _ in segment.provisional
                if other > index and _form(segment, other) is not None
            ]
            if later and segment.stream.received[index].at < history.outages[0].ended:
                yield segment, index

    segment, index = pick(dice, places())
    told = event_at(segment.stream, index).event
    told.session_id, told.sequence = STRANGER, 1


@breaks("provisional")
def a_provisional_event_is_kept_as_another(history: History, dice: random.Random) -> None:
    def places() -> Iterator[tuple[Segment, int]]:
        for segment, index in provisional(history):
            if _form(segment, index) is not None:
                yield segment, index

    segment, index = pick(dice, places())
    event_at(segment.stream, index).event.session.error_count += 1


@breaks("provisional")
def a_provisional_event_is_left_out(history: History, dice: random.Random) -> None:
    def places() -> Iterator[tuple[Segment, int]]:
        for segment, index in provisional(history):
            session_id = segment.stream.received[index].message.event.session_id
            later = any(
                other > index and event.session_id == session_id
                for other, event in segment.provisional
                if segment.stream.received[other].message.revision
                == segment.stream.received[index].message.revision
            )
            if later and not segment.stream.request.states:
                yield segment, index

    segment, index = pick(dice, places())
    del segment.stream.received[index]


# -- heard, ended ----------------------------------------------------------------------


@breaks("heard", "ended")
def a_stream_falls_silent(history: History, dice: random.Random) -> None:
    def places() -> Iterator[tuple[Segment, int]]:
        for segment in tails(history):
            stream = segment.stream
            for index, received in enumerate(stream.received[1:], 1):
                silent = stream.ended - received.at - history.away(received.at, stream.ended)
                silent -= sum(end - begin for begin, end in stream.pauses)
                if received.complete and silent > 5.5:
                    yield segment, index

    segment, index = pick(dice, places())
    del segment.stream.received[index + 1 :]


def _ended(history: History, end: str) -> Iterator[tuple[Segment, int]]:
    for stream in history.streams:
        if stream.end == end and stream.received:
            yield segments(stream)[0], 0


@breaks("ended")
def a_stream_ends_without_draining(history: History, dice: random.Random) -> None:
    segment, _ = pick(dice, _ended(history, OK))
    segment.stream.received = [
        received for received in segment.stream.received if received.kind != "draining"
    ]


@breaks("ended")
def a_stream_ends_without_a_bookmark(history: History, dice: random.Random) -> None:
    segment, _ = pick(dice, _ended(history, OK))
    segment.stream.received.pop()


@breaks("ended")
def a_stream_is_cut_by_a_broker_that_is_stopped(history: History, dice: random.Random) -> None:
    def places() -> Iterator[tuple[Segment, int]]:
        for segment, index in _ended(history, OK):
            if not segment.stream.pauses:
                yield segment, index

    segment, _ = pick(dice, places())
    segment.stream.end = "UNAVAILABLE"


@breaks("ended")
def a_stream_ends_for_no_reason(history: History, dice: random.Random) -> None:
    history.outages.clear()
    stream = dice.choice(history.streams)
    stream.end = dice.choice(("STORE_UNAVAILABLE", "SLOW_CONSUMER", "INTERNAL", "SILENT"))


def snapshots(history: History) -> Iterator[tuple[Segment, int]]:
    """All places of snapshots in stretches whose snapshot is complete."""
    for segment in tails(history):
        if segment.complete is not None:
            yield from ((segment, index) for index, _ in segment.snapshot)
