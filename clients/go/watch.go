package ibgateway

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

const (
	// defaultSilence is three times the interval at which a broker says that nothing has happened.
	defaultSilence = 30 * time.Second
	// steady is how long a stream must have lived to count as one that works.
	steady = 10 * time.Second
	// settled is how long a stream must have been open to count as resumed, unless it says something.
	settled = 500 * time.Millisecond
	// longWait is told though its cause was.
	longWait = 30 * time.Second
	// longestWait is for a watch; a broker that asks for more errs.
	longestWait = time.Hour
)

// errWatchEnded is the cause of a watch's context that has ended well.
var errWatchEnded = errors.New("ibgateway: the watch has ended")

// Watch tells what happens to sessions, for as long as it is asked for the next item:
//
//	for watch.Next(ctx) {
//		switch item := watch.Item().(type) {
//		case ibgateway.SessionEvent: ...
//		}
//	}
//	if err := watch.Err(); err != nil { ... }
//
// Whenever its stream is lost it tells Interrupted, resumes where it was, and tells Resumed: nothing is
// lost and nothing comes twice, but for events that are not persisted. The sequences of the events are
// checked to prove it. Reading ahead is left to gRPC's flow control: a watch that is not asked holds
// little, and is cut by the broker once it lags far behind (it resumes).
//
// Next takes a context for each item, which a range function could not: waiting may stop at any time,
// and the next Next goes on where this one has stopped. That is why this is no iter.Seq2.
//
// One goroutine at a time may use a Watch; Close may be called by any. It ends with an error other than
// that of Next's own context, with Close, with its Broker, and when it is dropped.
type Watch struct {
	connection    *connection
	request       *brokerv1.WatchSessionsRequest
	continuity    *continuity
	silence       time.Duration
	giveUpAfter   time.Duration
	correlationID string
	ended         func() *brokerv1.Session // the one session that is watched once its end is on record, or nil
	told          func(*brokerv1.Session)  // takes each session that is told, before it is

	ctx context.Context // ends with the watch; the cause says why
	end context.CancelCauseFunc

	item    Item
	message *brokerv1.WatchSessionsResponse
	err     error

	stream *watchStream
	// Read already, but not told: something else must be told before it.
	held  *brokerv1.WatchSessionsResponse
	reset *Reset

	lost     kindOfError // why there is no stream; nil if there is one
	lostAt   time.Time
	retryAt  time.Time
	failures int
}

// WatchOption changes when a watch takes its stream for dead.
type WatchOption func(*Watch)

// WithSilence is the time without a message after which a stream is given up as dead, 30 s by default.
// The broker speaks every 10 s unless it is configured otherwise.
func WithSilence(d time.Duration) WatchOption { return func(w *Watch) { w.silence = d } }

// WithGiveUpAfter is the time without any stream after which the watch ends with the reason. By default
// it never does.
func WithGiveUpAfter(d time.Duration) WatchOption { return func(w *Watch) { w.giveUpAfter = d } }

func newWatch(c *connection, request *brokerv1.WatchSessionsRequest, options []WatchOption) *Watch {
	if request == nil {
		request = &brokerv1.WatchSessionsRequest{}
	}
	w := &Watch{
		connection:    c,
		request:       proto.CloneOf(request),
		continuity:    newContinuity(request.GetStates(), request.GetIncludeFinal(), request.GetResumeToken()),
		silence:       defaultSilence,
		giveUpAfter:   -1,
		correlationID: NewUUID(),
	}
	w.ctx, w.end = context.WithCancelCause(c.ctx)
	for _, option := range options {
		option(w)
	}
	if w.silence <= 0 {
		w.end(fmt.Errorf("ibgateway: the silence of a watch must be longer than 0, not %v", w.silence))
	}
	runtime.AddCleanup(w, func(end context.CancelCauseFunc) { end(errWatchEnded) }, w.end)
	return w
}

// Next waits for the next item, and tells whether there is one: see Item, and Err if there is none.
//
// Its context ends the wait only: no item is lost by that and the stream stays, so that Next may be
// called again.
func (w *Watch) Next(ctx context.Context) bool {
	w.item, w.message, w.err = nil, nil, nil
	for w.ctx.Err() == nil {
		if ctx.Err() != nil {
			w.err = interrupted(ctx)
			return false
		}
		item, err := w.step(ctx)
		if err != nil {
			w.end(err)
		}
		if item == nil {
			continue
		}
		if w.told != nil {
			switch item := item.(type) {
			case Snapshot:
				w.told(item.Session)
			case SessionEvent:
				w.told(item.Event.GetSession())
			}
		}
		if w.isLast(item) {
			w.Close()
		}
		w.item = item
		return true
	}
	w.drop()
	if cause := context.Cause(w.ctx); !errors.Is(cause, errWatchEnded) {
		w.err = cause
	}
	return false
}

// Item is what the last Next has found; nil if it has found nothing.
func (w *Watch) Item() Item { return w.item }

// Err is why the last Next has found nothing. It is nil if the watch has ended as it should: by Close
// or, of a Session, because that has ended. Otherwise it is
//
//   - an error that is context.Canceled or context.DeadlineExceeded if Next's context has ended; the
//     watch has not,
//   - a WatchGapError if the stream is not complete,
//   - an InvalidArgumentError or a GatewayNotFoundError if the filter or the token is wrong,
//   - an UnauthenticatedError or a PermissionDeniedError if what the caller shows is not, or no longer,
//     enough; with the token of the last item, another watch continues,
//   - a BrokerClosedError if the Broker was closed,
//   - any BrokerError that has lasted longer than WithGiveUpAfter allows.
func (w *Watch) Err() error { return w.err }

// Token is where another watch, also in another process, would continue after the last item; empty if
// it would have to begin anew.
func (w *Watch) Token() string { return w.continuity.token }

// Sessions are those that match, by id, as of the last item, in a map of yours. They are complete once
// IsComplete. Sessions that have ended are left out, unless they were asked for.
func (w *Watch) Sessions() map[string]*brokerv1.Session { return w.continuity.sessions() }

// IsComplete tells whether Sessions are all that match: after SnapshotComplete, and never if the watch
// began with a token that could be continued.
func (w *Watch) IsComplete() bool { return w.continuity.isComplete() }

// Message is the last item as it came, for whoever passes it on as the contract has it; nil if no broker
// has sent it: Interrupted, Resumed, and the Reset after half a snapshot.
func (w *Watch) Message() *brokerv1.WatchSessionsResponse { return w.message }

// Interruption is why there is no stream now; nil if there is one.
func (w *Watch) Interruption() error {
	if w.lost == nil {
		return nil
	}
	return w.lost
}

// Close ends the watch. A Next that waits finds nothing then. Closing twice is no error.
func (w *Watch) Close() { w.end(errWatchEnded) }

// step is an item to tell, or nil: if there is none yet, or if ctx or the watch has ended. An error ends
// the watch.
func (w *Watch) step(ctx context.Context) (Item, error) {
	message := w.held
	if message == nil {
		if w.stream == nil {
			if err := w.open(ctx); err != nil || w.stream == nil {
				return nil, err
			}
		}
		received, lost, done := w.receive(ctx)
		if lost != nil {
			return w.lose(lost)
		}
		if !done {
			return nil, nil
		}
		message = received
	}
	w.held = message
	if w.lost != nil {
		w.connection.log.Info("a watch has resumed after an interruption")
		w.lost = nil
		return Resumed{place{w.continuity.token}}, nil
	}
	if reset := w.reset; reset != nil {
		w.reset = nil
		return *reset, nil
	}
	w.held = nil
	item := itemOf(message)
	if item == nil {
		return nil, nil
	}
	if err := w.continuity.accept(item); err != nil {
		return nil, err
	}
	w.message = message
	return item, nil
}

// lose notes that the stream is lost, says so unless that was said, and decides when to try again.
func (w *Watch) lose(lost kindOfError) (Item, error) {
	opened := w.stream.openedAt
	w.drop()
	if w.ctx.Err() != nil {
		return nil, nil
	}
	if isRefusal(lost) {
		return nil, lost
	}
	now := time.Now()
	if !opened.IsZero() && now.Sub(opened) > steady {
		w.failures = 0
	}
	if w.lost == nil {
		w.lostAt = now
	}
	if w.giveUpAfter >= 0 && now.Sub(w.lostAt) >= w.giveUpAfter {
		return nil, lost
	}
	delay := min(w.connection.backoff.delay(w.failures, lost.base().RetryAfter), longestWait)
	if w.giveUpAfter >= 0 {
		// With the last try it gives up, or not, also if the broker asks for more time.
		delay = min(delay, w.lostAt.Add(w.giveUpAfter).Sub(now))
	}
	w.failures++
	w.retryAt = now.Add(delay)
	told := w.lost
	w.lost = lost
	known := told != nil && reflect.TypeOf(told) == reflect.TypeOf(lost) && told.base().Reason == lost.base().Reason
	if known && delay <= longWait {
		return nil, nil
	}
	w.connection.log.Warn("a watch was interrupted, it resumes by itself", "error", lost, "wait", delay)
	return Interrupted{Err: lost, RetryIn: delay, place: place{w.continuity.token}}, nil
}

// isLast tells whether nothing will follow about the one session that is watched.
func (w *Watch) isLast(item Item) bool {
	if w.ended == nil {
		return false
	}
	switch item := item.(type) {
	case SessionEvent:
		return item.Event.GetPersisted() && IsFinal(item.Event.GetSession())
	case SnapshotComplete:
		for _, session := range w.continuity.sessions() {
			if !IsFinal(session) {
				return false
			}
		}
		return true
	case Bookmark:
		ended := w.ended()
		return ended.GetRevision() > 0 && ended.GetRevision() <= item.Revision
	default:
		return false
	}
}

// isRefusal tells whether the same watch would be refused again, for ever.
func isRefusal(failure kindOfError) bool {
	switch failure := failure.(type) {
	case *InvalidArgumentError, *GatewayNotFoundError, *UnauthenticatedError, *PermissionDeniedError:
		return true
	case *UnexpectedAnswerError:
		switch failure.Code {
		case codes.Unimplemented, codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument, codes.NotFound:
			return true
		}
	}
	return false
}
