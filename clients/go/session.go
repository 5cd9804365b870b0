package ibgateway

import (
	"context"
	"iter"

	"google.golang.org/protobuf/types/known/durationpb"

	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

// Session is a handle on one session: what it is now, and what can be done with it.
//
// Made by Broker.OpenSession and Broker.Attach. It stays current by itself, and renews the lease of its
// session, until that has ended, or until it or its Broker is closed.
//
// That the session has ended, by whomever, is told in each of these ways: by Context, which interrupts
// what depends on the session; Err and Ended; WaitEnded; a SessionEndedError from whatever needs a session; the
// end of Watch; and a line in the log at level ERROR, unless you have closed it.
//
// An end is told at once and for good, also that by Close. If it was void, because the broker died before
// it was on record, the session that lives is closed while its Broker is open, unless it is to stay open;
// only Watch goes on until then.
type Session struct {
	broker   *Broker
	lifeline *lifeline
	created  bool
}

// Info is the session as it was last seen. A message that was given out does not change; do not change
// it either.
func (s *Session) Info() *brokerv1.Session { return s.lifeline.current() }

// SessionID is the id that the broker has given.
func (s *Session) SessionID() string { return s.lifeline.id }

// ClientID is the effective client id, which owns the session's orders.
func (s *Session) ClientID() int32 { return s.Info().GetClientId() }

// State is the one state.
func (s *Session) State() brokerv1.SessionState { return s.Info().GetState() }

// Generation grows by one with each link; subscriptions belong to it.
func (s *Session) Generation() int64 { return s.Info().GetGeneration() }

// Created tells whether the open has created the session. It has not if its request_id, or Attach, has
// found it.
func (s *Session) Created() bool { return s.created }

// Ended tells whether the session has ended.
func (s *Session) Ended() bool { return s.lifeline.isOver() }

// Err is a SessionEndedError once the session has ended, by whomever, and nil before.
func (s *Session) Err() error {
	if s.Ended() {
		return endedError(s.Info())
	}
	return nil
}

// Interruption is why nothing is known of the session for now, so that Info is as it was before; nil
// while it is followed.
func (s *Session) Interruption() error {
	s.lifeline.mu.Lock()
	defer s.lifeline.mu.Unlock()
	return s.lifeline.interruption
}

// RenewalError is why the last renewal of the lease failed; nil if it did not. It is tried again until
// it succeeds, or the session is known to have ended.
func (s *Session) RenewalError() error {
	s.lifeline.mu.Lock()
	defer s.lifeline.mu.Unlock()
	return s.lifeline.renewalError
}

// Context is a child of parent that ends with the session, too: give it to whatever makes no sense
// without the session. context.Cause of it, and the errors of calls that it cuts, are then, by
// errors.As, a SessionEndedError. It ends with a BrokerClosedError if the Broker is closed while the
// session lives. Call cancel once it is used no longer.
func (s *Session) Context(parent context.Context) (ctx context.Context, cancel context.CancelFunc) {
	ctx, end := context.WithCancelCause(parent)
	over := s.lifeline.over
	stop := context.AfterFunc(over, func() { end(context.Cause(over)) })
	return ctx, func() {
		stop()
		end(nil)
	}
}

// WaitEnded waits until the session has ended, by whomever, and says how.
//
// Errors: BrokerClosedError if the Broker was closed and the session lives; that of ctx if it has ended.
func (s *Session) WaitEnded(ctx context.Context) (*brokerv1.Session, error) {
	err := s.lifeline.wait(ctx, s.lifeline.isOverLocked)
	return s.Info(), err
}

// WaitConnected waits until the session is known to be CONNECTED.
//
// Errors: SessionEndedError; else as WaitEnded.
func (s *Session) WaitConnected(ctx context.Context) (*brokerv1.Session, error) {
	l := s.lifeline
	err := l.wait(ctx, func() bool {
		connected := l.info.GetState() == brokerv1.SessionState_SESSION_STATE_CONNECTED
		return l.isOverLocked() || (connected && l.interruption == nil)
	})
	if err != nil {
		return s.Info(), err
	}
	return s.Info(), s.Err()
}

// Refresh asks the broker for the session as it is now, also if it has ended. The default deadline is
// 10 s.
//
// Errors: SessionEndedError if the broker has no record of it.
func (s *Session) Refresh(ctx context.Context) (*brokerv1.Session, error) {
	info, err := s.broker.GetSession(ctx, s.SessionID())
	if err != nil {
		return nil, s.learnFrom(err)
	}
	return s.lifeline.learn(info), nil
}

// Verify asks the Gateway, over the session's own link, for its time: see Broker.VerifySession.
//
// Errors: SessionEndedError.
func (s *Session) Verify(ctx context.Context) (*brokerv1.VerifySessionResponse, error) {
	if err := s.Err(); err != nil {
		return nil, err
	}
	answer, err := s.broker.VerifySession(ctx, s.SessionID())
	return answer, s.learnFrom(err)
}

// Renew lets the lease begin anew, or begin; it is renewed by itself from then on. It lasts as before if
// leaseTTL is nil. The default deadline is 10 s.
//
// Errors: SessionEndedError; InvalidArgumentError if it has no lease and none is asked for.
func (s *Session) Renew(ctx context.Context, leaseTTL *durationpb.Duration) (*brokerv1.Session, error) {
	if err := s.Err(); err != nil {
		return nil, err
	}
	info, err := s.broker.RenewSession(ctx, s.SessionID(), leaseTTL)
	if err != nil {
		return nil, s.learnFrom(err)
	}
	return s.lifeline.renewed(info), nil
}

// AcknowledgeData says that whatever was interrupted is subscribed anew: see Broker.AcknowledgeData.
//
// Errors: SessionEndedError; SessionNotConnectedError if it has no link now; InvalidArgumentError if its
// link was made anew meanwhile.
func (s *Session) AcknowledgeData(ctx context.Context, generation int64) (*brokerv1.Session, error) {
	if err := s.Err(); err != nil {
		return nil, err
	}
	info, err := s.broker.AcknowledgeData(ctx, s.SessionID(), generation)
	if err != nil {
		return nil, s.learnFrom(err)
	}
	return s.lifeline.learn(info), nil
}

// Events gives its recorded history, oldest first, also when it has ended: see Broker.SessionEvents.
func (s *Session) Events(ctx context.Context) iter.Seq2[*brokerv1.SessionEvent, error] {
	return s.broker.SessionEvents(ctx, &brokerv1.ListSessionEventsRequest{SessionId: s.SessionID()})
}

// Watch follows the session: as it is now, then whatever happens to it, until it has ended. The token is
// that of the last item that was handled, also by another process; empty begins with a snapshot. See
// Broker.Watch.
func (s *Session) Watch(resumeToken string, options ...WatchOption) *Watch {
	watch := s.broker.Watch(&brokerv1.WatchSessionsRequest{
		SessionIds:   []string{s.SessionID()},
		IncludeFinal: true,
		ResumeToken:  resumeToken,
	}, options...)
	l := s.lifeline
	watch.told = func(info *brokerv1.Session) { l.learn(info) }
	watch.ended = func() *brokerv1.Session {
		if l.isSettled() {
			return l.current()
		}
		return nil
	}
	return watch
}

// Detach leaves the session open when the Broker is closed. Its lease, if it has one, is not renewed any
// more then: it ends the session unless somebody attaches to it in time.
func (s *Session) Detach() {
	s.lifeline.mu.Lock()
	defer s.lifeline.mu.Unlock()
	s.lifeline.keepOpen = true
}

// Close ends the session and returns when its link has ended; Info is how. The reason is for the
// broker's log, at most 256 characters. Closing twice is no error. The default deadline is 30 s.
//
// It needs a context that has not ended: after Ctrl-C, context.WithoutCancel of yours; or leave it to
// Broker.Close.
//
// Errors: SessionNotFoundError if the broker has no record of it.
func (s *Session) Close(ctx context.Context, reason string) error {
	return s.lifeline.close(ctx, reason)
}

// learnFrom is the error of a call, which may tell that the session is over.
func (s *Session) learnFrom(err error) error {
	switch failure := err.(type) {
	case *SessionNotFoundError:
		s.lifeline.lose()
		ended := endedError(s.Info())
		ended.cause = err
		return ended
	case *SessionEndedError:
		failure.Session = s.Info()
	}
	return err
}
