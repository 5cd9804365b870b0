package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"

	ibgateway "github.com/gateway-broker/gateway-broker/clients/go"
	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
	_ "github.com/gateway-broker/gateway-broker/clients/go/simulator/v1" // simulate finds its messages by name
)

// fields are the parameters of a request, or the fields of a result.
type fields map[string]any

func (f fields) text(name string) string {
	text, _ := f[name].(string)
	return text
}

func (f fields) seconds(name string) time.Duration { return duration(f[name]) }

func (f fields) number(name string) int64 {
	number, _ := f[name].(float64)
	return int64(number)
}

func duration(seconds any) time.Duration {
	return time.Duration(seconds.(float64) * float64(time.Second))
}

// into reads the parameters into a message of the API, by the names of its fields.
func (f fields) into(message proto.Message) {
	plain := fields{}
	for name, value := range f {
		switch name {
		case "timeout", "lease_ttl":
			value = fmt.Sprintf("%.9fs", value)
		case "client_id_policy":
			value = "CLIENT_ID_POLICY_" + value.(string)
		case "states":
			states := []string{}
			for _, state := range value.([]any) {
				states = append(states, "SESSION_STATE_"+state.(string))
			}
			value = states
		}
		plain[name] = value
	}
	text, err := json.Marshal(plain)
	if err == nil {
		err = protojson.Unmarshal(text, message)
	}
	if err != nil {
		panic(err)
	}
}

// without takes parameters of the runner's own away.
func (f fields) without(names ...string) fields {
	for _, name := range names {
		delete(f, name)
	}
	return f
}

// refusal is what the client refuses before anything is sent.
type refusal struct{ error }

// named holds what later requests name.
type named[T any] struct {
	mu  sync.Mutex
	all map[string]T
}

func (n *named[T]) put(name string, value T) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.all == nil {
		n.all = map[string]T{}
	}
	n.all[name] = value
}

func (n *named[T]) get(name string) T {
	n.mu.Lock()
	defer n.mu.Unlock()
	value, known := n.all[name]
	if !known {
		panic(fmt.Sprintf("there is no %T %q", value, name))
	}
	return value
}

type runner struct {
	brokers named[*ibgateway.Broker]
	handles named[*ibgateway.Session]
	watches named[*ibgateway.Watch]
	tasks   map[string]*task // of the loop alone
}

func newRunner() *runner { return &runner{tasks: map[string]*task{}} }

func (r *runner) close() {
	for _, task := range r.tasks {
		task.cancel()
	}
	for _, broker := range r.brokers.all {
		_ = broker.Close()
	}
}

type handler func(r *runner, ctx context.Context, on string, given fields) (any, error)

// handlers do what is asked; it is made here because it needs no state.
var handlers = map[string]handler{
	"hello": func(*runner, context.Context, string, fields) (any, error) {
		return fields{"language": "Go", "version": runtime.Version(), "layer": true}, nil
	},
	"connect":    (*runner).connect,
	"disconnect": (*runner).disconnect,
	"simulate":   (*runner).simulate,

	"open_session":     (*runner).openSession,
	"validate_session": (*runner).validateSession,
	"handle":           (*runner).handle,
	"wait_ended":       (*runner).waitEnded,
	"detach": func(r *runner, _ context.Context, _ string, given fields) (any, error) {
		r.handles.get(given.text("handle")).Detach()
		return fields{}, nil
	},
	"close_handle": func(r *runner, ctx context.Context, _ string, given fields) (any, error) {
		session := r.handles.get(given.text("handle"))
		err := session.Close(ctx, "")
		return inSession(session.Info(), err)
	},

	"get_session": func(r *runner, ctx context.Context, on string, given fields) (any, error) {
		return inSession(r.brokers.get(on).GetSession(ctx, given.text("session_id")))
	},
	"close_session": func(r *runner, ctx context.Context, on string, given fields) (any, error) {
		return inSession(r.brokers.get(on).CloseSession(ctx, given.text("session_id"), given.text("reason")))
	},
	"renew_session": func(r *runner, ctx context.Context, on string, given fields) (any, error) {
		var leaseTTL *durationpb.Duration
		if seconds, asked := given["lease_ttl"]; asked {
			leaseTTL = durationpb.New(duration(seconds))
		}
		return inSession(r.brokers.get(on).RenewSession(ctx, given.text("session_id"), leaseTTL))
	},
	"acknowledge_data": func(r *runner, ctx context.Context, on string, given fields) (any, error) {
		return inSession(r.brokers.get(on).AcknowledgeData(ctx, given.text("session_id"), given.number("generation")))
	},
	"verify_session": func(r *runner, ctx context.Context, on string, given fields) (any, error) {
		verdict, err := r.brokers.get(on).VerifySession(ctx, given.text("session_id"))
		return told(verdict, "healthy", "latency", "failure"), err
	},
	"list_sessions":       (*runner).listSessions,
	"list_session_events": (*runner).listSessionEvents,

	"watch": func(r *runner, _ context.Context, on string, given fields) (any, error) {
		name := given.text("name")
		var wanted brokerv1.WatchSessionsRequest
		given.without("name").into(&wanted)
		r.watches.put(name, r.brokers.get(on).Watch(&wanted))
		return fields{}, nil
	},
	"next": (*runner).next,
	"stop_watch": func(r *runner, _ context.Context, _ string, given fields) (any, error) {
		watch := r.watches.get(given.text("watch"))
		watch.Close()
		return fields{"token": watch.Token()}, nil
	},

	"list_gateways": func(r *runner, ctx context.Context, on string, _ fields) (any, error) {
		all := []any{}
		found, err := r.brokers.get(on).Gateways().List(ctx)
		for _, gateway := range found {
			all = append(all, toldGateway(gateway))
		}
		return fields{"gateways": all}, err
	},
	"get_gateway": func(r *runner, ctx context.Context, on string, given fields) (any, error) {
		return inGateway(r.brokers.get(on).Gateways().Get(ctx, given.text("gateway_id")))
	},
	"drain_gateway": func(r *runner, ctx context.Context, on string, given fields) (any, error) {
		var wanted brokerv1.DrainGatewayRequest
		given.into(&wanted)
		return inGateway(r.brokers.get(on).Gateways().Drain(ctx, &wanted))
	},
	"resume_gateway": func(r *runner, ctx context.Context, on string, given fields) (any, error) {
		return inGateway(r.brokers.get(on).Gateways().Resume(ctx, given.text("gateway_id")))
	},
	"reset_circuit_breaker": func(r *runner, ctx context.Context, on string, given fields) (any, error) {
		return inGateway(r.brokers.get(on).Gateways().ResetBreaker(ctx, given.text("gateway_id")))
	},
	"get_broker_info": func(r *runner, ctx context.Context, on string, _ fields) (any, error) {
		info, err := r.brokers.get(on).Info(ctx)
		if err != nil {
			return nil, err
		}
		result := told(info, "version", "store_id", "capabilities")
		result["caller"] = info.GetAccess().GetCaller()
		result["role"] = told(info.GetAccess(), "role")["role"]
		return result, nil
	},
}

func (r *runner) connect(_ context.Context, on string, given fields) (any, error) {
	var options []ibgateway.Option
	if owner, named := given["owner"]; named {
		options = append(options, ibgateway.WithOwner(owner.(string)))
	}
	if token, shown := given["token"]; shown {
		options = append(options, ibgateway.WithToken(token.(string)))
	}
	if ca, secure := given["ca"]; secure {
		tls, err := credentials.NewClientTLSFromFile(ca.(string), "")
		if err != nil {
			return nil, err
		}
		options = append(options, ibgateway.WithCredentials(tls))
	}
	if given["retry"] == false {
		options = append(options, ibgateway.WithoutRepeats())
	}
	broker, err := ibgateway.Connect(given.text("address"), options...)
	if err != nil {
		return nil, refusal{err}
	}
	r.brokers.put(on, broker)
	return fields{}, nil
}

func (r *runner) disconnect(_ context.Context, on string, _ fields) (any, error) {
	return fields{}, r.brokers.get(on).Close()
}

// opening is a request to open; without a lease_ttl there is none.
func opening(given fields) (*brokerv1.OpenSessionRequest, []ibgateway.OpenOption) {
	var wanted brokerv1.OpenSessionRequest
	given.into(&wanted)
	if wanted.LeaseTtl == nil {
		return &wanted, []ibgateway.OpenOption{ibgateway.WithoutLease()}
	}
	return &wanted, nil
}

func (r *runner) openSession(ctx context.Context, on string, given fields) (any, error) {
	handle := given.text("handle")
	wanted, options := opening(given.without("handle"))
	session, err := r.brokers.get(on).OpenSession(ctx, wanted, options...)
	if err != nil {
		return nil, err
	}
	if handle != "" {
		r.handles.put(handle, session)
	}
	return fields{"session": toldSession(session.Info()), "created": session.Created()}, nil
}

func (r *runner) validateSession(ctx context.Context, on string, given fields) (any, error) {
	wanted, options := opening(given.without("handle"))
	return fields{}, r.brokers.get(on).ValidateSession(ctx, wanted, options...)
}

func (r *runner) handle(_ context.Context, _ string, given fields) (any, error) {
	session := r.handles.get(given.text("handle"))
	return fields{
		"session":     toldSession(session.Info()),
		"ended":       session.Ended(),
		"interrupted": session.Interruption() != nil,
	}, nil
}

func (r *runner) waitEnded(ctx context.Context, _ string, given fields) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, given.seconds("within"))
	defer cancel()
	return inSession(r.handles.get(given.text("handle")).WaitEnded(ctx))
}

func (r *runner) listSessions(ctx context.Context, on string, given fields) (any, error) {
	var wanted brokerv1.ListSessionsRequest
	given.into(&wanted)
	all := []any{}
	for session, err := range r.brokers.get(on).ListSessions(ctx, &wanted) {
		if err != nil {
			return nil, err
		}
		all = append(all, toldSession(session))
	}
	return fields{"sessions": all}, nil
}

func (r *runner) listSessionEvents(ctx context.Context, on string, given fields) (any, error) {
	var wanted brokerv1.ListSessionEventsRequest
	given.into(&wanted)
	all := []any{}
	for event, err := range r.brokers.get(on).SessionEvents(ctx, &wanted) {
		if err != nil {
			return nil, err
		}
		all = append(all, toldItem(ibgateway.SessionEvent{Event: event}))
	}
	return fields{"events": all}, nil
}

func (r *runner) next(ctx context.Context, _ string, given fields) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, given.seconds("within"))
	defer cancel()
	watch := r.watches.get(given.text("watch"))
	if watch.Next(ctx) {
		return toldItem(watch.Item()), nil
	}
	switch err := watch.Err(); {
	case err == nil:
		return nil, errors.New("the watch has ended")
	case err == context.DeadlineExceeded:
		return nil, nil
	default:
		return nil, err
	}
}

func (r *runner) simulate(ctx context.Context, _ string, given fields) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	channel, err := grpc.NewClient(given.text("address"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer func() { _ = channel.Close() }()
	const simulator = "ibgateway.simulator.v1."
	rpc := given.text("rpc")
	var messages [2]proto.Message
	for i, kind := range []string{"Request", "Response"} {
		found, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(simulator + rpc + kind))
		if err != nil {
			return nil, err
		}
		messages[i] = found.New().Interface()
	}
	set, _ := given["fields"].(map[string]any)
	fields(set).into(messages[0])
	return fields{}, channel.Invoke(ctx, "/"+simulator+"SimulatorService/"+rpc, messages[0], messages[1])
}
