//! The store's one global counter.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A point in the history of a store: every committed transaction gets the next. Zero is the empty store before the
/// first commit. The point in time of a backup is a revision.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The empty store.
    pub const ZERO: Self = Self(0);

    /// The revision after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
