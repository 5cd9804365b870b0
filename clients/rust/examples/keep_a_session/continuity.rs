//! Proves that a watch is complete. Pure: no I/O, no clock.
//!
//! Rules, from the contract of `WatchSessions`:
//!
//! 1. A stream that begins anew has snapshots, then their completion, then events. One that continues
//!    has events only, unless a reset says that it begins anew.
//! 2. Persisted events come in the order of their revisions.
//! 3. An event is told if its session matched before or after it. So the event after one whose session
//!    matches has the next sequence; a session that comes into view later may have any. Only its state
//!    can bring a session into view later: without a filter on states, a session that the snapshot did
//!    not have begins with 1.
//! 4. An event that is not persisted yet is told again once it is. Until then it stands beside what is
//!    kept, and is void when the stream is lost: the broker may have died with it.

use std::collections::HashMap;
use std::fmt;

use ibgateway_client::v1::watch_sessions_response::Message;
use ibgateway_client::v1::{
    Session, SessionEvent, SessionState, WatchSessionsRequest, WatchSessionsResponse,
};

/// Proof that a stream is not complete: the broker, or something between, has erred. A new watch
/// without a token has a complete snapshot. Report it.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchGap {
    /// The session whose events are missing or out of order; empty if it is the stream itself.
    pub session_id: String,
    /// The sequence or revision that should have come.
    pub expected: i64,
    /// The one that came.
    pub received: i64,
    message: String,
}

impl fmt::Display for WatchGap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for WatchGap {}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Snapshot,
    Events,
}

/// How far a session has been told, and whether it matched then.
#[derive(Clone, Copy, Debug)]
struct Told {
    sequence: i64,
    matches: bool,
}

/// What a watch knows, over all of its streams.
#[derive(Debug)]
pub struct Continuity {
    states: Vec<i32>,
    include_final: bool,
    token: String,
    phase: Phase,
    revision: i64,
    /// Whether a session that is not known must be new.
    knows_all: bool,
    kept: HashMap<String, Told>,
    provisional: HashMap<String, Told>,
    snapshot: HashMap<String, Told>,
}

impl Continuity {
    /// Of a watch that begins with this request.
    pub fn new(request: &WatchSessionsRequest) -> Self {
        let names_final = request.states.iter().any(|state| is_final(*state));
        Self {
            states: request.states.clone(),
            include_final: request.include_final || names_final,
            token: request.resume_token.clone(),
            phase: if request.resume_token.is_empty() { Phase::Snapshot } else { Phase::Events },
            revision: 0,
            knows_all: false,
            kept: HashMap::new(),
            provisional: HashMap::new(),
            snapshot: HashMap::new(),
        }
    }

    /// Where to continue: the token of the last message.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A new stream begins, with [`token`](Self::token).
    pub fn begin(&mut self) {
        self.provisional.clear();
        self.snapshot.clear();
    }

    /// Take a message of the stream.
    ///
    /// # Errors
    ///
    /// Something is missing before it; nothing has changed.
    pub fn accept(&mut self, response: &WatchSessionsResponse) -> Result<(), WatchGap> {
        match &response.message {
            Some(Message::Snapshot(session)) => {
                self.require(Phase::Snapshot, "a snapshot came where events were due")?;
                self.snapshot.insert(session.session_id.clone(), self.told(session));
            }
            Some(Message::SnapshotComplete(_)) => {
                self.require(Phase::Snapshot, "a snapshot ended that had not begun")?;
                self.kept = std::mem::take(&mut self.snapshot);
                self.phase = Phase::Events;
                self.knows_all = true;
                self.revision = response.revision;
            }
            Some(Message::Event(event)) => self.event(event)?,
            Some(Message::Bookmark(_)) => {
                if response.revision < self.revision {
                    return Err(WatchGap {
                        session_id: String::new(),
                        expected: self.revision,
                        received: response.revision,
                        message: format!(
                            "a bookmark says {}, but revision {} was told",
                            response.revision, self.revision
                        ),
                    });
                }
                self.revision = response.revision;
            }
            Some(Message::Reset(_)) => {
                self.begin();
                self.phase = Phase::Snapshot;
            }
            // A message of a newer broker has a token, too.
            Some(Message::Draining(_)) | None => {}
        }
        self.token.clone_from(&response.resume_token);
        Ok(())
    }

    fn require(&self, phase: Phase, message: &str) -> Result<(), WatchGap> {
        if self.phase == phase {
            return Ok(());
        }
        Err(WatchGap {
            session_id: String::new(),
            expected: 0,
            received: 0,
            message: format!("{message}: what happened before it is missing"),
        })
    }

    fn event(&mut self, event: &SessionEvent) -> Result<(), WatchGap> {
        self.require(Phase::Events, "an event came before the snapshot was complete")?;
        let id = &event.session_id;
        let after = event.session.clone().unwrap_or_default();
        let told = Told { sequence: event.sequence, ..self.told(&after) };
        let before = self.kept.get(id).copied();
        if !event.persisted {
            self.expect(event, self.provisional.get(id).copied().or(before))?;
            self.provisional.insert(id.clone(), told);
            return Ok(());
        }
        if event.revision <= self.revision {
            return Err(WatchGap {
                session_id: id.clone(),
                expected: self.revision.saturating_add(1),
                received: event.revision,
                message: format!("revision {} came after {}", event.revision, self.revision),
            });
        }
        self.expect(event, before)?;
        if self.provisional.get(id).is_some_and(|shown| shown.sequence <= event.sequence) {
            self.provisional.remove(id);
        }
        if told.matches && (self.include_final || !is_final(after.state)) {
            self.kept.insert(id.clone(), told);
        } else {
            self.kept.remove(id);
        }
        self.revision = event.revision;
        Ok(())
    }

    /// Require that no event is missing between the last one of a session and this one.
    fn expect(&self, event: &SessionEvent, before: Option<Told>) -> Result<(), WatchGap> {
        let (expected, is_exact) = match before {
            Some(told) => (told.sequence.saturating_add(1), told.matches),
            None => (1, self.knows_all && self.states.is_empty()),
        };
        if event.sequence == expected || (event.sequence > expected && !is_exact) {
            return Ok(());
        }
        let (id, received) = (&event.session_id, event.sequence);
        Err(WatchGap {
            session_id: id.clone(),
            expected,
            received,
            message: if received > expected {
                format!("event {expected} of session {id} is missing: {received} came")
            } else {
                format!("event {received} of session {id} came again")
            },
        })
    }

    fn told(&self, session: &Session) -> Told {
        Told {
            sequence: session.sequence,
            matches: self.states.is_empty() || self.states.contains(&session.state),
        }
    }
}

/// Whether a state is one that nothing follows.
pub fn is_final(state: i32) -> bool {
    matches!(SessionState::try_from(state), Ok(SessionState::Disconnected | SessionState::Failed))
}
