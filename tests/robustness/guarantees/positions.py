"""What tokens, snapshots and signals say: resumable, bookmarkable, heard, ended."""

from __future__ import annotations

from collections.abc import Iterator

from tests.robustness.history import REFUSED, History, Received, Start, Stream, overlap
from tests.robustness.timeline import Log, Segment, segments
from tests.robustness.verdict import Finding, guarantee

RESETS = {
    Start.INCOMPLETE: "SNAPSHOT_INCOMPLETE",
    Start.FOREIGN: "TOKEN_OF_ANOTHER_STORE",
    Start.AHEAD: "TOKEN_AHEAD",
}
"""Why a token that never can be continued is not."""


@guarantee
def resumable(history: History) -> Iterator[Finding]:
    """A stream that begins with a token which can be continued begins right after it: no snapshot,
    no reset, and first the first event after it that concerns the filter. One that begins with a
    token which cannot, and only such, gets reset with the reason. After a reset, as without a
    token, there is a snapshot, then snapshot_complete, then the rest.
    """
    log = Log(history.log)
    for stream in history.streams:
        if not stream.received:
            continue
        yield from _beginning(stream, log)
        for segment in segments(stream):
            yield from _reset(history, segment)
            for index, received in segment.strays:
                yield stream.where(index), f"{received.kind} has no business here"


def _beginning(stream: Stream, log: Log) -> Iterator[Finding]:
    first = stream.received[0]
    reason = RESETS.get(stream.start)
    if reason is not None:
        if first.message.reset.reason != reason:
            said = first.message.reset.reason or first.kind
            yield stream.where(0), f"{said} instead of reset ({reason}): it began {stream.start}"
        return
    if stream.start is Start.SNAPSHOT:
        if first.kind == "reset":
            yield stream.where(0), f"reset ({first.message.reset.reason}) without a token"
        return
    segment = segments(stream)[0]
    told = next(iter(segment.persisted), None)
    if told is None:
        return
    index, event = told
    wanted = log.concerning(stream.request, stream.position, log.newest)
    if not wanted or event.revision != wanted[0].revision:
        should = wanted[0].revision if wanted else "none"
        yield (
            stream.where(index),
            f"the first event after {stream.position} is {event.revision}, not {should}",
        )


def _reset(history: History, segment: Segment) -> Iterator[Finding]:
    if segment.reset is None:
        return
    index, received = segment.reset
    stream, reset = segment.stream, received.message.reset
    where = stream.where(index)
    if reset.oldest_revision > max(history.oldest, 1):
        yield where, f"oldest_revision {reset.oldest_revision}, but the log begins earlier"
    if index == 0:
        if stream.start is not Start.CONTINUE:
            return
        reasons, has = ["TOKEN_TOO_OLD", "EVENTS_EXPIRED"], stream.position
    else:
        reasons = ["EVENTS_EXPIRED"]
        has = stream.received[index - 1].message.revision
        if not stream.received[index - 1].complete:
            yield where, "reset within a snapshot"
    if reset.reason not in reasons:
        yield where, f"reset ({reset.reason}) where only {reasons[0]} may be"
    if has + 1 >= reset.oldest_revision:
        back = f"although the log goes back to {reset.oldest_revision}"
        yield where, f"reset ({reset.reason}) of a watcher that has {has}, {back}"


@guarantee
def bookmarkable(history: History) -> Iterator[Finding]:
    """A token of revision r means that all that concerns the filter up to r has been told before,
    or was part of the snapshot. Positions never go back, nor beyond the log; an event's token is
    its own; one position has one token, whoever watches.
    """
    log = Log(history.log)
    revisions: dict[str, int] = {}
    tokens: dict[int, tuple[str, str]] = {}
    for stream in history.streams:
        for segment in segments(stream):
            if segment.start is not None:
                yield from _positions(segment, log, max(history.oldest, 1))
        for index, received in enumerate(stream.received):
            message, where = received.message, stream.where(index)
            token, revision = message.resume_token, message.revision
            if not token:
                yield where, f"{received.kind} without a token"
            elif not received.complete:
                if revision:
                    yield where, f"{received.kind} has the revision {revision}, not 0"
            elif revisions.setdefault(token, revision) != revision:
                yield where, f"revision {revision} has the token of {revisions[token]}"
            elif (first := tokens.setdefault(revision, (token, where)))[0] != token:
                yield where, f"revision {revision} has another token than in {first[1]}"


def _positions(segment: Segment, log: Log, oldest: int) -> Iterator[Finding]:
    assert segment.start is not None
    stream = segment.stream
    told: dict[int, int] = {}
    for index, event in segment.persisted:
        told.setdefault(event.revision, index)
    pending = [
        event.revision
        for event in log.concerning(stream.request, segment.start, segment.last)
        if event.revision in told  # what is never told is missing: see reliable
    ]
    position, done = segment.start, 0
    if position > log.newest:
        yield stream.where(segment.complete or 0), f"{position} is beyond the log: {log.newest}"
    for index, received in segment.tail:
        revision, where = received.message.revision, stream.where(index)
        if revision > log.newest:
            yield where, f"{received.kind} at {revision}, beyond the log: {log.newest}"
        if revision < position:
            yield where, f"{received.kind} at {revision}, after {position}"
        position = max(position, revision)
        yield from ((where, what) for what in _own(received))
        if received.message.bookmark.oldest_revision > oldest:
            yield where, f"oldest_revision beyond {oldest}, where the log really begins"
        while done < len(pending) and pending[done] <= revision:
            if (later := told[pending[done]]) > index:
                missing = f"{pending[done]} is told later (message {later})"
                yield where, f"{received.kind} at {revision}, but {missing}"
            done += 1


def _own(received: Received) -> Iterator[str]:
    """Whether an event says one thing of its position."""
    event, position = received.event, received.message.revision
    if event is None:
        return
    of = event.session.revision
    if event.persisted:
        if not event.revision == of == position:
            yield f"event {event.revision} of a session at {of} has the position {position}"
    elif event.revision or of > position:
        yield f"provisional event {event.revision} of a session at {of} at {position}"


@guarantee
def heard(history: History) -> Iterator[Finding]:
    """As long as the broker runs, a stream hears something within each bookmark_interval; one
    that must read the record may have to wait for the database.
    """
    limits = history.limits
    for stream in history.streams:
        broker = history.incarnation_of(stream)
        if broker is None or not broker.ready:
            continue
        until = stream.ended if not broker.ended else min(stream.ended, broker.ended)
        times = [(max(stream.began, broker.ready), -1, "")]
        times += [
            (received.at, index, received.kind) for index, received in enumerate(stream.received)
        ]
        for (since, index, kind), (next_time, *_) in zip(
            times, [*times[1:], (until, 0, "")], strict=True
        ):
            end = min(next_time, until)
            silent = end - since
            silent -= overlap(stream.pauses, since, end) + overlap(broker.pauses, since, end)
            if kind != "bookmark":
                silent -= history.away(since, end)
            if silent > limits.bookmark_interval + limits.margin:
                yield stream.where(index), f"then silence for {silent:.1f} s"


@guarantee
def ended(history: History) -> Iterator[Finding]:
    """Streams end for a reason: OK after draining, when the broker is stopped; UNAVAILABLE when it
    dies; STORE_UNAVAILABLE while the database is away; SLOW_CONSUMER beyond the configured lag. One
    that reaches gRPC while it is shut down gets a bare CANCELLED, and nothing else.
    """
    slack = history.limits.slack
    for stream in history.streams:
        broker = history.incarnation_of(stream)
        kinds = [received.kind for received in stream.received]
        match stream.end:
            case "OK":
                if broker is None or broker.how != "TERMINATED":
                    yield stream.name, "ended with OK, but nobody stops its broker"
                elif "draining" not in kinds:
                    yield stream.name, "ended with OK, but without draining"
                elif kinds[-1] != "bookmark":
                    yield stream.name, f"ended with OK, but after {kinds[-1]}, not a bookmark"
            case "UNAVAILABLE" if stream.received:
                if broker is not None and not broker.ended:
                    yield stream.name, "was cut although its broker lives"
                elif broker is not None and broker.how == "TERMINATED" and not stream.pauses:
                    yield from _cut_by_a_stop(history, stream, broker.ended)
            case "STORE_UNAVAILABLE":
                if not history.away(stream.began - slack, stream.ended + slack):
                    yield stream.name, "STORE_UNAVAILABLE, but the database was there"
            case "SLOW_CONSUMER":
                if stream.lag <= history.limits.watch_lag:
                    yield stream.name, f"SLOW_CONSUMER at a lag of {stream.lag}"
            case "CANCELLED" | "UNAVAILABLE" | "BROKER_DRAINING":
                pass
            case reason if reason == REFUSED and not stream.received:
                if not history.stopping(stream.ended):
                    yield stream.name, f"ended with {reason}, but nobody stops its broker"
            case reason:
                yield stream.name, f"ended with {reason}"


def _cut_by_a_stop(history: History, stream: Stream, at: float) -> Iterator[Finding]:
    """A broker that is stopped says so, and ends each stream with OK; unless what it still had
    to tell was in the database, and that away.
    """
    slack = history.limits.slack
    if stream.began < at and not history.away(at - slack, stream.ended + slack):
        yield stream.name, "was cut by a broker that was stopped, instead of ended"
