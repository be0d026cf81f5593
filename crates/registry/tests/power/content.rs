//! Everything that is ever pushed here: small images, by name, the same in every run.

use axum::body::Bytes;
use dtr_types::Digest;
use serde_json::{Value, json};

pub const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// More than a transaction takes where that is made small.
const MANY: usize = 12;

const NAMES: [&str; 9] = ["a", "b", "c", "d", "e", "h", "w", "f", "g"];
/// Blobs that no image has.
pub const BLOBS: [&str; 3] = ["lonely", "monolithic", "chunked"];

/// How much there is at the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stock {
    /// Images; blobs without one.
    Usual,
    /// Also large ones.
    Large,
    /// Little that nobody needs, since its removal takes long.
    Tidy,
}

impl Stock {
    /// Names of all images that there are or may be pushed.
    pub fn names(self) -> &'static [&'static str] {
        if self == Self::Large { &NAMES } else { &NAMES[..7] }
    }
}

#[derive(Clone, Debug)]
pub struct Image {
    pub manifest: Bytes,
    pub digest: Digest,
    pub blobs: Vec<Bytes>,
}

/// Some sectors of bytes.
pub fn blob(name: &str) -> Bytes {
    let size = if BLOBS.contains(&name) { 20_000 } else { 700 };
    name.as_bytes().iter().copied().chain(*b", ").cycle().take(size).collect()
}

fn descriptor(media_type: &str, bytes: &Bytes) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() })
}

/// An image by name. All but two have a layer in common.
pub fn image(name: &str) -> Image {
    let layers: Vec<String> = match name {
        "f" | "g" => (0..MANY).map(|number| format!("{name}{number}")).collect(),
        "d" | "h" => vec![format!("{name}1")],
        _ => vec!["base".to_owned(), format!("{name}1")],
    };
    let config = Bytes::from(format!(r#"{{"os":"linux","architecture":"amd64","of":"{name}"}}"#));
    let layers: Vec<Bytes> = layers.iter().map(|layer| blob(layer)).collect();
    let described: Vec<Value> = layers.iter().map(|layer| descriptor(LAYER, layer)).collect();
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": descriptor(CONFIG, &config),
        "layers": described,
    });
    if name == "h" {
        manifest["subject"] = descriptor(IMAGE, &image("a").manifest);
    }
    let manifest = Bytes::from(manifest.to_string());
    let digest = Digest::of(&manifest);
    Image { manifest, digest, blobs: [vec![config], layers].concat() }
}
