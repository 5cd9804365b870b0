//! What a call that failed says, and who can do something about it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tonic::Code;
use tonic_types::FieldViolation;

use crate::v1::ConnectionFailure;

/// What kind of failure it is: one for each reason that a broker gives, and those that it cannot give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// `IB_CONN_001`: refused, reset or closed by the Gateway.
    GatewayConnection,
    /// `IB_CONN_002`: the Gateway said error 326, or the broker itself holds the id.
    ClientIdInUse,
    /// `IB_CONN_003`: silence of the Gateway; [`BrokerError::failure`] says in which phase.
    GatewayTimeout,
    /// `IB_CONN_004`: no route to the Gateway's host, or its name does not resolve.
    NetworkUnreachable,
    /// `IB_CONN_005`: the Gateway does not accept the session until a human acts.
    Authentication,
    /// `IB_CONN_006`: the Gateway must be upgraded.
    IncompatibleVersion,
    /// The request was refused as written; nothing happened. See [`BrokerError::violations`].
    InvalidArgument,
    /// No session has this id.
    SessionNotFound,
    /// No gateway is configured under this name.
    GatewayNotFound,
    /// The `request_id` belongs to an open with other parameters.
    RequestIdReused,
    /// The session is over: closed by somebody, its lease run out, or FAILED. See
    /// [`BrokerError::close_reason`].
    SessionEnded,
    /// The session has no link now.
    SessionNotConnected,
    /// All sessions of the broker or of the gateway are in use; nothing was dialled.
    SessionLimit,
    /// Every client id of the gateway's pool is held.
    ClientIdsExhausted,
    /// The broker does not know who calls: no token, or one that is unknown, revoked or expired.
    Unauthenticated,
    /// The broker knows who calls, and does not let him do this. See [`BrokerError::needed_role`].
    PermissionDenied,
    /// A watcher read too slowly; its last token is still good.
    SlowConsumer,
    /// The gateway has failed repeatedly; new sessions are refused until it was tried again.
    CircuitBreakerOpen,
    /// An operator takes the gateway out of use.
    GatewayDraining,
    /// The broker stops; ask again when it is back.
    BrokerDraining,
    /// The broker's database did not take or give the record.
    StoreUnavailable,
    /// The broker erred; its log says more.
    BrokerInternal,
    /// A reason that this library does not know, of a newer broker: see [`BrokerError::reason`].
    UnknownReason,
    /// No broker answers. Whether it has done what was asked is unknown.
    BrokerUnreachable,
    /// No answer within the time given. Whether the broker has done what was asked is unknown.
    CallTimeout,
    /// Something answers, but not as a broker does; see [`BrokerError::code`].
    UnexpectedAnswer,
}

/// Each reason that a broker gives, and its kind.
const REASONS: [(&str, ErrorKind); 22] = [
    ("IB_CONN_001", ErrorKind::GatewayConnection),
    ("IB_CONN_002", ErrorKind::ClientIdInUse),
    ("IB_CONN_003", ErrorKind::GatewayTimeout),
    ("IB_CONN_004", ErrorKind::NetworkUnreachable),
    ("IB_CONN_005", ErrorKind::Authentication),
    ("IB_CONN_006", ErrorKind::IncompatibleVersion),
    ("CIRCUIT_OPEN", ErrorKind::CircuitBreakerOpen),
    ("GATEWAY_DRAINING", ErrorKind::GatewayDraining),
    ("BROKER_DRAINING", ErrorKind::BrokerDraining),
    ("STORE_UNAVAILABLE", ErrorKind::StoreUnavailable),
    ("SESSION_LIMIT", ErrorKind::SessionLimit),
    ("CLIENT_IDS_EXHAUSTED", ErrorKind::ClientIdsExhausted),
    ("SLOW_CONSUMER", ErrorKind::SlowConsumer),
    ("SESSION_NOT_CONNECTED", ErrorKind::SessionNotConnected),
    ("SESSION_CLOSED", ErrorKind::SessionEnded),
    ("REQUEST_ID_REUSED", ErrorKind::RequestIdReused),
    ("SESSION_NOT_FOUND", ErrorKind::SessionNotFound),
    ("GATEWAY_NOT_FOUND", ErrorKind::GatewayNotFound),
    ("INVALID_ARGUMENT", ErrorKind::InvalidArgument),
    ("UNAUTHENTICATED", ErrorKind::Unauthenticated),
    ("PERMISSION_DENIED", ErrorKind::PermissionDenied),
    ("INTERNAL", ErrorKind::BrokerInternal),
];

impl ErrorKind {
    /// The kind of a reason.
    pub(crate) fn of(reason: &str) -> Self {
        let known = REASONS.iter().find(|(name, _)| *name == reason);
        known.map_or(Self::UnknownReason, |(_, kind)| *kind)
    }

    /// What the broker calls it; empty if it is not the broker that says so.
    #[must_use]
    pub fn reason(self) -> &'static str {
        let known = REASONS.iter().find(|(_, kind)| *kind == self);
        known.map_or("", |(name, _)| *name)
    }

    /// Whether a connection to IB Gateway failed: one of the six codes.
    #[must_use]
    pub fn is_gateway(self) -> bool {
        matches!(
            self,
            Self::GatewayConnection
                | Self::ClientIdInUse
                | Self::GatewayTimeout
                | Self::NetworkUnreachable
                | Self::Authentication
                | Self::IncompatibleVersion
        )
    }

    /// Whether it passes without anybody's help; with the six codes it is the broker that says so.
    fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::SessionNotConnected
                | Self::SlowConsumer
                | Self::CircuitBreakerOpen
                | Self::GatewayDraining
                | Self::BrokerDraining
                | Self::StoreUnavailable
                | Self::BrokerUnreachable
                | Self::CallTimeout
        )
    }

    /// What to do about it; empty if there is nothing to say beyond the message.
    fn hint(self, metadata: &BTreeMap<String, String>) -> Cow<'static, str> {
        let given = |key| metadata.get(key).map_or("", String::as_str);
        Cow::Borrowed(match self {
            Self::RequestIdReused => {
                "send a new request_id for each open, and the same one only to repeat it unchanged"
            }
            Self::SessionEnded => "open a new session",
            Self::SessionNotConnected => "watch it, or try again when it is CONNECTED",
            Self::Unauthenticated => {
                "Access::token shows a token; whoever runs the broker gives them out"
            }
            Self::PermissionDenied => {
                return Cow::Owned(format!(
                    "ask somebody whose role is {}, or the owner of the session",
                    given("needed_role")
                ));
            }
            Self::SlowConsumer => "handle the messages of a watch faster, or narrow its filter",
            Self::CircuitBreakerOpen => {
                let gateway = given("gateway_id");
                return Cow::Owned(format!(
                    "`gateway-broker gateways explain {gateway}` says what is wrong; once that is \
                     repaired, `gateway-broker gateways reset-breaker {gateway}` saves the wait"
                ));
            }
            Self::GatewayDraining => {
                return Cow::Owned(format!(
                    "`gateway-broker gateways resume {}` puts it into use again",
                    given("gateway_id")
                ));
            }
            Self::StoreUnavailable => "whoever runs the broker must see to its database",
            Self::BrokerInternal => {
                return Cow::Owned(format!(
                    "look for error_id {} in the broker's log",
                    given("error_id")
                ));
            }
            Self::BrokerUnreachable => {
                "is it running there? `gateway-broker serve` or `gateway-broker dev` starts one"
            }
            Self::CallTimeout => "give it more time, or see the broker's log",
            Self::UnexpectedAnswer => {
                "it is no gateway-broker, an older one, or something between has answered"
            }
            _ => "",
        })
    }
}

/// A call to the broker failed.
///
/// [`kind`](Self::kind) says who acts; every [`tonic::Status`] becomes one by `?` or `into()`.
///
/// ```
/// use ibgateway_client::{BrokerError, ErrorKind};
///
/// fn advice(error: &BrokerError) -> &'static str {
///     match error.kind() {
///         ErrorKind::ClientIdInUse => "another program has the id",
///         ErrorKind::Authentication | ErrorKind::IncompatibleVersion => "call a human",
///         kind if kind.is_gateway() => "the Gateway is away; the broker has tried for you",
///         _ if error.is_retryable() => "later",
///         _ => "give up",
///     }
/// }
///
/// let status = tonic::Status::unavailable("nobody listens");
/// assert_eq!(advice(&status.into()), "later");
/// ```
#[derive(Clone)]
pub struct BrokerError(Box<Parts>);

/// Boxed, since a result is as large as its error.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) kind: ErrorKind,
    pub(crate) code: Code,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) hint: Cow<'static, str>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) violations: Vec<FieldViolation>,
    pub(crate) failure: Option<ConnectionFailure>,
    pub(crate) correlation_id: String,
}

impl BrokerError {
    /// An error of a program's own finding, such as a stream that has ended.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::build(kind, Code::Unknown, message.into(), BTreeMap::new())
    }

    pub(crate) fn build(
        kind: ErrorKind,
        code: Code,
        message: String,
        metadata: BTreeMap<String, String>,
    ) -> Self {
        Self(Box::new(Parts {
            kind,
            code,
            reason: kind.reason().to_owned(),
            message,
            hint: kind.hint(&metadata),
            metadata,
            retry_after: None,
            violations: Vec::new(),
            failure: None,
            correlation_id: String::new(),
        }))
    }

    pub(crate) fn parts(&mut self) -> &mut Parts {
        &mut self.0
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The gRPC status that the call ended with.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The broker's reason, such as `"IB_CONN_002"`; empty if it is not the broker that says so.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// What happened.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do about it, and who must; may be empty.
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.0.hint
    }

    /// Every dynamic part of the message, for machines.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.0.metadata
    }

    /// Whether the same request may succeed later without anybody's help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        let failure = self.0.failure.as_ref();
        failure.map_or_else(|| self.0.kind.is_retryable(), |failure| failure.retryable)
    }

    /// How long to wait before the same request may succeed; `None` if the broker did not say. With
    /// a time the broker has done nothing, so that any call may be repeated.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// What is wrong with which field of the request; for [`ErrorKind::InvalidArgument`].
    #[must_use]
    pub fn violations(&self) -> &[FieldViolation] {
        &self.0.violations
    }

    /// What the broker knows of the failure; for the six codes. The phase is where it happened.
    #[must_use]
    pub fn failure(&self) -> Option<&ConnectionFailure> {
        self.0.failure.as_ref()
    }

    /// Who may: `"viewer"`, `"trader"` or `"operator"`; for [`ErrorKind::PermissionDenied`].
    #[must_use]
    pub fn needed_role(&self) -> &str {
        self.given("needed_role")
    }

    /// Who has ended the session, such as `"LEASE_EXPIRED"`; for [`ErrorKind::SessionEnded`]. Empty
    /// if it FAILED.
    #[must_use]
    pub fn close_reason(&self) -> &str {
        self.given("close_reason")
    }

    /// What to look for in the broker's log and events; empty if it is not known.
    #[must_use]
    pub fn correlation_id(&self) -> &str {
        &self.0.correlation_id
    }

    fn given(&self, key: &str) -> &str {
        self.0.metadata.get(key).map_or("", String::as_str)
    }
}

impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.reason().is_empty() {
            write!(f, "{}: ", self.reason())?;
        }
        if self.hint().is_empty() {
            write!(f, "{}", self.message())?;
        } else {
            let message = self.message().trim_end_matches('.');
            write!(f, "{message}. Hint: {}", self.hint())?;
        }
        if !self.correlation_id().is_empty() {
            write!(f, " (correlation id {})", self.correlation_id())?;
        }
        Ok(())
    }
}

impl fmt::Debug for BrokerError {
    /// As people read it: `main` and `unwrap` print this.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind())
    }
}

impl std::error::Error for BrokerError {}
