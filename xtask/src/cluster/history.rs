//! What clients saw of one tag, and whether one register that is written and read at single moments could have shown it:
//! linearizability, by the search of Wing and Gong.

use std::collections::HashSet;

/// What was done to a tag. Values are numbers of manifests; none is that there is no such tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Write(u32),
    Read(Option<u32>),
}

/// One operation. Times are of one clock.
#[derive(Clone, Copy, Debug)]
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
    /// The most operations of the history that could be put in an order.
    Not(usize),
    /// Too many to tell.
    Unknown,
}

/// Checks the operations of one tag, which did not exist before.
pub fn check(operations: &[Operation]) -> Verdict {
    let read: HashSet<u32> = operations
        .iter()
        .filter_map(|operation| match operation.act {
            Act::Read(value) => value,
            Act::Write(_) => None,
        })
        .collect();
    // What was not answered and never seen need not have happened.
    let mut all: Vec<Operation> = operations
        .iter()
        .filter(|operation| match operation.act {
            Act::Write(value) => operation.ended.is_some() || read.contains(&value),
            Act::Read(_) => true,
        })
        .copied()
        .collect();
    all.sort_by_key(|operation| operation.began);
    let wanted = all.iter().filter(|operation| operation.ended.is_some()).count();
    let mut seen = HashSet::new();
    let mut most = 0;
    let mut stack = vec![State { done: vec![0; all.len().div_ceil(64)], first: 0, value: None }];
    while let Some(state) = stack.pop() {
        if seen.len() > STATES_MAX {
            return Verdict::Unknown;
        }
        let answered = all.iter().enumerate().filter(|(n, op)| op.ended.is_some() && state.has(*n));
        let count = answered.count();
        most = most.max(count);
        if count == wanted {
            return Verdict::Linearizable;
        }
        // Whatever comes next must have begun before everything that is left had ended.
        let left = all.iter().enumerate().skip(state.first).filter(|(n, _)| !state.has(*n));
        let bound = left.clone().filter_map(|(_, op)| op.ended).min().unwrap_or(u64::MAX);
        for (number, operation) in left.take_while(|(_, op)| op.began <= bound) {
            let value = match operation.act {
                Act::Write(value) => Some(value),
                Act::Read(value) if value == state.value => value,
                Act::Read(_) => continue,
            };
            let next = state.with(number, value);
            if seen.insert((next.done.clone(), next.value)) {
                stack.push(next);
            }
        }
    }
    Verdict::Not(most)
}

/// Operations that are in order, and what the tag names after them.
struct State {
    done: Vec<u64>,
    /// All before it are done.
    first: usize,
    value: Option<u32>,
}

impl State {
    fn has(&self, number: usize) -> bool {
        self.done[number / 64] & (1 << (number % 64)) != 0
    }

    fn with(&self, number: usize, value: Option<u32>) -> Self {
        let mut next = Self { done: self.done.clone(), first: self.first, value };
        next.done[number / 64] |= 1 << (number % 64);
        while next.first / 64 < next.done.len() && next.has(next.first) {
            next.first += 1;
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: u32, began: u64, ended: u64) -> Operation {
        Operation { act: Act::Write(value), began, ended: Some(ended) }
    }

    fn read(value: u32, began: u64, ended: u64) -> Operation {
        Operation { act: Act::Read(Some(value)), began, ended: Some(ended) }
    }

    #[test]
    fn what_one_register_could_show() {
        let none = Operation { act: Act::Read(None), began: 0, ended: Some(5) };
        assert_eq!(
            check(&[none, write(1, 2, 9), read(1, 4, 6), read(1, 10, 11)]),
            Verdict::Linearizable
        );
        let both = [write(1, 0, 10), write(2, 0, 10), read(2, 11, 12), read(2, 13, 14)];
        assert_eq!(check(&both), Verdict::Linearizable);
        let unanswered = Operation { act: Act::Write(3), began: 1, ended: None };
        assert_eq!(
            check(&[write(1, 0, 2), unanswered, read(1, 3, 4), read(3, 90, 91)]),
            Verdict::Linearizable
        );
        assert_eq!(check(&[write(1, 0, 2), unanswered, read(1, 3, 4)]), Verdict::Linearizable);
    }

    #[test]
    fn what_none_could() {
        // Older than what was acknowledged.
        assert_eq!(check(&[write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)]), Verdict::Not(2));
        // Back and forth.
        let both = [write(1, 0, 10), write(2, 0, 10), read(2, 11, 12), read(1, 13, 14)];
        assert!(matches!(check(&both), Verdict::Not(_)));
        // Gone.
        let none = Operation { act: Act::Read(None), began: 4, ended: Some(5) };
        assert!(matches!(check(&[write(1, 0, 1), none]), Verdict::Not(_)));
        // Before it was written.
        assert!(matches!(check(&[read(1, 0, 1), write(1, 2, 3)]), Verdict::Not(_)));
        // Never written.
        assert!(matches!(check(&[write(1, 0, 1), read(7, 2, 3)]), Verdict::Not(_)));
    }
}
