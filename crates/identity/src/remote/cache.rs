//! What was last known, and when.

use std::{hash::Hash, time::Duration};

use dtr_types::Timestamp;

/// A bounded memory of answers.
pub(super) struct LastKnown<K, V>(moka::sync::Cache<K, (V, Timestamp)>);

impl<K, V> LastKnown<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new(capacity: u64) -> Self {
        Self(moka::sync::Cache::new(capacity))
    }

    /// What is known, if it is younger than `age`.
    pub(super) fn get(&self, key: &K, now: Timestamp, age: Duration) -> Option<V> {
        self.0.get(key).filter(|(_, at)| now.since(*at) < age).map(|(value, _)| value)
    }

    pub(super) fn put(&self, key: K, value: V, now: Timestamp) {
        self.0.insert(key, (value, now));
    }

    pub(super) fn forget(&self, key: &K) {
        self.0.invalidate(key);
    }
}
