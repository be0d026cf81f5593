//! The file storage on the machine's own file system.

use std::{os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use dtr_blobs::{BlobError, BlobStorage as _, FileStorage, Options, body};
use dtr_types::{Digest, SeededRandom, SystemClock};

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
    use futures_util::StreamExt as _;
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
