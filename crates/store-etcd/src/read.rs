//! Reading: one key, or a page, at the latest revision or an earlier one; and from where on reading is possible.
//!
//! The latest state is read linearizably: etcd asks a majority. An earlier state is the same on every member that has it,
//! so any member answers at once; if it lags behind, it is asked to catch up. Where what is known is enough
//! ([`together::as_known`]), a member answers with the latest state that it has.
//!
//! What can be read: etcd keeps the state *at* the revision it was compacted at, but 3.4 and older releases of 3.5 lose
//! that revision's deletions from what a watch is told. So we compact etcd one revision earlier than we are asked to: what
//! we call compacted is what comes before the revision after etcd's. etcd does not tell where it was compacted except by
//! refusing; where that matters, it is searched for.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use dtr_store::{At, KeyValue, Page, Range, StoreError, together};
use dtr_types::Revision;

use crate::{
    EtcdStore,
    fault::Fault,
    view::{Answer, FEW},
    wire::{self, RangeRequest, RangeResponse, Request, Response, TxnRequest, TxnResponse, method},
};

/// A page ends here even when fewer items than asked for fit.
const PAGE_BYTES_MAX: usize = 8 << 20;
/// Items of a page's first request: even if each value is as large as can be, the answer can be received.
const FIRST_ITEMS: usize = 64;
/// Each further request of a page asks for this many times more than the one before.
const GROWTH: usize = 4;

impl EtcdStore {
    /// The latest revision.
    pub(crate) async fn latest(&self) -> Result<Revision, Fault> {
        self.index.confirm().await
    }

    /// The latest revision that a member has, which may not be the latest of all.
    pub(crate) async fn known_revision(&self) -> Result<Revision, StoreError> {
        let key = self.keys.outside(b"\0");
        let request = RangeRequest {
            key,
            limit: 1,
            count_only: true,
            serializable: true,
            ..RangeRequest::default()
        };
        let answer: RangeResponse = self.client.call_any(method::RANGE, request).await?;
        Ok(revision_of(&answer))
    }

    pub(crate) async fn read_one(
        &self,
        key: &[u8],
        at: At,
    ) -> Result<Option<KeyValue>, StoreError> {
        if at != At::Latest || self.view.is_off() || together::is_as_known() {
            return self.ask_one(key, at).await;
        }
        let confirmed = self.confirm().await?;
        match self.view.get(key, confirmed).await {
            Answer::Known(found) => Ok(found),
            Answer::Unknown(_) if self.view.few(key).is_some() => self.read_of_few(key).await,
            Answer::Unknown(unknown) => match self.ask_one(key, unknown.at.into()).await {
                Ok(found) => {
                    let end = [key, b"\0"].concat().into();
                    unknown.is(end, found.as_slice());
                    Ok(found)
                }
                Err(error) if is_passing(&error) => self.ask_one(key, At::Latest).await,
                Err(error) => Err(error),
            },
            Answer::None => self.ask_one(key, At::Latest).await,
        }
    }

    /// Reads those of several keys that the view does not know, in one call, so that it knows them.
    pub(crate) async fn read_ahead(&self, keys: &[Bytes]) -> Result<(), StoreError> {
        if self.view.is_off() || together::is_as_known() {
            return Ok(());
        }
        let confirmed = self.confirm().await?;
        let mut unknown = Vec::new();
        for key in keys.iter().filter(|key| self.view.few(key).is_none()) {
            if let Answer::Unknown(one) = self.view.get(key, confirmed).await {
                unknown.push((key, one));
            }
        }
        // One alone is read as well when its time comes.
        if unknown.len() < 2 {
            return Ok(());
        }
        let read = unknown.iter().map(|(key, one)| RangeRequest {
            key: self.keys.outside(key),
            limit: 1,
            revision: i64::try_from(one.at.0).unwrap_or(i64::MAX),
            serializable: true,
            ..RangeRequest::default()
        });
        let success = read.map(|range| Request::Range(range).into()).collect();
        let request = TxnRequest { success, ..TxnRequest::default() };
        let answer: TxnResponse = self.client.call_any(method::TXN, request).await?;
        for ((key, one), response) in unknown.into_iter().zip(answer.responses) {
            if let Some(Response::Range(found)) = response.response {
                let items: Vec<_> = found.kvs.iter().map(|kv| self.keys.inside(kv)).collect();
                one.is([key, &b"\0"[..]].concat().into(), &items);
            }
        }
        Ok(())
    }

    /// One key of those below a prefix that are few: all of them are read, so that all of them are known.
    async fn read_of_few(&self, key: &[u8]) -> Result<Option<KeyValue>, StoreError> {
        let Some(prefix) = self.view.few(key) else { return self.ask_one(key, At::Latest).await };
        let range = Range {
            end: dtr_store::prefix_end(&prefix),
            start: prefix.clone(),
            limit: FEW,
            keys_only: false,
            at: At::Latest,
        };
        let page = self.read_page(range).await?;
        if page.more {
            self.view.many(&prefix);
            return self.ask_one(key, At::Latest).await;
        }
        Ok(page.items.into_iter().find(|kv| kv.key == key))
    }

    /// A revision that is as late as a read of the latest state must be, with nothing in doubt any more; and the view follows.
    async fn confirm(&self) -> Result<Revision, StoreError> {
        self.settle().await?;
        self.view.follow(|| self.following());
        let asked = match self.fresh.known() {
            Ok(known) => return Ok(known),
            Err(asked) => asked,
        };
        let latest = self.latest().await.map_err(StoreError::from)?;
        self.fresh.confirmed(&asked, latest);
        Ok(latest)
    }

    async fn ask_one(&self, key: &[u8], at: At) -> Result<Option<KeyValue>, StoreError> {
        let key = self.keys.outside(key);
        let request = RangeRequest { key, limit: 1, ..RangeRequest::default() };
        let answer = self.read(request, at).await?;
        Ok(answer.kvs.first().map(|kv| self.keys.inside(kv)))
    }

    pub(crate) async fn read_page(&self, range: Range) -> Result<Page, StoreError> {
        if range.at != At::Latest || self.view.is_off() || together::is_as_known() {
            return self.ask_page(range).await;
        }
        let confirmed = self.confirm().await?;
        let most = self.limits.page_items_max;
        let limit = if range.limit == 0 { most } else { range.limit.min(most) };
        match self.view.page(&range, limit, PAGE_BYTES_MAX, confirmed).await {
            Answer::Known(page) => Ok(page),
            Answer::Unknown(unknown) => {
                let at = Range { at: unknown.at.into(), ..range.clone() };
                match self.ask_page(at).await {
                    Ok(page) => {
                        if !range.keys_only || page.items.is_empty() {
                            let last = page.items.last().filter(|_| page.more);
                            let end = last.map(|kv| [&kv.key[..], b"\0"].concat().into());
                            unknown.is(end.unwrap_or(range.end), &page.items);
                        }
                        Ok(page)
                    }
                    Err(error) if is_passing(&error) => self.ask_page(range).await,
                    Err(error) => Err(error),
                }
            }
            Answer::None => self.ask_page(range).await,
        }
    }

    async fn ask_page(&self, range: Range) -> Result<Page, StoreError> {
        let most = self.limits.page_items_max;
        let limit = if range.limit == 0 { most } else { range.limit.min(most) };
        let mut page = Page { revision: Revision::ZERO, items: Vec::new(), more: true };
        let (mut at, mut bytes) = (range.at, 0);
        let mut start = self.keys.outside(&range.start);
        let end = self.keys.end_outside(&range.end);
        let mut count = match range.keys_only {
            true => limit,
            false => FIRST_ITEMS.max(self.page_hint.load(Ordering::Relaxed)),
        };
        while page.more && page.items.len() < limit && bytes < PAGE_BYTES_MAX {
            let asked = count.min(limit - page.items.len()).max(1);
            let request = RangeRequest {
                key: start.clone(),
                range_end: end.clone(),
                limit: i64::try_from(asked).unwrap_or(i64::MAX),
                keys_only: range.keys_only,
                ..RangeRequest::default()
            };
            let answer = match self.try_read(request, at).await? {
                Ok(answer) => answer,
                // Large values where small ones were: fewer at a time.
                Err(()) if asked > 1 => {
                    count = (asked / 8).max(1);
                    self.page_hint.store(0, Ordering::Relaxed);
                    continue;
                }
                Err(()) => return Err(Fault::AnswerTooLong.into()),
            };
            if page.revision == Revision::ZERO {
                page.revision = match at {
                    At::Latest => revision_of(&answer),
                    At::Revision(at) => at,
                };
                at = At::Revision(page.revision);
            }
            bytes += answer.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum::<usize>();
            page.items.extend(answer.kvs.iter().map(|kv| self.keys.inside(kv)));
            page.more = answer.more;
            if let Some(last) = answer.kvs.last() {
                start = [&last.key[..], b"\0"].concat().into();
            } else {
                page.more = false;
            }
            count = asked.saturating_mul(GROWTH);
        }
        if !range.keys_only && page.items.len() > FIRST_ITEMS {
            let small = bytes < PAGE_BYTES_MAX / 8;
            self.page_hint.store(if small { page.items.len() } else { 0 }, Ordering::Relaxed);
        }
        Ok(page)
    }

    async fn read(&self, request: RangeRequest, at: At) -> Result<RangeResponse, StoreError> {
        self.try_read(request, at).await?.map_err(|()| Fault::AnswerTooLong.into())
    }

    /// Reads; the inner error says that the answer was too large to receive.
    async fn try_read(
        &self,
        mut request: RangeRequest,
        at: At,
    ) -> Result<Result<RangeResponse, ()>, StoreError> {
        match at {
            At::Latest if together::is_as_known() => request.serializable = true,
            At::Latest => self.settle().await?,
            At::Revision(asked) => {
                let floor = self.floor.load(Ordering::Acquire);
                if asked.0 < floor.max(1) {
                    return Err(StoreError::Compacted { asked, oldest: Revision(floor.max(1)) });
                }
                request.revision = i64::try_from(asked.0).unwrap_or(i64::MAX);
                request.serializable = true;
            }
        }
        let answer = if request.serializable {
            // What is past can be read also while nobody leads.
            match self.client.call_any(method::RANGE, request.clone()).await {
                Err(Fault::Future) => {
                    request.serializable = false;
                    self.client.call(method::RANGE, request).await
                }
                answer => answer,
            }
        } else {
            self.client.call(method::RANGE, request).await
        };
        match (answer, at) {
            (Ok(answer), at) => {
                if at == At::Latest {
                    self.fresh.seen(revision_of(&answer));
                }
                Ok(Ok(answer))
            }
            (Err(Fault::AnswerTooLong), _) => Ok(Err(())),
            (Err(Fault::Compacted), At::Revision(asked)) => {
                let oldest = self.oldest().await?;
                Err(StoreError::Compacted { asked, oldest })
            }
            (Err(Fault::Future), At::Revision(asked)) => {
                let latest = self.latest().await.map_err(StoreError::from)?;
                Err(StoreError::Future { asked, latest })
            }
            (Err(fault), _) => Err(fault.into()),
        }
    }

    /// The oldest revision that can be read.
    pub(crate) async fn oldest(&self) -> Result<Revision, StoreError> {
        // What we know, or more: compaction only goes up.
        let known = self.floor.load(Ordering::Acquire);
        let mut low = known.saturating_sub(1).max(1);
        if !self.readable(low).await? {
            // Somebody else has compacted: between the last revision known to be gone and the latest.
            let mut high = self.latest().await.map_err(StoreError::from)?.0;
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                if self.readable(middle).await? {
                    high = middle;
                } else {
                    low = middle;
                }
            }
            low = high;
        }
        // Nothing was ever put before revision 2, so there is nothing to lose at 1.
        let oldest = if low > 1 { low + 1 } else { 1 };
        Ok(Revision(self.floor.fetch_max(oldest, Ordering::AcqRel).max(oldest)))
    }

    /// Whether etcd itself can read at a revision, which is not later than the latest.
    async fn readable(&self, revision: u64) -> Result<bool, StoreError> {
        let request = RangeRequest {
            key: self.keys.outside(b"\0"),
            limit: 1,
            count_only: true,
            revision: i64::try_from(revision).unwrap_or(i64::MAX),
            ..RangeRequest::default()
        };
        match self.client.call::<_, RangeResponse>(method::RANGE, request).await {
            Ok(_) => Ok(true),
            Err(Fault::Compacted) => Ok(false),
            Err(fault) => Err(fault.into()),
        }
    }
}

/// Whether reading the latest state may succeed where reading the view's did not: that may have been compacted.
fn is_passing(error: &StoreError) -> bool {
    matches!(error, StoreError::Compacted { .. } | StoreError::Future { .. })
}

fn revision_of(answer: &RangeResponse) -> Revision {
    Revision(u64::try_from(wire::revision(answer.header.as_ref())).unwrap_or(0))
}
