//! Access tokens: made, checked, changed. A token is shown once; only its hash is kept.

use std::{sync::Arc, time::Duration};

use dtr_catalog::{
    Catalog, CatalogError, keys,
    records::{AccessToken, Event, TokenOrigin},
};
use dtr_types::{AccountId, Digest, Secret, Timestamp};

use crate::{Access, Limits, RepositoryPattern};

/// What every access token begins with, so that a leaked one is recognised.
const PREFIX: &str = "dtr_";
/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;
/// How exactly the last use is recorded.
const LAST_USED_STEP: Duration = Duration::from_secs(60);

/// An access token to make.
#[derive(Clone, Debug)]
pub struct NewAccessToken {
    /// Whose rights it gives.
    pub account: AccountId,
    /// What its owner calls it.
    pub label: String,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// The repositories it is limited to: `namespace/name` or `namespace/*`.
    pub repositories: Option<Vec<String>>,
    /// Whether it can only pull.
    pub pull_only: bool,
    /// Whether it can only take backups, list them, and see the status.
    pub backups_only: bool,
    /// When the password was last changed with which a client logged in: the token ends when it is changed again. `None`
    /// for a token that is made by itself, and lives on.
    pub password_changed_at: Option<Timestamp>,
    /// How it came to be.
    pub origin: TokenOrigin,
    /// The user agent that asked for it.
    pub creator_ua: String,
    /// For a login: the client's address. Together with its user agent it tells apart the clients of an account.
    pub creator_address: String,
}

/// Why an access token is not made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A pattern of repositories is not one.
    #[error("{0}")]
    Pattern(String),
    /// More patterns than a token carries.
    #[error("an access token can be limited to at most {0} repositories; use namespace/*")]
    Patterns(usize),
    /// It would end before it begins.
    #[error("the token would have ended on {0} already; choose a time to come")]
    Expired(Timestamp),
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Logins of one account that clients keep a refresh token of. One more ends another.
pub const LOGINS_MAX: usize = 50;

/// Patterns of one token.
const PATTERNS_MAX: usize = 100;

#[derive(Clone)]
pub(crate) struct AccessTokens {
    catalog: Catalog,
    /// Tokens whose last use was recorded within the last minute.
    recorded: moka::sync::Cache<Arc<str>, ()>,
}

impl AccessTokens {
    pub fn new(catalog: Catalog) -> Self {
        let recorded =
            moka::sync::Cache::builder().max_capacity(100_000).time_to_live(LAST_USED_STEP).build();
        Self { catalog, recorded }
    }

    /// Whether a text has the form of an access token.
    pub fn is_token(text: &Secret) -> bool {
        text.expose().strip_prefix(PREFIX).is_some_and(|rest| {
            rest.len() == 2 * TOKEN_BYTES && rest.bytes().all(|b| b.is_ascii_hexdigit())
        })
    }

    fn hash(token: &Secret) -> String {
        Digest::of(token.expose().as_bytes()).hex()
    }

    /// The record of a token that is accepted now.
    pub async fn check(&self, token: &Secret) -> Result<Option<AccessToken>, CatalogError> {
        let hash = Self::hash(token);
        let Some(record) = self.by_hash(&hash).await? else { return Ok(None) };
        let now = self.catalog.now();
        let hash: Arc<str> = hash.into();
        if !self.recorded.contains_key(&hash) {
            self.recorded.insert(Arc::clone(&hash), ());
            // Nice to know, not worth failing a pull for.
            let key = keys::access_token(&hash);
            let used = self.catalog.change(&key, None, |old| {
                Some(AccessToken { last_used: Some(now), ..old.clone() })
            });
            if let Err(error) = used.await {
                tracing::warn!(%error, "the last use of an access token was not recorded");
            }
        }
        Ok(Some(record))
    }

    /// The record of a token that is accepted now, which is not recorded as a use of it.
    pub async fn by_hash(&self, hash: &str) -> Result<Option<AccessToken>, CatalogError> {
        let found = self.catalog.get(&keys::access_token(hash)).await?;
        let now = self.catalog.now();
        Ok(found
            .map(|found| found.value)
            .filter(|token| token.is_active && token.expires_at.is_none_or(|end| end > now)))
    }

    /// What a token takes away from its account's rights. Patterns that cannot be read match nothing.
    pub fn limits(record: &AccessToken) -> Limits {
        Limits {
            repositories: record
                .repositories
                .as_ref()
                .map(|all| all.iter().filter_map(|text| text.parse().ok()).collect()),
            pull_only: record.pull_only,
            backups_only: record.backups_only,
            scopes: None,
        }
    }
}

impl Access {
    /// Makes an access token; yields its record and, this one time, the token.
    pub async fn create_access_token(
        &self,
        new: NewAccessToken,
        event: Option<&Event>,
    ) -> Result<(AccessToken, Secret), TokenError> {
        let now = self.catalog.now();
        if let Some(end) = new.expires_at.filter(|end| *end <= now) {
            return Err(TokenError::Expired(end));
        }
        if let Some(patterns) = &new.repositories {
            if patterns.len() > PATTERNS_MAX {
                return Err(TokenError::Patterns(PATTERNS_MAX));
            }
            for pattern in patterns {
                pattern.parse::<RepositoryPattern>().map_err(TokenError::Pattern)?;
            }
        }
        if new.origin == TokenOrigin::Auto {
            self.make_room(&new).await?;
        }
        let token = Secret::new(format!("{PREFIX}{}", self.catalog.random().hex(TOKEN_BYTES)));
        let record = AccessToken {
            hash: AccessTokens::hash(&token),
            account: new.account,
            label: new.label,
            is_active: true,
            created_at: now,
            expires_at: new.expires_at,
            last_used: None,
            generated_by: new.origin,
            creator_ua: new.creator_ua,
            repositories: new.repositories,
            pull_only: new.pull_only,
            backups_only: new.backups_only,
            creator_address: new.creator_address,
            password_changed_at: new.password_changed_at,
        };
        self.catalog.create_access_token(&record, event).await?;
        Ok((record, token))
    }

    /// Ends logins of an account until there is room for one more: first what has ended, then those of the client that logs in
    /// again, else those used least recently. A client that logs in for every job so replaces its own, and never another's.
    async fn make_room(&self, new: &NewAccessToken) -> Result<(), CatalogError> {
        let now = self.catalog.now();
        let tokens = self.catalog.account_tokens(&new.account).await?;
        let mut logins: Vec<_> =
            tokens.into_iter().filter(|token| token.generated_by == TokenOrigin::Auto).collect();
        let excess = (logins.len() + 1).saturating_sub(LOGINS_MAX);
        logins.sort_by_key(|token| {
            let goes_on = token.is_active && token.expires_at.is_none_or(|end| end > now);
            let is_other =
                token.creator_ua != new.creator_ua || token.creator_address != new.creator_address;
            (goes_on, is_other, token.last_used.unwrap_or(token.created_at), token.created_at)
        });
        for token in logins.iter().take(excess) {
            self.catalog.delete_access_token(&token.hash, None).await?;
        }
        Ok(())
    }

    /// Renames a token, or switches it on or off. `None` when it is not there.
    pub async fn update_access_token(
        &self,
        hash: &str,
        label: Option<&str>,
        is_active: Option<bool>,
        event: Option<&Event>,
    ) -> Result<Option<AccessToken>, CatalogError> {
        self.catalog
            .change(&keys::access_token(hash), event, |old| {
                let mut new = old.clone();
                if let Some(label) = label {
                    label.clone_into(&mut new.label);
                }
                new.is_active = is_active.unwrap_or(old.is_active);
                (new != *old).then_some(new)
            })
            .await
    }

    /// Deletes a token. `false` when it is not there.
    pub async fn delete_access_token(
        &self,
        hash: &str,
        event: Option<&Event>,
    ) -> Result<bool, CatalogError> {
        self.catalog.delete_access_token(hash, event).await
    }
}
