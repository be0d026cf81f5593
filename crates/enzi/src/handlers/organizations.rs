//! Members and teams of organizations.

use dtr_identity::{
    Identity as _, Member, NewTeam, TeamChange,
    wire::{MemberList, TeamList, TeamView},
};
use http::StatusCode;
use serde::Deserialize;

use super::Answer;
use crate::{
    context::{Context, json, no_content, ok},
    error::ApiError,
};

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MemberForm {
    is_admin: Option<bool>,
}

fn member_page(context: &Context, all: Vec<Member>) -> Answer {
    let resource_count = all.len() as u64;
    let (members, next_page_start) = context.page(all, |m| m.member.name.as_str())?;
    ok(&MemberList { resource_count, next_page_start, members })
}

pub(super) async fn list_members(context: Context) -> Answer {
    let mut all = context.identity().members(&context.org()?.id).await?;
    match context.query("filter") {
        Some("admins") => all.retain(|m| m.is_admin),
        Some("non-admins") => all.retain(|m| !m.is_admin),
        Some("all") | None => {}
        Some(_) => return Err(ApiError::invalid("filter: use one of all, admins, non-admins")),
    }
    member_page(&context, all)
}

pub(super) async fn get_member(context: Context) -> Answer {
    let (org, member) = (context.org()?, context.member().await?);
    match context.identity().membership(&org.id, &member.id).await? {
        Some(membership) => ok(&Member { member, is_admin: membership.is_admin }),
        None => Err(ApiError::missing("member", member.name.as_str())),
    }
}

pub(super) async fn put_member(context: Context, must_exist: bool) -> Answer {
    let form: MemberForm = context.optional_form()?;
    let (org, member) = (context.org()?, context.member().await?);
    let identity = context.identity();
    if must_exist && identity.membership(&org.id, &member.id).await?.is_none() {
        return Err(ApiError::missing("member", member.name.as_str()));
    }
    let put =
        identity.put_member(&context.caller.actor(), &org.id, &member.id, form.is_admin).await?;
    ok(&Member { member, is_admin: put.is_admin })
}

pub(super) async fn delete_member(context: Context) -> Answer {
    let org = context.org()?;
    if let Ok(member) = context.member().await {
        let actor = context.caller.actor();
        context.identity().remove_member(&actor, &org.id, &member.id).await?;
    }
    no_content()
}

pub(super) async fn member_teams(context: Context) -> Answer {
    let (org, member) = (context.org()?, context.member().await?);
    let of_member = context.identity().catalog().member_teams(&member.id).await?;
    let mut all = context.identity().teams(&org.id).await?;
    all.retain(|team| of_member.iter().any(|(id, _)| *id == team.id));
    team_page(&context, all)
}

fn team_page(context: &Context, all: Vec<dtr_catalog::records::Team>) -> Answer {
    let resource_count = all.len() as u64;
    let (page, next_page_start) = context.page(all, |team| team.name.as_str())?;
    let teams = page.into_iter().map(TeamView::from).collect();
    ok(&TeamList { resource_count, next_page_start, teams })
}

pub(super) async fn list_teams(context: Context) -> Answer {
    let all = context.identity().teams(&context.org()?.id).await?;
    team_page(&context, all)
}

pub(super) async fn create_team(context: Context) -> Answer {
    let form: NewTeam = context.form()?;
    let org = context.org()?;
    let team = context.identity().create_team(&context.caller.actor(), &org.id, form).await?;
    json(StatusCode::CREATED, &TeamView::from(team))
}

pub(super) async fn get_team(context: Context) -> Answer {
    let team = context.team().await?;
    let members = context.identity().team_members(&team.organization, &team.id).await?;
    let mut view = TeamView::from(team);
    view.members_count = Some(members.len() as u64);
    ok(&view)
}

pub(super) async fn update_team(context: Context) -> Answer {
    let form: TeamChange = context.form()?;
    let team = context.team().await?;
    let actor = context.caller.actor();
    let team = context.identity().update_team(&actor, &team.organization, &team.id, form).await?;
    ok(&TeamView::from(team))
}

pub(super) async fn delete_team(context: Context) -> Answer {
    context.org()?;
    if let Ok(team) = context.team().await {
        let actor = context.caller.actor();
        context.identity().delete_team(&actor, &team.organization, &team.id).await?;
    }
    no_content()
}

pub(super) async fn list_team_members(context: Context) -> Answer {
    let team = context.team().await?;
    let all = context.identity().team_members(&team.organization, &team.id).await?;
    member_page(&context, all)
}

pub(super) async fn get_team_member(context: Context) -> Answer {
    let (team, member) = (context.team().await?, context.member().await?);
    match context.identity().team_membership(&team.id, &member.id).await? {
        Some(membership) => ok(&Member { member, is_admin: membership.is_admin }),
        None => Err(ApiError::missing("member", member.name.as_str())),
    }
}

pub(super) async fn put_team_member(context: Context, must_exist: bool) -> Answer {
    let form: MemberForm = context.optional_form()?;
    let (team, member) = (context.team().await?, context.member().await?);
    let identity = context.identity();
    let org = context.org()?;
    let of_owners = form.is_admin.is_some() || {
        // Whoever manages a team adds people of the organization; bringing new ones in is for its owners.
        identity.membership(&org.id, &member.id).await?.is_none()
    };
    let is_owner = context.caller.is_admin()
        || context.caller.principal().is_some_and(|principal| principal.owns(&org.id));
    if of_owners && !is_owner {
        return Err(ApiError::not_authorized());
    }
    if must_exist && identity.team_membership(&team.id, &member.id).await?.is_none() {
        return Err(ApiError::missing("member", member.name.as_str()));
    }
    let put = identity
        .put_team_member(&context.caller.actor(), &org.id, &team.id, &member.id, form.is_admin)
        .await?;
    ok(&Member { member, is_admin: put.is_admin })
}

pub(super) async fn delete_team_member(context: Context) -> Answer {
    let team = context.team().await?;
    if let Ok(member) = context.member().await {
        let actor = context.caller.actor();
        let org = &team.organization;
        context.identity().remove_team_member(&actor, org, &team.id, &member.id).await?;
    }
    no_content()
}
