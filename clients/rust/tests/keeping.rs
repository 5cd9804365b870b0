//! What else the example `keep_a_session` is made of: lease, repeated calls, the file.

#[path = "../examples/keep_a_session/backoff.rs"]
mod backoff;
#[path = "../examples/keep_a_session/kept.rs"]
mod kept;
#[path = "../examples/keep_a_session/lease.rs"]
mod lease;
#[path = "../examples/keep_a_session/repeat.rs"]
mod repeat;
mod scripted;

use std::cell::Cell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ibgateway_client::v1::{RenewSessionRequest, RenewSessionResponse, Session};
use ibgateway_client::{Access, BrokerError, ErrorKind, connect};
use kept::Kept;
use repeat::repeat;
use scripted::{Refusal, Scripted, Step, UNAVAILABLE, answer, session};

fn renewed(ttl: Duration) -> Vec<Step> {
    let lease_ttl = Some(ttl.try_into().unwrap());
    answer(&RenewSessionResponse { session: Some(Session { lease_ttl, ..session(1) }) })
}

#[tokio::test]
async fn a_lease_is_renewed_at_a_third_of_what_is_granted_until_there_is_no_session() {
    let server = Scripted::start().await;
    let granted = Duration::from_millis(600);
    let over = vec![Step::End(Refusal::of(5, "SESSION_NOT_FOUND"))];
    server.on("RenewSession", [renewed(granted), renewed(granted), over]);
    let sessions = connect(&server.address, Access::new()).unwrap().sessions();
    let began = Instant::now();
    let hour = Duration::from_secs(3600);
    let why = lease::keep(sessions, "one".to_owned(), hour).await;
    assert_eq!(why.kind(), ErrorKind::SessionNotFound);
    assert!(began.elapsed() >= Duration::from_millis(400), "at once, then twice after a third");
    assert!(began.elapsed() < Duration::from_secs(60));
    let asked = server.asked();
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[0].message::<RenewSessionRequest>().session_id, "one");
}

#[tokio::test]
async fn it_is_tried_again_while_the_broker_is_away_or_an_end_is_not_on_record() {
    let server = Scripted::start().await;
    let over = vec![Step::End(Refusal::of(5, "SESSION_NOT_FOUND"))];
    server.on(
        "RenewSession",
        [
            vec![Step::End(Refusal::bare(UNAVAILABLE, "busy"))],
            vec![Step::Hang], // for the half of a second that one try may take
            vec![Step::End(Refusal::of(14, "BROKER_DRAINING"))],
            vec![Step::End(Refusal::of(10, "SESSION_CLOSED"))],
            over,
        ],
    );
    let sessions = connect(&server.address, Access::new()).unwrap().sessions();
    let began = Instant::now();
    let why = lease::keep(sessions, "one".to_owned(), Duration::from_millis(300)).await;
    assert_eq!(why.kind(), ErrorKind::SessionNotFound);
    assert_eq!(server.asked().len(), 5);
    assert!(began.elapsed() < Duration::from_secs(60));
}

async fn repeated(timeout: Duration, outcomes: &[Option<ErrorKind>]) -> (usize, bool) {
    let tries = Cell::new(0);
    let outcome = repeat(timeout, async |left| {
        assert!(left <= timeout);
        let kind = outcomes[tries.get()];
        tries.set(tries.get() + 1);
        kind.map_or(Ok(()), |kind| Err(BrokerError::new(kind, "so it is")))
    });
    let is_ok = outcome.await.is_ok();
    (tries.get(), is_ok)
}

#[tokio::test]
async fn a_call_is_repeated_while_that_may_help_and_within_its_time() {
    let long = Duration::from_secs(30);
    let passes = [Some(ErrorKind::BrokerUnreachable), Some(ErrorKind::CircuitBreakerOpen), None];
    assert_eq!(repeated(long, &passes).await, (3, true));
    for kind in [ErrorKind::ClientIdInUse, ErrorKind::CallTimeout, ErrorKind::SessionEnded] {
        assert_eq!(repeated(long, &[Some(kind)]).await, (1, false), "{kind:?}");
    }
    let away = [Some(ErrorKind::BrokerUnreachable); 4];
    let (tries, is_ok) = repeated(Duration::from_millis(250), &away).await;
    assert!(!is_ok && (1..=2).contains(&tries), "{tries}");
}

#[tokio::test]
async fn no_try_is_made_for_which_there_is_no_time() {
    // One that ends with its time would say less than the one before it.
    for _ in 0..10 {
        let error = repeat(Duration::from_millis(500), async |left| -> Result<(), BrokerError> {
            assert!(left >= Duration::from_millis(100), "{left:?}");
            Err(BrokerError::new(ErrorKind::BrokerUnreachable, "away"))
        });
        assert_eq!(error.await.unwrap_err().kind(), ErrorKind::BrokerUnreachable);
    }
}

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("{name}-{}", ibgateway_client::uuid4()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_is_kept_is_there_in_the_next_run_until_it_is_forgotten() {
    let directory = Directory::new("kept");
    let path = directory.0.join("session.kept");
    let mut first = Kept::load(&path).unwrap();
    assert!(!first.is_used && first.token.is_empty());
    first.token = "t1".to_owned();
    first.save().unwrap();
    let mut next = Kept::load(&path).unwrap();
    assert!(next.is_used);
    assert_eq!((&next.request_id, &next.token), (&first.request_id, &first.token));
    next.forget().unwrap();
    next.forget().unwrap();
    assert!(!path.exists() && !next.is_used && next.token.is_empty());
    assert_ne!(next.request_id, first.request_id);
    next.save().unwrap(); // without a token
    assert_eq!(Kept::load(&path).unwrap().token, "");
}

#[test]
fn files_whose_names_differ_in_their_end_only_do_not_meet() {
    let directory = Directory::new("desks");
    let [one, other] = ["session.1", "session.new"].map(|name| directory.0.join(name));
    std::fs::write(&other, "a\nb\n").unwrap();
    let kept = Kept::load(&one).unwrap();
    kept.save().unwrap();
    assert_eq!(Kept::load(&one).unwrap().request_id, kept.request_id);
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "a\nb\n");
}

#[test]
fn a_file_that_is_something_else_is_refused_and_left_as_it_is() {
    let directory = Directory::new("broken");
    let path = directory.0.join("session.kept");
    for text in ["", "one line\n", "a\nb\nc\n"] {
        std::fs::write(&path, text).unwrap();
        let refused = Kept::load(&path).unwrap_err().to_string();
        assert!(refused.contains("session.kept"), "{refused}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
    let nowhere = Kept::load(&directory.0.join("no/such/session.kept")).unwrap();
    assert!(nowhere.save().is_err());
}
