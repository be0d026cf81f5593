//! Users and organizations.

use dtr_catalog::records::Account;
use dtr_identity::{
    AccountChange, AccountFilter, AccountQuery, Identity as _, NewAccount,
    wire::{AccountList, MemberOrg, MemberOrgList},
};
use dtr_types::{AccountName, Secret};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::Answer;
use crate::{
    context::{Context, json, no_content, ok},
    error::ApiError,
};

pub(super) async fn list(context: Context) -> Answer {
    let filter = match context.query("filter") {
        None => AccountFilter::All,
        Some(text) => text.parse().map_err(|()| {
            let known = AccountFilter::ALL.map(AccountFilter::as_str).join(", ");
            ApiError::invalid(format!("filter: use one of {known}"))
        })?,
    };
    let query = AccountQuery {
        start: context.query("start").map(str::to_owned),
        limit: context.limit()?,
        filter,
    };
    let page = context.identity().accounts(&query).await?;
    let counts = context.identity().account_counts().await?;
    ok(&AccountList {
        users_count: counts.users,
        orgs_count: counts.orgs,
        resource_count: page.accounts.len() as u64,
        next_page_start: page.next.unwrap_or_default(),
        accounts: page.accounts,
    })
}

/// `isActive` is true unless said otherwise: an account is made to be used.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CreateForm {
    name: AccountName,
    #[serde(default)]
    full_name: String,
    #[serde(default)]
    is_org: bool,
    #[serde(default)]
    is_admin: bool,
    is_active: Option<bool>,
    password: Option<Secret>,
}

pub(super) async fn create(context: Context) -> Answer {
    let form: CreateForm = context.form()?;
    let new = NewAccount {
        name: form.name,
        full_name: form.full_name,
        is_org: form.is_org,
        is_admin: form.is_admin,
        is_active: form.is_active.unwrap_or(true),
        // Clients of the original send an empty password for organizations.
        password: form.password.filter(|password| !password.is_empty()),
    };
    let account = context.identity().create_account(&context.caller.actor(), new).await?;
    json(StatusCode::CREATED, &account)
}

pub(super) async fn get(context: Context) -> Answer {
    let account = context.account()?;
    ok(&with_counts(&context, account).await?)
}

/// An account with what the original shows besides.
async fn with_counts(context: &Context, account: &Account) -> Result<serde_json::Value, ApiError> {
    let mut view = serde_json::to_value(account).unwrap_or_default();
    view["isImported"] = json!(false);
    if account.is_org {
        view["membersCount"] = json!(context.identity().members(&account.id).await?.len());
        view["teamsCount"] = json!(context.identity().teams(&account.id).await?.len());
    }
    Ok(view)
}

pub(super) async fn update(context: Context) -> Answer {
    let change: AccountChange = context.form()?;
    let of_admins = change.is_admin.is_some() || change.is_active.is_some();
    if of_admins && !context.caller.is_admin() {
        return Err(ApiError::not_authorized());
    }
    let id = &context.account()?.id;
    ok(&context.identity().update_account(&context.caller.actor(), id, change).await?)
}

pub(super) async fn delete(context: Context) -> Answer {
    // As in the original: deleting what is not there is no error.
    if let Ok(account) = context.account() {
        context.identity().delete_account(&context.caller.actor(), &account.id).await?;
    }
    no_content()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PasswordForm {
    #[serde(default)]
    old_password: Secret,
    new_password: Secret,
    /// Whether all access tokens of the account end too; those of logins always do.
    #[serde(default)]
    end_tokens: bool,
}

pub(super) async fn change_password(context: Context) -> Answer {
    let form: PasswordForm = context.form()?;
    let account = context.account()?;
    let identity = context.identity();
    // An administrator's own takes the old one too: else a session that was stolen becomes an account.
    let own = context.caller.principal().is_some_and(|p| p.account.id == account.id);
    if context.caller.is_admin() && !own {
        let actor = context.caller.actor();
        identity.set_password(&actor, &account.id, form.new_password).await?;
    } else {
        let (old, new) = (&form.old_password, form.new_password);
        identity.change_own_password(&account.name, old, new, context.from).await?;
    }
    if form.end_tokens {
        identity.end_tokens(&context.caller.actor(), &account.id).await?;
    }
    ok(account)
}

pub(super) async fn organizations(context: Context) -> Answer {
    let all = context.identity().organizations(&context.account()?.id).await?;
    let resource_count = all.len() as u64;
    let (page, next_page_start) = context.page(all, |m| m.member.name.as_str())?;
    let member_orgs =
        page.into_iter().map(|m| MemberOrg { org: m.member, is_admin: m.is_admin }).collect();
    ok(&MemberOrgList { resource_count, next_page_start, member_orgs })
}

pub(super) async fn config(context: Context) -> Answer {
    let counts = context.identity().account_counts().await?;
    ok(&json!({"systemAccounts": [], "usersCount": counts.users, "orgsCount": counts.orgs}))
}
