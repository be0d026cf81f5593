//! Large content goes through in bounded memory. On its own, because it measures the whole process.

#[path = "bucket/server.rs"]
#[expect(dead_code, reason = "the other tests use more of it")]
mod server;

use std::time::Instant;

use bytes::Bytes;
use dtr_blobs::{BlobStorage as _, BoxError};
use dtr_types::{Algorithm, Hasher, Random as _, SeededRandom, SystemRandom, UploadId};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use server::Server;

const MIB: u64 = 1024 * 1024;
const SIZE: u64 = 300;

/// Bytes of memory that this process had at most.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("there");
    let kib: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    kib * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_blobs_need_little_memory() {
    let server = Server::start();
    let storage = server.storage();
    storage.check().await.expect("all is well");
    let mut block = vec![0; MIB as usize];
    SeededRandom::new(1).fill(&mut block);
    let block = Bytes::from(block);
    let before = peak();
    // Each frame has memory of its own, as those of a connection do.
    let frames = stream::iter(0..SIZE)
        .map(move |_| Ok::<_, BoxError>(Bytes::copy_from_slice(&block)))
        .boxed();
    let id = UploadId::random(&SystemRandom);
    storage.upload_create(&id).await.expect("begun");
    let began = Instant::now();
    let hasher = Hasher::new(Algorithm::Sha256);
    let done = storage.upload_append(&id, 0, hasher, frames).await.expect("appended");
    let appended = began.elapsed();
    assert_eq!(done.size, SIZE * MIB);
    let digest = done.hasher.clone().finish();
    let staged = storage.upload_finish(&id, &done).await.expect("finished");
    let began = Instant::now();
    storage.publish(&staged, &digest).await.expect("published");
    let published = began.elapsed();
    storage.upload_abort(&id).await.expect("removed");
    let began = Instant::now();
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut blocks = storage.read(&digest, None).await.expect("stored");
    while let Some(block) = blocks.try_next().await.expect("readable") {
        hasher.update(&block);
    }
    let read = began.elapsed();
    assert_eq!(hasher.finish(), digest);
    let grown = (peak() - before) / MIB;
    println!(
        "{SIZE} MiB: appended in {appended:?}, published in {published:?}, read in {read:?}; memory grew by {grown} MiB"
    );
    assert!(grown < 120, "{grown} MiB");
}
