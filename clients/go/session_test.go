package ibgateway_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	ibgateway "github.com/gateway-broker/gateway-broker/clients/go"
	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

// leased is a session with a lease.
func leased(ttl time.Duration) *brokerv1.Session {
	of := session(sessionID, 2, connected)
	of.LeaseTtl = durationpb.New(ttl)
	of.LeaseExpireTime = timestamppb.New(time.Now().Add(ttl))
	return of
}

// ended is a session that somebody has ended.
func ended(reason string) *brokerv1.Session {
	of := session(sessionID, 9, disconnected)
	of.CloseReason = reason
	return of
}

// opens lets a peer open a session, with whatever a test has not said otherwise.
func opens(t *testing.T, of *brokerv1.Session) *scriptedBroker {
	t.Helper()
	peer := newScriptedBroker(t)
	peer.on("OpenSession", func(context.Context, int, any) (proto.Message, error) {
		return &brokerv1.OpenSessionResponse{Session: of, Created: true}, nil
	})
	peer.on("RenewSession", func(context.Context, int, any) (proto.Message, error) {
		return &brokerv1.RenewSessionResponse{Session: of}, nil
	})
	peer.on("CloseSession", func(context.Context, int, any) (proto.Message, error) {
		return &brokerv1.CloseSessionResponse{Session: ended("CLOSE_REQUESTED")}, nil
	})
	peer.onWatch(sends(errOpen, snapshot(of), complete(2)))
	return peer
}

func open(t *testing.T, broker *ibgateway.Broker) *ibgateway.Session {
	t.Helper()
	opened, err := broker.OpenSession(within(t, patience), &brokerv1.OpenSessionRequest{ClientId: proto.Int32(7)})
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

func TestAnOpenIsFilledIn(t *testing.T) {
	t.Parallel()
	peer := opens(t, leased(time.Minute))
	broker := peer.connect()
	ctx := within(t, 4*time.Minute)
	given := &brokerv1.OpenSessionRequest{ClientId: proto.Int32(7)}
	for range 2 {
		if _, err := broker.OpenSession(ctx, given); err != nil {
			t.Fatal(err)
		}
	}
	if !proto.Equal(given, &brokerv1.OpenSessionRequest{ClientId: proto.Int32(7)}) {
		t.Errorf("the caller's request was changed: %v", given)
	}
	exact := &brokerv1.OpenSessionRequest{
		RequestId: otherID, LeaseTtl: durationpb.New(0), ClientIdPolicy: brokerv1.ClientIdPolicy_CLIENT_ID_POLICY_INCREMENT,
		ClientId: proto.Int32(8),
	}
	if err := broker.ValidateSession(context.Background(), exact); err != nil {
		t.Fatal(err)
	}
	if _, err := broker.OpenSession(ctx, nil, ibgateway.WithoutLease()); err != nil {
		t.Fatal(err)
	}
	came := peer.requests("OpenSession")
	first, second := came[0].request.(*brokerv1.OpenSessionRequest), came[1].request.(*brokerv1.OpenSessionRequest)
	if len(first.RequestId) != 36 || first.RequestId == second.RequestId {
		t.Errorf("each open has a request_id of its own: %s, %s", first.RequestId, second.RequestId)
	}
	if first.ClientIdPolicy != brokerv1.ClientIdPolicy_CLIENT_ID_POLICY_EXACT ||
		first.LeaseTtl.AsDuration() != time.Minute {
		t.Errorf("it is %v", first)
	}
	if got := came[0].timeout; got < 3*time.Minute {
		t.Errorf("the caller's deadline counts, not %v", got)
	}
	checked := came[2].request.(*brokerv1.OpenSessionRequest)
	exact.ValidateOnly = true
	if !proto.Equal(checked, exact) {
		t.Errorf("what was said was changed: %v", checked)
	}
	if got := came[2].timeout; got < 280*time.Second || got > 300*time.Second {
		t.Errorf("the deadline is in %v", got)
	}
	bare := came[3].request.(*brokerv1.OpenSessionRequest)
	if bare.LeaseTtl != nil || bare.ClientIdPolicy != brokerv1.ClientIdPolicy_CLIENT_ID_POLICY_UNSPECIFIED {
		t.Errorf("it is %v", bare)
	}
	var wrong *ibgateway.InvalidArgumentError
	if _, err := broker.OpenSession(ctx, exact); !errors.As(err, &wrong) || len(peer.requests("OpenSession")) != 4 {
		t.Errorf("nothing can be held of a check: %v", err)
	}
}

func TestALeaseIsRenewedAtAThird(t *testing.T) {
	t.Parallel()
	peer := opens(t, leased(900*time.Millisecond))
	begin := time.Now()
	opened := open(t, peer.connect())
	// A slow machine is late, but not each time: at a half, none would come so soon after another.
	eventually(t, "a renewal after a third, and three of them", func() bool {
		came := peer.requests("RenewSession")
		soonest := time.Hour
		for n := 1; n < len(came); n++ {
			soonest = min(soonest, came[n].at.Sub(came[n-1].at))
		}
		return len(came) >= 3 && soonest < 430*time.Millisecond
	})
	if took := peer.requests("RenewSession")[2].at.Sub(begin); took < 890*time.Millisecond {
		t.Errorf("three thirds of 0.9 s took %v", took)
	}
	if opened.RenewalError() != nil || opened.Ended() {
		t.Errorf("it lives: %v", opened.RenewalError())
	}
}

func TestALeaseIsRenewedThroughAnOutage(t *testing.T) {
	t.Parallel()
	peer := opens(t, leased(900*time.Millisecond))
	opened := open(t, peer.connect())
	peer.stop()
	eventually(t, "the outage is known", func() bool {
		return opened.RenewalError() != nil && opened.Interruption() != nil
	})
	peer.start()
	eventually(t, "the outage is over", func() bool {
		return opened.RenewalError() == nil && opened.Interruption() == nil
	})
	if opened.Ended() {
		t.Error("it has not ended")
	}
}

func TestAnEndByOthersInterrupts(t *testing.T) {
	t.Parallel()
	peer := opens(t, leased(time.Minute))
	ends := make(chan *brokerv1.WatchSessionsResponse, 1)
	peer.onWatch(func(ctx context.Context, _ int, _ wanted, send sender) error {
		send(snapshot(leased(time.Minute)), complete(2))
		select {
		case end := <-ends:
			send(end)
			ends <- end // for each who watches
		case <-ctx.Done():
		}
		<-ctx.Done()
		return nil
	})
	peer.on("VerifySession", mute)
	opened := open(t, peer.connect())
	work, cancel := opened.Context(within(t, patience))
	defer cancel()
	verified := make(chan error)
	go func() {
		_, err := opened.Verify(work)
		verified <- err
	}()
	eventually(t, "the probe is out", func() bool { return len(peer.requests("VerifySession")) == 1 })
	of := ended("LEASE_EXPIRED")
	of.Sequence = 3
	ends <- event(3, of)

	err := <-verified
	var over *ibgateway.SessionEndedError
	if !errors.As(err, &over) || !errors.Is(err, context.Canceled) {
		t.Fatalf("the call that was under way is a %T: %v", err, err)
	}
	if over.CloseReason() != "LEASE_EXPIRED" || over.SessionID() != sessionID || over.Failure() != nil ||
		over.Session.GetSequence() != 3 || !strings.Contains(over.Hint, "not renewed in time") {
		t.Errorf("it does not say why: %v", over)
	}
	if !errors.As(context.Cause(work), &over) {
		t.Errorf("the cause is %v", context.Cause(work))
	}
	if info, err := opened.WaitEnded(within(t, patience)); err != nil || info.GetState() != disconnected {
		t.Errorf("it is told as %v, %v", info, err)
	}
	if _, err := opened.WaitConnected(within(t, patience)); !errors.As(err, &over) {
		t.Errorf("nobody waits for what has ended: %v", err)
	}
	if _, err := opened.Renew(within(t, patience), nil); !errors.As(err, &over) || !opened.Ended() {
		t.Errorf("what needs a session says so: %v", err)
	}
	late, cancelLate := opened.Context(context.Background())
	defer cancelLate()
	<-late.Done()
	watch := opened.Watch("")
	same(t, read(t, watch, 3), "snapshot 2", "complete", "event 3")
	if watch.Next(within(t, patience)) || watch.Err() != nil {
		t.Errorf("the watch of a session ends with it: %v, %v", watch.Item(), watch.Err())
	}
}

func TestTheContextOfASessionEndsWithItsParent(t *testing.T) {
	t.Parallel()
	opened := open(t, opens(t, leased(time.Minute)).connect())
	parent, end := context.WithCancel(context.Background())
	work, cancel := opened.Context(parent)
	defer cancel()
	end()
	<-work.Done()
	if !errors.Is(context.Cause(work), context.Canceled) || opened.Ended() {
		t.Errorf("the cause is %v", context.Cause(work))
	}
	work, cancel = opened.Context(context.Background())
	cancel()
	if !errors.Is(context.Cause(work), context.Canceled) {
		t.Errorf("the cause is %v", context.Cause(work))
	}
}

func TestASessionThatTheBrokerDoesNotKnowHasEnded(t *testing.T) {
	t.Parallel()
	peer := opens(t, leased(time.Minute))
	gone := func(context.Context, int, any) (proto.Message, error) {
		return nil, refusal(codes.NotFound, "SESSION_NOT_FOUND")
	}
	peer.on("VerifySession", gone)
	opened := open(t, peer.connect())
	var over *ibgateway.SessionEndedError
	if _, err := opened.Verify(within(t, patience)); !errors.As(err, &over) || !opened.Ended() {
		t.Errorf("it is a %T: %v", err, err)
	}
	peer = opens(t, leased(time.Minute))
	peer.onWatch(sends(errOpen, complete(2)))
	opened = open(t, peer.connect())
	if _, err := opened.WaitEnded(within(t, patience)); err != nil {
		t.Error(err)
	}
}

func TestAGapIsFollowedByANewSnapshot(t *testing.T) {
	t.Parallel()
	peer := opens(t, leased(time.Minute))
	again := leased(time.Minute)
	again.Sequence = 7
	peer.onWatch(streams(
		sends(errOpen, snapshot(leased(time.Minute)), complete(2), event(5, session(sessionID, 5, reconnecting))),
		sends(errOpen, snapshot(again), complete(7)),
	))
	opened := open(t, peer.connect())
	eventually(t, "the new snapshot", func() bool { return opened.Info().GetSequence() == 7 })
	eventually(t, "the lost time is over", func() bool { return opened.Interruption() == nil })
	same(t, tokens(peer), "", "")
}

func TestAHandleKeepsWhatEventsDoNotSay(t *testing.T) {
	t.Parallel()
	peer := opens(t, leased(time.Minute))
	next := leased(time.Minute)
	next.Sequence, next.LeaseExpireTime, next.State = 3, nil, reconnecting
	peer.onWatch(sends(errOpen, snapshot(leased(time.Minute)), complete(2), event(3, next)))
	opened := open(t, peer.connect())
	eventually(t, "the event", func() bool { return opened.State() == reconnecting })
	if opened.Info().GetLeaseExpireTime() == nil {
		t.Error("the end of the lease is forgotten")
	}
	if ctx := within(t, 50*time.Millisecond); true {
		if _, err := opened.WaitConnected(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it is not CONNECTED: %v", err)
		}
	}
}

func TestCloseOfTheBrokerClosesWhatIsItsOwn(t *testing.T) {
	t.Parallel()
	peer := opens(t, leased(time.Minute))
	peer.on("GetSession", func(context.Context, int, any) (proto.Message, error) {
		of := leased(time.Minute)
		of.SessionId = otherID
		return &brokerv1.GetSessionResponse{Session: of}, nil
	})
	broker := peer.connect()
	own := open(t, broker)
	detached := open(t, broker)
	detached.Detach()
	if _, err := broker.Attach(within(t, patience), otherID, nil); err != nil {
		t.Fatal(err)
	}
	work, cancel := detached.Context(context.Background())
	defer cancel()
	if err := broker.Close(); err != nil {
		t.Fatal(err)
	}
	closes := peer.requests("CloseSession")
	if len(closes) != 1 || closes[0].request.(*brokerv1.CloseSessionRequest).GetReason() == "" {
		t.Errorf("%d sessions were closed", len(closes))
	}
	if !own.Ended() || detached.Ended() {
		t.Errorf("ended: %v, %v", own.Ended(), detached.Ended())
	}
	var closed *ibgateway.BrokerClosedError
	<-work.Done()
	if !errors.As(context.Cause(work), &closed) {
		t.Errorf("the cause is %v", context.Cause(work))
	}
	if _, err := detached.WaitEnded(within(t, patience)); !errors.As(err, &closed) {
		t.Errorf("it is followed no longer: %v", err)
	}
}

func TestCloseTwiceIsNoError(t *testing.T) {
	t.Parallel()
	peer := opens(t, leased(time.Minute))
	opened := open(t, peer.connect())
	for range 2 {
		if err := opened.Close(within(t, patience), "the desk is closed"); err != nil {
			t.Fatal(err)
		}
	}
	if opened.Info().GetCloseReason() != "CLOSE_REQUESTED" {
		t.Errorf("it is %v", opened.Info())
	}
}

func TestASessionThatCannotBeClosedLives(t *testing.T) {
	t.Parallel()
	peer := opens(t, leased(900*time.Millisecond))
	peer.on("CloseSession", func(context.Context, int, any) (proto.Message, error) {
		return nil, refusal(codes.PermissionDenied, "PERMISSION_DENIED")
	})
	broker := peer.connect()
	opened := open(t, broker)
	var denied *ibgateway.PermissionDeniedError
	if err := opened.Close(within(t, patience), ""); !errors.As(err, &denied) || opened.Ended() {
		t.Errorf("it is %v", err)
	}
	eventually(t, "it is renewed", func() bool { return len(peer.requests("RenewSession")) > 0 })
	if err := broker.Close(); !errors.As(err, &denied) || !strings.Contains(err.Error(), sessionID) {
		t.Errorf("nobody is told: %v", err)
	}
}

func TestAnOpenThatWasRepeatedTooLateSaysSo(t *testing.T) {
	t.Parallel()
	of := ended("")
	of.State = failed
	of.LastFailure = &brokerv1.ConnectionFailure{Reason: "IB_CONN_005", Message: "log in", Hint: "a human must"}
	broker := opens(t, of).connect()
	_, err := broker.OpenSession(within(t, patience), nil)
	var over *ibgateway.SessionEndedError
	if !errors.As(err, &over) || over.Failure().GetReason() != "IB_CONN_005" || over.Hint != "a human must" {
		t.Errorf("it is a %T: %v", err, err)
	}
}

func TestASessionThatIsOpenedWhileTheBrokerIsClosedIsNotLeft(t *testing.T) {
	t.Parallel()
	peer := opens(t, leased(time.Minute))
	answer, closing := make(chan struct{}), make(chan struct{})
	peer.on("OpenSession", func(_ context.Context, n int, _ any) (proto.Message, error) {
		if n == 1 {
			<-answer
		}
		return &brokerv1.OpenSessionResponse{Session: leased(time.Minute)}, nil
	})
	peer.on("CloseSession", func(_ context.Context, n int, _ any) (proto.Message, error) {
		if n == 0 { // of the first, by Close: it waits, and the second is answered meanwhile
			close(closing)
			eventually(t, "the second is closed", func() bool { return len(peer.requests("CloseSession")) == 2 })
		}
		return &brokerv1.CloseSessionResponse{Session: ended("CLOSE_REQUESTED")}, nil
	})
	broker := peer.connect()
	open(t, broker)
	opening := make(chan error)
	go func() {
		_, err := broker.OpenSession(within(t, patience), nil)
		opening <- err
	}()
	eventually(t, "the second open", func() bool { return len(peer.requests("OpenSession")) == 2 })
	go func() {
		<-closing
		close(answer)
	}()
	if err := broker.Close(); err != nil {
		t.Error(err)
	}
	var closed *ibgateway.BrokerClosedError
	if err := <-opening; !errors.As(err, &closed) {
		t.Errorf("it is a %T: %v", err, err)
	}
}

func TestASecondCloseOfTheBrokerWaitsForTheFirst(t *testing.T) {
	t.Parallel()
	peer := opens(t, leased(time.Minute))
	closing := make(chan struct{})
	peer.on("CloseSession", func(context.Context, int, any) (proto.Message, error) {
		close(closing)
		time.Sleep(300 * time.Millisecond)
		return &brokerv1.CloseSessionResponse{Session: ended("CLOSE_REQUESTED")}, nil
	})
	broker := peer.connect()
	opened := open(t, broker)
	first := make(chan error)
	go func() { first <- broker.Close() }()
	<-closing
	if err := broker.Close(); err != nil || !opened.Ended() {
		t.Errorf("the session has ended: %v, %v", opened.Ended(), err)
	}
	if err := <-first; err != nil {
		t.Errorf("the second Close has cut the first: %v", err)
	}
}
