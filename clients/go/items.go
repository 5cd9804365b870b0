package ibgateway

import (
	"time"

	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

// Item is what a watch tells: a [Snapshot], [SnapshotComplete], [SessionEvent], [Bookmark], [Reset],
// [Draining], [Interrupted] or [Resumed], as a value, to be told apart by a type switch.
type Item interface {
	// Token is the place in the log up to which whoever has handled the item knows everything. A
	// process that keeps the last one continues from there. It is empty where nothing can be
	// continued: before a snapshot is complete.
	Token() string
	isItem()
}

// place seals Item.
type place struct{ token string }

func (p place) Token() string { return p.token }
func (place) isItem()         {}

// Snapshot is a session as it is now: how a watch without a token begins.
type Snapshot struct {
	Session *brokerv1.Session
	place
}

// SnapshotComplete tells that all sessions that match were told; what happens from now on follows.
type SnapshotComplete struct {
	// Revision is that of the newest event that the snapshot holds.
	Revision int64
	place
}

// SessionEvent is one entry of a session's log: Event.Change is what happened, Event.Session the
// session after it.
//
// While the broker's database is away an event comes with Event.Persisted false; it comes again, with
// the same session_id and sequence, once it is kept.
type SessionEvent struct {
	Event *brokerv1.SessionEvent
	place
}

// Bookmark tells that nothing else that matches has happened up to here; sent while all is quiet.
type Bookmark struct {
	// Revision is up to where.
	Revision int64
	// OldestRevision is the oldest event that the broker still has: a token of an older one can no
	// longer be continued.
	OldestRevision int64
	place
}

// Reset tells that what is known is void: the snapshot that follows replaces all of it.
type Reset struct {
	// Reason is a constant: "TOKEN_TOO_OLD", "TOKEN_OF_ANOTHER_STORE", "TOKEN_AHEAD",
	// "EVENTS_EXPIRED", or "SNAPSHOT_INCOMPLETE" if the watch was interrupted before its snapshot was
	// complete.
	Reason string
	// OldestRevision is the oldest event that the broker still has; 0 if it did not say.
	OldestRevision int64
	place
}

// Draining tells that the broker is about to stop. The watch continues with its successor by itself.
type Draining struct {
	// StopTime is when it stops at the latest; zero if it did not say.
	StopTime time.Time
	place
}

// Interrupted tells that the stream was lost: nothing is known until Resumed, which comes by itself. It
// is told once for each loss, again when the cause changes, and before each wait of more than 30 s. A
// watch waits as long as the broker asks, for an hour at most.
type Interrupted struct {
	// Err is why: a BrokerError.
	Err error
	// RetryIn is how long until the next try.
	RetryIn time.Duration
	place
}

// Resumed tells that the stream is open again after an interruption; what was missed follows.
type Resumed struct{ place }

// IsFinal tells whether a session has ended: it is DISCONNECTED or FAILED.
func IsFinal(session *brokerv1.Session) bool { return isFinal(session.GetState()) }

func isFinal(state brokerv1.SessionState) bool {
	return state == brokerv1.SessionState_SESSION_STATE_DISCONNECTED ||
		state == brokerv1.SessionState_SESSION_STATE_FAILED
}

// itemOf is what a message tells; nil if this package does not know it.
func itemOf(message *brokerv1.WatchSessionsResponse) Item {
	at := place{message.GetResumeToken()}
	switch told := message.GetMessage().(type) {
	case *brokerv1.WatchSessionsResponse_Snapshot:
		return Snapshot{Session: told.Snapshot} // without a token: half a snapshot is no place
	case *brokerv1.WatchSessionsResponse_SnapshotComplete:
		return SnapshotComplete{Revision: message.GetRevision(), place: at}
	case *brokerv1.WatchSessionsResponse_Event:
		return SessionEvent{Event: told.Event, place: at}
	case *brokerv1.WatchSessionsResponse_Bookmark:
		return Bookmark{
			Revision:       message.GetRevision(),
			OldestRevision: told.Bookmark.GetOldestRevision(),
			place:          at,
		}
	case *brokerv1.WatchSessionsResponse_Reset_:
		return Reset{Reason: told.Reset_.GetReason(), OldestRevision: told.Reset_.GetOldestRevision()}
	case *brokerv1.WatchSessionsResponse_Draining:
		item := Draining{place: at}
		if told.Draining.GetStopTime() != nil {
			item.StopTime = told.Draining.GetStopTime().AsTime()
		}
		return item
	default:
		return nil
	}
}
