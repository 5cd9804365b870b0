package ibgateway_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	ibgateway "github.com/gateway-broker/gateway-broker/clients/go"
	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

// answeredWith is the error of a call that a peer has answered with a status.
func answeredWith(t *testing.T, end error) error {
	t.Helper()
	peer := newScriptedBroker(t)
	peer.on("GetSession", func(context.Context, int, any) (proto.Message, error) { return nil, end })
	_, err := peer.connect(ibgateway.WithoutRepeats()).GetSession(within(t, patience), sessionID)
	if err == nil {
		t.Fatal("there is no error")
	}
	return err
}

func TestEachReasonHasATypeOfItsOwn(t *testing.T) {
	t.Parallel()
	types := map[string]string{
		"IB_CONN_001":           "GatewayConnectionError",
		"IB_CONN_002":           "ClientIDInUseError",
		"IB_CONN_003":           "GatewayTimeoutError",
		"IB_CONN_004":           "NetworkUnreachableError",
		"IB_CONN_005":           "AuthenticationError",
		"IB_CONN_006":           "IncompatibleVersionError",
		"CIRCUIT_OPEN":          "CircuitBreakerOpenError",
		"GATEWAY_DRAINING":      "GatewayDrainingError",
		"BROKER_DRAINING":       "BrokerDrainingError",
		"STORE_UNAVAILABLE":     "StoreUnavailableError",
		"SESSION_LIMIT":         "SessionLimitError",
		"CLIENT_IDS_EXHAUSTED":  "ClientIDsExhaustedError",
		"SLOW_CONSUMER":         "SlowConsumerError",
		"SESSION_NOT_CONNECTED": "SessionNotConnectedError",
		"SESSION_CLOSED":        "SessionEndedError",
		"REQUEST_ID_REUSED":     "RequestIDReusedError",
		"SESSION_NOT_FOUND":     "SessionNotFoundError",
		"GATEWAY_NOT_FOUND":     "GatewayNotFoundError",
		"INVALID_ARGUMENT":      "InvalidArgumentError",
		"UNAUTHENTICATED":       "UnauthenticatedError",
		"PERMISSION_DENIED":     "PermissionDeniedError",
		"INTERNAL":              "BrokerInternalError",
	}
	for number, name := range brokerv1.ErrorReason_name {
		reason := strings.TrimPrefix(name, "ERROR_REASON_")
		if number == 0 {
			continue
		}
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			err := answeredWith(t, refusal(codes.Aborted, reason, retryAfter(1500*time.Millisecond)))
			if got := fmt.Sprintf("%T", err); got != "*ibgateway."+types[reason] {
				t.Fatalf("it is a %s", got)
			}
			var base *ibgateway.BrokerError
			if !errors.As(err, &base) {
				t.Fatal("it is no BrokerError")
			}
			if base.Reason != reason || base.Message != "refused" || base.RetryAfter != 1500*time.Millisecond ||
				base.Metadata["gateway_id"] != "paper" || len(base.CorrelationID) != 36 {
				t.Errorf("it has lost something: %+v", base)
			}
			if strings.Contains(err.Error(), "${") {
				t.Errorf("a hint is not filled in: %v", err)
			}
			if status.Code(err) != codes.Aborted {
				t.Errorf("the status is lost: %v", status.Code(err))
			}
			var gateway *ibgateway.GatewayError
			if errors.As(err, &gateway) != strings.HasPrefix(reason, "IB_CONN_") {
				t.Error("below GatewayError are the six codes and no other")
			}
			if gateway != nil && gateway.Failure.GetReason() != reason {
				t.Errorf("a bare failure has its reason: %v", gateway.Failure)
			}
		})
	}
}

func TestAFailureSaysWhatTheBrokerKnows(t *testing.T) {
	t.Parallel()
	failure := &brokerv1.ConnectionFailure{
		Code: brokerv1.ErrorCode_ERROR_CODE_CLIENT_ID_IN_USE, Reason: "IB_CONN_002", Retryable: true,
		Phase: "start_api", TwsCode: 326, Message: "in use", Hint: "stop the other program", Attempt: 3,
	}
	err := answeredWith(t, refusal(codes.AlreadyExists, "IB_CONN_002", failure))
	var inUse *ibgateway.ClientIDInUseError
	if !errors.As(err, &inUse) {
		t.Fatalf("it is a %T", err)
	}
	if !proto.Equal(inUse.Failure, failure) || !inUse.Retryable || inUse.Message != "in use" {
		t.Errorf("it has lost something: %v", inUse)
	}
	if text := err.Error(); !strings.Contains(text, "in use. Hint: stop the other program") {
		t.Errorf("it does not say what to do: %s", text)
	}
}

func TestViolationsNameEachField(t *testing.T) {
	t.Parallel()
	err := answeredWith(t, refusal(codes.InvalidArgument, "INVALID_ARGUMENT", &errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: "client_id", Description: "too small"}, {Field: "labels", Description: "too many"},
		},
	}))
	var wrong *ibgateway.InvalidArgumentError
	if !errors.As(err, &wrong) || len(wrong.Violations) != 2 || wrong.Violations[1].GetField() != "labels" {
		t.Fatalf("it does not say which fields: %v", err)
	}
}

func TestADeniedCallerLearnsTheRole(t *testing.T) {
	t.Parallel()
	var denied *ibgateway.PermissionDeniedError
	err := answeredWith(t, refusal(codes.PermissionDenied, "PERMISSION_DENIED"))
	if !errors.As(err, &denied) || denied.NeededRole() != "operator" || !strings.Contains(denied.Hint, "operator") {
		t.Fatalf("it does not say who may: %v", err)
	}
}

func TestAReasonOfANewerBrokerIsABrokerError(t *testing.T) {
	t.Parallel()
	err := answeredWith(t, refusal(codes.FailedPrecondition, "RELAY_BUSY", &brokerv1.Transition{Reason: "of the future"}))
	base, plain := err.(*ibgateway.BrokerError)
	if !plain || base.Reason != "RELAY_BUSY" || base.Retryable {
		t.Fatalf("it is a %T: %v", err, err)
	}
}

func TestWhatNoBrokerHasMadeIsNotBelieved(t *testing.T) {
	t.Parallel()
	info := func(domain string) *errdetails.ErrorInfo {
		return &errdetails.ErrorInfo{Reason: "SESSION_LIMIT", Domain: domain}
	}
	torn := status.ErrorProto(&spb.Status{Code: int32(codes.ResourceExhausted), Message: "refused", Details: []*anypb.Any{
		{TypeUrl: "type.googleapis.com/google.rpc.ErrorInfo", Value: []byte{0xff, 0xff, 0xff}},
	}})
	for name, tried := range map[string]struct {
		end  error
		want string
	}{
		"no details":       {status.Error(codes.ResourceExhausted, "full"), "*ibgateway.UnexpectedAnswerError"},
		"broken details":   {torn, "*ibgateway.UnexpectedAnswerError"},
		"another domain":   {packed(codes.ResourceExhausted, info("example.com")), "*ibgateway.UnexpectedAnswerError"},
		"unimplemented":    {status.Error(codes.Unimplemented, "no such method"), "*ibgateway.UnexpectedAnswerError"},
		"a proxy's 503":    {status.Error(codes.Unavailable, "no upstream"), "*ibgateway.BrokerUnreachableError"},
		"cut by a proxy":   {status.Error(codes.Canceled, "too many"), "*ibgateway.BrokerUnreachableError"},
		"a proxy's 504":    {status.Error(codes.DeadlineExceeded, "upstream"), "*ibgateway.CallTimeoutError"},
		"only a RetryInfo": {packed(codes.Unavailable, retryAfter(time.Second)), "*ibgateway.BrokerUnreachableError"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := answeredWith(t, tried.end)
			if got := fmt.Sprintf("%T", err); got != tried.want {
				t.Fatalf("it is a %s: %v", got, err)
			}
			var base *ibgateway.BrokerError
			if !errors.As(err, &base) || base.Reason != "" || base.Hint == "" {
				t.Errorf("it has no reason of a broker's, and a hint: %v", err)
			}
		})
	}
}

func TestAbsurdDelaysDoNoHarm(t *testing.T) {
	t.Parallel()
	for _, delay := range []*durationpb.Duration{{Seconds: -5}, {Seconds: 1 << 62}, {}} {
		err := answeredWith(t, refusal(codes.Unavailable, "BROKER_DRAINING", &errdetails.RetryInfo{RetryDelay: delay}))
		var base *ibgateway.BrokerError
		if !errors.As(err, &base) || base.RetryAfter < 0 {
			t.Errorf("%v: %v", delay, err)
		}
	}
}
