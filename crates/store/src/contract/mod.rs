//! The contract of [`Store`] as tests that every engine runs: one function a clause, over any engine.
//!
//! An engine's own tests stamp a test per clause with [`store_contract`](crate::store_contract), naming an async function
//! that makes a fresh, empty store. Nothing is assumed of the first revision, so engines may begin where they like.

mod commits;
mod lifetimes;
mod loads;
mod reads;
mod watches;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dtr_types::{ManualClock, Revision};

use crate::{At, KeyValue, Outcome, SharedStore, Store, StoreError, Transaction, Watcher};

pub use commits::*;
pub use lifetimes::*;
pub use loads::*;
pub use reads::*;
pub use watches::*;

/// How long anything in the suite is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A fresh, empty store to try.
pub struct Harness {
    /// It.
    pub store: SharedStore,
    /// The clock by which its leases end; `None` when that is the real one.
    pub clock: Option<Arc<ManualClock>>,
}

impl Harness {
    /// Lets time pass for leases.
    pub async fn pass(&self, time: Duration) {
        match &self.clock {
            Some(clock) => clock.advance(time),
            None => tokio::time::sleep(time).await,
        }
    }

    fn store(&self) -> &dyn Store {
        &*self.store
    }

    async fn put(&self, key: &str, value: &str) -> Revision {
        let put = Transaction::new().put(key.to_owned(), value.to_owned());
        committed(self.store.commit(put).await)
    }

    async fn delete(&self, key: &str) -> Revision {
        committed(self.store.commit(Transaction::new().delete(key.to_owned())).await)
    }

    async fn get(&self, key: &str) -> Option<KeyValue> {
        self.store.get(key.as_bytes(), At::Latest).await.expect("a read of the latest state")
    }

    async fn value_at(&self, key: &str, at: Revision) -> Option<Bytes> {
        let found = self.store.get(key.as_bytes(), At::Revision(at)).await;
        found.expect("a read of an earlier state").map(|kv| kv.value)
    }

    /// Waits until `key` is gone.
    async fn gone(&self, key: &str) {
        let wait = async {
            while self.get(key).await.is_some() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the key goes in time");
    }
}

/// The revision of a transaction that must have been applied.
#[track_caller]
fn committed(outcome: Result<Outcome, StoreError>) -> Revision {
    match outcome {
        Ok(Outcome::Committed(revision)) => revision,
        other => panic!("not committed: {other:?}"),
    }
}

/// The next batch of a watch, in time.
async fn next(watch: &mut Watcher) -> Result<crate::WatchBatch, StoreError> {
    tokio::time::timeout(PATIENCE, watch.next())
        .await
        .expect("the watch tells in time")
        .expect("the watch goes on")
}

/// Stamps a test per clause of the contract; `$harness` is an async function that makes a
/// [`Harness`](crate::contract::Harness). The crate that uses it needs `tokio`.
#[macro_export]
macro_rules! store_contract {
    ($harness:path) => {
        $crate::store_contract! { @each $harness:
            // reads
            an_absent_key_is_none a_get_tells_the_history_in_short reads_at_every_revision
            an_earlier_read_sees_deleted_keys the_future_is_refused ranges_are_in_byte_order
            a_range_has_its_bounds a_range_is_paged_at_one_revision keys_only_leaves_values_out
            a_range_of_an_earlier_revision_is_exact many_versions_do_not_hide_a_key
            pages_stay_at_one_revision_while_writers_go_on an_empty_range_is_empty
            the_limit_of_a_page_holds reads_see_what_was_acknowledged
            // commits
            each_commit_gets_the_next_revision a_commit_is_all_or_nothing
            the_first_failing_condition_is_named conditions_see_the_state_before_the_writes
            every_condition_means_what_it_says what_is_put_into_a_list_is_noticed
            only_one_enters_an_empty_list without_writes_nothing_is_committed
            deleting_nothing_changes_nothing a_key_is_written_once limits_are_refused_not_cut
            limits_themselves_are_accepted binary_keys_and_values_survive
            an_empty_value_is_a_value a_counter_loses_no_increment only_one_creator_wins
            // loads
            what_was_loaded_is_there the_last_put_of_a_load_counts an_abandoned_load_harms_nothing
            a_commit_ends_a_load a_load_has_limits
            // watches
            a_watch_tells_what_comes a_watch_replays_from_the_past a_watch_knows_its_bounds
            a_watch_batches_a_revision_in_key_order a_watch_has_no_gap_under_load
            a_slow_watch_loses_nothing a_watch_from_compacted_is_refused a_watch_waits_for_the_future
            a_dropped_watch_harms_nobody
            // lifetimes
            compaction_forgets_the_past compaction_keeps_its_own_state compaction_may_be_repeated
            compaction_of_the_future_is_refused compaction_spares_what_lives
            a_hold_keeps_its_revision an_extended_hold_keeps_its_first_revision
            an_expired_hold_is_removed holds_are_listed a_lease_takes_its_keys_with_it
            a_kept_lease_lives a_revoked_lease_takes_its_keys an_ended_lease_is_refused
            a_key_can_leave_its_lease a_lease_ends_in_one_commit status_tells_the_revision
        }
    };
    (@each $harness:path: $($clause:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $clause() {
                $crate::contract::$clause(&$harness().await).await;
            }
        )*
    };
}
