package ibgateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

// lastTry is the time that a try should have; with less, what is known already says more than its end.
const lastTry = 100 * time.Millisecond

// connection is the one way to the broker: a channel, and calls with a deadline, repeated where that
// is safe. Nothing is sent with WaitForReady, which would hide why a broker cannot be reached until the
// deadline has passed: what was refused is told, and tried again here.
type connection struct {
	address  string
	metadata []string // pairs that are sent with each call
	backoff  Backoff
	repeats  bool
	log      *slog.Logger

	channel  *grpc.ClientConn
	sessions brokerv1.SessionServiceClient
	gateways brokerv1.GatewayServiceClient
	broker   brokerv1.BrokerServiceClient

	ctx    context.Context // ends with close; the cause is a BrokerClosedError
	cancel context.CancelCauseFunc

	// Whether the last call had to be repeated: an outage is a warning once.
	troubled atomic.Bool
}

func (c *connection) attach(channel *grpc.ClientConn) {
	c.channel = channel
	c.sessions = brokerv1.NewSessionServiceClient(channel)
	c.gateways = brokerv1.NewGatewayServiceClient(channel)
	c.broker = brokerv1.NewBrokerServiceClient(channel)
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
}

type correlationIDOf struct{}

// WithCorrelationID gives the calls that are made with the returned context an id of yours, a UUID4. It
// stands in every event and log line that they cause, and in their errors. Without it each call has one
// of its own.
func WithCorrelationID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, correlationIDOf{}, id)
}

func correlationID(ctx context.Context) string {
	if id, given := ctx.Value(correlationIDOf{}).(string); given {
		return id
	}
	return NewUUID()
}

// sent is a context for gRPC, with what goes with each call. Metadata that the caller's context may
// have for other servers is not sent: it could hold a token.
func (c *connection) sent(ctx context.Context, correlationID string) (context.Context, error) {
	if !printable(correlationID) {
		return nil, invalid(correlationKey, "must be a UUID4")
	}
	pairs := append([]string{correlationKey, correlationID}, c.metadata...)
	return metadata.NewOutgoingContext(ctx, metadata.Pairs(pairs...)), nil
}

// terms are those of a call.
type terms struct {
	timeout    time.Duration // unless the caller's context has a deadline
	idempotent bool          // whether it may be repeated when nobody has answered
}

// call makes one call, and repeats it within its deadline where that is safe; of several failures it
// returns the last.
func call[Q, A any](
	ctx context.Context,
	c *connection,
	method func(context.Context, *Q, ...grpc.CallOption) (*A, error),
	request *Q,
	terms terms,
) (*A, error) {
	given := ctx
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, terms.timeout)
		defer cancel()
	}
	deadline, _ := ctx.Deadline()
	end := ending{
		address:       c.address,
		within:        time.Until(deadline).Round(time.Millisecond),
		correlationID: correlationID(given),
	}
	ctx, err := c.sent(ctx, end.correlationID)
	if err != nil {
		return nil, err
	}
	var before error
	for failures := 0; ; failures++ {
		answer, err := method(ctx, request, grpc.Trailer(&end.trailer))
		if err == nil {
			c.troubled.Store(false)
			return answer, nil
		}
		end.err = err
		failure, err := c.explain(given, end)
		if err != nil {
			return nil, err
		}
		failure.base().before = before
		if !c.mayRepeat(failure, terms.idempotent) {
			return nil, failure
		}
		delay := c.backoff.delay(failures, failure.base().RetryAfter)
		if time.Until(deadline) < delay+lastTry {
			return nil, failure
		}
		failure.base().before, before = nil, failure
		level := slog.LevelWarn
		if c.troubled.Swap(true) {
			level = slog.LevelInfo
		}
		c.log.Log(given, level, "a call to the broker has failed and is tried again",
			"error", failure, "wait", delay)
		if err := c.pause(given, delay); err != nil {
			return nil, err
		}
	}
}

// explain says what the end of a call means: an error of the broker or, as the second, that the caller
// or the Broker's Close has cut it.
func (c *connection) explain(given context.Context, end ending) (kindOfError, error) {
	failure := end.explain()
	if failure.base().Reason != "" {
		return failure, nil
	}
	if errors.Is(given.Err(), context.Canceled) {
		return nil, interrupted(given)
	}
	if c.ctx.Err() != nil {
		return nil, c.closedError()
	}
	return failure, nil
}

// mayRepeat is about calls that the broker says it has not begun, and asks for again; and about those
// that nobody has answered, if they may be made twice.
func (c *connection) mayRepeat(failure kindOfError, idempotent bool) bool {
	switch failure.(type) {
	case *CircuitBreakerOpenError, *GatewayDrainingError, *BrokerDrainingError, *StoreUnavailableError:
		return c.repeats
	case *BrokerUnreachableError:
		return c.repeats && idempotent
	default:
		return false
	}
}

// pause waits, unless the context or the connection ends meanwhile, which is the error then.
func (c *connection) pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return interrupted(ctx)
	case <-c.ctx.Done():
		return c.closedError()
	}
}

func (c *connection) closedError() error {
	return &BrokerClosedError{BrokerError{
		Message: fmt.Sprintf("the connection to the broker at %s was closed", c.address),
		Hint:    "end what uses a Broker before you close it",
	}}
}

// close ends every call, for good.
func (c *connection) close() error {
	c.cancel(c.closedError())
	return c.channel.Close()
}

// interrupted is the error of a context that has ended. It is context.Canceled or
// context.DeadlineExceeded, and the cause beside that, so that a SessionEndedError that has cancelled
// it is found.
func interrupted(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}
