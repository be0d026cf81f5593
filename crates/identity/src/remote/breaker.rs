//! Keeps a UCP that does not answer from slowing everything down: after a few failures in a row nobody waits for it any
//! more, and one call now and then tries whether it is back.

use std::time::Duration;

use dtr_types::Timestamp;
use parking_lot::Mutex;

/// Failures in a row until nobody waits any more.
const FAILURES: u32 = 3;
/// How long until the next try.
const PAUSE: Duration = Duration::from_secs(5);

#[derive(Default)]
struct State {
    failures: u32,
    reason: String,
    open_until: Option<Timestamp>,
    succeeded_at: Option<Timestamp>,
}

#[derive(Default)]
pub(super) struct Breaker(Mutex<State>);

impl Breaker {
    /// Whether a call may be made now; else why not.
    pub(super) fn enter(&self, now: Timestamp) -> Result<(), String> {
        let mut state = self.0.lock();
        match state.open_until {
            Some(until) if now < until => Err(state.reason.clone()),
            Some(_) => {
                // This call is the try; others go on without waiting.
                state.open_until = Some(now.plus(PAUSE));
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) fn succeeded(&self, now: Timestamp) {
        let mut state = self.0.lock();
        if state.open_until.is_some() {
            tracing::info!("the identity service answers again");
        }
        *state = State { succeeded_at: Some(now), ..State::default() };
    }

    pub(super) fn failed(&self, now: Timestamp, reason: &str) {
        let mut state = self.0.lock();
        state.failures = state.failures.saturating_add(1);
        reason.clone_into(&mut state.reason);
        if state.failures >= FAILURES {
            if state.open_until.is_none() {
                tracing::warn!(
                    reason,
                    "the identity service cannot be asked; what was last known goes on"
                );
            }
            state.open_until = Some(now.plus(PAUSE));
        }
    }

    /// Why the last call failed, if it did.
    pub(super) fn failure(&self) -> Option<String> {
        let state = self.0.lock();
        (state.failures > 0).then(|| state.reason.clone())
    }

    /// When it last answered.
    pub(super) fn succeeded_at(&self) -> Option<Timestamp> {
        self.0.lock().succeeded_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_tries_once_and_closes() {
        let breaker = Breaker::default();
        let at = Timestamp::from_millis(1_000_000);
        for _ in 0..FAILURES {
            assert!(breaker.enter(at).is_ok());
            breaker.failed(at, "refused");
        }
        assert_eq!(breaker.enter(at), Err("refused".to_owned()));
        let later = at.plus(PAUSE);
        assert!(breaker.enter(later).is_ok(), "one try");
        assert!(breaker.enter(later).is_err(), "and no second one");
        breaker.succeeded(later);
        assert!(breaker.enter(later).is_ok());
        assert_eq!(breaker.failure(), None);
        assert_eq!(breaker.succeeded_at(), Some(later));
    }
}
