//! Sessions: a random token that only its owner has; the store knows its SHA-256.

use std::{net::IpAddr, sync::Arc};

use dtr_catalog::{keys, records::Session};
use dtr_types::{AccountId, Secret, ServiceId};

use super::BuiltIn;
use crate::{IdentityError, Login, Principal};

/// Random bytes of a session's token; it is written in hexadecimal.
pub(super) const TOKEN_BYTES: usize = 32;

/// Whether a text has the form of a session's token.
pub fn is_session_token(text: &Secret) -> bool {
    has_form(text.expose())
}

fn has_form(text: &str) -> bool {
    text.len() == 2 * TOKEN_BYTES
        && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The id of the session that a token opens: its SHA-256 in hexadecimal, from which the token cannot be found.
pub fn session_hash(token: &Secret) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.expose().as_bytes());
    hex::encode(digest)
}

impl BuiltIn {
    pub(super) async fn begin_session(
        &self,
        username: &str,
        password: &Secret,
        from: Option<IpAddr>,
        service: Option<&ServiceId>,
    ) -> Result<Login, IdentityError> {
        let principal = self.check_password(username, password, from).await?;
        self.make_room(&principal.account.id).await?;
        let token = Secret::new(self.catalog().random().hex(TOKEN_BYTES));
        let now = self.catalog().now();
        let session = Session {
            hash: session_hash(&token),
            account: principal.account.id.clone(),
            created_at: now,
            expires_at: now.plus(self.inner.options.session_lifetime),
            service: service.cloned(),
            bound: None,
        };
        self.catalog().create_session(&session).await?;
        Ok(Login { token, principal, expires_at: session.expires_at })
    }

    /// Ends sessions that are over, and those used least recently until there is room for one more.
    async fn make_room(&self, account: &AccountId) -> Result<(), IdentityError> {
        let now = self.catalog().now();
        let mut sessions = self.catalog().account_sessions(account).await?;
        sessions.sort_by_key(|session| (session.expires_at, session.created_at));
        let limit = self.inner.options.sessions_per_user;
        let excess = if limit == 0 { 0 } else { (sessions.len() + 1).saturating_sub(limit) };
        let by_age = self.catalog().deletion_pauses().is_none();
        for (i, session) in sessions.iter().enumerate() {
            if i < excess || (by_age && session.expires_at <= now) {
                self.catalog().delete_session(session).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn find_session(
        &self,
        token: &Secret,
        service: Option<&ServiceId>,
    ) -> Result<Option<Arc<Principal>>, IdentityError> {
        if !is_session_token(token) {
            return Ok(None);
        }
        let Some(session) = self.open_session(&session_hash(token), service).await? else {
            return Ok(None);
        };
        let (key, now) = (keys::session(&session.hash), self.catalog().now());
        let principal = self.load_principal(&session.account).await?;
        let options = &self.inner.options;
        let renewed = session.bound.is_none();
        if renewed && principal.is_some() && session.expires_at.since(now) < options.session_renewal
        {
            self.catalog()
                .change(&key, None, |session| {
                    let mut renewed = session.clone();
                    renewed.expires_at = now.plus(options.session_lifetime);
                    Some(renewed)
                })
                .await?;
        }
        Ok(principal)
    }

    /// The record of a session that is not over, for who is asked here (`service` none) or for a registered service: one that a
    /// service has begun is good there alone, and so ends with it.
    pub(super) async fn open_session(
        &self,
        hash: &str,
        service: Option<&ServiceId>,
    ) -> Result<Option<Session>, IdentityError> {
        if !has_form(hash) {
            return Ok(None);
        }
        let Some(found) = self.catalog().get(&keys::session(hash)).await? else { return Ok(None) };
        let session = found.value;
        if session.service.is_some() && session.service.as_ref() != service {
            return Ok(None);
        }
        let changed = self.catalog().get(&keys::credential(&session.account)).await?;
        let outdated = changed.is_none_or(|c| c.value.changed_at > session.created_at);
        let goes_on = session.expires_at > self.catalog().now() && !outdated;
        Ok((goes_on && self.parent_goes_on(&session).await?).then_some(session))
    }

    pub(super) async fn end_session(&self, token: &Secret) -> Result<(), IdentityError> {
        if let Some(found) = self.catalog().get(&keys::session(&session_hash(token))).await? {
            self.catalog().delete_session(&found.value).await?;
            self.end_bound(&found.value).await?;
        }
        Ok(())
    }
}
