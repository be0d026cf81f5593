//! Uploads: begun, continued in chunks or streamed, ended, asked about, given up.
//!
//! A session is a record in the store (offset, state of the hash) and bytes in the blob storage; both outlive the process
//! and either replica can go on with it. The record is written after the bytes are durable, so it never promises more than
//! there is. Before its first byte a session is its id alone (`fresh`).
//!
//! Of requests that write to one session at once, on several replicas, the one counts whose record is committed first: its
//! bytes are apart from those of the others, and named by what they hash to (see the blob storage's `session`). So nothing
//! is removed before the session has ended: what a request has written in vain, another one may have written too.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use dtr_access::Operation;
use dtr_blobs::{Appended, BoxError, ByteStream, Staged};
use dtr_catalog::{
    Catalog, LinkCheck, TransactionExt as _, Versioned, keys,
    records::{BlobRecord, Repository, UploadRecord},
};
use dtr_store::{Transaction, together::inherit};
use dtr_types::{Algorithm, Digest, Hasher, RepositoryName, UploadId};
use futures_util::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use std::{collections::HashSet, sync::Arc, time::Duration};

use crate::{
    DIGEST_HEADER, OciError, Registry, UPLOAD_HEADER,
    auth::Asked,
    blobs::header_value,
    fresh::{self, Purpose, is_stored},
    mount,
};

/// How often a commit that lost a race is tried again.
const ATTEMPTS_MAX: usize = 32;
/// How long a push waits for the collector to finish with the blob that it pushes.
const CONDEMNED_WAIT: Duration = Duration::from_millis(100);

/// The query of a request, decoded. `+` stays `+`: media types and digests have it, blanks they have not.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub fn of(request: &Request) -> Self {
        let decode = |text: &str| {
            percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
        };
        let pairs = request.uri().query().unwrap_or_default().split('&').filter(|p| !p.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(key), decode(value))
                })
                .collect(),
        )
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, value)| value.as_str())
    }
}

fn digest_of(query: &Query) -> Result<Digest, OciError> {
    let text = query
        .get("digest")
        .ok_or_else(|| OciError::digest_invalid("the request has no parameter \"digest\""))?;
    text.parse()
        .map_err(|error: dtr_types::DigestError| OciError::digest_invalid(error.to_string()))
}

fn body_of(request: Request) -> ByteStream {
    request.into_body().into_data_stream().map_err(|error| Box::new(error) as BoxError).boxed()
}

fn has_body(headers: &HeaderMap) -> bool {
    match headers.get(header::CONTENT_LENGTH) {
        Some(value) => value.as_bytes() != b"0",
        // HTTP/1.1 says so with this header; in HTTP/2 a body without a length just comes.
        None => true,
    }
}

fn location(name: &RepositoryName, id: &UploadId) -> String {
    format!("/v2/{name}/blobs/uploads/{id}")
}

/// `Range` of what has arrived; with nothing it is `0-0`, as the reference implementation says it.
fn arrived(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}

fn progress(status: StatusCode, name: &RepositoryName, id: &UploadId, offset: u64) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, header_value(location(name, id)));
    headers.insert(header::RANGE, header_value(arrived(offset)));
    headers.insert(UPLOAD_HEADER.clone(), header_value(id));
    headers.insert(header::CONTENT_LENGTH, header_value(0));
    response
}

fn created(name: &RepositoryName, digest: &Digest) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::CREATED;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, header_value(format!("/v2/{name}/blobs/{digest}")));
    headers.insert(DIGEST_HEADER.clone(), header_value(digest));
    headers.insert(header::CONTENT_LENGTH, header_value(0));
    response
}

/// `POST .../blobs/uploads/`: begins a session, mounts, or takes a whole blob.
pub(crate) async fn post(
    asked: &Asked<'_>,
    name: RepositoryName,
    request: Request,
) -> Result<Response, OciError> {
    let repository = asked.repository(&name, Operation::Push).await?;
    asked.registry.writable().await?;
    let query = Query::of(&request);
    // A mount that does not succeed, for whatever reason, is an ordinary session: anything else ends the push.
    if let Some(Ok(digest)) = query.get("mount").map(str::parse::<Digest>)
        && mount::mount(asked, &repository, &digest, query.get("from")).await?
    {
        return Ok(created(&name, &digest));
    }
    if query.get("digest").is_some() && query.get("mount").is_none() {
        let digest = digest_of(&query)?;
        let registry = asked.registry.clone();
        return to_the_end(take_whole(registry, repository, digest, body_of(request))).await;
    }
    let algorithm = match query.get("digest-algorithm") {
        Some(text) => text
            .parse()
            .map_err(|error: dtr_types::DigestError| OciError::digest_invalid(error.to_string()))?,
        None => Algorithm::Sha256,
    };
    let catalog = &asked.registry.catalog;
    let of = purpose(asked, &repository);
    let id = fresh::begin(catalog.random(), of, algorithm)
        .ok_or_else(|| OciError::unavailable("an upload cannot be begun"))?;
    Ok(progress(StatusCode::ACCEPTED, &name, &id, 0))
}

/// A blob in one request.
async fn take_whole(
    registry: Registry,
    repository: Repository,
    digest: Digest,
    body: ByteStream,
) -> Result<Response, OciError> {
    let id = UploadId::random(registry.catalog.random());
    registry.blobs.upload_create(&id).await?;
    let taken = async {
        let hasher = Hasher::new(digest.algorithm());
        let appended = registry.blobs.upload_append(&id, 0, hasher, body).await;
        let appended = appended.map_err(|failed| OciError::from(failed.error))?;
        check_digest(appended.hasher.clone().finish(), digest)?;
        let staged = registry.blobs.upload_finish(&id, &appended).await?;
        link(&registry, &repository, &digest, &staged, None).await?;
        Ok(staged)
    };
    match taken.await {
        Ok(staged) => end(&registry, &staged).await,
        Err(error) => {
            leave(&registry, &id).await;
            return Err(error);
        }
    }
    Ok(created(&repository.name, &digest))
}

/// Removes what is left of an upload. What it was for has been decided already, so a failure is left to the purge.
async fn leave(registry: &Registry, id: &UploadId) {
    if let Err(error) = registry.blobs.upload_abort(id).await {
        tracing::warn!(%error, "what is left of an upload was not removed yet");
    }
}

/// Removes what is left of an upload whose blob is stored.
async fn end(registry: &Registry, staged: &Staged) {
    if let Err(error) = registry.blobs.upload_end(staged).await {
        tracing::warn!(%error, "what is left of an upload was not removed yet");
    }
}

fn check_digest(actual: Digest, expected: Digest) -> Result<(), OciError> {
    if actual == expected {
        return Ok(());
    }
    Err(OciError::digest_invalid(format!(
        "the content hashes to {actual}, not to {expected}; it was refused, upload it again"
    )))
}

/// The sessions that a request of this replica is writing to: a client that sends to one twice is told at once to come
/// again, as one does whose first connection died without a word.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writers(Arc<Mutex<HashSet<UploadId>>>);

/// One session, for one request.
struct Writing {
    writers: Writers,
    id: UploadId,
}

impl Writers {
    fn begin(&self, id: &UploadId) -> Result<Writing, OciError> {
        if !self.0.lock().insert(id.clone()) {
            return Err(dtr_blobs::BlobError::UploadBusy(id.clone()).into());
        }
        Ok(Writing { writers: self.clone(), id: id.clone() })
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.writers.0.lock().remove(&self.id);
    }
}

/// Runs to its end whether or not the client waits for it: a connection that breaks ends the body, not the writing of
/// what has arrived, nor its record.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, OciError>> + Send + 'static,
) -> Result<T, OciError> {
    tokio::spawn(inherit(work)).await.unwrap_or_else(|_| {
        Err(OciError::unavailable("the upload was interrupted; ask for its status and go on"))
    })
}

/// Publishes staged bytes, also where there are some already (those may be damaged, these are proven), and commits the link,
/// together with the end of the session if there is one. The rules are those of the catalog's `links`.
async fn link(
    registry: &Registry,
    repository: &Repository,
    digest: &Digest,
    staged: &Staged,
    session: Option<&Versioned<UploadRecord>>,
) -> Result<(), OciError> {
    let catalog = &registry.catalog;
    // One that was not stored must not be by now: another replica has acknowledged bytes of it.
    let extra = || match session {
        None => Transaction::new(),
        Some(session) if is_stored(session) => Catalog::end_upload(session),
        Some(session) => Transaction::new().if_absent(keys::upload(&session.value.id)),
    };
    for _ in 0..ATTEMPTS_MAX {
        let linked = match catalog.check_link(digest).await? {
            LinkCheck::Condemned => {
                tokio::time::sleep(CONDEMNED_WAIT).await;
                continue;
            }
            LinkCheck::Present { modified, size } => {
                registry.blobs.publish(staged, digest).await?;
                let mut extra = extra();
                if size != staged.size {
                    let (digest, size, stored_at) = (*digest, staged.size, catalog.now());
                    extra = extra.put_record(&BlobRecord { digest, size, stored_at })?;
                }
                catalog.link_blob(&repository.id, digest, modified, extra).await?
            }
            LinkCheck::Absent { removed } => {
                registry.blobs.publish(staged, digest).await?;
                let size = staged.size;
                catalog.link_new_blob(&repository.id, digest, size, removed, extra()).await?
            }
        };
        if linked {
            return Ok(());
        }
        // Mostly another push of the same blob was faster. What cannot be healed by another try is told.
        if let Some(session) = session {
            let id = &session.value.id;
            match catalog.get_upload(id).await? {
                None if !is_stored(session) => {}
                Some(now) if now.modified == session.modified => {}
                Some(now) if !now.value.ended => {
                    return Err(OciError::upload_moved(id));
                }
                _ => return Err(OciError::upload_unknown(id.as_str())),
            }
        }
        if catalog.get(&keys::repository(&repository.id)).await?.is_none() {
            return Err(OciError::name_unknown(&repository.name, Operation::Push));
        }
    }
    Err(dtr_catalog::CatalogError::Condemned(*digest).into())
}

/// The session, if it is of this repository and of who asks. One of somebody else is unknown.
async fn session(
    asked: &Asked<'_>,
    repository: &Repository,
    id: &UploadId,
) -> Result<Versioned<UploadRecord>, OciError> {
    let catalog = &asked.registry.catalog;
    let unknown = || OciError::upload_unknown(id.as_str());
    let of = purpose(asked, repository);
    if let Some(found) = catalog.get_upload(id).await? {
        let record = &found.value;
        let theirs = record.repository != *of.repository || record.account.as_ref() != of.account;
        return if theirs || record.ended { Err(unknown()) } else { Ok(found) };
    }
    if asked.registry.ended.contains_key(id) {
        return Err(unknown());
    }
    let algorithm = fresh::begun(id, of).ok_or_else(unknown)?;
    Ok(fresh::session(id, of, algorithm, catalog.now()))
}

fn purpose<'a>(asked: &'a Asked<'_>, repository: &'a Repository) -> Purpose<'a> {
    Purpose { repository: &repository.id, account: asked.caller.account_id() }
}

/// Makes the place for the bytes of a session that has none yet.
async fn prepare(registry: &Registry, found: &Versioned<UploadRecord>) -> Result<(), OciError> {
    if is_stored(found) {
        return Ok(());
    }
    let id = &found.value.id;
    match registry.blobs.upload_create(id).await {
        // A request that broke off has made it, or one to another replica.
        Err(dtr_blobs::BlobError::UploadExists(_)) => {
            Ok(registry.blobs.upload_reopen(id, 0).await?)
        }
        made => Ok(made?),
    }
}

/// `Content-Range: <first>-<last>` of a chunk; a prefix `bytes ` is accepted, since some clients write it.
fn content_range(headers: &HeaderMap) -> Result<Option<(u64, u64)>, OciError> {
    let Some(value) = headers.get(header::CONTENT_RANGE) else { return Ok(None) };
    let wrong = || OciError::size_invalid("Content-Range of a chunk is written <first>-<last>");
    let text = value.to_str().map_err(|_| wrong())?.trim();
    let text = text.strip_prefix("bytes ").unwrap_or(text);
    let text = text.split_once('/').map_or(text, |(range, _)| range);
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let (first, last) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
    // The largest number has no successor, which is where the next chunk would begin.
    if first > last || last == u64::MAX { Err(wrong()) } else { Ok(Some((first, last))) }
}

/// Checks a chunk's place and length against the session.
fn check_chunk(
    headers: &HeaderMap,
    name: &RepositoryName,
    record: &UploadRecord,
) -> Result<(), OciError> {
    let Some((first, last)) = content_range(headers)? else { return Ok(()) };
    if first != record.offset {
        return Err(OciError::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "RANGE_INVALID",
            format!(
                "{} bytes have arrived; the next chunk begins there, not at {first}",
                record.offset
            ),
        )
        .header(header::LOCATION, location(name, &record.id))
        .header(header::RANGE, arrived(record.offset)));
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length != last - first + 1) {
        return Err(OciError::size_invalid(
            "the chunk's Content-Length does not fit its Content-Range",
        ));
    }
    Ok(())
}

fn hasher_of(record: &UploadRecord) -> Result<Hasher, OciError> {
    Hasher::resume(&record.hash).ok_or_else(|| {
        OciError::unavailable("the upload's state cannot be read; start the upload again")
    })
}

/// Where the session is after a chunk that says so.
fn chunk_end(headers: &HeaderMap) -> Result<Option<u64>, OciError> {
    Ok(content_range(headers)?.map(|(_, last)| last + 1))
}

/// Appends a body to a session. What has come of a body that broke off is recorded. One that does not fit its
/// `Content-Range` is not: the next append goes on without its bytes.
async fn append(
    registry: &Registry,
    found: &Versioned<UploadRecord>,
    hasher: Hasher,
    body: ByteStream,
    end: Option<u64>,
) -> Result<Appended, OciError> {
    let record = &found.value;
    if is_stored(found) {
        // The end of it may have been under way when the process died: then its bytes are staged, its record is here.
        registry.blobs.upload_reopen(&record.id, record.offset).await?;
    }
    match registry.blobs.upload_append(&record.id, record.offset, hasher, body).await {
        Ok(appended) if end.is_some_and(|end| end != appended.size) => {
            Err(OciError::size_invalid(format!(
                "the chunk has {} bytes, which does not fit its Content-Range",
                appended.size - record.offset
            )))
        }
        Ok(appended) => Ok(appended),
        Err(failed) => {
            if let Some(kept) = &failed.kept
                && kept.size > record.offset
            {
                record_progress(registry, found, kept).await?;
            }
            Err(failed.error.into())
        }
    }
}

async fn record_progress(
    registry: &Registry,
    found: &Versioned<UploadRecord>,
    appended: &Appended,
) -> Result<(), OciError> {
    let new = UploadRecord {
        offset: appended.size,
        hash: appended.hasher.save(),
        updated_at: registry.catalog.now(),
        ..found.value.clone()
    };
    let recorded = if is_stored(found) {
        registry.catalog.update_upload(found, &new).await?
    } else {
        registry.catalog.create_upload(&new).await?
    };
    if recorded {
        return Ok(());
    }
    // Given up meanwhile, or another replica wrote to it.
    match registry.catalog.get_upload(&new.id).await? {
        Some(now) if !now.value.ended => Err(OciError::upload_moved(&new.id)),
        _ => Err(OciError::upload_unknown(new.id.as_str())),
    }
}

/// `PATCH` of a session: a chunk, or a whole stream.
pub(crate) async fn patch(
    asked: &Asked<'_>,
    name: RepositoryName,
    id: UploadId,
    request: Request,
) -> Result<Response, OciError> {
    let repository = asked.repository(&name, Operation::Push).await?;
    asked.registry.writable().await?;
    session(asked, &repository, &id).await?;
    let writing = asked.registry.writers.begin(&id)?;
    let found = session(asked, &repository, &id).await?;
    check_chunk(request.headers(), &name, &found.value)?;
    let end = chunk_end(request.headers())?;
    let hasher = hasher_of(&found.value)?;
    let (registry, body) = (asked.registry.clone(), body_of(request));
    let size = to_the_end(async move {
        let _writing = writing;
        prepare(&registry, &found).await?;
        let appended = append(&registry, &found, hasher, body, end).await?;
        record_progress(&registry, &found, &appended).await?;
        Ok(appended.size)
    });
    Ok(progress(StatusCode::ACCEPTED, &name, &id, size.await?))
}

/// `PUT` of a session: its end, perhaps with the last or the only chunk.
pub(crate) async fn put(
    asked: &Asked<'_>,
    name: RepositoryName,
    id: UploadId,
    request: Request,
) -> Result<Response, OciError> {
    let repository = asked.repository(&name, Operation::Push).await?;
    asked.registry.writable().await?;
    let digest = digest_of(&Query::of(&request))?;
    asked.registry.catalog.prefetch_upload(&id, &digest).await;
    session(asked, &repository, &id).await?;
    let writing = asked.registry.writers.begin(&id)?;
    let found = session(asked, &repository, &id).await?;
    check_chunk(request.headers(), &name, &found.value)?;
    let end = chunk_end(request.headers())?;
    let mut hasher = hasher_of(&found.value)?;
    // Nothing has come yet: what was announced, or not, does not matter.
    if hasher.algorithm() != digest.algorithm() && found.value.offset == 0 {
        hasher = Hasher::new(digest.algorithm());
    }
    let registry = asked.registry.clone();
    let body = has_body(request.headers()).then(|| body_of(request));
    to_the_end(async move {
        let _writing = writing;
        prepare(&registry, &found).await?;
        // The last chunk needs no record of its own: the session ends with it.
        let whole = match body {
            Some(body) => append(&registry, &found, hasher, body, end).await?,
            None => Appended { size: found.value.offset, hasher },
        };
        finish(&registry, &repository, &found, whole, digest).await
    })
    .await
}

/// The end of a session, with all its bytes.
async fn finish(
    registry: &Registry,
    repository: &Repository,
    found: &Versioned<UploadRecord>,
    whole: Appended,
    digest: Digest,
) -> Result<Response, OciError> {
    let id = &found.value.id;
    let staged = registry.blobs.upload_finish(id, &whole).await?;
    let actual = if whole.hasher.algorithm() == digest.algorithm() {
        whole.hasher.finish()
    } else {
        // The client did not announce with what it would end: all of it is read again.
        registry.blobs.staged_digest(&staged, digest.algorithm()).await?
    };
    if let Err(error) = check_digest(actual, digest) {
        if !registry.catalog.close_upload(found).await? {
            return Err(OciError::upload_moved(id));
        }
        leave(registry, id).await;
        return Err(error);
    }
    link(registry, repository, &digest, &staged, Some(found)).await?;
    // From here on the blob is stored whatever happens.
    registry.ended.insert(id.clone(), ());
    end(registry, &staged).await;
    Ok(created(&repository.name, &digest))
}

/// `GET` of a session: how far it has come.
pub(crate) async fn status(
    asked: &Asked<'_>,
    name: RepositoryName,
    id: UploadId,
) -> Result<Response, OciError> {
    let repository = asked.repository(&name, Operation::Push).await?;
    let found = session(asked, &repository, &id).await?;
    Ok(progress(StatusCode::NO_CONTENT, &name, &id, found.value.offset))
}

/// `DELETE` of a session: it is given up.
pub(crate) async fn cancel(
    asked: &Asked<'_>,
    name: RepositoryName,
    id: UploadId,
) -> Result<Response, OciError> {
    let repository = asked.repository(&name, Operation::Push).await?;
    for _ in 0..ATTEMPTS_MAX {
        let found = session(asked, &repository, &id).await?;
        if asked.registry.catalog.close_upload(&found).await? {
            leave(asked.registry, &id).await;
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(response);
        }
    }
    Err(OciError::upload_moved(&id))
}
