//! `dtr user`, `dtr org`, `dtr team`: accounts, where they are kept.

use anyhow::Context as _;
use dtr_client::{Api, ClientError, PageStyle};
use dtr_types::{AccountName, Secret, TeamName};
use serde_json::{Value, json};

use super::connect::{self, Connection};
use crate::{
    cli::{AdminArgs, OrgCommand, Output, TeamCommand, UserCommand},
    failure::{Failure, Result},
    terminal::{self, Table, field},
};

/// How a password is given without a terminal.
const PASSWORD: &str = "DTR_USER_PASSWORD in the environment, or --password";

fn account(name: &AccountName) -> String {
    format!("/enzi/v0/accounts/{name}")
}

fn team_path(org: &AccountName, team: &TeamName) -> String {
    format!("{}/teams/{team}", account(org))
}

/// All pages of a list of accounts, members or teams.
async fn list(api: &Api, path: &str, name: &str) -> Result<Vec<Value>> {
    api.list(path, PageStyle::Enzi, name, 100).await.map_err(kept_elsewhere)
}

/// Through the local socket of a DTR that uses a UCP there are no accounts to manage: the answer is about a path, and a
/// person needs to know why.
fn kept_elsewhere(error: ClientError) -> anyhow::Error {
    let hint = error.is_missing_path();
    let error = anyhow::Error::new(error);
    if hint {
        error.context("accounts are kept by the UCP: give its address with --ucp-url")
    } else {
        error
    }
}

/// Prints what was asked for, as rows or as it came.
fn show(
    output: Output,
    headings: &[&str],
    rows: &[Value],
    cells: impl Fn(&Value) -> Vec<String>,
) -> Result<()> {
    if output == Output::Json {
        return terminal::print_json(&rows);
    }
    let mut table = Table::new(headings);
    for row in rows {
        table.row(cells(row));
    }
    table.print()
}

fn changed(output: Output, value: &Value, text: &str) -> Result<()> {
    match output {
        Output::Json => terminal::print_json(value),
        Output::Text => terminal::print(text),
    }
}

/// Deletes an account, team or membership; returns whether it was there.
async fn remove(api: &Api, path: &str) -> Result<bool> {
    api.delete_existing(path).await.map_err(kept_elsewhere)
}

/// An error for a thing that is not there, in the words of all commands that delete.
fn deleted(there: bool, output: Output, what: &str) -> Result<()> {
    if !there {
        anyhow::bail!("there is no {what}");
    }
    changed(output, &json!({"deleted": what}), &format!("deleted {what}"))
}

/// `dtr user`
pub async fn user(command: UserCommand) -> Result<()> {
    match command {
        UserCommand::List { admin } => {
            on(&admin, async |c, output| {
                let path = "/enzi/v0/accounts?filter=users";
                let users =
                    list(&c.accounts, path, "accounts").await.context("cannot list users")?;
                show_accounts(output, &users)
            })
            .await
        }
        UserCommand::Show { name, admin } => {
            on(&admin, async |c, output| {
                let user: Value = c.accounts.get(&account(&name)).await.map_err(kept_elsewhere)?;
                show_accounts(output, &[user])
            })
            .await
        }
        UserCommand::Create { name, password, full_name, is_admin, admin } => {
            let password = match password {
                Some(password) => password,
                None => terminal::ask_new_password(&format!("password of {name}"), PASSWORD)?,
            };
            on(&admin, async |c, output| {
                let new = json!({
                    "name": name, "fullName": full_name, "isAdmin": is_admin,
                    "password": password.expose(),
                });
                let made: Value = c
                    .accounts
                    .post("/enzi/v0/accounts", &new)
                    .await
                    .map_err(kept_elsewhere)
                    .with_context(|| format!("cannot make user {name}"))?;
                changed(output, &made, &format!("made user {name}"))
            })
            .await
        }
        UserCommand::Update {
            name,
            full_name,
            is_admin,
            is_active,
            password,
            end_tokens,
            admin,
        } => {
            let change = UserChange { full_name, is_admin, is_active, password, end_tokens };
            on(&admin, async |c, output| change.apply(c, &name, output).await).await
        }
        UserCommand::Delete { name, with_repositories, admin } => {
            on(&admin, async |c, output| {
                delete_account(c, &name, with_repositories, output, "user").await
            })
            .await
        }
    }
}

struct UserChange {
    full_name: Option<String>,
    is_admin: Option<bool>,
    is_active: Option<bool>,
    password: Option<Secret>,
    end_tokens: bool,
}

impl UserChange {
    async fn apply(self, c: &Connection, name: &AccountName, output: Output) -> Result<()> {
        let mut fields = serde_json::Map::new();
        if let Some(text) = self.full_name {
            fields.insert("fullName".to_owned(), text.into());
        }
        for (field, value) in [("isAdmin", self.is_admin), ("isActive", self.is_active)] {
            if let Some(value) = value {
                fields.insert(field.to_owned(), value.into());
            }
        }
        if fields.is_empty() && self.password.is_none() && !self.end_tokens {
            return Err(Failure::usage(
                "nothing to change: give --full-name, --is-admin, --is-active, --password or --end-tokens",
            ));
        }
        let cannot = || format!("cannot change user {name}");
        if let Some(password) = &self.password {
            // One's own takes the old one: it is the one that was given to log in.
            let old = c.password_of(name).map(Secret::expose).unwrap_or_default();
            let form = json!({"oldPassword": old, "newPassword": password.expose()});
            let path = format!("{}/changePassword", account(name));
            let _: Value =
                c.accounts.post(&path, &form).await.map_err(kept_elsewhere).with_context(cannot)?;
        }
        if self.end_tokens {
            // Where the registry is, which is not where accounts are when a UCP keeps them.
            for origin in ["user", "auto"] {
                let path = format!("/api/v0/api_tokens?username={name}&generatedby={origin}");
                c.api.delete(&path).await.context("cannot end the access tokens")?;
            }
        }
        let path = account(name);
        let user: Value = if fields.is_empty() {
            c.accounts.get(&path).await?
        } else {
            let changed = c.accounts.patch(&path, &fields).await;
            changed.map_err(kept_elsewhere).with_context(cannot)?
        };
        changed(output, &user, &format!("changed user {name}"))
    }
}

fn show_accounts(output: Output, accounts: &[Value]) -> Result<()> {
    let headings = ["NAME", "FULL NAME", "ADMIN", "ACTIVE", "ID"];
    show(output, &headings, accounts, |a| {
        ["name", "fullName", "isAdmin", "isActive", "id"].map(|name| field(a, name)).to_vec()
    })
}

/// An account that owns repositories is deleted only with them: they would belong to nobody.
async fn delete_account(
    c: &Connection,
    name: &AccountName,
    with_repositories: bool,
    output: Output,
    kind: &str,
) -> Result<()> {
    if with_repositories {
        c.api
            .delete(&format!("/api/v0/accounts/{name}/repositories"))
            .await
            .with_context(|| format!("cannot delete the repositories of {name}"))?;
    } else {
        let path = format!("/api/v0/repositories/{name}?pageSize=1");
        let owned: Value = c.api.get(&path).await.unwrap_or_default();
        if owned["repositories"].as_array().is_some_and(|owned| !owned.is_empty()) {
            anyhow::bail!(
                "{kind} {name} owns repositories; delete them first, or give --with-repositories"
            );
        }
    }
    let there = remove(&c.accounts, &account(name)).await?;
    deleted(there, output, &format!("{kind} {name}"))
}

/// `dtr org`
pub async fn org(command: OrgCommand) -> Result<()> {
    match command {
        OrgCommand::List { admin } => {
            on(&admin, async |c, output| {
                let path = "/enzi/v0/accounts?filter=orgs";
                let orgs = list(&c.accounts, path, "accounts").await;
                let orgs = orgs.context("cannot list organizations")?;
                show(output, &["NAME", "FULL NAME", "ID"], &orgs, |org| {
                    ["name", "fullName", "id"].map(|name| field(org, name)).to_vec()
                })
            })
            .await
        }
        OrgCommand::Create { name, full_name, admin } => {
            on(&admin, async |c, output| {
                let new = json!({"name": name, "fullName": full_name, "isOrg": true});
                let made: Value = c
                    .accounts
                    .post("/enzi/v0/accounts", &new)
                    .await
                    .map_err(kept_elsewhere)
                    .with_context(|| format!("cannot make organization {name}"))?;
                changed(output, &made, &format!("made organization {name}"))
            })
            .await
        }
        OrgCommand::Delete { name, with_repositories, admin } => {
            on(&admin, async |c, output| {
                delete_account(c, &name, with_repositories, output, "organization").await
            })
            .await
        }
        OrgCommand::Members { name, admin } => {
            on(&admin, async |c, output| {
                let path = format!("{}/members", account(&name));
                let members = list(&c.accounts, &path, "members").await;
                show_members(output, "OWNER", &members.context("cannot list the members")?)
            })
            .await
        }
        OrgCommand::AddMember { name, user, owner, admin } => {
            on(&admin, async |c, output| {
                let path = format!("{}/members/{user}", account(&name));
                let what = format!("cannot make {user} a member of {name}");
                put_member(&c.accounts, &path, owner, &what).await?;
                let role = if owner { "an owner" } else { "a member" };
                let value = json!({"organization": name, "user": user, "isAdmin": owner});
                changed(output, &value, &format!("{user} is {role} of {name}"))
            })
            .await
        }
        OrgCommand::RemoveMember { name, user, admin } => {
            on(&admin, async |c, output| {
                let path = format!("{}/members/{user}", account(&name));
                let there = remove(&c.accounts, &path).await?;
                deleted(there, output, &format!("member {user} of {name}"))
            })
            .await
        }
    }
}

async fn put_member(api: &Api, path: &str, is_admin: bool, cannot: &str) -> Result<()> {
    let put: Result<Option<Value>, _> = api.put(path, &json!({"isAdmin": is_admin})).await;
    put.map(drop).map_err(kept_elsewhere).with_context(|| cannot.to_owned())
}

fn show_members(output: Output, role: &str, members: &[Value]) -> Result<()> {
    show(output, &["NAME", "FULL NAME", role], members, |m| {
        ["member/name", "member/fullName", "isAdmin"].map(|name| field(m, name)).to_vec()
    })
}

/// `dtr team`
pub async fn team(command: TeamCommand) -> Result<()> {
    match command {
        TeamCommand::List { org, admin } => {
            on(&admin, async |c, output| {
                let path = format!("{}/teams", account(&org));
                let teams = list(&c.accounts, &path, "teams").await.context("cannot list teams")?;
                show(output, &["NAME", "DESCRIPTION", "ID"], &teams, |team| {
                    ["name", "description", "id"].map(|name| field(team, name)).to_vec()
                })
            })
            .await
        }
        TeamCommand::Create { org, team, description, admin } => {
            on(&admin, async |c, output| {
                let new = json!({"name": team, "description": description});
                let made: Value = c
                    .accounts
                    .post(&format!("{}/teams", account(&org)), &new)
                    .await
                    .map_err(kept_elsewhere)
                    .with_context(|| format!("cannot make team {org}/{team}"))?;
                changed(output, &made, &format!("made team {org}/{team}"))
            })
            .await
        }
        TeamCommand::Delete { org, team, admin } => {
            on(&admin, async |c, output| {
                let there = remove(&c.accounts, &team_path(&org, &team)).await?;
                deleted(there, output, &format!("team {org}/{team}"))
            })
            .await
        }
        TeamCommand::Members { org, team, admin } => {
            on(&admin, async |c, output| {
                let path = format!("{}/members", team_path(&org, &team));
                let members = list(&c.accounts, &path, "members").await;
                show_members(output, "MANAGER", &members.context("cannot list the members")?)
            })
            .await
        }
        TeamCommand::AddMember { org, team, user, admin } => {
            on(&admin, async |c, output| {
                let path = format!("{}/members/{user}", team_path(&org, &team));
                let what = format!("cannot make {user} a member of {org}/{team}");
                put_member(&c.accounts, &path, false, &what).await?;
                let value = json!({"organization": org, "team": team, "user": user});
                changed(output, &value, &format!("{user} is a member of {org}/{team}"))
            })
            .await
        }
        TeamCommand::RemoveMember { org, team, user, admin } => {
            on(&admin, async |c, output| {
                let path = format!("{}/members/{user}", team_path(&org, &team));
                let there = remove(&c.accounts, &path).await?;
                deleted(there, output, &format!("member {user} of {org}/{team}"))
            })
            .await
        }
    }
}

/// Connects, and works with the form of output that was asked for.
async fn on(
    admin: &AdminArgs,
    work: impl AsyncFnOnce(&Connection, Output) -> Result<()>,
) -> Result<()> {
    connect::with(&admin.connect, async |c| {
        c.needs_password("accounts are managed where they are kept")?;
        work(c, admin.output).await
    })
    .await
}
