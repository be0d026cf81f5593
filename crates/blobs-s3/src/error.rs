//! What a bucket's errors mean to whoever runs the registry.

use std::io;

use dtr_blobs::BlobError;
use object_store::Error;

/// The error code of the service's answer, if it gave one.
pub(crate) fn code(text: &str) -> Option<&str> {
    element(text, "Code")
}

/// The text of the first such element of an XML document.
pub(crate) fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let start = xml.find(&format!("<{name}>"))? + name.len() + 2;
    let length = xml[start..].find(&format!("</{name}>"))?;
    Some(&xml[start..start + length])
}

/// Text of an XML document, as it was meant.
pub(crate) fn unescape(text: &str) -> String {
    let named = [
        ("&quot;", "\""),
        ("&#34;", "\""),
        ("&apos;", "'"),
        ("&#39;", "'"),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&amp;", "&"),
    ];
    named.iter().fold(text.to_owned(), |text, (name, meant)| text.replace(name, meant))
}

/// Whether the service says that there is no such object. "No such bucket" is something else.
pub(crate) fn is_missing(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. }) && code(&error.to_string()) != Some("NoSuchBucket")
}

/// An error of the service about `action`, by meaning.
pub(crate) fn meaning(place: &str, action: String, error: &Error) -> BlobError {
    by_text(
        place,
        action,
        matches!(error, Error::PermissionDenied { .. } | Error::Unauthenticated { .. }),
        chain(error),
    )
}

/// The same from an answer's text.
pub(crate) fn by_text(place: &str, action: String, denied: bool, text: String) -> BlobError {
    let code = code(&text);
    if code.is_some_and(is_full) {
        return BlobError::Full { action: format!("{action} ({place})") };
    }
    let told = explain(code, &text, denied);
    let source = io::Error::other(match code {
        Some(code) => format!("{told} [{code}] ({place})"),
        None => format!("{told} ({place})"),
    });
    // Keys that may read and not write: as a disk that is mounted so.
    if code == Some("AccessDenied") || (denied && code.is_none()) {
        return BlobError::ReadOnly { action, source };
    }
    BlobError::Unavailable { action, source }
}

/// Codes that mean that there is no room: MinIO's, Ceph's, and those of gateways in front of a disk.
fn is_full(code: &str) -> bool {
    let full = [
        "QuotaExceeded",
        "StorageFull",
        "DiskFull",
        "OutOfSpace",
        "InsufficientStorage",
        "NotEnoughSpace",
    ];
    full.iter().any(|name| code.contains(name))
}

fn explain(code: Option<&str>, text: &str, denied: bool) -> String {
    let what = match code {
        Some("InvalidAccessKeyId" | "XAdminUserNotFound") => {
            "the service does not know the access key: check accesskey"
        }
        Some("SignatureDoesNotMatch") => {
            "the secret does not belong to the access key: check secretkey"
        }
        Some("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => {
            "the credentials of the machine's role are over: check the role"
        }
        Some("NoSuchBucket") => "there is no such bucket: make it, or correct its name",
        Some(
            "AuthorizationHeaderMalformed"
            | "PermanentRedirect"
            | "TemporaryRedirect"
            | "IllegalLocationConstraintException",
        ) => "the bucket is in another region: correct region (or regionendpoint)",
        Some("RequestTimeTooSkewed") => {
            "this machine's clock and that of the service differ too much: set the clock"
        }
        Some("AccessDenied" | "AllAccessDisabled" | "AccountProblem") => {
            "the access key is not allowed to do this: it needs to list the bucket, and to read, write and delete objects and multipart uploads in it"
        }
        Some("SlowDown" | "ServiceUnavailable" | "InternalError") => {
            "the service asks to come again later"
        }
        Some("XMinioServerNotInitialized") => "the service is still starting",
        Some("NotImplemented") => "the service cannot do this",
        Some(_) => {
            return element(text, "Message")
                .map_or_else(|| shorten(text), |told| shorten(&unescape(told)));
        }
        None if denied => {
            "the access key is refused: check accesskey, secretkey and what it may do"
        }
        None if text.contains("incorrectly configured region") => {
            "the bucket is in another region: correct region (or regionendpoint)"
        }
        None if text.contains("certificate") => {
            return format!(
                "its certificate is not trusted: give the CA that signed it in rootcas: {}",
                shorten(text)
            );
        }
        None if text.contains("dns error") || text.contains("onnect") => {
            return format!(
                "the service cannot be reached: check regionendpoint and the network: {}",
                shorten(text)
            );
        }
        None => return shorten(text),
    };
    what.to_owned()
}

/// The messages of an error and of its causes, each once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let told = cause.to_string();
        if !text.contains(&told) {
            text = format!("{text}: {told}");
        }
        next = cause.source();
    }
    text
}

/// One line of bounded length, without the query of a URL (where signatures stand).
fn shorten(text: &str) -> String {
    const LIMIT: usize = 400;
    let words: Vec<&str> = text
        .split_whitespace()
        .map(|word| match word.split_once('?') {
            Some((url, _)) if url.contains("://") => url,
            _ => word,
        })
        .collect();
    let mut line = words.join(" ");
    if line.len() > LIMIT {
        let cut = (0..=LIMIT).rev().find(|at| line.is_char_boundary(*at)).unwrap_or_default();
        line.truncate(cut);
        line.push_str("...");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> BlobError {
        by_text("bucket \"b\"", "write x".to_owned(), false, text.to_owned())
    }

    #[test]
    fn codes_are_explained() {
        for (code, word) in [
            ("InvalidAccessKeyId", "accesskey"),
            ("SignatureDoesNotMatch", "secretkey"),
            ("NoSuchBucket", "no such bucket"),
            ("AuthorizationHeaderMalformed", "region"),
            ("RequestTimeTooSkewed", "clock"),
        ] {
            let error = told(&format!("status 400: <Error><Code>{code}</Code></Error>"));
            assert!(matches!(error, BlobError::Unavailable { .. }), "{error:?}");
            let error = error.to_string();
            assert!(error.contains(word) && error.contains(code), "{error}");
        }
        for code in ["QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"] {
            assert!(matches!(told(&format!("<Code>{code}</Code>")), BlobError::Full { .. }));
        }
        assert!(matches!(told("<Code>AccessDenied</Code>"), BlobError::ReadOnly { .. }));
    }

    #[test]
    fn signatures_and_long_answers_are_not_repeated() {
        let long = "ä".repeat(1000);
        let line = shorten(&format!("PUT http://host/b/k?X-Amz-Signature=abc failed {long}"));
        assert!(!line.contains("Signature") && line.len() < 500, "{line}");
    }
}
