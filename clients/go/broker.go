package ibgateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

const (
	// defaultLease is how long a session outlives a program that has died.
	defaultLease = 60 * time.Second
	// leaveTimeout is for the sessions to end when the Broker is closed.
	leaveTimeout = 15 * time.Second
)

// Broker opens sessions, and finds, watches, probes, renews and ends them by their id; made by Connect.
type Broker struct {
	connection *connection
	closing    sync.Once

	mu        sync.Mutex
	closed    bool
	lifelines map[*lifeline]struct{}
}

func newBroker(c *connection) *Broker {
	return &Broker{connection: c, lifelines: map[*lifeline]struct{}{}}
}

// Address is what Connect was given.
func (b *Broker) Address() string { return b.connection.address }

// Gateways are the configured gateways, and what operators decide about them.
func (b *Broker) Gateways() Gateways { return Gateways{b.connection} }

// OpenOption changes how OpenSession fills in what a request leaves open.
type OpenOption func(*brokerv1.OpenSessionRequest)

// WithoutLease lets a session live until it is closed, also when its program has died.
func WithoutLease() OpenOption {
	return func(request *brokerv1.OpenSessionRequest) { request.LeaseTtl = nil }
}

// OpenSession opens a session and returns when it is CONNECTED, or at once with ReturnImmediately. Its
// request is as the API has it; what it leaves open is filled in:
//
//   - a fresh RequestId, so that the open can be repeated safely when its answer is lost,
//   - the policy EXACT if there is a ClientId: no other id is taken, since orders belong to it,
//   - a LeaseTtl of 60 s, which is renewed by itself at a third of what the broker grants.
//
// The context is for the opening only; its default deadline is 300 s, longer than the broker's own
// attempts take. If it ends before the session is open, the session ends, too. An answer that is on its
// way in just that instant leaves a session behind that ends with its lease.
//
// Errors: a GatewayError if the Gateway could not be connected to; SessionEndedError if the session was
// ended while it was opened, or before its RequestId was repeated; SessionLimitError,
// ClientIDsExhaustedError, GatewayNotFoundError, RequestIDReusedError and InvalidArgumentError if nothing
// was dialled; CircuitBreakerOpenError, GatewayDrainingError, BrokerDrainingError, StoreUnavailableError
// and BrokerUnreachableError if it was so until the deadline.
func (b *Broker) OpenSession(
	ctx context.Context, request *brokerv1.OpenSessionRequest, options ...OpenOption,
) (*Session, error) {
	if request.GetValidateOnly() {
		return nil, invalid("validate_only", "opens nothing: use ValidateSession")
	}
	answer, err := b.open(ctx, opening(request, options))
	if err != nil {
		return nil, err
	}
	info, err := b.connection.session(answer, nil)
	if err != nil {
		return nil, err
	}
	session, err := b.hold(info, answer.GetCreated(), false)
	if closed := (*BrokerClosedError)(nil); errors.As(err, &closed) {
		// Nobody else knows of it. If the connection is gone, too, its lease ends it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
		defer cancel()
		_, _ = b.CloseSession(ctx, info.GetSessionId(), "its Broker was closed")
	}
	return session, err
}

// ValidateSession only checks a request to open a session, limits included; nothing is opened. The
// default deadline is 300 s.
//
// Errors: InvalidArgumentError, and whatever would refuse it before a dial.
func (b *Broker) ValidateSession(
	ctx context.Context, request *brokerv1.OpenSessionRequest, options ...OpenOption,
) error {
	wanted := opening(request, options)
	wanted.ValidateOnly = true
	_, err := b.open(ctx, wanted)
	return err
}

// opening is a request with all that it has left open.
func opening(request *brokerv1.OpenSessionRequest, options []OpenOption) *brokerv1.OpenSessionRequest {
	wanted := copyOf(request)
	if wanted.RequestId == "" {
		wanted.RequestId = NewUUID()
	}
	if wanted.ClientId != nil && wanted.ClientIdPolicy == brokerv1.ClientIdPolicy_CLIENT_ID_POLICY_UNSPECIFIED {
		wanted.ClientIdPolicy = brokerv1.ClientIdPolicy_CLIENT_ID_POLICY_EXACT
	}
	if wanted.LeaseTtl == nil {
		wanted.LeaseTtl = durationpb.New(defaultLease)
	}
	for _, option := range options {
		option(wanted)
	}
	return wanted
}

func (b *Broker) open(
	ctx context.Context, request *brokerv1.OpenSessionRequest,
) (*brokerv1.OpenSessionResponse, error) {
	return call(ctx, b.connection, b.connection.sessions.OpenSession, request,
		terms{timeout: openTimeout, idempotent: true})
}

// Attach takes up a session that exists, also one of another program. Its lease, if it has one, begins
// anew, and is renewed from now on; it lasts as before if leaseTTL is nil. Who has not opened a session
// does not close it: it stays open when the Broker is closed. The default deadline is 10 s for each of
// two calls.
//
// Errors: SessionNotFoundError if there is no record of it; SessionEndedError if it has ended.
func (b *Broker) Attach(ctx context.Context, sessionID string, leaseTTL *durationpb.Duration) (*Session, error) {
	info, err := b.GetSession(ctx, sessionID)
	if err != nil {
		return nil, err
	}
	if !IsFinal(info) && (leaseTTL != nil || info.GetLeaseTtl() != nil) {
		if info, err = b.RenewSession(ctx, sessionID, leaseTTL); err != nil {
			return nil, err
		}
	}
	return b.hold(info, false, true)
}

// Close closes the sessions that were opened by this Broker and not detached, within 15 s, and then the
// connection. Calls that are under way, and watches, end with a BrokerClosedError. Closing twice is no
// error: the second waits for the first.
//
// Errors: those of sessions that could not be closed; they end with their leases.
func (b *Broker) Close() error {
	var err error
	b.closing.Do(func() { err = b.close() })
	return err
}

func (b *Broker) close() error {
	b.mu.Lock()
	open := b.lifelines
	b.lifelines, b.closed = map[*lifeline]struct{}{}, true
	b.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	ends := make(chan error, len(open))
	for l := range open {
		go func() { ends <- l.leave(ctx) }()
	}
	var failures []error
	for range open {
		failures = append(failures, <-ends)
	}
	failures = append(failures, b.connection.close())
	return errors.Join(failures...)
}

// hold makes a handle on a session, kept current from now on.
func (b *Broker) hold(info *brokerv1.Session, created, keepOpen bool) (*Session, error) {
	if IsFinal(info) {
		return nil, endedError(info)
	}
	l := newLifeline(b, info, keepOpen)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		l.cancel()
		return nil, b.connection.closedError()
	}
	b.lifelines[l] = struct{}{}
	l.start()
	return &Session{broker: b, lifeline: l, created: created}, nil
}

func (b *Broker) forget(l *lifeline) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.lifelines, l)
}

// invalid is the error of a request that is not sent.
func invalid(field, description string) *InvalidArgumentError {
	return &InvalidArgumentError{
		BrokerError: BrokerError{
			Reason:   "INVALID_ARGUMENT",
			Message:  field + " " + description,
			Metadata: map[string]string{field: description},
		},
		Violations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: description}},
	}
}

// unexpected is the error of an answer that no broker gives.
func (c *connection) unexpected(what string) error {
	return &UnexpectedAnswerError{
		BrokerError: BrokerError{
			Message: fmt.Sprintf("%s gave %s", c.address, what),
			Hint:    "it is no gateway-broker, an older one, or something between has answered",
		},
		Code: codes.OK,
	}
}
