//! Power losses, deaths of the process and failures at every operation: what was acknowledged stays, nothing torn can
//! be seen, and it all works again afterwards. On the simulated disk.

use std::{collections::BTreeMap, io, sync::Arc};

use bytes::Bytes;
use dtr_blobs::{
    Appended, BlobError, BlobStorage, FileStorage, Options, body,
    simulated::{Loss, SimulatedDisk},
};
use dtr_types::{Algorithm, Digest, Hasher, Random as _, SeededRandom, SystemClock, UploadId};

/// What the caller's own records say: they are durable by themselves.
#[derive(Default, Clone)]
struct Records {
    /// Blobs whose record was committed.
    stored: BTreeMap<Digest, Bytes>,
    /// Uploads: recorded size and hash state.
    uploads: BTreeMap<UploadId, (u64, String)>,
}

fn content(seed: u64, size: usize) -> Bytes {
    let mut content = vec![0; size];
    SeededRandom::new(seed).fill(&mut content);
    content.into()
}

/// Bytes of the large blob.
const LAYER: usize = 5_000;

/// One push: a blob in two parts, a small one in one go, and the deletion of a third.
async fn push(storage: &FileStorage, records: &mut Records, seed: u64) -> Result<(), BlobError> {
    let random = SeededRandom::new(seed);
    let layer = content(seed, LAYER);
    let id = UploadId::random(&random);
    storage.upload_create(&id).await?;
    records.uploads.insert(id.clone(), (0, Hasher::new(Algorithm::Sha256).save()));
    append(storage, records, &id, layer.slice(..LAYER / 3)).await?;
    append(storage, records, &id, layer.slice(LAYER / 3..)).await?;
    complete(storage, records, &id, &layer).await?;
    let config = content(seed + 1, 300);
    let digest = Digest::with(Algorithm::Sha512, &config);
    storage.put(&digest, Some(300), body(config.clone())).await?;
    records.stored.insert(digest, config);
    let other = content(seed + 2, 10);
    let digest = Digest::of(&other);
    storage.put(&digest, None, body(other)).await?;
    storage.delete(&digest).await?;
    Ok(())
}

async fn append(
    storage: &FileStorage,
    records: &mut Records,
    id: &UploadId,
    part: Bytes,
) -> Result<(), BlobError> {
    let (at, hasher) = records.uploads[id].clone();
    let hasher = Hasher::resume(&hasher).expect("own state");
    match storage.upload_append(id, at, hasher, body(part)).await {
        Ok(done) => {
            records.uploads.insert(id.clone(), (done.size, done.hasher.save()));
            Ok(())
        }
        Err(cut) => {
            if let Some(kept) = cut.kept {
                records.uploads.insert(id.clone(), (kept.size, kept.hasher.save()));
            }
            Err(cut.error)
        }
    }
}

/// Finish, publish, commit, drop.
async fn complete(
    storage: &FileStorage,
    records: &mut Records,
    id: &UploadId,
    layer: &Bytes,
) -> Result<(), BlobError> {
    let (size, hasher) = records.uploads[id].clone();
    let hasher = Hasher::resume(&hasher).expect("own state");
    let digest = hasher.clone().finish();
    assert_eq!(digest, Digest::of(layer), "the saved hash is that of the content");
    let staged = storage.upload_finish(id, &Appended { size, hasher }).await?;
    storage.publish(&staged, &digest).await?;
    records.stored.insert(digest, layer.clone());
    records.uploads.remove(id);
    storage.upload_abort(id).await
}

/// Everything acknowledged is there, everything that can be seen is whole, and uploads go on or are gone.
async fn check(storage: &FileStorage, records: &mut Records, seed: u64, context: &str) {
    for (digest, content) in &records.stored {
        let reader = storage.read(digest, None).await;
        let bytes = reader.unwrap_or_else(|e| panic!("{context}: {e}")).bytes().await;
        assert_eq!(bytes.expect("readable"), content, "{context}: {digest}");
    }
    for entry in storage.list(None, 1000).await.expect("listed") {
        let reader = storage.read(&entry.digest, None).await.expect("listed");
        let bytes = reader.bytes().await.expect("readable");
        assert!(entry.digest.matches(&bytes), "{context}: {} is torn", entry.digest);
    }
    let layer = content(seed, LAYER);
    for (id, (at, _)) in records.uploads.clone() {
        let rest = layer.slice(at as usize..);
        let result = match append(storage, records, &id, rest).await {
            Ok(()) => complete(storage, records, &id, &layer).await,
            // It was staged when the power went: it can be finished as it is.
            Err(BlobError::UploadNotFound(_)) if at == LAYER as u64 => {
                complete(storage, records, &id, &layer).await
            }
            Err(e) => Err(e),
        };
        match result {
            Ok(()) => {
                let bytes = storage.read(&Digest::of(&layer), None).await.expect("stored");
                assert_eq!(bytes.bytes().await.expect("readable"), layer, "{context}");
            }
            Err(BlobError::UploadNotFound(_)) => {}
            Err(e) => panic!("{context}: {e}"),
        }
        records.uploads.remove(&id);
    }
    for upload in storage.uploads(None, 1000).await.expect("listed") {
        storage.upload_abort(&upload.id).await.expect("removed");
    }
}

fn losses(n: u64) -> [Loss; 5] {
    [Loss::Nothing, Loss::Everything, Loss::Some(n), Loss::Some(n + 1000), Loss::Some(n + 2000)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_on_it() {
    let disk = SimulatedDisk::new();
    dtr_blobs::contract::run(Arc::new(disk.storage().await.expect("opened"))).await;
    assert_eq!(disk.files(), [], "nothing stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_links_all_but_repeated_publication_works() {
    let disk = SimulatedDisk::new();
    disk.set_links(false);
    let storage = disk.storage().await.expect("opened");
    let mut records = Records::default();
    push(&storage, &mut records, 1).await.expect("pushed");
    push(&storage, &mut records, 1).await.expect("pushed again");
    check(&storage, &mut records, 1, "no links").await;
}

#[tokio::test]
async fn power_may_go_at_any_operation() {
    for links in [true, false] {
        let mut n = 1;
        loop {
            let mut finished = false;
            for loss in losses(n) {
                let disk = SimulatedDisk::new();
                disk.set_links(links);
                disk.cut_power_at(n);
                let mut records = Records::default();
                if let Ok(storage) = disk.storage().await {
                    finished = push(&storage, &mut records, 1).await.is_ok();
                }
                disk.power_off();
                disk.restart(loss);
                let context = format!("power lost at change {n}, {loss:?}, links {links}");
                let storage = disk.storage().await.expect("opens again");
                check(&storage, &mut records, 1, &context).await;
                push(&storage, &mut records, 1).await.unwrap_or_else(|e| panic!("{context}: {e}"));
                check(&storage, &mut records, 1, &context).await;
            }
            if finished {
                break;
            }
            n += 1;
        }
        assert!(n > 40, "a push has more operations than {n}");
    }
}

#[tokio::test]
async fn any_operation_may_fail() {
    for how in [io::ErrorKind::StorageFull, io::ErrorKind::Other, io::ErrorKind::ReadOnlyFilesystem]
    {
        let mut n = 1;
        loop {
            let disk = SimulatedDisk::new();
            let storage = disk.storage().await.expect("opened");
            disk.fail_at(disk.changes() + n, how);
            let mut records = Records::default();
            let first = push(&storage, &mut records, 1).await;
            disk.without_script();
            let context = format!("{how:?} at change {n}");
            // Some are not told, because nothing depends on them; those that are, by what they mean.
            match (&first, how) {
                (Ok(()), _)
                | (Err(BlobError::Full { .. }), io::ErrorKind::StorageFull)
                | (Err(BlobError::ReadOnly { .. }), io::ErrorKind::ReadOnlyFilesystem)
                | (Err(BlobError::Unavailable { .. }), io::ErrorKind::Other) => {}
                other => panic!("{context}: {other:?}"),
            }
            // It works again without being opened again, and what was synced at that moment is what counts.
            check(&storage, &mut records, 1, &context).await;
            push(&storage, &mut records, 1).await.unwrap_or_else(|e| panic!("{context}: {e}"));
            disk.power_off();
            disk.restart(Loss::Everything);
            let storage = disk.storage().await.expect("opens again");
            check(&storage, &mut records, 1, &context).await;
            if n > 60 {
                break;
            }
            n += 1;
        }
    }
}

#[tokio::test]
async fn a_full_disk_keeps_what_it_has_and_goes_on_when_there_is_room() {
    let disk = SimulatedDisk::new();
    let storage = disk.storage().await.expect("opened");
    let (old, new) = (content(1, 1000), content(2, 2_000_000));
    storage.put(&Digest::of(&old), None, body(old.clone())).await.expect("stored");
    disk.set_capacity(Some(1_300_000));
    let put = storage.put(&Digest::of(&new), None, body(new.clone())).await;
    assert!(matches!(put, Err(BlobError::Full { .. })), "{put:?}");
    assert!(storage.uploads(None, 10).await.expect("listed").is_empty(), "nothing is left of it");
    let id = UploadId::random(&SeededRandom::new(3));
    storage.upload_create(&id).await.expect("begun");
    let mut frames = Vec::new();
    for frame in new.chunks(100_000) {
        frames.push(Bytes::copy_from_slice(frame));
    }
    let hasher = Hasher::new(Algorithm::Sha256);
    let cut = storage.upload_append(&id, 0, hasher, dtr_blobs::contract::frames(frames)).await;
    let cut = cut.expect_err("there is no room");
    assert!(matches!(cut.error, BlobError::Full { .. }), "{cut:?}");
    let kept = cut.kept.expect("what fitted is kept");
    assert_eq!(kept.size, 1_299_000);
    let health = storage.health().await;
    assert!(!health.is_writable() && health.free == Some(0), "{health:?}");
    let reader = storage.read(&Digest::of(&old), None).await.expect("readable");
    assert_eq!(reader.bytes().await.expect("readable"), old);
    disk.set_capacity(None);
    assert!(storage.health().await.is_writable());
    let rest = body(new.slice(kept.size as usize..));
    let done = storage.upload_append(&id, kept.size, kept.hasher, rest).await.expect("appended");
    assert_eq!(done.hasher.clone().finish(), Digest::of(&new));
    let staged = storage.upload_finish(&id, &done).await.expect("finished");
    storage.publish(&staged, &Digest::of(&new)).await.expect("published");
    let reader = storage.read(&Digest::of(&new), None).await.expect("readable");
    assert_eq!(reader.bytes().await.expect("readable"), new);
}

/// Content leaves a part of the disk free; what is there is read and removed, and that makes room.
#[tokio::test]
async fn content_leaves_the_reserve_alone() {
    let disk = SimulatedDisk::new();
    let random = Arc::new(SeededRandom::new(1));
    let options = Options::new(Arc::new(SystemClock), random);
    let options = Options { reserve_bytes: 2_000_000, ..options };
    let storage = disk.storage_with(options.clone()).await.expect("opened");
    disk.set_capacity(Some(4_000_000));
    assert!(storage.health().await.is_writable());
    let mut stored = Vec::new();
    let refused = loop {
        let next = content(stored.len() as u64, 300_000);
        let digest = Digest::of(&next);
        match storage.put(&digest, None, body(next.clone())).await {
            Ok(_) => stored.push((digest, next)),
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, BlobError::Full { .. }), "{refused}");
    assert!(refused.to_string().contains("dtr gc --run"), "{refused}");
    assert_eq!(stored.len(), 6, "all that fits beside the reserve");
    let health = storage.health().await;
    assert!(health.free >= Some(2_000_000) && health.problem.is_none(), "{health:?}");
    assert!(
        health.full.is_some(),
        "what was refused is told, though not every byte is taken: {health:?}"
    );
    disk.set_capacity(Some(8_000_000));
    assert!(storage.health().await.is_writable(), "there is clearly more room");
    // Another program takes all that is left: nothing can be written at all, and it is opened and read nevertheless.
    disk.set_capacity(Some(0));
    for storage in [storage, disk.storage_with(options).await.expect("opened when full")] {
        let health = storage.health().await;
        assert!(health.full.is_some() && health.problem.is_none(), "{health:?}");
        let (digest, content) = stored.pop().expect("one");
        let read = storage.read(&digest, None).await.expect("readable").bytes().await;
        assert_eq!(read.expect("readable"), content);
        let aside = storage.set_aside(&digest).await.expect("set aside");
        assert!(storage.remove_aside(aside).await.expect("removed"));
    }
}

#[tokio::test]
async fn a_disk_that_becomes_read_only_still_serves() {
    let disk = SimulatedDisk::new();
    let storage = disk.storage().await.expect("opened");
    let old = content(1, 1000);
    let digest = Digest::of(&old);
    storage.put(&digest, None, body(old.clone())).await.expect("stored");
    disk.set_read_only(true);
    let id = UploadId::random(&SeededRandom::new(3));
    let refused = storage.upload_create(&id).await;
    assert!(matches!(refused, Err(BlobError::ReadOnly { .. })), "{refused:?}");
    let refused = storage.delete(&digest).await;
    assert!(matches!(refused, Err(BlobError::ReadOnly { .. })), "{refused:?}");
    let problem = storage.health().await.problem.expect("not writable");
    assert!(problem.contains("cannot be written"), "{problem}");
    let bytes = storage.read(&digest, None).await.expect("readable").bytes().await;
    assert_eq!(bytes.expect("readable"), old);
    assert!(disk.storage().await.is_err(), "it cannot be opened anew");
    disk.set_read_only(false);
    storage.upload_create(&id).await.expect("works again");
    storage.upload_abort(&id).await.expect("works again");
}

#[tokio::test]
async fn short_writes_are_continued() {
    let disk = SimulatedDisk::new();
    let storage = disk.storage().await.expect("opened");
    disk.on_operation(|_| dtr_blobs::simulated::Verdict::Half);
    let mut records = Records::default();
    push(&storage, &mut records, 1).await.expect("pushed");
    check(&storage, &mut records, 1, "short writes").await;
}

/// The bytes of a saved hash state were synced: resuming from the record never vouches for other bytes.
#[tokio::test]
async fn a_torn_part_is_never_vouched_for() {
    let layer = content(5, 400_000);
    for seed in 0..40 {
        let disk = SimulatedDisk::new();
        let storage = disk.storage().await.expect("opened");
        let mut records = Records::default();
        let id = UploadId::random(&SeededRandom::new(seed));
        storage.upload_create(&id).await.expect("begun");
        records.uploads.insert(id.clone(), (0, Hasher::new(Algorithm::Sha256).save()));
        append(&storage, &mut records, &id, layer.slice(..100_001)).await.expect("appended");
        // Neither synced nor recorded.
        let before = records.uploads[&id].clone();
        disk.on_operation(|operation| match operation.kind {
            dtr_blobs::simulated::OperationKind::Sync => dtr_blobs::simulated::Verdict::PowerOff,
            _ => dtr_blobs::simulated::Verdict::Proceed,
        });
        let lost = append(&storage, &mut records, &id, layer.slice(100_001..)).await;
        assert!(lost.is_err());
        assert_eq!(records.uploads[&id], before, "what was not synced is not reported");
        disk.restart(Loss::Some(seed));
        let storage = disk.storage().await.expect("opened");
        match append(&storage, &mut records, &id, layer.slice(100_001..)).await {
            Ok(()) => complete(&storage, &mut records, &id, &layer).await.expect("completed"),
            Err(BlobError::UploadNotFound(_)) => continue,
            Err(e) => panic!("{e}"),
        }
        let reader = storage.read(&Digest::of(&layer), None).await.expect("stored");
        assert_eq!(reader.bytes().await.expect("readable"), layer);
    }
}
