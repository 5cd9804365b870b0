//! From the status of a call to an error; nowhere else.
//!
//! The broker packs a `google.rpc.Status` into the trailing metadata. An error without our
//! `ErrorInfo` in it does not come from a broker.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use prost::{DecodeError, Message};
use tonic::{Code, Status, TimeoutExpired};
use tonic_types::FieldViolation;
use tonic_types::pb::{BadRequest, ErrorInfo, RetryInfo, Status as RichStatus};

use crate::error::{BrokerError, ErrorKind};
use crate::v1::ConnectionFailure;

pub(crate) const CORRELATION_KEY: &str = "x-correlation-id";
const DOMAIN: &str = "ibgateway.broker.v1";

impl From<Status> for BrokerError {
    fn from(status: Status) -> Self {
        let mut error = match Details::unpack(status.details()) {
            Some(details) => ours(details, &status),
            None => foreign(&status),
        };
        if let Some(id) = status.metadata().get(CORRELATION_KEY) {
            id.to_str().unwrap_or_default().clone_into(&mut error.parts().correlation_id);
        }
        error
    }
}

/// What the broker has packed into an error.
#[derive(Default)]
struct Details {
    info: ErrorInfo,
    bad: BadRequest,
    retry: Option<RetryInfo>,
    failure: Option<ConnectionFailure>,
}

impl Details {
    /// The details of an error of ours; `None` if it is somebody else's, or broken.
    fn unpack(packed: &[u8]) -> Option<Self> {
        let details = Self::decode(packed).ok()?;
        (details.info.domain == DOMAIN).then_some(details)
    }

    fn decode(packed: &[u8]) -> Result<Self, DecodeError> {
        let mut details = Self::default();
        for detail in RichStatus::decode(packed)?.details {
            let value = detail.value.as_slice();
            match detail.type_url.rsplit('/').next() {
                Some("google.rpc.ErrorInfo") => details.info = ErrorInfo::decode(value)?,
                Some("google.rpc.BadRequest") => details.bad = BadRequest::decode(value)?,
                Some("google.rpc.RetryInfo") => details.retry = Some(RetryInfo::decode(value)?),
                Some("ibgateway.broker.v1.ConnectionFailure") => {
                    details.failure = Some(ConnectionFailure::decode(value)?);
                }
                _ => {}
            }
        }
        Ok(details)
    }
}

fn ours(details: Details, status: &Status) -> BrokerError {
    let kind = ErrorKind::of(&details.info.reason);
    let metadata = details.info.metadata.into_iter().collect();
    let mut error = BrokerError::build(kind, status.code(), status.message().to_owned(), metadata);
    let parts = error.parts();
    parts.reason = details.info.reason;
    // A time that is negative says nothing.
    parts.retry_after = details
        .retry
        .map(|retry| Duration::try_from(retry.retry_delay.unwrap_or_default()))
        .and_then(Result::ok);
    parts.violations = details
        .bad
        .field_violations
        .into_iter()
        .map(|it| FieldViolation::new(it.field, it.description))
        .collect();
    if kind.is_gateway() {
        let failure = details.failure.unwrap_or_else(|| ConnectionFailure {
            reason: parts.reason.clone(),
            message: parts.message.clone(),
            ..ConnectionFailure::default()
        });
        parts.message.clone_from(&failure.message);
        parts.hint = failure.hint.clone().into();
        parts.failure = Some(failure);
    }
    error
}

fn foreign(status: &Status) -> BrokerError {
    let said = with_causes(status.message(), status);
    let (kind, message) = match status.code() {
        Code::DeadlineExceeded => (ErrorKind::CallTimeout, in_time()),
        _ if has_timed_out(status) => (ErrorKind::CallTimeout, in_time()),
        // A server that has too many calls waiting, and proxies, end a call with a bare CANCELLED.
        Code::Unavailable | Code::Cancelled => unreachable(&said),
        // What tonic could not send or read has a cause, and often the code UNKNOWN; what a server has
        // answered has none.
        _ if status.source().is_some() => unreachable(&said),
        code => (ErrorKind::UnexpectedAnswer, format!("something answered {}: {said}", name(code))),
    };
    BrokerError::build(kind, status.code(), message, BTreeMap::new())
}

fn in_time() -> String {
    "the broker has not answered in time".to_owned()
}

fn unreachable(said: &str) -> (ErrorKind, String) {
    (ErrorKind::BrokerUnreachable, format!("no broker answers: {said}"))
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(error.source(), |cause| <dyn Error>::source(*cause))
}

/// Whether it is tonic that has given up, at the time that the request was sent with.
fn has_timed_out(status: &Status) -> bool {
    causes(status).any(<dyn Error>::is::<TimeoutExpired>)
}

/// What an error says, with its causes: tonic's own messages are such as "transport error".
pub(crate) fn with_causes(message: &str, error: &(dyn Error + 'static)) -> String {
    let mut said = message.to_owned();
    for cause in causes(error).map(ToString::to_string) {
        if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said
}

/// A status as the contract writes it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
