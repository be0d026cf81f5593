//! Disks that are full, broken or read-only: a clear error, nothing lost, and work goes on when they are well again.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use dtr_blobs::simulated::{OperationKind, SimulatedDisk, Verdict};
use dtr_store_embedded::{EmbeddedStore, Options, simulated::Disk};
use dtr_types::Digest;

use crate::world::{OCI, PRIVATE, Who, World};

fn post(world: &World, content: &'static [u8]) -> impl Future<Output = crate::world::Answer> {
    let digest = Digest::of(content);
    let path = format!("/v2/{PRIVATE}/blobs/uploads/?digest={digest}");
    world.own("POST", &path).body(content).send()
}

#[tokio::test]
async fn a_full_blob_storage() {
    let disk = SimulatedDisk::new();
    let world = World::on_disk(&disk).await;
    world.image(PRIVATE, "v1").await;
    let location = world.begin(PRIVATE).await;
    world.own("PATCH", &location).body("first ").send().await.is(202);
    disk.set_capacity(Some(0));
    let answer = post(&world, b"more").await.is(507);
    assert!(answer.message().contains("full"), "{}", answer.message());
    assert!(!answer.header("retry-after").is_empty());
    world.own("PATCH", &location).body("second").send().await.is(507);
    world.get(&format!("/v2/{PRIVATE}/manifests/v1")).await.is(200);
    world.get(&format!("/v2/{PRIVATE}/blobs/{}", Digest::of(b"layer of v1"))).await.is(200);
    disk.set_capacity(None);
    post(&world, b"more").await.is(201);
    let status = world.get(&location).await.is(204);
    assert_eq!(status.header("range"), "0-5");
    world.own("PATCH", &location).body("second").send().await.is(202);
    let digest = Digest::of(b"first second");
    let end = format!("{location}?digest={digest}");
    world.own("PUT", &end).body("").send().await.is(201);
}

#[tokio::test]
async fn a_read_only_blob_storage() {
    let disk = SimulatedDisk::new();
    let world = World::on_disk(&disk).await;
    world.image(PRIVATE, "v1").await;
    disk.set_read_only(true);
    let answer = post(&world, b"more").await.is(503);
    assert_eq!(answer.code(), "UNAVAILABLE");
    world.get(&format!("/v2/{PRIVATE}/blobs/{}", Digest::of(b"layer of v1"))).await.is(200);
    disk.set_read_only(false);
    post(&world, b"more").await.is(201);
}

/// Only the store is a reason to answer from an earlier state: what the blob storage cannot read is not asked for again.
#[tokio::test]
async fn a_blob_storage_that_cannot_be_read() {
    let disk = SimulatedDisk::new();
    let world = World::on_disk(&disk).await;
    world.image(PRIVATE, "v1").await;
    let path = format!("/auth/token?scope=repository:{PRIVATE}:pull");
    let token = world.call("GET", &path).who(Who::Owner).send().await.is(200).json();
    let token = token["token"].as_str().expect("a token").to_owned();
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    disk.on_operation(move |operation| {
        if operation.kind != OperationKind::Open {
            return Verdict::Proceed;
        }
        counted.fetch_add(1, Ordering::SeqCst);
        Verdict::Fail(std::io::ErrorKind::TimedOut)
    });
    let path = format!("/v2/{PRIVATE}/blobs/{}", Digest::of(b"layer of v1"));
    world.call("GET", &path).bearer(&token).send().await.is(503);
    assert_eq!(tries.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_blob_that_the_disk_lost_is_no_empty_answer() {
    let disk = SimulatedDisk::new();
    let world = World::on_disk(&disk).await;
    world.image(PRIVATE, "v1").await;
    let digest = Digest::of(b"layer of v1");
    let storage = disk.storage().await.expect("opens");
    dtr_blobs::BlobStorage::delete(&storage, &digest).await.expect("deleted");
    let answer = world.get(&format!("/v2/{PRIVATE}/blobs/{digest}")).await.is(404);
    assert_eq!(answer.code(), "BLOB_UNKNOWN");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store() {
    let file = Disk::new();
    let store = EmbeddedStore::open_with_backend(file.clone(), Options::default()).expect("opens");
    let blobs = Arc::new(SimulatedDisk::new().storage().await.expect("opens"));
    let world = World::over(store, blobs, |_| {}).await;
    let (manifest, _) = world.image(PRIVATE, "v1").await;
    file.set_capacity(Some(0));
    let mut refused = 0;
    for n in 0..200 {
        // What fits into pages that the file has already is still taken.
        let answer = world.put(PRIVATE, &format!("t{n}"), OCI, manifest.clone()).await;
        if answer.status == 201 {
            continue;
        }
        assert!([503, 507].contains(&answer.status.as_u16()), "{}", answer.status);
        refused += 1;
        if refused > 3 {
            break;
        }
    }
    assert!(refused > 0);
    world.get(&format!("/v2/{PRIVATE}/manifests/v1")).await.is(200);
    file.set_capacity(None);
    let again = async || world.put(PRIVATE, "again", OCI, manifest.clone()).await;
    world.until(201, again).await;
}
