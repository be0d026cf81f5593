//! Blobs: read, whole or in part, and unlinked.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header},
    response::Response,
};
use dtr_access::Operation;
use dtr_catalog::records::EventType;
use dtr_types::{Digest, RepositoryName};
use futures_util::StreamExt as _;

use crate::{DIGEST_HEADER, OciError, auth::Asked, intact, recorder};

pub(crate) fn header_value(text: impl ToString) -> HeaderValue {
    // Digests, numbers, names: never anything that a header cannot hold.
    HeaderValue::from_str(&text.to_string()).unwrap_or(HeaderValue::from_static(""))
}

/// Whether the client has this content already (`If-None-Match`).
pub(crate) fn is_known(request: &Request, digest: &Digest) -> bool {
    let Some(value) = request.headers().get(header::IF_NONE_MATCH) else { return false };
    let Ok(text) = value.to_str() else { return false };
    let tag = digest.to_string();
    text.split(',')
        .map(|t| t.trim().trim_start_matches("W/").trim_matches('"'))
        .any(|t| t == tag || t == "*")
}

/// Whether the content is the one of which the client has a part (`If-Range`).
fn is_same(request: &Request, digest: &Digest) -> bool {
    let Some(value) = request.headers().get(header::IF_RANGE) else { return true };
    value.as_bytes() == format!("\"{digest}\"").as_bytes()
}

/// `304`, for content that the client has.
pub(crate) fn not_modified(digest: &Digest) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response.headers_mut().insert(header::ETAG, header_value(format!("\"{digest}\"")));
    response.headers_mut().insert(DIGEST_HEADER.clone(), header_value(digest));
    response
}

/// `GET` or `HEAD` of a blob.
pub(crate) async fn get(
    asked: &Asked<'_>,
    name: RepositoryName,
    digest: Digest,
    request: Request,
) -> Result<Response, OciError> {
    let repository = asked.repository(&name, Operation::Pull).await?;
    let catalog = &asked.registry.catalog;
    let record = catalog.linked_blob(&repository.id, &digest).await?;
    let record = record.ok_or_else(|| OciError::blob_unknown(&name, &digest))?;
    // Whoever asks so sends it if it is not there, or shows another repository that it is: the record is not enough.
    if request.method() == Method::HEAD && !intact::is_stored(asked.registry, &record).await? {
        return Err(OciError::blob_unknown(&name, &digest));
    }
    if is_known(&request, &digest) {
        return Ok(not_modified(&digest));
    }
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::ETAG, header_value(format!("\"{digest}\"")));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=31536000"));
    headers.insert(DIGEST_HEADER.clone(), header_value(digest));
    let range = request.headers().get(header::RANGE).and_then(|v| v.to_str().ok());
    // A range is of a GET alone, and of the content that the client knows (RFC 9110, 14.2 and 13.1.5).
    let range = range.filter(|_| request.method() == Method::GET && is_same(&request, &digest));
    let range = match range.map(|text| parse_range(text, record.size)) {
        None | Some(Parsed::Ignored) => None,
        Some(Parsed::Range(start, end)) => Some(start..end),
        Some(Parsed::Unsatisfiable) => {
            return Err(OciError::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "RANGE_INVALID",
                format!("the blob has {} bytes", record.size),
            )
            .header(header::CONTENT_RANGE, format!("bytes */{}", record.size)));
        }
    };
    let length = range.as_ref().map_or(record.size, |range| range.end - range.start);
    headers.insert(header::CONTENT_LENGTH, header_value(length));
    if let Some(range) = &range {
        let text = format!("bytes {}-{}/{}", range.start, range.end - 1, record.size);
        headers.insert(header::CONTENT_RANGE, header_value(text));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    if request.method() == Method::HEAD {
        return Ok(response);
    }
    let reader = intact::read(asked.registry, &record, range).await?;
    *response.body_mut() = Body::from_stream(reader.boxed());
    Ok(response)
}

enum Parsed {
    /// Not a single range of bytes: the whole is sent, as RFC 9110 allows.
    Ignored,
    /// From, and up to (exclusive).
    Range(u64, u64),
    Unsatisfiable,
}

/// A single range of RFC 9110: `bytes=a-b`, `bytes=a-`, `bytes=-n`.
fn parse_range(text: &str, size: u64) -> Parsed {
    let Some(spec) = text.trim().strip_prefix("bytes=") else { return Parsed::Ignored };
    let Some((first, last)) = spec.trim().split_once('-') else { return Parsed::Ignored };
    if spec.contains(',') {
        return Parsed::Ignored;
    }
    match (first.trim(), last.trim()) {
        ("", suffix) => match suffix.parse::<u64>() {
            Ok(0) => Parsed::Unsatisfiable,
            Ok(_) if size == 0 => Parsed::Unsatisfiable,
            Ok(n) => Parsed::Range(size.saturating_sub(n), size),
            Err(_) => Parsed::Ignored,
        },
        (first, "") => match first.parse::<u64>() {
            Ok(first) if first < size => Parsed::Range(first, size),
            Ok(_) => Parsed::Unsatisfiable,
            Err(_) => Parsed::Ignored,
        },
        (first, last) => match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(first), Ok(last)) if first <= last && first < size => {
                Parsed::Range(first, last.saturating_add(1).min(size))
            }
            (Ok(_), Ok(_)) => Parsed::Unsatisfiable,
            _ => Parsed::Ignored,
        },
    }
}

/// `DELETE` of a blob: it is no longer readable through the repository. One that a manifest of the repository needs is
/// kept: every manifest that was accepted stays pullable.
pub(crate) async fn delete(
    asked: &Asked<'_>,
    name: RepositoryName,
    digest: Digest,
) -> Result<Response, OciError> {
    let repository = asked.repository(&name, Operation::DeleteTag).await?;
    asked.registry.writable().await?;
    let catalog = &asked.registry.catalog;
    let event = recorder::event(
        catalog,
        &asked.caller,
        &repository,
        EventType::Delete,
        "blob",
        &digest.to_string(),
        "",
    );
    if !catalog.unlink_blob(&repository.id, &digest, Some(&event)).await? {
        return Err(OciError::blob_unknown(&name, &digest));
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    response.headers_mut().insert(DIGEST_HEADER.clone(), header_value(digest));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Option<(u64, u64)> {
        match parse_range(text, 2048) {
            Parsed::Range(a, b) => Some((a, b)),
            Parsed::Unsatisfiable => Some((1, 0)),
            Parsed::Ignored => None,
        }
    }

    #[test]
    fn ranges_as_of_rfc_9110() {
        assert_eq!(range("bytes=500-1499"), Some((500, 1500)));
        assert_eq!(range("bytes=500-"), Some((500, 2048)));
        assert_eq!(range("bytes=-500"), Some((1548, 2048)));
        assert_eq!(range("bytes=2000-5000"), Some((2000, 2048)));
        assert_eq!(range("bytes=-5000"), Some((0, 2048)));
        assert_eq!(range("bytes=500-0"), Some((1, 0)));
        assert_eq!(range("bytes=5000-10000"), Some((1, 0)));
        assert_eq!(range("bytes=0-18446744073709551615"), Some((0, 2048)));
        assert_eq!(range("bytes=0-1,5-6"), None);
        assert_eq!(range("lines=1-2"), None);
        assert_eq!(range("bytes=a-b"), None);
    }
}
