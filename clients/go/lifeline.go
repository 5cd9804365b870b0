package ibgateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

// renewals are made within the time of one lease.
const renewals = 3

var lifelineBackoff = Backoff{Initial: 500 * time.Millisecond, Maximum: 5 * time.Second}

// lifeline keeps what is known of a session current, and tells when it ends.
//
// Two goroutines, until stop or the session's end: one follows the session, one renews its lease at a
// third of the time that was granted. Neither gives up while it is unknown whether the session lives: a
// broker that restarts takes its sessions up, and their leases begin anew.
//
// An end is told at once, whoever has ended the session, and it is followed until that is on record. If
// the broker dies before, the session lives in the next one, where nobody uses it: it is closed again.
type lifeline struct {
	broker *Broker
	id     string

	ctx     context.Context // of the goroutines
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	running atomic.Int32

	over context.Context // ends with the session, or with what is known of it; the cause says which
	tell context.CancelCauseFunc

	leaseChanged chan struct{} // holds one

	mu           sync.Mutex
	info         *brokerv1.Session
	changed      chan struct{} // closed with the next change
	renewedAt    time.Time
	gone         bool // the broker has no record of it
	stopped      bool
	closing      bool  // by us
	keepOpen     bool  // Broker.Close leaves it open
	mayFallBack  bool  // events that were not persisted are void when the broker dies
	provisional  bool  // its end was told by an event that was not persisted
	onRecord     bool  // its end cannot be void any more
	livesOn      bool  // the broker has it, though its end was told
	news         error // of its end, for the log
	interruption error
	renewalError error
}

func newLifeline(b *Broker, info *brokerv1.Session, keepOpen bool) *lifeline {
	l := &lifeline{
		broker:       b,
		id:           info.GetSessionId(),
		leaseChanged: make(chan struct{}, 1),
		info:         info,
		changed:      make(chan struct{}),
		renewedAt:    time.Now(),
		keepOpen:     keepOpen,
	}
	l.ctx, l.cancel = context.WithCancel(b.connection.ctx)
	l.over, l.tell = context.WithCancelCause(context.Background())
	return l
}

// start begins to follow the session, just after the broker's answer.
func (l *lifeline) start() {
	work := []func(){l.renew, l.follow}
	l.running.Store(int32(len(work)))
	for _, do := range work {
		l.tasks.Add(1)
		go func() {
			defer l.tasks.Done()
			do()
			if l.running.Add(-1) == 0 && l.isOver() {
				l.cancel()
				l.broker.forget(l)
			}
		}()
	}
}

// stop ends both goroutines; whoever waits is told.
func (l *lifeline) stop() {
	l.mu.Lock()
	l.stopped = true
	l.pulse()
	l.mu.Unlock()
	l.cancel()
	l.tasks.Wait()
	l.tell(l.stoppedError())
}

// close ends the session. It waits for the answer only: see follow for what may come after that.
func (l *lifeline) close(ctx context.Context, reason string) error {
	l.setClosing(true)
	info, err := l.broker.CloseSession(ctx, l.id, reason)
	if notFound := (*SessionNotFoundError)(nil); errors.As(err, &notFound) {
		l.lose()
	}
	if err != nil {
		l.setClosing(l.isOver()) // nobody knows whether it closes: whatever ends it from now on is news
		return err
	}
	l.learn(info)
	l.setLivesOn(false)
	return nil
}

// leave is what the end of the Broker does: close the session unless it is to stay open. It does not wait
// until an end is on record.
func (l *lifeline) leave(ctx context.Context) error {
	defer l.stop()
	l.mu.Lock()
	over := l.isOverLocked()
	stays := !l.livesOn && (over || l.keepOpen)
	mayLive := over && l.provisional && !l.onRecord
	l.mu.Unlock()
	if stays {
		if mayLive {
			l.broker.connection.log.Warn("a session may live: its end is not on record yet, and not waited for",
				"session_id", l.id)
		}
		return nil
	}
	err := l.close(ctx, "its program has ended")
	if notFound := (*SessionNotFoundError)(nil); errors.As(err, &notFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("session %s could not be closed: %w", l.id, err)
	}
	return nil
}

func (l *lifeline) setClosing(is bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closing = is
}

func (l *lifeline) setLivesOn(is bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.livesOn = is
}

func (l *lifeline) isOver() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.isOverLocked()
}

func (l *lifeline) isOverLocked() bool { return l.gone || IsFinal(l.info) }

// isSettled tells whether nothing will follow about the session: its end is on record.
func (l *lifeline) isSettled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.isOverLocked() && l.onRecord
}

func (l *lifeline) current() *brokerv1.Session {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.info
}

// endedError is why nothing can be done with the session any more.
func endedError(info *brokerv1.Session) *SessionEndedError {
	e := &SessionEndedError{
		BrokerError: BrokerError{
			Reason:   "SESSION_CLOSED",
			Hint:     kinds["SESSION_CLOSED"].hint,
			Metadata: map[string]string{"session_id": info.GetSessionId(), "close_reason": info.GetCloseReason()},
		},
		Session: info,
	}
	failure := info.GetLastFailure()
	switch {
	case !IsFinal(info):
		e.Message = fmt.Sprintf("session %s has ended: the broker has no record of it", info.GetSessionId())
	case info.GetCloseReason() != "":
		e.Message = fmt.Sprintf("session %s has ended: %s", info.GetSessionId(), info.GetCloseReason())
	case failure != nil:
		e.Message = fmt.Sprintf("session %s has FAILED: %s", info.GetSessionId(), failure.GetMessage())
		e.Hint = failure.GetHint()
	default:
		e.Message = fmt.Sprintf("session %s has ended", info.GetSessionId())
	}
	if info.GetCloseReason() == "LEASE_EXPIRED" {
		e.Hint = "its lease was not renewed in time: was this process stopped or starved?"
	}
	return e
}

func (l *lifeline) stoppedError() error {
	return &BrokerClosedError{BrokerError{
		Message: fmt.Sprintf("session %s is followed no longer: its Broker was closed", l.id),
		Hint:    "end what uses a Session before you close its Broker",
	}}
}

// learn takes what a call has answered or a watch has told, unless something newer is known.
func (l *lifeline) learn(info *brokerv1.Session) *brokerv1.Session {
	l.mu.Lock()
	defer l.unlock()
	if info.GetSequence() >= l.info.GetSequence() {
		l.set(info)
	}
	return l.info
}

// renewed notes that the lease begins anew, as the broker has just answered.
func (l *lifeline) renewed(answer *brokerv1.Session) *brokerv1.Session {
	l.mu.Lock()
	defer l.unlock()
	if answer.GetSequence() >= l.info.GetSequence() {
		l.set(answer)
	}
	info := proto.CloneOf(l.info)
	info.LeaseTtl, info.LeaseExpireTime = answer.GetLeaseTtl(), answer.GetLeaseExpireTime()
	l.info = info
	l.renewedAt = time.Now()
	l.wakeRenewal()
	return info
}

// lose notes that the broker has no record of the session.
func (l *lifeline) lose() {
	l.mu.Lock()
	defer l.unlock()
	l.onRecord, l.livesOn = true, false
	if !l.isOverLocked() {
		l.gone = true
		l.tellEnd()
	}
}

// wait waits until something is so; it is asked with the lock held.
func (l *lifeline) wait(ctx context.Context, check func() bool) error {
	for {
		l.mu.Lock()
		is, stopped, changed := check(), l.stopped, l.changed
		l.mu.Unlock()
		switch {
		case is:
			return nil
		case stopped:
			return l.stoppedError()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return interrupted(ctx)
		}
	}
}

// set takes a session as it is now; the lock is held. An end that was told stays: nobody could take it
// back.
func (l *lifeline) set(info *brokerv1.Session) {
	wasOver := l.isOverLocked()
	if wasOver && (l.onRecord || !IsFinal(info)) {
		return
	}
	if info.GetLeaseExpireTime() == nil && info.GetLeaseTtl() != nil && !IsFinal(info) {
		// Events do not say it: renewals are none.
		info = proto.CloneOf(info)
		info.LeaseExpireTime = l.info.GetLeaseExpireTime()
	}
	if !proto.Equal(info.GetLeaseTtl(), l.info.GetLeaseTtl()) {
		l.wakeRenewal()
	}
	l.info = info
	l.pulse()
	if l.isOverLocked() && !wasOver {
		l.tellEnd()
	}
}

func (l *lifeline) tellEnd() {
	l.pulse()
	l.wakeRenewal()
	err := endedError(l.info)
	if !l.closing {
		l.news = err
	}
	l.tell(err)
}

// unlock lets the lock go, and logs then what happened under it: a handler of the log may ask the session.
func (l *lifeline) unlock() {
	news := l.news
	l.news = nil
	l.mu.Unlock()
	if news != nil {
		l.broker.connection.log.Error("a session was ended by somebody else", "session_id", l.id, "error", news)
	}
}

func (l *lifeline) pulse() {
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *lifeline) wakeRenewal() {
	select {
	case l.leaseChanged <- struct{}{}:
	default:
	}
}
