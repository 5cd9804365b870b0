// Package ibgateway keeps sessions with Interactive Brokers Gateway, brokered by a gateway-broker.
//
//	broker, err := ibgateway.Connect("127.0.0.1:50051", ibgateway.WithOwner("momentum"))
//	...
//	defer broker.Close() // closes the session, too
//	session, err := broker.OpenSession(ctx, &brokerv1.OpenSessionRequest{ClientId: proto.Int32(7)})
//	...
//	watch := session.Watch("")
//	for watch.Next(ctx) {
//		fmt.Println(watch.Item())
//	}
//	return watch.Err()
//
// [Connect] gives a [Broker]; [Broker.OpenSession] and [Broker.Attach] give a [Session], which renews
// its lease by itself. [Broker.Watch] and [Session.Watch] tell what happens, item by item. Every error
// of a broker is, by errors.As, a *[BrokerError], and one of its kinds.
//
// Messages are those of the API, in package brokerv1. What this package gives out is shared with it:
// read it, and change it only in a copy of yours (proto.Clone).
//
// Every call has a deadline: that of its context or, without one, a default that its documentation
// names. Calls are repeated before it where that is safe: see [Connect]. A [Broker] and a [Session] may
// be used by several goroutines at once.
package ibgateway
