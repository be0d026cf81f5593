//! Committing: a transaction of the store as one of etcd's, and what its answer says. How lost answers are settled is told
//! in `slots`; which commits are sent together, in `group`.

use std::collections::BTreeMap;

use bytes::Bytes;
use dtr_store::{Condition, Limits, Outcome, StoreError, Transaction, Write, prefix_end};
use dtr_types::Revision;
use prost::Message as _;
use tokio::time::Instant;

use crate::{
    EtcdStore,
    client::{Client, Unary},
    fault::Fault,
    slots::{Slot, Slots, Taken},
    wire::{
        self, Compare, DeleteRangeRequest, EQUAL, GREATER, LESS, PutRequest, RangeRequest, Request,
        RequestOp, Response, TARGET_CREATED, TARGET_MODIFIED, TARGET_VERSION, Target, TxnRequest,
        TxnResponse, method,
    },
};

/// How often a transaction is sent anew after its slot had moved, it was stopped by a fence, or its conflict had gone.
pub(crate) const ATTEMPTS: usize = 8;
/// What etcd adds to a request before it looks at its size.
const ENVELOPE_BYTES: usize = 512;
/// What a put takes beside its key and value: names and lengths of fields, four messages deep.
const PUT_BYTES: usize = 32;

/// Refuses what is too large or makes no sense. The writes are in the order of their keys.
fn check(transaction: &Transaction, limits: &Limits) -> Result<(), StoreError> {
    let too_large = |what, size, limit| Err(StoreError::TooLarge { what, size, limit });
    let (conditions, writes) = (&transaction.conditions, &transaction.writes);
    let operations = conditions.len().max(writes.len());
    if operations > limits.operations_max {
        return too_large(
            "a transaction's number of operations",
            operations,
            limits.operations_max,
        );
    }
    let mut bytes = 0;
    for condition in conditions {
        check_key(condition.key(), limits)?;
        bytes += condition.key().len();
    }
    bytes += check_writes(writes, limits)?;
    if bytes > limits.transaction_bytes_max {
        return too_large("a transaction", bytes, limits.transaction_bytes_max);
    }
    if writes.windows(2).any(|pair| pair[0].key() == pair[1].key()) {
        return Err(StoreError::Invalid("a key is written twice in one transaction"));
    }
    Ok(())
}

fn check_key(key: &[u8], limits: &Limits) -> Result<(), StoreError> {
    if key.is_empty() {
        return Err(StoreError::Invalid("a key is empty"));
    }
    if key.len() > limits.key_bytes_max {
        let (size, limit) = (key.len(), limits.key_bytes_max);
        return Err(StoreError::TooLarge { what: "a key", size, limit });
    }
    Ok(())
}

/// Yields the bytes of keys and values.
fn check_writes(writes: &[Write], limits: &Limits) -> Result<usize, StoreError> {
    let mut bytes = 0;
    for write in writes {
        check_key(write.key(), limits)?;
        bytes += write.key().len();
        if let Write::Put { value, .. } = write {
            if value.len() > limits.value_bytes_max {
                let (size, limit) = (value.len(), limits.value_bytes_max);
                return Err(StoreError::TooLarge { what: "a value", size, limit });
            }
            bytes += value.len();
        }
    }
    let limit = limits.transaction_bytes_max;
    if bytes > limit {
        return Err(StoreError::TooLarge { what: "a transaction", size: bytes, limit });
    }
    Ok(bytes)
}

/// What became of a transaction that a fence was put before.
pub(crate) enum Fenced {
    /// The slot was moved by the fence, or by something else that was not the transaction; last put at this revision.
    Stopped(i64),
    /// The slot has this tag, put at this revision.
    Found(Bytes, i64),
    /// The slot is gone.
    Gone,
}

impl Fenced {
    /// Whether the fence itself has moved the slot.
    pub(crate) fn stopped(&self) -> bool {
        matches!(self, Self::Stopped(_))
    }

    /// When the slot was last put.
    pub(crate) fn modified(&self) -> i64 {
        match self {
            Self::Stopped(at) | Self::Found(_, at) => *at,
            Self::Gone => 0,
        }
    }
}

/// What etcd says to a transaction.
enum Answer {
    /// Applied, or nothing to apply; with the slot's new revision.
    Applied(Revision, i64),
    /// This condition did not hold.
    Conflict(usize, Revision),
    /// Some condition did not hold; which was not asked, for want of room.
    Refused,
    /// The slot is not where we thought it was.
    Moved(i64),
}

impl EtcdStore {
    pub(crate) async fn transact(
        &self,
        mut transaction: Transaction,
    ) -> Result<Outcome, StoreError> {
        // etcd tells the changes of a revision in the order of the operations.
        transaction.writes.sort_unstable_by(|a, b| a.key().cmp(b.key()));
        check(&transaction, &self.limits)?;
        let _writing = self.check_room(&transaction).await?;
        self.apply_with_others(transaction).await
    }

    pub(crate) async fn apply_noted(
        &self,
        transaction: &Transaction,
    ) -> Result<Outcome, StoreError> {
        let outcome = self.apply(transaction).await;
        self.note(outcome)
    }

    /// Remembers for later reads what a commit was answered with.
    pub(crate) fn note(&self, outcome: Result<Outcome, StoreError>) -> Result<Outcome, StoreError> {
        match &outcome {
            Ok(Outcome::Committed(revision) | Outcome::Conflict { revision, .. }) => {
                self.fresh.answered(*revision);
            }
            Err(_) => self.fresh.doubted(),
        }
        outcome
    }

    /// Fills the store: puts that nobody reads yet, in transactions that have nothing in them but puts and so may be
    /// twice as long as others. Several calls at once are several transactions on their way: etcd syncs them together.
    pub(crate) async fn fill(&self, puts: Vec<(Bytes, Bytes)>) -> Result<(), StoreError> {
        let too_large = |what, size, limit| Err(StoreError::TooLarge { what, size, limit });
        let limits = &self.limits;
        if puts.len() > limits.load_keys_max {
            return too_large("a load's number of keys", puts.len(), limits.load_keys_max);
        }
        let put = |(key, value)| Write::Put { key, value, lease: None };
        // Of a key that is put twice the last put counts.
        let latest: BTreeMap<_, _> = puts.into_iter().collect();
        let writes: Vec<_> = latest.into_iter().map(put).collect();
        check_writes(&writes, limits)?;
        let bytes_max = limits.transaction_bytes_max;
        let (mut part, mut bytes) = (Transaction::new(), 0);
        for write in writes {
            let size = self.put_bytes(&write);
            if bytes + size > bytes_max && !part.writes.is_empty() {
                self.apply(&std::mem::take(&mut part)).await?;
                bytes = 0;
            }
            bytes += size;
            part.writes.push(write);
        }
        if part.writes.is_empty() {
            return Ok(());
        }
        self.apply(&part).await.map(drop)
    }

    /// What a put takes in a request, at most.
    fn put_bytes(&self, write: &Write) -> usize {
        let value = match write {
            Write::Put { value, .. } => value.len(),
            Write::Delete(_) => 0,
        };
        self.keys.prefix.len() + write.key().len() + value + PUT_BYTES
    }

    /// Applies a transaction that was found to be good.
    async fn apply(&self, transaction: &Transaction) -> Result<Outcome, StoreError> {
        self.settle().await?;
        let deadline = self.client.deadline();
        if transaction.writes.is_empty() {
            return self.evaluate(&transaction.conditions).await;
        }
        // While nothing is settled, none becomes free.
        let Ok(mut taken) = tokio::time::timeout_at(deadline, self.slots.take()).await else {
            let reason = "too many earlier commits wait to be settled".to_owned();
            return Err(StoreError::Unavailable { reason });
        };
        let mut last = "it met too many others".to_owned();
        for _ in 0..ATTEMPTS {
            let tag = self.slots.tag();
            let request = self.request(transaction, &taken.slot, tag.clone())?;
            let size = request.encoded_len();
            taken.sent();
            match self.send(request, deadline).await {
                Ok(answer) => match self.read_answer(&answer, transaction, &taken.slot)? {
                    Answer::Applied(revision, modified) => {
                        taken.settled(modified);
                        return Ok(Outcome::Committed(revision));
                    }
                    Answer::Conflict(condition, revision) => {
                        taken.settled(taken.slot.modified);
                        return Ok(Outcome::Conflict { condition, revision });
                    }
                    Answer::Moved(modified) => taken.settled(modified),
                    Answer::Refused => {
                        taken.settled(taken.slot.modified);
                        // Nothing was done, so the answer may as well be that of a later state.
                        let later = self.evaluate(&transaction.conditions).await?;
                        if let Outcome::Conflict { .. } = later {
                            return Ok(later);
                        }
                    }
                },
                Err(Fault::Doubt(reason)) => {
                    if let Some(outcome) = self.settle_one(&mut taken, &tag, &reason).await? {
                        return Ok(outcome);
                    }
                    last = reason;
                }
                Err(fault) => {
                    taken.settled(taken.slot.modified);
                    return Err(self.refusal(fault, size));
                }
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Err(StoreError::Unavailable { reason: format!("a commit was given up, undone: {last}") })
    }

    /// Settles the transaction that was sent through `taken` with `tag`: its outcome if it was applied, `None` if it was
    /// not and never will be.
    async fn settle_one(
        &self,
        taken: &mut Taken,
        tag: &Bytes,
        reason: &str,
    ) -> Result<Option<Outcome>, StoreError> {
        let unknown = |why: &str| StoreError::Unknown { reason: format!("{reason}; {why}") };
        tracing::debug!(reason, "the answer to a commit was lost");
        match fence(&self.client, &self.slots, &taken.slot).await {
            Ok(Fenced::Found(found, at)) if found == *tag => {
                taken.settled(at);
                let revision = Revision(u64::try_from(at).unwrap_or(0));
                Ok(Some(Outcome::Committed(revision)))
            }
            Ok(Fenced::Stopped(at) | Fenced::Found(_, at)) => {
                taken.settled(at);
                Ok(None)
            }
            Ok(Fenced::Gone) => {
                taken.settled(0);
                Err(unknown("the key that would tell was removed by somebody"))
            }
            Err(fault) => Err(unknown(&format!("it could not be settled: {fault:?}"))),
        }
    }

    pub(crate) async fn send(
        &self,
        message: TxnRequest,
        deadline: Instant,
    ) -> Result<TxnResponse, Fault> {
        let answer = std::marker::PhantomData;
        let call = Unary { method: method::TXN, message, leader: true, answer };
        self.client.run(&call, false, deadline).await
    }

    /// Reads as often as a transaction of etcd may have operations.
    pub(crate) fn probe_operations(&self, count: usize) -> TxnRequest {
        let success = (0..count).map(|_| self.look(b"\0")).collect();
        TxnRequest { success, ..TxnRequest::default() }
    }

    /// The largest request that we ever make, on a condition that never holds.
    pub(crate) fn probe_size(&self) -> (TxnRequest, usize) {
        let never = Condition::ModifiedAt(Bytes::from_static(b"\0"), Revision::ZERO);
        let request = |bytes: usize| TxnRequest {
            compare: vec![self.compare(&never)],
            success: vec![
                Request::Put(PutRequest {
                    key: self.keys.outside(b"\0"),
                    value: vec![0; bytes].into(),
                    lease: 0,
                })
                .into(),
            ],
            failure: Vec::new(),
        };
        let limit = self.request_bytes_max - ENVELOPE_BYTES;
        let around = request(limit).encoded_len() - limit;
        let request = request(limit - around);
        let size = request.encoded_len();
        (request, size)
    }

    pub(crate) fn refusal(&self, fault: Fault, size: usize) -> StoreError {
        match fault {
            Fault::TooLarge => {
                tracing::warn!(size, configured = self.request_bytes_max, "etcd refused a request");
                StoreError::TooLarge {
                    what: "a transaction, encoded for an etcd whose --max-request-bytes seems to be less than \
                           configured here,",
                    size,
                    limit: self.request_bytes_max,
                }
            }
            fault => fault.into(),
        }
    }

    /// The conditions as they are at the latest revision; the answer to a transaction without writes.
    async fn evaluate(&self, conditions: &[Condition]) -> Result<Outcome, StoreError> {
        let mut success: Vec<_> = conditions.iter().map(|c| self.look_at(c)).collect();
        if success.is_empty() {
            // Without anything to read, etcd would answer without asking the others for the latest revision.
            success.push(self.look(b"\0"));
        }
        let request = TxnRequest { success, ..TxnRequest::default() };
        let answer: TxnResponse = self.client.call(method::TXN, request).await?;
        let revision = number(wire::revision(answer.header.as_ref()));
        Ok(match first_failing(conditions, &answer.responses) {
            Some(condition) => Outcome::Conflict { condition, revision },
            None => Outcome::Committed(revision),
        })
    }

    /// Reads a key's revisions.
    pub(crate) fn look(&self, key: &[u8]) -> RequestOp {
        let key = self.keys.outside(key);
        let range = RangeRequest { key, limit: 1, keys_only: true, ..RangeRequest::default() };
        Request::Range(range).into()
    }

    /// Reads what a condition is about: a key, or one of those that must not be.
    pub(crate) fn look_at(&self, condition: &Condition) -> RequestOp {
        let Condition::NonePutSince(prefix, at) = condition else {
            return self.look(condition.key());
        };
        let key = self.keys.outside(prefix);
        let range_end = prefix_end(&key);
        let min_mod_revision = i64::try_from(at.0).unwrap_or(i64::MAX).saturating_add(1);
        let (limit, keys_only) = (1, true);
        let newer = RangeRequest {
            key,
            range_end,
            limit,
            keys_only,
            min_mod_revision,
            ..RangeRequest::default()
        };
        Request::Range(newer).into()
    }

    fn request(
        &self,
        transaction: &Transaction,
        slot: &Slot,
        tag: Bytes,
    ) -> Result<TxnRequest, StoreError> {
        let mut compare = vec![slot.unmoved()];
        compare.extend(transaction.conditions.iter().map(|c| self.compare(c)));
        let mut writes: Vec<_> = transaction.writes.iter().map(|w| self.write(w)).collect();
        let puts = transaction.writes.iter().any(|w| matches!(w, Write::Put { .. }));
        let success = if puts {
            writes.push(slot.put(tag));
            writes
        } else {
            let absent = |key: &Bytes| self.compare(&Condition::Absent(key.clone()));
            writes.push(slot.put(tag));
            vec![
                Request::Txn(TxnRequest {
                    compare: transaction.writes.iter().map(|w| absent(w.key())).collect(),
                    success: Vec::new(),
                    failure: writes,
                })
                .into(),
            ]
        };
        // Which condition failed is to be read in the same transaction. If there is only one, it is that.
        let mut failure = vec![slot.read()];
        if transaction.conditions.len() > 1 {
            failure.extend(transaction.conditions.iter().map(|c| self.look_at(c)));
        }
        let mut request = TxnRequest { compare, success, failure };
        let limit = self.request_bytes_max - ENVELOPE_BYTES;
        if request.encoded_len() > limit {
            request.failure.truncate(1);
        }
        let size = request.encoded_len();
        if size > limit {
            return Err(StoreError::TooLarge { what: "a transaction, encoded,", size, limit });
        }
        Ok(request)
    }

    pub(crate) fn compare(&self, condition: &Condition) -> Compare {
        let key = self.keys.outside(condition.key());
        let (result, target, value) = match condition {
            Condition::Absent(_) => (EQUAL, TARGET_CREATED, Target::Created(0)),
            Condition::Present(_) => (GREATER, TARGET_CREATED, Target::Created(0)),
            Condition::ModifiedAt(_, at) => match i64::try_from(at.0) {
                Ok(at) if at > 0 => (EQUAL, TARGET_MODIFIED, Target::Modified(at)),
                // Nothing was put there; to etcd, what is absent was modified at 0. No version is below that.
                _ => (LESS, TARGET_VERSION, Target::Version(0)),
            },
            // Of a range, each key is compared; of one without keys, a key that was modified at 0.
            Condition::NonePutSince(_, at) => {
                let next = i64::try_from(at.0).unwrap_or(i64::MAX).saturating_add(1);
                (LESS, TARGET_MODIFIED, Target::Modified(next))
            }
        };
        let range_end = match condition {
            Condition::NonePutSince(..) => prefix_end(&key),
            _ => Bytes::new(),
        };
        Compare { result, target, key, value: Some(value), range_end }
    }

    pub(crate) fn write(&self, write: &Write) -> RequestOp {
        match write {
            Write::Put { key, value, lease } => Request::Put(PutRequest {
                key: self.keys.outside(key),
                value: value.clone(),
                lease: lease.map_or(0, |lease| lease.0),
            }),
            Write::Delete(key) => Request::Delete(DeleteRangeRequest {
                key: self.keys.outside(key),
                range_end: Bytes::new(),
            }),
        }
        .into()
    }

    fn read_answer(
        &self,
        answer: &TxnResponse,
        transaction: &Transaction,
        slot: &Slot,
    ) -> Result<Answer, StoreError> {
        let revision = wire::revision(answer.header.as_ref());
        if answer.succeeded {
            // Of a transaction that only deletes: whether none of the keys was there.
            let nothing = match answer.responses.first().and_then(|r| r.response.as_ref()) {
                Some(Response::Txn(within)) => within.succeeded,
                _ => false,
            };
            let modified = if nothing { slot.modified } else { revision };
            return Ok(Answer::Applied(number(revision), modified));
        }
        let modified = slot_read(answer).map_or(0, |kv| kv.mod_revision);
        if modified != slot.modified {
            return Ok(Answer::Moved(modified));
        }
        let conditions = &transaction.conditions;
        if conditions.len() == 1 {
            return Ok(Answer::Conflict(0, number(revision)));
        }
        let read = answer.responses.get(1..).unwrap_or_default();
        if read.is_empty() {
            return Ok(Answer::Refused);
        }
        let failing = first_failing(conditions, read).ok_or_else(|| {
            StoreError::Corrupt("etcd refused a transaction whose conditions all hold".to_owned())
        })?;
        Ok(Answer::Conflict(failing, number(revision)))
    }
}

/// Makes sure that nothing that is on its way through a slot is applied from now on.
pub(crate) async fn fence(client: &Client, slots: &Slots, slot: &Slot) -> Result<Fenced, Fault> {
    let tag = slots.tag();
    // May be repeated: it is applied once at most, and recognised by its tag.
    let answer: TxnResponse = client.call(method::TXN, slot.fence(tag.clone())).await?;
    if answer.succeeded {
        return Ok(Fenced::Stopped(wire::revision(answer.header.as_ref())));
    }
    Ok(match slot_read(&answer) {
        None => Fenced::Gone,
        Some(kv) if kv.value == tag => Fenced::Stopped(kv.mod_revision),
        Some(kv) => Fenced::Found(kv.value.clone(), kv.mod_revision),
    })
}

pub(crate) fn number(revision: i64) -> Revision {
    Revision(u64::try_from(revision).unwrap_or(0))
}

/// The slot, which is read first when a transaction is refused.
pub(crate) fn slot_read(answer: &TxnResponse) -> Option<&wire::KeyValue> {
    match answer.responses.first()?.response.as_ref()? {
        Response::Range(range) => range.kvs.first(),
        _ => None,
    }
}

/// The first condition that does not hold in what was read for each.
pub(crate) fn first_failing(conditions: &[Condition], read: &[wire::ResponseOp]) -> Option<usize> {
    conditions.iter().zip(read).position(|(condition, read)| {
        let found = match &read.response {
            Some(Response::Range(range)) => range.kvs.first(),
            _ => None,
        };
        !match condition {
            Condition::Absent(_) | Condition::NonePutSince(..) => found.is_none(),
            Condition::Present(_) => found.is_some(),
            Condition::ModifiedAt(_, at) => {
                found.is_some_and(|kv| u64::try_from(kv.mod_revision) == Ok(at.0))
            }
        }
    })
}
