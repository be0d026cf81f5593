//! How etcd's members are, as this replica sees them: one that does not answer for some seconds, one that cannot read its data,
//! and how many more may be lost. Each has a text of its own, with the way out.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use dtr_store::StoreError;
use dtr_store_etcd::member::MemberTrouble;
use tokio::sync::watch;

use crate::{Cluster, MemberView, majority, member_name};

/// How long a member may be silent, as one is that starts, before it is told.
const SILENT: Duration = Duration::from_secs(15);
/// Of what a member says of itself so much is told, in characters.
const TOLD_MAX: usize = 120;

/// What was seen of the members.
#[derive(Debug, Default)]
pub(crate) struct MembersSeen {
    /// How many vote.
    voters: usize,
    /// Those that do not answer: since when, and why.
    silent: HashMap<String, (Instant, String)>,
}

impl MembersSeen {
    fn look(&mut self, views: &[MemberView], at: Instant) {
        let voters: Vec<_> = views.iter().filter(|view| !view.facts.learner).collect();
        self.voters = voters.len();
        let before = std::mem::take(&mut self.silent);
        for view in voters {
            let Some(problem) = &view.problem else { continue };
            let since = before.get(&view.facts.name).map_or(at, |(since, _)| *since);
            self.silent.insert(view.facts.name.clone(), (since, problem.clone()));
        }
    }

    /// Those that have been silent for longer than a start takes, with their problems.
    fn lost(&self) -> Vec<(&str, &str)> {
        let lost = self.silent.iter().filter(|(_, (since, _))| since.elapsed() >= SILENT);
        let mut lost: Vec<_> = lost.map(|(name, (_, why))| (name.as_str(), why.as_str())).collect();
        lost.sort_unstable();
        lost
    }

    /// Which do not answer, and how many more may be lost.
    fn lack(&self) -> Option<String> {
        let lost = self.lost();
        let (first, _) = lost.first()?;
        let left = self.voters.saturating_sub(lost.len());
        let ids: Vec<_> = lost.iter().map(|(name, _)| id_of(name)).collect();
        let why = lost.iter().map(|(_, why)| short(why)).next().unwrap_or_default();
        let more = match left.checked_sub(majority(self.voters)) {
            None => "too few for a write".to_owned(),
            Some(0) => "none may be lost".to_owned(),
            Some(more) => format!("{more} more may be lost"),
        };
        Some(format!(
            "etcd of {} does not answer: {left} of {} left, {more} ({why}). Look at that machine; should it not come back, \
             take it out (dtr remove --replica-ids {}), then let another join",
            ids.join(", "),
            self.voters,
            id_of(first)
        ))
    }

    /// That there are as many as are no safer than one less.
    fn uneven(&self) -> Option<String> {
        let voters = self.voters;
        (voters > 0 && voters.is_multiple_of(2)).then(|| {
            format!(
                "{voters} replicas are no safer than {}: {}. Let another join (dtr join), or take one out (dtr remove)",
                voters - 1,
                match voters - majority(voters) {
                    0 => "none of them may be lost".to_owned(),
                    more => format!("{more} of them may be lost"),
                }
            )
        })
    }
}

fn id_of(name: &str) -> &str {
    name.trim_start_matches("dtr-")
}

fn short(why: &str) -> String {
    why.chars().take(TOLD_MAX).collect()
}

/// Why the etcd of a replica does not stay up, with the way out. `alone` is whether it is the only one that is known.
pub(crate) fn does_not_stay_up(trouble: &MemberTrouble, id: &str, alone: bool) -> String {
    let MemberTrouble { ended, why, damaged } = trouble;
    match (damaged, alone) {
        (false, _) => format!(
            "the etcd of this replica does not stay up: it has ended {ended} times, last with {}; the log has more",
            short(why)
        ),
        (true, false) => format!(
            "the etcd of this replica cannot read its data: {}. It does not mend by itself. While the others have a majority, \
             take this replica out through one of them (dtr remove --replica-ids {id}), then here: dtr destroy \
             --keep-storage, and dtr join; see docs/replicas.md, \"When an etcd cannot read its data\"",
            short(why)
        ),
        (true, true) => format!(
            "the etcd of this replica cannot read its data: {}. It does not mend by itself, and there is no other replica: \
             restore the last backup; see docs/replicas.md, \"When an etcd cannot read its data\"",
            short(why)
        ),
    }
}

/// What the supervisor says of the member of this replica.
pub(crate) type Troubles = Option<watch::Receiver<Option<MemberTrouble>>>;

impl Cluster {
    fn members_seen(&self) -> std::sync::MutexGuard<'_, MembersSeen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes down how the members are at this moment.
    pub(crate) async fn look_at_members(&self) {
        if !self.own_members {
            return;
        }
        // Without a majority nothing is known of them that was not told already.
        if let Ok(views) = self.members().await {
            self.members_seen().look(&views, Instant::now());
        }
    }

    /// What is wrong with the etcd of this replica, while the others' may well do its work.
    pub fn member_problem(&self) -> Option<String> {
        let trouble = self.member_trouble.as_ref().and_then(|trouble| trouble.borrow().clone());
        if let Some(trouble) = trouble {
            let alone =
                self.members_seen().voters < 2 && self.store.maintenance().endpoints().len() < 2;
            return Some(does_not_stay_up(&trouble, self.here.as_str(), alone));
        }
        let seen = self.members_seen();
        let own = member_name(&self.here);
        let (_, why) = seen.lost().into_iter().find(|(name, _)| *name == own)?;
        Some(format!(
            "the etcd of this replica does not answer: {}. It is frozen, or its disk is; this replica goes on through those of \
             the others. End it (its process id is in etcd/data.pid), and it is started again",
            short(why)
        ))
    }

    /// Which members do not answer, and how many more may be lost; `None` while all answer.
    pub fn lack(&self) -> Option<String> {
        self.members_seen().lack()
    }

    /// That one replica more, or less, would be better; `None` where the number is right.
    pub fn uneven(&self) -> Option<String> {
        self.members_seen().uneven()
    }

    /// Why the store does not answer, in words: the error tells of the member that was asked last, whichever that was.
    pub fn unavailable(&self, error: &StoreError) -> String {
        if !error.may_retry() {
            return error.to_string();
        }
        match self.member_problem() {
            Some(own) => {
                format!("no majority of the members of etcd follows a leader: {error}; and {own}")
            }
            None => format!("no majority of the members of etcd follows a leader: {error}"),
        }
    }
}

/// As clones of a [`Cluster`] share it.
pub(crate) type Seen = Arc<Mutex<MembersSeen>>;

#[cfg(test)]
mod tests {
    use dtr_store_etcd::MemberFacts;

    use super::*;

    fn view(n: u64, problem: Option<&str>, learner: bool) -> MemberView {
        let facts = MemberFacts {
            id: n,
            name: format!("dtr-00000000000{n}"),
            peer_urls: Vec::new(),
            client_urls: Vec::new(),
            learner,
        };
        MemberView { facts, problem: problem.map(ToOwned::to_owned), leader: false, status: None }
    }

    fn seen(views: &[MemberView], ago: Duration) -> MembersSeen {
        let mut seen = MembersSeen::default();
        let at = Instant::now().checked_sub(ago).expect("the machine runs longer");
        seen.look(views, at);
        seen
    }

    #[test]
    fn a_member_that_is_silent_for_some_seconds_is_told() {
        let three = [view(1, None, false), view(2, None, false), view(3, Some("refused"), false)];
        assert_eq!(seen(&three, Duration::from_secs(5)).lack(), None, "it may be starting");
        let mut long = seen(&three, SILENT);
        let told = long.lack().expect("told");
        let want = "etcd of 000000000003 does not answer: 2 of 3 left, none may be lost (refused)";
        assert!(told.starts_with(want), "{told}");
        assert_eq!(long.uneven(), None);
        long.look(&three, Instant::now());
        assert!(long.lack().is_some(), "it is silent since the first time");
        long.look(
            &[view(1, None, false), view(2, None, false), view(3, None, false)],
            Instant::now(),
        );
        assert_eq!(long.lack(), None);
    }

    #[test]
    fn how_many_may_be_lost_is_told() {
        let five: Vec<_> = (1..=5).map(|n| view(n, (n == 5).then_some("refused"), false)).collect();
        assert!(
            seen(&five, SILENT).lack().expect("told").contains("4 of 5 left, 1 more may be lost")
        );
        let two = [view(1, None, false), view(2, None, false), view(3, Some("new"), true)];
        let two = seen(&two, SILENT);
        assert_eq!(two.lack(), None, "one without a vote is none that is lost");
        let told = two.uneven().expect("told");
        assert!(
            told.contains("2 replicas are no safer than 1: none of them may be lost"),
            "{told}"
        );
    }

    #[test]
    fn the_way_out_is_one_that_there_is() {
        let trouble = MemberTrouble {
            ended: 3,
            why: "exit status: 2: invalid database".to_owned(),
            damaged: true,
        };
        let told = does_not_stay_up(&trouble, "000000000003", false);
        assert!(
            told.contains("invalid database")
                && told.contains("dtr remove --replica-ids 000000000003")
        );
        assert!(does_not_stay_up(&trouble, "1", true).contains("restore the last backup"));
        let told = does_not_stay_up(&MemberTrouble { damaged: false, ..trouble }, "1", false);
        assert!(told.contains("ended 3 times") && !told.contains("destroy"), "{told}");
    }
}
