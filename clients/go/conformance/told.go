package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	ibgateway "github.com/gateway-broker/gateway-broker/clients/go"
	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

// told is some fields of a message by their names, all if none is named.
func told(message proto.Message, names ...string) fields {
	result := fields{}
	reflected := message.ProtoReflect()
	all := reflected.Descriptor().Fields()
	for i := range all.Len() {
		field := all.Get(i)
		name := string(field.Name())
		if len(names) > 0 && !slices.Contains(names, name) {
			continue
		}
		result[name] = plain(field, reflected)
	}
	return result
}

// plain is a field as JSON has it; nil if it is absent.
func plain(field protoreflect.FieldDescriptor, of protoreflect.Message) any {
	if field.HasPresence() && !of.Has(field) {
		return nil
	}
	value := of.Get(field)
	switch {
	case field.IsMap():
		result := fields{}
		value.Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
			result[key.String()] = value.Interface()
			return true
		})
		return result
	case field.IsList():
		result := []any{}
		for i := range value.List().Len() {
			result = append(result, value.List().Get(i).Interface())
		}
		return result
	case field.Enum() != nil:
		values := field.Enum().Values()
		if value.Enum() == 0 {
			return nil
		}
		prefix := strings.TrimSuffix(string(values.ByNumber(0).Name()), "UNSPECIFIED")
		return strings.TrimPrefix(string(values.ByNumber(value.Enum()).Name()), prefix)
	case field.Message() != nil:
		switch message := value.Message().Interface().(type) {
		case *durationpb.Duration:
			return message.AsDuration().Seconds()
		case *brokerv1.ConnectionFailure:
			return toldFailure(message)
		}
	}
	return value.Interface()
}

func toldSession(session *brokerv1.Session) fields {
	return told(session,
		"session_id", "gateway_id", "client_id", "client_id_changed", "readonly", "state",
		"generation", "sequence", "revision", "owner", "labels", "accounts", "server_version",
		"close_reason", "error_count", "lease_ttl", "last_failure")
}

func toldFailure(failure *brokerv1.ConnectionFailure) any {
	if failure == nil {
		return nil
	}
	return told(failure, "reason", "retryable", "phase", "tws_code", "message", "hint", "attempt")
}

func toldGateway(gateway *brokerv1.Gateway) fields {
	result := told(gateway, "gateway_id", "reachable", "sessions_used", "session_limit")
	result["circuit_breaker"] = told(gateway.GetCircuitBreaker(), "state")["state"]
	result["drained"] = gateway.GetDrain() != nil
	return result
}

// inSession is what a call has answered with a session.
func inSession(session *brokerv1.Session, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return fields{"session": toldSession(session)}, nil
}

func inGateway(gateway *brokerv1.Gateway, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return fields{"gateway": toldGateway(gateway)}, nil
}

func toldItem(item ibgateway.Item) fields {
	result := fields{"token": item.Token()}
	switch item := item.(type) {
	case ibgateway.Snapshot:
		result["kind"], result["session"] = "snapshot", toldSession(item.Session)
	case ibgateway.SnapshotComplete:
		result["kind"] = "snapshot_complete"
	case ibgateway.SessionEvent:
		for name, value := range told(item.Event, "session_id", "sequence", "revision", "persisted") {
			result[name] = value
		}
		result["kind"] = "event"
		result["session"] = toldSession(item.Event.GetSession())
		result["change"] = toldChange(item.Event)
	case ibgateway.Bookmark:
		result["kind"] = "bookmark"
	case ibgateway.Reset:
		result["kind"], result["reason"] = "reset", item.Reason
	case ibgateway.Draining:
		result["kind"] = "draining"
	case ibgateway.Interrupted:
		result["kind"], result["error"] = "interrupted", toldError(item.Err)
	case ibgateway.Resumed:
		result["kind"] = "resumed"
	}
	return result
}

// toldChange is what there is of the change that an event tells; nil if it tells none that is known.
func toldChange(event *brokerv1.SessionEvent) any {
	reflected := event.ProtoReflect()
	kind := reflected.WhichOneof(reflected.Descriptor().Oneofs().ByName("change"))
	if kind == nil {
		return nil
	}
	result := told(reflected.Get(kind).Message().Interface())
	for name := range result {
		if strings.HasSuffix(name, "_time") {
			delete(result, name)
		}
	}
	result["kind"] = string(kind.Name())
	return result
}

// toldError is an error of the client; nil if it is something else.
func toldError(err error) any {
	var base *ibgateway.BrokerError
	if !errors.As(err, &base) {
		if errors.Is(err, context.Canceled) {
			return fields{"type": "Cancelled"}
		}
		return nil
	}
	metadata := base.Metadata
	if metadata == nil {
		metadata = map[string]string{}
	}
	result := fields{
		"type":           strings.TrimPrefix(fmt.Sprintf("%T", err), "*ibgateway."),
		"reason":         base.Reason,
		"message":        base.Message,
		"hint":           base.Hint,
		"metadata":       metadata,
		"retryable":      base.Retryable,
		"retry_after":    nil,
		"violations":     []any{},
		"failure":        nil,
		"correlation_id": base.CorrelationID,
	}
	if base.RetryAfter > 0 {
		result["retry_after"] = base.RetryAfter.Seconds()
	}
	var wrong *ibgateway.InvalidArgumentError
	if errors.As(err, &wrong) {
		violations := []any{}
		for _, violation := range wrong.Violations {
			violations = append(violations, told(violation, "field", "description"))
		}
		result["violations"] = violations
	}
	var failed *ibgateway.GatewayError
	if errors.As(err, &failed) {
		result["failure"] = toldFailure(failed.Failure)
	}
	return result
}
