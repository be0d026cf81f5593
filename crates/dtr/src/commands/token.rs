//! `dtr token`: access tokens, one's own or (for administrators) anybody's.

use anyhow::Context as _;
use dtr_client::Api;
use dtr_types::AccountName;
use serde_json::{Map, Value, json};

use super::connect;
use crate::{
    cli::{Output, TokenCommand},
    failure::{Failure, Result},
    terminal::{self, Table, field},
};

/// The digits of an id.
const ID_LENGTH: usize = 64;

fn path(user: Option<&AccountName>) -> String {
    match user {
        Some(user) => format!("/api/v0/api_tokens?username={user}"),
        None => "/api/v0/api_tokens".to_owned(),
    }
}

/// The whole id from its first digits.
async fn whole(api: &Api, id: &str) -> Result<String> {
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Failure::usage(format!("\"{id}\" is not an id as \"token list\" shows it")));
    }
    if id.len() == ID_LENGTH {
        return Ok(id.to_owned());
    }
    let tokens: Vec<Value> = api.get(&path(None)).await.context("cannot list access tokens")?;
    let ids: Vec<String> = tokens.iter().map(|token| field(token, "hashedToken")).collect();
    let mut found = ids.into_iter().filter(|known| known.starts_with(id));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => anyhow::bail!(
            "you have no access token whose id begins with {id}; for another user's, give the whole id"
        ),
        (Some(_), Some(_)) => anyhow::bail!("several ids begin with {id}; give more digits"),
    }
}

/// `dtr token`
pub async fn token(command: TokenCommand) -> Result<()> {
    match command {
        TokenCommand::List { user, all, admin } => {
            connect::with(&admin.connect, async |c| {
                c.needs_login("access tokens")?;
                let tokens: Vec<Value> =
                    c.api.get(&path(user.as_ref())).await.context("cannot list access tokens")?;
                let is_login = |token: &Value| token["generatedBy"] == "auto";
                let (logins, mut shown): (Vec<_>, Vec<_>) = tokens.into_iter().partition(is_login);
                if all {
                    shown.extend(logins);
                } else if !logins.is_empty() && admin.output == Output::Text {
                    terminal::say(&format!(
                        "{} logins of clients are not listed; see them with --all",
                        logins.len()
                    ));
                }
                show(admin.output, &shown)
            })
            .await
        }
        TokenCommand::Create {
            label,
            user,
            expires,
            repository,
            pull_only,
            backups_only,
            admin,
        } => {
            let mut new = json!({"tokenLabel": label, "pullOnly": pull_only});
            if backups_only {
                new["backupsOnly"] = true.into();
            }
            if let Some(expires) = expires {
                new["expiresAt"] = expires.into();
            }
            if !repository.is_empty() {
                new["repositories"] = repository.into();
            }
            connect::with(&admin.connect, async |c| {
                c.needs_login("access tokens")?;
                let made: Value = c
                    .api
                    .post(&path(user.as_ref()), &new)
                    .await
                    .with_context(|| format!("cannot make access token \"{label}\""))?;
                match admin.output {
                    Output::Json => terminal::print_json(&made),
                    Output::Text => {
                        terminal::say("This is the only time that the token is shown:");
                        terminal::print(&field(&made, "token"))
                    }
                }
            })
            .await
        }
        TokenCommand::Update { id, label, active, admin } => {
            let mut change = Map::new();
            if let Some(label) = label {
                change.insert("tokenLabel".to_owned(), label.into());
            }
            if let Some(active) = active {
                change.insert("isActive".to_owned(), active.into());
            }
            if change.is_empty() {
                return Err(Failure::usage("nothing to change: give --label or --active"));
            }
            connect::with(&admin.connect, async |c| {
                c.needs_login("access tokens")?;
                let id = whole(&c.api, &id).await?;
                let changed: Value =
                    c.api.patch(&format!("/api/v0/api_tokens/{id}"), &change).await?;
                match admin.output {
                    Output::Json => terminal::print_json(&changed),
                    Output::Text => show(Output::Text, &[changed]),
                }
            })
            .await
        }
        TokenCommand::Delete { id, admin } => {
            connect::with(&admin.connect, async |c| {
                c.needs_login("access tokens")?;
                let id = whole(&c.api, &id).await?;
                if !c.api.delete(&format!("/api/v0/api_tokens/{id}")).await? {
                    anyhow::bail!("there is no access token {id}, or you may not see it");
                }
                match admin.output {
                    Output::Json => terminal::print_json(&json!({"deleted": id})),
                    Output::Text => terminal::print(&format!("deleted access token {id}")),
                }
            })
            .await
        }
    }
}

/// The program that a token was made for or by, and where it ran.
fn client(token: &Value) -> String {
    let agent = field(token, "creatorUa");
    let agent = agent.split(' ').next().unwrap_or_default();
    match field(token, "creatorAddress") {
        address if address.is_empty() => agent.to_owned(),
        address => format!("{agent} at {address}"),
    }
}

fn show(output: Output, tokens: &[Value]) -> Result<()> {
    if output == Output::Json {
        return terminal::print_json(&tokens);
    }
    let headings = ["ID", "LABEL", "ACTIVE", "LAST USED", "ENDS", "LIMITED TO", "CLIENT"];
    let mut table = Table::new(&headings);
    for token in tokens {
        let id: String = field(token, "hashedToken").chars().take(12).collect();
        let mut limits: Vec<String> = token["repositories"]
            .as_array()
            .map(|names| names.iter().filter_map(|n| n.as_str().map(ToOwned::to_owned)).collect())
            .unwrap_or_default();
        if token["pullOnly"] == true {
            limits.push("pulling".to_owned());
        }
        if token["backupsOnly"] == true {
            limits.push("backups".to_owned());
        }
        let [label, active, used, ends] =
            ["tokenLabel", "isActive", "lastUsed", "expiresAt"].map(|name| field(token, name));
        table.row([id, label, active, used, ends, limits.join(", "), client(token)]);
    }
    table.print()
}
