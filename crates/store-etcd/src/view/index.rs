//! The latest revision, asked for once for all who wait: whoever comes while questions are on their way shares the next one.
//!
//! A question that is asked after a reader came says what is at least as new as everything that was acknowledged before:
//! that makes the reader's answer linearizable, whoever else shares it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dtr_types::Revision;
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use super::leader::Leader;
use crate::{
    Keys,
    client::Client,
    fault::Fault,
    wire::{self, RangeRequest, RangeResponse, method},
};

type Answer = Result<Revision, Fault>;

/// Questions on their way at once. With one, who comes just after it was asked waits for two.
const QUESTIONS_MAX: usize = 2;
/// How long after a question the next one begins at the earliest: under load, a question costs all members more than what
/// it is asked for. Nobody waits for that who comes when nothing was asked just before.
const PACE: Duration = Duration::from_millis(2);

#[derive(Default)]
struct Queue {
    /// How many ask, and will ask again as long as anybody waits.
    asking: usize,
    waiting: Vec<oneshot::Sender<Answer>>,
    /// When the next question may be asked.
    next: Option<Instant>,
}

/// Clones share the questions.
#[derive(Clone)]
pub(crate) struct Index {
    client: Arc<Client>,
    keys: Keys,
    queue: Arc<Mutex<Queue>>,
    asked: Arc<AtomicU64>,
    leader: Leader,
}

impl Index {
    pub(crate) fn new(client: Arc<Client>, keys: Keys) -> Self {
        let leader = Leader::new(client.clone());
        Self { client, keys, queue: Arc::default(), asked: Arc::default(), leader }
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// The latest revision, of now or later.
    pub(crate) async fn confirm(&self) -> Answer {
        let (sender, answer) = oneshot::channel();
        let ask = {
            let mut queue = self.queue.lock();
            queue.waiting.push(sender);
            let ask = queue.asking < QUESTIONS_MAX;
            queue.asking += usize::from(ask);
            ask
        };
        if ask {
            // Apart from who asks first: that one may go away, the others wait.
            tokio::spawn(self.clone().ask());
        }
        answer.await.unwrap_or_else(|_| Err(Fault::NotDone("this program is ending".to_owned())))
    }

    async fn ask(self) {
        loop {
            // Those who are about to ask as well shall do so first: answers make many go on at the same time.
            tokio::task::yield_now().await;
            let start = {
                let mut queue = self.queue.lock();
                if queue.waiting.is_empty() {
                    queue.asking -= 1;
                    return;
                }
                let now = Instant::now();
                let start = queue.next.map_or(now, |next| next.max(now));
                queue.next = Some(start + PACE);
                start
            };
            tokio::time::sleep_until(start).await;
            let waiting = std::mem::take(&mut self.queue.lock().waiting);
            if waiting.is_empty() {
                // Another question has taken them along.
                continue;
            }
            self.asked.fetch_add(1, Ordering::Relaxed);
            let answer = self.latest().await;
            for sender in waiting {
                // Who has gone does not need it.
                let _ = sender.send(answer.clone());
            }
        }
    }

    async fn latest(&self) -> Answer {
        let key = self.keys.outside(b"\0");
        let request = RangeRequest { key, limit: 1, count_only: true, ..RangeRequest::default() };
        let answer: RangeResponse = match self.leader.ask(&request).await {
            Some(answer) => answer,
            None => self.client.call(method::RANGE, request).await?,
        };
        if let Some(header) = &answer.header {
            self.leader.heard(header);
        }
        Ok(Revision(u64::try_from(wire::revision(answer.header.as_ref())).unwrap_or(0)))
    }
}
