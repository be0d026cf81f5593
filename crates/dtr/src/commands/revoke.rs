//! `dtr revoke`: the day of a compromise.

use anyhow::Context as _;
use dtr_client::ClientError;
use serde_json::{Value, json};

use super::connect;
use crate::{
    cli::{Output, RevokeArgs},
    failure::{Failure, Result},
    terminal,
};

/// `dtr revoke --user NAME|--everybody`
pub async fn run(args: RevokeArgs) -> Result<()> {
    connect::with(&args.admin.connect, async |c| {
        // Here first: where the registry keeps the accounts, this ends the own session too.
        let mut revoked: Value = c
            .api
            .post("/api/v0/revoke", &json!({ "username": args.user, "everybody": args.everybody }))
            .await
            .context("cannot end sessions and tokens")?;
        if revoked["sessions"].is_null() {
            c.needs_password("the tokens are over, but sessions are kept by the UCP")?;
            let path = match &args.user {
                Some(user) => format!("/enzi/v0/accounts/{user}/sessions"),
                None => "/enzi/v0/sessions".to_owned(),
            };
            let ended = c.accounts.delete_with_answer::<Value>(&path).await;
            let ended = ended.map_err(|error| match error {
                ClientError::NotFound { .. } => Failure::usage(
                    "the tokens are over, but sessions are kept by the UCP: give its address with --ucp-url",
                ),
                error => anyhow::Error::new(error)
                    .context("the tokens are over, but the sessions at the UCP are not"),
            })?;
            revoked["sessions"] = ended["sessions"].clone();
        }
        match args.admin.output {
            Output::Json => terminal::print_json(&revoked),
            Output::Text => {
                let of = args.user.as_ref().map_or("everybody", |user| user.as_str());
                terminal::print(&format!(
                    "ended of {of}: {} sessions, {} access tokens and logins\n\
                     ended of everybody: the tokens of /auth/token, which clients get anew by themselves\n\
                     passwords are as they were: change those that may be known\n",
                    revoked["sessions"], revoked["accessTokens"]
                ))
            }
        }
    })
    .await
}
