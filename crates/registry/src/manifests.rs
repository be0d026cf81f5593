//! Manifests: read by tag or digest, stored, deleted.

use std::collections::HashMap;

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use dtr_access::{Caller, Operation};
use dtr_catalog::{
    PutManifest, StoredManifest,
    records::{EventType, ManifestRecord, Repository},
};
use dtr_types::{
    Algorithm, Digest, MANIFEST_BYTES_MAX, Manifest, ManifestKind, MediaType, RepositoryName, Tag,
};
use serde::Deserialize;

use crate::{
    DIGEST_HEADER, OciError, Registry,
    auth::Asked,
    blobs::{header_value, is_known, not_modified},
    path::Reference,
    recorder,
    uploads::Query,
};

static SUBJECT_HEADER: HeaderName = HeaderName::from_static("oci-subject");
static TAG_HEADER: HeaderName = HeaderName::from_static("oci-tag");
/// Tags that one push can set.
const TAGS_MAX: usize = 10;
/// Older tags beyond the limit of a repository that one push removes; the background work goes on.
const TAGS_REMOVED_MAX: usize = 100;
/// Configurations larger than this are not read for the platform.
const CONFIG_BYTES_MAX: u64 = 512 * 1024;

/// `GET` or `HEAD` of a manifest.
pub(crate) async fn get(
    asked: &Asked<'_>,
    name: RepositoryName,
    reference: Reference,
    request: Request,
) -> Result<Response, OciError> {
    let repository = asked.repository(&name, Operation::Pull).await?;
    let registry = asked.registry;
    let catalog = &registry.catalog;
    let unknown = || OciError::manifest_unknown(&name, &reference);
    // A tag names a manifest that is there: both go in one transaction. A digest must be looked up.
    let (digest, known) = match &reference {
        Reference::Tag(tag) => {
            let found = catalog.get_tag(&repository.id, tag).await?.ok_or_else(unknown)?;
            (found.value.digest, None)
        }
        Reference::Digest(digest) => {
            let found = catalog.get_manifest(&repository.id, digest).await?.ok_or_else(unknown)?;
            (*digest, Some(found.value))
        }
    };
    if is_known(&request, &digest) {
        return Ok(not_modified(&digest));
    }
    let (media_type, body) =
        read(registry, &repository, digest, known).await?.ok_or_else(unknown)?;
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type.as_str()));
    headers.insert(header::CONTENT_LENGTH, header_value(body.len()));
    headers.insert(header::ETAG, header_value(format!("\"{digest}\"")));
    headers.insert(DIGEST_HEADER.clone(), header_value(digest));
    if request.method() != Method::HEAD {
        record_pull(asked, &repository, &reference, &digest).await?;
        *response.body_mut() = Body::from(body);
    }
    Ok(response)
}

/// Bytes and type of a manifest, from memory if they are there: they never change under a digest.
async fn read(
    registry: &Registry,
    repository: &Repository,
    digest: Digest,
    known: Option<ManifestRecord>,
) -> Result<Option<(MediaType, Bytes)>, OciError> {
    let key = (repository.id.clone(), digest);
    if let Some((media_type, body)) = registry.manifests.get(&key) {
        let media_type = known.map_or(media_type, |record| record.media_type);
        return Ok(Some((media_type, body)));
    }
    let Some(stored) = registry.catalog.read_manifest(&repository.id, &digest).await? else {
        return Ok(None);
    };
    let StoredManifest { record, body } = stored;
    if !digest.matches(&body) {
        return Err(dtr_catalog::CatalogError::Record {
            kind: "manifest",
            key: digest.to_string(),
            reason: "its bytes do not hash to its digest".to_owned(),
        }
        .into());
    }
    registry.manifests.insert(key, (record.media_type, body.clone()));
    Ok(Some((record.media_type, body)))
}

async fn record_pull(
    asked: &Asked<'_>,
    repository: &Repository,
    reference: &Reference,
    digest: &Digest,
) -> Result<(), OciError> {
    let registry = asked.registry;
    let event = if registry.settings().await?.record_pull_events {
        let kind = match reference {
            Reference::Tag(_) => "tag",
            Reference::Digest(_) => "manifest",
        };
        Some(recorder::event(
            &registry.catalog,
            &asked.caller,
            repository,
            EventType::Get,
            kind,
            &reference.to_string(),
            &digest.to_string(),
        ))
    } else {
        None
    };
    registry.recorder.pulled(&repository.id, event);
    Ok(())
}

/// `PUT` of a manifest.
pub(crate) async fn put(
    asked: &Asked<'_>,
    name: RepositoryName,
    reference: Reference,
    request: Request,
) -> Result<Response, OciError> {
    let repository = asked.repository(&name, Operation::Push).await?;
    let registry = asked.registry;
    registry.writable().await?;
    let tags = tags_of(&reference, &Query::of(&request))?;
    let content_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .map(|value| value.to_str().map(str::to_owned))
        .transpose()
        .map_err(|_| {
            OciError::new(
                StatusCode::BAD_REQUEST,
                "MANIFEST_INVALID",
                "the Content-Type is not text",
            )
        })?;
    let body = manifest_bytes(request).await?;
    let digest = match &reference {
        Reference::Digest(expected) => {
            if !expected.matches(&body) {
                let actual = Digest::with(expected.algorithm(), &body);
                return Err(OciError::digest_invalid(format!(
                    "the manifest hashes to {actual}, not to {expected}"
                )));
            }
            *expected
        }
        Reference::Tag(_) => Digest::with(Algorithm::Sha256, &body),
    };
    let manifest = Manifest::parse(content_type.as_deref(), &body)?;
    registry.catalog.prefetch_manifest(&repository.id, &digest, &tags).await;
    check_sizes(registry, &repository, &manifest).await?;
    let put = PutManifest {
        repository: &repository,
        digest,
        manifest: &manifest,
        body: &body,
        tags: &tags,
        author: asked.caller.name(),
        author_id: asked.caller.account_id().cloned(),
        platform: platform(registry, &repository, &manifest).await,
        allow_sparse: registry.settings().await?.allow_sparse_indexes,
    };
    let stored = registry.catalog.put_manifest(&put).await?;
    registry.recorder.pushed(&repository.id);
    if repository.tag_limit > 0 && !tags.is_empty() {
        let (catalog, id) = (registry.catalog.clone(), repository.id.clone());
        // To its end, also when the client has gone. The push stands, whatever becomes of older tags: the duties go on.
        let removed = tokio::spawn(async move {
            if let Err(error) = catalog.enforce_tag_limit(&id, TAGS_REMOVED_MAX).await {
                tracing::warn!(%error, repository = %id, "tags beyond the limit were not removed yet");
            }
        });
        let _ = removed.await;
    }
    // As it came, it may be a small piece of a large buffer of its connection, which the cache would keep whole.
    let body = Bytes::copy_from_slice(&body);
    registry.manifests.insert((repository.id.clone(), digest), (stored.record.media_type, body));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::CREATED;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, header_value(format!("/v2/{name}/manifests/{reference}")));
    headers.insert(header::CONTENT_LENGTH, header_value(0));
    headers.insert(DIGEST_HEADER.clone(), header_value(digest));
    if let Some(subject) = &manifest.subject {
        headers.insert(SUBJECT_HEADER.clone(), header_value(subject.digest));
    }
    if matches!(reference, Reference::Digest(_)) {
        for tag in &tags {
            headers.append(TAG_HEADER.clone(), header_value(tag));
        }
    }
    Ok(response)
}

/// The tags that a push sets: that of the path, or those of the query when it is by digest.
fn tags_of(reference: &Reference, query: &Query) -> Result<Vec<Tag>, OciError> {
    if let Reference::Tag(tag) = reference {
        return Ok(vec![tag.clone()]);
    }
    let mut tags: Vec<Tag> = Vec::new();
    for text in query.all("tag") {
        let tag: Tag = text
            .parse()
            .map_err(|error: dtr_types::NameError| OciError::tag_invalid(error.to_string()))?;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    if tags.len() > TAGS_MAX {
        return Err(OciError::new(
            StatusCode::URI_TOO_LONG,
            "TAG_INVALID",
            format!("one push can set at most {TAGS_MAX} tags"),
        ));
    }
    Ok(tags)
}

async fn manifest_bytes(request: Request) -> Result<Bytes, OciError> {
    let too_large = || {
        OciError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "SIZE_INVALID",
            format!("a manifest can have at most {MANIFEST_BYTES_MAX} bytes"),
        )
    };
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok());
    let length: Option<usize> = length.and_then(|text| text.parse().ok());
    if length.is_some_and(|length| length > MANIFEST_BYTES_MAX) {
        return Err(too_large());
    }
    match to_bytes(request.into_body(), MANIFEST_BYTES_MAX).await {
        Ok(body) => Ok(body),
        Err(error) => {
            let text = error.to_string();
            if text.contains("length limit") {
                Err(too_large())
            } else {
                Err(OciError::new(
                    StatusCode::BAD_REQUEST,
                    "MANIFEST_INVALID",
                    "the request's body broke off",
                ))
            }
        }
    }
}

/// Refuses descriptors whose size is not that of what they name: a client would refuse the image at the pull.
async fn check_sizes(
    registry: &Registry,
    repository: &Repository,
    manifest: &Manifest,
) -> Result<(), OciError> {
    let catalog = &registry.catalog;
    let differs = |digest: &Digest, said: u64, is: u64| {
        OciError::new(
            StatusCode::BAD_REQUEST,
            "MANIFEST_INVALID",
            format!("the manifest says that {digest} has {said} bytes; it has {is}"),
        )
    };
    // What is named twice is looked up once, and has one size.
    let mut sizes = HashMap::new();
    for descriptor in manifest.descriptors() {
        let size = sizes.entry(descriptor.digest).or_insert(descriptor.size);
        if *size != descriptor.size {
            return Err(differs(&descriptor.digest, descriptor.size, *size));
        }
    }
    let all = [manifest.blobs(), manifest.optional_blobs(), manifest.children()];
    for descriptor in all.into_iter().flatten() {
        let digest = &descriptor.digest;
        // One that is missing is told by the commit, which knows for certain.
        let is = match manifest.kind {
            ManifestKind::Image { .. } => None,
            ManifestKind::Index { .. } => {
                let found = catalog.get_manifest(&repository.id, digest).await?;
                found.map(|found| found.value.size)
            }
        };
        let is = match is {
            Some(size) => Some(size),
            None => catalog.linked_blob(&repository.id, digest).await?.map(|blob| blob.size),
        };
        if let Some(is) = is.filter(|is| *is != descriptor.size) {
            return Err(differs(digest, descriptor.size, is));
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct Config {
    os: Option<String>,
    architecture: Option<String>,
}

/// Operating system and architecture of an image, from its configuration. Shown, never decided upon: so whatever is
/// wrong with the configuration is no error.
async fn platform(
    registry: &Registry,
    repository: &Repository,
    manifest: &Manifest,
) -> Option<(String, String)> {
    let ManifestKind::Image { config, .. } = &manifest.kind else { return None };
    let is_image = matches!(
        config.media_type.as_str(),
        "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json"
    );
    if !is_image || config.size > CONFIG_BYTES_MAX {
        return None;
    }
    registry.catalog.linked_blob(&repository.id, &config.digest).await.ok()??;
    let reader = registry.blobs.read(&config.digest, None).await.ok()?;
    if reader.size() > CONFIG_BYTES_MAX {
        return None;
    }
    let bytes = reader.bytes().await.ok().filter(|bytes| config.digest.matches(bytes))?;
    let config: Config = serde_json::from_slice(&bytes).ok()?;
    let short = |text: String| text.chars().take(64).collect::<String>();
    Some((short(config.os?), short(config.architecture?)))
}

/// `DELETE` of a tag, or of a manifest with all its tags.
pub(crate) async fn delete(
    asked: &Asked<'_>,
    name: RepositoryName,
    reference: Reference,
) -> Result<Response, OciError> {
    let repository = asked.repository(&name, Operation::DeleteTag).await?;
    let registry = asked.registry;
    registry.writable().await?;
    let event = |kind: &str, name: &str| {
        let caller: &Caller = &asked.caller;
        recorder::event(&registry.catalog, caller, &repository, EventType::Delete, kind, name, "")
    };
    let found = match &reference {
        Reference::Tag(tag) => {
            let event = event("tag", tag.as_str());
            registry.catalog.delete_tag(&repository.id, tag, Some(&event)).await?.is_some()
        }
        Reference::Digest(digest) => {
            let event = event("manifest", &digest.to_string());
            let deleted =
                registry.catalog.delete_manifest(&repository.id, digest, Some(&event)).await?;
            registry.manifests.invalidate(&(repository.id.clone(), *digest));
            deleted.is_some()
        }
    };
    if !found {
        return Err(OciError::manifest_unknown(&name, &reference));
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}
