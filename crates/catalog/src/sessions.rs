//! Sessions, by the hash of their token and by account.

use bytes::Bytes;
use dtr_store::{At, Transaction};
use dtr_types::{AccountId, Timestamp};

use crate::{
    Catalog, CatalogError, Kind, Record as _, TransactionExt as _, keys, records::Session,
};

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

    /// Ends all sessions of an account; yields how many.
    pub async fn delete_account_sessions(&self, account: &AccountId) -> Result<u64, CatalogError> {
        let sessions = self.account_sessions(account).await?;
        for session in &sessions {
            self.delete_session(session).await?;
        }
        Ok(sessions.len() as u64)
    }

    /// Ends the sessions of everybody; yields how many.
    pub async fn delete_all_sessions(&self) -> Result<u64, CatalogError> {
        let prefix = Kind::Session.prefix().as_bytes();
        let mut deleted = 0;
        loop {
            let page = self.list::<Session>(prefix, None, 0, At::Latest).await?;
            if page.items.is_empty() {
                return Ok(deleted);
            }
            for found in page.items {
                self.delete_session(&found.value).await?;
                deleted += 1;
            }
        }
    }

    /// Removes the sessions that ended before `now`, with their places in the lists of their accounts; yields how many. One that
    /// is renewed meanwhile stays.
    pub async fn purge_sessions(&self, now: Timestamp) -> Result<u64, CatalogError> {
        let prefix = Kind::Session.prefix();
        let (mut after, mut purged) = (None::<String>, 0);
        loop {
            let page =
                self.list::<Session>(prefix.as_bytes(), after.as_deref(), 0, At::Latest).await?;
            after = page.items.last().map(|found| found.value.hash.clone());
            for found in page.items.iter().filter(|found| found.value.expires_at <= now) {
                let session = &found.value;
                let over = Transaction::new()
                    .if_modified_at(session.key(), found.modified)
                    .delete(session.key())
                    .delete(keys::account_session(&session.account, &session.hash));
                purged += u64::from(self.commit(over).await?.committed().is_some());
            }
            if !page.more {
                return Ok(purged);
            }
        }
    }
}
