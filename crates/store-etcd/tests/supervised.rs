//! The supervised member: killed and started again, its log in ours, stopped cleanly, found by a later run. One test, in a
//! process of its own: what is logged is only seen whole by a process that has one subscriber.

mod support;

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use dtr_store::{At, Store as _};
use dtr_store_etcd::{
    EtcdStore,
    member::{Member, MemberOptions, MemberState},
};
use support::{Etcd, PATIENCE, kill, must_put};

/// What is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("nobody panics here")).into_owned()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panics here").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Killed, it is started again, after longer and longer pauses; its log is in ours; stopped, it is gone; started by a later
/// run, it has its data.
#[tokio::test]
async fn a_member_is_kept_running_until_it_is_stopped() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter("etcd=debug,dtr_store_etcd=debug")
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let logging = tracing::subscriber::set_default(subscriber);
    let etcd = Etcd::start().await;
    let store = etcd.store().await;
    let mut state = etcd.member.state();
    let mut pauses = Vec::new();
    for round in 1..=3 {
        must_put(&store, "k", &round.to_string()).await;
        kill(&etcd.member);
        let down = |state: &MemberState| matches!(state, MemberState::Down { .. });
        tokio::time::timeout(PATIENCE, state.wait_for(down)).await.expect("in time").expect("on");
        let began = tokio::time::Instant::now();
        let again = |state: &MemberState| matches!(state, MemberState::Running { restarts, .. } if *restarts == round);
        tokio::time::timeout(PATIENCE, state.wait_for(again)).await.expect("in time").expect("on");
        pauses.push(began.elapsed());
        store.ready(PATIENCE).await.expect("comes back by itself");
        let found = store.get(b"k", At::Latest).await.expect("an answer").expect("is there");
        assert_eq!(found.value, round.to_string());
    }
    let pause = etcd.member.options().restart_pause;
    for (n, waited) in (0..).zip(&pauses) {
        assert!(*waited >= pause * 2_u32.pow(n), "{pauses:?}");
    }
    let text = lines.text();
    assert!(text.contains("etcd has ended and is started again"), "{text}");
    assert!(text.contains("signal: 9"), "how it ended: {text}");
    let theirs = |line: &&str| line.contains(" etcd: ") && line.contains("member=\"one\"");
    assert!(text.lines().filter(theirs).count() > 10, "{text}");
    let Etcd { pki, member, dir } = etcd;
    let (options, pid) = (member.options().clone(), member.pid().expect("it runs"));
    member.stop().await;
    assert_eq!(*state.borrow(), MemberState::Stopped);
    assert!(!runs(pid), "{pid} is still there");
    assert!(!lines.text().contains("does not stop"), "it stopped by itself");
    drop(logging);
    again(options, store, pki, dir).await;
}

/// A later run ends what an earlier one has left behind, and goes on with its data.
async fn again(
    options: MemberOptions,
    store: Arc<EtcdStore>,
    _pki: support::pki::Pki,
    _dir: tempfile::TempDir,
) {
    // As when our process is killed, nobody looks after it any more: a runtime that stands still forever.
    let earlier = options.clone();
    let left = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let member = runtime.block_on(Member::start(earlier)).expect("etcd starts");
        let pid = member.pid().expect("it runs");
        std::mem::forget((runtime, member));
        pid
    });
    let pid = left.join().expect("the thread ends");
    store.ready(PATIENCE).await.expect("it answers");
    let member = Member::start(options).await.expect("etcd starts");
    assert_ne!(member.pid(), Some(pid));
    store.ready(PATIENCE).await.expect("it answers");
    let found = store.get(b"k", At::Latest).await.expect("an answer").expect("is there");
    assert_eq!(found.value, "3");
    member.stop().await;
}

/// Whether a process runs; one that waits to be looked after has ended.
fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.starts_with(" Z")))
}
