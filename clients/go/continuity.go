package ibgateway

import (
	"fmt"
	"maps"
	"slices"

	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

// continuity proves that a watch is complete, over all of its streams, and keeps what it has told.
//
// Rules, from the contract of WatchSessions:
//
//  1. A stream that begins anew has snapshots, then their completion, then events. One that continues
//     has events only, unless a reset says that it begins anew.
//  2. Persisted events come in the order of their revisions.
//  3. An event is told if its session matched before or after it. So the event after one whose session
//     matches has the next sequence; a session that comes into view later may have any. Only its state
//     can bring a session into view later: without a filter on states, a session that the snapshot did
//     not have begins with 1.
//  4. An event that is not persisted yet is told again once it is. Until then it stands beside what is
//     kept, and is void when the stream is lost: the broker may have died with it.
type continuity struct {
	states       []brokerv1.SessionState // the filter; empty is all
	includeFinal bool

	token      string // where to continue; empty if that would be in the middle of a snapshot
	inSnapshot bool   // the snapshot is told; else events follow
	revision   int64
	knowsAll   bool // a session that is not known must be new

	kept        map[string]*brokerv1.Session
	provisional map[string]*brokerv1.Session
	snapshot    map[string]*brokerv1.Session
}

func newContinuity(states []brokerv1.SessionState, includeFinal bool, token string) *continuity {
	return &continuity{
		states:       states,
		includeFinal: includeFinal || slices.ContainsFunc(states, isFinal),
		token:        token,
		inSnapshot:   token == "",
		kept:         map[string]*brokerv1.Session{},
		provisional:  map[string]*brokerv1.Session{},
		snapshot:     map[string]*brokerv1.Session{},
	}
}

// isComplete tells whether all sessions that match are known.
func (c *continuity) isComplete() bool { return c.knowsAll && !c.inSnapshot }

// sessions are those that match, as they are visible; during a new snapshot those of before.
func (c *continuity) sessions() map[string]*brokerv1.Session {
	all := maps.Clone(c.kept)
	maps.Copy(all, c.provisional)
	maps.DeleteFunc(all, func(_ string, session *brokerv1.Session) bool { return !c.isShown(session) })
	return all
}

// begin says that a new stream begins with the token. It returns what whoever was told half a snapshot
// must be told now, or nil.
func (c *continuity) begin() *Reset {
	clear(c.provisional)
	if !c.inSnapshot {
		return nil
	}
	told := len(c.snapshot) > 0
	clear(c.snapshot)
	if !told {
		return nil
	}
	return &Reset{Reason: "SNAPSHOT_INCOMPLETE"}
}

// accept takes an item of the stream. An error says that something is missing before it; then nothing
// has changed.
func (c *continuity) accept(item Item) error {
	switch item := item.(type) {
	case SessionEvent:
		return c.event(item)
	case Snapshot:
		if !c.inSnapshot {
			return gap("a snapshot came where events were due: what happened before it is missing")
		}
		c.snapshot[item.Session.GetSessionId()] = item.Session
	case SnapshotComplete:
		if !c.inSnapshot {
			return gap("a snapshot ended that had not begun: what happened before it is missing")
		}
		c.kept, c.snapshot = c.snapshot, map[string]*brokerv1.Session{}
		c.inSnapshot, c.knowsAll = false, true
		c.revision, c.token = item.Revision, item.token
	case Reset:
		clear(c.provisional)
		clear(c.snapshot)
		c.inSnapshot, c.token = true, ""
	case Bookmark:
		if item.Revision < c.revision {
			err := gap(fmt.Sprintf("a bookmark says %d, but revision %d was told", item.Revision, c.revision))
			err.Expected, err.Received = c.revision, item.Revision
			return err
		}
		c.revision = item.Revision
		c.follow(item.token)
	case Draining:
		c.follow(item.token)
	}
	return nil
}

func (c *continuity) follow(token string) {
	if !c.inSnapshot {
		c.token = token
	}
}

func (c *continuity) event(item SessionEvent) error {
	event := item.Event
	id := event.GetSessionId()
	if c.inSnapshot {
		return gap("an event came before the snapshot was complete: what happened before it is missing")
	}
	if event.GetSession() == nil {
		err := gap(fmt.Sprintf("event %d of session %s came without the session", event.GetSequence(), id))
		err.SessionID, err.Expected, err.Received = id, event.GetSequence(), event.GetSequence()
		return err
	}
	before := c.kept[id]
	if !event.GetPersisted() {
		if shown := c.provisional[id]; shown != nil {
			before = shown
		}
		if err := c.expect(event, before); err != nil {
			return err
		}
		c.provisional[id] = event.GetSession()
		c.follow(item.token)
		return nil
	}
	if event.GetRevision() <= c.revision {
		err := gap(fmt.Sprintf("revision %d came after %d", event.GetRevision(), c.revision))
		err.SessionID, err.Expected, err.Received = id, c.revision+1, event.GetRevision()
		return err
	}
	if err := c.expect(event, before); err != nil {
		return err
	}
	if shown := c.provisional[id]; shown != nil && shown.GetSequence() <= event.GetSequence() {
		delete(c.provisional, id)
	}
	if c.isShown(event.GetSession()) {
		c.kept[id] = event.GetSession()
	} else {
		delete(c.kept, id)
	}
	c.revision = event.GetRevision()
	c.follow(item.token)
	return nil
}

// expect requires that no event is missing between the last one of a session and this one.
func (c *continuity) expect(event *brokerv1.SessionEvent, before *brokerv1.Session) error {
	expected, exact := before.GetSequence()+1, c.matches(before)
	if before == nil {
		expected, exact = 1, c.knowsAll && len(c.states) == 0
	}
	got := event.GetSequence()
	if got == expected || (got > expected && !exact) {
		return nil
	}
	var message string
	switch {
	case got < expected:
		message = fmt.Sprintf("event %d of session %s came again", got, event.GetSessionId())
	case got-1 == expected:
		message = fmt.Sprintf("event %d is missing of session %s", expected, event.GetSessionId())
	default:
		message = fmt.Sprintf("events %d to %d are missing of session %s", expected, got-1, event.GetSessionId())
	}
	err := gap(message)
	err.SessionID, err.Expected, err.Received = event.GetSessionId(), expected, got
	return err
}

func (c *continuity) matches(session *brokerv1.Session) bool {
	return len(c.states) == 0 || slices.Contains(c.states, session.GetState())
}

func (c *continuity) isShown(session *brokerv1.Session) bool {
	return c.matches(session) && (c.includeFinal || !IsFinal(session))
}

func gap(message string) *WatchGapError {
	return &WatchGapError{BrokerError: BrokerError{
		Message: message,
		Hint:    "begin a new watch without a token: its snapshot is complete. Report this",
	}}
}
