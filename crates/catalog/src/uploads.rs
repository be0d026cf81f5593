//! Upload sessions.

use dtr_store::{At, Transaction};
use dtr_types::{Revision, UploadId};

use crate::{
    Catalog, CatalogError, Kind, Page, TransactionExt as _, Versioned, keys, records::UploadRecord,
};

impl Catalog {
    /// Starts a session. `false` when it has a record already.
    pub async fn create_upload(&self, upload: &UploadRecord) -> Result<bool, CatalogError> {
        let transaction = Transaction::new()
            .content()
            .if_present(keys::repository(&upload.repository))
            .create_record(upload)?;
        match self.commit(transaction).await?.committed() {
            Some(_) => Ok(true),
            None if self.get_upload(&upload.id).await?.is_some() => Ok(false),
            None => Err(CatalogError::Missing {
                kind: "repository",
                name: upload.repository.to_string(),
            }),
        }
    }

    /// A session.
    pub async fn get_upload(
        &self,
        id: &UploadId,
    ) -> Result<Option<Versioned<UploadRecord>>, CatalogError> {
        self.get(&keys::upload(id)).await
    }

    /// Records progress, if the session is still as it was read. `false` when somebody else changed it: two requests
    /// write to one session at once.
    pub async fn update_upload(
        &self,
        read: &Versioned<UploadRecord>,
        new: &UploadRecord,
    ) -> Result<bool, CatalogError> {
        let transaction = Transaction::new().content();
        let transaction =
            transaction.if_modified_at(new_key(new), read.modified).put_record(new)?;
        Ok(self.commit(transaction).await?.committed().is_some())
    }

    /// The end of a session, as part of the commit that links its blob.
    pub fn end_upload(read: &Versioned<UploadRecord>) -> Transaction {
        let key = keys::upload(&read.value.id);
        Transaction::new().if_modified_at(&key, read.modified).delete(&key)
    }

    /// Ends a session that leads to nothing, if it is still as it was read (at [`Revision::ZERO`] when it has no record yet).
    /// Its record stays until it is purged: a request that has seen an earlier one, on whatever replica, can then add
    /// nothing. `false` when somebody else changed it.
    pub async fn close_upload(&self, read: &Versioned<UploadRecord>) -> Result<bool, CatalogError> {
        let ended =
            UploadRecord { offset: 0, updated_at: self.now(), ended: true, ..read.value.clone() };
        let transaction = match read.modified {
            Revision::ZERO => Transaction::new().create_record(&ended)?,
            modified => {
                Transaction::new().if_modified_at(new_key(&ended), modified).put_record(&ended)?
            }
        };
        Ok(self.commit(transaction).await?.committed().is_some())
    }

    /// Removes the record of a session. No error when it has gone.
    pub async fn delete_upload(&self, id: &UploadId) -> Result<(), CatalogError> {
        self.commit(Transaction::new().delete(keys::upload(id))).await.map(drop)
    }

    /// Sessions in order of their ids, for purging those that have not moved for long.
    pub async fn list_uploads(
        &self,
        after: Option<&UploadId>,
    ) -> Result<Page<Versioned<UploadRecord>>, CatalogError> {
        let prefix = Kind::Upload.prefix().as_bytes();
        self.list(prefix, after.map(UploadId::as_str), 0, At::Latest).await
    }
}

fn new_key(upload: &UploadRecord) -> crate::Key<UploadRecord> {
    keys::upload(&upload.id)
}
