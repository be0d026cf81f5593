//! Members: joined as learners, promoted, removed; the last one of a lost majority.

mod support;

use std::time::Duration;

use dtr_store::{At, Store as _, StoreError, together::as_known};
use dtr_store_etcd::{
    AdminError, EtcdStore, Reach, Tls,
    member::{Initial, Member},
    reach,
};
use support::{
    Etcd, PATIENCE, Three, member_options, must_put, open, options_at, pki::Pki, put, until,
};

/// Does what is not allowed yet: a learner has to catch up, and for some seconds after a change members count as not
/// connected.
async fn allowed<T>(mut change: impl AsyncFnMut() -> Result<T, AdminError>) -> T {
    let mut done = None;
    until("the change to be allowed", async || {
        match change().await {
            Ok(answer) => done = Some(answer),
            Err(AdminError::NotCaughtUp | AdminError::MajorityAtRisk(_)) => {}
            Err(error) => panic!("{error}"),
        }
        done.is_some()
    })
    .await;
    done.expect("it was waited for")
}

/// Why a change is not allowed, however long one waits.
async fn refused<T>(mut change: impl AsyncFnMut() -> Result<T, AdminError>) -> AdminError {
    allowed(async || match change().await {
        Ok(_) => panic!("it is allowed"),
        Err(error @ AdminError::MajorityAtRisk(_)) => Err(error),
        Err(error) => Ok(error),
    })
    .await
}

/// Starts the member `name` beside `one` and waits until it has caught up and its vote.
async fn join(one: &Etcd, store: &EtcdStore, name: &str) -> (Member, u64) {
    let mut options = member_options(name, one.dir.path(), &one.pki);
    let members = store.members();
    let added = allowed(async || members.add_learner(&options.peer_url()).await).await;
    assert!(added.learner && added.name.is_empty());
    let known = members.list().await.expect("a list");
    let name_of = |urls: &[String], name: &str| match urls == [options.peer_url()] {
        true => options.name.clone(),
        false => name.to_owned(),
    };
    let all = known.iter().map(|m| (name_of(&m.peer_urls, &m.name), m.peer_urls[0].clone()));
    options.initial = Initial::Existing(all.collect());
    let member = Member::start(options).await.expect("etcd starts");
    allowed(async || members.promote(added.id).await).await;
    (member, added.id)
}

/// A learner is added, promoted, serves, and is removed; what would be wrong is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go() {
    let one = Etcd::start().await;
    let store = one.store().await;
    must_put(&store, "k", "1").await;
    let members = store.members();
    assert_eq!(members.list().await.expect("a list").len(), 1);
    let (two, two_id) = join(&one, &store, "two").await;
    let (three, _) = join(&one, &store, "three").await;
    let list = members.list().await.expect("a list");
    assert_eq!(list.len(), 3);
    assert!(list.iter().all(|member| !member.learner && !member.client_urls.is_empty()));
    let peer = two.options().peer_url();
    let why = refused(async || members.add_learner(&peer).await).await;
    assert!(matches!(why, AdminError::MemberExists), "{why:?}");
    let why = refused(async || members.promote(7).await).await;
    assert!(matches!(why, AdminError::NoSuchMember), "{why:?}");
    let why = refused(async || members.remove(7).await).await;
    assert!(matches!(why, AdminError::NoSuchMember), "{why:?}");
    // Each of them serves the same.
    for member in [&two, &three] {
        let there = open(&options_at(vec![member.options().client_url()], &one.pki)).await;
        assert_eq!(there.cluster_id(), store.cluster_id());
        let found = there.get(b"k", At::Latest).await.expect("an answer").expect("is there");
        assert_eq!(found.value, "1");
        must_put(&there, "by", &member.options().name).await;
    }
    let (url, tls) = (two.options().client_url(), one.options().tls);
    assert_eq!(reach(&url, &tls).await.expect("asked"), Reach::Serves);
    let other = Pki::new();
    for ca in [other.ca(), one.pki.ca()] {
        let stranger = Tls { ca, ..other.client() };
        let heard = reach(&url, &stranger).await.expect("asked");
        assert!(matches!(heard, Reach::Refuses(_)), "{heard:?}");
    }
    // Without one of three, all goes on.
    two.stop().await;
    let heard = reach(&url, &tls).await.expect("asked");
    assert!(matches!(heard, Reach::Silent(_)), "{heard:?}");
    must_put(&store, "k", "2").await;
    allowed(async || members.remove(two_id).await).await;
    let list = members.list().await.expect("a list");
    assert!(list.len() == 2 && list.iter().all(|member| member.peer_urls != [peer.clone()]));
    must_put(&store, "k", "3").await;
    three.stop().await;
}

/// A member that was away for a moment does not tell what it knew before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_is_never_an_old_one() {
    let three = Three::start_quick().await;
    let urls = three.urls();
    let away = three.members[2].as_ref().expect("is there");
    let [store, late] = [0, 2].map(|at| options_at(vec![urls[at].clone()], &three.pki));
    let (store, late) = (open(&store).await, open(&late).await);
    for peer in ["https://127.0.0.1:1", "https://127.0.0.1:2"] {
        let added = allowed(async || store.members().add_learner(peer).await).await;
        let known = late.members().list().await.expect("a list");
        assert!(known.iter().any(|member| member.id == added.id), "{known:?}");
        support::send(away, rustix::process::Signal::STOP);
        allowed(async || match store.members().remove(added.id).await {
            // It may lead: then another has to first.
            Err(AdminError::Unknown { reason, .. }) => Err(AdminError::MajorityAtRisk(reason)),
            Err(AdminError::NoSuchMember) => Ok(()),
            removed => removed,
        })
        .await;
        support::send(away, rustix::process::Signal::CONT);
        let known = late.members().list().await.expect("a list");
        assert!(known.iter().all(|member| member.id != added.id), "{known:?}");
    }
}

/// Two of three are lost: writes are refused in time, and at once from then on; the survivor, told to forget the others,
/// goes on with all that was acknowledged, and what is left of them cannot come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_goes_on_alone() {
    let mut three = Three::start_quick().await;
    let store = open(&three.options()).await;
    let acknowledged = must_put(&store, "k", "1").await;
    let mut lost = Vec::new();
    for at in [1, 2] {
        let member = three.members[at].take().expect("is there");
        lost.push(member.options().clone());
        member.stop().await;
    }
    let began = tokio::time::Instant::now();
    let refused = put(&store, "k", "2").await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable { .. } | StoreError::Unknown { .. })),
        "{refused:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    // What is past can be read as before.
    let found = store.get(b"k", At::Revision(acknowledged)).await.expect("an answer");
    assert_eq!(found.expect("is there").value, "1");
    // And what is known, where that is enough.
    let found = as_known(store.get(b"k", At::Latest)).await.expect("an answer");
    assert_eq!(found.expect("is there").value, "1");
    assert!(matches!(store.get(b"k", At::Latest).await, Err(StoreError::Unavailable { .. })));
    let member = three.members[0].take().expect("is there");
    let heard = reach(&member.options().client_url(), &three.options().tls).await;
    assert_eq!(heard.expect("asked"), Reach::Leaderless);
    let mut options = member.options().clone();
    member.stop().await;
    options.initial = Initial::Alone;
    let member = Member::start(options.clone()).await.expect("etcd starts");
    let alone = open(&options_at(vec![options.client_url()], &three.pki)).await;
    let list = alone.members().list().await.expect("a list");
    assert_eq!(list.len(), 1);
    let found = alone.get(b"k", At::Revision(acknowledged)).await.expect("an answer");
    assert_eq!(found.expect("is there").value, "1");
    let changed = must_put(&alone, "k", "3").await;
    assert!(changed > acknowledged);
    // One of the others comes back with its data: it finds no majority, and nobody who knows it.
    let back = Member::start(lost.remove(0)).await.expect("etcd starts");
    must_put(&alone, "k", "4").await;
    assert_eq!(alone.members().list().await.expect("a list").len(), 1);
    let mut theirs = options_at(vec![back.options().client_url()], &three.pki);
    theirs.timing.call = Duration::from_millis(500);
    let theirs = EtcdStore::new(&theirs).expect("good options");
    assert!(put(&theirs, "k", "other").await.is_err());
    back.stop().await;
    // Started again as what it is now.
    member.stop().await;
    options.initial = Initial::New(vec![(options.name.clone(), options.peer_url())]);
    let member = Member::start(options).await.expect("etcd starts");
    alone.ready(PATIENCE).await.expect("it answers");
    let found = alone.get(b"k", At::Latest).await.expect("an answer").expect("is there");
    assert_eq!(found.value, "4");
    member.stop().await;
}
