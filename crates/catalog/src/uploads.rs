//! Upload sessions.

use dtr_store::{At, Transaction};
use dtr_types::UploadId;

use crate::{
    Catalog, CatalogError, Kind, Page, TransactionExt as _, Versioned, keys, records::UploadRecord,
};

impl Catalog {
    /// Starts a session.
    pub async fn create_upload(&self, upload: &UploadRecord) -> Result<(), CatalogError> {
        let transaction = Transaction::new()
            .if_present(keys::repository(&upload.repository))
            .create_record(upload)?;
        match self.commit(transaction).await?.committed() {
            Some(_) => Ok(()),
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
        let transaction =
            Transaction::new().if_modified_at(new_key(new), read.modified).put_record(new)?;
        Ok(self.commit(transaction).await?.committed().is_some())
    }

    /// The end of a session, as part of the commit that links its blob.
    pub fn end_upload(read: &Versioned<UploadRecord>) -> Transaction {
        let key = keys::upload(&read.value.id);
        Transaction::new().if_modified_at(&key, read.modified).delete(&key)
    }

    /// Ends a session that leads to nothing. No error when it has gone.
    pub async fn delete_upload(&self, id: &UploadId) -> Result<(), CatalogError> {
        self.commit(Transaction::new().delete(keys::upload(id))).await.map(drop)
    }

    /// Sessions in order of their ids, for purging those that have not moved for long.
    pub async fn list_uploads(
        &self,
        after: Option<&UploadId>,
    ) -> Result<Page<UploadRecord>, CatalogError> {
        let prefix = Kind::Upload.prefix().as_bytes();
        let page =
            self.list::<UploadRecord>(prefix, after.map(UploadId::as_str), 0, At::Latest).await?;
        let items = page.items.into_iter().map(|found| found.value).collect();
        Ok(Page { revision: page.revision, items, more: page.more })
    }
}

fn new_key(upload: &UploadRecord) -> crate::Key<UploadRecord> {
    keys::upload(&upload.id)
}
