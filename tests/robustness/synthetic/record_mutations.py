"""Ways to break the record, what callers were told, and how it all ends."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace

from ibgateway.broker.v1 import session_event_pb2, session_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb

from tests.robustness.history import OK, Call, Entry, History, Start, Stream
from tests.robustness.synthetic.lives import END, WALL
from tests.robustness.synthetic.mutations import STRANGER, NotHereError, breaks, message
from tests.robustness.timeline import FINAL, Log
from tests.robustness.traffic import seconds

CONNECTED = session_pb2.SESSION_STATE_CONNECTED
DISCONNECTED = session_pb2.SESSION_STATE_DISCONNECTED
CONNECTING = session_pb2.SESSION_STATE_CONNECTING


def _changed(history: History, index: int) -> session_event_pb2.SessionEvent:
    """An event of the log that will be changed: it is no longer shared."""
    event = session_event_pb2.SessionEvent()
    event.CopyFrom(history.log[index].event)
    history.log[index] = replace(history.log[index], event=event)
    return event


def _some(history: History, dice: random.Random, **wanted: object) -> int:
    """The place of an event of the log whose session is like that; never the last of all."""
    found = [
        index
        for index, entry in enumerate(history.log[:-1])
        if entry.event.sequence > 1
        and all(getattr(entry.event.session, name) == value for name, value in wanted.items())
    ]
    if not found:
        raise NotHereError
    return dice.choice(found)


# -- dense, legal, folded --------------------------------------------------------------


@breaks("dense", "any")
def the_log_has_a_gap(history: History, dice: random.Random) -> None:
    del history.log[_some(history, dice)]


@breaks("dense", "any")
def a_sequence_has_a_gap(history: History, dice: random.Random) -> None:
    event = _changed(history, _some(history, dice))
    event.sequence += 1


@breaks("dense")
def the_counter_is_ahead(history: History, dice: random.Random) -> None:
    history.newest += 1


@breaks("dense")
def the_log_was_rewritten(history: History, dice: random.Random) -> None:
    history.rewritten.append(dice.randrange(1, history.newest))


@breaks("legal", "any")
def a_transition_is_none(history: History, dice: random.Random) -> None:
    found = [
        index
        for index, entry in enumerate(history.log)
        if entry.event.WhichOneof("change") == "transition"
    ]
    event = _changed(history, dice.choice(found))
    event.transition.to = event.session.state = getattr(event.transition, "from")


@breaks("legal", "any")
def a_state_moves_without_a_transition(history: History, dice: random.Random) -> None:
    event = _changed(history, _some(history, dice, state=CONNECTED))
    event.notice.reason = "OVERDUE"
    event.session.state = CONNECTING


@breaks("legal", "any")
def a_final_session_moves(history: History, dice: random.Random) -> None:
    final = [row for row in history.rows.values() if row.state in FINAL]
    event = session_event_pb2.SessionEvent()
    event.CopyFrom(Log(history.log).by_session[dice.choice(final).session_id][-1].event)
    event.sequence += 1
    event.revision = event.session.revision = history.newest = history.newest + 1
    event.session.sequence = event.sequence
    event.notice.reason = "OVERDUE"
    history.log.append(Entry(event, 2))


@breaks("legal", "any")
def a_client_id_changes_while_connected(history: History, dice: random.Random) -> None:
    log = Log(history.log)
    index = _some(history, dice, state=CONNECTED)
    before = log.before(history.log[index].event)
    if before is None or before.state != CONNECTED:
        raise NotHereError
    _changed(history, index).session.client_id += 1


@breaks("legal", "any")
def a_generation_is_skipped(history: History, dice: random.Random) -> None:
    _changed(history, _some(history, dice, state=CONNECTED)).session.generation += 1


@breaks("folded")
def a_row_is_behind_its_events(history: History, dice: random.Random) -> None:
    final = [row for row in history.rows.values() if row.state in FINAL]
    row = session_pb2.Session()
    row.CopyFrom(dice.choice(final))
    row.error_count += 1
    history.rows = {**history.rows, row.session_id: row}


@breaks("folded")
def a_session_has_no_row(history: History, dice: random.Random) -> None:
    rows = [
        row
        for row in history.rows.values()
        if row.state not in FINAL or row.revision >= history.oldest
    ]
    gone = dice.choice(rows).session_id
    history.rows = {key: row for key, row in history.rows.items() if key != gone}


@breaks("folded")
def a_row_has_no_event(history: History, dice: random.Random) -> None:
    history.rows = {**history.rows, STRANGER: session_pb2.Session(session_id=STRANGER)}


# -- opened, closed, once, leased, answered, exclusive ---------------------------------


def _answered(history: History, dice: random.Random, method: str) -> Call:
    calls = [call for call in history.calls if call.method == method and call.end == OK]
    if not calls:
        raise NotHereError
    return dice.choice(calls)


@breaks("opened", "once", "truthful")
def an_opened_session_is_lost(history: History, dice: random.Random) -> None:
    _answered(history, dice, "OpenSession").response.session.session_id = STRANGER


@breaks("truthful")
def an_open_is_answered_with_what_never_was(history: History, dice: random.Random) -> None:
    _answered(history, dice, "OpenSession").response.session.error_count += 1


@breaks("opened", "truthful")
def an_open_is_answered_connected_too_early(history: History, dice: random.Random) -> None:
    log = Log(history.log)
    never = [
        call
        for call in history.calls
        if call.method == "OpenSession"
        and call.end == OK
        and all(
            entry.event.session.state != CONNECTED
            for entry in log.by_session[call.response.session.session_id]
        )
    ]
    if not never:
        raise NotHereError
    dice.choice(never).response.session.state = CONNECTED


def _close(history: History, dice: random.Random, *, provisional: bool) -> None:
    living = [row for row in history.rows.values() if row.state not in FINAL]
    session = session_pb2.Session()
    session.CopyFrom(dice.choice(living))
    session.state = DISCONNECTED
    session.sequence += provisional
    call = Call("caller", session.owner, "CloseSession", None, END, WALL + END, END, WALL + END, OK)
    call.response = pb.CloseSessionResponse(session=session)
    history.calls.append(call)


@breaks("closed", "truthful")
def a_close_is_forgotten(history: History, dice: random.Random) -> None:
    _close(history, dice, provisional=False)


@breaks("closed", "truthful", "any")
def a_close_is_lost_although_its_broker_lives(history: History, dice: random.Random) -> None:
    history.incarnations[-1].ended = 0.0
    _close(history, dice, provisional=True)


@breaks("once")
def a_request_id_has_two_sessions(history: History, dice: random.Random) -> None:
    owners: defaultdict[str, set[str]] = defaultdict(set)
    by_session = Log(history.log).by_session
    for entry in history.log:
        session = entry.event.session
        kept = by_session[session.session_id][-1].event.revision >= history.oldest
        if session.state == CONNECTED and not entry.request_id and kept:
            owners[session.owner].add(session.session_id)
    pairs = [sorted(sessions) for sessions in owners.values() if len(sessions) > 1]
    if not pairs:
        raise NotHereError
    two = dice.sample(dice.choice(pairs), 2)
    history.log = [
        replace(entry, request_id="twice") if entry.event.session_id in two else entry
        for entry in history.log
    ]


@breaks("fresh")
def an_answer_is_of_the_past(history: History, dice: random.Random) -> None:
    log = Log(history.log)
    long = [entries for entries in log.by_session.values() if len(entries) > 3]
    known = {
        received.event.session_id
        for stream in history.streams
        for received in stream.received
        if received.event is not None and received.event.persisted and received.event.sequence > 1
    }
    told = [entries for entries in long if entries[0].event.session_id in known]
    if not told:
        raise NotHereError
    call = Call("caller", "alice", "GetSession", None, END, WALL + END, END, WALL + END, OK)
    call.response = pb.GetSessionResponse(session=dice.choice(told)[0].event.session)
    history.calls.append(call)


@breaks("fresh")
def a_snapshot_is_of_the_past(history: History, dice: random.Random) -> None:
    request = pb.WatchSessionsRequest(session_ids=[STRANGER])
    stream = Stream("late", request, Start.SNAPSHOT, began=END, ended=END)
    stream.received.append(message(END, 1, snapshot_complete=pb.SnapshotComplete()))
    history.streams.append(stream)


@breaks("leased")
def a_lease_runs_out_too_early(history: History, dice: random.Random) -> None:
    expired = [
        entry.event
        for entry in history.log
        if entry.event.session.close_reason == "LEASE_EXPIRED"
        and entry.event.WhichOneof("change") == "updated"
    ]
    if not expired:
        raise NotHereError
    event = dice.choice(expired)
    at = event.time.ToNanoseconds() / 1e9 - 0.5
    request = pb.RenewSessionRequest(session_id=event.session_id)
    call = Call("caller", "alice", "RenewSession", request, at - WALL, at, at - WALL, at, OK)
    session = session_pb2.Session(session_id=event.session_id, lease_ttl=seconds(2.0))
    call.response = pb.RenewSessionResponse(session=session)
    history.calls.append(call)


@breaks("leased")
def a_lease_never_runs_out(history: History, dice: random.Random) -> None:
    session = _listed(history, dice)
    session.lease_ttl.CopyFrom(seconds(2.0))
    session.lease_expire_time.FromNanoseconds(int((history.listed_wall - 5.0) * 1e9))
    history.recorded = {**history.recorded, session.session_id: session}


@breaks("answered")
def a_call_is_not_answered(history: History, dice: random.Random) -> None:
    history.outages.clear()
    call = Call("caller", "alice", "GetSession", None, 13.0, WALL, 18.0, WALL, "DEADLINE_EXCEEDED")
    call.timeout = 5.0
    history.incarnations[-1].ready = 9.0
    history.incarnations[-1].ended = 0.0
    history.calls.append(call)


@breaks("answered")
def a_call_ends_with_what_nobody_knows(history: History, dice: random.Random) -> None:
    call = dice.choice([call for call in history.calls if call.end != OK] or history.calls[:1])
    if call.end == OK:
        raise NotHereError
    call.end = dice.choice(("INTERNAL", "UNKNOWN", "CANCELLED by the peer"))


@breaks("exclusive")
def the_gateway_sees_a_double(history: History, dice: random.Random) -> None:
    history.claims = {7: 2}


# -- settled, upright ------------------------------------------------------------------


def _listed(history: History, dice: random.Random) -> session_pb2.Session:
    session = session_pb2.Session()
    session.CopyFrom(history.listed[dice.choice(sorted(history.listed))])
    history.listed = {**history.listed, session.session_id: session}
    return session


@breaks("settled")
def a_session_is_forgotten(history: History, dice: random.Random) -> None:
    gone = _listed(history, dice).session_id
    history.listed = {key: one for key, one in history.listed.items() if key != gone}


@breaks("settled")
def a_session_is_listed_that_is_not_recorded(history: History, dice: random.Random) -> None:
    history.listed = {**history.listed, STRANGER: session_pb2.Session(state=CONNECTED)}


@breaks("settled")
def a_connected_session_has_no_connection(history: History, dice: random.Random) -> None:
    history.held.remove(dice.choice(history.held))


@breaks("settled")
def a_session_is_listed_as_it_was(history: History, dice: random.Random) -> None:
    _listed(history, dice).sequence -= 1


@breaks("settled")
def a_session_does_not_say_why_it_is_away(history: History, dice: random.Random) -> None:
    session = _listed(history, dice)
    session.state = session_pb2.SESSION_STATE_RECONNECTING
    session.ClearField("next_attempt_time")
    history.recorded = {**history.recorded, session.session_id: session}


@breaks("upright")
def the_broker_crashes_somewhere(history: History, dice: random.Random) -> None:
    history.incarnations[0].crashes.append("session_crashed: AssertionError")


@breaks("upright", "ended")
def the_broker_does_not_end_well(history: History, dice: random.Random) -> None:
    broker = history.incarnations[-1]
    broker.how, broker.code = dice.choice((("EXITED", 1), ("TERMINATED", 1)))


@breaks("upright")
def a_connection_is_left(history: History, dice: random.Random) -> None:
    history.left = 1
