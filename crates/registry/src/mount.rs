//! Mounts: a blob of one repository becomes readable through another, which saves its upload.

use axum::extract::Request;
use dtr_catalog::{keys, records::Repository};
use dtr_types::{Digest, RepositoryName};

use crate::{OciError, auth::Asked, intact, uploads::Query};

/// Repositories that are tried for a mount without a source.
const MOUNT_SOURCES_MAX: usize = 50;

/// The repository that a request mounts from.
pub(crate) fn mount_source(request: &Request) -> Option<RepositoryName> {
    let query = Query::of(request);
    query.get("mount")?;
    query.get("from")?.parse().ok()
}

/// Makes a blob of another repository readable through this one, if the caller can read it there. One that the storage has
/// lost is not: the upload that follows brings it again.
pub(crate) async fn mount(
    asked: &Asked<'_>,
    to: &Repository,
    digest: &Digest,
    from: Option<&str>,
) -> Result<bool, OciError> {
    let catalog = &asked.registry.catalog;
    match catalog.get(&keys::blob(digest)).await? {
        Some(found) if intact::is_stored(asked.registry, &found.value).await? => {}
        _ => return Ok(false),
    }
    if catalog.linked_blob(&to.id, digest).await?.is_some() {
        return Ok(catalog.mount_blob(&to.id, &to.id, digest).await.unwrap_or(false));
    }
    let sources = match from {
        Some(text) => {
            let Ok(name) = text.parse::<RepositoryName>() else { return Ok(false) };
            let Some(found) = catalog.lookup_repository(&name).await? else { return Ok(false) };
            // The token decides, not what the account could do with another one. Some clients (regctl) ask for a token of
            // the target alone, and then upload; but whoever is handed such a token, a job that may push to one
            // repository, would otherwise read everything of the account's whose digest is known.
            if asked.may_pull(&found.value).await? { vec![found.value] } else { Vec::new() }
        }
        None => {
            let ids = catalog.repositories_with(digest, MOUNT_SOURCES_MAX).await?;
            asked.pullable(&ids).await?
        }
    };
    for source in sources {
        match catalog.mount_blob(&source.id, &to.id, digest).await {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(%error, "a mount became an upload");
                return Ok(false);
            }
        }
    }
    Ok(false)
}
