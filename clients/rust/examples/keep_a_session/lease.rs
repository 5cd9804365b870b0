//! Keeps the lease of a session alive.

use std::time::Duration;

use ibgateway_client::v1::session_service_client::SessionServiceClient;
use ibgateway_client::v1::{RenewSessionRequest, Session};
use ibgateway_client::{BrokerError, ErrorKind, Link, call};
use tokio::time::sleep;

use crate::backoff::Backoff;

/// Renewals within the time of one lease.
const RENEWALS: u32 = 3;

/// Renew at once, and then at a third of the time that the broker grants, until the broker has no record
/// of the session: returns what it says.
///
/// It does not give up before: a broker that restarts takes its sessions up, and their leases begin
/// anew. So it goes on, too, if the broker says that the session has ended: that may not be on record
/// yet, and is for a watch to tell. It belongs into a task of its own, so that nothing that takes long delays it.
///
/// # Cancellation
///
/// To drop it is safe: the session ends with its lease.
pub async fn keep(
    mut sessions: SessionServiceClient<Link>,
    session_id: String,
    mut ttl: Duration,
) -> BrokerError {
    let mut backoff = Backoff::new();
    loop {
        let third = ttl / RENEWALS;
        // A part of the lease, so that there is time for another try.
        let patience = third.clamp(Duration::from_millis(500), Duration::from_secs(10));
        let request = RenewSessionRequest { session_id: session_id.clone(), lease_ttl: None };
        match call(request, patience, async |it| sessions.renew_session(it).await).await {
            Ok(renewed) => {
                backoff.reset();
                ttl = granted(&renewed.session.unwrap_or_default()).unwrap_or(ttl);
                sleep(ttl / RENEWALS).await;
            }
            Err(error) if error.kind() == ErrorKind::SessionNotFound => return error,
            Err(error) => {
                eprintln!("the lease could not be renewed, trying again: {error}");
                sleep(backoff.next(error.retry_after()).min(third)).await;
            }
        }
    }
}

/// The lease as the broker has granted it, which may be shorter than what was asked for.
pub fn granted(session: &Session) -> Option<Duration> {
    session.lease_ttl.and_then(|ttl| Duration::try_from(ttl).ok())
}
