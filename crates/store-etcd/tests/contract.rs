//! The contract, clause by clause, over a real etcd for each.

mod support;

use dtr_store::contract::Harness;
use support::Etcd;

async fn harness() -> Harness {
    let etcd = Etcd::start().await;
    let store = etcd.store().await;
    // A harness has no place for it; it ends with the test's runtime.
    tokio::spawn(async move {
        std::future::pending::<()>().await;
        drop(etcd);
    });
    Harness { store, clock: None }
}

dtr_store::store_contract!(harness);
