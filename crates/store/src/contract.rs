//! The contract of [`Store`](crate::Store) as tests that every engine runs.
