//! Sessions that are good at one registered service alone: what a command hands to a registry in place of the session of
//! whoever logged in, which would be good at the identity service itself.

use std::{sync::Arc, time::Duration};

use dtr_catalog::{
    keys,
    records::{Bound, Session},
};
use dtr_types::{Secret, ServiceId};

use super::{
    BuiltIn,
    sessions::{self, session_hash},
};
use crate::{IdentityError, Login, Principal};

/// How long one lasts at most: a backup may take hours. It ends with the session that it was made with, which commands end.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);

impl BuiltIn {
    /// Makes a session for a registered service out of one that goes on. `export` lets the service fetch the accounts with
    /// their password hashes. `None` when the session is over or is itself for a service.
    pub async fn bind_session(
        &self,
        parent: &Secret,
        service: &ServiceId,
        export: bool,
    ) -> Result<Option<Login>, IdentityError> {
        let Some(principal) = self.find_session(parent, None).await? else { return Ok(None) };
        let token = Secret::new(self.catalog().random().hex(sessions::TOKEN_BYTES));
        let now = self.catalog().now();
        let session = Session {
            hash: session_hash(&token),
            account: principal.account.id.clone(),
            created_at: now,
            expires_at: now.plus(LIFETIME),
            service: Some(service.clone()),
            bound: Some(Bound { parent: session_hash(parent), export }),
        };
        self.catalog().create_session(&session).await?;
        Ok(Some(Login { token, principal, expires_at: session.expires_at }))
    }

    /// Who lets a registered service fetch the accounts, by the session that was made for that.
    pub async fn exporter(
        &self,
        service: &ServiceId,
        token: &Secret,
    ) -> Result<Option<Arc<Principal>>, IdentityError> {
        match self.open_session(&session_hash(token), Some(service)).await? {
            Some(session) if session.bound.as_ref().is_some_and(|bound| bound.export) => {
                self.load_principal(&session.account).await
            }
            _ => Ok(None),
        }
    }

    /// Whether the session that a session was made with goes on, where it was made with one.
    pub(super) async fn parent_goes_on(&self, session: &Session) -> Result<bool, IdentityError> {
        let Some(bound) = &session.bound else { return Ok(true) };
        let parent = self.catalog().get(&keys::session(&bound.parent)).await?;
        Ok(parent.is_some_and(|parent| parent.value.expires_at > self.catalog().now()))
    }

    /// Ends what was made with a session that ends.
    pub(super) async fn end_bound(&self, parent: &Session) -> Result<(), IdentityError> {
        for session in self.catalog().account_sessions(&parent.account).await? {
            if session.bound.as_ref().is_some_and(|bound| bound.parent == parent.hash) {
                self.catalog().delete_session(&session).await?;
            }
        }
        Ok(())
    }
}
