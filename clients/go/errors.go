package ibgateway

import (
	"context"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"

	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

// BrokerError is what every error of a broker is; those that matter have kinds of their own:
//
//	BrokerError
//	├── GatewayError                    a connection to IB Gateway failed; Failure says more
//	│   ├── GatewayConnectionError      IB_CONN_001  refused, reset, closed by the Gateway
//	│   ├── ClientIDInUseError          IB_CONN_002  error 326, or the broker holds the id
//	│   ├── GatewayTimeoutError         IB_CONN_003  silence
//	│   ├── NetworkUnreachableError     IB_CONN_004  no route, no such host
//	│   ├── AuthenticationError         IB_CONN_005  a human must act at the Gateway
//	│   └── IncompatibleVersionError    IB_CONN_006  the Gateway is too old
//	├── InvalidArgumentError            a field is wrong; Violations says which
//	├── SessionNotFoundError            no such session
//	├── GatewayNotFoundError            no such gateway
//	├── RequestIDReusedError            the request_id belongs to another open
//	├── SessionEndedError               the session is over
//	├── SessionNotConnectedError        the session has no link now
//	├── SessionLimitError               all sessions are in use
//	├── ClientIDsExhaustedError         the gateway's pool of client ids is empty
//	├── UnauthenticatedError            the broker does not know who calls
//	├── PermissionDeniedError           the caller may not do this
//	├── SlowConsumerError               a watcher read too slowly
//	├── CircuitBreakerOpenError         the gateway has failed repeatedly
//	├── GatewayDrainingError            an operator takes the gateway out of use
//	├── BrokerDrainingError             the broker stops
//	├── StoreUnavailableError           the broker's database is away
//	├── BrokerInternalError             the broker erred
//	├── BrokerUnreachableError          no answer at all
//	│   └── CallTimeoutError            no answer within the time given
//	├── UnexpectedAnswerError           what answers is no gateway-broker, or an older one
//	├── WatchGapError                   a watch has proof that an event is missing
//	└── BrokerClosedError               the call was made, or cut, when the Broker was closed
//
// Each is found by errors.As as itself and as all that stand above it:
//
//	var inUse *ibgateway.ClientIDInUseError
//	if errors.As(err, &inUse) { ... }
//
// A reason that this package does not know, of a newer broker, is a plain BrokerError. A call whose
// context was cancelled has no BrokerError but one that is context.Canceled.
type BrokerError struct {
	// Reason is the ErrorReason without its prefix; empty if it is not the broker that says so.
	Reason string
	// Message is what happened.
	Message string
	// Hint is what to do about it, and who must.
	Hint string
	// Metadata has every dynamic part of the message, for machines.
	Metadata map[string]string
	// Retryable says whether the same request may succeed later without anybody's help.
	Retryable bool
	// RetryAfter is how long to wait before that; 0 if the broker did not say.
	RetryAfter time.Duration
	// CorrelationID is what to look for in the broker's log and events.
	CorrelationID string

	cause  error
	before error // how the try before this one ended
}

// Error says it all in one line.
func (e *BrokerError) Error() string {
	text := e.Message
	if e.Reason != "" {
		text = e.Reason + ": " + text
	}
	if e.Hint != "" {
		text = strings.TrimRight(text, ".") + ". Hint: " + e.Hint
	}
	if e.CorrelationID != "" {
		text += " (correlation id " + e.CorrelationID + ")"
	}
	if e.before != nil {
		text += "; the try before that ended with: " + e.before.Error()
	}
	return text
}

// Unwrap is the status of gRPC, if one was received.
func (e *BrokerError) Unwrap() error { return e.cause }

func (e *BrokerError) base() *BrokerError { return e }

// kindOfError is a BrokerError or any kind of it.
type kindOfError interface {
	error
	base() *BrokerError
}

// GatewayError tells that an attempt to connect to IB Gateway, or a link to it, failed.
type GatewayError struct {
	BrokerError
	// Failure is what the broker knows about it: its phase, the Gateway's own error number and more.
	Failure *brokerv1.ConnectionFailure
}

// Unwrap is the BrokerError in it; so for all kinds.
func (e *GatewayError) Unwrap() error { return &e.BrokerError }

// GatewayConnectionError is IB_CONN_001: refused, reset or closed by the Gateway.
type GatewayConnectionError struct{ GatewayError }

// Unwrap is the GatewayError in it.
func (e *GatewayConnectionError) Unwrap() error { return &e.GatewayError }

// ClientIDInUseError is IB_CONN_002: the Gateway said error 326, or the broker itself holds the id.
type ClientIDInUseError struct{ GatewayError }

// Unwrap is the GatewayError in it.
func (e *ClientIDInUseError) Unwrap() error { return &e.GatewayError }

// GatewayTimeoutError is IB_CONN_003: silence; Failure.Phase says where.
type GatewayTimeoutError struct{ GatewayError }

// Unwrap is the GatewayError in it.
func (e *GatewayTimeoutError) Unwrap() error { return &e.GatewayError }

// NetworkUnreachableError is IB_CONN_004: no route to the host, or its name does not resolve.
type NetworkUnreachableError struct{ GatewayError }

// Unwrap is the GatewayError in it.
func (e *NetworkUnreachableError) Unwrap() error { return &e.GatewayError }

// AuthenticationError is IB_CONN_005: the Gateway does not accept the session until a human acts.
type AuthenticationError struct{ GatewayError }

// Unwrap is the GatewayError in it.
func (e *AuthenticationError) Unwrap() error { return &e.GatewayError }

// IncompatibleVersionError is IB_CONN_006: the Gateway must be upgraded.
type IncompatibleVersionError struct{ GatewayError }

// Unwrap is the GatewayError in it.
func (e *IncompatibleVersionError) Unwrap() error { return &e.GatewayError }

// InvalidArgumentError tells that the request was refused as written; nothing happened.
type InvalidArgumentError struct {
	BrokerError
	// Violations say which fields, and what is wrong with each.
	Violations []*errdetails.BadRequest_FieldViolation
}

// Unwrap is the BrokerError in it.
func (e *InvalidArgumentError) Unwrap() error { return &e.BrokerError }

// SessionNotFoundError tells that no session has this id.
type SessionNotFoundError struct{ BrokerError }

// Unwrap is the BrokerError in it.
func (e *SessionNotFoundError) Unwrap() error { return &e.BrokerError }

// GatewayNotFoundError tells that no gateway is configured under this name.
type GatewayNotFoundError struct{ BrokerError }

// Unwrap is the BrokerError in it.
func (e *GatewayNotFoundError) Unwrap() error { return &e.BrokerError }

// RequestIDReusedError tells that the request_id belongs to an open with other parameters.
type RequestIDReusedError struct{ BrokerError }

// Unwrap is the BrokerError in it.
func (e *RequestIDReusedError) Unwrap() error { return &e.BrokerError }

// SessionEndedError tells that the session is over: closed by somebody, its lease run out, or FAILED.
type SessionEndedError struct {
	BrokerError
	// Session is the session as it was last seen; nil if it was not.
	Session *brokerv1.Session
}

// Unwrap is the BrokerError in it.
func (e *SessionEndedError) Unwrap() error { return &e.BrokerError }

// SessionID is the session.
func (e *SessionEndedError) SessionID() string { return e.Metadata["session_id"] }

// CloseReason is who ended it, such as "LEASE_EXPIRED"; empty if it FAILED, or if that is unknown.
func (e *SessionEndedError) CloseReason() string { return e.Metadata["close_reason"] }

// Failure is why it FAILED; nil if it was ended as somebody asked.
func (e *SessionEndedError) Failure() *brokerv1.ConnectionFailure {
	if e.CloseReason() != "" {
		return nil
	}
	return e.Session.GetLastFailure()
}

// SessionNotConnectedError tells that the session has no link now.
type SessionNotConnectedError struct{ BrokerError }

// Unwrap is the BrokerError in it.
func (e *SessionNotConnectedError) Unwrap() error { return &e.BrokerError }

// SessionLimitError tells that all sessions of the broker or of the gateway are in use; nothing was
// dialled.
type SessionLimitError struct{ BrokerError }

// Unwrap is the BrokerError in it.
func (e *SessionLimitError) Unwrap() error { return &e.BrokerError }

// ClientIDsExhaustedError tells that every client id of the gateway's pool is held.
type ClientIDsExhaustedError struct{ BrokerError }

// Unwrap is the BrokerError in it.
func (e *ClientIDsExhaustedError) Unwrap() error { return &e.BrokerError }

// UnauthenticatedError tells that the broker does not know who calls: no token, or one that is
// unknown, revoked or expired.
type UnauthenticatedError struct{ BrokerError }

// Unwrap is the BrokerError in it.
func (e *UnauthenticatedError) Unwrap() error { return &e.BrokerError }

// PermissionDeniedError tells that the broker knows who calls, and does not let him do this.
type PermissionDeniedError struct{ BrokerError }

// Unwrap is the BrokerError in it.
func (e *PermissionDeniedError) Unwrap() error { return &e.BrokerError }

// NeededRole is who may: "viewer", "trader" or "operator".
func (e *PermissionDeniedError) NeededRole() string { return e.Metadata["needed_role"] }

// SlowConsumerError tells that a watcher read too slowly; its last token is still good.
type SlowConsumerError struct{ BrokerError }

// Unwrap is the BrokerError in it.
func (e *SlowConsumerError) Unwrap() error { return &e.BrokerError }

// CircuitBreakerOpenError tells that the gateway has failed repeatedly; new sessions are refused until
// it was tried again.
type CircuitBreakerOpenError struct{ BrokerError }

// Unwrap is the BrokerError in it.
func (e *CircuitBreakerOpenError) Unwrap() error { return &e.BrokerError }

// GatewayDrainingError tells that an operator takes the gateway out of use.
type GatewayDrainingError struct{ BrokerError }

// Unwrap is the BrokerError in it.
func (e *GatewayDrainingError) Unwrap() error { return &e.BrokerError }

// BrokerDrainingError tells that the broker stops; ask again when it is back.
type BrokerDrainingError struct{ BrokerError }

// Unwrap is the BrokerError in it.
func (e *BrokerDrainingError) Unwrap() error { return &e.BrokerError }

// StoreUnavailableError tells that the broker's database did not take or give the record.
type StoreUnavailableError struct{ BrokerError }

// Unwrap is the BrokerError in it.
func (e *StoreUnavailableError) Unwrap() error { return &e.BrokerError }

// BrokerInternalError tells that the broker erred; its log says more.
type BrokerInternalError struct{ BrokerError }

// Unwrap is the BrokerError in it.
func (e *BrokerInternalError) Unwrap() error { return &e.BrokerError }

// BrokerUnreachableError tells that no broker answers. Whether it has done what was asked is unknown.
type BrokerUnreachableError struct{ BrokerError }

// Unwrap is the BrokerError in it.
func (e *BrokerUnreachableError) Unwrap() error { return &e.BrokerError }

// CallTimeoutError tells that there was no answer within the time given. Whether the broker has done
// what was asked is unknown. It is context.DeadlineExceeded, too.
type CallTimeoutError struct{ BrokerUnreachableError }

// Unwrap is the BrokerUnreachableError in it.
func (e *CallTimeoutError) Unwrap() error { return &e.BrokerUnreachableError }

// Is makes errors.Is find context.DeadlineExceeded.
func (e *CallTimeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// UnexpectedAnswerError tells that something answers, but not as a broker should.
type UnexpectedAnswerError struct {
	BrokerError
	// Code is the status that it gave.
	Code codes.Code
}

// Unwrap is the BrokerError in it.
func (e *UnexpectedAnswerError) Unwrap() error { return &e.BrokerError }

// WatchGapError tells that a watch has proof that its stream is not complete: the broker, or something
// between, erred.
type WatchGapError struct {
	BrokerError
	// SessionID is the session whose events are meant; empty if it is about the stream itself.
	SessionID string
	// Expected is the sequence or revision that should have come, Received the one that came.
	Expected, Received int64
}

// Unwrap is the BrokerError in it.
func (e *WatchGapError) Unwrap() error { return &e.BrokerError }

// BrokerClosedError tells that the Broker was closed.
type BrokerClosedError struct{ BrokerError }

// Unwrap is the BrokerError in it.
func (e *BrokerClosedError) Unwrap() error { return &e.BrokerError }
