//! What is known of the present state: some keys with their values, and the spans in which no other keys are.
//!
//! Only what was read is known, and only as much of it as there is room for. A span is a range of keys, `[start, end)`; all
//! keys in it that exist are among the items. So an absent key can be known as well, and a page.
//!
//! What is read from etcd in order to be known belongs to an earlier moment than the one at which it arrives. A *fill* is
//! announced before the reading; it is taken over up to the first key that has changed meanwhile.
//!
//! What is written becomes known without being read: it is likely to be read next, and first to go when it is not.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use dtr_store::{Event, EventKind, KeyValue};

/// What an item takes beside its key and value, roughly.
const ITEM_BYTES: usize = 192;
/// What a span takes beside its ends.
const SPAN_BYTES: usize = 128;
/// What is larger than this part of all room is not worth it.
const SHARE: usize = 16;

/// Whether `key` comes before an end; an empty one is that of all keys.
fn before(key: &[u8], end: &[u8]) -> bool {
    end.is_empty() || key < end
}

/// The key after `key`.
pub(super) fn after(key: &[u8]) -> Bytes {
    [key, b"\0"].concat().into()
}

struct Item {
    kv: KeyValue,
    /// Whether it was asked for since the hand went by.
    used: AtomicBool,
}

struct Fill {
    start: Bytes,
    end: Bytes,
    /// The first key in it that has changed since.
    changed: Option<Bytes>,
}

impl Fill {
    fn change(&mut self, key: &Bytes) {
        let inside = *key >= self.start && before(key, &self.end);
        if inside && self.changed.as_ref().is_none_or(|changed| key < changed) {
            self.changed = Some(key.clone());
        }
    }
}

/// Items in order, and whether there are more.
pub(super) type Found = (Vec<KeyValue>, bool);

pub(super) struct Known {
    items: BTreeMap<Bytes, Item>,
    /// From start to end; they do not touch.
    spans: BTreeMap<Bytes, Bytes>,
    fills: HashMap<u64, Fill>,
    fills_begun: u64,
    bytes: usize,
    bytes_max: usize,
    /// Where room is looked for next.
    hand: Bytes,
    /// Prefixes of which nothing is known just because it was written.
    left: Vec<Bytes>,
}

impl Known {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            items: BTreeMap::new(),
            spans: BTreeMap::new(),
            fills: HashMap::new(),
            fills_begun: 0,
            bytes: 0,
            bytes_max,
            hand: Bytes::new(),
            left: Vec::new(),
        }
    }

    /// What is written below a prefix is not worth knowing.
    pub(super) fn leave(&mut self, prefix: Bytes) {
        if !self.left.contains(&prefix) {
            self.left.push(prefix);
        }
    }

    /// Forgets everything, also what is being read.
    pub(super) fn clear(&mut self) {
        self.items.clear();
        self.spans.clear();
        self.bytes = 0;
        self.fills.values_mut().for_each(|fill| fill.changed = Some(fill.start.clone()));
    }

    /// Items, and their bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.items.len(), self.bytes)
    }

    fn span_of(&self, key: &[u8]) -> Option<(&Bytes, &Bytes)> {
        let (start, end) =
            self.spans.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        before(key, end).then_some((start, end))
    }

    /// The key, or that it is absent; nothing if it is not known.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<KeyValue>> {
        match self.items.get(key) {
            Some(item) => {
                item.used.store(true, Ordering::Relaxed);
                Some(Some(item.kv.clone()))
            }
            None => self.span_of(key).map(|_| None),
        }
    }

    /// Keys in `[start, end)`, at most `limit`, and no more when their values pass `bytes_max`; nothing unless all that has
    /// to be known for it is.
    pub(super) fn page(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
        bytes_max: usize,
    ) -> Option<Found> {
        if !before(start, end) {
            return Some((Vec::new(), false));
        }
        let (_, known_to) = self.span_of(start)?;
        let (mut items, mut bytes) = (Vec::new(), 0);
        for (key, item) in self.items.range::<[u8], _>((Bound::Included(start), Bound::Unbounded)) {
            if !before(key, end) || !before(key, known_to) {
                break;
            }
            if items.len() == limit || bytes >= bytes_max {
                return Some((items, true));
            }
            item.used.store(true, Ordering::Relaxed);
            bytes += key.len() + item.kv.value.len();
            items.push(item.kv.clone());
        }
        let whole = known_to.is_empty() || (!end.is_empty() && end <= &known_to[..]);
        whole.then_some((items, false))
    }

    /// Takes over what changed at one revision.
    pub(super) fn apply(&mut self, events: Vec<Event>) {
        for event in events {
            self.fills.values_mut().for_each(|fill| fill.change(&event.key));
            let used = self.take(&event.key);
            let EventKind::Put(kv) = event.kind else { continue };
            if self.span_of(&event.key).is_none() {
                let left = self.left.iter().any(|prefix| kv.key.starts_with(prefix));
                if left || item_bytes(&kv) > self.bytes_max / SHARE {
                    continue;
                }
                self.cover(event.key.clone(), after(&event.key));
            }
            self.put(kv, used.unwrap_or(false));
        }
        self.make_room();
    }

    fn put(&mut self, kv: KeyValue, used: bool) {
        self.take(&kv.key);
        self.bytes += item_bytes(&kv);
        let used = AtomicBool::new(used);
        self.items.insert(kv.key.clone(), Item { kv, used });
    }

    /// Removes an item; says whether it was used.
    fn take(&mut self, key: &[u8]) -> Option<bool> {
        let item = self.items.remove(key)?;
        self.bytes -= item_bytes(&item.kv);
        Some(item.used.into_inner())
    }

    /// Announces that `[start, end)` will be read.
    pub(super) fn begin_fill(&mut self, start: Bytes, end: Bytes) -> u64 {
        self.fills_begun += 1;
        self.fills.insert(self.fills_begun, Fill { start, end, changed: None });
        self.fills_begun
    }

    /// It was not read.
    pub(super) fn give_up(&mut self, fill: u64) {
        self.fills.remove(&fill);
    }

    /// It was read, up to `end` at most: these items are all.
    pub(super) fn fill(&mut self, fill: u64, mut end: Bytes, items: &[KeyValue]) {
        let Some(fill) = self.fills.remove(&fill) else { return };
        if let Some(changed) = fill.changed
            && before(&changed, &end)
        {
            end = changed;
        }
        let some = items.iter().filter(|kv| before(&kv.key, &end));
        let bytes: usize = some.clone().map(item_bytes).sum();
        if !before(&fill.start, &end) || bytes > self.bytes_max / SHARE {
            return;
        }
        self.cover(fill.start, end.clone());
        for kv in some {
            self.put(kv.clone(), false);
        }
        self.make_room();
    }

    /// Makes `[start, end)` a span, one with those that it touches.
    fn cover(&mut self, mut start: Bytes, mut end: Bytes) {
        let first = self.spans.range::<Bytes, _>(..=&start).next_back();
        if let Some((from, to)) = first
            && (to.is_empty() || *to >= start)
        {
            start = from.clone();
        }
        loop {
            let next = self.spans.range::<Bytes, _>(&start..).next();
            let Some((from, to)) = next.map(|(from, to)| (from.clone(), to.clone())) else { break };
            if !end.is_empty() && from > end {
                break;
            }
            if to.is_empty() || (!end.is_empty() && to > end) {
                end.clone_from(&to);
            }
            self.remove_span(&from);
        }
        self.add_span(start, end);
    }

    fn add_span(&mut self, start: Bytes, end: Bytes) {
        self.bytes += SPAN_BYTES + start.len() + end.len();
        self.spans.insert(start, end);
    }

    fn remove_span(&mut self, start: &Bytes) {
        if let Some(end) = self.spans.remove(start) {
            self.bytes -= SPAN_BYTES + start.len() + end.len();
        }
    }

    /// Forgets until there is room: the hand goes round, and what was not asked for since it was there last goes.
    fn make_room(&mut self) {
        while self.bytes > self.bytes_max && !self.spans.is_empty() {
            self.step();
        }
    }

    fn step(&mut self) {
        let hand = self.hand.clone();
        let here = match self.span_of(&hand) {
            Some((start, _)) => start.clone(),
            None => match self.spans.range(hand.clone()..).next() {
                Some((start, _)) => start.clone(),
                None => return self.hand = Bytes::new(),
            },
        };
        let end = self.spans[&here].clone();
        let from = (&hand).max(&here).clone();
        let next = self.items.range(from..).next().filter(|(key, _)| before(key, &end));
        match next.map(|(key, item)| (key.clone(), item.used.swap(false, Ordering::Relaxed))) {
            Some((key, true)) => self.hand = after(&key),
            Some((key, false)) => {
                self.forget(&here, &end, &key);
                self.hand = after(&key);
            }
            None => {
                let first = self.items.range(here.clone()..).next();
                if first.is_none_or(|(key, _)| !before(key, &end)) {
                    // That nothing is there is all it says.
                    self.remove_span(&here);
                }
                self.hand = end;
            }
        }
    }

    /// Forgets an item of a span, and with it what is known of the gaps beside it: else many small spans would remain.
    fn forget(&mut self, start: &Bytes, end: &Bytes, key: &Bytes) {
        self.take(key);
        self.remove_span(start);
        let left = self.items.range::<Bytes, _>(start..key).next_back().map(|(key, _)| after(key));
        let right = self.items.range::<Bytes, _>(key..).next().map(|(key, _)| key.clone());
        if let Some(left) = left {
            self.add_span(start.clone(), left);
        }
        if let Some(right) = right.filter(|key| before(key, end)) {
            self.add_span(right, end.clone());
        }
    }
}

fn item_bytes(kv: &KeyValue) -> usize {
    ITEM_BYTES + kv.key.len() + kv.value.len()
}

#[cfg(test)]
mod tests {
    use dtr_store::model_test::Dice;
    use dtr_types::Revision;

    use super::*;

    fn kv(key: &Bytes, n: u64) -> KeyValue {
        KeyValue {
            key: key.clone(),
            value: Bytes::from(vec![n as u8; (n % 300) as usize]),
            created: Revision(n),
            modified: Revision(n),
            version: 1,
            lease: None,
        }
    }

    fn key(dice: &mut Dice) -> Bytes {
        Bytes::from(format!("{:02}", dice.below(60)))
    }

    fn page(state: &BTreeMap<Bytes, KeyValue>, start: &Bytes, end: &Bytes, limit: usize) -> Found {
        let all =
            state.range::<Bytes, _>(start..).map(|(_, kv)| kv).filter(|kv| before(&kv.key, end));
        let mut items: Vec<_> = all.cloned().collect();
        let more = items.len() > limit;
        items.truncate(limit);
        (items, more)
    }

    /// Whatever it says is so, at any size; and it does say something.
    #[test]
    fn what_is_known_is_true() {
        let mut answers = 0;
        for seed in 0..300 {
            let mut dice = Dice::new(seed);
            let size = [1_000, 4_000, 1_000_000][seed as usize % 3];
            let (mut known, mut state) = (Known::new(size), BTreeMap::new());
            // Reads on their way: what was read, and up to where.
            let mut reads: Vec<(u64, Bytes, Vec<KeyValue>)> = Vec::new();
            for n in 0..400 {
                let (start, mut end) = (key(&mut dice), key(&mut dice));
                if dice.below(8) == 0 {
                    end = Bytes::new();
                }
                let limit = 1 + dice.below(8) as usize;
                match dice.below(10) {
                    0..2 => {
                        let put = kv(&start, n);
                        state.insert(start.clone(), put.clone());
                        known.apply(vec![Event { key: start, kind: EventKind::Put(put) }]);
                    }
                    2 => {
                        state.remove(&start);
                        known.apply(vec![Event { key: start, kind: EventKind::Delete }]);
                    }
                    3..5 if before(&start, &end) => {
                        let fill = known.begin_fill(start.clone(), end.clone());
                        let (items, more) = page(&state, &start, &end, limit);
                        let end = items.last().filter(|_| more).map_or(end, |kv| after(&kv.key));
                        reads.push((fill, end, items));
                    }
                    5..7 if !reads.is_empty() => {
                        let at = dice.below(reads.len() as u64) as usize;
                        let (fill, end, items) = reads.swap_remove(at);
                        known.fill(fill, end, &items);
                    }
                    7 if dice.below(40) == 0 => known.clear(),
                    8 => {
                        if let Some(found) = known.page(&start, &end, limit, usize::MAX) {
                            let right = page(&state, &start, &end, limit);
                            let right = if before(&start, &end) { right } else { Found::default() };
                            assert_eq!(found, right, "seed {seed}");
                            answers += 1;
                        }
                    }
                    _ => {
                        if let Some(found) = known.get(&start) {
                            assert_eq!(found, state.get(&start).cloned(), "seed {seed}");
                            answers += 1;
                        }
                    }
                }
                check(&known, seed);
            }
        }
        assert!(answers > 10_000, "{answers}");
    }

    fn check(known: &Known, seed: u64) {
        assert!(known.bytes <= known.bytes_max, "seed {seed}");
        let items: usize = known.items.values().map(|item| item_bytes(&item.kv)).sum();
        let spans: usize = known.spans.iter().map(|(s, e)| SPAN_BYTES + s.len() + e.len()).sum();
        assert_eq!(known.bytes, items + spans, "seed {seed}");
        assert!(known.items.keys().all(|key| known.span_of(key).is_some()), "seed {seed}");
        let ends: Vec<_> = known.spans.iter().collect();
        for pair in ends.windows(2) {
            assert!(!pair[0].1.is_empty() && pair[0].1 < pair[1].0, "seed {seed}: {ends:?}");
        }
    }

    #[test]
    fn what_is_asked_for_stays() {
        let mut known = Known::new(20_000);
        for n in 0..2_000_u64 {
            let key = Bytes::from(format!("{n:06}"));
            let fill = known.begin_fill(key.clone(), after(&key));
            known.fill(fill, after(&key), &[kv(&key, n)]);
            assert!(known.get(b"000000").is_some(), "after {n}");
        }
        let (items, bytes) = known.size();
        assert!(items > 20 && bytes <= 20_000, "{items} items, {bytes} bytes");
    }
}
