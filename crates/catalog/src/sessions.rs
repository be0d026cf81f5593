//! Sessions, by the hash of their token and by account.

use bytes::Bytes;
use dtr_store::{At, Transaction};
use dtr_types::{AccountId, Timestamp};

use crate::{Catalog, CatalogError, Kind, TransactionExt as _, keys, records::Session};

impl Catalog {
    /// Stores a new session.
    pub async fn create_session(&self, session: &Session) -> Result<(), CatalogError> {
        let transaction = Transaction::new()
            .create_record(session)?
            .put(keys::account_session(&session.account, &session.hash), Bytes::new());
        match self.commit(transaction).await?.committed() {
            Some(_) => Ok(()),
            None => Err(CatalogError::Exists { kind: "session", name: session.hash.clone() }),
        }
    }

    /// An account's sessions, in no meaningful order; those that are over may be among them.
    pub async fn account_sessions(
        &self,
        account: &AccountId,
    ) -> Result<Vec<Session>, CatalogError> {
        let mut sessions = Vec::new();
        for hash in self.all_names(&keys::account_sessions(account)).await? {
            if let Some(found) = self.get(&keys::session(&hash)).await? {
                sessions.push(found.value);
            }
        }
        Ok(sessions)
    }

    /// Ends a session. No error when it is not there.
    pub async fn delete_session(&self, session: &Session) -> Result<(), CatalogError> {
        let transaction = Transaction::new()
            .delete(keys::session(&session.hash))
            .delete(keys::account_session(&session.account, &session.hash));
        self.commit(transaction).await.map(drop)
    }

    /// Ends all sessions of an account.
    pub async fn delete_account_sessions(&self, account: &AccountId) -> Result<(), CatalogError> {
        for session in self.account_sessions(account).await? {
            self.delete_session(&session).await?;
        }
        Ok(())
    }

    /// Removes the sessions that ended before `now`; yields how many.
    pub async fn purge_sessions(&self, now: Timestamp) -> Result<u64, CatalogError> {
        let prefix = Kind::Session.prefix();
        let (mut after, mut purged) = (None::<String>, 0);
        loop {
            let page =
                self.list::<Session>(prefix.as_bytes(), after.as_deref(), 0, At::Latest).await?;
            after = page.items.last().map(|found| found.value.hash.clone());
            for found in page.items.iter().filter(|found| found.value.expires_at <= now) {
                self.delete_session(&found.value).await?;
                purged += 1;
            }
            if !page.more {
                return Ok(purged);
            }
        }
    }
}
