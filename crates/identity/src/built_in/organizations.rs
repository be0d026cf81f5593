//! Changes of organizations: members, owners, teams and their members.

use dtr_catalog::{
    keys,
    records::{Account, EventType, Membership, Team, TeamMembership},
};
use dtr_types::{AccountId, TeamId};

use super::{BuiltIn, accounts::missing};
use crate::{Actor, Identity as _, ManageError, NewTeam, TeamChange};

/// Longest description, in characters.
const DESCRIPTION_MAX: usize = 1_024;

pub(super) fn check_description(text: &str) -> Result<(), ManageError> {
    if text.chars().count() <= DESCRIPTION_MAX {
        return Ok(());
    }
    Err(ManageError::Invalid {
        field: "description",
        reason: format!("use at most {DESCRIPTION_MAX} characters"),
    })
}

impl BuiltIn {
    async fn org(&self, id: &AccountId) -> Result<Account, ManageError> {
        self.account_record(id)
            .await?
            .filter(|account| account.is_org)
            .ok_or_else(|| missing("organization", id))
    }

    async fn user(&self, id: &AccountId) -> Result<Account, ManageError> {
        self.account_record(id)
            .await?
            .filter(|account| !account.is_org)
            .ok_or_else(|| missing("user", id))
    }

    async fn org_team(&self, org: &AccountId, team: &TeamId) -> Result<Team, ManageError> {
        self.team_by_id(org, team).await?.ok_or_else(|| missing("team", team))
    }

    /// A user's membership in an organization.
    pub async fn membership(
        &self,
        org: &AccountId,
        user: &AccountId,
    ) -> Result<Option<Membership>, ManageError> {
        Ok(self.catalog().get(&keys::membership(org, user)).await?.map(|found| found.value))
    }

    /// A user's membership in a team.
    pub async fn team_membership(
        &self,
        team: &TeamId,
        user: &AccountId,
    ) -> Result<Option<TeamMembership>, ManageError> {
        Ok(self.catalog().get(&keys::team_membership(team, user)).await?.map(|found| found.value))
    }

    /// Makes a user a member of an organization. `is_admin` says whether the user owns it; `None` leaves that as it is.
    pub async fn put_member(
        &self,
        actor: &Actor,
        org: &AccountId,
        user: &AccountId,
        is_admin: Option<bool>,
    ) -> Result<Membership, ManageError> {
        let (org, user) = (self.org(org).await?, self.user(user).await?);
        let known = self.membership(&org.id, &user.id).await?;
        let membership = Membership {
            organization: org.id.clone(),
            member: user.id.clone(),
            is_admin: is_admin.unwrap_or_else(|| known.as_ref().is_some_and(|m| m.is_admin)),
        };
        if known.as_ref() == Some(&membership) {
            return Ok(membership);
        }
        let event_type = if known.is_some() { EventType::Update } else { EventType::Create };
        let name = format!("{}/{}", org.name, user.name);
        let event = self.event(actor, event_type, "membership", name, user.id.as_str());
        self.catalog().put_membership(&membership, Some(&event)).await?;
        self.forget();
        Ok(membership)
    }

    /// Takes a user out of an organization and all its teams. No error when it is in none.
    pub async fn remove_member(
        &self,
        actor: &Actor,
        org: &AccountId,
        user: &AccountId,
    ) -> Result<(), ManageError> {
        let (org, user) = (self.org(org).await?, self.user(user).await?);
        if self.membership(&org.id, &user.id).await?.is_none() {
            return Ok(());
        }
        let name = format!("{}/{}", org.name, user.name);
        let event = self.event(actor, EventType::Delete, "membership", name, user.id.as_str());
        self.catalog().delete_membership(&org.id, &user.id, Some(&event)).await?;
        self.forget();
        Ok(())
    }

    /// Makes a team.
    pub async fn create_team(
        &self,
        actor: &Actor,
        org: &AccountId,
        new: NewTeam,
    ) -> Result<Team, ManageError> {
        check_description(&new.description)?;
        let org = self.org(org).await?;
        let team = Team {
            id: TeamId::random(self.catalog().random()),
            organization: org.id.clone(),
            name: new.name,
            description: new.description,
            created_at: self.catalog().now(),
        };
        let name = format!("{}/{}", org.name, team.name);
        let event = self.event(actor, EventType::Create, "team", name, team.id.as_str());
        self.catalog().create_team(&team, Some(&event)).await?;
        self.forget();
        Ok(team)
    }

    /// Changes a team's name or description.
    pub async fn update_team(
        &self,
        actor: &Actor,
        org: &AccountId,
        team: &TeamId,
        change: TeamChange,
    ) -> Result<Team, ManageError> {
        let org = self.org(org).await?;
        let known = self.org_team(&org.id, team).await?;
        let mut new = known.clone();
        if let Some(description) = change.description {
            check_description(&description)?;
            new.description = description;
        }
        new.name = change.name.unwrap_or(new.name);
        if new == known {
            return Ok(new);
        }
        let name = format!("{}/{}", org.name, new.name);
        let event = self.event(actor, EventType::Update, "team", name, new.id.as_str());
        self.catalog().update_team(&new, Some(&event)).await?;
        self.forget();
        Ok(new)
    }

    /// Deletes a team with its memberships and grants.
    pub async fn delete_team(
        &self,
        actor: &Actor,
        org: &AccountId,
        team: &TeamId,
    ) -> Result<(), ManageError> {
        let org = self.org(org).await?;
        let known = self.org_team(&org.id, team).await?;
        let name = format!("{}/{}", org.name, known.name);
        let event = self.event(actor, EventType::Delete, "team", name, known.id.as_str());
        let deleted = self.catalog().delete_team(&org.id, team, Some(&event)).await?;
        self.forget();
        if deleted { Ok(()) } else { Err(missing("team", team)) }
    }

    /// Makes a user a member of a team, and with that of its organization.
    pub async fn put_team_member(
        &self,
        actor: &Actor,
        org: &AccountId,
        team: &TeamId,
        user: &AccountId,
        is_admin: Option<bool>,
    ) -> Result<TeamMembership, ManageError> {
        let (org, user) = (self.org(org).await?, self.user(user).await?);
        let team = self.org_team(&org.id, team).await?;
        let known = self.team_membership(&team.id, &user.id).await?;
        let membership = TeamMembership {
            team: team.id.clone(),
            organization: org.id.clone(),
            member: user.id.clone(),
            is_admin: is_admin.unwrap_or_else(|| known.as_ref().is_some_and(|m| m.is_admin)),
        };
        if known.as_ref() == Some(&membership) {
            return Ok(membership);
        }
        let event_type = if known.is_some() { EventType::Update } else { EventType::Create };
        let name = format!("{}/{}/{}", org.name, team.name, user.name);
        let event = self.event(actor, event_type, "team-membership", name, user.id.as_str());
        self.catalog().put_team_membership(&membership, Some(&event)).await?;
        self.forget();
        Ok(membership)
    }

    /// Takes a user out of a team. No error when it is not in it.
    pub async fn remove_team_member(
        &self,
        actor: &Actor,
        org: &AccountId,
        team: &TeamId,
        user: &AccountId,
    ) -> Result<(), ManageError> {
        let (org, user) = (self.org(org).await?, self.user(user).await?);
        let team = self.org_team(&org.id, team).await?;
        if self.team_membership(&team.id, &user.id).await?.is_none() {
            return Ok(());
        }
        let name = format!("{}/{}/{}", org.name, team.name, user.name);
        let event = self.event(actor, EventType::Delete, "team-membership", name, user.id.as_str());
        self.catalog().delete_team_membership(&team.id, &user.id, Some(&event)).await?;
        self.forget();
        Ok(())
    }
}
