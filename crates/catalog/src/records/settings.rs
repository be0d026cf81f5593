//! The settings that administrators change while the registry runs. Names as in the original's settings object.

use serde::{Deserialize, Serialize};

use super::record;
use crate::keys;

/// Settings. Those that an older version did not know get their default when they are read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// The address that clients use: `host[:port]`; empty means whatever they connect to.
    pub dtr_host: String,
    /// Whether a push makes the repository it names: under one's own name, or as owner of an organization.
    pub create_repository_on_push: bool,
    /// Whether nothing can be pushed or deleted.
    pub read_only_registry: bool,
    /// Whether the alert for a missing backup is hidden.
    pub disable_backup_warning: bool,
    /// Whether pulls are recorded as events.
    pub record_pull_events: bool,
    /// Whether old events are deleted.
    pub repo_event_history_compaction_enabled: bool,
    /// How many events are kept when old ones are deleted; 0 means no limit by count.
    pub repo_event_history_to_keep: u64,
    /// How long events are kept when old ones are deleted, in seconds; 0 means no limit by age.
    pub repo_event_history_max_age: u64,
    /// Whether the collector runs by itself.
    pub gc_enabled: bool,
    /// Seconds between two runs of the collector.
    pub gc_interval_seconds: u64,
    /// How long content without references is left alone, in seconds; at least 60.
    pub gc_grace_seconds: u64,
    /// Days after which an upload that was not finished is purged.
    pub upload_expiry_days: u64,
    /// Whether a browser forgets its session when it is closed. No cookie is set yet: kept for the page, and only `false` is
    /// accepted.
    pub disable_persistent_cookies: bool,
    /// Whether an index may list manifests that are not in the repository.
    pub allow_sparse_indexes: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dtr_host: String::new(),
            create_repository_on_push: false,
            read_only_registry: false,
            disable_backup_warning: false,
            record_pull_events: true,
            // Whoever may pull makes events: without a bound, strangers would decide how full the store gets.
            repo_event_history_compaction_enabled: true,
            repo_event_history_to_keep: 1_000_000,
            repo_event_history_max_age: 90 * 86_400,
            gc_enabled: true,
            gc_interval_seconds: 3600,
            gc_grace_seconds: 3600,
            upload_expiry_days: 7,
            disable_persistent_cookies: false,
            allow_sparse_indexes: false,
        }
    }
}
record!(Settings, Settings, |_s| keys::settings());
