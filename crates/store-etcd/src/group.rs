//! Commits that are on their way at the same time, as one transaction of etcd: one entry in the members' logs, one sync on
//! each, one round between them, instead of one for each commit.
//!
//! etcd takes transactions within a transaction, and decides about all of them by the state before the whole. So only those
//! go together of which none reads or writes what another writes: then it is as if they came one after the other, in any
//! order. They share a revision; what each of them became is in the answer. A group has one slot (see `slots`), and it is
//! known by that whether the group was applied. If it was and the answer was lost, the keys that each would have put tell
//! at that very revision what became of each.
//!
//! Nobody waits for others to come: a commit that finds nothing on its way goes alone and at once.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use dtr_store::{At, Condition, Outcome, StoreError, Transaction, Write};
use dtr_types::Revision;
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    EtcdStore,
    commit::{ATTEMPTS, Fenced, fence, first_failing, number, slot_read},
    fault::Fault,
    slots::{Slot, Taken},
    wire::{self, Request, Response, TxnRequest, TxnResponse},
};

/// Groups on their way at once. With one, who comes just after it was sent waits for two.
const SENDING_MAX: usize = 2;
/// Commits of one group: larger ones hold up those who come next.
const MEMBERS_MAX: usize = 32;
/// Keys and values of one group, in bytes; what is larger goes alone.
const BYTES_MAX: usize = 128 << 10;

type Answer = Result<Outcome, StoreError>;

struct Waiting {
    transaction: Transaction,
    sender: oneshot::Sender<Answer>,
}

#[derive(Default)]
struct Queue {
    /// How many send, and will send again as long as anybody waits.
    sending: usize,
    waiting: VecDeque<Waiting>,
}

/// Commits of one client that wait to be sent.
#[derive(Default)]
pub(crate) struct Groups(Mutex<Queue>);

/// Whether a transaction may go with others. One with a lease may not: if that has ended, etcd refuses the whole. One that
/// only deletes may not: it must make no revision when there is nothing to delete. One that looks at a whole list may not:
/// it is looked for equal keys alone.
fn is_sociable(transaction: &Transaction) -> bool {
    let leased = |write: &Write| matches!(write, Write::Put { lease: Some(_), .. });
    let of_list = |condition: &Condition| matches!(condition, Condition::NonePutSince(..));
    first_put(transaction).is_some()
        && !transaction.conditions.iter().any(of_list)
        && !transaction.writes.iter().any(leased)
        && bytes(transaction) <= BYTES_MAX
}

fn first_put(transaction: &Transaction) -> Option<&Bytes> {
    transaction.writes.iter().find_map(|write| match write {
        Write::Put { key, .. } => Some(key),
        Write::Delete(_) => None,
    })
}

fn bytes(transaction: &Transaction) -> usize {
    let conditions = transaction.conditions.iter().map(|condition| condition.key().len());
    let writes = transaction.writes.iter().map(|write| match write {
        Write::Put { key, value, .. } => key.len() + value.len(),
        Write::Delete(key) => key.len(),
    });
    conditions.chain(writes).sum()
}

fn operations(transaction: &Transaction) -> usize {
    transaction.conditions.len().max(transaction.writes.len())
}

/// Takes the first that waits, and of the others those that can go with it.
fn gather(waiting: &mut VecDeque<Waiting>, operations_max: usize) -> Vec<Waiting> {
    // Each key that is touched, and whether it is written.
    let mut touched: HashMap<Bytes, bool> = HashMap::new();
    let (mut group, mut left) = (Vec::new(), VecDeque::new());
    let (mut size, mut count) = (0, 0);
    for one in waiting.drain(..) {
        let transaction = &one.transaction;
        let reads = transaction.conditions.iter().map(|condition| (condition.key(), false));
        let writes = transaction.writes.iter().map(|write| (write.key(), true));
        let keys = reads.chain(writes);
        let meets = |(key, written): (&Bytes, bool)| {
            touched.get(key).is_some_and(|before| *before || written)
        };
        let fits = size + bytes(transaction) <= BYTES_MAX
            && count + operations(transaction) <= operations_max
            && group.len() < MEMBERS_MAX;
        if !group.is_empty() && (!fits || keys.clone().any(meets)) {
            left.push_back(one);
            continue;
        }
        size += bytes(transaction);
        count += operations(transaction);
        for (key, written) in keys {
            *touched.entry(key.clone()).or_default() |= written;
        }
        group.push(one);
    }
    *waiting = left;
    group
}

impl EtcdStore {
    /// Applies a transaction that was found to be good, with others if there are any.
    pub(crate) async fn apply_with_others(&self, transaction: Transaction) -> Answer {
        let me = self.me.upgrade().filter(|_| is_sociable(&transaction));
        let Some(me) = me else { return self.apply_noted(&transaction).await };
        let (sender, answer) = oneshot::channel();
        let send = {
            let mut queue = self.groups.0.lock();
            queue.waiting.push_back(Waiting { transaction, sender });
            let send = queue.sending < SENDING_MAX;
            queue.sending += usize::from(send);
            send
        };
        if send {
            // Apart from who commits first: that one may go away, the others wait.
            tokio::spawn(me.send_groups());
        }
        answer.await.unwrap_or_else(|_| {
            Err(StoreError::Unknown { reason: "this program is ending".to_owned() })
        })
    }

    async fn send_groups(self: Arc<Self>) {
        loop {
            // Those who are about to commit as well shall do so first: answers make many go on at the same time.
            tokio::task::yield_now().await;
            let group = {
                let mut queue = self.groups.0.lock();
                if queue.waiting.is_empty() {
                    queue.sending -= 1;
                    return;
                }
                gather(&mut queue.waiting, self.limits.operations_max)
            };
            let (transactions, senders): (Vec<_>, Vec<_>) =
                group.into_iter().map(|one| (one.transaction, one.sender)).unzip();
            let answers = match &transactions[..] {
                [alone] => vec![self.apply_noted(alone).await],
                _ => self.apply_group(&transactions).await,
            };
            for (sender, answer) in senders.into_iter().zip(answers) {
                // Who has gone does not need it.
                let _ = sender.send(answer);
            }
        }
    }

    /// Applies transactions that do not touch each other; an answer for each.
    async fn apply_group(&self, group: &[Transaction]) -> Vec<Answer> {
        let all = |error: StoreError| group.iter().map(|_| Err(error.clone())).collect();
        let answers = match self.send_group(group).await {
            Ok(Some(answers)) => answers,
            // For a reason that may be one's alone: each by itself, with an answer of its own.
            Ok(None) => vec![None; group.len()],
            Err(error) => {
                self.fresh.doubted();
                return all(error);
            }
        };
        let mut told = Vec::with_capacity(group.len());
        for (answer, transaction) in answers.into_iter().zip(group) {
            told.push(match answer {
                Some(answer) => self.note(answer),
                None => self.apply_noted(transaction).await,
            });
        }
        told
    }

    /// Sends a group until it is known what became of it. `None` in place of an answer: that transaction was not applied, and
    /// never will be by this.
    async fn send_group(
        &self,
        group: &[Transaction],
    ) -> Result<Option<Vec<Option<Answer>>>, StoreError> {
        self.settle().await?;
        let deadline = self.client.deadline();
        let mut taken = self.slots.take().await;
        let mut last = "its slot was moved by others".to_owned();
        for _ in 0..ATTEMPTS {
            let tag = self.slots.tag();
            let request = self.group_request(group, &taken.slot, tag.clone());
            taken.sent();
            match self.send(request, deadline).await {
                Ok(answer) if answer.succeeded => {
                    let at = wire::revision(answer.header.as_ref());
                    taken.settled(at);
                    let within = answer.responses.iter().zip(group);
                    let told = within.map(|(op, t)| read_member(op.response.as_ref(), t, at));
                    return Ok(Some(told.collect()));
                }
                Ok(answer) => {
                    taken.settled(slot_read(&answer).map_or(0, |kv| kv.mod_revision));
                }
                Err(Fault::Doubt(reason)) => {
                    if let Some(answers) =
                        self.settle_group(&mut taken, &tag, group, &reason).await?
                    {
                        return Ok(Some(answers));
                    }
                    last = reason;
                }
                Err(fault @ Fault::NotDone(_)) => {
                    taken.settled(taken.slot.modified);
                    return Err(fault.into());
                }
                Err(fault) => {
                    tracing::debug!(?fault, "commits that could not go together go one by one");
                    taken.settled(taken.slot.modified);
                    return Ok(None);
                }
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Err(StoreError::Unavailable { reason: format!("a commit was given up, undone: {last}") })
    }

    fn group_request(&self, group: &[Transaction], slot: &Slot, tag: Bytes) -> TxnRequest {
        let within = group.iter().map(|transaction| {
            let looks = transaction.conditions.iter().filter(|_| transaction.conditions.len() > 1);
            let one = TxnRequest {
                compare: transaction.conditions.iter().map(|c| self.compare(c)).collect(),
                success: transaction.writes.iter().map(|w| self.write(w)).collect(),
                failure: looks.map(|condition| self.look(condition.key())).collect(),
            };
            Request::Txn(one).into()
        });
        TxnRequest {
            compare: vec![slot.unmoved()],
            success: within.chain([slot.put(tag)]).collect(),
            failure: vec![slot.read()],
        }
    }

    /// Settles a group that was sent through `taken` with `tag`: what became of each if it was applied, `None` if it was not
    /// and never will be.
    async fn settle_group(
        &self,
        taken: &mut Taken,
        tag: &Bytes,
        group: &[Transaction],
        reason: &str,
    ) -> Result<Option<Vec<Option<Answer>>>, StoreError> {
        let unknown = |why: &str| StoreError::Unknown { reason: format!("{reason}; {why}") };
        tracing::debug!(reason, commits = group.len(), "the answer to commits was lost");
        match fence(&self.client, &self.slots, &taken.slot).await {
            Ok(Fenced::Found(found, at)) if found == *tag => {
                taken.settled(at);
                let mut answers = Vec::with_capacity(group.len());
                for transaction in group {
                    answers.push(match self.was_applied(transaction, number(at)).await {
                        Ok(true) => Some(Ok(Outcome::Committed(number(at)))),
                        Ok(false) => None,
                        Err(error) => Some(Err(unknown(&error.to_string()))),
                    });
                }
                Ok(Some(answers))
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

    /// Whether a transaction is part of the revision at which its group was applied: nobody else wrote its keys there.
    async fn was_applied(
        &self,
        transaction: &Transaction,
        at: Revision,
    ) -> Result<bool, StoreError> {
        let Some(key) = first_put(transaction) else { return Ok(false) };
        let found = self.read_one(key, At::Revision(at)).await?;
        Ok(found.is_some_and(|kv| kv.modified == at))
    }
}

/// What became of one of a group; `None` when it does not say which condition failed.
fn read_member(response: Option<&Response>, transaction: &Transaction, at: i64) -> Option<Answer> {
    let corrupt = |why: &str| Some(Err(StoreError::Corrupt(why.to_owned())));
    let Some(Response::Txn(TxnResponse { succeeded, responses, .. })) = response else {
        return corrupt("etcd answered a transaction with something else");
    };
    if *succeeded {
        return Some(Ok(Outcome::Committed(number(at))));
    }
    let conditions = &transaction.conditions;
    let condition = match conditions.len() {
        1 => 0,
        _ => match first_failing(conditions, responses) {
            Some(condition) => condition,
            None => return corrupt("etcd refused a transaction whose conditions all hold"),
        },
    };
    Some(Ok(Outcome::Conflict { condition, revision: number(at) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(transaction: Transaction) -> Waiting {
        Waiting { transaction, sender: oneshot::channel().0 }
    }

    fn puts(group: &[Waiting]) -> Vec<&str> {
        let key = |one: &Waiting| first_put(&one.transaction).cloned();
        let names = ["a", "b", "c", "d", "e"];
        group
            .iter()
            .filter_map(key)
            .filter_map(|key| names.into_iter().find(|name| name.as_bytes() == key))
            .collect()
    }

    #[test]
    fn only_what_does_not_meet_goes_together() {
        let put = |key: &'static str| Transaction::new().put(key, "");
        let mut all: VecDeque<Waiting> = [
            put("a"),
            put("b").if_absent("a"),
            put("c").if_present("k"),
            put("d").if_present("k"),
            Transaction::new().put("e", "").put("k", ""),
        ]
        .into_iter()
        .map(waiting)
        .collect();
        let first = gather(&mut all, 100);
        assert_eq!(puts(&first), ["a", "c", "d"], "what reads the same goes together");
        let second = gather(&mut all, 100);
        assert_eq!(puts(&second), ["b", "e"]);
        assert!(all.is_empty() && gather(&mut all, 100).is_empty());
    }

    #[test]
    fn a_group_is_bounded_and_the_first_always_goes() {
        let large = |key: &'static str| Transaction::new().put(key, vec![0; BYTES_MAX - 1]);
        let mut all: VecDeque<Waiting> =
            [large("a"), large("b")].into_iter().map(waiting).collect();
        assert_eq!(puts(&gather(&mut all, 100)), ["a"]);
        assert_eq!(puts(&gather(&mut all, 0)), ["b"]);
        let many = |n: usize| (0..n).fold(Transaction::new(), |t, n| t.put(format!("{n}"), ""));
        let mut all: VecDeque<Waiting> =
            [many(60), Transaction::new().put("a", "")].into_iter().map(waiting).collect();
        assert_eq!(gather(&mut all, 60).len(), 1);
        assert_eq!(gather(&mut all, 60).len(), 1);
    }

    #[test]
    fn what_must_go_alone_does() {
        assert!(is_sociable(&Transaction::new().put("a", "")));
        assert!(!is_sociable(&Transaction::new().delete("a")));
        assert!(!is_sociable(&Transaction::new().put("a", vec![0; BYTES_MAX])));
        let leased = Transaction::new().put_leased("a", "", dtr_store::LeaseId(1));
        assert!(!is_sociable(&leased));
        let of_list = Transaction::new().if_none_put_since("a/", Revision::ZERO).put("a/b", "");
        assert!(!is_sociable(&of_list));
    }
}
