//! The limit of a repository's tags: first in, first out, as in the original. It removes tags and nothing else; what they named
//! stays until it is deleted by its digest. A tag that is pushed again counts as new.

use std::{cmp::Ordering, collections::BinaryHeap};

use dtr_store::{At, Outcome, Transaction};
use dtr_types::{RepositoryId, Revision, Timestamp};

use crate::{
    Catalog, CatalogError, Kind, TransactionExt as _, Versioned, keys,
    records::{Event, EventObject, EventType, Repository, TagRecord},
};

/// A tag's place among those that go first. Pushes since the cluster began are in the order of their commits, which no clock
/// decides; tags that came by a restore are before them, in the order of the times they had.
type Place = (Revision, Timestamp, dtr_types::Tag);

/// A tag among the oldest, the newest of them on top of a heap.
struct Old {
    place: Place,
    found: Versioned<TagRecord>,
}

impl PartialEq for Old {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}
impl Eq for Old {}
impl PartialOrd for Old {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Old {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place.cmp(&other.place)
    }
}

impl Catalog {
    /// Removes the oldest tags of a repository beyond its limit, at most `most` of them, each with an event of `system`. Yields
    /// how many. Nothing is removed where tags are immutable, while the registry is read-only, when the repository is changed
    /// meanwhile, or of a tag that is pushed meanwhile. It reads the names of all tags, and their records only when there are
    /// too many.
    pub async fn enforce_tag_limit(
        &self,
        repository: &RepositoryId,
        most: usize,
    ) -> Result<usize, CatalogError> {
        let Some(found) = self.get(&keys::repository(repository)).await? else { return Ok(0) };
        let limit = usize::try_from(found.value.tag_limit).unwrap_or(usize::MAX);
        if limit == 0 || found.value.immutable_tags || self.settings().await?.read_only_registry {
            return Ok(0);
        }
        let excess = self.tags_beyond(repository, limit).await?;
        if excess == 0 {
            return Ok(0);
        }
        let mut removed = 0;
        for old in self.oldest_tags(repository, excess.min(most)).await? {
            match self.remove_beyond_limit(&found, &old.found).await? {
                Outcome::Committed(_) => removed += 1,
                // The limit may be another by now.
                Outcome::Conflict { condition: 0, .. } => break,
                // Pushed again, or deleted.
                Outcome::Conflict { .. } => {}
            }
        }
        Ok(removed)
    }

    /// Enforces the limits of all repositories, removing at most `most` tags: what was left when a limit was lowered far, or came by a
    /// restore.
    pub async fn enforce_tag_limits(&self, most: usize) -> Result<usize, CatalogError> {
        let prefix = Kind::Repository.prefix().as_bytes();
        let (mut removed, mut after) = (0, None::<String>);
        loop {
            let page = self.list::<Repository>(prefix, after.as_deref(), 0, At::Latest).await?;
            for found in page.items.iter().filter(|found| found.value.tag_limit > 0) {
                removed += self.enforce_tag_limit(&found.value.id, most - removed).await?;
                if removed >= most {
                    return Ok(removed);
                }
            }
            after = page.items.last().map(|found| found.value.id.to_string());
            if !page.more || after.is_none() {
                return Ok(removed);
            }
        }
    }

    /// How many tags a repository has beyond `limit`.
    async fn tags_beyond(&self, id: &RepositoryId, limit: usize) -> Result<usize, CatalogError> {
        let (mut count, mut after) = (0_usize, None::<String>);
        loop {
            let page = self.names(&keys::tags(id), after.as_deref(), 0, At::Latest).await?;
            count += page.items.len();
            after = page.items.into_iter().next_back();
            if !page.more || after.is_none() {
                return Ok(count.saturating_sub(limit));
            }
        }
    }

    /// The `count` oldest tags of a repository, oldest first.
    async fn oldest_tags(&self, id: &RepositoryId, count: usize) -> Result<Vec<Old>, CatalogError> {
        let began = self.store().get(keys::cluster().bytes(), At::Latest).await?;
        let began = began.map_or(Revision::ZERO, |cluster| cluster.created);
        let mut oldest: BinaryHeap<Old> = BinaryHeap::with_capacity(count + 1);
        let mut after = None::<String>;
        loop {
            let page =
                self.list::<TagRecord>(&keys::tags(id), after.as_deref(), 0, At::Latest).await?;
            after = page.items.last().map(|found| found.value.name.to_string());
            for found in page.items {
                let pushed = if found.modified > began { found.modified } else { Revision::ZERO };
                let place = (pushed, found.value.updated_at, found.value.name.clone());
                oldest.push(Old { place, found });
                if oldest.len() > count {
                    oldest.pop();
                }
            }
            if !page.more || after.is_none() {
                return Ok(oldest.into_sorted_vec());
            }
        }
    }

    /// One commit, of which condition 0 is that the repository is as it was read.
    async fn remove_beyond_limit(
        &self,
        repository: &Versioned<Repository>,
        found: &Versioned<TagRecord>,
    ) -> Result<Outcome, CatalogError> {
        let (id, tag, now) = (&repository.value.id, &found.value, self.now());
        let event = Event {
            id: Event::new_id(now, self.random()),
            published_at: now,
            actor: "system".to_owned(),
            actor_id: None,
            event_type: EventType::Delete,
            repository: repository.value.name.to_string(),
            repository_id: Some(id.clone()),
            object: EventObject {
                kind: "tag".to_owned(),
                name: tag.name.to_string(),
                id: tag.digest.to_string(),
            },
            count: 1,
        };
        let unchanged =
            Transaction::new().if_modified_at(keys::repository(id), repository.modified);
        self.commit(Self::without_tag(unchanged, found).event(&event)?).await
    }
}
