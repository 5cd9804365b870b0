package ibgateway

import (
	"context"
	"errors"
	"reflect"
	"time"

	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/gateway-broker/gateway-broker/clients/go/broker/v1"
)

// soonestRenewal is a third of the shortest lease that a broker grants, and a bit less.
const soonestRenewal = 300 * time.Millisecond

// follow follows the session until its end is on record. Whatever refuses that is asked again: nobody
// else might say that the session has ended.
func (l *lifeline) follow() {
	for failures := 0; !l.isSettled() && l.ctx.Err() == nil; failures++ {
		watch := l.broker.Watch(&brokerv1.WatchSessionsRequest{SessionIds: []string{l.id}, IncludeFinal: true})
		for !l.isSettled() && watch.Next(l.ctx) {
			l.take(watch)
		}
		watch.Close()
		err := watch.Err()
		if l.isSettled() || l.ctx.Err() != nil {
			return
		}
		l.mu.Lock()
		before := l.interruption
		l.interruption = err
		l.mayFallBack = true // the snapshot of the next watch is what is so
		l.pulse()
		l.mu.Unlock()
		if reflect.TypeOf(before) != reflect.TypeOf(err) {
			l.broker.connection.log.Error("a session is not followed; trying again", "session_id", l.id, "error", err)
		}
		l.pause(failures)
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
		l.told(item.Session, true)
	case SessionEvent:
		l.told(item.Event.GetSession(), item.Event.GetPersisted())
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

func (l *lifeline) told(info *brokerv1.Session, onRecord bool) {
	l.mu.Lock()
	end := onRecord && IsFinal(info)
	isNews := end || l.mayFallBack || info.GetSequence() >= l.info.GetSequence()
	lives := isNews && l.isOverLocked() && !IsFinal(info)
	if isNews {
		l.mayFallBack = false
		l.set(info)
		l.onRecord = l.onRecord || end
		l.provisional = IsFinal(info) && !onRecord
	}
	// Of one that is to stay open it is for others to say, unless it was closed all the same.
	closes := lives && (l.closing || !l.keepOpen)
	l.unlock()
	if closes {
		l.closeAgain()
	}
}

// closeAgain closes a session if it lives though it was told that it has ended: that was not on record
// when the broker died. Nobody uses it or renews its lease any more, and it holds its client id. An event
// from before its end, told late, says nothing: the broker is asked, until it answers.
func (l *lifeline) closeAgain() {
	log := l.broker.connection.log
	lives := false
	for failures := 0; l.ctx.Err() == nil; failures++ {
		info, err := l.broker.GetSession(l.ctx, l.id)
		if err == nil && !IsFinal(info) {
			if !lives {
				log.Warn("a session lives that was told to have ended; it is closed", "session_id", l.id)
			}
			lives = true
			l.setLivesOn(true)
			info, err = l.broker.CloseSession(l.ctx, l.id, "its program was told that it has ended")
		}
		if err == nil {
			l.setLivesOn(false)
			l.learn(info)
			return
		}
		if notFound := (*SessionNotFoundError)(nil); errors.As(err, &notFound) {
			l.lose()
			return
		}
		if failures == 0 && l.ctx.Err() == nil {
			log.Error("a session that was told to have ended could not be closed; trying again",
				"session_id", l.id, "error", err)
		}
		l.pause(failures)
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
			if l.isOver() {
				return
			}
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
