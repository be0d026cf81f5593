//! What clients saw of some tags, and whether registers that are written and read at single moments could have shown it:
//! linearizability, by the search of Wing and Gong. A backup is a read of all registers at one moment.

use std::collections::{BTreeMap, HashSet};

/// What was done. A tag is a number, a value that of a manifest; no value is that there is no such tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    Write(usize, u32),
    Read(usize, Option<u32>),
    /// Every tag that there was, and what it named.
    All(BTreeMap<usize, u32>),
}

/// One operation. Times are of one clock.
#[derive(Clone, Debug)]
pub struct Operation {
    pub act: Act,
    pub began: u64,
    /// When it was answered; `None` for a write without an answer, which may have happened at any time since, or never.
    pub ended: Option<u64>,
}

/// How many states are looked at before the search is given up.
const STATES_MAX: usize = 5_000_000;

/// What came of a check.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    /// The most operations of the history that could be put in an order, and the first that then could not.
    Not(usize, String),
    /// Too many to tell.
    Unknown,
}

/// Checks the operations on tags of which none existed before.
pub fn check(operations: &[Operation]) -> Verdict {
    let mut search = Search::over(operations);
    let mut frames = vec![Frame { applied: search.settle(Vec::new()), choices: search.choices() }];
    let (mut seen, mut states) = (HashSet::new(), 0_usize);
    let (mut most, mut stuck) = (0, String::new());
    loop {
        if search.answered == search.wanted {
            return Verdict::Linearizable;
        }
        if search.answered >= most {
            most = search.answered;
            stuck = search.first_stuck();
        }
        let Some(frame) = frames.last_mut() else { return Verdict::Not(most, stuck) };
        let Some(choice) = frame.choices.pop() else {
            if let Some(frame) = frames.pop() {
                search.undo(&frame.applied);
            }
            continue;
        };
        states += 1;
        if states > STATES_MAX {
            return Verdict::Unknown;
        }
        let applied = search.write(choice);
        if seen.insert(search.key()) {
            frames.push(Frame { applied, choices: search.choices() });
        } else {
            search.undo(&applied);
        }
    }
}

/// What was put in its place at a step of the search, and which writes may come next; the last of them first.
struct Frame {
    applied: Vec<Applied>,
    choices: Vec<usize>,
}

/// An operation in its place; a write with what its tag had named before.
struct Applied {
    number: usize,
    before: Option<u32>,
}

/// Operations of which some are in an order, and what the tags name after them.
struct Search {
    all: Vec<Operation>,
    /// Of each that reads all tags: what [`Search::print`] has to be.
    prints: Vec<u128>,
    done: Vec<bool>,
    /// All before it are done.
    first: usize,
    values: BTreeMap<usize, u32>,
    /// Of the values, whatever the order they came in.
    print: u128,
    answered: usize,
    wanted: usize,
}

impl Search {
    fn over(operations: &[Operation]) -> Self {
        let mut read = HashSet::new();
        for operation in operations {
            match &operation.act {
                Act::Write(..) => {}
                Act::Read(_, value) => read.extend(*value),
                Act::All(values) => read.extend(values.values().copied()),
            }
        }
        // What was not answered and never seen need not have happened.
        let happened = |operation: &&Operation| match operation.act {
            Act::Write(_, value) => operation.ended.is_some() || read.contains(&value),
            Act::Read(..) | Act::All(_) => operation.ended.is_some(),
        };
        let mut all: Vec<Operation> = operations.iter().filter(happened).cloned().collect();
        all.sort_by_key(|operation| operation.began);
        let prints = all.iter().map(|operation| match &operation.act {
            Act::All(values) => values.iter().fold(0, |all, (tag, value)| all ^ mix(*tag, *value)),
            Act::Write(..) | Act::Read(..) => 0,
        });
        Self {
            prints: prints.collect(),
            done: vec![false; all.len()],
            first: 0,
            values: BTreeMap::new(),
            print: 0,
            answered: 0,
            wanted: all.iter().filter(|operation| operation.ended.is_some()).count(),
            all,
        }
    }

    /// Those that may come next: they began before everything that is left had ended.
    fn window(&self) -> Vec<usize> {
        let (mut window, mut bound) = (Vec::new(), u64::MAX);
        for number in self.first..self.all.len() {
            if self.all[number].began > bound {
                break;
            }
            if !self.done[number] {
                window.push(number);
                bound = bound.min(self.all[number].ended.unwrap_or(u64::MAX));
            }
        }
        // The first ones were let in before the bound was known.
        window.retain(|number| self.all[*number].began <= bound);
        window
    }

    /// The writes that may come next, the one that ended first last.
    fn choices(&self) -> Vec<usize> {
        let mut writes = self.window();
        writes.retain(|number| matches!(self.all[*number].act, Act::Write(..)));
        writes.sort_by_key(|number| std::cmp::Reverse(self.all[*number].ended.unwrap_or(u64::MAX)));
        writes
    }

    fn shows(&self, number: usize) -> bool {
        match &self.all[number].act {
            Act::Write(..) => false,
            Act::Read(tag, value) => self.values.get(tag) == value.as_ref(),
            Act::All(_) => self.prints[number] == self.print,
        }
    }

    /// Puts every read that shows what is now in its place: as it changes nothing, no other place is better.
    fn settle(&mut self, mut applied: Vec<Applied>) -> Vec<Applied> {
        loop {
            let fits: Vec<_> = self.window().into_iter().filter(|n| self.shows(*n)).collect();
            if fits.is_empty() {
                return applied;
            }
            for number in fits {
                self.mark(number);
                applied.push(Applied { number, before: None });
            }
        }
    }

    fn mark(&mut self, number: usize) {
        self.done[number] = true;
        self.answered += usize::from(self.all[number].ended.is_some());
        while self.done.get(self.first) == Some(&true) {
            self.first += 1;
        }
    }

    fn write(&mut self, number: usize) -> Vec<Applied> {
        let mut before = None;
        if let Act::Write(tag, value) = self.all[number].act {
            before = self.set(tag, Some(value));
        }
        self.mark(number);
        self.settle(vec![Applied { number, before }])
    }

    fn set(&mut self, tag: usize, value: Option<u32>) -> Option<u32> {
        let before = match value {
            Some(value) => self.values.insert(tag, value),
            None => self.values.remove(&tag),
        };
        for value in [before, value].into_iter().flatten() {
            self.print ^= mix(tag, value);
        }
        before
    }

    fn undo(&mut self, applied: &[Applied]) {
        for one in applied.iter().rev() {
            if let Act::Write(tag, _) = self.all[one.number].act {
                self.set(tag, one.before);
            }
            self.done[one.number] = false;
            self.answered -= usize::from(self.all[one.number].ended.is_some());
            self.first = self.first.min(one.number);
        }
    }

    /// The same for the same operations done and the same values.
    fn key(&self) -> (usize, Vec<u64>, u128) {
        let mut bits = Vec::new();
        let last = self.window().last().copied().unwrap_or(self.first);
        for (place, done) in self.done[self.first.min(last)..last].iter().enumerate() {
            if place % 64 == 0 {
                bits.push(0);
            }
            if let (true, Some(word)) = (*done, bits.last_mut()) {
                *word |= 1 << (place % 64);
            }
        }
        (self.first, bits, self.print)
    }

    /// What has to come next and does not fit.
    fn first_stuck(&self) -> String {
        let first =
            self.window().into_iter().min_by_key(|n| self.all[*n].ended.unwrap_or(u64::MAX));
        let Some(number) = first else { return String::new() };
        let operation = &self.all[number];
        let (from, to) = (operation.began / 1_000_000, operation.ended.map(|at| at / 1_000_000));
        let differs = match &operation.act {
            Act::All(values) => {
                let tags: HashSet<_> = values.keys().chain(self.values.keys()).collect();
                let other = tags.into_iter().filter(|tag| values.get(tag) != self.values.get(tag));
                let told = other
                    .map(|t| format!("{t}: {:?}, not {:?}", values.get(t), self.values.get(t)));
                format!("a backup that differs in {:?}", told.take(5).collect::<Vec<_>>())
            }
            Act::Read(tag, _) => format!("{:?} where {:?} is", operation.act, self.values.get(tag)),
            Act::Write(..) => format!("{:?}", operation.act),
        };
        format!("{differs}, from {from} ms to {to:?} ms")
    }
}

/// A number for a tag's value that no other has, as far as can be told.
fn mix(tag: usize, value: u32) -> u128 {
    let half = |salt: u64| {
        let mut n = salt ^ ((tag as u64) << 32 | u64::from(value));
        for factor in [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb_u64] {
            n = (n ^ n >> 30).wrapping_add(salt).wrapping_mul(factor);
        }
        u128::from(n ^ n >> 31)
    };
    half(0x1234_5678_9abc_def1) << 64 | half(0x0fed_cba9_8765_4321)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: u32, began: u64, ended: u64) -> Operation {
        Operation { act: Act::Write(0, value), began, ended: Some(ended) }
    }

    fn other(value: u32, began: u64, ended: u64) -> Operation {
        Operation { act: Act::Write(1, value), began, ended: Some(ended) }
    }

    fn read(value: u32, began: u64, ended: u64) -> Operation {
        Operation { act: Act::Read(0, Some(value)), began, ended: Some(ended) }
    }

    fn all(values: &[(usize, u32)], began: u64, ended: u64) -> Operation {
        let values = values.iter().copied().collect();
        Operation { act: Act::All(values), began, ended: Some(ended) }
    }

    #[test]
    fn what_one_register_could_show() {
        let none = Operation { act: Act::Read(0, None), began: 0, ended: Some(5) };
        assert_eq!(
            check(&[none, write(1, 2, 9), read(1, 4, 6), read(1, 10, 11)]),
            Verdict::Linearizable
        );
        let both = [write(1, 0, 10), write(2, 0, 10), read(2, 11, 12), read(2, 13, 14)];
        assert_eq!(check(&both), Verdict::Linearizable);
        let unanswered = Operation { act: Act::Write(0, 3), began: 1, ended: None };
        assert_eq!(
            check(&[write(1, 0, 2), unanswered.clone(), read(1, 3, 4), read(3, 90, 91)]),
            Verdict::Linearizable
        );
        assert_eq!(check(&[write(1, 0, 2), unanswered, read(1, 3, 4)]), Verdict::Linearizable);
    }

    fn is_not(operations: &[Operation]) {
        let verdict = check(operations);
        assert!(matches!(verdict, Verdict::Not(..)), "{verdict:?}");
    }

    #[test]
    fn what_none_could() {
        // Older than what was acknowledged.
        is_not(&[write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)]);
        // Back and forth.
        is_not(&[write(1, 0, 10), write(2, 0, 10), read(2, 11, 12), read(1, 13, 14)]);
        // Gone.
        let none = Operation { act: Act::Read(0, None), began: 4, ended: Some(5) };
        is_not(&[write(1, 0, 1), none]);
        // Before it was written.
        is_not(&[read(1, 0, 1), write(1, 2, 3)]);
        // Never written.
        is_not(&[write(1, 0, 1), read(7, 2, 3)]);
    }

    #[test]
    fn a_backup_shows_one_moment() {
        let writes = [write(1, 0, 2), other(2, 3, 9), write(3, 4, 10), write(4, 20, 21)];
        let with = |seen: Operation| [&writes[..], &[seen]].concat();
        for shown in [
            all(&[(0, 1)], 3, 12),
            all(&[(0, 1), (1, 2)], 3, 12),
            all(&[(0, 3)], 3, 12),
            all(&[(0, 3), (1, 2)], 3, 12),
            all(&[], 0, 1),
        ] {
            assert_eq!(check(&with(shown)), Verdict::Linearizable);
        }
        // An acknowledged write is missing; one that came later is in it; two that were never there together.
        is_not(&with(all(&[(0, 1)], 11, 12)));
        is_not(&with(all(&[(0, 4), (1, 2)], 3, 12)));
        is_not(&with(all(&[(1, 2)], 3, 12)));
        // Two backups cannot see two writes in two orders.
        let first = all(&[(0, 1), (1, 2)], 3, 12);
        is_not(&[&with(first)[..], &[all(&[(0, 3)], 3, 12)]].concat());
    }
}
