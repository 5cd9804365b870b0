package ibgateway_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	ibgateway "github.com/gateway-broker/gateway-broker/clients/go"
	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

func here(context.Context, int, any) (proto.Message, error) {
	return &brokerv1.GetSessionResponse{Session: session(sessionID, 2, connected)}, nil
}

// mute answers nothing until the caller has gone.
func mute(ctx context.Context, _ int, _ any) (proto.Message, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestConnectRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	for name, tried := range map[string]struct {
		address string
		option  ibgateway.Option
	}{
		"no address":       {"", nil},
		"no port":          {"localhost", nil},
		"a URL":            {"http://localhost:50051", nil},
		"an empty port":    {"localhost:", nil},
		"no such port":     {"localhost:65536", nil},
		"a path":           {"localhost:1/x", nil},
		"a query":          {"localhost:1?x=y", nil},
		"an empty owner":   {"localhost:1", ibgateway.WithOwner("")},
		"a strange owner":  {"localhost:1", ibgateway.WithOwner("Händler")},
		"an empty token":   {"localhost:1", ibgateway.WithToken("")},
		"a token's line":   {"localhost:1", ibgateway.WithToken("secret\n")},
		"a token far away": {"example.com:1", ibgateway.WithToken("secret")},
		"a telling name":   {"localhost.example.com:1", ibgateway.WithToken("secret")},
		"no wait":          {"localhost:1", ibgateway.WithBackoff(ibgateway.Backoff{})},
	} {
		options := []ibgateway.Option{}
		if tried.option != nil {
			options = append(options, tried.option)
		}
		broker, err := ibgateway.Connect(tried.address, options...)
		if err == nil {
			_ = broker.Close()
			t.Errorf("%s is taken", name)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the token is shown: %v", name, err)
		}
	}
	_, err := ibgateway.Connect("example.com:1", ibgateway.WithToken("secret"),
		ibgateway.WithCredentials(insecure.NewCredentials()))
	if err == nil {
		t.Error("a token goes out in plain text if that is called credentials")
	}
	for _, address := range []string{"localhost:1", "LOCALHOST.:1", "127.0.0.2:1", "[::1]:1", "unix:/tmp/x"} {
		broker, err := ibgateway.Connect(address, ibgateway.WithToken("secret"))
		if err != nil {
			t.Errorf("%s is this machine: %v", address, err)
			continue
		}
		_ = broker.Close()
	}
}

func TestWhatGoesWithACall(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	peer.on("GetSession", here)
	broker := peer.connect(ibgateway.WithOwner("momentum"), ibgateway.WithToken("secret"))
	id := "33333333-3333-4333-8333-333333333333"
	for _, ctx := range []context.Context{context.Background(), ibgateway.WithCorrelationID(context.Background(), id)} {
		if _, err := broker.GetSession(ctx, sessionID); err != nil {
			t.Fatal(err)
		}
	}
	came := peer.requests("GetSession")
	first, second := came[0].metadata, came[1].metadata
	if got := first.Get("x-broker-owner"); len(got) != 1 || got[0] != "momentum" {
		t.Errorf("the owner is %v", got)
	}
	if got := first.Get("authorization"); len(got) != 1 || got[0] != "Bearer secret" {
		t.Errorf("the token is %v", got)
	}
	if got := first.Get("x-correlation-id"); len(got) != 1 || len(got[0]) != 36 || got[0][14] != '4' {
		t.Errorf("the correlation id is %v", got)
	}
	if got := second.Get("x-correlation-id"); len(got) != 1 || got[0] != id {
		t.Errorf("the given correlation id is %v", got)
	}
	if got := came[0].timeout; got < 5*time.Second || got > 10*time.Second {
		t.Errorf("the deadline is in %v", got)
	}
	var wrong *ibgateway.InvalidArgumentError
	_, err := broker.GetSession(ibgateway.WithCorrelationID(context.Background(), "zwölf"), sessionID)
	if !errors.As(err, &wrong) || len(peer.requests("GetSession")) != 2 {
		t.Errorf("a correlation id that cannot be sent: %v", err)
	}
}

func TestACallIsRepeatedWhereTheBrokerSaysSo(t *testing.T) {
	t.Parallel()
	for _, reason := range []string{"CIRCUIT_OPEN", "GATEWAY_DRAINING", "BROKER_DRAINING", "STORE_UNAVAILABLE"} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			peer := newScriptedBroker(t)
			peer.on("DrainGateway", func(_ context.Context, n int, _ any) (proto.Message, error) {
				if n < 2 {
					return nil, refusal(codes.Unavailable, reason, retryAfter(30*time.Millisecond))
				}
				return &brokerv1.DrainGatewayResponse{Gateway: &brokerv1.Gateway{GatewayId: "paper"}}, nil
			})
			broker := peer.connect()
			begin := time.Now()
			_, err := broker.Gateways().Drain(within(t, patience), &brokerv1.DrainGatewayRequest{})
			if err != nil || len(peer.requests("DrainGateway")) != 3 {
				t.Fatalf("after %d calls: %v", len(peer.requests("DrainGateway")), err)
			}
			if waited := time.Since(begin); waited < 60*time.Millisecond {
				t.Errorf("it did not wait as the broker asked: %v", waited)
			}
		})
	}
}

func TestACallIsNotRepeatedOtherwise(t *testing.T) {
	t.Parallel()
	for _, reason := range []string{"SESSION_LIMIT", "IB_CONN_001", "INTERNAL", "SESSION_NOT_CONNECTED", "NEW"} {
		peer := newScriptedBroker(t)
		peer.on("GetSession", func(context.Context, int, any) (proto.Message, error) {
			return nil, refusal(codes.Unavailable, reason, retryAfter(time.Millisecond))
		})
		_, err := peer.connect().GetSession(within(t, patience), sessionID)
		if err == nil || len(peer.requests("GetSession")) != 1 {
			t.Errorf("%s: after %d calls: %v", reason, len(peer.requests("GetSession")), err)
		}
	}
}

func TestWhatMayNotBeDoneTwiceIsNotRepeated(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	peer.stop()
	broker := peer.connect()
	var unreachable *ibgateway.BrokerUnreachableError
	begin := time.Now()
	_, err := broker.Gateways().Resume(within(t, patience), "paper")
	if !errors.As(err, &unreachable) {
		t.Errorf("it is %v", err)
	}
	if _, err = broker.VerifySession(within(t, patience), sessionID); !errors.As(err, &unreachable) {
		t.Errorf("it is %v", err)
	}
	if took := time.Since(begin); took > patience/2 {
		t.Errorf("they were repeated for %v", took)
	}
}

func TestABrokerThatIsAwayIsWaitedFor(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	peer.on("GetSession", here)
	broker := peer.connect()
	if _, err := broker.GetSession(within(t, patience), sessionID); err != nil {
		t.Fatal(err)
	}
	peer.stop()
	back := time.AfterFunc(300*time.Millisecond, peer.start)
	defer back.Stop()
	if _, err := broker.GetSession(within(t, patience), sessionID); err != nil {
		t.Fatal(err)
	}
}

func TestADeadlineEndsTheRepeats(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	peer.on("GetSession", func(context.Context, int, any) (proto.Message, error) {
		return nil, refusal(codes.Unavailable, "STORE_UNAVAILABLE", retryAfter(time.Hour))
	})
	begin := time.Now()
	_, err := peer.connect().GetSession(within(t, patience), sessionID)
	var away *ibgateway.StoreUnavailableError
	if !errors.As(err, &away) || time.Since(begin) > patience/2 {
		t.Fatalf("after %v: %v", time.Since(begin), err)
	}
}

func TestADeadlineIsACallTimeout(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	peer.on("GetSession", mute)
	_, err := peer.connect().GetSession(within(t, time.Second), sessionID)
	var late *ibgateway.CallTimeoutError
	var unreachable *ibgateway.BrokerUnreachableError
	if !errors.As(err, &late) || !errors.As(err, &unreachable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("it is a %T: %v", err, err)
	}
	if !regexp.MustCompile(`within (1s|[0-9]+ms)`).MatchString(err.Error()) || len(peer.requests("GetSession")) != 1 {
		t.Errorf("after %d calls: %v", len(peer.requests("GetSession")), err)
	}
}

func TestCancellationSaysItsCause(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	for name, answer := range map[string]unary{
		"in the call": mute,
		"in the wait before another": func(context.Context, int, any) (proto.Message, error) {
			return nil, refusal(codes.Unavailable, "STORE_UNAVAILABLE", retryAfter(time.Second))
		},
	} {
		peer.on("GetSession", answer)
		broker := peer.connect()
		ctx, cancel := context.WithCancelCause(within(t, patience))
		cause := errors.New("the desk is closed")
		timer := time.AfterFunc(50*time.Millisecond, func() { cancel(cause) })
		_, err := broker.GetSession(ctx, sessionID)
		timer.Stop()
		var base *ibgateway.BrokerError
		if !errors.Is(err, context.Canceled) || !errors.Is(err, cause) || errors.As(err, &base) {
			t.Errorf("%s: it is a %T: %v", name, err, err)
		}
	}
}

func TestWhatCannotBeSentIsTheCallersMistake(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	broker := peer.connect()
	var wrong *ibgateway.InvalidArgumentError
	_, err := broker.OpenSession(within(t, patience), &brokerv1.OpenSessionRequest{GatewayId: "\xff"})
	if !errors.As(err, &wrong) || len(wrong.Violations) != 1 || !strings.Contains(err.Error(), "UTF-8") {
		t.Errorf("it is a %T: %v", err, err)
	}
	watch := broker.Watch(&brokerv1.WatchSessionsRequest{Owner: "\xff"})
	if watch.Next(within(t, patience)) || !errors.As(watch.Err(), &wrong) {
		t.Errorf("it is %v, %v", watch.Item(), watch.Err())
	}
	if len(peer.requests("OpenSession"))+len(peer.requests("WatchSessions")) != 0 {
		t.Error("something was sent")
	}
}

func TestACallThatCloseCutsSaysSo(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	peer.on("VerifySession", mute)
	broker := peer.connect()
	ends := make(chan error)
	go func() {
		_, err := broker.VerifySession(within(t, patience), sessionID)
		ends <- err
	}()
	eventually(t, "the call came", func() bool { return len(peer.requests("VerifySession")) == 1 })
	for range 2 {
		if err := broker.Close(); err != nil {
			t.Error(err)
		}
	}
	var closed *ibgateway.BrokerClosedError
	if err := <-ends; !errors.As(err, &closed) {
		t.Errorf("it is a %T: %v", err, err)
	}
	if _, err := broker.Info(within(t, patience)); !errors.As(err, &closed) {
		t.Errorf("a call after that is a %T: %v", err, err)
	}
}

func TestAnAnswerWithoutWhatItIsAboutIsNone(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	peer.on("GetSession", func(context.Context, int, any) (proto.Message, error) {
		return &brokerv1.GetSessionResponse{}, nil
	})
	peer.on("OpenSession", func(context.Context, int, any) (proto.Message, error) {
		return &brokerv1.OpenSessionResponse{}, nil
	})
	peer.on("GetGateway", func(context.Context, int, any) (proto.Message, error) {
		return &brokerv1.GetGatewayResponse{}, nil
	})
	broker := peer.connect()
	ctx := within(t, patience)
	_, get := broker.GetSession(ctx, sessionID)
	_, open := broker.OpenSession(ctx, nil)
	_, gateway := broker.Gateways().Get(ctx, "")
	for _, err := range []error{get, open, gateway} {
		if unexpected := (*ibgateway.UnexpectedAnswerError)(nil); !errors.As(err, &unexpected) {
			t.Errorf("it is a %T: %v", err, err)
		}
	}
}

func TestAListIsReadPageByPage(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	peer.on("ListSessions", func(_ context.Context, n int, request any) (proto.Message, error) {
		switch token := request.(*brokerv1.ListSessionsRequest).GetPageToken(); token {
		case "":
			return &brokerv1.ListSessionsResponse{
				Sessions: []*brokerv1.Session{session(sessionID, 1, connected)}, NextPageToken: "more",
			}, nil
		case "more":
			return &brokerv1.ListSessionsResponse{Sessions: []*brokerv1.Session{session(otherID, 1, connected)}}, nil
		default:
			return nil, refusal(codes.InvalidArgument, "INVALID_ARGUMENT")
		}
	})
	broker := peer.connect()
	filter := &brokerv1.ListSessionsRequest{Owner: "momentum"}
	all := broker.ListSessions(within(t, patience), filter)
	for range 2 { // it can be ranged over again, from the beginning
		var ids []string
		for found, err := range all {
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, found.GetSessionId())
		}
		same(t, ids, sessionID, otherID)
	}
	for range all {
		break
	}
	if got := len(peer.requests("ListSessions")); got != 5 {
		t.Errorf("%d pages were asked for", got)
	}
	if filter.PageSize != 0 || filter.PageToken != "" {
		t.Errorf("the caller's filter was changed: %v", filter)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, err := range broker.ListSessions(ctx, nil) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("it is a %T: %v", err, err)
		}
	}
}

func TestBackoffIsHeldToItsLimits(t *testing.T) {
	t.Parallel()
	for _, wrong := range []ibgateway.Backoff{{Initial: -1, Maximum: 1}, {Initial: 2, Maximum: 1}, {Maximum: 1}} {
		if _, err := ibgateway.Connect("localhost:1", ibgateway.WithBackoff(wrong)); err == nil {
			t.Error(fmt.Sprint(wrong, " is taken"))
		}
	}
}

// attentive is a handler of the log that keeps what its contexts would send to a server.
type attentive struct {
	slog.Handler
	sent chan metadata.MD
}

func (a attentive) Enabled(context.Context, slog.Level) bool { return true }

func (a attentive) Handle(ctx context.Context, _ slog.Record) error {
	sent, _ := metadata.FromOutgoingContext(ctx)
	a.sent <- sent
	return nil
}

func TestTheLogIsGivenNoToken(t *testing.T) {
	t.Parallel()
	peer := newScriptedBroker(t)
	peer.stop()
	handler := attentive{slog.DiscardHandler, make(chan metadata.MD, 100)}
	broker := peer.connect(ibgateway.WithToken("secret"), ibgateway.WithLogger(slog.New(handler)))
	ctx, cancel := context.WithCancel(within(t, patience))
	done := make(chan struct{})
	go func() {
		_, _ = broker.Info(ctx)
		close(done)
	}()
	if sent := <-handler.sent; len(sent) > 0 {
		t.Errorf("a handler that tells of its context tells %v", sent)
	}
	cancel()
	<-done
}
