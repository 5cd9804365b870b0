//! Follows one session until its end is on record.

use std::error::Error;

use ibgateway_client::v1::session_event::Change;
use ibgateway_client::v1::session_service_client::SessionServiceClient;
use ibgateway_client::v1::watch_sessions_response::Message;
use ibgateway_client::v1::{Session, SessionState, WatchSessionsRequest, WatchSessionsResponse};
use ibgateway_client::{BrokerError, ErrorKind, Link};
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::continuity::is_final;
use crate::kept::Kept;
use crate::watch::{Item, SILENCE, Watch, WatchError};

/// Follow a session until its end is on record: returns why it is over.
///
/// # Errors
///
/// It is refused to who asks, or what was handled cannot be kept.
///
/// # Cancellation
///
/// To drop it ends the watch; the next one continues after what was handled.
pub async fn follow(
    sessions: &SessionServiceClient<Link>,
    session_id: &str,
    kept: &mut Kept,
) -> Result<BrokerError, Box<dyn Error>> {
    let mut gaps = Backoff::new();
    loop {
        let request = WatchSessionsRequest {
            session_ids: vec![session_id.to_owned()],
            include_final: true,
            resume_token: kept.token.clone(),
            ..Default::default()
        };
        let mut watch = Watch::new(sessions.clone(), request, SILENCE);
        loop {
            match watch.next().await {
                Ok(Item::Told(response)) => {
                    if let Some(ended) = handle(&response) {
                        return Ok(ended);
                    }
                    // After it was handled: what was not is told again after a crash.
                    if kept.token != response.resume_token {
                        kept.token = response.resume_token;
                        kept.save()?;
                    }
                }
                Ok(Item::Interrupted(error)) => println!("do not trade, nothing is known: {error}"),
                Ok(Item::Resumed) => println!("followed again"),
                Err(WatchError::Gap(gap)) => {
                    eprintln!("REPORT THIS: {gap}");
                    kept.token.clear(); // the snapshot of a new watch is complete
                    sleep(gaps.next(None)).await; // it may come with each
                    break;
                }
                Err(error @ WatchError::Refused(_)) => return Err(error.into()),
            }
        }
    }
}

/// What a service does with what it is told: here it prints it. Returns why the session is over.
fn handle(response: &WatchSessionsResponse) -> Option<BrokerError> {
    let session = match response.message.as_ref()? {
        Message::Snapshot(session) => {
            println!("{} now", name(session.state()));
            session
        }
        Message::Event(event) => {
            let doubt = if event.persisted { "" } else { " (not on record yet)" };
            println!("{}{doubt}", event.change.as_ref().map(describe).unwrap_or_default());
            // Act on it, but do not believe its end: if the broker dies now, the session lives on.
            event.session.as_ref().filter(|_| event.persisted)?
        }
        Message::Reset(it) => {
            println!("what was known is void: {}", it.reason);
            return None;
        }
        Message::Draining(_) => {
            println!("the broker stops; the session stays");
            return None;
        }
        Message::SnapshotComplete(_) | Message::Bookmark(_) => return None,
    };
    is_final(session.state).then(|| ended(session))
}

fn describe(change: &Change) -> String {
    match change {
        Change::Transition(it) => format!("{}: {}", name(it.to()), it.reason),
        Change::Attempt(it) => {
            let failure = it.failure.clone().unwrap_or_default();
            format!("not yet: {}: {}", failure.reason, failure.message)
        }
        Change::Condition(it) => {
            format!("{} is {}: {}", it.r#type, it.status().as_str_name(), it.message)
        }
        Change::Notice(it) => format!("{}: {} {}", it.reason, it.message, it.hint),
        Change::Updated(it) => format!("changed: {}", it.fields.join(", ")),
    }
}

/// Why a session that is final is over.
fn ended(session: &Session) -> BrokerError {
    let why = match &session.last_failure {
        Some(failure) if session.close_reason.is_empty() => failure.message.clone(),
        _ => session.close_reason.clone(),
    };
    let state = name(session.state());
    BrokerError::new(ErrorKind::SessionEnded, format!("session is {state}: {why}"))
}

pub fn name(state: SessionState) -> &'static str {
    state.as_str_name().trim_start_matches("SESSION_STATE_")
}
