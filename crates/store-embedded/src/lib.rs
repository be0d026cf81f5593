//! The embedded engine: one file, group commit, history until compacted.
