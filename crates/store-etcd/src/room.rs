//! How much content etcd still takes. At the end of its quota it refuses every write, those that would make room again included;
//! so content stops before that, and goes on only when there is clearly more room, not at the next byte.
//!
//! How large the file of a member is, is asked when what was written since the last answer may have filled it. What was written
//! just now is not in the answer: a member gathers writes for a tenth of a second. Near the bound content waits for that.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use dtr_store::{StoreError, Transaction, Write};
use parking_lot::Mutex;

use crate::EtcdStore;

/// What is kept for all that is no content: this part of the quota, within these bounds.
const KEPT_PART: u64 = 20;
const KEPT_MIN: u64 = 8 << 20;
/// A byte that is written may take several in the files, and other replicas may write as much as this one: from here on it is asked.
const WEIGHT: u64 = 6;
/// How long a write may not be counted by a member that was asked.
const UNSEEN: Duration = Duration::from_millis(300);
/// How long content waits for what was written just now to be counted, and how often it looks.
const WAIT_MAX: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(50);
/// How often the size is asked for by those who want to write content while that is refused, or nearly.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// How long the size of the largest file, as it was told, is good.
const TOLD_GOOD: Duration = Duration::from_secs(30);

/// From which size of a file on content is refused, and below which it is taken again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    stop: u64,
    resume: u64,
}

impl Bounds {
    fn of(quota: u64) -> Self {
        let kept = (quota / KEPT_PART).max(KEPT_MIN).min(quota / 4);
        Self { stop: quota - kept, resume: quota - 2 * kept }
    }
}

#[derive(Debug, Default)]
struct State {
    quota: Option<u64>,
    /// The size that was found last, and when.
    size: Option<(Instant, u64)>,
    /// The largest file of all members, as it was told, and when.
    told: Option<(Instant, u64)>,
    /// Bytes that were written by this process since.
    written: u64,
    /// Bytes that are on their way.
    writing: u64,
    /// Bytes that were written just now, and when.
    lately: VecDeque<(Instant, u64)>,
    refusing: bool,
}

impl State {
    /// Takes a size in.
    fn found(&mut self, size: u64) {
        let told = self.told.filter(|(at, _)| at.elapsed() < TOLD_GOOD).map_or(0, |(_, told)| told);
        let size = size.max(told);
        self.size = Some((Instant::now(), size));
        self.written = 0;
        if let Some(bounds) = self.quota.map(Bounds::of) {
            self.refusing = size >= if self.refusing { bounds.resume } else { bounds.stop };
        }
    }

    fn forget(&mut self) {
        while self.lately.front().is_some_and(|(at, _)| at.elapsed() >= UNSEEN) {
            self.lately.pop_front();
        }
    }

    /// Bytes that no answer counts yet, with a quarter for the pages around them.
    fn unseen(&mut self) -> u64 {
        self.forget();
        let lately = self.lately.iter().map(|(_, bytes)| bytes).sum::<u64>();
        (self.writing + lately).saturating_mul(5) / 4
    }

    /// Whether the size must be asked for before more content is taken.
    fn is_unsure(&mut self) -> bool {
        let Some(bounds) = self.quota.map(Bounds::of) else { return false };
        let Some((at, size)) = self.size else { return true };
        let near = size.saturating_add(self.written.saturating_mul(WEIGHT)) >= bounds.stop;
        ((near || self.refusing) && at.elapsed() >= ASK_AGAIN) || self.must_wait()
    }

    /// Whether what is not counted yet may fill what is left for content.
    fn must_wait(&mut self) -> bool {
        let (Some(quota), Some((_, size))) = (self.quota, self.size) else { return false };
        !self.refusing && size.saturating_add(self.unseen()) >= Bounds::of(quota).stop
    }

    fn refusal(&self) -> Option<String> {
        let (quota, (_, size)) = (self.quota?, self.size?);
        let mib = |bytes: u64| bytes >> 20;
        self.refusing.then(|| {
            format!(
                "{} of {} MiB of etcd's quota are filled; the rest is kept for deletions, collection, logins and backups",
                mib(size),
                mib(quota)
            )
        })
    }
}

/// The room for content.
#[derive(Debug, Default)]
pub(crate) struct Room(Mutex<State>);

/// Bytes that are on their way for as long as this lives.
pub(crate) struct Writing<'a> {
    room: &'a Room,
    bytes: u64,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut state = self.room.0.lock();
        state.writing -= self.bytes;
        state.forget();
        state.lately.push_back((Instant::now(), self.bytes));
    }
}

impl Room {
    fn writing(&self, transaction: &Transaction) -> Writing<'_> {
        let bytes = transaction.writes.iter().map(|write| match write {
            Write::Put { key, value, .. } => key.len() + value.len(),
            Write::Delete(key) => key.len(),
        });
        let bytes = bytes.sum::<usize>() as u64;
        let mut state = self.0.lock();
        state.written = state.written.saturating_add(bytes);
        state.writing = state.writing.saturating_add(bytes);
        Writing { room: self, bytes }
    }
}

impl EtcdStore {
    /// Says how large the file of a member may become, in bytes. Content is refused in time from then on.
    pub fn set_quota(&self, bytes: u64) {
        self.room.0.lock().quota = Some(bytes);
    }

    /// Says how large the largest file of all members is, in bytes: the first that is full stops all.
    pub fn note_size(&self, bytes: u64) {
        let mut state = self.room.0.lock();
        state.told = Some((Instant::now(), bytes));
        state.found(bytes);
    }

    /// Why content is refused at this moment, if it is.
    pub fn full(&self) -> Option<String> {
        self.room.0.lock().refusal()
    }

    /// Refuses content when only what is kept for the rest is left. What it yields is to live until the transaction has ended.
    pub(crate) async fn check_room(
        &self,
        transaction: &Transaction,
    ) -> Result<Writing<'_>, StoreError> {
        if transaction.fills() {
            let began = Instant::now();
            while self.room.0.lock().is_unsure() {
                // What cannot be asked is found out by writing.
                let Ok(size) = self.maintenance().size_bytes().await else { break };
                self.room.0.lock().found(size);
                if !self.room.0.lock().must_wait() {
                    break;
                }
                if began.elapsed() >= WAIT_MAX {
                    let reason = "what is being written may fill etcd's quota".to_owned();
                    return Err(StoreError::Full { reason });
                }
                tokio::time::sleep(LOOK).await;
            }
            if let Some(reason) = self.full() {
                return Err(StoreError::Full { reason });
            }
        }
        Ok(self.room.writing(transaction))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_part_of_the_quota_is_kept() {
        assert_eq!(
            Bounds::of(8192 * MIB),
            Bounds { stop: 8192 * MIB * 19 / 20 + 1, resume: 8192 * MIB * 9 / 10 + 2 }
        );
        assert_eq!(Bounds::of(64 * MIB), Bounds { stop: 56 * MIB, resume: 48 * MIB });
        assert_eq!(Bounds::of(8 * MIB), Bounds { stop: 6 * MIB, resume: 4 * MIB });
    }

    #[test]
    fn content_does_not_come_and_go_at_the_bound() {
        let mut state = State { quota: Some(64 * MIB), ..State::default() };
        assert!(state.is_unsure(), "nothing is known yet");
        state.found(55 * MIB);
        assert_eq!(state.refusal(), None);
        state.written = MIB;
        state.size =
            state.size.map(|(at, size)| (at.checked_sub(ASK_AGAIN).expect("a past"), size));
        assert!(state.is_unsure(), "what was written may have filled it");
        state.found(56 * MIB);
        assert!(state.refusal().expect("refused").contains("56 of 64 MiB"));
        state.found(49 * MIB);
        assert!(state.refusal().is_some(), "not before there is clearly more room");
        state.found(47 * MIB);
        assert_eq!(state.refusal(), None);
        state.found(55 * MIB);
        assert_eq!(state.refusal(), None);
        state.told = Some((Instant::now(), 57 * MIB));
        state.found(30 * MIB);
        assert!(state.refusal().is_some(), "the fullest member counts");
    }

    #[test]
    fn what_is_not_counted_yet_is_waited_for() {
        let mut state = State { quota: Some(64 * MIB), ..State::default() };
        state.found(50 * MIB);
        assert!(!state.must_wait());
        state.writing = 2 * MIB;
        state.lately.push_back((Instant::now(), 3 * MIB));
        assert!(state.must_wait() && state.is_unsure(), "both may come beside the 50");
        let before = Instant::now().checked_sub(UNSEEN).expect("a past");
        state.lately = [(before, 3 * MIB)].into();
        assert!(!state.must_wait(), "that is counted by now");
    }

    #[test]
    fn without_a_quota_etcd_decides() {
        let mut state = State::default();
        state.found(u64::MAX);
        assert!(!state.is_unsure() && state.refusal().is_none());
    }
}
