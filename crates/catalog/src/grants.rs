//! Grants of teams on repositories and namespaces.

use bytes::Bytes;
use dtr_store::Transaction;
use dtr_types::{AccountId, RepositoryId, TeamId};

use crate::{
    Catalog, CatalogError, TransactionExt as _, keys,
    records::{Event, NamespaceGrant, RepositoryGrant},
};

impl Catalog {
    /// Gives a team a level on a repository, whatever it had.
    pub async fn put_repository_grant(
        &self,
        grant: &RepositoryGrant,
        event: Option<&Event>,
    ) -> Result<(), CatalogError> {
        let mut transaction = Transaction::new()
            .if_present(keys::repository(&grant.repository))
            .put_record(grant)?
            .put(keys::team_grant(&grant.team, &grant.repository), Bytes::new());
        if let Some(event) = event {
            transaction = transaction.event(event)?;
        }
        match self.commit(transaction).await?.committed() {
            Some(_) => Ok(()),
            None => Err(CatalogError::Missing {
                kind: "repository",
                name: grant.repository.to_string(),
            }),
        }
    }

    /// Takes a team's level on a repository away. No error when it has none.
    pub async fn delete_repository_grant(
        &self,
        repository: &RepositoryId,
        team: &TeamId,
        event: Option<&Event>,
    ) -> Result<(), CatalogError> {
        let mut transaction = Transaction::new()
            .delete(keys::repository_grant(repository, team))
            .delete(keys::team_grant(team, repository));
        if let Some(event) = event {
            transaction = transaction.event(event)?;
        }
        self.commit(transaction).await.map(drop)
    }

    /// The grants on a repository.
    pub async fn repository_grants(
        &self,
        repository: &RepositoryId,
    ) -> Result<Vec<RepositoryGrant>, CatalogError> {
        self.all(&keys::repository_grants(repository)).await
    }

    /// The grants of a team on repositories.
    pub async fn team_grants(&self, team: &TeamId) -> Result<Vec<RepositoryGrant>, CatalogError> {
        let mut grants = Vec::new();
        for name in self.all_names(&keys::team_grants(team)).await? {
            let Ok(repository) = name.parse::<RepositoryId>() else { continue };
            if let Some(found) = self.get(&keys::repository_grant(&repository, team)).await? {
                grants.push(found.value);
            }
        }
        Ok(grants)
    }

    /// Gives a team a level on all repositories of a namespace.
    pub async fn put_namespace_grant(
        &self,
        grant: &NamespaceGrant,
        event: Option<&Event>,
    ) -> Result<(), CatalogError> {
        let mut transaction = Transaction::new().put_record(grant)?;
        if let Some(event) = event {
            transaction = transaction.event(event)?;
        }
        self.commit(transaction).await.map(drop)
    }

    /// Takes a team's level on a namespace away. No error when it has none.
    pub async fn delete_namespace_grant(
        &self,
        namespace: &AccountId,
        team: &TeamId,
        event: Option<&Event>,
    ) -> Result<(), CatalogError> {
        let mut transaction = Transaction::new().delete(keys::namespace_grant(namespace, team));
        if let Some(event) = event {
            transaction = transaction.event(event)?;
        }
        self.commit(transaction).await.map(drop)
    }

    /// The grants on a namespace.
    pub async fn namespace_grants(
        &self,
        namespace: &AccountId,
    ) -> Result<Vec<NamespaceGrant>, CatalogError> {
        self.all(&keys::namespace_grants(namespace)).await
    }
}
