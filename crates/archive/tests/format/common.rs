//! A small archive with one of everything, for the tests of this crate.

use std::io::Write;

use dtr_archive::*;
use dtr_types::{Algorithm, ClusterId, Digest, Revision, SeededRandom, Timestamp};

pub fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32]).unwrap()
}

pub fn header(key: &SigningKey) -> Header {
    let cluster = ClusterId::random(&SeededRandom::new(1));
    let mut header = Header::new(Product::Dtr, "0.1.0", cluster, key)
        .at(Revision(4711), Timestamp::from_millis(1_790_000_000_123));
    header.scope.images = true;
    header.replica_id = Some("a1640e1c15b6".parse().unwrap());
    header
}

/// Writes one of everything.
pub fn fill<W: Write>(writer: &mut ArchiveWriter<'_, W>) -> Result<()> {
    let mut settings = writer.records(Section::Config, "settings")?;
    settings.push(&serde_json::json!({"key": "disableBackupWarning", "value": false}))?;
    let mut repositories = writer.records(Section::Metadata, "repositories")?;
    for n in 0..40 {
        repositories
            .push(&serde_json::json!({"name": format!("team/app-{n}"), "public": n % 2 == 0}))?;
    }
    let mut tags = writer.records(Section::Metadata, "tags")?;
    for n in 0..300 {
        tags.push_json(
            format!(r#"{{"repository":"team/app-{}","tag":"v{n}"}}"#, n % 40).as_bytes(),
        )?;
    }
    writer.records(Section::Access, "client_tokens")?;
    writer.certificate("ca.pem", b"-----BEGIN CERTIFICATE-----\n")?;
    writer.certificate("empty", b"")?;
    writer.oci_layout()?;
    let layer = vec![7u8; 5000];
    let image = br#"{"schemaVersion":2}"#;
    for content in [&layer[..], image, b""] {
        writer.blob(&Digest::of(content), content.len() as u64, &mut &content[..])?;
    }
    let long = Digest::with(Algorithm::Sha512, b"long");
    writer.blob(&long, 4, &mut &b"long"[..])?;
    let mut index = oci::Index::new();
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    index.push(media_type, &Digest::of(image), image.len() as u64, Some("team/app:v1"));
    writer.oci_index(&index.finish())
}

pub fn sample() -> Vec<u8> {
    let key = key(7);
    let mut writer = ArchiveWriter::new(Vec::new(), header(&key), &key).unwrap();
    fill(&mut writer).unwrap();
    writer.finish().unwrap().0
}

pub fn options() -> ReadOptions {
    ReadOptions { known: KnownKeys::of(&key(7).public_key()), ..ReadOptions::default() }
}

/// Verifies with the key expected.
pub fn check(archive: &[u8]) -> Result<Verified> {
    verify(archive, options())
}
