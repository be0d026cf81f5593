//! Repositories: by name, in order, made, changed, deleted; their tags, events and counters.

use bytes::Bytes;
use dtr_store::{At, Outcome, Transaction};
use dtr_types::{AccountName, RepositoryId, RepositoryName, Tag};

use crate::{
    Catalog, CatalogError, Page, TransactionExt as _, Versioned,
    catalog::ATTEMPTS_MAX,
    keys,
    records::{Counters, DeletedRepository, Event, Repository, TagRecord},
};

impl Catalog {
    /// A repository by name.
    pub async fn lookup_repository(
        &self,
        name: &RepositoryName,
    ) -> Result<Option<Versioned<Repository>>, CatalogError> {
        let found = self.store().get(&keys::repository_name(name), At::Latest).await?;
        let Some(id) = found.and_then(|kv| parse_id(&kv.value)) else { return Ok(None) };
        self.get(&keys::repository(&id)).await
    }

    /// Repositories in order of their full names, those after `after`; of one namespace if one is given.
    pub async fn list_repositories(
        &self,
        namespace: Option<&AccountName>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<Repository>, CatalogError> {
        let prefix = match namespace {
            Some(namespace) => keys::repository_names_of(namespace),
            None => Bytes::from_static(keys::REPOSITORY_NAMES.as_bytes()),
        };
        let after = after.map(|after| [keys::REPOSITORY_NAMES, after].concat());
        let page = dtr_store::StoreExt::page(
            &**self.store(),
            &prefix,
            after.as_deref().map(str::as_bytes),
            limit,
            false,
            At::Latest,
        )
        .await?;
        let mut items = Vec::with_capacity(page.items.len());
        for kv in &page.items {
            let Some(id) = parse_id(&kv.value) else { continue };
            let at = At::Revision(page.revision);
            if let Some(found) = self.get_at(&keys::repository(&id), at).await? {
                items.push(found.value);
            }
        }
        Ok(Page { revision: page.revision, items, more: page.more })
    }

    /// Makes a repository.
    ///
    /// # Errors
    /// [`CatalogError::Exists`] when its name is taken.
    pub async fn create_repository(
        &self,
        repository: &Repository,
        event: Option<&Event>,
    ) -> Result<(), CatalogError> {
        let name = keys::repository_name(&repository.name);
        let mut transaction = Transaction::new()
            .content()
            .if_absent(name.clone())
            .put(name, repository.id.to_string())
            .create_record(repository)?;
        if let Some(event) = event {
            transaction = transaction.event(event)?;
        }
        match self.commit(transaction).await? {
            Outcome::Committed(_) => Ok(()),
            Outcome::Conflict { .. } => {
                Err(CatalogError::Exists { kind: "repository", name: repository.name.to_string() })
            }
        }
    }

    /// Deletes a repository: at once for everybody, in one transaction; its content is unlinked after that by
    /// [`Catalog::purge_repository`], which goes on where it stopped if it is interrupted. `false` when it is not there.
    pub async fn delete_repository(
        &self,
        name: &RepositoryName,
        event: Option<&Event>,
    ) -> Result<bool, CatalogError> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(found) = self.lookup_repository(name).await? else { return Ok(false) };
            let repository = found.value;
            let deleted = DeletedRepository {
                id: repository.id.clone(),
                name: repository.name.clone(),
                deleted_at: self.now(),
            };
            let key = keys::repository(&repository.id);
            let mut transaction = Transaction::new()
                .if_modified_at(&key, found.modified)
                .delete(&key)
                .delete(keys::repository_name(name))
                .put_record(&deleted)?;
            if let Some(event) = event {
                transaction = transaction.event(event)?;
            }
            if self.commit(transaction).await?.committed().is_some() {
                self.purge_repository(&repository.id).await?;
                return Ok(true);
            }
        }
        Err(CatalogError::Contention("repository"))
    }

    /// Unlinks what a deleted repository had. May be called again at any time; done when the record of the deletion
    /// has gone.
    pub async fn purge_repository(&self, id: &RepositoryId) -> Result<(), CatalogError> {
        if self.get(&keys::deleted_repository(id)).await?.is_none() {
            return Ok(());
        }
        self.delete_prefix(&keys::tags(id)).await?;
        loop {
            let digests = self.names(&keys::manifests(id), None, 0, At::Latest).await?.items;
            if digests.is_empty() {
                break;
            }
            for digest in digests.iter().filter_map(|text| text.parse().ok()) {
                self.remove_manifest(id, &digest, None, true).await?;
            }
        }
        self.drop_staged_of(id).await?;
        self.unlink_all(id).await?;
        let grants: Vec<crate::records::RepositoryGrant> =
            self.all(&keys::repository_grants(id)).await?;
        for grant in grants {
            self.delete_repository_grant(id, &grant.team, None).await?;
        }
        self.delete_prefix(&keys::repository_events(id)).await?;
        let last =
            Transaction::new().delete(keys::counters(id)).delete(keys::deleted_repository(id));
        self.commit(last).await.map(drop)
    }

    /// A tag.
    pub async fn get_tag(
        &self,
        repository: &RepositoryId,
        tag: &Tag,
    ) -> Result<Option<Versioned<TagRecord>>, CatalogError> {
        self.get(&keys::tag(repository, tag)).await
    }

    /// A repository's counters; zero when nothing was counted.
    pub async fn counters(&self, repository: &RepositoryId) -> Result<Counters, CatalogError> {
        let none = Counters { repository: repository.clone(), pulls: 0, pushes: 0 };
        Ok(self.get(&keys::counters(repository)).await?.map_or(none, |found| found.value))
    }

    /// Adds to a repository's counters. Called with what was gathered over some seconds, not for each request.
    pub async fn add_counts(
        &self,
        repository: &RepositoryId,
        pulls: u64,
        pushes: u64,
    ) -> Result<(), CatalogError> {
        for _ in 0..ATTEMPTS_MAX {
            let key = keys::counters(repository);
            let found = self.store().get(key.bytes(), At::Latest).await?;
            let mut counters = match &found {
                Some(kv) => crate::decode(&kv.key, &kv.value)?,
                None => Counters { repository: repository.clone(), pulls: 0, pushes: 0 },
            };
            counters.pulls = counters.pulls.saturating_add(pulls);
            counters.pushes = counters.pushes.saturating_add(pushes);
            let transaction = Transaction::new()
                .content()
                .if_present(keys::repository(repository))
                .if_unchanged(&key, found.as_ref())
                .put_record(&counters)?;
            match self.commit(transaction).await? {
                Outcome::Committed(_) | Outcome::Conflict { condition: 0, .. } => return Ok(()),
                Outcome::Conflict { .. } => {}
            }
        }
        Err(CatalogError::Contention("counters"))
    }
}

fn parse_id(value: &[u8]) -> Option<RepositoryId> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
