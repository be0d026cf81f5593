//! The contract, clause by clause, over the embedded engine.

use std::sync::Arc;

use dtr_store::contract::Harness;
use dtr_store_embedded::{EmbeddedStore, Options, simulated::Disk};
use dtr_types::{ManualClock, Timestamp};

async fn harness() -> Harness {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_000_000)));
    let options = Options { clock: clock.clone(), ..Options::default() };
    let store = EmbeddedStore::open_with_backend(Disk::new(), options).expect("opens");
    Harness { store, clock: Some(clock) }
}

dtr_store::store_contract!(harness);
