//! Accounts taken out and put in, for backups and restores of the registries that use them. Password hashes go to
//! administrators who prove themselves, and not to registered services.

use axum::body::Body;
use bytes::Bytes;
use dtr_identity::{AccountRecords, ExportCursor, ImportAnswer};
use futures_util::stream;
use http::{HeaderValue, header};

use super::Answer;
use crate::context::{Context, ok};

/// `?dryRun=true` only says what would become of the accounts.
pub(super) async fn import(context: Context) -> Answer {
    let batch: AccountRecords = context.form()?;
    if context.query("dryRun") == Some("true") {
        return ok(&context.identity().check_import(&batch).await?);
    }
    let actor = context.caller.actor();
    let answer = context.identity().import(&actor, batch).await?;
    let ImportAnswer { created, existing, skipped, .. } = &answer;
    tracing::info!(by = actor.name, created, existing, skipped, "accounts were put in");
    ok(&answer)
}

pub(super) async fn export(context: &Context) -> Answer {
    let identity = context.identity().clone();
    tracing::info!(by = context.caller.actor().name, "all accounts are exported");
    let lines = stream::try_unfold(
        (identity, ExportCursor::default()),
        |(identity, mut cursor)| async move {
            let Some(lines) = identity.export(&mut cursor).await.map_err(std::io::Error::other)?
            else {
                return Ok(None);
            };
            let mut bytes = Vec::new();
            for line in lines {
                serde_json::to_writer(&mut bytes, &line)?;
                bytes.push(b'\n');
            }
            Ok::<_, std::io::Error>(Some((Bytes::from(bytes), (identity, cursor))))
        },
    );
    let mut response = http::Response::new(Body::from_stream(lines));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
