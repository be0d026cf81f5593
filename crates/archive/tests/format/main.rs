//! The format from outside: what comes back, and what is refused.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod common;
mod damaged;
mod hostile;
mod round_trip;
