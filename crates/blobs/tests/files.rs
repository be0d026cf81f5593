//! The file storage on the machine's own file system.

use std::{os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use bytes::Bytes;
use dtr_blobs::{Appended, BlobError, BlobStorage as _, FileStorage, Options, body};
use dtr_types::{Algorithm, Digest, Hasher, SeededRandom, SystemClock, SystemRandom, UploadId};
use futures_util::StreamExt as _;

fn options() -> Options {
    Options::new(Arc::new(SystemClock), Arc::new(SeededRandom::new(1)))
}

async fn open(root: &Path) -> FileStorage {
    FileStorage::open(root, options()).await.expect("a fresh directory will do")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_contract() {
    let dir = tempfile::tempdir().expect("a directory");
    dtr_blobs::contract::run(Arc::new(open(dir.path()).await)).await;
}

#[tokio::test]
async fn files_are_private_and_where_distribution_has_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("not/there/yet");
    let storage = open(&root).await;
    let digest = Digest::of(b"hello");
    storage.put(&digest, None, body("hello")).await.expect("stored");
    let hex = digest.hex();
    let path = root.join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    assert_eq!(std::fs::read(&path).expect("there"), b"hello");
    let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    for above in path.ancestors().skip(1).take_while(|above| above.starts_with(&root)) {
        assert_eq!(mode(above), 0o700, "{}", above.display());
    }
    storage.delete(&digest).await.expect("deleted");
    assert!(!path.parent().expect("a directory").exists(), "no empty directory stays");
}

#[tokio::test]
async fn an_unsuitable_root_is_told_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    std::fs::write(&file, "x").expect("written");
    let opened = FileStorage::open(&file, options()).await;
    assert!(matches!(&opened, Err(BlobError::Unsuitable { root, .. }) if root.ends_with("file")));
    let opened = FileStorage::open("/proc/nothing/here", options()).await;
    assert!(matches!(opened, Err(BlobError::Unsuitable { .. })), "{opened:?}");
}

#[tokio::test]
async fn foreign_files_are_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let storage = open(dir.path()).await;
    let blobs = dir.path().join("docker/registry/v2/blobs");
    std::fs::create_dir_all(blobs.join("sha256/ab/not-a-digest")).expect("made");
    std::fs::create_dir_all(blobs.join("md5/ab")).expect("made");
    std::fs::write(blobs.join("sha256/README"), "x").expect("written");
    std::fs::write(blobs.join("sha256/zz"), "x").expect("written");
    std::fs::write(dir.path().join("uploads/README"), "x").expect("written");
    assert!(storage.list(None, 10).await.expect("listed").is_empty());
    assert!(storage.uploads(None, 10).await.expect("listed").is_empty());
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_read_is_an_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let storage = open(dir.path()).await;
    let content = vec![7u8; 3_000_000];
    let digest = Digest::of(&content);
    storage.put(&digest, None, body(content)).await.expect("stored");
    let mut reader = storage.read(&digest, None).await.expect("stored");
    reader.next().await.expect("a block").expect("readable");
    let hex = digest.hex();
    let path = dir.path().join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("there");
    file.set_len(1_000_000).expect("cut");
    let mut end = None;
    while let Some(block) = reader.next().await {
        end = Some(block);
    }
    assert!(matches!(end, Some(Err(BlobError::Corrupt { .. }))), "{end:?}");
}

async fn append(
    storage: &FileStorage,
    id: &UploadId,
    on: &Appended,
    content: &str,
) -> Result<Appended, BlobError> {
    let bytes = body(content.to_owned());
    Ok(storage.upload_append(id, on.size, on.hasher.clone(), bytes).await?)
}

fn nothing() -> Appended {
    Appended { size: 0, hasher: Hasher::new(Algorithm::Sha256) }
}

async fn is_published(storage: &FileStorage, id: &UploadId, whole: &Appended, content: &str) {
    let digest = Digest::of(content.as_bytes());
    let staged = storage.upload_finish(id, whole).await.expect("finished");
    storage.publish(&staged, &digest).await.expect("published");
    let read = storage.read(&digest, None).await.expect("stored").bytes().await;
    assert_eq!(read.expect("readable"), content);
}

/// Two replicas that go on from one record: each has its own bytes, whichever of them is recorded.
#[tokio::test]
async fn writers_of_one_upload_do_not_mix() {
    let dir = tempfile::tempdir().expect("a directory");
    let other = Options::new(Arc::new(SystemClock), Arc::new(SeededRandom::new(2)));
    let other = FileStorage::open(dir.path(), other).await.expect("opened");
    let one = open(dir.path()).await;
    for first in ["", "first "] {
        let id = UploadId::random(&SystemRandom);
        one.upload_create(&id).await.expect("begun");
        let at = append(&one, &id, &nothing(), first).await.expect("appended");
        let (sender, received) = tokio::sync::oneshot::channel::<()>();
        let frames = futures_util::stream::once(async { Ok(Bytes::from("ev")) });
        let frames = frames.chain(futures_util::stream::once(async {
            received.await.expect("sent");
            Ok(Bytes::from("il"))
        }));
        let slow = other.upload_append(&id, at.size, at.hasher.clone(), frames.boxed());
        let quick = async {
            let good = append(&one, &id, &at, "good").await.expect("appended");
            sender.send(()).expect("waited for");
            good
        };
        let (evil, good) = tokio::join!(slow, quick);
        let evil = evil.expect("appended");
        assert_eq!(evil.size, good.size);
        is_published(&one, &id, &good, &format!("{first}good")).await;
        is_published(&one, &id, &evil, &format!("{first}evil")).await;
        let late = append(&other, &id, &at, "late").await.expect("appended");
        is_published(&other, &id, &late, &format!("{first}late")).await;
        let more = append(&other, &id, &good, " and more").await.expect("appended");
        is_published(&one, &id, &more, &format!("{first}good and more")).await;
        let unknown = append(&one, &id, &Appended { size: good.size, ..nothing() }, "x").await;
        assert!(matches!(unknown, Err(BlobError::UploadNotFound(_))), "{unknown:?}");
        one.upload_abort(&id).await.expect("removed");
        assert!(one.uploads(None, 10).await.expect("listed").is_empty());
        for whole in ["good", "evil", "late", "good and more"] {
            let whole = format!("{first}{whole}");
            let read = one.read(&Digest::of(whole.as_bytes()), None).await.expect("stored");
            assert_eq!(read.bytes().await.expect("readable"), whole);
        }
    }
}

#[tokio::test]
async fn an_upload_of_an_earlier_version_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let storage = open(dir.path()).await;
    for end in ["", ".staged"] {
        let id = UploadId::random(&SystemRandom);
        let earlier = dir.path().join(format!("uploads/{id}{end}"));
        // More than was recorded, as after a crash.
        std::fs::write(&earlier, "first and unrecorded").expect("written");
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(b"first ");
        let at = Appended { size: 6, hasher };
        let listed = storage.uploads(None, 10).await.expect("listed");
        assert_eq!((listed.len(), listed[0].size), (1, 20));
        storage.upload_reopen(&id, 6).await.expect("there");
        let whole = append(&storage, &id, &at, "second").await.expect("appended");
        is_published(&storage, &id, &whole, "first second").await;
        storage.upload_abort(&id).await.expect("removed");
        assert!(storage.uploads(None, 10).await.expect("listed").is_empty());
    }
}
