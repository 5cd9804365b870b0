//! The watch of the example `keep_a_session`, with a broker that misbehaves.

#[path = "../examples/keep_a_session/backoff.rs"]
mod backoff;
#[path = "../examples/keep_a_session/continuity.rs"]
mod continuity;
mod scripted;
#[path = "../examples/keep_a_session/watch.rs"]
mod watch;

use std::time::{Duration, Instant};

use ibgateway_client::v1::watch_sessions_response::Message;
use ibgateway_client::v1::{Reset, SessionEvent, SnapshotComplete, WatchSessionsRequest};
use ibgateway_client::{Access, ErrorKind, connect};
use scripted::{DOMAIN, OK, Refusal, Scripted, Step, UNAVAILABLE, bookmark, eventually};
use scripted::{session, told};
use watch::{Item, SILENCE, Watch, WatchError};

fn watch(server: &Scripted, silence: Duration) -> Watch {
    let sessions = connect(&server.address, Access::new()).unwrap().sessions();
    let request =
        WatchSessionsRequest { owner: "me".to_owned(), ..WatchSessionsRequest::default() };
    Watch::new(sessions, request, silence)
}

fn event(sequence: i64, revision: i64) -> Step {
    let event = SessionEvent {
        session_id: "one".to_owned(),
        sequence,
        revision,
        persisted: true,
        session: Some(session(sequence)),
        ..SessionEvent::default()
    };
    told(&format!("t{revision}"), revision, Message::Event(event))
}

/// The headers and a snapshot of one session, complete as of revision 3.
fn snapshot() -> Vec<Step> {
    let complete = Message::SnapshotComplete(SnapshotComplete {});
    vec![Step::Open, told("early", 0, Message::Snapshot(session(1))), told("t3", 3, complete)]
}

fn with(mut steps: Vec<Step>, more: impl IntoIterator<Item = Step>) -> Vec<Step> {
    steps.extend(more);
    steps
}

fn end() -> Step {
    Step::End(Refusal::bare(OK, ""))
}

/// What was told, in short: tokens of messages, kinds of errors.
async fn items(watch: &mut Watch, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    while found.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(30), watch.next());
        found.push(match next.await.expect("an item").unwrap() {
            Item::Told(response) => response.resume_token,
            Item::Interrupted(error) => format!("{:?}", error.kind()),
            Item::Resumed => "resumed".to_owned(),
        });
    }
    found
}

fn tokens(server: &Scripted) -> Vec<String> {
    let asked = server.asked();
    asked.iter().map(|it| it.message::<WatchSessionsRequest>().resume_token).collect()
}

#[tokio::test]
async fn a_lost_stream_is_resumed_after_the_last_message_with_the_same_filter() {
    let server = Scripted::start().await;
    let told_first = Step::Wait(Duration::from_millis(300));
    server.on(
        "WatchSessions",
        [
            with(snapshot(), [event(2, 4), end()]),
            vec![Step::Open, event(3, 5), told_first, Step::Cut, Step::Hang],
            vec![Step::Open, event(4, 6), Step::Hang],
        ],
    );
    let mut watch = watch(&server, SILENCE);
    assert_eq!(items(&mut watch, 3).await, ["early", "t3", "t4"]);
    assert_eq!(items(&mut watch, 3).await, ["BrokerDraining", "resumed", "t5"]);
    assert_eq!(items(&mut watch, 3).await, ["BrokerUnreachable", "resumed", "t6"]);
    assert_eq!(tokens(&server), ["", "t4", "t5"]);
    let last = server.asked().pop().unwrap();
    assert_eq!(last.message::<WatchSessionsRequest>().owner, "me");
}

#[tokio::test]
async fn a_quiet_stream_is_resumed_too() {
    let server = Scripted::start().await;
    server.on("WatchSessions", [with(snapshot(), [end()]), vec![Step::Open, Step::Hang]]);
    let mut watch = watch(&server, SILENCE);
    let told = items(&mut watch, 4).await;
    assert_eq!(told, ["early", "t3", "BrokerDraining", "resumed"]);
}

#[tokio::test]
async fn one_outage_is_told_once_and_a_new_reason_anew() {
    let server = Scripted::start().await;
    let at_once = Some(prost_types::Duration::default());
    let away = Refusal::packed(14, "STORE_UNAVAILABLE", DOMAIN, &[], at_once, &[], None);
    let busy = vec![Step::End(Refusal::bare(UNAVAILABLE, "busy"))];
    server.on(
        "WatchSessions",
        [
            with(snapshot(), [end()]),
            busy.clone(),
            busy,
            // It was opened, and cannot be served: it was never resumed.
            vec![Step::Open, Step::Wait(Duration::from_millis(20)), Step::End(away)],
            vec![Step::Open, Step::Hang],
        ],
    );
    let mut watch = watch(&server, SILENCE);
    let told = items(&mut watch, 6).await;
    let expected =
        ["early", "t3", "BrokerDraining", "BrokerUnreachable", "StoreUnavailable", "resumed"];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_long_wait_is_told_though_its_cause_was() {
    let server = Scripted::start().await;
    let [away, for_long] = [0, 60].map(|seconds| {
        let wait = Some(prost_types::Duration { seconds, nanos: 0 });
        let reason = Refusal::packed(14, "STORE_UNAVAILABLE", DOMAIN, &[], wait, &[], None);
        vec![Step::End(reason)]
    });
    server.on("WatchSessions", [with(snapshot(), away), for_long]);
    let mut watch = watch(&server, SILENCE);
    let expected = ["early", "t3", "StoreUnavailable", "StoreUnavailable"];
    assert_eq!(items(&mut watch, 4).await, expected);
}

#[tokio::test]
async fn half_a_snapshot_is_resumed_with_its_token_and_reset_by_the_broker() {
    let server = Scripted::start().await;
    let reset = told("early", 0, Message::Reset(Reset::default()));
    server.on(
        "WatchSessions",
        [
            vec![Step::Open, told("early", 0, Message::Snapshot(session(1))), end()],
            with(vec![Step::Open, reset], with(snapshot().split_off(1), [event(2, 4), Step::Hang])),
        ],
    );
    let mut watch = watch(&server, SILENCE);
    let told = items(&mut watch, 7).await;
    let expected = ["early", "BrokerDraining", "resumed", "early", "early", "t3", "t4"];
    assert_eq!(told, expected);
    assert_eq!(tokens(&server), ["", "early"]);
}

#[tokio::test]
async fn a_stream_that_is_silent_is_given_up_and_one_that_speaks_is_not() {
    let server = Scripted::start().await;
    let pause = Step::Wait(Duration::from_millis(500));
    let mut speaks = snapshot();
    for revision in 4..9 {
        speaks.extend([pause.clone(), bookmark(&format!("t{revision}"), revision)]);
    }
    speaks.push(Step::Hang);
    server
        .on("WatchSessions", [speaks, vec![Step::Hang], vec![Step::Open, event(2, 9), Step::Hang]]);
    let mut watch = watch(&server, Duration::from_millis(1500));
    let told = items(&mut watch, 8).await;
    assert_eq!(told, ["early", "t3", "t4", "t5", "t6", "t7", "t8", "BrokerUnreachable"]);
    // The second is never even opened.
    assert_eq!(items(&mut watch, 2).await, ["resumed", "t9"]);
    eventually("the silent ones are cancelled", || server.cancelled() >= 2).await;
}

#[tokio::test]
async fn a_program_that_slept_does_not_take_the_broker_for_silent() {
    let server = Scripted::start().await;
    let pause = Step::Wait(Duration::from_millis(100));
    let speaks = with(snapshot(), [pause, bookmark("t4", 4), Step::Hang]);
    server.on("WatchSessions", [speaks, vec![Step::Open, Step::Hang]]);
    let mut watch = watch(&server, Duration::from_millis(700));
    assert_eq!(items(&mut watch, 2).await, ["early", "t3"]);
    std::thread::sleep(Duration::from_secs(2)); // nothing of this process runs meanwhile
    assert_eq!(items(&mut watch, 2).await, ["t4", "BrokerUnreachable"]);
    // Whoever asks seldom is not taken for one that slept each time.
    assert_eq!(items(&mut watch, 1).await, ["resumed"]);
    let mut asked = 0;
    let mut ask = async || tokio::time::timeout(Duration::from_millis(1), watch.next()).await;
    while ask().await.is_err() && asked < 5 {
        tokio::time::sleep(Duration::from_millis(1400)).await;
        asked += 1;
    }
    assert!((1..=2).contains(&asked), "{asked}");
}

#[tokio::test]
async fn what_would_be_refused_for_ever_ends_the_watch() {
    let server = Scripted::start().await;
    for (refusal, kind) in [
        (Refusal::of(3, "INVALID_ARGUMENT"), ErrorKind::InvalidArgument),
        (Refusal::of(16, "UNAUTHENTICATED"), ErrorKind::Unauthenticated),
        (Refusal::of(7, "PERMISSION_DENIED"), ErrorKind::PermissionDenied),
        (Refusal::bare(12, "no such method"), ErrorKind::UnexpectedAnswer),
    ] {
        server.on("WatchSessions", [vec![Step::End(refusal)]]);
        let ended = watch(&server, SILENCE).next().await.unwrap_err();
        let WatchError::Refused(error) = ended else { panic!("{ended}") };
        assert_eq!(error.kind(), kind);
    }
}

#[tokio::test]
async fn a_gap_is_told_and_nothing_after_it() {
    let server = Scripted::start().await;
    server.on("WatchSessions", [with(snapshot(), [event(3, 4), event(4, 5), Step::Hang])]);
    let mut watch = watch(&server, SILENCE);
    items(&mut watch, 2).await;
    let ended = watch.next().await.unwrap_err();
    let WatchError::Gap(gap) = ended else { panic!("{ended}") };
    assert_eq!((gap.expected, gap.received), (2, 3));
}

#[tokio::test]
async fn to_stop_waiting_loses_nothing_and_keeps_the_stream() {
    let server = Scripted::start().await;
    let late = Step::Wait(Duration::from_millis(100));
    let slow = vec![
        late.clone(),
        Step::Open,
        late.clone(),
        told("early", 0, Message::Snapshot(session(1))),
        late,
        told("t3", 3, Message::SnapshotComplete(SnapshotComplete {})),
        Step::Hang,
    ];
    server.on("WatchSessions", [slow]);
    let mut watch = watch(&server, SILENCE);
    let (mut found, began) = (Vec::new(), Instant::now());
    while found.len() < 2 && began.elapsed() < SILENCE {
        if let Ok(item) = tokio::time::timeout(Duration::from_millis(7), watch.next()).await {
            let Item::Told(response) = item.unwrap() else { panic!("no outage was planned") };
            found.push(response.resume_token);
        }
    }
    assert_eq!(found, ["early", "t3"]);
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_watch_that_is_dropped_leaves_nothing_behind() {
    let server = Scripted::start().await;
    server.on("WatchSessions", [with(snapshot(), [Step::Hang])]);
    let mut all = Vec::new();
    for _ in 0..20 {
        let mut watch = watch(&server, SILENCE);
        items(&mut watch, 1).await;
        all.push(watch);
    }
    assert_eq!(server.open(), 20);
    drop(all);
    eventually("no stream is open", || server.open() == 0).await;
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert!(tasks < 30, "{tasks} tasks are left");
}

#[test]
fn waits_grow_to_5_s_and_the_broker_may_ask_for_longer_ones() {
    let mut backoff = backoff::Backoff::new();
    let waits: Vec<_> = (0..100).map(|_| backoff.next(None).as_secs_f64()).collect();
    for (failures, wait) in waits.iter().enumerate() {
        let whole = (0.2 * 2_f64.powi(i32::try_from(failures).unwrap())).min(5.0);
        assert!((whole / 2.0..=whole).contains(wait), "{failures}: {wait}");
    }
    let asked = backoff.next(Some(Duration::from_secs(60))).as_secs_f64();
    assert!((60.0..=75.0).contains(&asked), "{asked}");
    assert!(backoff.next(Some(Duration::ZERO)).as_secs_f64() >= 0.2);
    assert!(backoff.next(Some(Duration::MAX)).as_secs_f64() < 5000.0);
    backoff.reset();
    assert!(backoff.next(None).as_secs_f64() <= 0.2);
}
