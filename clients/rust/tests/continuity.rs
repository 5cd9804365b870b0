//! The check of the example `keep_a_session` that nothing is lost and nothing comes twice.

#[path = "../examples/keep_a_session/continuity.rs"]
mod continuity;

use continuity::{Continuity, WatchGap};
use ibgateway_client::v1::watch_sessions_response::Message;
use ibgateway_client::v1::{
    Bookmark, Draining, Reset, Session, SessionEvent, SessionState, SnapshotComplete,
    WatchSessionsRequest, WatchSessionsResponse,
};

/// A watch, and what it is told.
struct Told(Continuity);

impl Told {
    fn new(request: &WatchSessionsRequest) -> Self {
        Self(Continuity::new(request))
    }

    fn tell(&mut self, revision: i64, message: Message) -> Result<(), WatchGap> {
        let resume_token = format!("token {revision}");
        let message = Some(message);
        self.0.accept(&WatchSessionsResponse { resume_token, revision, message })
    }

    fn snapshot(&mut self, sessions: &[(&str, i64)], revision: i64) {
        for (id, sequence) in sessions {
            let session = session(id, *sequence, SessionState::Connected);
            self.tell(0, Message::Snapshot(session)).unwrap();
        }
        self.tell(revision, Message::SnapshotComplete(SnapshotComplete {})).unwrap();
    }

    fn event(&mut self, id: &str, sequence: i64, revision: i64) -> Result<(), WatchGap> {
        self.event_in(SessionState::Connected, id, sequence, revision)
    }

    /// With revision 0 one that is not persisted.
    fn event_in(
        &mut self,
        state: SessionState,
        id: &str,
        sequence: i64,
        revision: i64,
    ) -> Result<(), WatchGap> {
        let event = SessionEvent {
            session_id: id.to_owned(),
            sequence,
            revision,
            persisted: revision > 0,
            session: Some(session(id, sequence, state)),
            ..SessionEvent::default()
        };
        self.tell(revision, Message::Event(event))
    }
}

fn session(id: &str, sequence: i64, state: SessionState) -> Session {
    Session { session_id: id.to_owned(), sequence, state: state.into(), ..Session::default() }
}

fn watch() -> Told {
    Told::new(&WatchSessionsRequest::default())
}

fn resumed() -> Told {
    Told::new(&WatchSessionsRequest { resume_token: "kept".into(), ..<_>::default() })
}

fn gap(found: Result<(), WatchGap>) -> (String, i64, i64) {
    let gap = found.unwrap_err();
    assert!(!gap.to_string().is_empty());
    (gap.session_id, gap.expected, gap.received)
}

#[test]
fn a_snapshot_and_the_events_after_it_are_complete() {
    let mut told = watch();
    told.snapshot(&[("a", 3), ("b", 7)], 10);
    told.event("a", 4, 11).unwrap();
    told.event("b", 8, 12).unwrap();
    told.event("new", 1, 20).unwrap();
    told.event("a", 5, 21).unwrap();
    assert_eq!(told.0.token(), "token 21");
}

#[test]
fn an_event_that_is_missing_is_noticed_and_changes_nothing() {
    let mut told = watch();
    told.snapshot(&[("a", 3)], 10);
    assert_eq!(gap(told.event("a", 6, 12)), ("a".into(), 4, 6));
    assert_eq!(gap(told.event("new", 2, 12)), ("new".into(), 1, 2));
    assert_eq!(told.0.token(), "token 10");
    told.event("a", 4, 12).unwrap();
}

#[test]
fn an_event_that_comes_twice_is_noticed() {
    let mut told = watch();
    told.snapshot(&[("a", 3)], 10);
    told.event("a", 4, 11).unwrap();
    assert_eq!(gap(told.event("a", 4, 11)), ("a".into(), 12, 11));
    assert_eq!(gap(told.event("a", 4, 12)), ("a".into(), 5, 4));
    assert_eq!(gap(told.event("b", 0, 12)), ("b".into(), 1, 0));
}

#[test]
fn revisions_never_go_back() {
    let mut told = watch();
    told.snapshot(&[], 10);
    told.tell(15, Message::Bookmark(Bookmark::default())).unwrap();
    told.tell(15, Message::Bookmark(Bookmark::default())).unwrap();
    assert_eq!(gap(told.tell(14, Message::Bookmark(Bookmark::default()))), (String::new(), 15, 14));
    assert_eq!(gap(told.event("new", 1, 15)), ("new".into(), 16, 15));
}

#[test]
fn each_message_has_its_place() {
    let mut told = watch();
    assert_eq!(gap(told.event("a", 1, 1)).0, "");
    told.snapshot(&[("a", 1)], 1);
    let late = Message::Snapshot(session("b", 1, SessionState::Connected));
    assert_eq!(gap(told.tell(0, late)).0, "");
    assert_eq!(gap(told.tell(2, Message::SnapshotComplete(SnapshotComplete {}))).0, "");
    told.tell(1, Message::Draining(Draining::default())).unwrap();
}

#[test]
fn a_watch_that_continues_takes_the_first_event_of_a_session_as_it_is() {
    let mut told = resumed();
    told.event("a", 40, 100).unwrap();
    told.event("a", 41, 101).unwrap();
    assert_eq!(gap(told.event("a", 43, 102)), ("a".into(), 42, 43));
    let mut told = resumed();
    let unasked = Message::Snapshot(session("a", 1, SessionState::Connected));
    assert_eq!(gap(told.tell(0, unasked)).0, "");
}

#[test]
fn a_stream_that_continues_continues_the_sequences() {
    let mut told = watch();
    told.snapshot(&[("a", 3)], 10);
    told.event("a", 4, 11).unwrap();
    told.0.begin();
    assert_eq!(gap(told.event("a", 6, 13)), ("a".into(), 5, 6));
    told.event("a", 5, 13).unwrap();
}

#[test]
fn after_a_reset_all_begins_anew() {
    let mut told = watch();
    told.snapshot(&[("a", 3), ("b", 1)], 10);
    told.tell(0, Message::Reset(Reset::default())).unwrap();
    told.snapshot(&[("a", 1)], 2);
    told.event("a", 2, 3).unwrap();
    told.event("b", 1, 4).unwrap();
}

#[test]
fn half_a_snapshot_is_forgotten_with_its_stream() {
    let mut told = watch();
    told.tell(0, Message::Snapshot(session("gone", 5, SessionState::Connected))).unwrap();
    told.0.begin();
    assert_eq!(told.0.token(), "token 0");
    told.tell(0, Message::Reset(Reset::default())).unwrap();
    told.snapshot(&[("a", 3)], 10);
    told.event("gone", 1, 11).unwrap();
}

#[test]
fn an_event_that_is_not_persisted_comes_again() {
    let mut told = watch();
    told.snapshot(&[("a", 3)], 10);
    told.event("a", 4, 0).unwrap();
    told.event("a", 5, 0).unwrap();
    assert_eq!(gap(told.event("a", 7, 0)), ("a".into(), 6, 7));
    told.event("a", 4, 11).unwrap();
    told.event("a", 6, 0).unwrap();
    told.event("a", 5, 12).unwrap();
    told.event("a", 6, 13).unwrap();
    told.event("a", 7, 0).unwrap();
    assert_eq!(gap(told.event("a", 7, 0)), ("a".into(), 8, 7));
}

#[test]
fn what_was_not_persisted_is_void_when_the_stream_is_lost() {
    let mut told = watch();
    told.snapshot(&[("a", 3)], 10);
    told.event("a", 4, 0).unwrap();
    told.0.begin();
    // The broker died with it; the next one has told something else.
    told.event_in(SessionState::Reconnecting, "a", 4, 11).unwrap();
}

#[test]
fn a_session_that_comes_into_view_later_may_have_any_sequence() {
    let mut told = Told::new(&WatchSessionsRequest {
        states: vec![SessionState::Connected.into()],
        ..WatchSessionsRequest::default()
    });
    told.snapshot(&[("a", 3)], 10);
    told.event("late", 9, 11).unwrap();
    told.event_in(SessionState::Reconnecting, "a", 4, 12).unwrap(); // leaves
    told.event("a", 7, 15).unwrap(); // and is back
    assert_eq!(gap(told.event("a", 9, 16)), ("a".into(), 8, 9));
}

#[test]
fn a_session_that_has_ended_is_not_kept_unless_it_was_asked_for() {
    let mut told = watch();
    told.snapshot(&[("a", 3)], 10);
    told.event_in(SessionState::Disconnected, "a", 4, 11).unwrap();
    let mut all =
        Told::new(&WatchSessionsRequest { include_final: true, ..WatchSessionsRequest::default() });
    all.snapshot(&[("a", 3)], 10);
    all.event_in(SessionState::Failed, "a", 4, 11).unwrap();
    assert_eq!(gap(all.event("a", 6, 12)), ("a".into(), 5, 6));
}

#[test]
fn no_number_is_too_large_for_it() {
    let mut told = resumed();
    told.event("a", i64::MAX, i64::MAX - 1).unwrap();
    assert!(told.event("a", i64::MIN, i64::MAX).is_err());
    assert!(told.event("b", -5, i64::MAX).is_err());
}
