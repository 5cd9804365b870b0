// Command trading_service does what a trading service does with a session: it opens it, trades while
// it lives, follows what happens to it, and says who must act when something is wrong. Ctrl-C closes the
// session. What was seen last is kept in a file: after a crash the next run takes the same session up,
// and continues where this one has stopped.
//
//	go run ./examples/trading_service 127.0.0.1:50051 state.json
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	ibgateway "github.com/gateway-broker/gateway-broker/clients/go"
	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

const clientID = 17

var labels = map[string]string{"program": "trading-service"}

func main() {
	log.SetFlags(log.Ltime)
	if len(os.Args) != 3 {
		log.Fatalf("usage: %s HOST:PORT STATE-FILE", os.Args[0])
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2]); err != nil && ctx.Err() == nil {
		log.Fatalf("%v\n%s must act", err, whoActs(err))
	}
}

// run keeps a session open until ctx ends or somebody must act.
func run(ctx context.Context, address, path string) error {
	state, err := load(path)
	if err != nil {
		return err
	}
	broker, err := ibgateway.Connect(address, ibgateway.WithOwner("example"))
	if err != nil {
		return err
	}
	defer func() { // closes the session, too
		if err := broker.Close(); err != nil {
			log.Printf("its lease ends it: %v", err)
		}
	}()
	for {
		err := trade(ctx, broker, state)
		wait, again := anew(err)
		if ctx.Err() != nil || !again {
			return err
		}
		log.Printf("another session in %v, since %v", wait, err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// trade opens a session, and uses it until it ends, or ctx does.
func trade(ctx context.Context, broker *ibgateway.Broker, state *state) error {
	session, err := open(ctx, broker, state)
	if err != nil {
		return err
	}
	log.Printf("session %s, client id %d, accounts %v, new: %v",
		session.SessionID(), session.ClientID(), session.Info().GetAccounts(), session.Created())

	// Orders, market data and the rest get this context: it ends with the session.
	work, cancel := session.Context(ctx)
	defer cancel()

	watch := broker.Watch(&brokerv1.WatchSessionsRequest{Labels: labels, ResumeToken: state.Token})
	defer watch.Close()
	for watch.Next(work) {
		handle(work, session, watch.Item())
		// After the item was handled: what was not is told again after a crash.
		state.Token = watch.Item().Token()
		if err := state.save(); err != nil {
			return err
		}
	}
	if session.Ended() {
		state.RequestID = ""
		return session.Err()
	}
	return watch.Err()
}

// open opens a session, or takes up the one of a run that has crashed.
func open(ctx context.Context, broker *ibgateway.Broker, state *state) (*ibgateway.Session, error) {
	for {
		kept := state.RequestID != ""
		if !kept {
			// Kept before it is used: whoever sends it again gets the same session.
			state.RequestID = ibgateway.NewUUID()
			if err := state.save(); err != nil {
				return nil, err
			}
		}
		session, err := broker.OpenSession(ctx, &brokerv1.OpenSessionRequest{
			ClientId:  proto.Int32(clientID),
			RequestId: state.RequestID,
			Labels:    labels,
		})
		if is[*ibgateway.SessionEndedError](err) {
			state.RequestID = "" // it is good for that session only
			if kept {
				continue // that of the run before
			}
		}
		return session, err
	}
}

// handle does what an item asks for.
func handle(ctx context.Context, session *ibgateway.Session, item ibgateway.Item) {
	switch item := item.(type) {
	case ibgateway.Snapshot:
		log.Printf("%s is %v", item.Session.GetSessionId(), item.Session.GetState())
	case ibgateway.SnapshotComplete:
		log.Print("these are all; what happens follows")
	case ibgateway.SessionEvent:
		event := item.Event
		switch change := event.GetChange().(type) {
		case *brokerv1.SessionEvent_Transition:
			log.Printf("%s is %v: %s", event.GetSessionId(), change.Transition.GetTo(), change.Transition.GetReason())
		case *brokerv1.SessionEvent_Attempt:
			log.Printf("not yet: %s", change.Attempt.GetFailure().GetMessage())
		case *brokerv1.SessionEvent_Condition:
			condition := change.Condition
			log.Printf("%s %s is %v: %s", condition.GetType(), condition.GetSubject(), condition.GetStatus(), condition.GetReason())
			lost := condition.GetType() == "DATA_CONTINUOUS" &&
				condition.GetStatus() == brokerv1.ConditionStatus_CONDITION_STATUS_FALSE
			if lost && event.GetSessionId() == session.SessionID() {
				subscribeAgain(ctx, session, event.GetSession().GetGeneration())
			}
		case *brokerv1.SessionEvent_Notice:
			log.Printf("%s. %s", change.Notice.GetMessage(), change.Notice.GetHint())
		}
	case ibgateway.Reset:
		log.Printf("what was known is void (%s); a snapshot follows", item.Reason)
	case ibgateway.Draining:
		log.Print("the broker restarts; the session survives that")
	case ibgateway.Interrupted:
		log.Printf("nothing is known for now: %v", item.Err)
	case ibgateway.Resumed:
		log.Print("what was missed follows")
	}
}

// subscribeAgain is where subscriptions are made anew that the old link had; then the broker is told.
func subscribeAgain(ctx context.Context, session *ibgateway.Session, generation int64) {
	if _, err := session.AcknowledgeData(ctx, generation); err != nil {
		log.Printf("that data is subscribed again could not be said: %v", err) // another event will ask
	}
}

// anew tells whether another session may be opened without anybody's help, and when.
func anew(err error) (time.Duration, bool) {
	var over *ibgateway.SessionEndedError
	if errors.As(err, &over) {
		// Somebody who has closed it by hand does not want it back.
		return time.Second, over.CloseReason() != "CLOSE_REQUESTED" && over.Failure() == nil
	}
	var base *ibgateway.BrokerError
	if errors.As(err, &base) && base.Retryable {
		return max(5*time.Second, base.RetryAfter), true
	}
	return 0, false
}

// whoActs says who can do something about an error.
func whoActs(err error) string {
	switch {
	case is[*ibgateway.ClientIDInUseError](err):
		return "whoever holds the client id"
	case is[*ibgateway.AuthenticationError](err), is[*ibgateway.IncompatibleVersionError](err):
		return "a human at the Gateway"
	case is[*ibgateway.GatewayError](err): // refused, silent, not reachable
		return "the Gateway's operator, if it is not restarting,"
	case is[*ibgateway.SessionLimitError](err), is[*ibgateway.ClientIDsExhaustedError](err):
		return "whoever can close a session"
	case is[*ibgateway.UnauthenticatedError](err), is[*ibgateway.PermissionDeniedError](err):
		return "whoever gives out tokens and roles"
	case is[*ibgateway.InvalidArgumentError](err), is[*ibgateway.GatewayNotFoundError](err),
		is[*ibgateway.RequestIDReusedError](err), is[*ibgateway.SessionNotFoundError](err):
		return "whoever configures this program"
	case is[*ibgateway.BrokerUnreachableError](err), is[*ibgateway.StoreUnavailableError](err),
		is[*ibgateway.BrokerInternalError](err), is[*ibgateway.UnexpectedAnswerError](err),
		is[*ibgateway.WatchGapError](err):
		return "whoever runs the broker"
	default:
		return "you"
	}
}

func is[E error](err error) bool {
	var target E
	return errors.As(err, &target)
}

// state is what outlives this program.
type state struct {
	RequestID string `json:"request_id"` // of the session that is open
	Token     string `json:"token"`      // of the last item that was handled
	path      string
}

func load(path string) (*state, error) {
	kept := &state{path: path}
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return kept, nil
	}
	if err == nil {
		err = json.Unmarshal(text, kept)
	}
	if err != nil {
		return nil, fmt.Errorf("the state of the run before cannot be read: %w", err)
	}
	return kept, nil
}

// save replaces the file as a whole: half a state would be none.
func (s *state) save() error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	fresh := s.path + ".new"
	if err := os.WriteFile(fresh, text, 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, s.path)
}
