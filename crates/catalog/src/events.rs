//! Events: recorded in batches, counted, listed, deleted.

use dtr_store::{At, StoreExt as _, Transaction};
use dtr_types::RepositoryId;

use crate::{
    Catalog, CatalogError, Kind, Page, TransactionExt as _, Versioned, keys, records::Event,
};

impl Catalog {
    /// Records events that belong to no other change, such as pulls: all in as few transactions as possible.
    pub async fn record_events(&self, events: &[Event]) -> Result<(), CatalogError> {
        for chunk in events.chunks((self.store().limits().operations_max / 2).max(1)) {
            let transaction =
                chunk.iter().try_fold(Transaction::new().content(), |t, event| t.event(event))?;
            self.commit(transaction).await?;
        }
        Ok(())
    }

    /// How many records of a kind there are. Reads all their keys: for duties, not for requests.
    pub async fn count(&self, kind: Kind) -> Result<u64, CatalogError> {
        let mut count = 0;
        let mut after: Option<Vec<u8>> = None;
        let mut at = At::Latest;
        loop {
            let prefix = kind.prefix().as_bytes();
            let page = self.store().page(prefix, after.as_deref(), 0, true, at).await?;
            at = At::Revision(page.revision);
            count += page.items.len() as u64;
            after = page.items.last().map(|kv| kv.key.to_vec());
            if !page.more {
                return Ok(count);
            }
        }
    }

    /// The oldest events.
    pub async fn oldest_events(&self, limit: usize) -> Result<Vec<Versioned<Event>>, CatalogError> {
        let prefix = Kind::Event.prefix().as_bytes();
        Ok(self.list(prefix, None, limit, At::Latest).await?.items)
    }

    /// Deletes events and their places in the lists of their repositories.
    pub async fn delete_events(&self, events: &[Event]) -> Result<(), CatalogError> {
        for chunk in events.chunks((self.store().limits().operations_max / 2).max(1)) {
            let mut transaction = Transaction::new();
            for event in chunk {
                transaction = transaction.delete(keys::event(&event.id));
                if let Some(repository) = &event.repository_id {
                    transaction = transaction.delete(keys::repository_event(repository, &event.id));
                }
            }
            self.commit(transaction).await?;
        }
        Ok(())
    }

    /// A page of events, oldest first, whose ids lie in `[from, until)`; of one repository if one is given. An empty
    /// bound is none.
    pub async fn list_events(
        &self,
        repository: Option<&RepositoryId>,
        from: &str,
        until: &str,
        limit: usize,
    ) -> Result<Page<Event>, CatalogError> {
        let prefix = match repository {
            Some(id) => keys::repository_events(id),
            None => Kind::Event.prefix().as_bytes().to_vec().into(),
        };
        let start = [&prefix[..], from.as_bytes()].concat();
        let end = if until.is_empty() {
            dtr_store::prefix_end(&prefix)
        } else {
            [&prefix[..], until.as_bytes()].concat().into()
        };
        let page = self
            .store()
            .range(dtr_store::Range {
                start: start.into(),
                end,
                limit,
                keys_only: true,
                at: At::Latest,
            })
            .await?;
        let mut items = Vec::with_capacity(page.items.len());
        for kv in &page.items {
            let id = String::from_utf8_lossy(&kv.key[prefix.len()..]);
            if let Some(found) = self.get_at(&keys::event(&id), page.revision.into()).await? {
                items.push(found.value);
            }
        }
        Ok(Page { revision: page.revision, items, more: page.more })
    }
}
