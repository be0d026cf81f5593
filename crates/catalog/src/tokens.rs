//! Access tokens, by their hash and by account.

use bytes::Bytes;
use dtr_store::{At, Transaction};
use dtr_types::AccountId;

use crate::{
    Catalog, CatalogError, Kind, TransactionExt as _, keys,
    records::{AccessToken, Event, KeyPurpose},
};

impl Catalog {
    /// Stores a new token.
    pub async fn create_access_token(
        &self,
        token: &AccessToken,
        event: Option<&Event>,
    ) -> Result<(), CatalogError> {
        let mut transaction = Transaction::new()
            .create_record(token)?
            .put(keys::account_token(&token.account, &token.hash), Bytes::new());
        if let Some(event) = event {
            transaction = transaction.event(event)?;
        }
        match self.commit(transaction).await?.committed() {
            Some(_) => Ok(()),
            None => Err(CatalogError::Exists { kind: "access token", name: token.hash.clone() }),
        }
    }

    /// An account's tokens, in order of their hashes.
    pub async fn account_tokens(
        &self,
        account: &AccountId,
    ) -> Result<Vec<AccessToken>, CatalogError> {
        let mut tokens = Vec::new();
        for hash in self.all_names(&keys::account_tokens(account)).await? {
            if let Some(found) = self.get(&keys::access_token(&hash)).await? {
                tokens.push(found.value);
            }
        }
        Ok(tokens)
    }

    /// Deletes the access tokens of everybody; yields how many.
    pub async fn delete_all_tokens(&self) -> Result<u64, CatalogError> {
        let prefix = Kind::AccessToken.prefix().as_bytes();
        let mut deleted = 0;
        loop {
            let page = self.list::<AccessToken>(prefix, None, 0, At::Latest).await?;
            if page.items.is_empty() {
                return Ok(deleted);
            }
            for found in page.items {
                deleted += u64::from(self.delete_access_token(&found.value.hash, None).await?);
            }
        }
    }

    /// Takes back all keys that sign tokens, and so every token that they signed; yields how many keys. The next token is signed
    /// with a new one.
    pub async fn delete_token_keys(&self, event: &Event) -> Result<u64, CatalogError> {
        let taken = self.signing_keys(KeyPurpose::Token).await?;
        let transaction = taken
            .iter()
            .fold(Transaction::new(), |t, key| t.delete(keys::signing_key(key.purpose, &key.id)));
        self.commit(transaction.event(event)?).await?;
        Ok(taken.len() as u64)
    }

    /// Deletes all tokens of an account; yields how many. The event goes with the last of them.
    pub async fn delete_account_tokens(
        &self,
        account: &AccountId,
        event: Option<&Event>,
    ) -> Result<u64, CatalogError> {
        let tokens = self.account_tokens(account).await?;
        let mut deleted = 0;
        for (i, token) in tokens.iter().enumerate() {
            let event = event.filter(|_| i + 1 == tokens.len());
            deleted += u64::from(self.delete_access_token(&token.hash, event).await?);
        }
        Ok(deleted)
    }

    /// Deletes a token. `false` when it is not there.
    pub async fn delete_access_token(
        &self,
        hash: &str,
        event: Option<&Event>,
    ) -> Result<bool, CatalogError> {
        let key = keys::access_token(hash);
        let Some(found) = self.get(&key).await? else { return Ok(false) };
        let mut transaction = Transaction::new()
            .if_present(&key)
            .delete(&key)
            .delete(keys::account_token(&found.value.account, hash));
        if let Some(event) = event {
            transaction = transaction.event(event)?;
        }
        Ok(self.commit(transaction).await?.committed().is_some())
    }
}
