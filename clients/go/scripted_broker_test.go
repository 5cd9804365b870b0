package ibgateway_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	ibgateway "github.com/gateway-broker/gateway-broker/clients/go"
	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

const (
	sessionID = "11111111-1111-4111-8111-111111111111"
	otherID   = "22222222-2222-4222-8222-222222222222"
	patience  = 30 * time.Second // for what comes within milliseconds
)

// TestMain fails if a goroutine of ours, or of gRPC, outlives the tests that have started it.
func TestMain(m *testing.M) {
	slog.SetLogLoggerLevel(slog.LevelError + 1)
	code := m.Run()
	if left := goroutines(); code == 0 && left != "" {
		fmt.Fprintf(os.Stderr, "goroutines are left:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// goroutines are those of a client that still run, after a while to end.
func goroutines() string {
	var left []string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		left = nil
		for _, stack := range strings.Split(string(stacks), "\n\n")[1:] {
			if strings.Contains(stack, "google.golang.org/grpc") || strings.Contains(stack, "clients/go.") {
				left = append(left, stack)
			}
		}
		if left == nil {
			break
		}
	}
	return strings.Join(left, "\n\n")
}

// asked is a request that came.
type asked struct {
	at       time.Time
	request  any
	metadata metadata.MD
	timeout  time.Duration // until its deadline; 0 if it has none
}

// unary answers a call; n is how many of its kind came before.
type unary func(ctx context.Context, n int, request any) (proto.Message, error)

// streaming answers a watch; n is how many came before.
type streaming func(ctx context.Context, n int, request *brokerv1.WatchSessionsRequest, send func(...*brokerv1.WatchSessionsResponse)) error

// scriptedBroker is a peer over TCP that answers as a test says. It speaks the contract; it is no
// broker. It keeps its port over restarts.
type scriptedBroker struct {
	t       *testing.T
	address string
	server  *grpc.Server

	mu      sync.Mutex
	calls   map[string]unary
	streams streaming
	asked   map[string][]asked
	watched int  // streams that are open
	mute    bool // without headers, as a peer that hangs
}

// lastPort was given to a peer. Each has its own, below those that the system gives away, so that
// nobody listens there while it is away.
var lastPort atomic.Int32

func init() { lastPort.Store(10_000 + rand.Int32N(15_000)) }

func newScriptedBroker(t *testing.T) *scriptedBroker {
	t.Helper()
	s := &scriptedBroker{t: t, calls: map[string]unary{}, asked: map[string][]asked{}}
	for s.server == nil {
		s.address = fmt.Sprintf("127.0.0.1:%d", lastPort.Add(1))
		if listener, err := net.Listen("tcp", s.address); err == nil {
			s.serve(listener)
		}
	}
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *scriptedBroker) start() {
	s.t.Helper()
	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		s.t.Error(err)
		return
	}
	s.serve(listener)
}

func (s *scriptedBroker) serve(listener net.Listener) {
	s.server = grpc.NewServer(grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream))
	brokerv1.RegisterSessionServiceServer(s.server, brokerv1.UnimplementedSessionServiceServer{})
	brokerv1.RegisterGatewayServiceServer(s.server, brokerv1.UnimplementedGatewayServiceServer{})
	brokerv1.RegisterBrokerServiceServer(s.server, brokerv1.UnimplementedBrokerServiceServer{})
	go func(server *grpc.Server) { _ = server.Serve(listener) }(s.server)
}

// stop cuts every connection, as a broker does that is killed.
func (s *scriptedBroker) stop() { s.server.Stop() }

// on answers an rpc.
func (s *scriptedBroker) on(rpc string, answer unary) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[rpc] = answer
}

// onWatch answers WatchSessions.
func (s *scriptedBroker) onWatch(answer streaming) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams = answer
}

// requests are those of an rpc that came so far.
func (s *scriptedBroker) requests(rpc string) []asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]asked(nil), s.asked[rpc]...)
}

// openStreams is how many watches there are.
func (s *scriptedBroker) openStreams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watched
}

func (s *scriptedBroker) note(ctx context.Context, rpc string, request any) int {
	given, _ := metadata.FromIncomingContext(ctx)
	this := asked{at: time.Now(), request: request, metadata: given}
	if deadline, bounded := ctx.Deadline(); bounded {
		this.timeout = time.Until(deadline)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[rpc] = append(s.asked[rpc], this)
	return len(s.asked[rpc]) - 1
}

func (s *scriptedBroker) unary(
	ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	rpc := path.Base(info.FullMethod)
	n := s.note(ctx, rpc, request)
	s.mu.Lock()
	answer := s.calls[rpc]
	s.mu.Unlock()
	if answer == nil {
		return handler(ctx, request)
	}
	return answer(ctx, n, request)
}

func (s *scriptedBroker) stream(
	_ any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, _ grpc.StreamHandler,
) error {
	request := &brokerv1.WatchSessionsRequest{}
	if err := stream.RecvMsg(request); err != nil {
		return err
	}
	n := s.note(stream.Context(), "WatchSessions", request)
	s.mu.Lock()
	answer, mute := s.streams, s.mute
	s.watched++
	s.mu.Unlock()
	if !mute {
		if err := stream.SendHeader(nil); err != nil {
			return err
		}
	}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.watched--
	}()
	if answer == nil {
		<-stream.Context().Done()
		return nil
	}
	return answer(stream.Context(), n, request, func(messages ...*brokerv1.WatchSessionsResponse) {
		for _, message := range messages {
			_ = stream.SendMsg(message)
		}
	})
}

// refusal is an error as a broker packs it.
func refusal(code codes.Code, reason string, more ...proto.Message) error {
	return packed(code, append([]proto.Message{&errdetails.ErrorInfo{
		Reason:   reason,
		Domain:   "ibgateway.broker.v1",
		Metadata: map[string]string{"gateway_id": "paper", "session_id": sessionID, "needed_role": "operator"},
	}}, more...)...)
}

func packed(code codes.Code, details ...proto.Message) error {
	all := &spb.Status{Code: int32(code), Message: "refused"}
	for _, detail := range details {
		one, err := anypb.New(detail)
		if err != nil {
			panic(err)
		}
		all.Details = append(all.Details, one)
	}
	return status.ErrorProto(all)
}

func retryAfter(d time.Duration) proto.Message {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(d)}
}

// connect gives a Broker to the scripted one, with short waits.
func (s *scriptedBroker) connect(options ...ibgateway.Option) *ibgateway.Broker {
	s.t.Helper()
	quick := ibgateway.WithBackoff(ibgateway.Backoff{Initial: 20 * time.Millisecond, Maximum: 100 * time.Millisecond})
	broker, err := ibgateway.Connect(s.address, append([]ibgateway.Option{quick}, options...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = broker.Close() })
	return broker
}

// within is a context for a test's patience.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it has not come to be: %s", what)
		}
	}
}

// session is one at a place in its log.
func session(id string, sequence int64, state brokerv1.SessionState) *brokerv1.Session {
	return &brokerv1.Session{SessionId: id, ClientId: 7, Sequence: sequence, Revision: sequence, State: state}
}

const (
	connected    = brokerv1.SessionState_SESSION_STATE_CONNECTED
	reconnecting = brokerv1.SessionState_SESSION_STATE_RECONNECTING
	disconnected = brokerv1.SessionState_SESSION_STATE_DISCONNECTED
	failed       = brokerv1.SessionState_SESSION_STATE_FAILED
)

func snapshot(of *brokerv1.Session) *brokerv1.WatchSessionsResponse {
	return &brokerv1.WatchSessionsResponse{
		ResumeToken: "half", Message: &brokerv1.WatchSessionsResponse_Snapshot{Snapshot: of},
	}
}

func complete(revision int64) *brokerv1.WatchSessionsResponse {
	return &brokerv1.WatchSessionsResponse{
		ResumeToken: token(revision), Revision: revision,
		Message: &brokerv1.WatchSessionsResponse_SnapshotComplete{SnapshotComplete: &brokerv1.SnapshotComplete{}},
	}
}

func bookmark(revision int64) *brokerv1.WatchSessionsResponse {
	return &brokerv1.WatchSessionsResponse{
		ResumeToken: token(revision), Revision: revision,
		Message: &brokerv1.WatchSessionsResponse_Bookmark{Bookmark: &brokerv1.Bookmark{OldestRevision: 1}},
	}
}

func reset(reason string) *brokerv1.WatchSessionsResponse {
	return &brokerv1.WatchSessionsResponse{
		ResumeToken: "half", Message: &brokerv1.WatchSessionsResponse_Reset_{Reset_: &brokerv1.Reset{Reason: reason}},
	}
}

func draining() *brokerv1.WatchSessionsResponse {
	return &brokerv1.WatchSessionsResponse{
		ResumeToken: "drained", Message: &brokerv1.WatchSessionsResponse_Draining{Draining: &brokerv1.Draining{}},
	}
}

// event is one that is persisted, if it has a revision.
func event(revision int64, of *brokerv1.Session) *brokerv1.WatchSessionsResponse {
	return &brokerv1.WatchSessionsResponse{
		ResumeToken: token(revision), Revision: revision,
		Message: &brokerv1.WatchSessionsResponse_Event{Event: &brokerv1.SessionEvent{
			SessionId: of.GetSessionId(), Sequence: of.GetSequence(),
			Revision: revision, Persisted: revision > 0, Session: of,
			Change: &brokerv1.SessionEvent_Transition{Transition: &brokerv1.Transition{To: of.GetState()}},
		}},
	}
}

func token(revision int64) string { return fmt.Sprintf("after-%d", revision) }

// told is an item in one word, with what tells it from others of its kind.
func told(item ibgateway.Item) string {
	switch item := item.(type) {
	case ibgateway.Snapshot:
		return fmt.Sprintf("snapshot %d", item.Session.GetSequence())
	case ibgateway.SnapshotComplete:
		return "complete"
	case ibgateway.SessionEvent:
		if !item.Event.GetPersisted() {
			return fmt.Sprintf("provisional %d", item.Event.GetSequence())
		}
		return fmt.Sprintf("event %d", item.Event.GetSequence())
	case ibgateway.Bookmark:
		return "bookmark"
	case ibgateway.Reset:
		return "reset " + item.Reason
	case ibgateway.Draining:
		return "draining"
	case ibgateway.Interrupted:
		return "interrupted " + strings.TrimPrefix(fmt.Sprintf("%T", item.Err), "*ibgateway.")
	case ibgateway.Resumed:
		return "resumed"
	default:
		return fmt.Sprintf("%T", item)
	}
}

// read takes so many items of a watch.
func read(t *testing.T, watch *ibgateway.Watch, n int) []string {
	t.Helper()
	ctx := within(t, patience)
	var all []string
	for len(all) < n && watch.Next(ctx) {
		all = append(all, told(watch.Item()))
	}
	if len(all) < n {
		t.Fatalf("the watch told %v, and then ended with %v", all, watch.Err())
	}
	return all
}

func same(t *testing.T, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		t.Fatalf("got  %s\nwant %s", strings.Join(got, ", "), strings.Join(want, ", "))
	}
}
