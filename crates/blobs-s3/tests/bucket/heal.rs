//! Objects that are lost or altered in the bucket: proven bytes are published over them, and nothing counts as published that
//! is not there. And what services do that promise one thing and do another.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use dtr_blobs::{BlobError, BlobStorage as _, Found, Staged, body, examine};
use dtr_blobs_s3::{S3Settings, S3Storage};
use dtr_types::{Algorithm, Digest, Hasher, SystemRandom, UploadId};

use crate::{
    MIB, content,
    server::{Server, open},
};

#[derive(Clone, Copy, Debug)]
enum Harm {
    Removed,
    Cut,
    Altered,
}

fn object(server: &Server, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    let path = format!("registry/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
    server.bucket().join(path)
}

fn harm(server: &Server, digest: &Digest, harm: Harm) {
    let path = object(server, digest);
    let mut bytes = std::fs::read(&path).expect("stored");
    match harm {
        Harm::Removed => return std::fs::remove_file(path).expect("removed"),
        Harm::Cut => bytes.truncate(bytes.len() / 2),
        Harm::Altered => bytes[0] ^= 1,
    }
    std::fs::write(path, bytes).expect("written");
}

async fn stage(storage: &S3Storage, content: &Bytes) -> Staged {
    let id = UploadId::random(&SystemRandom);
    storage.upload_create(&id).await.expect("begun");
    let hasher = Hasher::new(Algorithm::Sha256);
    let done = storage.upload_append(&id, 0, hasher, body(content.clone())).await;
    storage.upload_finish(&id, &done.expect("appended")).await.expect("finished")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn right_bytes_take_the_place_of_what_is_there() {
    let server = Server::start();
    let storage = server.storage();
    // In one request, copied from one piece, and made of many.
    for (seed, size) in [(1, 1000), (2, 3 * MIB), (3, 20 * MIB)] {
        let whole = content(seed, size);
        let digest = Digest::of(&whole);
        storage.put(&digest, None, body(whole.clone())).await.expect("stored");
        for what in [Harm::Removed, Harm::Cut, Harm::Altered] {
            for staged in [false, true] {
                harm(&server, &digest, what);
                let look = async |deep| {
                    examine(&storage, &digest, Some(size as u64), deep).await.expect("looked at")
                };
                let (quick, deep) = match what {
                    Harm::Removed => (Found::Missing, Found::Missing),
                    Harm::Cut => (Found::OtherSize, Found::OtherSize),
                    Harm::Altered => (Found::Good, Found::OtherBytes),
                };
                assert_eq!(look(false).await, quick, "{what:?} {size}");
                assert_eq!(look(true).await, deep, "{what:?} {size}");
                if staged {
                    let staged = stage(&storage, &whole).await;
                    storage.publish(&staged, &digest).await.expect("published");
                    storage.upload_end(&staged).await.expect("ended");
                } else {
                    storage.put(&digest, None, body(whole.clone())).await.expect("stored");
                }
                assert_eq!(look(true).await, Found::Good, "{what:?} {size} {staged}");
            }
        }
    }
}

/// The multipart upload of a publication is given up by somebody else at any moment: this server answers its completion with
/// 200 if anything is there under the name, as an altered blob of the right size is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_that_did_nothing_does_not_count() {
    let server = Server::start();
    let storage = server.storage();
    let whole = content(4, 20 * MIB);
    let digest = Digest::of(&whole);
    storage.put(&digest, None, body(whole.clone())).await.expect("stored");
    let mut published = 0;
    for round in 0..12u64 {
        harm(&server, &digest, Harm::Altered);
        let staged = stage(&storage, &whole).await;
        let other = server.storage();
        let aborting = {
            let id = staged.id.clone();
            tokio::spawn(async move {
                let began = tokio::time::Instant::now();
                while began.elapsed() < Duration::from_millis(8 * round) {
                    tokio::task::yield_now().await;
                }
                other.upload_abort(&id).await
            })
        };
        let said = storage.publish(&staged, &digest).await;
        aborting.await.expect("no panic").expect("given up");
        let found = examine(&storage, &digest, None, true).await.expect("looked at");
        assert!(said.is_err() || found == Found::Good, "round {round}: {said:?} {found:?}");
        published += u32::from(said.is_ok());
        if found != Found::Good {
            storage.put(&digest, None, body(whole.clone())).await.expect("stored");
        }
    }
    println!("{published} of 12 were published before they were given up");
}

/// Two replicas publish the same blob at once, each from an upload of its own: both have, whichever is seen there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publications_at_once_are_all_good() {
    let server = Server::start();
    for (seed, size) in [(5, MIB), (6, 12 * MIB)] {
        let whole = content(seed, size);
        let digest = Digest::of(&whole);
        let mut publishing = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let (storage, whole) = (server.storage(), whole.clone());
            publishing.spawn(async move {
                let staged = stage(&storage, &whole).await;
                storage.publish(&staged, &digest).await
            });
        }
        while let Some(done) = publishing.join_next().await {
            done.expect("no panic").expect("published");
        }
        let found = examine(&server.storage(), &digest, None, true).await.expect("looked at");
        assert_eq!(found, Found::Good);
    }
}

/// This server takes both wishes without a word and follows neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wishes_that_are_not_followed_are_told() {
    let server = Server::start();
    let settings = server.settings();
    let refused = async |settings: S3Settings| {
        let error = open(&settings).check().await.expect_err("refused");
        assert!(matches!(error, BlobError::Unsuitable { .. }), "{error:?}");
        error.to_string()
    };
    let told = refused(S3Settings { encrypt: true, ..settings.clone() }).await;
    assert!(told.contains("encrypt") && told.contains("in clear"), "{told}");
    let told = refused(S3Settings { storageclass: "STANDARD_IA".to_owned(), ..settings.clone() });
    let told = told.await;
    assert!(told.contains("storageclass") && told.contains("STANDARD_IA"), "{told}");
    let standard = S3Settings { storageclass: "STANDARD".to_owned(), ..settings };
    open(&standard).check().await.expect("it has that one");
    assert!(crate::files(&server.bucket()).is_empty(), "the checks leave nothing");
}

/// Not every conflict means that the object is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn something_else_in_the_way_is_told_as_that() {
    let server = Server::start();
    let storage = server.storage();
    let id = UploadId::random(&SystemRandom);
    let uploads = server.bucket().join("registry/uploads");
    std::fs::create_dir_all(&uploads).expect("made");
    std::fs::write(uploads.join(id.as_str()), b"a file where a folder is needed").expect("written");
    let made = storage.upload_create(&id).await;
    assert!(matches!(made, Err(BlobError::Unavailable { .. })), "{made:?}");
    let whole = content(8, 1000);
    let digest = Digest::of(&whole);
    std::fs::create_dir_all(object(&server, &digest).join("x")).expect("made");
    let began = tokio::time::Instant::now();
    let put = storage.put(&digest, None, body(whole)).await.expect_err("a folder is there");
    assert!(put.to_string().contains("in the way"), "{put}");
    assert!(began.elapsed() < Duration::from_secs(20), "it is not tried for long");
    let again = UploadId::random(&SystemRandom);
    storage.upload_create(&again).await.expect("begun");
    let twice = storage.upload_create(&again).await;
    assert!(matches!(twice, Err(BlobError::UploadExists(_))), "{twice:?}");
}

/// A service that refuses connections fails each try at once; the promised time is kept all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_ten_seconds_fails_nothing() {
    let mut server = Server::start();
    let storage = server.storage();
    let digest = Digest::of(b"hello");
    server.kill();
    let began = tokio::time::Instant::now();
    // How it is now is said within seconds, in words for everybody.
    let health = storage.health().await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(health.problem.as_deref(), Some("the service cannot be reached"));
    let detail = health.detail.expect("at length");
    assert!(detail.contains("127.0.0.1") && !detail.contains("retries"), "{detail}");
    let putting = {
        let storage = storage.clone();
        tokio::spawn(async move { storage.put(&digest, None, body("hello")).await })
    };
    while began.elapsed() < Duration::from_secs(13) {
        // poll: until ten seconds have passed of the thirty that are promised
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!putting.is_finished(), "given up after {:?}", began.elapsed());
    }
    server.launch();
    putting.await.expect("no panic").expect("stored in the end");
}
