"""What a watch has told is complete, or it says what is missing."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from ibgateway.client import (
    Bookmark,
    Draining,
    Reset,
    SessionEvent,
    SessionState,
    Snapshot,
    SnapshotComplete,
    WatchGapError,
    conversion,
)
from ibgateway.client.continuity import Continuity
from scripted_broker import OTHER_ID, SESSION_ID
from scripted_broker import event as message
from scripted_broker import session as session_message

CONNECTED = SessionState.CONNECTED


def event(revision: int, sequence: int, **fields: Any) -> SessionEvent:
    item = conversion.watch_item(message(revision, sequence, **fields))
    assert isinstance(item, SessionEvent)
    return item


def provisional(revision: int, sequence: int, **fields: Any) -> SessionEvent:
    return event(revision, sequence, persisted=False, **fields)


def snapshot(session_id: str = SESSION_ID, **fields: Any) -> Snapshot:
    return Snapshot(session=conversion.session(session_message(session_id, **fields)))


def complete(revision: int) -> SnapshotComplete:
    return SnapshotComplete(revision=revision, token=f"t{revision}")


def bookmark(revision: int) -> Bookmark:
    return Bookmark(revision=revision, oldest_revision=1, token=f"t{revision}")


def accepted(continuity: Continuity, *items: Any) -> Continuity:
    for item in items:
        continuity.accept(item)
    return continuity


def live(**fields: Any) -> Continuity:
    """One that knows one session, at sequence 2, as of revision 10."""
    return accepted(Continuity(**fields), snapshot(sequence=2), complete(10))


def gap(continuity: Continuity, item: Any) -> WatchGapError:
    before = (continuity.token, continuity.sessions, continuity.is_complete)
    with pytest.raises(WatchGapError) as caught:
        continuity.accept(item)
    assert (continuity.token, continuity.sessions, continuity.is_complete) == before
    return caught.value


# -- what is told ------------------------------------------------------------------


def test_a_snapshot_and_what_follows_are_folded() -> None:
    continuity = accepted(
        live(), event(11, 3, state="RECONNECTING"), event(12, 1, session_id=OTHER_ID)
    )
    assert continuity.is_complete
    assert continuity.token == "t12"
    assert {key: info.state for key, info in continuity.sessions.items()} == {
        SESSION_ID: SessionState.RECONNECTING,
        OTHER_ID: CONNECTED,
    }


def test_a_session_that_ends_leaves_the_fold() -> None:
    assert not accepted(live(), event(11, 3, state="DISCONNECTED")).sessions


def test_a_session_that_ends_stays_if_final_ones_are_asked_for() -> None:
    continuity = accepted(live(include_final=True), event(11, 3, state="FAILED"))
    assert continuity.sessions[SESSION_ID].is_final


def test_final_states_ask_for_final_sessions() -> None:
    continuity = Continuity(states=[SessionState.FAILED])
    accepted(continuity, snapshot(state="FAILED"), complete(1))
    assert continuity.sessions


def test_a_session_that_leaves_the_filter_leaves_the_fold() -> None:
    continuity = accepted(live(states=[CONNECTED]), event(11, 3, state="RECONNECTING"))
    assert not continuity.sessions


# -- tokens ------------------------------------------------------------------------


def test_nothing_is_resumed_before_the_snapshot_is_complete() -> None:
    continuity = accepted(Continuity(), snapshot())
    assert continuity.token == ""
    assert not continuity.is_complete


def test_whoever_was_told_half_a_snapshot_is_told_that_it_is_void() -> None:
    continuity = accepted(Continuity(), snapshot())
    assert continuity.begin() == Reset(reason="SNAPSHOT_INCOMPLETE")
    assert continuity.begin() is None
    accepted(continuity, snapshot(OTHER_ID), complete(4))
    assert list(continuity.sessions) == [OTHER_ID]


def test_a_token_of_before_is_kept_until_something_newer_is_told() -> None:
    continuity = Continuity(resume_token="old")
    assert continuity.begin() is None
    assert continuity.token == "old"
    accepted(continuity, bookmark(5))
    assert continuity.token == "t5"


def test_signals_move_the_token() -> None:
    continuity = accepted(live(), bookmark(20))
    assert continuity.token == "t20"
    accepted(continuity, Draining(stop_time=None, token="t21"))
    assert continuity.token == "t21"


def test_a_reset_voids_the_token_and_its_snapshot_replaces_what_is_known() -> None:
    continuity = accepted(live(), Reset(reason="EVENTS_EXPIRED"))
    assert continuity.token == ""
    assert list(continuity.sessions) == [SESSION_ID], "until the new snapshot is complete"
    assert continuity.begin() is None, "what is known is void already"
    accepted(continuity, snapshot(OTHER_ID, sequence=7), complete(3))
    assert list(continuity.sessions) == [OTHER_ID]
    accepted(continuity, event(4, 8, session_id=OTHER_ID))


# -- what is missing ---------------------------------------------------------------


def test_a_missing_event_is_named() -> None:
    error = gap(live(), event(11, 4))
    assert "event 3 is missing" in str(error)
    assert (error.session_id, error.expected, error.received) == (SESSION_ID, 3, 4)


def test_several_missing_events_are_named() -> None:
    assert "events 3 to 5 are missing" in str(gap(live(), event(11, 6)))


def test_an_event_that_comes_again_is_a_gap() -> None:
    assert "came again" in str(gap(live(), event(11, 2)))


def test_a_revision_that_goes_back_is_a_gap() -> None:
    error = gap(live(), event(10, 3))
    assert (error.expected, error.received) == (11, 10)


def test_a_bookmark_that_goes_back_is_a_gap() -> None:
    gap(live(), bookmark(9))


def test_an_event_that_a_bookmark_denied_is_a_gap() -> None:
    gap(accepted(live(), bookmark(20)), event(15, 3))


def test_a_new_session_begins_with_its_first_event() -> None:
    gap(live(), event(11, 2, session_id=OTHER_ID))
    accepted(live(), event(11, 1, session_id=OTHER_ID))


def test_a_final_session_never_moves_again() -> None:
    gap(accepted(live(), event(11, 3, state="FAILED")), event(12, 4))


def test_an_event_in_a_snapshot_is_a_gap() -> None:
    gap(accepted(Continuity(), snapshot()), event(11, 3))


@pytest.mark.parametrize("item", [snapshot(), complete(11)])
def test_a_snapshot_that_no_reset_announced_is_a_gap(item: Any) -> None:
    gap(live(), item)
    gap(Continuity(resume_token="t"), item)


def test_a_resumed_watch_proves_what_it_has_seen() -> None:
    continuity = accepted(Continuity(resume_token="t5"), event(11, 40))
    assert not continuity.is_complete
    gap(continuity, event(12, 42))
    accepted(continuity, event(12, 41))


def test_a_loss_of_the_stream_does_not_weaken_the_proof() -> None:
    continuity = live()
    continuity.begin()
    gap(continuity, event(11, 4))


# -- filters on states -------------------------------------------------------------


def test_what_happened_out_of_view_is_not_missing() -> None:
    continuity = accepted(
        live(states=[CONNECTED]), event(11, 3, state="RECONNECTING"), event(15, 6)
    )
    assert continuity.sessions[SESSION_ID].sequence == 6


def test_what_happened_in_view_is_missing_also_with_a_filter() -> None:
    gap(live(states=[CONNECTED]), event(11, 4))


def test_a_session_may_come_into_view_late() -> None:
    accepted(live(states=[CONNECTED]), event(11, 9, session_id=OTHER_ID))


# -- provisional events ------------------------------------------------------------


def test_a_provisional_event_is_seen_and_superseded() -> None:
    continuity = accepted(live(), provisional(10, 3, state="RECONNECTING"))
    assert continuity.sessions[SESSION_ID].state is SessionState.RECONNECTING
    assert continuity.token == "t10"
    accepted(continuity, provisional(10, 4))
    accepted(continuity, event(11, 3, state="RECONNECTING"))
    assert continuity.sessions[SESSION_ID].sequence == 4, "the newer one still stands"
    accepted(continuity, event(12, 4), event(13, 5))
    assert continuity.sessions[SESSION_ID].sequence == 5


def test_a_provisional_event_may_be_missing_too() -> None:
    gap(live(), provisional(10, 4))
    gap(accepted(live(), provisional(10, 3)), provisional(10, 5))
    gap(live(), provisional(10, 2))


def test_a_persisted_event_may_not_be_skipped_because_a_provisional_one_came() -> None:
    gap(accepted(live(), provisional(10, 3)), event(11, 4))


def test_provisional_events_are_void_when_the_stream_is_lost() -> None:
    continuity = accepted(live(), provisional(10, 3, state="RECONNECTING"), provisional(10, 4))
    continuity.begin()
    assert continuity.sessions[SESSION_ID].sequence == 2
    # The broker has died with them: another third event is the truth.
    accepted(continuity, event(11, 3))


def test_a_new_session_may_begin_provisionally() -> None:
    continuity = accepted(live(), provisional(10, 1, session_id=OTHER_ID, state="CONNECTING"))
    assert OTHER_ID in continuity.sessions
    accepted(continuity, event(11, 1, session_id=OTHER_ID, state="CONNECTING"))


def test_a_provisional_end_leaves_the_fold_and_may_be_void() -> None:
    continuity = accepted(live(), provisional(10, 3, state="DISCONNECTED"))
    assert not continuity.sessions
    continuity.begin()
    assert list(continuity.sessions) == [SESSION_ID]


# -- any log -----------------------------------------------------------------------


def _log(rng: random.Random, length: int) -> list[SessionEvent]:
    """A log that could be: up to four sessions that move, and never after their end."""
    sequences: dict[str, int] = {}
    ended: set[str] = set()
    log: list[SessionEvent] = []
    for revision in range(1, length + 1):
        session_id = rng.choice([f"s{n}" for n in range(4) if f"s{n}" not in ended] or ["new"])
        if session_id in ended:
            break
        sequences[session_id] = sequence = sequences.get(session_id, 0) + 1
        state = rng.choice(["CONNECTED", "RECONNECTING", "CONNECTING", "CONNECTED", "FAILED"])
        if state == "FAILED":
            ended.add(session_id)
        log.append(event(revision, sequence, session_id=session_id, state=state))
    return log


def _stream(
    log: list[SessionEvent], begin: int, states: frozenset[SessionState]
) -> tuple[list[Any], list[SessionEvent]]:
    """What a broker tells: the snapshot as of a revision, and the events after it."""
    sessions = {item.session_id: item.session for item in log[:begin]}

    def matches(info: Any) -> bool:
        return info is not None and (not states or info.state in states)

    head = [
        Snapshot(session=info) for info in sessions.values() if matches(info) and not info.is_final
    ]
    tail = []
    for item in log[begin:]:
        if matches(sessions.get(item.session_id)) or matches(item.session):
            tail.append(item)
        sessions[item.session_id] = item.session
    return [*head, SnapshotComplete(revision=begin, token=f"t{begin}")], tail


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize(
    "states", [(), (CONNECTED,), (CONNECTED, SessionState.RECONNECTING)], ids=str
)
def test_any_log_is_accepted_whole_and_refused_with_a_hole(
    seed: int, states: tuple[SessionState, ...]
) -> None:
    rng = random.Random(seed)
    log = _log(rng, 40)
    head, tail = _stream(log, rng.randrange(len(log)), frozenset(states))
    whole = accepted(Continuity(states=states), *head)
    for item in tail:
        if rng.random() < 0.2:
            whole.begin()
        whole.accept(item)
    newest = {item.session_id: item.session for item in log}
    assert whole.sessions == {
        session_id: info
        for session_id, info in newest.items()
        if not info.is_final and (not states or info.state in states)
    }
    if states:
        return
    # Without one of them, the next event of the same session is refused.
    for index, hole in enumerate(tail):
        rest = [item for item in tail[index + 1 :] if item.session_id == hole.session_id]
        if rest:
            torn = accepted(Continuity(), *head, *tail[:index])
            for item in tail[index + 1 :]:
                if item.session_id == hole.session_id:
                    assert gap(torn, item).expected == hole.sequence
                    break
                torn.accept(item)


def test_items_are_values() -> None:
    assert snapshot() == snapshot()
    assert replace(complete(1), revision=2) != complete(1)
