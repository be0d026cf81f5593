//! A member that cannot read its data, or does not answer although it runs: each is told apart, and the others are asked.

mod support;

use std::time::Duration;

use dtr_store::{At, Store as _};
use dtr_store_etcd::member::{Member, MemberOptions};
use rustix::process::Signal;
use support::{Etcd, PATIENCE, Three, must_put, open, send};

/// Its file overwritten with noise: that is what is said, and not only that it does not answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_that_cannot_be_read_is_told_in_its_own_words() {
    let etcd = Etcd::start().await;
    let store = etcd.store().await;
    must_put(&store, "k", "1").await;
    let Etcd { member, dir, .. } = etcd;
    let options: MemberOptions = member.options().clone();
    member.stop().await;
    let file = options.data_dir.join("member/snap/db");
    let size = std::fs::metadata(&file).expect("it is there").len();
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    });
    std::fs::write(&file, noise.take(size as usize).collect::<Vec<_>>()).expect("written");
    let member = Member::start(options).await.expect("the process starts");
    let mut trouble = member.trouble();
    let told = tokio::time::timeout(PATIENCE, trouble.wait_for(Option::is_some)).await;
    let told = told.expect("in time").expect("on").clone().expect("some");
    assert!(told.damaged, "{told:?}");
    assert!(told.why.contains("database"), "{told:?}");
    member.stop().await;
    drop(dir);
}

/// The nearest member is frozen, and the others were not known when the store was opened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_that_came_later_are_asked_when_the_nearest_is_frozen() {
    let three = Three::start_quick().await;
    let urls = three.urls();
    let mut options = three.options();
    options.endpoints.truncate(1);
    let store = open(&options).await;
    must_put(&store, "k", "1").await;
    store.set_endpoints(&urls).expect("endpoints");
    assert!(store.set_endpoints(&[]).is_err());
    let nearest = three.members[0].as_ref().expect("it runs");
    send(nearest, Signal::STOP);
    // Whatever was on its way to the frozen one may take its time; then the others answer.
    let answered = tokio::time::timeout(PATIENCE, async {
        loop {
            match store.get(b"k", At::Latest).await {
                Ok(found) => return found,
                Err(error) => assert!(error.may_retry(), "{error}"),
            }
        }
    });
    assert_eq!(answered.await.expect("in time").expect("is there").value, "1");
    must_put(&store, "k", "2").await;
    let began = std::time::Instant::now();
    must_put(&store, "k", "3").await;
    assert!(began.elapsed() < Duration::from_secs(2), "the frozen one is not asked each time");
    send(nearest, Signal::CONT);
}
