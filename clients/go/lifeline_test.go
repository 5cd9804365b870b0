package ibgateway_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	ibgateway "github.com/gateway-broker/gateway-broker/clients/go"
	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

func TestARefusalDoesNotEndTheLifeline(t *testing.T) {
	t.Parallel()
	peer := opens(t, leased(time.Minute))
	of := ended("CLOSE_REQUESTED")
	of.Sequence = 3
	peer.onWatch(streams(
		sends(status.Error(codes.Unimplemented, "of a proxy"), snapshot(leased(time.Minute)), complete(2)),
		sends(refusal(codes.PermissionDenied, "PERMISSION_DENIED")),
		sends(errOpen, snapshot(leased(time.Minute)), complete(2), event(3, of)),
	))
	opened := open(t, peer.connect())
	if _, err := opened.WaitEnded(within(t, patience)); err != nil {
		t.Errorf("nobody says that it has ended: %v, %v", err, opened.Interruption())
	}
}

// provisional is an event that is not on record.
func provisional(of *brokerv1.Session) *brokerv1.WatchSessionsResponse {
	of = proto.CloneOf(of)
	of.Revision = 2
	return event(0, of)
}

func TestASessionWhoseEndIsVoidIsClosed(t *testing.T) {
	t.Parallel()
	peer := opens(t, leased(time.Minute))
	void, again, last := ended(""), session(sessionID, 3, reconnecting), ended("CLOSE_REQUESTED")
	void.State, void.Sequence, last.Sequence = failed, 4, 5
	closed := make(chan struct{})
	peer.on("GetSession", func(context.Context, int, any) (proto.Message, error) {
		return &brokerv1.GetSessionResponse{Session: again}, nil
	})
	peer.on("CloseSession", func(context.Context, int, any) (proto.Message, error) {
		close(closed)
		return &brokerv1.CloseSessionResponse{Session: last}, nil
	})
	peer.onWatch(streams(
		sends(status.Error(codes.Unavailable, "killed"), snapshot(leased(time.Minute)), complete(2),
			provisional(session(sessionID, 3, reconnecting)), provisional(void)),
		func(ctx context.Context, _ int, _ wanted, send sender) error {
			send(event(3, again), event(4, session(sessionID, 4, connected)))
			select {
			case <-closed:
				send(event(5, last))
			case <-ctx.Done():
			}
			<-ctx.Done()
			return nil
		},
	))
	opened := open(t, peer.connect())
	work, cancel := opened.Context(within(t, patience))
	defer cancel()
	<-work.Done()
	var over *ibgateway.SessionEndedError
	if !errors.As(context.Cause(work), &over) {
		t.Fatalf("an end is told at once, on record or not: %v", context.Cause(work))
	}
	eventually(t, "it is closed for good", func() bool {
		return len(peer.requests("CloseSession")) == 1 && peer.openStreams() == 0
	})
	if !opened.Ended() || opened.Info().GetCloseReason() != "CLOSE_REQUESTED" {
		t.Errorf("what has ended stays so: %v", opened.Info())
	}
}

func TestEventsThatComeLateDoNotCloseWhatHasEnded(t *testing.T) {
	t.Parallel()
	peer := opens(t, leased(time.Minute))
	of := ended("LEASE_EXPIRED")
	of.Sequence = 4
	resume, left := make(chan struct{}), make(chan struct{})
	peer.on("GetSession", func(context.Context, int, any) (proto.Message, error) {
		return &brokerv1.GetSessionResponse{Session: of}, nil
	})
	peer.onWatch(streams(
		sends(status.Error(codes.Unavailable, "cut"), snapshot(leased(time.Minute)), complete(2)),
		func(ctx context.Context, _ int, _ wanted, send sender) error {
			<-resume
			send(event(3, session(sessionID, 3, reconnecting)), event(4, of))
			<-ctx.Done()
			close(left)
			return nil
		},
	))
	opened := open(t, peer.connect())
	eventually(t, "it is interrupted", func() bool { return opened.Interruption() != nil })
	if _, err := opened.Refresh(within(t, patience)); err != nil || !opened.Ended() {
		t.Fatalf("it has ended: %v, %v", opened.Ended(), err)
	}
	close(resume)
	<-left // it was followed to its end
	if n := len(peer.requests("CloseSession")); n > 0 {
		t.Errorf("it was closed %d times", n)
	}
}

func TestTheWatchOfASessionWaitsForTheRecordOfItsEnd(t *testing.T) {
	t.Parallel()
	peer := opens(t, leased(time.Minute))
	void, of := ended("LEASE_EXPIRED"), ended("LEASE_EXPIRED")
	void.Sequence, of.Sequence, of.Revision = 3, 3, 3
	peer.onWatch(sends(errOpen, snapshot(leased(time.Minute)), complete(2), provisional(void), bookmark(2), event(3, of)))
	watch := open(t, peer.connect()).Watch("")
	same(t, read(t, watch, 5), "snapshot 2", "complete", "provisional 3", "bookmark", "event 3")
	if watch.Next(within(t, patience)) || watch.Err() != nil {
		t.Errorf("it ends then: %v, %v", watch.Item(), watch.Err())
	}
}

// curious is a handler of the log that asks the session about which it is told.
type curious struct {
	slog.Handler
	session chan *ibgateway.Session
}

func (c curious) Enabled(context.Context, slog.Level) bool { return true }

func (c curious) Handle(_ context.Context, record slog.Record) error {
	if record.Level == slog.LevelError {
		asked := <-c.session
		_ = asked.State()
	}
	return nil
}

func TestAHandlerOfTheLogMayAskTheSession(t *testing.T) {
	t.Parallel()
	peer := opens(t, leased(time.Minute))
	of := ended("LEASE_EXPIRED")
	of.Sequence = 3
	peer.onWatch(sends(errOpen, snapshot(leased(time.Minute)), complete(2), event(3, of)))
	handler := curious{slog.DiscardHandler, make(chan *ibgateway.Session, 1)}
	opened := open(t, peer.connect(ibgateway.WithLogger(slog.New(handler))))
	handler.session <- opened
	done := make(chan error)
	go func() {
		_, err := opened.WaitEnded(context.Background())
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("they wait for each other")
	}
}
