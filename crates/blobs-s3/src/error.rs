//! What a bucket's errors mean to whoever runs the registry.

use std::io;

use dtr_blobs::{BlobError, Told};
use object_store::Error;

/// The error code of the service's answer, if it gave one: in its document, or as the client library tells of a deletion.
pub(crate) fn code(text: &str) -> Option<&str> {
    element(text, "Code").or_else(|| {
        let (_, code) = text.rsplit_once("(code: ")?;
        code.split_once(')').map(|(code, _)| code)
    })
}

/// The service's own sentence.
fn message(text: &str) -> Option<String> {
    if let Some(told) = element(text, "Message") {
        return Some(unescape(told));
    }
    let (before, _) = text.rsplit_once(" (code: ")?;
    let (_, told) = before.split_once("failed for key ")?.1.split_once(": ")?;
    Some(told.to_owned())
}

/// Whether the service says "conflict": another request for the name runs, or something has it, or is in its way.
pub(crate) fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::AlreadyExists { .. } | Error::Precondition { .. })
}

/// Whether it is something else than such an object that is in the way: where keys are paths, a folder, or an object where a
/// folder is needed.
pub(crate) fn is_in_the_way(error: &Error) -> bool {
    code(&error.to_string()).is_some_and(is_of_folders)
}

fn is_of_folders(code: &str) -> bool {
    code.contains("Directory") || code.contains("ParentIsFile")
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
    let (short, more) = explain(code, &text, denied);
    let told = more.map_or_else(|| short.clone(), |more| format!("{short}: {more}"));
    let long = match code {
        Some(code) => format!("{told} [{code}] ({place})"),
        None => format!("{told} ({place})"),
    };
    tracing::debug!(action, place, "what the service or its client said: {}", shorten(&text));
    let source = io::Error::other(Told { short, long });
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

/// Meaning of an error: a few words for everybody, and more for administrators.
fn explain(code: Option<&str>, text: &str, denied: bool) -> (String, Option<String>) {
    let (what, more) = match code {
        Some("InvalidAccessKeyId" | "XAdminUserNotFound") => {
            ("the service does not know the access key", Some("check accesskey".to_owned()))
        }
        Some("SignatureDoesNotMatch") => {
            ("the secret does not belong to the access key", Some("check secretkey".to_owned()))
        }
        Some("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => {
            ("the credentials of the machine's role are over", Some("check the role".to_owned()))
        }
        Some("NoSuchBucket") => {
            ("there is no such bucket", Some("make it, or correct its name".to_owned()))
        }
        Some(
            "AuthorizationHeaderMalformed"
            | "PermanentRedirect"
            | "TemporaryRedirect"
            | "IllegalLocationConstraintException",
        ) => (
            "the bucket is in another region",
            Some("correct region (or regionendpoint)".to_owned()),
        ),
        Some("RequestTimeTooSkewed") => (
            "this machine's clock and that of the service differ too much",
            Some("set the clock".to_owned()),
        ),
        Some("AccessDenied" | "AllAccessDisabled" | "AccountProblem") => {
            let needs = "it needs to list the bucket, and to read, write and delete objects and multipart uploads in it";
            let more = match message(text) {
                Some(told) => format!("{needs} (the service says: {})", shorten(&told)),
                None => needs.to_owned(),
            };
            ("the access key is not allowed to do this", Some(more))
        }
        Some("SlowDown" | "ServiceUnavailable" | "InternalError") => {
            ("the service asks to come again later", None)
        }
        Some("XMinioServerNotInitialized") => ("the service is still starting", None),
        Some("NotImplemented") => ("the service cannot do this", None),
        Some(code) if is_of_folders(code) => (
            "something else is in the way in the bucket",
            Some(message(text).map_or_else(|| shorten(text), |told| shorten(&told))),
        ),
        Some(_) => (
            "the service refuses",
            Some(message(text).map_or_else(|| shorten(text), |told| shorten(&told))),
        ),
        None if denied => (
            "the access key is refused",
            Some("check accesskey, secretkey and what it may do".to_owned()),
        ),
        None if text.contains("incorrectly configured region") => (
            "the bucket is in another region",
            Some("correct region (or regionendpoint)".to_owned()),
        ),
        None if text.contains("certificate") => {
            let more = format!("give the CA that signed it in rootcas: {}", cause(text));
            ("its certificate is not trusted", Some(more))
        }
        None if text.contains("dns error") || text.contains("onnect") => {
            let more = format!("check regionendpoint and the network: {}", cause(text));
            ("the service cannot be reached", Some(more))
        }
        None => ("the service does not do what it is asked", Some(shorten(text))),
    };
    (what.to_owned(), more)
}

/// The last of the causes in a chain, without what libraries said on the way to it.
fn cause(text: &str) -> String {
    let mut parts: Vec<&str> = text.rsplit(": ").collect();
    parts.truncate(2);
    // What stands alone is no sentence: "(os error 111)" has its words before it in the same part.
    match parts.as_slice() {
        [last, before] if last.len() < 12 => shorten(&format!("{before}: {last}")),
        [last, ..] => shorten(last),
        [] => shorten(text),
    }
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
    fn what_everybody_sees_names_no_place_and_what_an_administrator_sees_no_library() {
        let away = "Generic S3 error: Error performing PUT http://10.0.0.7:9000/images/probe/x in 2.1s, after 12 retries, \
                    max_retries: 12, retry_timeout: 30s  - HTTP error: error sending request: client error (Connect): tcp \
                    connect error: Connection refused (os error 111)";
        let error = told(away);
        assert_eq!(error.short(), "the service cannot be reached");
        let long = error.to_string();
        assert!(long.contains("Connection refused (os error 111)"), "{long}");
        assert!(!long.contains("retries") && !long.contains("Generic S3 error"), "{long}");
        let locked = "Generic S3 error: DeleteObjects request failed for key probe/x: Access Denied because object \
                      protected by object lock. (code: AccessDenied)";
        let long = told(locked).to_string();
        assert!(long.contains("object lock") && !long.contains("DeleteObjects"), "{long}");
        let odd = told("<Code>Odd</Code><Message>Not &amp; today</Message>");
        assert_eq!(odd.short(), "the service refuses");
        assert!(odd.to_string().contains("the service refuses: Not & today [Odd]"), "{odd}");
    }

    #[test]
    fn signatures_and_long_answers_are_not_repeated() {
        let long = "ä".repeat(1000);
        let line = shorten(&format!("PUT http://host/b/k?X-Amz-Signature=abc failed {long}"));
        assert!(!line.contains("Signature") && line.len() < 500, "{line}");
    }
}
