//! Paths of `/v2`, read from the right: repository names contain slashes and may contain the words of the protocol.

use dtr_types::{Digest, NameError, RepositoryName, Tag, UploadId};

use crate::OciError;

/// A tag or a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// By tag.
    Tag(Tag),
    /// By digest.
    Digest(Digest),
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// What a path of `/v2` leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/<name>/tags/list`
    Tags(RepositoryName),
    /// `/v2/<name>/manifests/<reference>`
    Manifest(RepositoryName, Reference),
    /// `/v2/<name>/blobs/<digest>`
    Blob(RepositoryName, Digest),
    /// `/v2/<name>/blobs/uploads/`
    Uploads(RepositoryName),
    /// `/v2/<name>/blobs/uploads/<id>`
    Upload(RepositoryName, UploadId),
    /// `/v2/<name>/referrers/<digest>`
    Referrers(RepositoryName, Digest),
}

impl Endpoint {
    /// The methods that it answers, as the header `Allow` lists them.
    pub(crate) const fn methods(&self) -> &'static str {
        match self {
            Self::Base | Self::Catalog | Self::Tags(_) | Self::Referrers(..) => "GET, HEAD",
            Self::Manifest(..) => "GET, HEAD, PUT, DELETE",
            Self::Blob(..) => "GET, HEAD, DELETE",
            Self::Uploads(_) => "POST",
            Self::Upload(..) => "GET, HEAD, PATCH, PUT, DELETE",
        }
    }
}

fn name(parts: &[&str]) -> Result<RepositoryName, OciError> {
    let text = parts.join("/");
    text.parse().map_err(|error: NameError| match RepositoryName::is_well_formed(&text) {
        // No repository can be called so here, and elsewhere it could: to a client it is one that does not exist. docker
        // tries an invalid name again and again, for most of a minute.
        true => OciError::name_impossible(error.to_string()),
        false => OciError::name_invalid(error.to_string()),
    })
}

fn digest(text: &str) -> Result<Digest, OciError> {
    text.parse().map_err(|error: dtr_types::DigestError| {
        OciError::digest_invalid(format!("\"{}\": {error}", shorten(text)))
    })
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

impl Endpoint {
    /// Reads a path, decoded, that begins with `/v2`. `Ok(None)` when it leads nowhere.
    ///
    /// # Errors
    /// An invalid name, tag or digest, with the code that the specification has for it.
    pub fn parse(path: &str) -> Result<Option<Self>, OciError> {
        let Some(rest) = path.strip_prefix("/v2") else { return Ok(None) };
        if rest.is_empty() || rest == "/" {
            return Ok(Some(Self::Base));
        }
        let Some(rest) = rest.strip_prefix('/') else { return Ok(None) };
        if rest == "_catalog" {
            return Ok(Some(Self::Catalog));
        }
        let parts: Vec<&str> = rest.split('/').collect();
        match parts.as_slice() {
            [.., "tags", "list"] if parts.len() > 2 => {
                Ok(Some(Self::Tags(name(&parts[..parts.len() - 2])?)))
            }
            [before @ .., "blobs", "uploads", ""] | [before @ .., "blobs", "uploads"]
                if !before.is_empty() =>
            {
                Ok(Some(Self::Uploads(name(before)?)))
            }
            [before @ .., "blobs", "uploads", id]
                if !before.is_empty() && id.parse::<Digest>().is_err() =>
            {
                let name = name(before)?;
                let id = id.parse().map_err(|_| OciError::upload_unknown(&shorten(id)))?;
                Ok(Some(Self::Upload(name, id)))
            }
            [before @ .., "blobs", text] if !before.is_empty() => {
                Ok(Some(Self::Blob(name(before)?, digest(text)?)))
            }
            [before @ .., "referrers", text] if !before.is_empty() => {
                Ok(Some(Self::Referrers(name(before)?, digest(text)?)))
            }
            [before @ .., "manifests", text] if !before.is_empty() => {
                Ok(Some(Self::Manifest(name(before)?, reference(text)?)))
            }
            _ => Ok(None),
        }
    }
}

fn reference(text: &str) -> Result<Reference, OciError> {
    if text.contains(':') {
        return Ok(Reference::Digest(digest(text)?));
    }
    match text.parse() {
        Ok(tag) => Ok(Reference::Tag(tag)),
        Err(error) => {
            let error: NameError = error;
            Err(OciError::tag_invalid(error.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(path: &str) -> Endpoint {
        Endpoint::parse(path).expect("valid").expect("an endpoint")
    }

    #[test]
    fn names_may_hold_the_words_of_the_protocol() {
        let digest = Digest::of(b"x");
        let name: RepositoryName = "a/blobs/uploads/b".parse().expect("valid");
        assert_eq!(
            parse(&format!("/v2/{name}/blobs/{digest}")),
            Endpoint::Blob(name.clone(), digest)
        );
        assert_eq!(parse(&format!("/v2/{name}/blobs/uploads/")), Endpoint::Uploads(name.clone()));
        let tag = Reference::Tag("list".parse().expect("valid"));
        let tags: RepositoryName = "a/tags".parse().expect("valid");
        assert_eq!(parse("/v2/a/tags/manifests/list"), Endpoint::Manifest(tags.clone(), tag));
        assert_eq!(parse("/v2/a/tags/tags/list"), Endpoint::Tags(tags));
        let uploads: RepositoryName = "a/blobs/uploads".parse().expect("valid");
        assert_eq!(
            parse(&format!("/v2/a/blobs/uploads/blobs/{digest}")),
            Endpoint::Blob(uploads, digest)
        );
        assert_eq!(parse("/v2"), Endpoint::Base);
        assert_eq!(parse("/v2/"), Endpoint::Base);
        assert_eq!(parse("/v2/_catalog"), Endpoint::Catalog);
    }

    #[test]
    fn what_cannot_be_is_told_by_its_code() {
        let code = |path: &str| Endpoint::parse(path).expect_err("refused").code();
        assert_eq!(code("/v2/A/b/tags/list"), "NAME_INVALID");
        assert_eq!(code("/v2/single/tags/list"), "NAME_UNKNOWN");
        assert_eq!(code("/v2/Single/tags/list"), "NAME_INVALID");
        assert_eq!(code("/v2/a/b/manifests/.x"), "TAG_INVALID");
        assert_eq!(code("/v2/a/b/manifests/sha256:baddigeststring"), "DIGEST_INVALID");
        assert_eq!(code("/v2/a/b/blobs/sha256:x"), "DIGEST_INVALID");
        assert_eq!(code("/v2/a/b/blobs/uploads/nope"), "BLOB_UPLOAD_UNKNOWN");
        assert_eq!(Endpoint::parse("/v2/a/b/c").expect("valid"), None);
        assert_eq!(Endpoint::parse("/v2/tags/list").expect("valid"), None);
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "/v2(/[a-zA-Z0-9._:%-]{0,12}){0,8}/?|\\PC*") {
            let _ = Endpoint::parse(&path);
        }
    }
}
