//! What the handlers work with.

use std::sync::Arc;

use dtr_access::{Access, Caller};
use dtr_blobs::SharedBlobs;
use dtr_catalog::{
    Catalog,
    records::{Event, EventObject, EventType, Membership, Repository, TeamMembership},
};
use dtr_cluster::Cluster;
use dtr_identity::{AccountQuery, AccountRecords, BuiltIn, Identity};
use dtr_jobs::Scheduler;
use dtr_types::{ReplicaId, Secret};

/// The rooms below, and what this replica is. Cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    /// The records.
    pub catalog: Catalog,
    /// Image content.
    pub blobs: SharedBlobs,
    /// Who is who.
    pub identity: Arc<dyn Identity>,
    /// The accounts, when they are kept here.
    pub built_in: Option<BuiltIn>,
    /// Who may do what.
    pub access: Access,
    /// Background work.
    pub scheduler: Arc<Scheduler>,
    /// The cluster, when there can be several replicas.
    pub cluster: Option<Cluster>,
    /// This replica.
    pub replica: ReplicaId,
    /// The version of the program.
    pub version: &'static str,
    /// Reports of the backups that this process took, by id.
    pub reports: crate::backup::Reports,
}

impl ApiState {
    /// An event of now.
    pub(crate) fn event(
        &self,
        caller: &Caller,
        event_type: EventType,
        repository: Option<&Repository>,
        kind: &str,
        name: impl ToString,
    ) -> Event {
        let now = self.catalog.now();
        Event {
            id: Event::new_id(now, self.catalog.random()),
            published_at: now,
            actor: caller.name().to_owned(),
            actor_id: caller.account_id().cloned(),
            event_type,
            repository: repository.map(|r| r.name.to_string()).unwrap_or_default(),
            repository_id: repository.map(|r| r.id.clone()),
            object: EventObject {
                kind: kind.to_owned(),
                name: name.to_string(),
                id: String::new(),
            },
            count: 1,
        }
    }
}

/// The UCP's accounts, for an archive that shall have them: with their password hashes if the caller's own `proof` gets
/// them from the UCP, else without.
pub(crate) async fn export_identity(
    state: &ApiState,
    proof: Option<&Secret>,
) -> Result<AccountRecords, crate::ApiError> {
    let identity = &state.identity;
    if let Some(proof) = proof
        && let Some(records) = identity.export(proof).await?
    {
        return Ok(records);
    }
    let mut records = AccountRecords::default();
    let mut query = AccountQuery { limit: AccountQuery::LIMIT_MAX, ..AccountQuery::default() };
    loop {
        let page = identity.accounts(&query).await?;
        records.accounts.extend(page.accounts);
        match page.next {
            Some(next) => query.start = Some(next),
            None => break,
        }
    }
    let organizations = records.accounts.iter().filter(|account| account.is_org);
    for organization in organizations {
        let id = &organization.id;
        for member in identity.members(id).await? {
            records.memberships.push(Membership {
                organization: id.clone(),
                member: member.member.id,
                is_admin: member.is_admin,
            });
        }
        for team in identity.teams(id).await? {
            for member in identity.team_members(id, &team.id).await? {
                records.team_members.push(TeamMembership {
                    team: team.id.clone(),
                    organization: id.clone(),
                    member: member.member.id,
                    is_admin: member.is_admin,
                });
            }
            records.teams.push(team);
        }
    }
    Ok(records)
}
