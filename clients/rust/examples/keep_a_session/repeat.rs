//! Calls that are repeated until their time is over.

use std::time::Duration;

use ibgateway_client::{BrokerError, ErrorKind};
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;

/// What a try should have: with less, what is known already says more than its end.
const LAST_TRY: Duration = Duration::from_millis(100);

/// Make a call, and repeat it while no broker can be reached, or while the broker says that it could not
/// serve it now. For calls that are safe to repeat when nobody has answered: reads, close, renew, and an
/// open with a `request_id`.
///
/// # Errors
///
/// What the last try failed with.
///
/// # Cancellation
///
/// To drop it cancels the try that is under way.
pub async fn repeat<T>(
    timeout: Duration,
    mut attempt: impl AsyncFnMut(Duration) -> Result<T, BrokerError>,
) -> Result<T, BrokerError> {
    let deadline = Instant::now() + timeout;
    let mut backoff = Backoff::new();
    let mut left = timeout;
    loop {
        let error = match attempt(left).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let pause = backoff.next(error.retry_after());
        if !passes(error.kind()) || Instant::now() + pause + LAST_TRY >= deadline {
            return Err(error);
        }
        eprintln!("{error}; trying again in {:.1} s", pause.as_secs_f64());
        sleep(pause).await;
        left = deadline.saturating_duration_since(Instant::now());
        // A busy machine may have slept for longer.
        if left < LAST_TRY {
            return Err(error);
        }
    }
}

fn passes(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::CircuitBreakerOpen
            | ErrorKind::GatewayDraining
            | ErrorKind::BrokerDraining
            | ErrorKind::StoreUnavailable
            | ErrorKind::BrokerUnreachable
    )
}
