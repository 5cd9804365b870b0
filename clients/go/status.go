package ibgateway

import (
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

const (
	errorDomain    = "ibgateway.broker.v1"
	correlationKey = "x-correlation-id"
	cannotMarshal  = "grpc: error while marshaling:"
)

// errorKind makes one kind of error of what all have in common.
type errorKind struct {
	retryable bool
	hint      string // ${name} is of the metadata
	make      func(BrokerError, *details) kindOfError
}

// kinds are the reasons that a broker gives.
var kinds = map[string]errorKind{
	"IB_CONN_001": {make: func(e BrokerError, d *details) kindOfError {
		return &GatewayConnectionError{gatewayError(e, d)}
	}},
	"IB_CONN_002": {make: func(e BrokerError, d *details) kindOfError {
		return &ClientIDInUseError{gatewayError(e, d)}
	}},
	"IB_CONN_003": {make: func(e BrokerError, d *details) kindOfError {
		return &GatewayTimeoutError{gatewayError(e, d)}
	}},
	"IB_CONN_004": {make: func(e BrokerError, d *details) kindOfError {
		return &NetworkUnreachableError{gatewayError(e, d)}
	}},
	"IB_CONN_005": {make: func(e BrokerError, d *details) kindOfError {
		return &AuthenticationError{gatewayError(e, d)}
	}},
	"IB_CONN_006": {make: func(e BrokerError, d *details) kindOfError {
		return &IncompatibleVersionError{gatewayError(e, d)}
	}},
	"CIRCUIT_OPEN": {
		retryable: true,
		hint: "`gateway-broker gateways explain ${gateway_id}` says what is wrong; once that is repaired, " +
			"`gateway-broker gateways reset-breaker ${gateway_id}` saves the wait",
		make: func(e BrokerError, _ *details) kindOfError { return &CircuitBreakerOpenError{e} },
	},
	"GATEWAY_DRAINING": {
		retryable: true,
		hint:      "`gateway-broker gateways resume ${gateway_id}` puts it into use again",
		make:      func(e BrokerError, _ *details) kindOfError { return &GatewayDrainingError{e} },
	},
	"BROKER_DRAINING": {
		retryable: true,
		make:      func(e BrokerError, _ *details) kindOfError { return &BrokerDrainingError{e} },
	},
	"STORE_UNAVAILABLE": {
		retryable: true,
		hint:      "whoever runs the broker must see to its database",
		make:      func(e BrokerError, _ *details) kindOfError { return &StoreUnavailableError{e} },
	},
	"SESSION_LIMIT": {
		make: func(e BrokerError, _ *details) kindOfError { return &SessionLimitError{e} },
	},
	"CLIENT_IDS_EXHAUSTED": {
		make: func(e BrokerError, _ *details) kindOfError { return &ClientIDsExhaustedError{e} },
	},
	"SLOW_CONSUMER": {
		retryable: true,
		hint:      "handle the items of a watch faster, or narrow its filter",
		make:      func(e BrokerError, _ *details) kindOfError { return &SlowConsumerError{e} },
	},
	"SESSION_NOT_CONNECTED": {
		retryable: true,
		hint:      "watch it, or try again when it is CONNECTED",
		make:      func(e BrokerError, _ *details) kindOfError { return &SessionNotConnectedError{e} },
	},
	"SESSION_CLOSED": {
		hint: "open a new session",
		make: func(e BrokerError, _ *details) kindOfError { return &SessionEndedError{BrokerError: e} },
	},
	"REQUEST_ID_REUSED": {
		hint: "send a new request_id for each open, and the same one only to repeat it unchanged",
		make: func(e BrokerError, _ *details) kindOfError { return &RequestIDReusedError{e} },
	},
	"SESSION_NOT_FOUND": {
		make: func(e BrokerError, _ *details) kindOfError { return &SessionNotFoundError{e} },
	},
	"GATEWAY_NOT_FOUND": {
		make: func(e BrokerError, _ *details) kindOfError { return &GatewayNotFoundError{e} },
	},
	"INVALID_ARGUMENT": {
		make: func(e BrokerError, d *details) kindOfError {
			return &InvalidArgumentError{BrokerError: e, Violations: d.violations}
		},
	},
	"UNAUTHENTICATED": {
		hint: "WithToken shows a token; whoever runs the broker gives them out",
		make: func(e BrokerError, _ *details) kindOfError { return &UnauthenticatedError{e} },
	},
	"PERMISSION_DENIED": {
		hint: "ask somebody whose role is ${needed_role}, or the owner of the session",
		make: func(e BrokerError, _ *details) kindOfError { return &PermissionDeniedError{e} },
	},
	"INTERNAL": {
		hint: "look for error_id ${error_id} in the broker's log",
		make: func(e BrokerError, _ *details) kindOfError { return &BrokerInternalError{e} },
	},
}

// gatewayError is what an error of one of the six codes has. An error without the failure in its
// details, of a proxy or of another broker, has a bare one.
func gatewayError(e BrokerError, d *details) GatewayError {
	failure := d.failure
	if failure == nil {
		failure = &brokerv1.ConnectionFailure{Reason: e.Reason, Message: e.Message}
	}
	e.Message, e.Hint, e.Retryable = failure.Message, failure.Hint, failure.Retryable
	return GatewayError{BrokerError: e, Failure: failure}
}

// details are what the broker has packed into an error.
type details struct {
	info       *errdetails.ErrorInfo
	violations []*errdetails.BadRequest_FieldViolation
	retryAfter time.Duration
	failure    *brokerv1.ConnectionFailure
}

// readDetails gives the details of an error of a broker; nil if it is somebody else's.
func readDetails(end *status.Status) *details {
	var (
		d       details
		info    errdetails.ErrorInfo
		bad     errdetails.BadRequest
		retry   errdetails.RetryInfo
		failure brokerv1.ConnectionFailure
	)
	for _, detail := range end.Proto().GetDetails() {
		for _, known := range []proto.Message{&info, &bad, &retry, &failure} {
			if !detail.MessageIs(known) {
				continue
			}
			if detail.UnmarshalTo(known) != nil {
				return nil
			}
			if known == &failure {
				d.failure = &failure
			}
		}
	}
	d.info, d.violations = &info, bad.GetFieldViolations()
	d.retryAfter = max(0, retry.GetRetryDelay().AsDuration())
	if d.info.GetDomain() != errorDomain {
		return nil
	}
	return &d
}

// ending is the end of a call, as gRPC gives it.
type ending struct {
	err           error
	trailer       metadata.MD
	address       string
	within        time.Duration // that it was given; 0 if there was no limit
	correlationID string
}

// explain says what the end of a call means.
func (e ending) explain() kindOfError {
	if given := e.trailer.Get(correlationKey); len(given) > 0 {
		e.correlationID = given[0]
	}
	end := status.Convert(e.err)
	if wrong, is := strings.CutPrefix(end.Message(), cannotMarshal); is {
		return invalid("request", "cannot be sent:"+wrong) // such as text that is not UTF-8
	}
	if d := readDetails(end); d != nil {
		return e.ours(end, d)
	}
	return e.foreign(end)
}

// ours is an error of a broker.
func (e ending) ours(end *status.Status, d *details) kindOfError {
	base := BrokerError{
		Reason:        d.info.GetReason(),
		Message:       end.Message(),
		Metadata:      d.info.GetMetadata(),
		RetryAfter:    d.retryAfter,
		CorrelationID: e.correlationID,
		cause:         e.err,
	}
	kind, known := kinds[base.Reason]
	if !known {
		return &base
	}
	base.Retryable = kind.retryable
	base.Hint = os.Expand(kind.hint, func(name string) string { return base.Metadata[name] })
	return kind.make(base, d)
}

// foreign is an error that no broker has made.
func (e ending) foreign(end *status.Status) kindOfError {
	base := BrokerError{CorrelationID: e.correlationID, cause: e.err}
	switch end.Code() {
	case codes.DeadlineExceeded:
		within := "in time"
		if e.within > 0 {
			within = "within " + e.within.String()
		}
		base.Message = fmt.Sprintf("the broker at %s has not answered %s", e.address, within)
		base.Hint = "give the context of the call a later deadline, or see the broker's log"
		base.Retryable = true
		return &CallTimeoutError{BrokerUnreachableError{base}}
	case codes.Unavailable, codes.Canceled:
		// A server that has too many calls waiting, and proxies, end a call with a bare CANCELLED.
		return e.unreachable(fmt.Sprintf("no broker answers at %s: %s", e.address, end.Message()))
	default:
		base.Message = fmt.Sprintf("%s answered %s: %s", e.address, end.Code(), end.Message())
		base.Hint = "it is no gateway-broker, an older one, or something between has answered"
		return &UnexpectedAnswerError{BrokerError: base, Code: end.Code()}
	}
}

// unreachable is an error of whoever does not answer.
func (e ending) unreachable(message string) *BrokerUnreachableError {
	return &BrokerUnreachableError{BrokerError{
		Message:       message,
		Hint:          "is it running there? `gateway-broker serve` or `gateway-broker dev` starts one",
		Retryable:     true,
		CorrelationID: e.correlationID,
		cause:         e.err,
	}}
}
