package ibgateway_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	ibgateway "github.com/gateway-broker/gateway-broker/clients/go"
	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

// lines is a log that is read while it is written.
type lines struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

// count is how many lines say this.
func (l *lines) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.all.String(), what)
}

// voidClose is a broker that answers a close and dies before that is on record: in the next one the
// session lives, until it is closed there.
type voidClose struct {
	*scriptedBroker
	log lines
	die chan struct{} // closed, lets it die
}

// closesInVain makes one; refused is how many of the further closes fail.
func closesInVain(t *testing.T, refused int) *voidClose {
	t.Helper()
	peer := &voidClose{scriptedBroker: opens(t, leased(time.Minute)), die: make(chan struct{})}
	alive, void, last := session(sessionID, 3, reconnecting), ended("CLOSE_REQUESTED"), ended("CLOSE_REQUESTED")
	void.Sequence, last.Sequence = 4, 5
	closed := make(chan struct{})
	isClosed := sync.OnceFunc(func() { close(closed) })
	peer.on("GetSession", func(context.Context, int, any) (proto.Message, error) {
		return &brokerv1.GetSessionResponse{Session: alive}, nil
	})
	peer.on("CloseSession", func(_ context.Context, n int, _ any) (proto.Message, error) {
		switch {
		case n == 0:
			return &brokerv1.CloseSessionResponse{Session: void}, nil
		case n <= refused:
			return nil, refusal(codes.Internal, "INTERNAL")
		}
		isClosed()
		return &brokerv1.CloseSessionResponse{Session: last}, nil
	})
	peer.onWatch(streams(
		func(ctx context.Context, _ int, _ wanted, send sender) error {
			send(snapshot(leased(time.Minute)), complete(2))
			select {
			case <-peer.die:
				return status.Error(codes.Unavailable, "killed")
			case <-ctx.Done():
				return nil
			}
		},
		func(ctx context.Context, _ int, _ wanted, send sender) error {
			send(event(3, alive))
			select {
			case <-closed:
				send(event(5, last))
			case <-ctx.Done():
			}
			<-ctx.Done()
			return nil
		},
	))
	return peer
}

func (v *voidClose) connect() *ibgateway.Broker {
	v.t.Helper()
	return v.scriptedBroker.connect(ibgateway.WithLogger(slog.New(slog.NewTextHandler(&v.log, nil))))
}

func (v *voidClose) closes() int { return len(v.requests("CloseSession")) }

// mustClose closes a session whose end nobody puts on record: it waits for the answer only.
func mustClose(t *testing.T, opened *ibgateway.Session) {
	t.Helper()
	begin := time.Now()
	if err := opened.Close(within(t, patience), "the desk is closed"); err != nil || !opened.Ended() {
		t.Fatalf("it is closed: %v, %v", opened.Info(), err)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("whoever closes waited %v", took)
	}
}

func TestASessionWhoseCloseIsVoidIsClosedAgain(t *testing.T) {
	t.Parallel()
	for name, refused := range map[string]int{"at once": 0, "until it succeeds": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			peer := closesInVain(t, refused)
			opened := open(t, peer.connect())
			mustClose(t, opened)
			close(peer.die)
			eventually(t, "it is closed for good", func() bool { return peer.closes() == 2+refused })
			eventually(t, "and followed no longer", func() bool { return peer.openStreams() == 0 })
			if !opened.Ended() || opened.Info().GetSequence() != 5 {
				t.Errorf("what has ended stays so: %v", opened.Info())
			}
			if n := peer.log.count("level=WARN msg=\"a session lives"); n != 1 {
				t.Errorf("that is told %d times", n)
			}
			if n := peer.log.count("could not be closed"); n != min(refused, 1) {
				t.Errorf("that it was not closed is told %d times", n)
			}
		})
	}
}

func TestASessionOfOthersThatWasClosedIsClosedAgain(t *testing.T) {
	t.Parallel()
	peer := closesInVain(t, 0)
	attached, err := peer.connect().Attach(within(t, patience), sessionID, nil)
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, attached)
	close(peer.die)
	eventually(t, "it is closed for good", func() bool { return peer.closes() == 2 && peer.openStreams() == 0 })
}

func TestACloseThatIsOnRecordIsFollowedNoLonger(t *testing.T) {
	t.Parallel()
	peer := opens(t, leased(time.Minute))
	of := ended("CLOSE_REQUESTED")
	of.Sequence = 4
	keep := make(chan struct{})
	peer.onWatch(func(ctx context.Context, _ int, _ wanted, send sender) error {
		send(snapshot(leased(time.Minute)), complete(2), event(3, session(sessionID, 3, reconnecting)))
		select {
		case <-keep:
			send(provisional(of), event(4, of))
		case <-ctx.Done():
		}
		<-ctx.Done()
		return nil
	})
	opened := open(t, peer.connect())
	eventually(t, "it is followed", func() bool { return opened.Info().GetSequence() == 3 })
	mustClose(t, opened)
	time.Sleep(100 * time.Millisecond)
	if n := peer.openStreams(); n != 1 {
		t.Errorf("it is followed on, by %d streams", n)
	}
	close(keep)
	eventually(t, "it is followed no longer", func() bool { return peer.openStreams() == 0 })
	if n := len(peer.requests("CloseSession")); n != 1 {
		t.Errorf("it was closed %d times", n)
	}
}

func TestABrokerWithoutARecordOfAClosedSessionSettlesThat(t *testing.T) {
	t.Parallel()
	peer := closesInVain(t, 0)
	peer.on("GetSession", func(context.Context, int, any) (proto.Message, error) {
		return nil, refusal(codes.NotFound, "SESSION_NOT_FOUND")
	})
	mustClose(t, open(t, peer.connect()))
	close(peer.die)
	eventually(t, "it is asked", func() bool { return len(peer.requests("GetSession")) == 1 })
	eventually(t, "it is followed no longer", func() bool { return peer.openStreams() == 0 })
	if peer.closes() != 1 {
		t.Errorf("it was closed %d times", peer.closes())
	}
}

func TestAWatchThatIsRefusedMayHideThatAClosedSessionLives(t *testing.T) {
	t.Parallel()
	peer := closesInVain(t, 0)
	peer.onWatch(streams(
		func(ctx context.Context, _ int, _ wanted, send sender) error {
			send(snapshot(leased(time.Minute)), complete(2))
			select {
			case <-peer.die:
				return refusal(codes.PermissionDenied, "PERMISSION_DENIED")
			case <-ctx.Done():
				return nil
			}
		},
		sends(errOpen, snapshot(session(sessionID, 3, reconnecting)), complete(3)),
	))
	mustClose(t, open(t, peer.connect()))
	close(peer.die)
	eventually(t, "it is closed again", func() bool { return peer.closes() == 2 })
}

func TestTheEndOfABrokerWaitsForNoRecord(t *testing.T) {
	t.Parallel()
	peer := closesInVain(t, 0)
	void := ended("CLOSE_REQUESTED")
	void.Sequence = 4
	tell := make(chan struct{})
	peer.onWatch(func(ctx context.Context, _ int, _ wanted, send sender) error {
		send(snapshot(leased(time.Minute)), complete(2))
		<-tell
		send(provisional(session(sessionID, 3, reconnecting)), provisional(void))
		<-ctx.Done()
		return nil
	})
	broker := peer.connect()
	opened := open(t, broker)
	watch := opened.Watch("")
	defer watch.Close()
	mustClose(t, opened)
	close(tell)
	same(t, read(t, watch, 4), "snapshot 2", "complete", "provisional 3", "provisional 4")
	time.Sleep(100 * time.Millisecond) // the handle has its own stream
	begin := time.Now()
	if err := broker.Close(); err != nil || time.Since(begin) > 2*time.Second {
		t.Errorf("it took %v: %v", time.Since(begin), err)
	}
	if n := peer.log.count("level=WARN msg=\"a session may live"); n != 1 {
		t.Errorf("that is told %d times", n)
	}
	eventually(t, "it is followed no longer", func() bool { return peer.openStreams() == 0 })
	if peer.closes() != 1 {
		t.Errorf("it was closed %d times", peer.closes())
	}
}

func TestTheEndOfABrokerClosesWhatLivesOn(t *testing.T) {
	t.Parallel()
	peer := closesInVain(t, 1)
	broker := peer.connect()
	mustClose(t, open(t, broker))
	close(peer.die)
	eventually(t, "a second close has failed", func() bool { return peer.log.count("could not be closed") == 1 })
	if err := broker.Close(); err != nil {
		t.Error(err)
	}
	if peer.closes() < 3 {
		t.Errorf("it was closed %d times", peer.closes())
	}
}

func TestACloseOfWhatNobodyKnowsSaysSo(t *testing.T) {
	t.Parallel()
	peer := opens(t, leased(time.Minute))
	peer.on("CloseSession", func(context.Context, int, any) (proto.Message, error) {
		return nil, refusal(codes.NotFound, "SESSION_NOT_FOUND")
	})
	opened := open(t, peer.connect())
	var unknown *ibgateway.SessionNotFoundError
	if err := opened.Close(within(t, patience), ""); !errors.As(err, &unknown) || !opened.Ended() {
		t.Errorf("it has ended: %v, %v", opened.Ended(), err)
	}
}
