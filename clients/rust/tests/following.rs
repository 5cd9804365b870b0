//! How the example `keep_a_session` follows its session, with a broker that misbehaves.

#[path = "../examples/keep_a_session/backoff.rs"]
mod backoff;
#[path = "../examples/keep_a_session/continuity.rs"]
mod continuity;
#[path = "../examples/keep_a_session/follow.rs"]
mod follow;
#[path = "../examples/keep_a_session/kept.rs"]
mod kept;
mod scripted;
#[path = "../examples/keep_a_session/watch.rs"]
mod watch;

use std::time::{Duration, Instant};

use ibgateway_client::v1::watch_sessions_response::Message;
use ibgateway_client::v1::{
    Session, SessionEvent, SessionState, SnapshotComplete, WatchSessionsRequest,
};
use ibgateway_client::{Access, ErrorKind, connect};
use kept::Kept;
use scripted::{OK, Refusal, Scripted, Step, eventually, session, told};

/// One that is not persisted has the token of the last one that is.
fn event(state: SessionState, sequence: i64, revision: i64, persisted: bool) -> Step {
    let event = SessionEvent {
        session_id: "one".to_owned(),
        sequence,
        revision: if persisted { revision } else { 0 },
        persisted,
        session: Some(Session { state: state.into(), ..session(sequence) }),
        ..SessionEvent::default()
    };
    told(&format!("t{revision}"), revision, Message::Event(event))
}

fn snapshot() -> [Step; 3] {
    let complete = Message::SnapshotComplete(SnapshotComplete {});
    [Step::Open, told("early", 0, Message::Snapshot(session(1))), told("t3", 3, complete)]
}

fn end() -> Step {
    Step::End(Refusal::bare(OK, ""))
}

fn kept() -> Kept {
    let name = format!("following-{}.kept", ibgateway_client::uuid4());
    Kept::load(&std::env::temp_dir().join(name)).unwrap()
}

#[tokio::test]
async fn an_end_is_believed_once_it_is_on_record() {
    let server = Scripted::start().await;
    let [open, early, complete] = snapshot();
    let ends = event(SessionState::Disconnected, 2, 3, false);
    server.on(
        "WatchSessions",
        [
            vec![open.clone(), early, complete, ends, end()],
            // That broker has died with the end; with the next one the session goes on.
            vec![
                open,
                event(SessionState::Reconnecting, 2, 4, true),
                event(SessionState::Failed, 3, 4, false),
                event(SessionState::Failed, 3, 5, true),
                Step::Hang,
            ],
        ],
    );
    let sessions = connect(&server.address, Access::new()).unwrap().sessions();
    let mut kept = kept();
    let why = follow::follow(&sessions, "one", &mut kept).await.unwrap();
    assert_eq!(why.kind(), ErrorKind::SessionEnded);
    assert!(why.message().starts_with("session is FAILED"), "{why}");
    let asked = server.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].message::<WatchSessionsRequest>().resume_token, "t3");
    assert_eq!(kept.token, "t4");
    kept.forget().unwrap();
}

#[tokio::test]
async fn a_gap_in_each_stream_makes_no_storm_of_them() {
    let server = Scripted::start().await;
    let [open, early, complete] = snapshot();
    let gap = event(SessionState::Connected, 9, 4, true);
    server.on("WatchSessions", [vec![open, early, complete, gap, Step::Hang]]);
    let sessions = connect(&server.address, Access::new()).unwrap().sessions();
    let mut kept = kept();
    let began = Instant::now();
    let waits = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        eventually("it is asked again", || server.asked().len() >= 2).await;
    };
    tokio::select! {
        ended = follow::follow(&sessions, "one", &mut kept) => panic!("{ended:?}"),
        () = waits => {}
    }
    let asked = server.asked();
    // The waits double, from 0.1 s at least to 2.5 s.
    let most = 5 + began.elapsed().as_secs();
    assert!(asked.len() as u64 <= most, "{} within {:?}", asked.len(), began.elapsed());
    assert!(asked.iter().all(|it| it.message::<WatchSessionsRequest>().resume_token.is_empty()));
    eventually("each is ended", || server.open() == 0).await;
    kept.forget().unwrap();
}
