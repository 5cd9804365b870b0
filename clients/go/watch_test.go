package ibgateway_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	ibgateway "github.com/gateway-broker/gateway-broker/clients/go"
	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

type (
	wanted = *brokerv1.WatchSessionsRequest
	sender = func(...*brokerv1.WatchSessionsResponse)
)

// streams answers the n-th watch with the n-th of these, and those after with the last.
func streams(all ...streaming) streaming {
	return func(ctx context.Context, n int, request wanted, send sender) error {
		return all[min(n, len(all)-1)](ctx, n, request, send)
	}
}

// sends is a stream that sends this and ends with an error, or is open until it is cut.
func sends(end error, what ...*brokerv1.WatchSessionsResponse) streaming {
	return func(ctx context.Context, _ int, _ wanted, send sender) error {
		send(what...)
		if errors.Is(end, errOpen) {
			<-ctx.Done()
			return nil
		}
		return end
	}
}

var errOpen = errors.New("the stream stays open")

func tokens(peer *scriptedBroker) []string {
	var all []string
	for _, asked := range peer.requests("WatchSessions") {
		all = append(all, asked.request.(wanted).GetResumeToken())
	}
	return all
}

func TestAWatchResumesWhereItWas(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	peer.onWatch(streams(
		sends(nil, snapshot(session(sessionID, 2, connected)), complete(2), event(3, session(sessionID, 3, reconnecting))),
		sends(status.Error(codes.Unavailable, "cut"), event(4, session(sessionID, 4, connected))),
		sends(refusal(codes.ResourceExhausted, "SLOW_CONSUMER"), event(5, session(sessionID, 5, reconnecting))),
		sends(errOpen, event(6, session(sessionID, 6, connected))),
	))
	watch := peer.connect().Watch(&brokerv1.WatchSessionsRequest{Owner: "momentum"})
	defer watch.Close()
	same(t, read(t, watch, 12),
		"snapshot 2", "complete", "event 3", "interrupted BrokerDrainingError",
		"resumed", "event 4", "interrupted BrokerUnreachableError",
		"resumed", "event 5", "interrupted SlowConsumerError",
		"resumed", "event 6")
	same(t, tokens(peer), "", token(3), token(4), token(5))
	for _, asked := range peer.requests("WatchSessions") {
		if asked.request.(wanted).GetOwner() != "momentum" || asked.timeout != 0 {
			t.Errorf("a stream was opened with %v, and a deadline in %v", asked.request, asked.timeout)
		}
	}
}

func TestAWatchOutlivesItsBroker(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	peer.onWatch(streams(sends(errOpen, complete(2)), sends(errOpen)))
	watch := peer.connect().Watch(nil)
	defer watch.Close()
	same(t, read(t, watch, 1), "complete")
	peer.stop()
	same(t, read(t, watch, 1), "interrupted BrokerUnreachableError")
	if watch.Interruption() == nil || watch.Token() != token(2) {
		t.Errorf("it is interrupted, %v, and keeps its place: %s", watch.Interruption(), watch.Token())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if watch.Next(ctx) || !errors.Is(watch.Err(), context.DeadlineExceeded) {
		t.Fatalf("the same cause is told once, not again: %v, %v", watch.Item(), watch.Err())
	}
	peer.start()
	same(t, read(t, watch, 1), "resumed") // though the stream is quiet
	if watch.Interruption() != nil {
		t.Errorf("it is still interrupted: %v", watch.Interruption())
	}
}

func TestAnotherCauseIsToldAgain(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	peer.onWatch(streams(
		sends(refusal(codes.Unavailable, "STORE_UNAVAILABLE", retryAfter(10*time.Millisecond))),
		sends(refusal(codes.Unavailable, "STORE_UNAVAILABLE", retryAfter(10*time.Millisecond))),
		sends(refusal(codes.Unavailable, "BROKER_DRAINING", retryAfter(10*time.Millisecond))),
		sends(errOpen, complete(1)),
	))
	watch := peer.connect().Watch(nil)
	defer watch.Close()
	same(t, read(t, watch, 4), "interrupted StoreUnavailableError",
		"interrupted BrokerDrainingError", "resumed", "complete")
}

func TestHalfASnapshotIsVoid(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	peer.onWatch(streams(
		sends(nil, snapshot(session(sessionID, 2, connected))),
		sends(errOpen, snapshot(session(sessionID, 3, connected)), complete(3)),
	))
	watch := peer.connect().Watch(nil)
	defer watch.Close()
	same(t, read(t, watch, 6), "snapshot 2", "interrupted BrokerDrainingError", "resumed",
		"reset SNAPSHOT_INCOMPLETE", "snapshot 3", "complete")
	same(t, tokens(peer), "", "")
}

func TestAProvisionalEventIsVoidOnceItsStreamIsLost(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	peer.onWatch(streams(
		sends(nil, snapshot(session(sessionID, 2, connected)), complete(2), event(0, session(sessionID, 3, reconnecting))),
		sends(errOpen, bookmark(2), event(3, session(sessionID, 3, disconnected))),
	))
	watch := peer.connect().Watch(nil)
	defer watch.Close()
	same(t, read(t, watch, 6), "snapshot 2", "complete", "provisional 3",
		"interrupted BrokerDrainingError", "resumed", "bookmark")
	if got := watch.Sessions()[sessionID]; got.GetState() != connected {
		t.Errorf("what is kept counts: %v", got)
	}
	same(t, read(t, watch, 1), "event 3")
}

func TestARefusalEndsAWatch(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]error{
		"a wrong token":    refusal(codes.InvalidArgument, "INVALID_ARGUMENT"),
		"no such gateway":  refusal(codes.NotFound, "GATEWAY_NOT_FOUND"),
		"a revoked caller": refusal(codes.Unauthenticated, "UNAUTHENTICATED"),
		"no broker at all": status.Error(codes.Unimplemented, "unknown service"),
	} {
		peer := newScriptedBroker(t)
		peer.onWatch(sends(end, complete(1)))
		watch := peer.connect().Watch(nil)
		same(t, read(t, watch, 1), "complete")
		var base *ibgateway.BrokerError
		if watch.Next(within(t, patience)) || !errors.As(watch.Err(), &base) {
			t.Errorf("%s: it goes on with %v, %v", name, watch.Item(), watch.Err())
		}
		if watch.Token() != token(1) {
			t.Errorf("%s: the token stays good, not %q", name, watch.Token())
		}
	}
}

func TestAWatchGivesUpWhenItIsTold(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	peer.stop()
	watch := peer.connect().Watch(nil, ibgateway.WithGiveUpAfter(2*time.Second))
	same(t, read(t, watch, 1), "interrupted BrokerUnreachableError")
	var unreachable *ibgateway.BrokerUnreachableError
	if watch.Next(within(t, patience)) || !errors.As(watch.Err(), &unreachable) {
		t.Errorf("it goes on with %v, %v", watch.Item(), watch.Err())
	}
}

func TestAWatchIsGivenUpInTimeHoweverLongTheBrokerAsksFor(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	peer.onWatch(sends(refusal(codes.Unavailable, "STORE_UNAVAILABLE", retryAfter(time.Minute))))
	watch := peer.connect().Watch(nil, ibgateway.WithGiveUpAfter(150*time.Millisecond))
	same(t, read(t, watch, 1), "interrupted StoreUnavailableError")
	if retryIn := watch.Item().(ibgateway.Interrupted).RetryIn; retryIn > 150*time.Millisecond {
		t.Errorf("the next try is in %v", retryIn)
	}
	var away *ibgateway.StoreUnavailableError
	if watch.Next(within(t, patience)) || !errors.As(watch.Err(), &away) {
		t.Errorf("it goes on with %v, %v", watch.Item(), watch.Err())
	}
}

func TestALongWaitIsToldAlsoIfItsCauseIsKnown(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	away := func(d time.Duration) streaming {
		return sends(refusal(codes.Unavailable, "STORE_UNAVAILABLE", retryAfter(d)))
	}
	peer.onWatch(streams(away(time.Millisecond), away(time.Millisecond), away(10*time.Minute)))
	watch := peer.connect().Watch(nil)
	defer watch.Close()
	same(t, read(t, watch, 1), "interrupted StoreUnavailableError")
	same(t, read(t, watch, 1), "interrupted StoreUnavailableError")
	if retryIn := watch.Item().(ibgateway.Interrupted).RetryIn; retryIn < 10*time.Minute {
		t.Errorf("the next try is in %v", retryIn)
	}
}

func TestAbsurdWaitsOfAWatchAreBounded(t *testing.T) {
	t.Parallel()
	for _, delay := range []*durationpb.Duration{{Seconds: 1 << 62}, {Seconds: -1 << 63}, {Nanos: -1 << 31}} {
		peer := newScriptedBroker(t)
		peer.onWatch(sends(refusal(codes.Unavailable, "STORE_UNAVAILABLE", &errdetails.RetryInfo{RetryDelay: delay})))
		watch := peer.connect().Watch(nil)
		same(t, read(t, watch, 1), "interrupted StoreUnavailableError")
		if retryIn := watch.Item().(ibgateway.Interrupted).RetryIn; retryIn <= 0 || retryIn > time.Hour {
			t.Errorf("%v: the next try is in %v", delay, retryIn)
		}
		watch.Close()
	}
}

func TestASilentStreamIsDead(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	peer.onWatch(streams(sends(errOpen, complete(1)), sends(errOpen, bookmark(1))))
	watch := peer.connect().Watch(nil, ibgateway.WithSilence(2*time.Second))
	defer watch.Close()
	same(t, read(t, watch, 1), "complete")
	// Short waits, one after the other, do not put it off.
	for begin := time.Now(); !watch.Next(within(t, 20*time.Millisecond)); {
		if time.Since(begin) > patience {
			t.Fatal("the stream is not given up")
		}
	}
	same(t, []string{told(watch.Item())}, "interrupted BrokerUnreachableError")
	same(t, read(t, watch, 2), "resumed", "bookmark")
	wrong := peer.connect().Watch(nil, ibgateway.WithSilence(0))
	if wrong.Next(within(t, patience)) || wrong.Err() == nil {
		t.Error("no silence at all is taken")
	}
}

func TestAPeerThatDoesNotOpenTheStreamIsDead(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	peer.mute = true
	watch := peer.connect().Watch(nil, ibgateway.WithSilence(200*time.Millisecond))
	defer watch.Close()
	same(t, read(t, watch, 1), "interrupted BrokerUnreachableError")
}

func TestGivingUpTheWaitLosesNothing(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	const events = 200
	peer.onWatch(func(ctx context.Context, _ int, _ wanted, send sender) error {
		send(complete(0))
		for i := int64(1); i <= events && ctx.Err() == nil; i++ {
			send(event(i, session(sessionID, i, connected)))
			if i%20 == 0 {
				time.Sleep(5 * time.Millisecond)
			}
		}
		<-ctx.Done()
		return nil
	})
	watch := peer.connect().Watch(nil)
	defer watch.Close()
	same(t, read(t, watch, 1), "complete")
	var all []string
	for begin := time.Now(); len(all) < events; {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		if watch.Next(ctx) {
			all = append(all, told(watch.Item()))
		} else if !errors.Is(watch.Err(), context.DeadlineExceeded) || time.Since(begin) > patience {
			t.Fatal(watch.Err())
		}
		cancel()
	}
	for i, item := range all {
		same(t, []string{item}, fmt.Sprintf("event %d", i+1))
	}
	if got := len(peer.requests("WatchSessions")); got != 1 {
		t.Errorf("the stream stays, but there were %d", got)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if watch.Next(ended) || !errors.Is(watch.Err(), context.Canceled) || watch.Item() != nil {
		t.Errorf("a context that has ended: %v, %v", watch.Item(), watch.Err())
	}
}

func TestCloseEndsAWatchThatWaits(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	broker := peer.connect()
	for name, end := range map[string]func(*ibgateway.Watch){
		"its own":      (*ibgateway.Watch).Close,
		"the Broker's": func(*ibgateway.Watch) { _ = broker.Close() },
	} {
		if name == "its own" {
			broker = peer.connect()
		}
		watch := broker.Watch(nil)
		found := make(chan bool)
		go func() { found <- watch.Next(within(t, patience)) }()
		eventually(t, "the stream is open", func() bool { return peer.openStreams() == 1 })
		end(watch)
		if <-found {
			t.Errorf("%s: it finds %v", name, watch.Item())
		}
		var closed *ibgateway.BrokerClosedError
		if errors.As(watch.Err(), &closed) != (name == "the Broker's") {
			t.Errorf("%s: it ends with %v", name, watch.Err())
		}
		eventually(t, "the stream has ended", func() bool { return peer.openStreams() == 0 })
	}
}

func TestAWatchThatIsDroppedEnds(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	peer.onWatch(sends(errOpen, complete(1)))
	broker := peer.connect()
	func() {
		watch := broker.Watch(nil)
		same(t, read(t, watch, 1), "complete")
		short, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		if watch.Next(short) { // leaves a read under way
			t.Fatalf("it finds %v", watch.Item())
		}
	}()
	eventually(t, "the stream has ended", func() bool {
		runtime.GC()
		return peer.openStreams() == 0
	})
}

func TestAWatchThatIsNotReadHoldsLittle(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	sent := make(chan int, 1)
	peer.onWatch(func(ctx context.Context, _ int, _ wanted, send sender) error {
		large := session(sessionID, 1, connected)
		large.Labels = map[string]string{"filler": string(make([]byte, 10_000))}
		n := 0
		for ; n < 10_000 && ctx.Err() == nil; n++ {
			send(snapshot(large))
		}
		sent <- n
		return nil
	})
	watch := peer.connect().Watch(nil)
	same(t, read(t, watch, 1), "snapshot 1")
	select {
	case n := <-sent:
		t.Fatalf("%d messages of 10 kB were taken from the wire, and nobody has read them", n)
	case <-time.After(500 * time.Millisecond):
	}
	watch.Close()
	if n := <-sent; n > 100 {
		t.Errorf("%d messages of 10 kB were taken from the wire", n)
	}
}
