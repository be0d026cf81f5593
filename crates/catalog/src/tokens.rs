//! Access tokens, by their hash and by account.

use bytes::Bytes;
use dtr_store::Transaction;
use dtr_types::AccountId;

use crate::{
    Catalog, CatalogError, TransactionExt as _, keys,
    records::{AccessToken, Event},
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
