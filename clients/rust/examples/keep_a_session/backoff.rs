//! How long to wait before something is tried again.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Longer than this nobody waits, whatever a server asks for.
const LONGEST: Duration = Duration::from_secs(3600);

/// Waits that double, up to a limit, and differ from client to client.
///
/// The wait after the n-th failure in a row is between a half and the whole of
/// `min(maximum, initial * 2^n)`. If the broker says when to ask again, it is that, and up to a quarter
/// longer: those who were refused together do not return together.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    maximum: Duration,
    failures: u32,
}

impl Backoff {
    /// 0.2 s at first, 5 s at last.
    pub fn new() -> Self {
        Self { initial: Duration::from_millis(200), maximum: Duration::from_secs(5), failures: 0 }
    }

    /// It works again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after one more failure.
    pub fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        let whole = self.initial.saturating_mul(1 << self.failures.min(16)).min(self.maximum);
        self.failures = self.failures.saturating_add(1);
        match retry_after {
            Some(asked) => asked.clamp(self.initial, LONGEST).mul_f64(1.0 + chance() / 4.0),
            None => whole.mul_f64(f64::midpoint(1.0, chance())),
        }
    }
}

/// A random number, 0 to 1: each `RandomState` has keys of its own.
fn chance() -> f64 {
    let bits = u32::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or_default();
    f64::from(bits) / f64::from(u32::MAX)
}
