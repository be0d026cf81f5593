//! Image manifests and indexes as far as a registry must understand them: what they refer to. The bytes themselves are
//! never changed; unknown fields are none of our business.
//!
//! Sources: OCI image-spec 1.1 (manifest, image-index, descriptor), Docker image manifest V2 schema 2. The check that
//! a document is not both an image and an index is CVE-2021-41190.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    fmt,
    marker::PhantomData,
};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::{Digest, DigestError, spelling};

/// The largest manifest that is accepted: 4 MiB, as the specification demands at least.
pub const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Media types by their registered names.
pub mod media_types {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// Docker image manifest, version 2 schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker schema 1, which is refused by name.
    pub const DOCKER_V1: &str = "application/vnd.docker.distribution.manifest.v1+json";
    /// Docker schema 1, signed, which is refused by name.
    pub const DOCKER_V1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
}

/// A media type of a manifest that this registry stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MediaType {
    /// OCI image manifest.
    #[serde(rename = "application/vnd.oci.image.manifest.v1+json")]
    OciManifest,
    /// OCI image index.
    #[serde(rename = "application/vnd.oci.image.index.v1+json")]
    OciIndex,
    /// Docker image manifest.
    #[serde(rename = "application/vnd.docker.distribution.manifest.v2+json")]
    DockerManifest,
    /// Docker manifest list.
    #[serde(rename = "application/vnd.docker.distribution.manifest.list.v2+json")]
    DockerList,
}

impl MediaType {
    /// The registered name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OciManifest => media_types::OCI_MANIFEST,
            Self::OciIndex => media_types::OCI_INDEX,
            Self::DockerManifest => media_types::DOCKER_MANIFEST,
            Self::DockerList => media_types::DOCKER_LIST,
        }
    }

    /// From a `Content-Type` header or a `mediaType` field; parameters after `;` are ignored.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        match text.split(';').next().unwrap_or_default().trim() {
            media_types::OCI_MANIFEST => Ok(Self::OciManifest),
            media_types::OCI_INDEX => Ok(Self::OciIndex),
            media_types::DOCKER_MANIFEST => Ok(Self::DockerManifest),
            media_types::DOCKER_LIST => Ok(Self::DockerList),
            media_types::DOCKER_V1 | media_types::DOCKER_V1_SIGNED => Err(ManifestError::Schema1),
            other => Err(ManifestError::MediaType(other.chars().take(128).collect())),
        }
    }

    /// Whether manifests of this type list other manifests.
    pub const fn is_index(self) -> bool {
        matches!(self, Self::OciIndex | Self::DockerList)
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a document is not a manifest that this registry stores.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Larger than [`MANIFEST_BYTES_MAX`].
    #[error("the manifest is larger than 4 MiB ({0} bytes)")]
    TooLarge(usize),
    /// Not JSON, or not of the form that its media type demands.
    #[error("the manifest is not valid: {0}")]
    Form(String),
    /// `schemaVersion` is not 2.
    #[error("schemaVersion must be 2")]
    SchemaVersion,
    /// Docker schema 1.
    #[error(
        "Docker image manifest schema 1 is not supported; push with a client that makes schema 2 or OCI manifests"
    )]
    Schema1,
    /// A media type that is not stored.
    #[error(
        "media type \"{0}\" is not a manifest that this registry stores; use an OCI image manifest or index, or a Docker schema 2 manifest or list"
    )]
    MediaType(String),
    /// Neither a `Content-Type` header nor a `mediaType` field.
    #[error("the request has no Content-Type and the manifest no mediaType")]
    MediaTypeMissing,
    /// Header and field differ.
    #[error("the Content-Type is {header}, but the manifest's mediaType is {field}")]
    MediaTypeDiffers {
        /// What the header said.
        header: String,
        /// What the document says.
        field: String,
    },
    /// Both an image and an index: clients could disagree about what they run.
    #[error("the manifest has both the fields of an image and of an index")]
    Ambiguous,
    /// A key that other readers take for a known one.
    #[error(
        "the key \"{key}\" differs from \"{known}\" by upper and lower case alone, and clients disagree about what it means; write \"{known}\" or leave it out"
    )]
    Spelling {
        /// The key.
        key: String,
        /// What it is taken for.
        known: &'static str,
    },
    /// A descriptor with a digest that cannot be.
    #[error("{place}: {source}")]
    Digest {
        /// Which descriptor.
        place: String,
        /// What is wrong with it.
        source: DigestError,
    },
    /// A descriptor with a negative size.
    #[error("{place}: the size {size} is negative")]
    Size {
        /// Which descriptor.
        place: String,
        /// What it says.
        size: i64,
    },
    /// Embedded `data` that does not hash to the digest beside it.
    #[error("{place}: the embedded data does not match its digest and size")]
    Data {
        /// Which descriptor.
        place: String,
    },
}

/// What one piece of content is and where it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Its media type, as written.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Whether it may be absent from the registry: it has an address (`urls`, http or https), or its type is not
    /// distributable. Where it is there, it belongs to the image like everything else.
    pub foreign: bool,
    /// The platform of an index entry: operating system and architecture.
    pub platform: Option<(String, String)>,
}

/// What a manifest consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestKind {
    /// One image or artifact.
    Image {
        /// The configuration blob.
        config: Descriptor,
        /// The layers, lowest first.
        layers: Vec<Descriptor>,
    },
    /// A list of manifests (or, in BuildKit's caches, of blobs).
    Index {
        /// The entries in order.
        manifests: Vec<Descriptor>,
    },
}

/// A manifest, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What it is served as.
    pub media_type: MediaType,
    /// What it refers to.
    pub kind: ManifestKind,
    /// The manifest that it is a referrer of; need not exist.
    pub subject: Option<Descriptor>,
    /// What referrers are listed as: `artifactType`, or the configuration's media type.
    pub artifact_type: Option<String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A JSON object, and no list in its place: serde takes the fields of a struct from either, other readers do not.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    schema_version: Option<i64>,
    #[serde(borrow)]
    media_type: Option<Cow<'a, str>>,
    artifact_type: Option<String>,
    #[serde(borrow)]
    config: Option<Object<Entry<'a>>>,
    #[serde(borrow)]
    layers: Option<Vec<Object<Entry<'a>>>>,
    #[serde(borrow)]
    manifests: Option<Vec<Object<Entry<'a>>>>,
    #[serde(borrow)]
    subject: Option<Object<Entry<'a>>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    #[serde(borrow, default)]
    media_type: Cow<'a, str>,
    #[serde(borrow)]
    digest: Cow<'a, str>,
    size: i64,
    urls: Option<Vec<String>>,
    data: Option<String>,
    platform: Option<Object<Platform>>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

impl Manifest {
    /// Reads a manifest that is pushed. `content_type` is the request's header, if it had one.
    ///
    /// # Errors
    /// Each rule that the document breaks has its own [`ManifestError`].
    pub fn parse(content_type: Option<&str>, bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest = Self::stored(content_type, bytes)?;
        spelling::check(bytes)?;
        Ok(manifest)
    }

    /// Reads a manifest that was accepted before, perhaps by a version with fewer rules.
    ///
    /// # Errors
    /// [`ManifestError`] when it cannot be understood.
    pub fn stored(content_type: Option<&str>, bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLarge(bytes.len()));
        }
        let header = content_type.map(MediaType::parse).transpose()?;
        let Object(document): Object<Document<'_>> =
            serde_json::from_slice(bytes).map_err(|e| ManifestError::Form(e.to_string()))?;
        let field = document.media_type.as_deref().map(MediaType::parse).transpose()?;
        let media_type = match (header, field) {
            (Some(header), Some(field)) if header != field => {
                return Err(ManifestError::MediaTypeDiffers {
                    header: header.to_string(),
                    field: field.to_string(),
                });
            }
            (Some(known), _) | (None, Some(known)) => known,
            (None, None) => return Err(ManifestError::MediaTypeMissing),
        };
        if document.schema_version != Some(2) {
            return Err(ManifestError::SchemaVersion);
        }
        let kind = document.kind(media_type)?;
        let subject =
            document.subject.as_ref().map(|s| s.0.read("subject".to_owned())).transpose()?;
        let artifact_type = match &kind {
            _ if document.artifact_type.as_deref().is_some_and(|t| !t.is_empty()) => {
                document.artifact_type
            }
            ManifestKind::Image { config, .. } => Some(config.media_type.clone()),
            ManifestKind::Index { .. } => None,
        };
        Ok(Self {
            media_type,
            kind,
            subject,
            artifact_type,
            annotations: document.annotations.unwrap_or_default(),
        })
    }

    /// Configuration and layers, or the entries of an index: all of them, as they stand there.
    pub fn descriptors(&self) -> impl Iterator<Item = &Descriptor> {
        let (config, others) = match &self.kind {
            ManifestKind::Image { config, layers } => (Some(config), layers),
            ManifestKind::Index { manifests } => (None, manifests),
        };
        config.into_iter().chain(others)
    }

    /// The blobs it needs: configuration and layers, without those that may be absent; each digest once, in order.
    pub fn blobs(&self) -> Vec<&Descriptor> {
        self.of_image(|d| !d.foreign)
    }

    /// The configuration and layers that may be absent; each digest once, in order.
    pub fn optional_blobs(&self) -> Vec<&Descriptor> {
        let needed: HashSet<_> = self.blobs().iter().map(|d| d.digest).collect();
        self.of_image(|d| !needed.contains(&d.digest))
    }

    fn of_image(&self, wanted: impl Fn(&Descriptor) -> bool) -> Vec<&Descriptor> {
        let mut seen = HashSet::new();
        match &self.kind {
            ManifestKind::Image { config, layers } => std::iter::once(config)
                .chain(layers)
                .filter(|d| wanted(d) && seen.insert(d.digest))
                .collect(),
            ManifestKind::Index { .. } => Vec::new(),
        }
    }

    /// The entries of an index, each digest once, in order; empty for an image. One that stands there several times may
    /// be absent only if all of them say so.
    pub fn children(&self) -> Vec<&Descriptor> {
        let ManifestKind::Index { manifests } = &self.kind else { return Vec::new() };
        let mut seen = HashSet::new();
        let needed: HashSet<_> =
            manifests.iter().filter(|d| !d.foreign).map(|d| d.digest).collect();
        let counts = |d: &&Descriptor| !d.foreign || !needed.contains(&d.digest);
        manifests.iter().filter(counts).filter(|d| seen.insert(d.digest)).collect()
    }

    /// Sizes of configuration and layers (or of the listed manifests) added up, in bytes.
    pub fn content_size(&self) -> u64 {
        match &self.kind {
            ManifestKind::Image { config, layers } => std::iter::once(config)
                .chain(layers)
                .fold(0, |sum, d| u64::saturating_add(sum, d.size)),
            ManifestKind::Index { manifests } => {
                manifests.iter().fold(0, |sum, d| u64::saturating_add(sum, d.size))
            }
        }
    }
}

impl Document<'_> {
    fn kind(&self, media_type: MediaType) -> Result<ManifestKind, ManifestError> {
        if self.manifests.is_some() && (self.config.is_some() || self.layers.is_some()) {
            return Err(ManifestError::Ambiguous);
        }
        let read_all =
            |entries: &[Object<Entry<'_>>], what: &str| -> Result<Vec<_>, ManifestError> {
                entries.iter().enumerate().map(|(i, e)| e.0.read(format!("{what}[{i}]"))).collect()
            };
        if media_type.is_index() {
            let manifests = self.manifests.as_deref().ok_or_else(|| {
                ManifestError::Form("an index has a list \"manifests\"".to_owned())
            })?;
            return Ok(ManifestKind::Index { manifests: read_all(manifests, "manifests")? });
        }
        if self.manifests.is_some() {
            return Err(ManifestError::Ambiguous);
        }
        let config = self
            .config
            .as_ref()
            .ok_or_else(|| ManifestError::Form("an image manifest has a \"config\"".to_owned()))?;
        Ok(ManifestKind::Image {
            config: config.0.read("config".to_owned())?,
            layers: read_all(self.layers.as_deref().unwrap_or_default(), "layers")?,
        })
    }
}

impl Entry<'_> {
    fn read(&self, place: String) -> Result<Descriptor, ManifestError> {
        let digest: Digest = match self.digest.parse() {
            Ok(digest) => digest,
            Err(source) => return Err(ManifestError::Digest { place, source }),
        };
        let Ok(size) = u64::try_from(self.size) else {
            return Err(ManifestError::Size { place, size: self.size });
        };
        if let Some(data) = &self.data {
            use base64::Engine as _;
            let raw = base64::engine::general_purpose::STANDARD.decode(data).ok();
            if !raw.is_some_and(|raw| raw.len() as u64 == size && digest.matches(&raw)) {
                return Err(ManifestError::Data { place });
            }
        }
        let foreign = self.urls.iter().flatten().any(|url| is_address(url))
            || self.media_type.contains(".nondistributable.")
            || self.media_type.contains(".foreign.");
        Ok(Descriptor {
            media_type: self.media_type.clone().into_owned(),
            digest,
            size,
            foreign,
            platform: self
                .platform
                .as_ref()
                .map(|Object(p)| (p.os.clone(), p.architecture.clone())),
        })
    }
}

/// Whether a client could fetch content from there: `http` or `https`, and a host.
fn is_address(url: &str) -> bool {
    let rest = url.split_once("://").filter(|(scheme, _)| {
        scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http")
    });
    rest.is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_alphanumeric() || c == '['))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(extra: &str) -> String {
        let digest = Digest::of(b"{}");
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{digest}","size":2,"data":"e30="}},"layers":[]{extra}}}"#,
            media_types::OCI_MANIFEST
        )
    }

    #[test]
    fn an_image_without_layers_is_understood() {
        let manifest = Manifest::parse(None, image("").as_bytes()).expect("valid");
        assert_eq!(manifest.media_type, MediaType::OciManifest);
        assert_eq!(manifest.blobs().len(), 1);
        assert_eq!(manifest.artifact_type.as_deref(), Some("application/vnd.oci.empty.v1+json"));
    }

    #[test]
    fn an_image_that_is_also_an_index_is_refused() {
        let both = image(r#","manifests":[]"#);
        assert_eq!(Manifest::parse(None, both.as_bytes()), Err(ManifestError::Ambiguous));
    }

    #[test]
    fn header_and_field_must_agree() {
        let refused = Manifest::parse(Some(media_types::DOCKER_MANIFEST), image("").as_bytes());
        assert!(matches!(refused, Err(ManifestError::MediaTypeDiffers { .. })));
        let parameters = format!("{}; charset=utf-8", media_types::OCI_MANIFEST);
        assert!(Manifest::parse(Some(&parameters), image("").as_bytes()).is_ok());
        assert_eq!(
            Manifest::parse(Some(media_types::DOCKER_V1_SIGNED), b"{}"),
            Err(ManifestError::Schema1)
        );
    }

    #[test]
    fn embedded_data_must_match() {
        let wrong = image("").replace("e30=", "e31=");
        assert!(matches!(Manifest::parse(None, wrong.as_bytes()), Err(ManifestError::Data { .. })));
    }

    #[test]
    fn only_what_has_an_address_may_be_absent() {
        let of = |fields: &str| {
            let digest = Digest::of(b"layer");
            let layer = format!(r#"{{"mediaType":"a/b","digest":"{digest}","size":5{fields}}}"#);
            let text = image("").replace(r#""layers":[]"#, &format!(r#""layers":[{layer}]"#));
            let manifest = Manifest::parse(None, text.as_bytes()).expect("valid");
            (manifest.blobs().len() - 1, manifest.optional_blobs().len())
        };
        for none in ["", r#","urls":null"#, r#","urls":[]"#, r#","urls":[""]"#] {
            assert_eq!(of(none), (1, 0), "{none}");
        }
        for odd in ["ftp://a/b", "file:///a", "https://", "http:///b", "a/b", "javascript:x"] {
            assert_eq!(of(&format!(r#","urls":["{odd}"]"#)), (1, 0), "{odd}");
        }
        for good in ["https://a/b", "http://a:1/b", "HTTPS://A", "https://[::1]/b"] {
            assert_eq!(of(&format!(r#","urls":["","{good}"]"#)), (0, 1), "{good}");
        }
        let twice = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{{"mediaType":"a/b","digest":"{}","size":1,"urls":["https://a"]}},{{"mediaType":"a/b","digest":"{}","size":1}}]}}"#,
            media_types::OCI_INDEX,
            Digest::of(b"x"),
            Digest::of(b"x"),
        );
        let index = Manifest::parse(None, twice.as_bytes()).expect("valid");
        let children = index.children();
        assert!(children.len() == 1 && !children[0].foreign);
    }

    #[test]
    fn a_list_is_no_object() {
        let digest = Digest::of(b"{}");
        let entry = format!(r#"["a/b","{digest}",2,null,null,null]"#);
        let layers = image("").replace(r#""layers":[]"#, &format!(r#""layers":[{entry}]"#));
        let type_ = media_types::OCI_MANIFEST;
        let whole = format!(r#"[2,"{type_}",null,{entry},[],null,null,null]"#);
        for list in [layers, image(&format!(r#","subject":{entry}"#)), whole] {
            let refused = Manifest::parse(Some(type_), list.as_bytes());
            assert!(matches!(refused, Err(ManifestError::Form(_))), "{list}: {refused:?}");
        }
    }
}
