//! The engine against a real S3-compatible server.

mod heal;
mod server;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dtr_blobs::{Appended, BlobError, BlobStorage, BoxError, ByteStream, Staged, body};
use dtr_blobs_s3::S3Storage;
use dtr_types::{
    Algorithm, Digest, Hasher, Random as _, Secret, SeededRandom, SystemRandom, UploadId,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use server::{Server, open};

const MIB: usize = 1024 * 1024;

fn content(seed: u64, size: usize) -> Bytes {
    let mut content = vec![0; size];
    SeededRandom::new(seed).fill(&mut content);
    content.into()
}

async fn publish(storage: &S3Storage, id: &UploadId, whole: &Appended) {
    let digest = &whole.hasher.clone().finish();
    let staged = storage.upload_finish(id, whole).await.expect("finished");
    storage.publish(&staged, digest).await.expect("published");
    storage.upload_abort(id).await.expect("removed");
}

/// All files below a folder.
fn files(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_contract() {
    let server = Server::start();
    dtr_blobs::contract::run(Arc::new(server.storage())).await;
    assert_eq!(files(&server.bucket()), Vec::<String>::new(), "nothing is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_are_where_distribution_has_them() {
    let server = Server::start();
    let storage = server.storage();
    let digest = Digest::of(b"hello");
    storage.put(&digest, None, body("hello")).await.expect("stored");
    let hex = digest.hex();
    let path = format!("registry/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
    assert_eq!(std::fs::read(server.bucket().join(path)).expect("there"), b"hello");
}

/// Whoever was frozen in between finds that the service refuses his removal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_comes_late_is_refused() {
    let server = Server::start();
    let frozen = server.storage().with_removals_good_for(Duration::from_secs(1));
    let digest = Digest::of(b"hello");
    frozen.put(&digest, None, body("hello")).await.expect("stored");
    let aside = frozen.set_aside(&digest).await.expect("prepared");
    assert!(!format!("{aside:?}").contains("http"), "who has it can remove the blob: {aside:?}");
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        // poll: until the service counts more than a second
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let late = frozen.remove_aside(aside).await;
    assert!(late.is_err(), "{late:?}");
    assert!(frozen.stat(&digest).await.expect("readable").is_some());
    let aside = frozen.set_aside(&digest).await.expect("prepared");
    assert!(frozen.remove_aside(aside).await.expect("removed"));
    assert!(frozen.stat(&digest).await.expect("readable").is_none());
}

/// Each chunk goes to another replica than the one before, and each opens the bucket anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_is_handed_from_replica_to_replica() {
    let server = Server::start();
    let replicas = [server.storage(), server.storage()];
    let whole = content(1, 40 * MIB);
    let id = UploadId::random(&SystemRandom);
    replicas[0].upload_create(&id).await.expect("begun");
    let mut saved = Hasher::new(Algorithm::Sha256).save();
    let mut at = 0usize;
    let odd = [1, 1, 3, 5 * MIB - 1, 17, 0, 9 * MIB + 1, 65_537, 5 * MIB, 12 * MIB + 7];
    // And some bytes one by one, so that pieces are joined.
    for (turn, size) in [1; 70].into_iter().chain(odd).chain([usize::MAX]).enumerate() {
        let end = at.saturating_add(size).min(whole.len());
        let hasher = Hasher::resume(&saved).expect("own state");
        let chunk = body(whole.slice(at..end));
        let done = replicas[turn % 2].upload_append(&id, at as u64, hasher, chunk).await;
        let done = done.expect("appended");
        assert_eq!(done.size, end as u64);
        (at, saved) = (end, done.hasher.save());
    }
    let pieces = files(&server.bucket()).len();
    assert!(pieces < 60, "{pieces} objects: small pieces are joined");
    let digest = Digest::of(&whole);
    let hasher = Hasher::resume(&saved).expect("own state");
    let all = Appended { size: at as u64, hasher };
    let staged = replicas[0].upload_finish(&id, &all).await.expect("finished");
    let other = replicas[1].staged_digest(&staged, Algorithm::Sha512).await.expect("hashed");
    assert_eq!(other, Digest::with(Algorithm::Sha512, &whole));
    replicas[1].publish(&staged, &digest).await.expect("published");
    // By the other algorithm too, of which the names of the pieces know nothing.
    replicas[0].publish(&staged, &other).await.expect("published");
    let wrong = replicas[0].publish(&staged, &Digest::of(b"else")).await;
    assert!(matches!(wrong, Err(BlobError::Mismatch { .. })), "{wrong:?}");
    replicas[0].upload_abort(&id).await.expect("removed");
    for digest in [digest, other] {
        let read = replicas[0].read(&digest, None).await.expect("stored");
        assert_eq!(read.bytes().await.expect("readable"), whole);
    }
    assert_eq!(files(&server.bucket()).len(), 2, "only the blobs are left");
}

/// Two replicas write to one upload at once, as after a connection that was lost on one side only: whichever of them has
/// its record committed, its bytes are what is published.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writers_do_not_mix() {
    let server = Server::start();
    let replicas = [server.storage(), server.storage()];
    let id = UploadId::random(&SystemRandom);
    replicas[0].upload_create(&id).await.expect("begun");
    let first = Hasher::new(Algorithm::Sha256);
    let base = content(1, 6 * MIB);
    let base_done = replicas[0].upload_append(&id, 0, first, body(base.clone())).await;
    let hasher = base_done.expect("appended").hasher;
    let tails = [content(2, 20 * MIB), content(3, 20 * MIB)];
    let append = |n: usize| {
        replicas[n].upload_append(&id, base.len() as u64, hasher.clone(), body(tails[n].clone()))
    };
    let (one, two) = tokio::join!(append(0), append(1));
    let done = [one.expect("appended"), two.expect("appended")];
    assert_eq!(done[0].size, done[1].size);
    for (tail, done) in tails.iter().zip(&done) {
        let staged = replicas[0].upload_finish(&id, done).await.expect("finished");
        let whole = [&base[..], tail].concat();
        let digest = Digest::of(&whole);
        replicas[1].publish(&staged, &digest).await.expect("published");
        let read = replicas[0].read(&digest, None).await.expect("stored");
        assert_eq!(read.bytes().await.expect("readable"), whole);
    }
}

/// A body that hands out frames as they are sent.
fn channel() -> (tokio::sync::mpsc::Sender<Bytes>, ByteStream) {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let frames = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|frame| (Ok::<_, BoxError>(frame), receiver))
    });
    (sender, frames.boxed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_in_between_is_waited_for() {
    let mut server = Server::start();
    let storage = server.storage();
    let whole = content(5, 48 * MIB);
    let id = UploadId::random(&SystemRandom);
    storage.upload_create(&id).await.expect("begun");
    let (sender, frames) = channel();
    let appending = {
        let (storage, id) = (storage.clone(), id.clone());
        let hasher = Hasher::new(Algorithm::Sha256);
        tokio::spawn(async move { storage.upload_append(&id, 0, hasher, frames).await })
    };
    for (n, frame) in whole.chunks(MIB).enumerate() {
        if n == 20 {
            server.kill();
        }
        if n == 28 {
            server.launch();
        }
        sender.send(Bytes::copy_from_slice(frame)).await.expect("taken");
    }
    drop(sender);
    let done = appending.await.expect("no panic").expect("appended in the end");
    assert_eq!(done.size, whole.len() as u64);
    let digest = done.hasher.clone().finish();
    assert_eq!(digest, Digest::of(&whole));
    publish(&storage, &id, &done).await;
    let read = storage.read(&digest, None).await.expect("stored");
    assert_eq!(read.bytes().await.expect("readable"), whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_told_in_words() {
    let mut server = Server::start();
    let good = server.settings();
    let told = async |change: fn(&mut dtr_blobs_s3::S3Settings)| {
        let mut settings = good.clone();
        change(&mut settings);
        let error = open(&settings).check().await.expect_err("refused").to_string();
        assert!(!error.contains(server::SECRET), "{error}");
        error
    };
    open(&good).check().await.expect("all is well");
    let error = told(|s| s.accesskey = "nobody".to_owned()).await;
    assert!(error.contains("check accesskey"), "{error}");
    let error = told(|s| s.secretkey = Secret::new("wrong")).await;
    assert!(error.contains("check secretkey"), "{error}");
    let error = told(|s| s.bucket = "nowhere".to_owned()).await;
    assert!(error.contains("no such bucket") && error.contains("nowhere"), "{error}");
    let error = told(|s| s.region = "eu-central-1".to_owned()).await;
    assert!(error.contains("region"), "{error}");
    // Without the bucket nothing is said to be missing.
    let nowhere = dtr_blobs_s3::S3Settings { bucket: "nowhere".to_owned(), ..good.clone() };
    let nowhere = open(&nowhere);
    let digest = Digest::of(b"x");
    let stat = nowhere.stat(&digest).await;
    assert!(matches!(stat, Err(BlobError::Unavailable { .. })), "{stat:?}");
    let read = nowhere.read(&digest, None).await;
    assert!(matches!(read, Err(BlobError::Unavailable { .. })), "{read:?}");
    server.kill();
    let health = open(&good).health().await;
    let problem = health.detail.expect("nobody answers");
    assert!(problem.contains("127.0.0.1"), "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ca_of_its_own_is_trusted_when_given() {
    let server = Server::start_tls();
    let storage = server.storage();
    storage.check().await.expect("trusted");
    let whole = content(6, 9 * MIB);
    let digest = Digest::of(&whole);
    storage.put(&digest, None, body(whole.clone())).await.expect("stored");
    let part = storage.read(&digest, Some(100..9_000_000)).await.expect("stored");
    assert_eq!(part.bytes().await.expect("readable"), whole[100..9_000_000]);
    let unseen =
        dtr_blobs_s3::S3Settings { skipverify: true, rootcas: String::new(), ..server.settings() };
    open(&unseen).check().await.expect("believed unseen");
    let strange = dtr_blobs_s3::S3Settings { rootcas: String::new(), ..server.settings() };
    let health = tokio::time::timeout(Duration::from_secs(60), open(&strange).check()).await;
    let error = health.expect("in time").expect_err("not trusted").to_string();
    assert!(error.contains("rootcas"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_seen_by_other_replicas_of_the_same_bucket_only() {
    let server = Server::start();
    let other = Server::start();
    let (storage, token) = (server.storage(), SystemRandom.hex(16));
    storage.leave_token(&token).await.expect("left");
    assert!(server.storage().sees_token(&token).await.expect("asked"));
    assert!(!other.storage().sees_token(&token).await.expect("asked"));
    storage.remove_token(&token).await.expect("removed");
    assert!(!server.storage().sees_token(&token).await.expect("asked"));
    assert!(storage.leave_token("../x").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_blobs_are_listed_in_order() {
    let server = Server::start();
    let storage = server.storage();
    let mut digests: Vec<Digest> = (0..5000u32).map(|n| Digest::of(&n.to_be_bytes())).collect();
    let put = stream::iter(0..5000u32).map(Ok::<_, BlobError>).try_for_each_concurrent(32, |n| {
        let storage = storage.clone();
        async move {
            let bytes = n.to_be_bytes();
            storage.put(&Digest::of(&bytes), Some(4), body(bytes.to_vec())).await.map(drop)
        }
    });
    put.await.expect("stored");
    digests.sort();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = storage.list(after.as_ref(), 700).await.expect("listed");
        assert!(page.iter().all(|entry| entry.info.size == 4));
        after = page.last().map(|entry| entry.digest);
        seen.extend(page.iter().map(|entry| entry.digest));
        if page.len() < 700 {
            break;
        }
    }
    assert!(seen == digests, "{} seen", seen.len());
}

/// A replica dies while it makes a blob of many parts: nothing torn is seen, and what it left goes with the upload.
#[test]
fn what_a_stopped_publication_left_goes_with_the_upload() {
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    let main = runtime();
    let mut server = Server::start();
    let storage = server.storage();
    let whole = content(7, 30 * MIB);
    let digest = Digest::of(&whole);
    let id = UploadId::random(&SystemRandom);
    let staged: Staged = main.block_on(async {
        storage.upload_create(&id).await.expect("begun");
        let hasher = Hasher::new(Algorithm::Sha256);
        let done = storage.upload_append(&id, 0, hasher, body(whole)).await.expect("appended");
        storage.upload_finish(&id, &done).await.expect("finished")
    });
    for millis in [1, 5, 10, 20, 40, 80] {
        // With its runtime everything of the replica stops; the server is killed too, so that no request of its is left.
        let replica = runtime();
        let other = server.storage();
        let _ = replica.block_on(async {
            tokio::time::timeout(Duration::from_millis(millis), other.publish(&staged, &digest))
                .await
        });
        replica.shutdown_timeout(Duration::from_secs(10));
        server.kill();
        server.launch();
        let found = main.block_on(storage.stat(&digest)).expect("readable");
        assert!(found.is_none_or(|found| found.size == staged.size), "{found:?}");
    }
    main.block_on(async {
        let listed = storage.uploads(None, 10).await.expect("listed");
        assert_eq!((listed.len(), listed[0].size), (1, staged.size));
        storage.upload_abort(&id).await.expect("removed");
        assert!(storage.uploads(None, 10).await.expect("listed").is_empty());
        storage.delete(&digest).await.expect("deleted");
    });
    // What this server was making when it was killed, it leaves to its own administrator.
    let mut left = files(&server.bucket());
    left.retain(|file| !file.contains(".inprogress/"));
    assert!(left.is_empty(), "{left:?}");
}
