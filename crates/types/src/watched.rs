//! A clock that is not believed blindly. What runs beside it (time that nobody can set), the time of the last commit and the
//! clocks of other replicas are compared with it, and what speaks against it is its [`Doubt`]. It tells the machine's time
//! all the same: a registry that stopped at a wrong clock would help nobody.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{Clock, Doubt, Running, Timestamp};

/// Less than this is corrected by time synchronization all the time, and no jump.
const JUMP: i64 = 15_000;
/// Between two commits may lie an outage. What is longer than this is told.
const OFF: i64 = 24 * 3600 * 1000;
/// For so long nothing is deleted for its age after a jump that nobody has explained, in time that the process runs.
const PAUSE: Duration = Duration::from_secs(24 * 3600);

/// Watches over another clock.
pub struct WatchedClock {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When it was last looked at, by itself and by what has run.
    last: Option<(Timestamp, Running)>,
    jump: Option<Jump>,
    others: Option<Doubt>,
}

/// One that nothing has explained.
struct Jump {
    /// How far, in milliseconds; later ones are added, so that one back to the right time ends it.
    by: i64,
    /// What had run when it was seen.
    seen: Duration,
    text: String,
}

const REMEDY: &str = "Until it is explained nothing is deleted for its age (collector, sweep, abandoned uploads, sessions, \
    events), at most while this replica runs for a day. Set the clock right (timedatectl); if it is right now, say so: \
    dtr gc --run --clock-is-right";

impl std::fmt::Debug for WatchedClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WatchedClock")
    }
}

impl WatchedClock {
    /// Watches over `clock` from here on.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let this = Self { clock, state: Mutex::default() };
        this.now();
        this
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares it with the time of the last commit, at a start: nothing was committed in the future.
    pub fn after_commit(&self, last: Timestamp) {
        let (now, running) = (self.now(), self.clock.running());
        let by = now.millis() - last.millis();
        let text = if by < -JUMP {
            format!(
                "the clock of this machine stands at {now}, {} before the last commit, which is of {last}: it was set back, \
                 or was wrong when that was committed. {REMEDY}",
                span(by)
            )
        } else if by > OFF {
            format!(
                "the clock of this machine stands at {now}, {} after the last commit, which is of {last}: if the registry \
                 was not running for so long, all is well. {REMEDY}",
                span(by)
            )
        } else {
            return;
        };
        self.state().jump = Some(Jump { by, seen: running.passed, text });
    }

    /// Compares it with those of the other replicas: `apart` is what speaks against it; `agrees` whether there is another at
    /// all, and it says the same.
    pub fn compared(&self, apart: Option<Doubt>, agrees: bool) {
        let mut state = self.state();
        state.others = apart;
        if agrees {
            state.jump = None;
        }
    }
}

impl Clock for WatchedClock {
    fn now(&self) -> Timestamp {
        let (now, running) = (self.clock.now(), self.clock.running());
        // Whoever holds it looks at this moment.
        let Ok(mut state) = self.state.try_lock() else { return now };
        let last = state.last.replace((now, running));
        if let Some((then, ran)) = last.filter(|(_, ran)| ran.passed <= running.passed) {
            let passed = i64::try_from((running.passed - ran.passed).as_millis());
            let by = now.millis() - then.millis() - passed.unwrap_or(i64::MAX);
            if by.abs() >= JUMP {
                let total = by + state.jump.as_ref().map_or(0, |jump| jump.by);
                let way = if by > 0 { "forward" } else { "back" };
                let text = format!(
                    "the clock of this machine was set {way} by {} while the registry ran, to {now} (or the machine was \
                     asleep). {REMEDY}",
                    span(by)
                );
                let jump = Jump { by: total, seen: running.passed, text };
                state.jump = (total.abs() >= JUMP).then_some(jump);
            }
        }
        now
    }

    fn running(&self) -> Running {
        self.clock.running()
    }

    fn confirm(&self) {
        self.state().jump = None;
    }

    fn doubt(&self) -> Option<Doubt> {
        self.now();
        let passed = self.clock.running().passed;
        let mut state = self.state();
        if state.jump.as_ref().is_some_and(|jump| passed.saturating_sub(jump.seen) >= PAUSE) {
            state.jump = None;
        }
        let jumped = || state.jump.as_ref().map(|jump| Doubt::Jumped(jump.text.clone()));
        match &state.others {
            Some(doubt) if doubt.pauses_deletion() => Some(doubt.clone()),
            slight => jumped().or_else(|| slight.clone()),
        }
    }
}

/// A span of time in milliseconds, whichever way, as people say it: its two largest units.
pub fn span(millis: i64) -> String {
    let seconds = millis.unsigned_abs() / 1000;
    let (d, h, m, s) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (d, h, m, s) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, 0) => format!("{m} min"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, 0, _) => format!("{h} h"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, 0, _, _) => format!("{d} days"),
        (d, h, _, _) => format!("{d} days {h} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ManualClock;

    const HOUR: i64 = 3_600_000;

    fn watched() -> (Arc<ManualClock>, WatchedClock) {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
        (Arc::clone(&clock), WatchedClock::new(clock))
    }

    fn is_jump(clock: &WatchedClock, word: &str) -> bool {
        matches!(clock.doubt(), Some(Doubt::Jumped(text)) if text.contains(word))
    }

    #[test]
    fn time_that_passes_is_no_jump() {
        let (clock, watched) = watched();
        clock.advance(Duration::from_secs(1_000_000));
        assert_eq!(watched.doubt(), None);
        clock.set_by(14_000);
        assert_eq!(watched.doubt(), None, "time synchronization does that");
        clock.set_by(-14_000);
        assert_eq!(watched.doubt(), None);
    }

    #[test]
    fn a_jump_is_noticed_either_way_and_ends_when_it_is_taken_back() {
        for by in [2 * HOUR, -2 * HOUR] {
            let (clock, watched) = watched();
            clock.set_by(by);
            assert!(is_jump(&watched, if by > 0 { "forward by 2 h" } else { "back by 2 h" }));
            clock.advance(Duration::from_secs(3600));
            assert!(is_jump(&watched, "2 h"), "it stays");
            clock.set_by(-by + 3000);
            assert_eq!(watched.doubt(), None, "taken back, but for three seconds");
        }
    }

    #[test]
    fn a_jump_ends_by_confirmation_by_others_or_after_a_day_of_running() {
        let (clock, watched) = watched();
        clock.set_by(HOUR);
        assert!(is_jump(&watched, "1 h"));
        watched.confirm();
        assert_eq!(watched.doubt(), None);
        clock.set_by(HOUR);
        assert!(is_jump(&watched, "1 h"));
        watched.compared(None, false);
        assert!(is_jump(&watched, "1 h"), "there is nobody to say so");
        watched.compared(None, true);
        assert_eq!(watched.doubt(), None);
        clock.set_by(HOUR);
        assert!(is_jump(&watched, "1 h"));
        clock.advance(PAUSE - Duration::from_secs(1));
        assert!(is_jump(&watched, "1 h"));
        clock.advance(Duration::from_secs(1));
        assert_eq!(watched.doubt(), None);
    }

    #[test]
    fn the_last_commit_is_compared_at_a_start() {
        let (clock, watched) = watched();
        let now = clock.now();
        watched.after_commit(now.minus(Duration::from_secs(3600)));
        watched.after_commit(now.plus(Duration::from_secs(10)));
        assert_eq!(watched.doubt(), None);
        watched.after_commit(now.minus(Duration::from_secs(31 * 86_400)));
        assert!(is_jump(&watched, "31 days after the last commit"));
        watched.confirm();
        watched.after_commit(now.plus(Duration::from_secs(6 * 3600)));
        assert!(is_jump(&watched, "6 h before the last commit"));
        clock.set_by(6 * HOUR);
        assert_eq!(watched.doubt(), None, "it was set right");
    }

    #[test]
    fn what_others_say_comes_first() {
        let (clock, watched) = watched();
        watched.compared(Some(Doubt::Slight("4 s".to_owned())), false);
        assert_eq!(watched.doubt(), Some(Doubt::Slight("4 s".to_owned())));
        clock.set_by(HOUR);
        assert!(is_jump(&watched, "1 h"));
        watched.compared(Some(Doubt::Wrong("wrong".to_owned())), false);
        assert!(watched.doubt().is_some_and(|doubt| doubt.is_wrong()));
    }

    #[test]
    fn spans_are_told_in_two_units() {
        let told =
            [(4_000, "4 s"), (-61_000, "1 min 1 s"), (6 * HOUR, "6 h"), (49 * HOUR, "2 days 1 h")];
        for (millis, text) in told {
            assert_eq!(span(millis), text);
        }
    }
}
