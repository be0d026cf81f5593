//! Looking after the files of the members, once per cluster: history that nobody needs is given up before it fills the
//! quota, files are written anew without the room that it left, and an alarm is taken back once there is room again.

use std::{sync::PoisonError, time::Duration};

use dtr_store::{Store as _, StoreError, hold};
use dtr_store_etcd::{AlarmKind, MemberStatus};

use crate::{Cluster, ClusterError, MemberView, member_name};

/// Below this a file is left alone, whatever is unused in it.
const SMALL: u64 = 64 << 20;
/// How long a member may take to be well again after its file was written anew.
const WELL_MAX: Duration = Duration::from_secs(30);
/// How often it is looked at until then.
const LOOK: Duration = Duration::from_millis(100);

/// What is done about one member's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct File {
    size: u64,
    in_use: u64,
    quota: u64,
}

impl File {
    fn of(status: &MemberStatus, quota: u64) -> Self {
        Self { size: status.size_bytes, in_use: status.size_in_use_bytes, quota }
    }

    fn percent_of_quota(bytes: u64, quota: u64) -> u64 {
        bytes.saturating_mul(100) / quota.max(1)
    }

    /// So much is in use that history is not kept for its usual time.
    fn is_crowded(self) -> bool {
        Self::percent_of_quota(self.in_use, self.quota) >= 80
    }

    /// Whether writing it anew is worth that its member answers nobody meanwhile.
    fn is_worth_it(self, full: bool) -> bool {
        let unused = self.size.saturating_sub(self.in_use);
        let nearly = Self::percent_of_quota(self.size, self.quota) >= 80;
        // Also while content is refused.
        if full {
            unused > self.size / 20
        } else {
            (self.size > SMALL && unused > self.in_use) || (nearly && unused > self.size / 4)
        }
    }

    /// Whether there is room again for what was refused.
    fn has_room(self) -> bool {
        Self::percent_of_quota(self.size, self.quota) < 98
    }
}

fn says_full(status: &MemberStatus) -> bool {
    status.errors.iter().any(|error| error.contains("NOSPACE"))
}

/// What an operator is told of a member, if there is anything to tell.
fn trouble(
    status: &MemberStatus,
    quota: Option<u64>,
    refused: Option<String>,
    larger: Option<u64>,
) -> Option<String> {
    let mib = |bytes: u64| bytes >> 20;
    let way_out = match larger {
        Some(larger) => format!(
            "a larger quota of {} MiB is saved and waits for the restart of this replica: on its machine, dtr reconfigure \
             --data-dir DIR --restart",
            mib(larger)
        ),
        None => "give each replica a larger quota, one after the other and each on its own machine: dtr reconfigure --data-dir DIR \
                 --etcd-quota-mib N --restart"
            .to_owned(),
    };
    match (quota, refused) {
        (Some(quota), _) if says_full(status) => Some(format!(
            "the quota of etcd is full ({} of {} MiB, alarm NOSPACE): writes are refused, reads go on. Replicas make room by \
             themselves where history is in the way; when this stays for more than a minute, {way_out}",
            mib(status.size_bytes),
            mib(quota)
        )),
        (Some(_), Some(refused)) => Some(format!(
            "pushes are refused: {refused}. Delete images (\"dtr tag delete --with-image\") or repositories that nobody needs, or \
             {way_out}"
        )),
        (Some(quota), None) if File::of(status, quota).is_crowded() => Some(format!(
            "etcd is almost full: {} of {} MiB are in use; delete images (\"dtr tag delete --with-image\") or repositories that \
             nobody needs, or {way_out}",
            mib(status.size_in_use_bytes),
            mib(quota)
        )),
        (None, _) if says_full(status) => Some(
            "the quota of etcd is full (alarm NOSPACE): writes are refused, reads go on. Defragment its members one after \
             the other and take the alarm back (etcdctl defrag, etcdctl alarm disarm), or start them with a larger \
             --quota-backend-bytes"
                .to_owned(),
        ),
        _ => None,
    }
}

impl Cluster {
    /// Says which quota is saved for the next start of this replica, so that what is told of a full one is what is still to be done.
    pub fn quota_saved(&self, bytes: Option<u64>) {
        *self.saved_quota.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
    }

    fn larger_quota(&self) -> Option<u64> {
        let saved = *self.saved_quota.lock().unwrap_or_else(PoisonError::into_inner);
        saved.filter(|saved| self.quota.is_some_and(|quota| *saved > quota))
    }

    /// What is wrong with etcd although it answers, in words; as of the last look.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the members, and at that of this replica, or at the etcd that was given, for [`Cluster::trouble`] and
    /// [`Cluster::lack`].
    pub async fn look(&self) {
        self.look_at_members().await;
        let maintenance = self.store.maintenance();
        // The nearest comes first.
        let Some(url) = maintenance.endpoints().into_iter().next() else { return };
        // That it does not answer is told elsewhere.
        let Ok(status) = maintenance.status(&url).await else { return };
        // The first that is full stops all; of those that do not answer nothing is known.
        let members = self.members().await.unwrap_or_default();
        let sizes = members.iter().filter_map(|view| view.status.as_ref());
        let size = sizes.map(|status| status.size_bytes).max().unwrap_or(status.size_bytes);
        self.store.note_size(size);
        let now = trouble(&status, self.quota, self.store.full(), self.larger_quota());
        let mut told = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*told, &now) {
            (None, Some(trouble)) => tracing::error!("{trouble}"),
            (Some(_), None) => tracing::info!("there is room in etcd again"),
            _ => {}
        }
        *told = now;
    }

    /// Whether this replica's member leads: one of all, also when nothing can be written.
    pub async fn leads(&self) -> bool {
        let own = member_name(&self.here);
        self.members().await.is_ok_and(|members| {
            members.iter().any(|member| member.leader && member.facts.name == own)
        })
    }

    /// Looks after the members' files. For one replica of the cluster at a time.
    ///
    /// # Errors
    /// When members do not answer; what was begun goes on at the next run.
    pub async fn keep_up(&self) -> Result<(), ClusterError> {
        let Some(quota) = self.quota else { return Ok(()) };
        let mut views = self.members().await?;
        let full = views.iter().filter_map(|view| view.status.as_ref()).any(says_full);
        // Nobody can push: that is worth the same effort.
        let refusing = self.store.full().is_some();
        if !full && views.iter().any(|view| view.status.is_none() || view.facts.learner) {
            // One less would be too few.
            return Ok(());
        }
        let files = |views: &[MemberView]| -> Vec<File> {
            views.iter().filter_map(|v| v.status.as_ref()).map(|s| File::of(s, quota)).collect()
        };
        let mut forgot = false;
        if full || refusing || files(&views).iter().any(|file| file.is_crowded()) {
            forgot = self.forget_history(&views).await?;
            views = self.members().await?;
        }
        // The leader last: whoever waits for it waits once.
        views.sort_by_key(|view| view.leader);
        // Of a full one nothing can be written while a member is away either, and that may be for long: then reads wait for
        // as long as it takes. One that falls silent only now is waited for.
        let silent = |views: &[MemberView]| views.iter().filter(|v| v.status.is_none()).count();
        let silent_before = silent(&views);
        for member in views.iter().map(|view| view.facts.id) {
            // Who leads may have changed with the one before.
            let views = self.members().await?;
            if silent(&views) > silent_before {
                tracing::warn!(
                    "a member does not answer: the files of the others are written anew when it does"
                );
                return Ok(());
            }
            let Some(view) = views.iter().find(|view| view.facts.id == member) else { continue };
            let Some(status) = &view.status else { continue };
            // A full etcd commits nothing, and so does not count what was just given up.
            if (full && forgot) || File::of(status, quota).is_worth_it(full || refusing) {
                self.write_anew(view, &views).await?;
            }
        }
        if full {
            let files = files(&self.members().await?);
            if files.iter().all(|file| file.has_room()) {
                let maintenance = self.store.maintenance();
                for alarm in maintenance.alarms().await? {
                    if alarm.kind == AlarmKind::NoSpace {
                        maintenance.disarm(alarm).await?;
                    }
                }
                tracing::info!("the quota of etcd was full; there is room again, and writes go on");
            }
        }
        self.look().await;
        Ok(())
    }

    /// Gives up all history that no hold keeps; yields whether there was any. Watches that have not caught up are told, and
    /// begin anew.
    async fn forget_history(&self, views: &[MemberView]) -> Result<bool, ClusterError> {
        let store = &*self.store;
        let unavailable = |error: StoreError| ClusterError::Catalog(error.into());
        let latest = store.revision().await.map_err(unavailable)?;
        let before = store.status().await.map_err(unavailable)?.compacted;
        let held = hold::oldest(store).await.map_err(unavailable)?;
        let to = held.map_or(latest, |held| held.min(latest));
        // First where it is waited for: what was compacted already is not waited for any more. The others follow by
        // themselves, and have their turn at the next run where they are late.
        let leader = views.iter().find(|view| view.leader).or(views.first());
        if let Some(url) = leader.and_then(MemberView::url) {
            store.maintenance().compact_and_wait(url, to).await?;
        }
        store.compact(to).await.map_err(unavailable)?;
        tracing::debug!(revision = %to, "history of the store was given up for room");
        Ok(to > before)
    }

    /// Has one member write its file anew, and waits until it is well.
    async fn write_anew(&self, view: &MemberView, all: &[MemberView]) -> Result<(), ClusterError> {
        let maintenance = self.store.maintenance();
        let Some(url) = view.url() else { return Ok(()) };
        if view.leader
            && let Some(other) =
                all.iter().find(|v| !v.leader && !v.facts.learner && v.status.is_some())
        {
            // Nobody has to wait for an election.
            maintenance.move_leader(url, other.facts.id).await?;
        }
        let before = view.status.as_ref().map_or(0, |status| status.size_bytes);
        maintenance.defragment(url).await?;
        let end = tokio::time::Instant::now() + WELL_MAX;
        let after = loop {
            match maintenance.status(url).await {
                Ok(status) if status.leader.is_some() => break status.size_bytes,
                Err(error) if tokio::time::Instant::now() >= end => return Err(error.into()),
                _ if tokio::time::Instant::now() >= end => break 0,
                _ => tokio::time::sleep(LOOK).await,
            }
        };
        tracing::info!(member = view.facts.name, before, after, "its file was written anew");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn file(size: u64, in_use: u64) -> File {
        File { size: size * MIB, in_use: in_use * MIB, quota: 1000 * MIB }
    }

    #[test]
    fn a_file_is_written_anew_when_that_is_worth_it() {
        assert!(!file(60, 1).is_worth_it(false), "small");
        assert!(!file(100, 51).is_worth_it(false), "more than half is in use");
        assert!(file(100, 49).is_worth_it(false));
        assert!(file(900, 600).is_worth_it(false), "the quota is near");
        assert!(!file(900, 700).is_worth_it(false));
        assert!(file(900, 800).is_worth_it(true), "full: any room counts");
        assert!(!file(900, 890).is_worth_it(true), "there is none to be had");
    }

    #[test]
    fn room_is_told_from_none() {
        assert!(file(979, 979).has_room());
        assert!(!file(980, 1).has_room());
        assert!(file(900, 800).is_crowded() && !file(900, 799).is_crowded());
    }
}
