//! The other replicas as this one sees them: when it last saw that each lives, by its own time that nobody can set, and how
//! far their clocks are from its own. A heartbeat comes through the store; the moment at which it is seen is what counts, not
//! the time that stands in it. That time is only compared with this machine's.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use dtr_catalog::{Versioned, records::ReplicaRecord};
use dtr_types::{Doubt, ReplicaId, Revision, Timestamp, span};

/// A replica that was not seen to report for so long is late.
pub const REPORT_LATE: Duration = Duration::from_secs(90);
/// How far clocks may be apart before it is said, and before it matters; in milliseconds.
const SLIGHT: i64 = 5_000;
const WRONG: i64 = 60_000;
/// How long a report may have been on its way into the store; in milliseconds.
const COMMIT: i64 = 5_000;
/// After so long without a beat of anybody else, there is nobody to be compared with.
const NOBODY: Duration = Duration::from_secs(45);
/// Two clocks so close to each other say the same; in milliseconds.
const SAME: i64 = 20_000;

/// What was seen of the others.
#[derive(Clone, Debug, Default)]
pub struct Peers(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    since: Option<Instant>,
    looked: Option<Instant>,
    replicas: HashMap<ReplicaId, Peer>,
}

/// One of the others.
#[derive(Debug)]
struct Peer {
    revision: Revision,
    /// When its record was last seen to be another than before; none until that has happened once.
    beat: Option<Instant>,
    /// How far its clock is ahead of this one's, at least and at most, in milliseconds, as of the last beat.
    ahead: Option<(i64, i64)>,
    started_at: Timestamp,
}

/// What a look has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// What speaks against this machine's clock.
    pub doubt: Option<Doubt>,
    /// Whether there is another whose clock says the same.
    pub agrees: bool,
    /// Whether one has come that was not there before: it is told at once that this one lives, and what its clock says.
    pub has_newcomer: bool,
}

impl Peers {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes down what the records of the replicas say at this moment. `now` is this machine's clock, read after them.
    pub fn look(
        &self,
        here: &ReplicaId,
        records: &[Versioned<ReplicaRecord>],
        now: Timestamp,
    ) -> Look {
        self.look_at(here, records, now, Instant::now())
    }

    fn look_at(
        &self,
        here: &ReplicaId,
        records: &[Versioned<ReplicaRecord>],
        now: Timestamp,
        at: Instant,
    ) -> Look {
        let seen = &mut *self.seen();
        let since = *seen.since.get_or_insert(at);
        let before = seen.looked.replace(at).map_or(Duration::ZERO, |last| at - last);
        let others = || records.iter().filter(|record| record.value.id != *here);
        let mut has_newcomer = false;
        seen.replicas.retain(|id, _| records.iter().any(|record| record.value.id == *id));
        for record in others() {
            let (revision, started_at) = (record.modified, record.value.started_at);
            // It was written since the last look.
            let least = record.value.reported_at.millis() - now.millis();
            let unseen = i64::try_from(before.as_millis()).unwrap_or(i64::MAX);
            let bounds = (least, least.saturating_add(unseen).saturating_add(COMMIT));
            let new = || Peer { revision, beat: None, ahead: None, started_at };
            let is_known = seen.replicas.contains_key(&record.value.id);
            let peer = seen.replicas.entry(record.value.id.clone()).or_insert_with(new);
            has_newcomer |= peer.started_at != started_at || (!is_known && before > Duration::ZERO);
            if peer.revision != revision {
                peer.beat = Some(at);
                peer.ahead = Some(bounds);
            }
            (peer.revision, peer.started_at) = (revision, started_at);
            // A report that has yet to be written is proof enough.
            if peer.ahead.is_none() && least > SLIGHT {
                peer.ahead = Some((least, i64::MAX));
            }
        }
        let living = others().filter_map(|record| {
            let peer = seen.replicas.get(&record.value.id)?;
            let lives = peer.beat.is_none_or(|beat| at - beat <= REPORT_LATE);
            peer.ahead.filter(|_| lives).map(|ahead| (record.value.id.to_string(), ahead))
        });
        let living: Vec<_> = living.collect();
        let waits = others().count() > 0 && at - since < NOBODY;
        let (doubt, agrees) = judge(&living, waits);
        Look { doubt, agrees, has_newcomer }
    }

    /// Why a replica is taken for dead, or its clock for wrong; `None` while nothing speaks for that.
    pub fn problem(&self, record: &ReplicaRecord, now: Timestamp) -> Option<String> {
        let seen = self.seen();
        let peer = seen.replicas.get(&record.id);
        let ahead = peer.and_then(|peer| peer.ahead).map_or(0, |(least, _)| least);
        let late = match peer.and_then(|peer| peer.beat) {
            Some(beat) => beat.elapsed() > REPORT_LATE,
            // It was not seen yet by this process, for which its own time is the only sign.
            None => {
                now.since(record.reported_at) > REPORT_LATE
                    || seen.since.is_some_and(|since| since.elapsed() > REPORT_LATE)
            }
        };
        if late {
            let since = record.reported_at;
            return Some(match ahead > WRONG {
                false => format!("has not reported since {since}"),
                true => format!(
                    "has not reported for {} s at least; by its clock, which was ahead, since {since}",
                    REPORT_LATE.as_secs()
                ),
            });
        }
        (ahead > WRONG || peer.and_then(|peer| peer.ahead).is_some_and(|(_, most)| most < -WRONG))
            .then(|| {
                let (least, most) = peer.and_then(|peer| peer.ahead).unwrap_or_default();
                let by = if least > 0 { least } else { most };
                format!("its clock is {}", apart(by))
            })
    }

    /// Whether a replica was seen to report lately, by this process: what is needed where more than a display depends on it.
    pub fn was_seen(&self, id: &ReplicaId, within: Duration) -> bool {
        let beat = self.seen().replicas.get(id).and_then(|peer| peer.beat);
        beat.is_some_and(|beat| beat.elapsed() <= within)
    }
}

/// By how much another clock differs, from this one's point of view.
fn apart(ahead: i64) -> String {
    let way = if ahead > 0 { "ahead of" } else { "behind" };
    format!("{} {way} this machine's", span(ahead))
}

/// What the clocks of those that live say of this machine's: each is so far ahead, at least and at most.
fn judge(others: &[(String, (i64, i64))], waits: bool) -> (Option<Doubt>, bool) {
    if others.is_empty() {
        let early = "the clock of this machine was not compared with those of the other replicas yet, which takes some \
                     seconds after a start: try again then";
        return (waits.then(|| Doubt::Early(early.to_owned())), false);
    }
    // The distance that is certain.
    let distance = |(least, most): (i64, i64)| match (least > 0, most < 0) {
        (true, _) => least,
        (_, true) => most,
        _ => 0,
    };
    let near = others.iter().filter(|(_, ahead)| distance(*ahead).abs() <= SLIGHT).count();
    let Some((id, ahead)) = others.iter().max_by_key(|(_, ahead)| distance(*ahead).abs()) else {
        return (None, false);
    };
    let far = others.iter().filter(|(_, ahead)| distance(*ahead).abs() > WRONG);
    let far: Vec<_> = far.map(|(id, ahead)| (id, distance(*ahead))).collect();
    let list = |far: &[(&String, i64)]| {
        far.iter()
            .map(|(id, by)| format!("that of {id} is {}", apart(*by)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    // With this one, those that say about the same; and the most that agree with each other without it.
    let with_this = 1 + others.len() - far.len();
    let together = far
        .iter()
        .map(|(_, by)| far.iter().filter(|(_, other)| (by - other).abs() <= SAME).count());
    let against = together.max().unwrap_or(0);
    let doubt = if far.is_empty() {
        let by = distance(*ahead);
        (by.abs() > SLIGHT).then(|| {
            let text = format!(
                "the clock of replica {id} is {}: see that time synchronization runs on both (timedatectl)",
                apart(by)
            );
            Doubt::Slight(text)
        })
    } else if against > with_this {
        Some(Doubt::Wrong(format!(
            "the clock of this machine is wrong: {}. This replica takes no new work and none in the background, so that the \
             others do it: set its clock right (timedatectl, chronyc makestep), and it goes on by itself",
            list(&far)
        )))
    } else if against == with_this {
        Some(Doubt::Apart(format!(
            "the clocks of the replicas differ: {}. Which is right cannot be told, so nothing is deleted for its age: set the \
             wrong one right (timedatectl, chronyc makestep)",
            list(&far)
        )))
    } else {
        // The other one is wrong, and says so itself.
        None
    };
    let agrees = near > 0 && !matches!(doubt, Some(Doubt::Wrong(_) | Doubt::Apart(_)));
    (doubt, agrees)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn id(digit: u8) -> ReplicaId {
        digit.to_string().repeat(12).parse().expect("an id")
    }

    fn record(digit: u8, reported_at: Timestamp, revision: u64) -> Versioned<ReplicaRecord> {
        let value = ReplicaRecord {
            id: id(digit),
            address: String::new(),
            https_port: 443,
            http_port: 80,
            node: String::new(),
            version: String::new(),
            started_at: Timestamp::from_millis(1),
            reported_at,
            health: "OK".to_owned(),
            data_format: 1,
        };
        Versioned { value, modified: Revision(revision) }
    }

    fn judged(ahead: &[i64]) -> (Option<Doubt>, bool) {
        let others = ahead.iter().enumerate();
        let others: Vec<_> = others.map(|(n, by)| (format!("{n}"), (*by, by + 2000))).collect();
        judge(&others, false)
    }

    #[test]
    fn the_one_that_differs_from_those_that_agree_is_wrong() {
        assert_eq!(judged(&[]), (None, false));
        assert_eq!(judged(&[-1000, -1500]), (None, true));
        assert!(matches!(judged(&[8000, -1000]), (Some(Doubt::Slight(_)), true)));
        // Three: this one is six hours ahead; or another is.
        let (doubt, agrees) = judged(&[-6 * HOUR, -6 * HOUR]);
        assert!(doubt.as_ref().is_some_and(Doubt::is_wrong) && !agrees, "{doubt:?}");
        assert!(doubt.is_some_and(|doubt| doubt.text().contains("behind this machine's")));
        assert_eq!(judged(&[6 * HOUR, -1000]), (None, true));
        // Two, or three of which each says something else: nobody knows.
        assert!(matches!(judged(&[6 * HOUR]), (Some(Doubt::Apart(_)), false)));
        assert!(matches!(judged(&[6 * HOUR, -6 * HOUR]), (Some(Doubt::Apart(_)), false)));
        // Five: two agree with this one.
        assert_eq!(judged(&[0, 0, HOUR, HOUR]).0, None);
        assert!(judged(&[0, HOUR, HOUR, HOUR]).0.is_some_and(|doubt| doubt.is_wrong()));
    }

    /// Two replicas with right clocks and one that is six hours ahead, in looks of two seconds.
    #[test]
    fn clocks_are_compared_when_a_beat_is_seen() {
        let (begun, now) = (Instant::now(), Timestamp::from_millis(100 * HOUR));
        let (peers, second) = (Peers::default(), Duration::from_secs(1));
        let ahead = now.plus(Duration::from_secs(6 * 3600));
        let records =
            |n: u64, time: Timestamp| [record(1, time, n), record(2, now, n), record(3, ahead, n)];
        let first = peers.look_at(&id(1), &records(1, now), now, begun);
        assert!(matches!(first.doubt, Some(Doubt::Early(_) | Doubt::Apart(_))), "{first:?}");
        // As the third sees it: reports from long ago, which it has yet to see come.
        let third = Peers::default();
        let look = third.look_at(&id(3), &records(1, now), ahead, begun);
        assert!(matches!(look.doubt, Some(Doubt::Early(_))), "{look:?}");
        let (later, at) = (now.plus(2 * second), begun + 2 * second);
        let all = [record(1, later, 5), record(2, later, 6), record(3, ahead.plus(2 * second), 7)];
        let look = peers.look_at(&id(1), &all, later, at);
        assert_eq!((look.doubt, look.agrees), (None, true));
        let look = third.look_at(&id(3), &all, ahead.plus(2 * second), at);
        assert!(look.doubt.is_some_and(|doubt| doubt.is_wrong()));
        let problem = peers.problem(&all[2].value, later).expect("told");
        assert!(problem.contains("6 h ahead"), "{problem}");
        assert_eq!(peers.problem(&all[1].value, later), None);
    }

    /// What the clock of the dead one said does not count, but when it was last seen.
    #[test]
    fn one_that_was_ahead_is_late_as_soon_as_it_is_silent() {
        let Some(begun) = Instant::now().checked_sub(2 * REPORT_LATE) else { return };
        let (peers, now) = (Peers::default(), Timestamp::from_millis(100 * HOUR));
        let ahead = now.plus(Duration::from_secs(6 * 3600));
        peers.look_at(&id(1), &[record(3, ahead, 1)], now, begun);
        peers.look_at(&id(1), &[record(3, ahead, 2)], now, begun + Duration::from_secs(20));
        let problem = peers.problem(&record(3, ahead, 2).value, now).expect("it is late");
        assert!(problem.contains("has not reported"), "{problem}");
        assert!(!peers.was_seen(&id(3), REPORT_LATE));
    }

    #[test]
    fn with_nobody_left_there_is_nothing_to_compare() {
        let (peers, now, begun) = (Peers::default(), Timestamp::from_millis(HOUR), Instant::now());
        let all = [record(2, Timestamp::from_millis(0), 1)];
        assert!(peers.look_at(&id(1), &all, now, begun).doubt.is_some());
        assert_eq!(peers.look_at(&id(1), &all, now, begun + NOBODY).doubt, None);
        assert_eq!(Peers::default().look_at(&id(1), &[], now, begun).doubt, None, "alone");
    }
}
