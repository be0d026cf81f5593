//! Which endpoint is asked, and whether asking is of any use. What a member answers by itself and what it needs a majority
//! for are two things: while there is none, the nearest member goes on answering the one, and the other is refused at once.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::fault::Fault;

/// How long after the first endpoint was left it is tried again while another one is used.
const HOME: Duration = Duration::from_secs(5);

/// How long nobody may have asked between two failures that belong together.
const GAP: Duration = Duration::from_secs(1);

/// For one of the two.
pub(crate) struct Outlook {
    state: Mutex<State>,
}

struct State {
    turn: Turn,
    /// When the first endpoint was last tried.
    home: Instant,
    /// Since when nothing was answered.
    trouble: Option<Trouble>,
    answered: Instant,
    /// Counts the times that all hope was lost, so that who looks out for its end knows which.
    losses: u64,
}

struct Trouble {
    since: Instant,
    /// When the last failure was.
    last: Instant,
    /// What is said to whoever comes, once there is no hope left.
    lost: Option<Fault>,
}

/// Which endpoint is asked; counted, so that of many calls that fail there, only the first turns to the next one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) at: usize,
    count: u64,
}

impl Outlook {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        let turn = Turn { at: 0, count: 0 };
        let state = State { turn, home: now, trouble: None, answered: now, losses: 0 };
        Self { state: Mutex::new(state) }
    }

    /// Whom to ask; and whether the first endpoint should be tried again beside that.
    pub(crate) fn turn(&self) -> (Turn, bool) {
        let mut state = self.state.lock();
        let home = state.turn.at == 0;
        let again = !home && state.home.elapsed() > HOME;
        if home || again {
            state.home = Instant::now();
        }
        (state.turn, again)
    }

    /// A call failed there: on to the next of so many.
    pub(crate) fn pass(&self, turn: Turn, endpoints: usize) {
        let mut state = self.state.lock();
        if state.turn == turn {
            state.turn = Turn { at: (turn.at + 1) % endpoints.max(1), count: turn.count + 1 };
        }
    }

    /// This endpoint answers, and is asked from here on.
    pub(crate) fn settle_at(&self, at: usize) {
        let mut state = self.state.lock();
        state.turn = Turn { at, count: state.turn.count + 1 };
    }

    /// A call was answered.
    pub(crate) fn answered(&self) {
        let mut state = self.state.lock();
        (state.trouble, state.answered) = (None, Instant::now());
    }

    /// An attempt that began then was not answered. What failed some time before that is another matter.
    pub(crate) fn failed(&self, began: Instant) {
        let mut state = self.state.lock();
        let (since, last) = (began.max(state.answered), Instant::now());
        match &mut state.trouble {
            Some(trouble) if trouble.lost.is_some() || began < trouble.last + GAP => {
                trouble.last = last;
            }
            trouble => *trouble = Some(Trouble { since, last, lost: None }),
        }
    }

    /// For how long nothing was answered.
    pub(crate) fn in_trouble(&self) -> Duration {
        self.state.lock().trouble.as_ref().map_or(Duration::ZERO, |found| found.since.elapsed())
    }

    /// Why there is no use in asking, where there is none.
    pub(crate) fn lost(&self) -> Option<Fault> {
        let state = self.state.lock();
        state.trouble.as_ref().and_then(|trouble| trouble.lost.clone())
    }

    /// There is no use in asking any more. Whoever hears of it first, by the number of this loss, looks out for its end.
    pub(crate) fn lose(&self, why: &Fault) -> Option<u64> {
        let mut state = self.state.lock();
        let trouble = state.trouble.as_mut().filter(|trouble| trouble.lost.is_none())?;
        trouble.lost = Some(why.clone());
        state.losses += 1;
        Some(state.losses)
    }

    /// Whether this loss goes on.
    pub(crate) fn is_lost(&self, loss: u64) -> bool {
        let state = self.state.lock();
        state.losses == loss && state.trouble.as_ref().is_some_and(|found| found.lost.is_some())
    }

    /// What is said from here on, while this loss goes on.
    pub(crate) fn still_lost(&self, loss: u64, why: &Fault) {
        let mut state = self.state.lock();
        if state.losses == loss
            && let Some(trouble) = state.trouble.as_mut().filter(|found| found.lost.is_some())
        {
            trouble.lost = Some(why.clone());
        }
    }
}
