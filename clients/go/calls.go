package ibgateway

import (
	"context"
	"iter"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

// Deadlines of calls whose context has none.
const (
	callTimeout   = 10 * time.Second
	verifyTimeout = 30 * time.Second  // longer than the broker itself waits for the Gateway
	closeTimeout  = 30 * time.Second  // longer than the broker itself waits for a session's link
	openTimeout   = 300 * time.Second // longer than the broker's own attempts take by default
	drainTimeout  = 120 * time.Second // for all sessions of a gateway to end
)

const defaultPage = 500

// GetSession gives one session, also one that has ended. The default deadline is 10 s.
//
// Errors: SessionNotFoundError.
func (b *Broker) GetSession(ctx context.Context, sessionID string) (*brokerv1.Session, error) {
	answer, err := call(ctx, b.connection, b.connection.sessions.GetSession,
		&brokerv1.GetSessionRequest{SessionId: sessionID}, terms{timeout: callTimeout, idempotent: true})
	return b.connection.session(answer, err)
}

// ListSessions gives the sessions that match, oldest first, fetched page by page as they are ranged
// over; it ends with an error if there is one. The default deadline of each page is 10 s, its size 500.
func (b *Broker) ListSessions(
	ctx context.Context, filter *brokerv1.ListSessionsRequest,
) iter.Seq2[*brokerv1.Session, error] {
	return func(yield func(*brokerv1.Session, error) bool) {
		request := copyOf(filter)
		if request.PageSize == 0 {
			request.PageSize = defaultPage
		}
		eachOfPages(yield, func() ([]*brokerv1.Session, bool, error) {
			answer, err := call(ctx, b.connection, b.connection.sessions.ListSessions, request,
				terms{timeout: callTimeout, idempotent: true})
			request.PageToken = answer.GetNextPageToken()
			return answer.GetSessions(), request.PageToken != "", err
		})
	}
}

// SessionEvents gives the recorded history of a session, oldest first, fetched page by page as it is
// ranged over; it ends with an error if there is one. Events older than the broker's retention are gone:
// the sequence of the first says how many. The default deadline of each page is 10 s, its size 500.
//
// Errors: SessionNotFoundError.
func (b *Broker) SessionEvents(
	ctx context.Context, wanted *brokerv1.ListSessionEventsRequest,
) iter.Seq2[*brokerv1.SessionEvent, error] {
	return func(yield func(*brokerv1.SessionEvent, error) bool) {
		request := copyOf(wanted)
		if request.PageSize == 0 {
			request.PageSize = defaultPage
		}
		eachOfPages(yield, func() ([]*brokerv1.SessionEvent, bool, error) {
			answer, err := call(ctx, b.connection, b.connection.sessions.ListSessionEvents, request,
				terms{timeout: callTimeout, idempotent: true})
			request.PageToken = answer.GetNextPageToken()
			return answer.GetEvents(), request.PageToken != "", err
		})
	}
}

// CloseSession ends a session and returns when its link has ended. One that has ended stays as it is.
// The reason is for the broker's log, at most 256 characters. The default deadline is 30 s; once the
// broker has the request, the session closes even if ctx ends.
//
// Errors: SessionNotFoundError.
func (b *Broker) CloseSession(ctx context.Context, sessionID, reason string) (*brokerv1.Session, error) {
	answer, err := call(ctx, b.connection, b.connection.sessions.CloseSession,
		&brokerv1.CloseSessionRequest{SessionId: sessionID, Reason: reason},
		terms{timeout: closeTimeout, idempotent: true})
	return b.connection.session(answer, err)
}

// RenewSession lets the lease of a session begin anew; a Session does it by itself. The lease lasts 1 s
// to 86400 s from now on, as before if leaseTTL is nil. The broker may shorten it: see LeaseTtl of the
// session. The default deadline is 10 s.
//
// Errors: SessionNotFoundError; SessionEndedError if it has ended or is closing; InvalidArgumentError if
// it has no lease and none is asked for.
func (b *Broker) RenewSession(
	ctx context.Context, sessionID string, leaseTTL *durationpb.Duration,
) (*brokerv1.Session, error) {
	answer, err := call(ctx, b.connection, b.connection.sessions.RenewSession,
		&brokerv1.RenewSessionRequest{SessionId: sessionID, LeaseTtl: leaseTTL},
		terms{timeout: callTimeout, idempotent: true})
	return b.connection.session(answer, err)
}

// VerifySession asks the Gateway, over the session's own link, for its time. A session that is not
// CONNECTED is not healthy, which is no error. A probe that is not answered counts as the loss of the
// link. It is not repeated if nobody answers: what matters is how it is now. The default deadline is
// 30 s.
//
// Errors: SessionNotFoundError.
func (b *Broker) VerifySession(ctx context.Context, sessionID string) (*brokerv1.VerifySessionResponse, error) {
	return call(ctx, b.connection, b.connection.sessions.VerifySession,
		&brokerv1.VerifySessionRequest{SessionId: sessionID}, terms{timeout: verifyTimeout})
}

// AcknowledgeData says that whatever was interrupted is subscribed anew: DATA_CONTINUOUS is TRUE again.
// The generation is that of the session when you subscribed, as the event said that told you to. Not the
// newest: the link may have been lost again since. The default deadline is 10 s.
//
// Errors: SessionNotFoundError; SessionNotConnectedError if it has no link now; InvalidArgumentError if
// its link was made anew meanwhile.
func (b *Broker) AcknowledgeData(
	ctx context.Context, sessionID string, generation int64,
) (*brokerv1.Session, error) {
	answer, err := call(ctx, b.connection, b.connection.sessions.AcknowledgeData,
		&brokerv1.AcknowledgeDataRequest{SessionId: sessionID, Generation: generation},
		terms{timeout: callTimeout, idempotent: true})
	return b.connection.session(answer, err)
}

// Watch follows the sessions that match: their snapshot, then whatever happens to them. Its request is
// as the API has it. ResumeToken is the Token of the last item that was handled, also by another
// process; with it, the filter should be the same. Nothing is sent before the first Next.
//
// It resumes by itself after any loss of its stream, for as long as it takes; that it is interrupted is
// told as an item. Close it unless you have asked it to its end.
func (b *Broker) Watch(request *brokerv1.WatchSessionsRequest, options ...WatchOption) *Watch {
	return newWatch(b.connection, request, options)
}

// Info gives what this broker is and can do. The default deadline is 10 s.
func (b *Broker) Info(ctx context.Context) (*brokerv1.GetBrokerInfoResponse, error) {
	return call(ctx, b.connection, b.connection.broker.GetBrokerInfo, &brokerv1.GetBrokerInfoRequest{},
		terms{timeout: callTimeout, idempotent: true})
}

// session is that of an answer; one without it is no answer.
func (c *connection) session(answer interface{ GetSession() *brokerv1.Session }, err error) (*brokerv1.Session, error) {
	if err != nil {
		return nil, err
	}
	if answer.GetSession() == nil {
		return nil, c.unexpected("an answer without its session")
	}
	return answer.GetSession(), nil
}

// eachOfPages yields what fetch gives, page by page, while it says that there is another.
func eachOfPages[T any](yield func(T, error) bool, fetch func() (page []T, more bool, err error)) {
	for {
		page, more, err := fetch()
		if err != nil {
			yield(*new(T), err)
			return
		}
		for _, item := range page {
			if !yield(item, nil) {
				return
			}
		}
		if !more {
			return
		}
	}
}

// message is a pointer to a message of the API.
type message[T any] interface {
	*T
	proto.Message
}

// copyOf is a copy of a request that we change; an empty one for nil.
func copyOf[T any, M message[T]](request M) M {
	if request == nil {
		return new(T)
	}
	return proto.CloneOf(request)
}
