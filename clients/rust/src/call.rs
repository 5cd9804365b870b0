//! One call, with its deadline.

use std::time::Duration;

use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::error::{BrokerError, ErrorKind};
use crate::status::CORRELATION_KEY;

/// For `OpenSession`: longer than the broker's own attempts take by default.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(300);
/// For a call that does not wait for a Gateway.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// For `VerifySession`: longer than the broker itself waits for the Gateway.
pub const VERIFY_TIMEOUT: Duration = Duration::from_secs(30);
/// For `CloseSession`: longer than the broker itself waits for the link to end.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest that the header of a deadline can say, in seconds.
const LONGEST: Duration = Duration::from_secs(99_999_999);

/// Make one call, and wait for its answer no longer than `timeout`.
///
/// The time counts from now, for finding the broker too, and the broker is told of it. A request's
/// own [`set_timeout`](Request::set_timeout) bounds neither the way there nor an answer that stalls.
/// A fresh correlation id goes along, and is in the error. It is not for streams, which go on.
///
/// ```no_run
/// # async fn f(broker: ibgateway_client::Broker) -> Result<(), ibgateway_client::BrokerError> {
/// use ibgateway_client::v1::ListSessionsRequest;
/// use ibgateway_client::{TIMEOUT, call};
///
/// let mut sessions = broker.sessions();
/// let request = ListSessionsRequest::default();
/// let page = call(request, TIMEOUT, async |it| sessions.list_sessions(it).await).await?;
/// println!("{} sessions", page.sessions.len());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// What the call failed with. It is not repeated: see [`BrokerError::retry_after`].
///
/// # Cancellation
///
/// To drop it cancels the call; what that means is the method's to say.
pub async fn call<Q, A>(
    message: Q,
    timeout: Duration,
    send: impl AsyncFnOnce(Request<Q>) -> Result<Response<A>, Status>,
) -> Result<A, BrokerError> {
    let correlation_id = uuid4();
    let mut request = Request::new(message);
    request.set_timeout(timeout.min(LONGEST));
    correlate(&mut request, &correlation_id);
    let mut error = match tokio::time::timeout(timeout, send(request)).await {
        Ok(Ok(response)) => return Ok(response.into_inner()),
        Ok(Err(status)) => BrokerError::from(status),
        Err(_) => BrokerError::from(Status::deadline_exceeded("")),
    };
    let parts = error.parts();
    if parts.kind == ErrorKind::CallTimeout {
        let seconds = (timeout.as_secs_f64() * 1e3).round() / 1e3; // what a repeated call has left is odd
        parts.message = format!("the broker has not answered within {seconds} s");
    }
    if parts.correlation_id.is_empty() {
        parts.correlation_id = correlation_id;
    }
    Err(error)
}

/// A fresh UUID4, for the `request_id` of an open.
#[must_use]
pub fn uuid4() -> String {
    Uuid::new_v4().to_string()
}

/// Send a correlation id along, unless there is one.
pub(crate) fn correlate<Q>(request: &mut Request<Q>, id: &str) {
    if request.metadata().contains_key(CORRELATION_KEY) {
        return;
    }
    if let Ok(value) = MetadataValue::try_from(id) {
        request.metadata_mut().insert(CORRELATION_KEY, value);
    }
}
