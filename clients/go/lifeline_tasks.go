package ibgateway

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

// soonestRenewal is a third of the shortest lease that a broker grants, and a bit less.
const soonestRenewal = 300 * time.Millisecond

// follow follows the session until it has ended.
func (l *lifeline) follow() {
	for gaps := 0; !l.isOver() && l.ctx.Err() == nil; gaps++ {
		watch := l.broker.Watch(&brokerv1.WatchSessionsRequest{SessionIds: []string{l.id}, IncludeFinal: true})
		for !l.isOver() && watch.Next(l.ctx) {
			l.take(watch)
		}
		watch.Close()
		err := watch.Err()
		if l.isOver() || l.ctx.Err() != nil {
			return
		}
		l.mu.Lock()
		l.interruption = err
		l.pulse()
		l.mu.Unlock()
		if _, isGap := err.(*WatchGapError); !isGap {
			l.broker.connection.log.Error("a session is not followed any more", "session_id", l.id, "error", err)
			return
		}
		l.broker.connection.log.Error("a session is followed anew", "session_id", l.id, "error", err)
		l.pause(gaps)
	}
}

// take takes what the watch has told.
func (l *lifeline) take(watch *Watch) {
	l.mu.Lock()
	l.interruption = watch.Interruption()
	l.pulse()
	l.mu.Unlock()
	switch item := watch.Item().(type) {
	case Snapshot:
		l.told(item.Session)
	case SessionEvent:
		l.told(item.Event.GetSession())
	case SnapshotComplete:
		if watch.Sessions()[l.id] == nil {
			l.lose()
		}
	case Interrupted:
		l.mu.Lock()
		l.mayFallBack = true
		l.mu.Unlock()
	}
}

func (l *lifeline) told(info *brokerv1.Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if info.GetSequence() >= l.info.GetSequence() || l.mayFallBack {
		l.mayFallBack = false
		l.set(info)
	}
}

// renew renews the lease, whenever there is one, until the session has ended.
func (l *lifeline) renew() {
	failures := 0
	for !l.isOver() && l.ctx.Err() == nil {
		if failures == 0 && !l.isDue() {
			continue
		}
		ctx, cancel := context.WithTimeout(l.ctx, l.patience())
		answer, err := l.broker.RenewSession(ctx, l.id, nil)
		cancel()
		if l.ctx.Err() != nil {
			return
		}
		switch err.(type) {
		case nil:
			l.noteRenewal(nil)
			l.renewed(answer)
			failures = 0
			continue
		case *InvalidArgumentError:
			l.leaseTaken()
			failures = 0
			continue
		case *SessionEndedError, *SessionNotFoundError:
			l.look() // it has ended, or is about to
		default:
			l.noteRenewal(err)
		}
		l.pause(failures)
		failures++
	}
}

// isDue waits until the lease is to be renewed; it is not if something has changed before that.
func (l *lifeline) isDue() bool {
	l.mu.Lock()
	ttl, renewedAt := l.info.GetLeaseTtl(), l.renewedAt
	l.mu.Unlock()
	var due <-chan time.Time
	if ttl != nil {
		timer := time.NewTimer(time.Until(renewedAt.Add(max(ttl.AsDuration()/renewals, soonestRenewal))))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-due:
		return true
	case <-l.leaseChanged:
		return false
	case <-l.ctx.Done():
		return false
	}
}

// patience is for one renewal: a part of the lease, so that there is time for another.
func (l *lifeline) patience() time.Duration {
	ttl := l.current().GetLeaseTtl()
	if ttl == nil {
		return 10 * time.Second
	}
	return min(10*time.Second, max(500*time.Millisecond, ttl.AsDuration()/renewals))
}

// leaseTaken notes that somebody has taken its lease away.
func (l *lifeline) leaseTaken() {
	l.mu.Lock()
	defer l.mu.Unlock()
	info := proto.CloneOf(l.info)
	info.LeaseTtl, info.LeaseExpireTime = nil, nil
	l.info = info
	l.pulse()
}

// look sees whether the session is over.
func (l *lifeline) look() {
	info, err := l.broker.GetSession(l.ctx, l.id)
	switch err.(type) {
	case nil:
		l.learn(info)
	case *SessionNotFoundError:
		l.lose()
	default:
		l.noteRenewal(err)
	}
}

// noteRenewal keeps why the last renewal failed, nil if it did not, and tells when that changes.
func (l *lifeline) noteRenewal(err error) {
	if l.ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	before, expires := l.renewalError, l.info.GetLeaseExpireTime()
	l.renewalError = err
	l.mu.Unlock()
	log := l.broker.connection.log
	switch {
	case err != nil && before == nil:
		log.Warn("a lease could not be renewed; trying again", "session_id", l.id,
			"runs_out", expires.AsTime(), "error", err)
	case err == nil && before != nil:
		log.Info("a lease is renewed again", "session_id", l.id)
	}
}

func (l *lifeline) pause(failures int) {
	if l.isOver() {
		return
	}
	delay := lifelineBackoff.delay(failures, 0)
	if ttl := l.current().GetLeaseTtl(); ttl != nil {
		delay = min(delay, max(ttl.AsDuration()/renewals, soonestRenewal))
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.ctx.Done():
	}
}
