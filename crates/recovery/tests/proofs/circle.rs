//! Backup, verify, restore: the whole circle, compared record by record.

use std::{collections::BTreeMap, io::Cursor, sync::Arc};

use dtr_archive::ReadOptions;
use dtr_blobs::{
    BlobStorage,
    simulated::{OperationKind, SimulatedDisk, Verdict},
};
use dtr_catalog::records::{ClusterRecord, IdentitySource, Settings};
use dtr_recovery::{
    BackupOptions, Exit, KnownKeys, RecoveryError, Refusal, RestoreOptions, VerifyOptions, backup,
    ensure_archive_key, inspect, restore, verify,
};
use dtr_store::At;
use dtr_types::StorageMark;

use crate::world::{VERSION, World, assert_same, expected, restored};

fn options() -> BackupOptions {
    BackupOptions::new(VERSION)
}

async fn check(archive: &[u8], world: Option<&World>) -> dtr_recovery::VerifyReport {
    let storage = world.map(|world| world.blobs.clone());
    let input = Cursor::new(archive.to_vec());
    verify(input, ReadOptions::default(), VerifyOptions { storage, deep: true }).await.unwrap()
}

#[tokio::test]
async fn everything_comes_back() {
    let world = World::installed(1).await;
    world.fill().await;
    let (archive, report) = world.backup(options()).await;
    assert_eq!(report.exit(), Exit::Done);
    assert!(report.private_keys >= 2 && !report.warnings.is_empty());
    assert!(report.not_included.iter().any(|missing| missing.what == "image content"));
    assert!(report.to_string().contains("WARNING"), "{report}");

    let verified = check(&archive, Some(&world)).await;
    assert_eq!(verified.exit(), Exit::Done, "{verified}");
    assert!(verified.dangling.is_empty(), "{verified}");
    assert_eq!(verified.total_records, report.total_records);
    let asked = verified.storage.as_ref().unwrap().checked;
    assert_eq!(asked, report.blobs);

    let target = world.beside(2).await;
    let options = RestoreOptions {
        external_url: Some("new.example".to_owned()),
        ..RestoreOptions::new(VERSION)
    };
    let back = target.restore(&archive, options).await.unwrap();
    assert_eq!(back.exit(), Exit::Done, "{back}");
    assert_eq!(back.total_records, report.total_records);

    let before = world.state(At::Revision(report.revision)).await;
    assert_same(&restored(target.state(At::Latest).await), &expected(&before));
    let cluster: ClusterRecord = target.catalog.cluster().await.unwrap().unwrap();
    let from = cluster.restored_from.unwrap();
    assert_eq!(from.cluster, report.cluster);
    assert_ne!(cluster.id, report.cluster);
    let settings: Settings = target.catalog.settings().await.unwrap();
    assert_eq!(settings.dtr_host, "new.example");
    assert_eq!(cluster.identity, IdentitySource::BuiltIn);
    // The weekly alert looks at this.
    let last = world.catalog.last_backups().await.unwrap();
    assert_eq!(last.sent.as_ref().map(|sent| &sent.id), Some(&report.id));
    assert_eq!(last.confirmed, None, "nobody said that it arrived");
    let confirmed = world.catalog.confirm_backup(&report.id, &report.sha256, None).await.unwrap();
    let last = world.catalog.last_backups().await.unwrap();
    assert_eq!(last.confirmed, confirmed);
    assert!(dtr_store::hold::list(&**world.store()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_backup_of_a_restored_registry_is_the_same() {
    let world = World::installed(3).await;
    world.fill().await;
    let (first, _) = world.backup(BackupOptions { record: false, ..options() }).await;
    let target = world.beside(4).await;
    target.restore(&first, RestoreOptions::new(VERSION)).await.unwrap();
    let (second, _) = target.backup(BackupOptions { record: false, ..options() }).await;
    let (first, second) = (entries(&first), entries(&second));
    for (name, content) in &first {
        // A restore makes another cluster, with keys of its own.
        let own = ["config/cluster.jsonl", "certificates/keys.jsonl"].contains(&name.as_str());
        if !name.ends_with(".json") && !own {
            assert_eq!(second.get(name), Some(content), "{name}");
        }
    }
    assert_eq!(first.keys().collect::<Vec<_>>(), second.keys().collect::<Vec<_>>());
}

/// The entries of an archive, read with nothing of ours but the record reader.
fn entries(archive: &[u8]) -> BTreeMap<String, Vec<Vec<u8>>> {
    use dtr_archive::{ArchiveReader, Entry};
    let mut reader = ArchiveReader::open(archive, ReadOptions::default()).unwrap();
    let mut entries = BTreeMap::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        match entry {
            Entry::Records(mut records) => {
                let name = records.name().to_owned();
                let mut lines = Vec::new();
                while let Some(line) = records.next_line().unwrap() {
                    lines.push(line.to_vec());
                }
                entries.insert(name, lines);
            }
            Entry::File(file) => {
                entries.insert(file.name().to_string(), vec![file.read_all().unwrap()]);
            }
            Entry::Blob(mut blob) => {
                let name = blob.digest().to_string();
                let mut content = Vec::new();
                while let Some(chunk) = blob.chunk().unwrap() {
                    content.extend_from_slice(chunk);
                }
                entries.insert(name, vec![content]);
            }
            Entry::End(_) => {}
        }
    }
    entries
}

#[tokio::test]
async fn images_come_back_from_an_archive_that_has_them() {
    let world = World::installed(5).await;
    world.fill().await;
    let with_images = BackupOptions { with_images: true, ..options() };
    let (archive, report) = world.backup(with_images).await;
    assert_eq!(report.exit(), Exit::Done);
    assert!(report.image_entries > report.blobs);
    let verified = check(&archive, None).await;
    assert_eq!(verified.exit(), Exit::Done, "{verified}");

    let index = &entries(&archive)["images/index.json"][0];
    let index: serde_json::Value = serde_json::from_slice(index).unwrap();
    let names: Vec<_> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"alice/app:v0") && names.contains(&"corp/web/front:multi1"));

    // A storage of its own, empty before.
    let target = World::empty(6).await;
    let back = target.restore(&archive, RestoreOptions::new(VERSION)).await.unwrap();
    assert_eq!((back.exit(), back.blobs_restored), (Exit::Done, report.blobs), "{back}");
    let before = world.state(At::Revision(report.revision)).await;
    assert_same(&restored(target.state(At::Latest).await), &expected(&before));
    let verified = check(&archive, Some(&target)).await;
    assert_eq!(verified.exit(), Exit::Done, "{verified}");
    // Manifests are metadata: only blobs go to the storage, and no upload is left.
    assert_eq!(target.blobs.list(None, 1000).await.unwrap().len() as u64, report.blobs);
    assert!(target.blobs.uploads(None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn missing_content_is_listed_and_the_rest_is_served() {
    let world = World::installed(7).await;
    world.fill().await;
    let (archive, report) = world.backup(options()).await;
    let lost = dtr_types::Digest::of(b"layer 0");
    world.blobs.delete(&lost).await.unwrap();
    let verified = check(&archive, Some(&world)).await;
    assert_eq!(verified.exit(), Exit::Incomplete);
    let storage = verified.storage.unwrap();
    assert_eq!(storage.missing_by_repository["alice/app"], [lost.to_string()]);

    let target = world.beside(8).await;
    let dry = RestoreOptions { dry_run: true, ..RestoreOptions::new(VERSION) };
    let told = target.restore(&archive, dry).await.unwrap();
    assert_eq!(told.blobs_missing["alice/app"], [lost.to_string()]);
    assert!(told.cluster.is_none() && target.state(At::Latest).await.is_empty());
    let back = target.restore(&archive, RestoreOptions::new(VERSION)).await.unwrap();
    assert_eq!(back.exit(), Exit::Incomplete);
    assert_eq!(back.blobs_missing["alice/app"], [lost.to_string()]);
    assert_eq!(back.blobs_missing_count, 1);

    // The next push of the same image is asked for the layer, and heals it.
    let app = target.repository("alice/app").await;
    assert!(target.catalog.linked_blob(&app.id, &lost).await.unwrap().is_none());
    let layers = ["base layer".to_owned(), "layer 0".to_owned()];
    target.push("alice/app", "v0", &layers).await.unwrap();
    assert!(target.catalog.linked_blob(&app.id, &lost).await.unwrap().is_some());
    let (healed, second) = target.backup(options()).await;
    assert_eq!(second.blobs, report.blobs);
    assert_eq!(check(&healed, Some(&target)).await.exit(), Exit::Done);
}

/// The cluster that had the storage may still run, and goes on collecting until the restore takes the storage over.
#[tokio::test]
async fn what_a_former_cluster_removed_until_the_last_moment_is_listed() {
    let world = World::installed(31).await;
    world.fill().await;
    let (archive, _) = world.backup(options()).await;
    let disk = SimulatedDisk::new();
    let shared: Arc<dyn BlobStorage> = Arc::new(disk.storage().await.unwrap());
    for entry in world.blobs.list(None, 1000).await.unwrap() {
        let content = world.blobs.read(&entry.digest, None).await.unwrap().bytes().await.unwrap();
        shared.put(&entry.digest, None, dtr_blobs::body(content)).await.unwrap();
    }
    let random = dtr_types::SeededRandom::new(32);
    let former = StorageMark::first(&dtr_types::ClusterId::random(&random), &random);
    shared.set_mark(&former).await.unwrap();
    // As if it went just before the mark is written.
    let lost = dtr_types::Digest::of(b"layer 0");
    let (hex, mut taken_over) = (lost.hex(), false);
    disk.on_operation(move |operation| {
        taken_over |= operation.kind == OperationKind::Create && operation.path.contains("storage");
        match taken_over && operation.path.contains(&hex) {
            true => Verdict::Fail(std::io::ErrorKind::NotFound),
            false => Verdict::Proceed,
        }
    });
    let target = World::over(shared.clone(), 33).await;
    let back = target.restore(&archive, RestoreOptions::new(VERSION)).await.unwrap();
    assert_eq!((back.exit(), back.blobs_missing_count), (Exit::Incomplete, 1));
    assert_eq!(back.blobs_missing["alice/app"], [lost.to_string()]);
    assert!(back.next[0].contains(former.cluster.as_str()), "{:?}", back.next);
    let mark = shared.mark().await.unwrap().unwrap();
    assert_eq!((&mark.storage, mark.generation), (&former.storage, former.generation + 1));
    assert_eq!(Some(mark.cluster), back.cluster);
}

#[tokio::test]
async fn an_archive_of_an_incomplete_registry_says_so_and_restores() {
    let world = World::installed(21).await;
    world.fill().await;
    let (archive, _) = world.backup(options()).await;
    world.blobs.delete(&dtr_types::Digest::of(b"layer 0")).await.unwrap();
    let target = world.beside(22).await;
    target.restore(&archive, RestoreOptions::new(VERSION)).await.unwrap();
    let (second, _) = target.backup(options()).await;
    let verified = check(&second, Some(&target)).await;
    assert_eq!(verified.exit(), Exit::Incomplete, "{verified}");
    assert_eq!(verified.lacking.count, 1);
    let third = world.beside(23).await;
    let back = third.restore(&second, RestoreOptions::new(VERSION)).await.unwrap();
    assert_eq!(back.exit(), Exit::Incomplete);
    assert_eq!(back.blobs_lost_before.len(), 1);
}

#[tokio::test]
async fn refusals_leave_the_target_as_it_was() {
    let world = World::installed(9).await;
    world.fill().await;
    let (archive, _) = world.backup(options()).await;

    // Not empty.
    let full = World::installed(10).await;
    let before = full.state(At::Latest).await;
    let error = full.restore(&archive, RestoreOptions::new(VERSION)).await.unwrap_err();
    assert!(matches!(error, RecoveryError::Refused(Refusal::NotEmpty { .. })), "{error}");
    assert_eq!(error.exit(), Exit::Refused);
    assert_eq!(full.state(At::Latest).await, before);

    // A storage with none of the blobs: known only at the end.
    let target = World::empty(11).await;
    let error = target.restore(&archive, RestoreOptions::new(VERSION)).await.unwrap_err();
    assert!(matches!(error, RecoveryError::Refused(Refusal::StorageEmpty { .. })), "{error}");
    assert!(target.state(At::Latest).await.is_empty());
    let anyway = RestoreOptions { accept_empty_storage: true, ..RestoreOptions::new(VERSION) };
    let back = target.restore(&archive, anyway).await.unwrap();
    assert_eq!(back.exit(), Exit::Incomplete);

    // Signed by another.
    let target = world.beside(14).await;
    let read = |id: &str| {
        let known = KnownKeys::only(id).unwrap();
        ReadOptions { known, ..ReadOptions::default() }
    };
    let restoring = async |read: ReadOptions| {
        let input = Cursor::new(archive.clone());
        restore(input, read, &target.target(), RestoreOptions::new(VERSION)).await
    };
    let error = restoring(read(&"0".repeat(64))).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Refused, "{error}");
    assert!(target.state(At::Latest).await.is_empty());
    let key = ensure_archive_key(&world.catalog).await.unwrap().id;
    let back = restoring(read(&key)).await.unwrap();
    assert_eq!(back.signer, Some(key));

    // Another program's archive, and accounts that are not in it.
    let target = world.beside(12).await;
    let wrong =
        RestoreOptions { product: dtr_recovery::Product::Ucp, ..RestoreOptions::new(VERSION) };
    let error = target.restore(&archive, wrong).await.unwrap_err();
    assert!(matches!(error, RecoveryError::Refused(Refusal::OtherProduct { .. })), "{error}");
    assert!(target.state(At::Latest).await.is_empty());
}

#[tokio::test]
async fn inspection_lists_what_is_inside() {
    let world = World::installed(13).await;
    world.fill().await;
    let (archive, _) = world.backup(options()).await;
    let found = inspect(Cursor::new(archive), ReadOptions::default()).await.unwrap();
    let names: Vec<_> = found.repositories.iter().map(|r| (r.name.as_str(), r.tags)).collect();
    assert_eq!(names, [("alice/app", 4), ("corp/web/front", 4)]);
    assert_eq!(
        (found.users, found.organizations),
        (vec!["alice".to_owned()], vec!["corp".to_owned()])
    );
}

/// The files of the blobs in a storage.
fn blob_files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(blob_files(&path)),
            false if path.ends_with("data") => found.push(path),
            false => {}
        }
    }
    found.sort();
    found
}

/// Removed, cut, and altered with the same size, which only their hash shows: the archive has the right bytes of all.
#[tokio::test]
async fn what_is_damaged_in_the_storage_comes_from_the_archive() {
    let world = World::installed(41).await;
    world.fill().await;
    let with_images = BackupOptions { with_images: true, ..options() };
    let (archive, _) = world.backup(with_images.clone()).await;
    // Those of them that images need.
    let inside = entries(&archive);
    let mut files = blob_files(world.folder.path());
    files.retain(|file| {
        let hex = file.parent().and_then(|folder| folder.file_name()).unwrap();
        inside.contains_key(&format!("sha256:{}", hex.to_string_lossy()))
    });
    let good: Vec<_> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    for file in &files[..2] {
        let mut bytes = std::fs::read(file).unwrap();
        bytes[0] ^= 1;
        std::fs::write(file, bytes).unwrap();
    }
    std::fs::write(&files[2], &good[2][..good[2].len() - 1]).unwrap();
    std::fs::remove_file(&files[3]).unwrap();

    // The next backup with images names what is wrong with the first, the one after that leaves it out and says so.
    let next = backup(&world.catalog, &world.blobs, with_images.clone(), Vec::new()).await;
    let error = next.expect_err("damaged").to_string();
    assert!(error.contains("damaged"), "{error}");
    let mut left_out = 0;
    for _ in 0..3 {
        if let Ok((_, report)) =
            backup(&world.catalog, &world.blobs, with_images.clone(), Vec::new()).await
        {
            assert_eq!(report.exit(), Exit::Incomplete, "{report}");
            left_out += 1;
        }
    }
    assert!(left_out > 0, "there is no backup from the day on which content was damaged");

    let target = world.beside(42).await;
    let back = target.restore(&archive, RestoreOptions::new(VERSION)).await.unwrap();
    assert_eq!(back.exit(), Exit::Done, "{back}");
    assert_eq!((back.blobs_restored, back.blobs_mended), (4, 3), "{back}");
    assert!(back.to_string().contains("3 damaged in the storage, replaced"), "{back}");
    for (file, bytes) in files.iter().zip(&good) {
        assert_eq!(&std::fs::read(file).unwrap(), bytes, "{}", file.display());
    }
    assert_eq!(check(&archive, Some(&target)).await.exit(), Exit::Done);
    // What is good is not written again.
    let again = world.beside(43).await;
    let back = again.restore(&archive, RestoreOptions::new(VERSION)).await.unwrap();
    assert_eq!((back.blobs_restored, back.blobs_mended), (0, 0), "{back}");
}
