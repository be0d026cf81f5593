//! How fast, over an engine on disk. Run with `DTR_SPEED_TAGS=100000`, built with optimization, to get figures; without
//! it, a small run only proves that the path over a file works.

use std::{sync::Arc, time::Instant};

use dtr_catalog::{
    Catalog, Loader, RestoredContent,
    records::{BlobRecord, ManifestRecord, TagRecord},
};
use dtr_recovery::{BackupOptions, RestoreOptions, RestoreTarget};
use dtr_store_embedded::{EmbeddedStore, Options};
use dtr_types::{Clock as _, Digest, Manifest, media_types};

use crate::world::{VERSION, World};

fn tags() -> u32 {
    std::env::var("DTR_SPEED_TAGS").ok().and_then(|text| text.parse().ok()).unwrap_or(500)
}

/// Blobs, each of which many manifests share.
const LAYERS: u32 = 20;

/// Most memory that this process ever had, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// A registry with many tags, a tenth as many manifests, and an event for each tag.
async fn fill(world: &World, tags: u32) {
    let repository = world.repository("alice/many").await;
    let mut loader = Loader::new(&world.catalog);
    let now = world.clock.now();
    let mut named = Vec::new();
    for number in 0..LAYERS {
        let layer = format!("layer {number}");
        let digest = Digest::of(layer.as_bytes());
        let size = layer.len() as u64;
        world.blobs.put(&digest, None, dtr_blobs::body(layer)).await.unwrap();
        loader.put(&BlobRecord { digest, size, stored_at: now }, None).await.unwrap();
    }
    for number in 0..tags.div_ceil(10).max(LAYERS) {
        let layer = format!("layer {}", number % LAYERS);
        let blob = Digest::of(layer.as_bytes());
        let body = format!(
            r#"{{"schemaVersion":2,"annotations":{{"number":"{number}"}},"mediaType":"{}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{blob}","size":{}}},"layers":[]}}"#,
            media_types::OCI_MANIFEST,
            layer.len()
        );
        let manifest = Manifest::parse(None, body.as_bytes()).unwrap();
        let record = ManifestRecord {
            repository: repository.id.clone(),
            digest: Digest::of(body.as_bytes()),
            media_type: manifest.media_type,
            size: body.len() as u64,
            content_size: manifest.content_size(),
            parts: 1,
            config_digest: Some(blob),
            config_media_type: Some("application/vnd.oci.image.config.v1+json".to_owned()),
            artifact_type: manifest.artifact_type.clone(),
            subject: None,
            os: Some("linux".to_owned()),
            architecture: Some("amd64".to_owned()),
            may_be_absent: Vec::new(),
            author: "alice".to_owned(),
            pushed_at: now,
        };
        let content = RestoredContent { linked: vec![blob], ..RestoredContent::default() };
        loader.put_manifest(&record, None, &manifest, body.as_bytes(), &content).await.unwrap();
        named.push((record.digest, record.media_type));
    }
    for number in 0..tags {
        let (digest, media_type) = named[number as usize % named.len()];
        let tag = TagRecord {
            repository: repository.id.clone(),
            name: format!("tag-{number:08}").parse().unwrap(),
            digest,
            media_type,
            author: "alice".to_owned(),
            created_at: now,
            updated_at: now,
        };
        loader.put(&tag, None).await.unwrap();
    }
    loader.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tags_over_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let open =
        |name: &str| EmbeddedStore::open(&folder.path().join(name), Options::default()).unwrap();
    let mut world = World::installed(81).await;
    // The people of the small registry, moved to an engine on disk.
    let (seed, _) = world.backup(BackupOptions::new(VERSION)).await;
    world.catalog = Catalog::new(open("from"), world.clock.clone(), world.random.clone());
    world.restore(&seed, RestoreOptions::new(VERSION)).await.unwrap();
    fill(&world, tags()).await;

    let idle = peak();
    let started = Instant::now();
    let path = folder.path().join("backup.tar");
    let file = std::fs::File::create(&path).unwrap();
    let (_, report) =
        dtr_recovery::backup(&world.catalog, &world.blobs, BackupOptions::new(VERSION), file)
            .await
            .unwrap();
    let took = started.elapsed().as_secs_f64();
    println!(
        "backup: {} records, {} bytes, {took:.3} s, {:.0} records/s, peak {idle} -> {} MiB",
        report.total_records,
        report.bytes,
        report.total_records as f64 / took,
        peak()
    );
    let started = Instant::now();
    let target = RestoreTarget {
        catalog: Catalog::new(open("to"), world.clock.clone(), world.random.clone()),
        blobs: world.blobs.clone(),
        identity: None,
        identity_target: None,
    };
    let options = RestoreOptions::new(VERSION);
    let file = std::fs::File::open(&path).unwrap();
    let target = Arc::new(target);
    let back = dtr_recovery::restore(file, Default::default(), &target, options).await.unwrap();
    let took = started.elapsed().as_secs_f64();
    println!(
        "restore: {} records, {took:.3} s, {:.0} records/s, peak {} MiB",
        back.total_records,
        back.total_records as f64 / took,
        peak()
    );
    assert_eq!(back.total_records, report.total_records);
}
