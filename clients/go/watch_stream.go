package ibgateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

// watchStream is one stream of a watch. Each of its steps, to open it or to read a message, is made by a
// goroutine of its own, since neither can be left without an end of the stream: whoever gives up waiting
// leaves the step under way, for the next who waits. So there is one goroutine at most, and it ends with
// the stream's context.
type watchStream struct {
	cancel        context.CancelFunc
	correlationID string
	client        grpc.ServerStreamingClient[brokerv1.WatchSessionsResponse] // once it is open
	openedAt      time.Time                                                  // zero while it is not
	step          chan streamStep                                            // the one under way, or nil
	since         time.Time                                                  // when that began
}

// streamStep is what a step has come to.
type streamStep struct {
	client  grpc.ServerStreamingClient[brokerv1.WatchSessionsResponse]
	message *brokerv1.WatchSessionsResponse
	err     error
}

func (s *watchStream) begin(work func() streamStep) {
	step := make(chan streamStep, 1)
	s.step, s.since = step, time.Now()
	go func() { step <- work() }()
}

// open waits until it is time to try, and begins to open a stream; without one, ctx or the watch has
// ended.
func (w *Watch) open(ctx context.Context) error {
	timer := time.NewTimer(time.Until(w.retryAt))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return nil
	case <-w.ctx.Done():
		return nil
	}
	id := w.correlationID
	if _, given := ctx.Value(correlationIDOf{}).(string); given {
		id = correlationID(ctx)
	}
	sent, err := w.connection.sent(w.ctx, id)
	if err != nil {
		return err
	}
	if reset := w.continuity.begin(); reset != nil {
		w.reset = reset
	}
	request := proto.CloneOf(w.request)
	request.ResumeToken = w.continuity.token
	streaming, cancelStream := context.WithCancel(sent)
	w.stream = &watchStream{cancel: cancelStream, correlationID: id}
	sessions := w.connection.sessions
	w.stream.begin(func() streamStep {
		client, err := sessions.WatchSessions(streaming, request)
		if err == nil {
			_, err = client.Header()
		}
		return streamStep{client: client, err: err}
	})
	return nil
}

// receive gives the next message of the stream, nil if it is open again and quiet; or it says that the
// stream is lost. If neither is done, ctx or the watch has ended.
func (w *Watch) receive(ctx context.Context) (message *brokerv1.WatchSessionsResponse, lost kindOfError, done bool) {
	s := w.stream
	if s.openedAt.IsZero() {
		step, over := w.await(ctx, s.step, s.since.Add(w.silence))
		switch {
		case !over:
			return nil, nil, false
		case step == nil:
			return nil, w.silent(s), true
		case step.err != nil:
			return nil, w.explain(s, step), true
		}
		s.step = nil
		s.client, s.openedAt = step.client, time.Now()
	}
	if s.step == nil {
		client := s.client
		s.begin(func() streamStep {
			message, err := client.Recv()
			return streamStep{client: client, message: message, err: err}
		})
	}
	limit := s.since.Add(w.silence)
	// A broker answers a stream at once; one that cannot serve it says so right after that.
	settling := w.lost != nil
	if settling {
		limit = s.openedAt.Add(settled)
	}
	step, over := w.await(ctx, s.step, limit)
	switch {
	case !over:
		return nil, nil, false
	case step == nil && settling:
		return nil, nil, true
	case step == nil:
		return nil, w.silent(s), true
	case step.err != nil:
		return nil, w.explain(s, step), true
	}
	s.step = nil
	return step.message, nil, true
}

// await waits for a step until a time; what has come already is taken, however late it is. It gives nil
// if the time has come first; the wait is not over if ctx or the watch has ended.
func (w *Watch) await(ctx context.Context, step <-chan streamStep, limit time.Time) (came *streamStep, over bool) {
	select {
	case done := <-step:
		return &done, true
	default:
	}
	timer := time.NewTimer(time.Until(limit))
	defer timer.Stop()
	select {
	case done := <-step:
		return &done, true
	case <-timer.C:
		return nil, true
	case <-ctx.Done():
		return nil, false
	case <-w.ctx.Done():
		return nil, false
	}
}

// explain says why a stream has ended.
func (w *Watch) explain(s *watchStream, step *streamStep) kindOfError {
	if errors.Is(step.err, io.EOF) {
		return &BrokerDrainingError{BrokerError{
			Message:       fmt.Sprintf("the broker at %s has ended the stream", w.connection.address),
			Reason:        "BROKER_DRAINING",
			Retryable:     true,
			CorrelationID: s.correlationID,
		}}
	}
	end := ending{err: step.err, address: w.connection.address, correlationID: s.correlationID}
	if step.client != nil {
		end.trailer = step.client.Trailer()
	}
	return end.explain()
}

func (w *Watch) silent(s *watchStream) kindOfError {
	end := ending{correlationID: s.correlationID}
	failure := end.unreachable(fmt.Sprintf("the broker at %s has sent nothing for %v, though it should say at "+
		"least that nothing happens", w.connection.address, w.silence))
	failure.Hint = "a stream that is quiet for so long is dead; if the broker's bookmark_interval is longer, " +
		"give the watch a longer WithSilence"
	return failure
}

// drop ends the stream, and with it the step under way.
func (w *Watch) drop() {
	if w.stream != nil {
		w.stream.cancel()
	}
	w.stream, w.held = nil, nil
}
