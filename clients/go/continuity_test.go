package ibgateway_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	ibgateway "github.com/gateway-broker/gateway-broker/clients/go"
	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

type messages = []*brokerv1.WatchSessionsResponse

// play lets a watch read one stream, which stays open, until a last bookmark.
func play(t *testing.T, request *brokerv1.WatchSessionsRequest, stream messages) ([]string, *ibgateway.Watch) {
	t.Helper()
	peer := newScriptedBroker(t)
	peer.onWatch(func(ctx context.Context, _ int, _ *brokerv1.WatchSessionsRequest, send func(...*brokerv1.WatchSessionsResponse)) error {
		send(stream...)
		send(bookmark(1 << 40))
		<-ctx.Done()
		return nil
	})
	watch := peer.connect().Watch(request)
	t.Cleanup(watch.Close)
	ctx := within(t, patience)
	var all []string
	for watch.Next(ctx) {
		if mark, is := watch.Item().(ibgateway.Bookmark); is && mark.Revision == 1<<40 {
			return all, watch
		}
		all = append(all, told(watch.Item()))
	}
	return all, watch
}

func TestWhatIsInOrderIsTold(t *testing.T) {
	t.Parallel()
	unknown := &brokerv1.WatchSessionsResponse{ResumeToken: "of the future"}
	justConnected := &brokerv1.WatchSessionsRequest{States: []brokerv1.SessionState{connected}}
	for name, tried := range map[string]struct {
		request *brokerv1.WatchSessionsRequest
		stream  messages
		want    []string
	}{
		"a snapshot and events": {
			stream: messages{snapshot(session(sessionID, 2, connected)), complete(2),
				event(3, session(sessionID, 3, reconnecting)), event(9, session(sessionID, 4, connected))},
			want: []string{"snapshot 2", "complete", "event 3", "event 4"},
		},
		"an empty snapshot and a new session": {
			stream: messages{complete(7), event(8, session(sessionID, 1, connected)), bookmark(8), draining()},
			want:   []string{"complete", "event 1", "bookmark", "draining"},
		},
		"a token, and sessions that are not known": {
			request: &brokerv1.WatchSessionsRequest{ResumeToken: "after-5"},
			stream:  messages{event(6, session(sessionID, 40, connected)), event(7, session(sessionID, 41, connected))},
			want:    []string{"event 40", "event 41"},
		},
		"a reset, and a snapshot of something else": {
			stream: messages{complete(7), event(8, session(sessionID, 1, connected)), reset("EVENTS_EXPIRED"),
				snapshot(session(sessionID, 5, connected)), complete(3), event(4, session(sessionID, 6, connected))},
			want: []string{"complete", "event 1", "reset EVENTS_EXPIRED", "snapshot 5", "complete", "event 6"},
		},
		"a session that leaves the filter and comes back": {
			request: justConnected,
			stream: messages{snapshot(session(sessionID, 2, connected)), complete(2),
				event(3, session(sessionID, 3, reconnecting)), event(9, session(sessionID, 7, connected))},
			want: []string{"snapshot 2", "complete", "event 3", "event 7"},
		},
		"events that come again once they are kept": {
			stream: messages{snapshot(session(sessionID, 2, connected)), complete(2),
				event(0, session(sessionID, 3, reconnecting)), event(0, session(sessionID, 4, connected)),
				event(3, session(sessionID, 3, reconnecting)), event(4, session(sessionID, 4, connected))},
			want: []string{"snapshot 2", "complete", "provisional 3", "provisional 4", "event 3", "event 4"},
		},
		"a message that is not known": {
			stream: messages{complete(1), unknown, event(2, session(sessionID, 1, connected))},
			want:   []string{"complete", "event 1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all, watch := play(t, tried.request, tried.stream)
			if watch.Err() != nil {
				t.Error(watch.Err())
			}
			same(t, all, tried.want...)
		})
	}
}

func TestWhatIsNotInOrderEndsTheWatch(t *testing.T) {
	t.Parallel()
	begun := messages{snapshot(session(sessionID, 2, connected)), complete(2)}
	naked := event(3, session(sessionID, 3, connected))
	naked.GetEvent().Session = nil
	for name, tried := range map[string]struct {
		token              string
		stream             messages
		expected, received int64
	}{
		"an event is missing":         {stream: append(begun, event(4, session(sessionID, 4, connected))), expected: 3, received: 4},
		"events are missing":          {stream: append(begun, event(9, session(sessionID, 9, connected))), expected: 3, received: 9},
		"an event came again":         {stream: append(begun, event(3, session(sessionID, 2, connected))), expected: 3, received: 2},
		"a revision came again":       {stream: append(begun, event(2, session(sessionID, 3, connected))), expected: 3, received: 2},
		"a new session began later":   {stream: append(begun, event(3, session(otherID, 2, connected))), expected: 1, received: 2},
		"a bookmark goes back":        {stream: append(begun, bookmark(1)), expected: 2, received: 1},
		"a provisional one is amiss":  {stream: append(begun, event(0, session(sessionID, 4, connected))), expected: 3, received: 4},
		"an event without session":    {stream: append(begun, naked), expected: 3, received: 3},
		"an event in the snapshot":    {stream: messages{snapshot(session(sessionID, 2, connected)), event(3, session(sessionID, 3, connected))}},
		"a snapshot after a token":    {token: "after-1", stream: messages{snapshot(session(sessionID, 2, connected))}},
		"a completion after a token":  {token: "after-1", stream: messages{complete(2)}},
		"a snapshot among the events": {stream: append(begun, snapshot(session(otherID, 2, connected)))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, watch := play(t, &brokerv1.WatchSessionsRequest{ResumeToken: tried.token}, tried.stream)
			var gap *ibgateway.WatchGapError
			if !errors.As(watch.Err(), &gap) {
				t.Fatalf("it ends with %v", watch.Err())
			}
			if gap.Expected != tried.expected || gap.Received != tried.received {
				t.Errorf("it says %d, %d", gap.Expected, gap.Received)
			}
			if before := watch.Token(); before != tried.token && before != token(2) && before != "" {
				t.Errorf("the token is that of what was told, not %q", before)
			}
			again := watch.Err()
			if watch.Next(within(t, patience)) || !errors.Is(watch.Err(), again) {
				t.Errorf("it has ended for good, and says so again: %v", watch.Err())
			}
		})
	}
}

func TestSessionsAreAsOfTheLastItem(t *testing.T) {
	t.Parallel()
	state := func(watch *ibgateway.Watch) string {
		text := fmt.Sprint(watch.IsComplete())
		for _, id := range []string{sessionID, otherID} {
			if found := watch.Sessions()[id]; found != nil {
				text += fmt.Sprintf(" %d", found.GetSequence())
			}
		}
		return text
	}
	_, watch := play(t, nil, messages{snapshot(session(sessionID, 2, connected)), snapshot(session(otherID, 5, connected)),
		complete(5), event(0, session(sessionID, 3, reconnecting))})
	same(t, []string{state(watch)}, "true 3 5")
	_, watch = play(t, nil, messages{snapshot(session(sessionID, 2, connected)), complete(5),
		event(6, session(sessionID, 3, disconnected))})
	same(t, []string{state(watch)}, "true")
	_, watch = play(t, &brokerv1.WatchSessionsRequest{IncludeFinal: true}, messages{
		snapshot(session(sessionID, 2, connected)), complete(5), event(6, session(sessionID, 3, failed))})
	same(t, []string{state(watch)}, "true 3")
	_, watch = play(t, &brokerv1.WatchSessionsRequest{ResumeToken: "after-5"}, messages{
		event(6, session(sessionID, 3, connected))})
	same(t, []string{state(watch)}, "false 3")
}
