package ibgateway

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// Backoff is how long to wait before something is tried again: waits that double, up to a limit, and
// differ from client to client.
//
// The wait after the n-th failure in a row, from 0, is between a half and the whole of Initial * 2^n,
// and at most Maximum. If the broker says when to ask again, it is that, and up to a quarter longer:
// those who were refused together do not return together.
type Backoff struct {
	// Initial is the first wait, at most.
	Initial time.Duration
	// Maximum is the longest wait, unless the broker asks for a longer one.
	Maximum time.Duration
}

var defaultBackoff = Backoff{Initial: 200 * time.Millisecond, Maximum: 5 * time.Second}

func (b Backoff) check() error {
	if b.Initial <= 0 || b.Maximum < b.Initial {
		return fmt.Errorf("ibgateway: 0 < Initial <= Maximum must hold of a Backoff, not %v and %v",
			b.Initial, b.Maximum)
	}
	return nil
}

func (b Backoff) delay(failures int, retryAfter time.Duration) time.Duration {
	if retryAfter > 0 {
		return scaled(max(b.Initial, retryAfter), 1+rand.Float64()/4)
	}
	whole := b.Initial
	for range failures {
		if whole >= b.Maximum/2 {
			whole = b.Maximum
			break
		}
		whole *= 2
	}
	return scaled(whole, (1+rand.Float64())/2)
}

// longest is a wait that can still be scaled.
const longest = time.Duration(math.MaxInt64 / 2)

func scaled(d time.Duration, by float64) time.Duration {
	return time.Duration(float64(min(d, longest)) * by)
}
