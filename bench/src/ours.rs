//! Our registry as it is measured: the rooms put together as the product does it, but for TLS and access control, with a
//! way to take a backup to a file while it serves; a registry with very many tags; and a restore.

use std::{fs::File, net::SocketAddr, path::Path, sync::Arc, time::Instant};

use anyhow::{Context as _, Result};
use axum::{Router, extract::Query, http::StatusCode, routing::get};
use dtr_blobs::{FileStorage, SharedBlobs, body};
use dtr_catalog::{
    Catalog, Loader, RestoredContent,
    records::{
        BlobRecord, ClusterRecord, DATA_FORMAT, IdentitySource, ManifestRecord, Repository,
        TagRecord, Visibility,
    },
};
use dtr_recovery::{BackupOptions, RestoreOptions, RestoreTarget};
use dtr_registry::Registry;
use dtr_store_embedded::{EmbeddedStore, Options};
use dtr_transport::{Forwarded, Metrics, Server, shutdown_on_signals};
use dtr_types::{
    AccountId, Clock as _, ClusterId, Digest, Manifest, RepositoryId, SystemClock, SystemRandom,
    Timestamp, media_types,
};

use crate::process::own_memory_mib;

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The repository of [`fill`].
pub const REPOSITORY: &str = "bench/many";
/// Blobs, each of which many manifests share.
const LAYERS: u32 = 20;

/// The rooms below the registry, over a folder.
async fn open(dir: &Path, blobs: &Path, options: Options) -> Result<(Catalog, SharedBlobs)> {
    std::fs::create_dir_all(dir)?;
    let (clock, random) = (Arc::new(SystemClock), Arc::new(SystemRandom));
    let store = EmbeddedStore::open(&dir.join("store.redb"), options)?;
    let storage = dtr_blobs::Options::new(clock.clone(), random.clone());
    let blobs = FileStorage::open(blobs, storage).await?;
    Ok((Catalog::new(store, clock, random), Arc::new(blobs)))
}

/// Serves until asked to stop.
pub async fn serve(dir: &Path, listen: SocketAddr) -> Result<()> {
    let (catalog, blobs) = open(dir, &dir.join("blobs"), Options::default()).await?;
    if catalog.cluster().await?.is_none() {
        catalog
            .create_cluster(&ClusterRecord {
                id: ClusterId::random(&SystemRandom),
                data_format: DATA_FORMAT,
                created_at: SystemClock.now(),
                created_by: VERSION.to_owned(),
                identity: IdentitySource::BuiltIn,
                restored_from: None,
            })
            .await?;
    }
    let registry = Registry::open_to_everybody(catalog.clone(), blobs.clone());
    let router = registry.router().merge(backups(catalog, blobs));
    let server = Server::new(router, Metrics::new(), &SystemRandom)
        .plain(listen, Forwarded::Ignore)
        .bind()
        .await?;
    server.run(shutdown_on_signals()?).await;
    registry.shutdown().await;
    Ok(())
}

/// `GET /bench/backup?to=<file>`: a backup, with records and seconds in the answer.
fn backups(catalog: Catalog, blobs: SharedBlobs) -> Router {
    let take = move |Query(query): Query<std::collections::HashMap<String, String>>| async move {
        let taken = async {
            let out = File::create(query.get("to").context("no file")?)?;
            let began = Instant::now();
            let options = BackupOptions { record: false, ..BackupOptions::new(VERSION) };
            let (_, report) = dtr_recovery::backup(&catalog, &blobs, options, out).await?;
            let seconds = began.elapsed().as_secs_f64();
            anyhow::Ok(
                serde_json::json!({ "records": report.total_records, "seconds": seconds, "bytes": report.bytes })
                    .to_string(),
            )
        };
        taken.await.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")))
    };
    Router::new().route("/bench/backup", get(take))
}

/// Restores, and says how fast and with how much memory.
pub async fn restore(archive: &Path, dir: &Path, blobs: &Path) -> Result<()> {
    let (catalog, blobs) = open(dir, blobs, Options::default()).await?;
    let idle = own_memory_mib("VmHWM")?;
    let began = Instant::now();
    let target = Arc::new(RestoreTarget { catalog, blobs, identity: None, identity_target: None });
    // The owner of the repository is nobody: access is not measured here.
    let options = RestoreOptions { accept_unknown_owners: true, ..RestoreOptions::new(VERSION) };
    let archive = File::open(archive)?;
    let report = dtr_recovery::restore(archive, Default::default(), &target, options).await?;
    println!(
        "{}",
        serde_json::json!({
            "records": report.total_records,
            "seconds": began.elapsed().as_secs_f64(),
            "memory": own_memory_mib("VmHWM")? - idle,
        })
    );
    Ok(())
}

/// Fills a store with manifests and tags, without the way through HTTP.
pub async fn fill(dir: &Path, manifests: u32, tags: u32) -> Result<()> {
    let (catalog, blobs) = open(dir, &dir.join("blobs"), Options::default()).await?;
    let now = SystemClock.now();
    let repository = Repository {
        id: RepositoryId::random(&SystemRandom),
        name: REPOSITORY.parse()?,
        namespace: AccountId::random(&SystemRandom),
        namespace_is_org: false,
        visibility: Visibility::Public,
        short_description: String::new(),
        long_description: String::new(),
        immutable_tags: false,
        scan_on_push: false,
        tag_limit: 0,
        created_at: now,
    };
    catalog.create_repository(&repository, None).await?;
    let mut loader = Loader::new(&catalog);
    let layers = layers(&mut loader, &blobs, now).await?;
    let mut named = Vec::new();
    for number in 0..manifests.max(1) {
        let (blob, size) = layers[number as usize % layers.len()];
        let (record, text) = manifest(&repository, blob, size, number, now)?;
        let parsed = Manifest::parse(None, text.as_bytes())?;
        let content = RestoredContent { linked: vec![blob], ..RestoredContent::default() };
        loader.put_manifest(&record, None, &parsed, text.as_bytes(), &content).await?;
        named.push((record.digest, record.media_type));
    }
    for number in 0..tags {
        let (digest, media_type) = named[number as usize % named.len()];
        let tag = TagRecord {
            repository: repository.id.clone(),
            name: format!("tag-{number:08}").parse()?,
            digest,
            media_type,
            author: "bench".to_owned(),
            created_at: now,
            updated_at: now,
        };
        loader.put(&tag, None).await?;
    }
    loader.finish().await?;
    Ok(())
}

async fn layers(
    loader: &mut Loader,
    blobs: &SharedBlobs,
    now: Timestamp,
) -> Result<Vec<(Digest, usize)>> {
    let mut all = Vec::new();
    for number in 0..LAYERS {
        let layer = format!("layer {number}");
        let (digest, size) = (Digest::of(layer.as_bytes()), layer.len());
        blobs.put(&digest, None, body(layer)).await?;
        let record = BlobRecord { digest, size: size as u64, stored_at: now };
        loader.put(&record, None).await?;
        all.push((digest, size));
    }
    Ok(all)
}

fn manifest(
    repository: &Repository,
    blob: Digest,
    size: usize,
    number: u32,
    now: Timestamp,
) -> Result<(ManifestRecord, String)> {
    let config_type = "application/vnd.oci.image.config.v1+json";
    let text = format!(
        r#"{{"schemaVersion":2,"annotations":{{"number":"{number}"}},"mediaType":"{}","config":{{"mediaType":"{config_type}","digest":"{blob}","size":{size}}},"layers":[]}}"#,
        media_types::OCI_MANIFEST,
    );
    let parsed = Manifest::parse(None, text.as_bytes())?;
    let record = ManifestRecord {
        repository: repository.id.clone(),
        digest: Digest::of(text.as_bytes()),
        media_type: parsed.media_type,
        size: text.len() as u64,
        content_size: parsed.content_size(),
        parts: 1,
        config_digest: Some(blob),
        config_media_type: Some(config_type.to_owned()),
        artifact_type: parsed.artifact_type,
        subject: None,
        os: Some("linux".to_owned()),
        architecture: Some("amd64".to_owned()),
        may_be_absent: Vec::new(),
        author: "bench".to_owned(),
        pushed_at: now,
    };
    Ok((record, text))
}
