package ibgateway

import (
	"context"

	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

// Gateways finds gateways, takes them out of use and puts them into use again; see Broker.Gateways.
//
// A gateway is named by its id; empty is "default". Deadlines are 10 s by default. What an operator
// decides is not repeated when the broker does not answer: somebody else may have decided otherwise
// meanwhile. Once the broker has the request, it is carried out even if the context ends.
type Gateways struct{ connection *connection }

// List gives all of them, by name.
func (g Gateways) List(ctx context.Context) ([]*brokerv1.Gateway, error) {
	answer, err := call(ctx, g.connection, g.connection.gateways.ListGateways, &brokerv1.ListGatewaysRequest{},
		terms{timeout: callTimeout, idempotent: true})
	return answer.GetGateways(), err
}

// Get gives one of them.
//
// Errors: GatewayNotFoundError, whose metadata has those that there are.
func (g Gateways) Get(ctx context.Context, gatewayID string) (*brokerv1.Gateway, error) {
	answer, err := call(ctx, g.connection, g.connection.gateways.GetGateway,
		&brokerv1.GetGatewayRequest{GatewayId: gatewayID}, terms{timeout: callTimeout, idempotent: true})
	return g.connection.gateway(answer, err)
}

// Drain takes a gateway out of use, also over a restart of the broker. Opens are refused, sessions that
// are CONNECTED stay, and one that loses its link waits. Draining again changes the reason. With
// CloseSessions it ends all of its sessions and waits for their ends, by default for 120 s.
//
// Errors: GatewayNotFoundError; StoreUnavailableError if nothing was changed.
func (g Gateways) Drain(ctx context.Context, request *brokerv1.DrainGatewayRequest) (*brokerv1.Gateway, error) {
	terms := terms{timeout: callTimeout}
	if request.GetCloseSessions() {
		terms.timeout = drainTimeout
	}
	answer, err := call(ctx, g.connection, g.connection.gateways.DrainGateway, request, terms)
	return g.connection.gateway(answer, err)
}

// Resume puts a gateway into use again; sessions that wait dial at once. It is no error if it is in use.
//
// Errors: as Drain.
func (g Gateways) Resume(ctx context.Context, gatewayID string) (*brokerv1.Gateway, error) {
	answer, err := call(ctx, g.connection, g.connection.gateways.ResumeGateway,
		&brokerv1.ResumeGatewayRequest{GatewayId: gatewayID}, terms{timeout: callTimeout})
	return g.connection.gateway(answer, err)
}

// ResetBreaker closes a gateway's circuit, and lets whoever waits for it try at once.
//
// Errors: GatewayNotFoundError.
func (g Gateways) ResetBreaker(ctx context.Context, gatewayID string) (*brokerv1.Gateway, error) {
	answer, err := call(ctx, g.connection, g.connection.gateways.ResetCircuitBreaker,
		&brokerv1.ResetCircuitBreakerRequest{GatewayId: gatewayID}, terms{timeout: callTimeout})
	return g.connection.gateway(answer, err)
}

func (c *connection) gateway(answer interface{ GetGateway() *brokerv1.Gateway }, err error) (*brokerv1.Gateway, error) {
	if err != nil {
		return nil, err
	}
	if answer.GetGateway() == nil {
		return nil, c.unexpected("an answer without its gateway")
	}
	return answer.GetGateway(), nil
}
