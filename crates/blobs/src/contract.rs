//! What every blob storage must do, as a suite that an engine's own tests run on an empty storage. Each check panics with
//! what was expected; it is meant for tests only.

use std::sync::Arc;

use bytes::Bytes;
use dtr_types::{Algorithm, Digest, Hasher, Random as _, SeededRandom, UploadId};
use futures_util::{StreamExt as _, stream};

use crate::{Appended, BlobError, BlobStorage, BoxError, ByteStream, Staged, body, empty_body};

/// A storage under test, and a source of ids and content.
pub struct Contract {
    storage: Arc<dyn BlobStorage>,
    random: SeededRandom,
}

/// Runs all of it on `storage`, which must be empty and is empty again afterwards.
pub async fn run(storage: Arc<dyn BlobStorage>) {
    let contract = Contract { storage, random: SeededRandom::new(7) };
    contract.missing_blobs_are_told().await;
    contract.put_and_read_back().await;
    contract.ranges().await;
    contract.wrong_bytes_leave_nothing().await;
    contract.uploads_in_parts().await;
    contract.uploads_continue_where_they_stopped().await;
    contract.finished_uploads_are_closed().await;
    contract.finished_uploads_can_be_opened_again().await;
    contract.publication_can_be_repeated().await;
    contract.publications_of_one_digest_at_once().await;
    contract.one_writer_at_a_time().await;
    contract.lists_are_paged_in_order().await;
    contract.removals_take_what_was_set_aside().await;
    contract.empty_again().await;
}

/// A body of these frames.
pub fn frames(frames: Vec<Bytes>) -> ByteStream {
    stream::iter(frames.into_iter().map(Ok)).boxed()
}

/// A body that breaks off after these frames.
pub fn broken(frames: Vec<Bytes>) -> ByteStream {
    let cut = stream::once(async { Err(BoxError::from("connection reset")) });
    stream::iter(frames.into_iter().map(Ok)).chain(cut).boxed()
}

/// What an upload of this content has come to.
fn whole(content: &[u8]) -> Appended {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(content);
    Appended { size: content.len() as u64, hasher }
}

impl Contract {
    fn id(&self) -> UploadId {
        UploadId::random(&self.random)
    }

    fn content(&self, size: usize) -> Bytes {
        let mut content = vec![0; size];
        self.random.fill(&mut content);
        content.into()
    }

    async fn begin(&self) -> UploadId {
        let id = self.id();
        self.storage.upload_create(&id).await.expect("a new upload");
        id
    }

    async fn stage(&self, content: &Bytes) -> Staged {
        let id = self.begin().await;
        let hasher = Hasher::new(Algorithm::Sha256);
        let done = self.storage.upload_append(&id, 0, hasher, body(content.clone())).await;
        let done = done.expect("appended");
        assert_eq!(done.size, content.len() as u64);
        assert_eq!(done.hasher.clone().finish(), Digest::of(content));
        self.storage.upload_finish(&id, &done).await.expect("finished")
    }

    async fn read(&self, digest: &Digest) -> Bytes {
        let reader = self.storage.read(digest, None).await.expect("stored");
        assert_eq!(reader.len(), reader.size());
        reader.bytes().await.expect("readable")
    }

    async fn remove(&self, digest: &Digest) {
        assert!(self.storage.delete(digest).await.expect("deletable"), "{digest} was stored");
        assert!(!self.storage.delete(digest).await.expect("deletable"), "{digest} is gone");
        assert!(self.storage.stat(digest).await.expect("readable").is_none());
    }

    async fn missing_blobs_are_told(&self) {
        let digest = Digest::of(b"never stored");
        assert!(self.storage.stat(&digest).await.expect("readable").is_none());
        let read = self.storage.read(&digest, None).await;
        assert!(matches!(read, Err(BlobError::NotFound(d)) if d == digest), "{read:?}");
        assert!(!self.storage.delete(&digest).await.expect("no error"));
        let (id, hasher) = (self.id(), Hasher::new(Algorithm::Sha256));
        let append = self.storage.upload_append(&id, 0, hasher, empty_body());
        let append = append.await.map_err(BlobError::from);
        assert!(matches!(append, Err(BlobError::UploadNotFound(_))), "{append:?}");
        let finish = self.storage.upload_finish(&self.id(), &whole(b"")).await;
        assert!(matches!(finish, Err(BlobError::UploadNotFound(_))), "{finish:?}");
        let staged = Staged { id: self.id(), size: 0, hash: digest };
        let publish = self.storage.publish(&staged, &digest).await;
        assert!(matches!(publish, Err(BlobError::UploadNotFound(_))), "{publish:?}");
        self.storage.upload_abort(&self.id()).await.expect("without effect");
        assert!(self.storage.health().await.is_writable());
    }

    async fn removals_take_what_was_set_aside(&self) {
        let content = self.content(70_000);
        let digest = Digest::of(&content);
        let storage = &self.storage;
        storage.put(&digest, None, body(content.clone())).await.expect("stored");
        // It stays: readable all the time, and in its place again.
        let aside = storage.set_aside(&digest).await.expect("set aside");
        assert_eq!(self.read(&digest).await, content);
        assert!(storage.stat(&digest).await.expect("readable").is_some());
        storage.put_back(aside.clone()).await.expect("put back");
        storage.put_back(aside).await.expect("once more, without effect");
        assert_eq!(storage.list(None, 10).await.expect("a list").len(), 1);
        // Whoever set it aside never came back.
        storage.set_aside(&digest).await.expect("set aside");
        storage.put_back_all().await.expect("put back");
        assert_eq!(storage.list(None, 10).await.expect("a list").len(), 1);
        assert_eq!(self.read(&digest).await, content);
        // It goes.
        let aside = storage.set_aside(&digest).await.expect("set aside");
        assert!(storage.remove_aside(aside).await.expect("removed"));
        assert!(storage.stat(&digest).await.expect("readable").is_none());
        let read = storage.read(&digest, None).await;
        assert!(matches!(read, Err(BlobError::NotFound(_))), "{read:?}");
        let nothing = storage.set_aside(&digest).await.expect("there is nothing");
        storage.put_back(nothing).await.expect("so nothing comes back");
        assert!(storage.stat(&digest).await.expect("readable").is_none());
        if storage.removal_settles().is_zero() {
            // However late: what was published since stays.
            storage.put(&digest, None, body(content.clone())).await.expect("stored");
            let late = storage.set_aside(&digest).await.expect("set aside");
            storage.put(&digest, None, body(content.clone())).await.expect("stored again");
            storage.remove_aside(late).await.expect("removed");
            assert_eq!(self.read(&digest).await, content);
            self.remove(&digest).await;
        }
    }

    async fn put_and_read_back(&self) {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for size in [0, 1, 65_536, 262_144, 262_145, 1_500_000] {
                let content = self.content(size);
                let digest = Digest::with(algorithm, &content);
                for told in [None, Some(size as u64)] {
                    let stored = self.storage.put(&digest, told, body(content.clone())).await;
                    assert_eq!(stored.expect("stored"), size as u64);
                }
                let info = self.storage.stat(&digest).await.expect("readable").expect("stored");
                assert_eq!(info.size, size as u64);
                assert_eq!(self.read(&digest).await, content);
                self.remove(&digest).await;
            }
        }
    }

    async fn ranges(&self) {
        let size = 700_000u64;
        let content = self.content(size as usize);
        let digest = Digest::of(&content);
        self.storage.put(&digest, None, body(content.clone())).await.expect("stored");
        let inside = [
            (0, 1, 1),
            (0, size, size),
            (size - 1, size, size),
            (262_143, 262_145, 262_145),
            (100, 600_000, 600_000),
            (699_000, u64::MAX, size),
            (5, 5, 5),
            (size, size, size),
        ];
        for (start, end, cut) in inside {
            let reader = self.storage.read(&digest, Some(start..end)).await.expect("inside");
            assert_eq!((reader.size(), reader.range()), (size, start..cut));
            let bytes = reader.bytes().await.expect("readable");
            assert_eq!(bytes, content[start as usize..cut as usize], "{start}..{end}");
        }
        #[expect(clippy::reversed_empty_ranges, reason = "that is what must be refused")]
        for outside in [size..size + 1, size + 1..size + 1, 9..8, u64::MAX..u64::MAX] {
            let read = self.storage.read(&digest, Some(outside.clone())).await;
            assert!(matches!(read, Err(BlobError::Range { .. })), "{outside:?}: {read:?}");
        }
        self.remove(&digest).await;
        let empty = Digest::of(b"");
        self.storage.put(&empty, None, empty_body()).await.expect("stored");
        let first = self.storage.read(&empty, Some(0..1)).await;
        assert!(matches!(first, Err(BlobError::Range { size: 0, .. })), "{first:?}");
        self.remove(&empty).await;
    }

    async fn wrong_bytes_leave_nothing(&self) {
        let digest = Digest::of(b"promised");
        let put = self.storage.put(&digest, None, body("something else")).await;
        assert!(matches!(put, Err(BlobError::Mismatch { .. })), "{put:?}");
        let put = self.storage.put(&digest, Some(8), body("promised and more")).await;
        assert!(matches!(put, Err(BlobError::Size { expected: 8, .. })), "{put:?}");
        let put = self.storage.put(&digest, Some(8), body("promise")).await;
        assert!(matches!(put, Err(BlobError::Size { actual: 7, .. })), "{put:?}");
        let put = self.storage.put(&digest, Some(8), broken(vec!["prom".into()])).await;
        assert!(matches!(put, Err(BlobError::Body(_))), "{put:?}");
        assert!(self.storage.stat(&digest).await.expect("readable").is_none());
        assert!(self.storage.uploads(None, 10).await.expect("listed").is_empty());
    }

    async fn uploads_in_parts(&self) {
        let content = self.content(1_300_000);
        let digest = Digest::with(Algorithm::Sha512, &content);
        let id = self.begin().await;
        let again = self.storage.upload_create(&id).await;
        assert!(matches!(again, Err(BlobError::UploadExists(_))), "{again:?}");
        let mut at = 0;
        let mut saved = Hasher::new(Algorithm::Sha512).save();
        for part in [0..0, 0..1, 1..1_000_001, 1_000_001..1_300_000] {
            let pieces: Vec<Bytes> = content
                .slice(part)
                .chunks(7_919)
                .flat_map(|piece| [Bytes::copy_from_slice(piece), Bytes::new()])
                .collect();
            let hasher = Hasher::resume(&saved).expect("own state");
            let done = self.storage.upload_append(&id, at, hasher, frames(pieces)).await;
            let done = done.expect("appended");
            (at, saved) = (done.size, done.hasher.save());
        }
        let hasher = Hasher::resume(&saved).expect("own state");
        assert_eq!(hasher.clone().finish(), digest);
        let all = Appended { size: at, hasher };
        let staged = self.storage.upload_finish(&id, &all).await.expect("finished");
        assert_eq!(staged, Staged { id: id.clone(), size: at, hash: digest });
        let wrong = self.storage.publish(&staged, &Digest::with(Algorithm::Sha512, b"else")).await;
        assert!(matches!(wrong, Err(BlobError::Mismatch { .. })), "{wrong:?}");
        let wrong = self.storage.publish(&staged, &Digest::of(b"else")).await;
        assert!(matches!(wrong, Err(BlobError::Mismatch { .. })), "{wrong:?}");
        assert!(self.storage.stat(&digest).await.expect("readable").is_none());
        self.storage.publish(&staged, &digest).await.expect("published");
        assert_eq!(self.read(&digest).await, content);
        self.storage.upload_abort(&id).await.expect("removed");
        assert_eq!(self.read(&digest).await, content, "a blob outlives its upload");
        self.remove(&digest).await;
    }

    async fn uploads_continue_where_they_stopped(&self) {
        let content = self.content(900_000);
        let id = self.begin().await;
        let first = broken(vec![content.slice(..300_000), content.slice(300_000..600_000)]);
        let hasher = Hasher::new(Algorithm::Sha256);
        let cut = self.storage.upload_append(&id, 0, hasher, first).await.expect_err("cut");
        assert!(matches!(cut.error, BlobError::Body(_)), "{cut:?}");
        let kept = cut.kept.expect("what arrived is kept");
        assert_eq!(kept.size, 600_000);
        assert_eq!(kept.hasher.clone().finish(), Digest::of(&content[..600_000]));
        // What was appended without being recorded is dropped.
        let garbage = self.storage.upload_append(&id, 600_000, kept.hasher.clone(), body("xyz"));
        garbage.await.expect("appended");
        let rest = body(content.slice(600_000..));
        let done = self.storage.upload_append(&id, 600_000, kept.hasher, rest).await;
        let done = done.expect("appended");
        assert_eq!(done.size, 900_000);
        assert_eq!(done.hasher.clone().finish(), Digest::of(&content));
        let gap = self.storage.upload_append(&id, 900_001, done.hasher.clone(), body("x")).await;
        let gap = gap.map_err(BlobError::from);
        assert!(matches!(gap, Err(BlobError::Offset { present: 900_000, .. })), "{gap:?}");
        let more = Appended { size: 900_001, hasher: done.hasher.clone() };
        let more = self.storage.upload_finish(&id, &more).await;
        assert!(matches!(more, Err(BlobError::Offset { present: 900_000, .. })), "{more:?}");
        // The same before the end.
        self.storage
            .upload_append(&id, 900_000, done.hasher.clone(), body("unrecorded"))
            .await
            .expect("appended");
        let staged = self.storage.upload_finish(&id, &done).await.expect("finished");
        let digest = Digest::of(&content);
        self.storage.publish(&staged, &digest).await.expect("published");
        self.storage.upload_abort(&id).await.expect("removed");
        assert_eq!(self.read(&digest).await, content);
        self.remove(&digest).await;
    }

    async fn finished_uploads_are_closed(&self) {
        let content = self.content(1000);
        let staged = self.stage(&content).await;
        let hasher = Hasher::new(Algorithm::Sha256);
        let late = self.storage.upload_append(&staged.id, 1000, hasher, body("late")).await;
        let late = late.map_err(BlobError::from);
        assert!(matches!(late, Err(BlobError::UploadNotFound(_))), "{late:?}");
        let again = self.storage.upload_finish(&staged.id, &whole(&content)).await;
        let again = again.expect("may be repeated");
        assert_eq!(again, staged);
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let digest = self.storage.staged_digest(&staged, algorithm).await.expect("hashed");
            assert_eq!(digest, Digest::with(algorithm, &content));
        }
        let listed = self.storage.uploads(None, 10).await.expect("listed");
        assert_eq!(listed.len(), 1);
        assert!(listed[0].staged && listed[0].id == staged.id && listed[0].size == 1000);
        self.storage.upload_abort(&staged.id).await.expect("removed");
        let gone = self.storage.staged_digest(&staged, Algorithm::Sha512).await;
        assert!(matches!(gone, Err(BlobError::UploadNotFound(_))), "{gone:?}");
        assert!(self.storage.uploads(None, 10).await.expect("listed").is_empty());
    }

    /// As after a crash between the finish, or the publication, and the commit.
    async fn finished_uploads_can_be_opened_again(&self) {
        let content = self.content(700_000);
        for (at, published) in [(0, false), (600_000, false), (600_000, true), (700_000, true)] {
            let staged = self.stage(&content).await;
            let (id, digest) = (&staged.id, Digest::of(&content));
            if published {
                self.storage.publish(&staged, &digest).await.expect("published");
            }
            let more = self.storage.upload_reopen(id, 700_001).await;
            assert!(matches!(more, Err(BlobError::Offset { present: 700_000, .. })), "{more:?}");
            let mut hasher = Hasher::new(Algorithm::Sha256);
            hasher.update(&content[..at]);
            let other = self.content(300_000);
            match self.storage.upload_reopen(id, at as u64).await {
                // Where the staged bytes went with the publication, the upload begins anew.
                Err(BlobError::UploadNotFound(_)) if published => {}
                reopened => {
                    reopened.expect("opened again");
                    self.storage.upload_reopen(id, at as u64).await.expect("without effect");
                    let end =
                        self.storage.upload_append(id, at as u64, hasher, body(other.clone()));
                    let end = end.await.expect("appended");
                    let whole = [&content[..at], &other].concat();
                    let second = Digest::of(&whole);
                    assert_eq!(end.hasher.clone().finish(), second);
                    let staged = self.storage.upload_finish(id, &end).await.expect("finished");
                    self.storage.publish(&staged, &second).await.expect("published");
                    assert_eq!(self.read(&second).await, whole);
                    self.remove(&second).await;
                }
            }
            if published {
                assert_eq!(
                    self.read(&digest).await,
                    content,
                    "what was published stays what it was"
                );
                self.remove(&digest).await;
            }
            self.storage.upload_abort(id).await.expect("removed");
        }
        let none = self.storage.upload_reopen(&UploadId::random(&self.random), 0).await;
        assert!(matches!(none, Err(BlobError::UploadNotFound(_))), "{none:?}");
        assert!(self.storage.uploads(None, 10).await.expect("listed").is_empty());
    }

    async fn publication_can_be_repeated(&self) {
        let content = self.content(5000);
        let digest = Digest::of(&content);
        let staged = self.stage(&content).await;
        self.storage.publish(&staged, &digest).await.expect("published");
        self.storage.publish(&staged, &digest).await.expect("published again");
        // The collector took it: the upload still has the bytes.
        self.remove(&digest).await;
        self.storage.publish(&staged, &digest).await.expect("published once more");
        self.storage.upload_abort(&staged.id).await.expect("removed");
        assert_eq!(self.read(&digest).await, content);
        // What is there under the name is replaced.
        let second = self.stage(&content).await;
        self.storage.publish(&second, &digest).await.expect("replaced");
        self.storage.upload_end(&second).await.expect("removed");
        self.storage.upload_end(&second).await.expect("without effect");
        assert_eq!(self.read(&digest).await, content);
        assert!(self.storage.uploads(None, 10).await.expect("listed").is_empty());
        self.remove(&digest).await;
    }

    async fn publications_of_one_digest_at_once(&self) {
        let content = self.content(20_000);
        let digest = Digest::of(&content);
        let mut tasks = Vec::new();
        for n in 0..8 {
            let staged = self.stage(&content).await;
            let storage = Arc::clone(&self.storage);
            tasks.push(tokio::spawn(async move {
                if n % 4 == 3 {
                    storage.delete(&digest).await.expect("deletable");
                }
                storage.publish(&staged, &digest).await.expect("published");
                storage.upload_abort(&staged.id).await.expect("removed");
            }));
        }
        for task in tasks {
            task.await.expect("no panic");
        }
        // The last one that published did so after every deletion, or its own.
        self.storage.put(&digest, None, body(content.clone())).await.expect("stored");
        assert_eq!(self.read(&digest).await, content);
        self.remove(&digest).await;
    }

    async fn one_writer_at_a_time(&self) {
        let id = self.begin().await;
        let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
        let slow = stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|bytes| (Ok(bytes), receiver))
        });
        let storage = Arc::clone(&self.storage);
        let first = {
            let (id, hasher) = (id.clone(), Hasher::new(Algorithm::Sha256));
            tokio::spawn(async move { storage.upload_append(&id, 0, hasher, slow.boxed()).await })
        };
        // Large enough that it is handed to the engine while the body goes on.
        let content = self.content(6 * 1024 * 1024);
        for frame in content.chunks(1024 * 1024) {
            sender.send(Bytes::copy_from_slice(frame)).await.expect("received");
        }
        let second =
            self.storage.upload_append(&id, 0, Hasher::new(Algorithm::Sha256), body("another"));
        let second = second.await.map_err(BlobError::from);
        assert!(matches!(second, Err(BlobError::UploadBusy(_))), "{second:?}");
        let finish = self.storage.upload_finish(&id, &whole(b"")).await;
        assert!(matches!(finish, Err(BlobError::UploadBusy(_))), "{finish:?}");
        drop(sender);
        let first = first.await.expect("no panic").expect("appended");
        assert_eq!(first.hasher.finish(), Digest::of(&content));
        self.storage.upload_abort(&id).await.expect("removed");
    }

    async fn lists_are_paged_in_order(&self) {
        let mut digests = Vec::new();
        for n in 0..40u8 {
            let algorithm = if n % 4 == 0 { Algorithm::Sha512 } else { Algorithm::Sha256 };
            let digest = Digest::with(algorithm, &[n]);
            self.storage.put(&digest, Some(1), body(vec![n])).await.expect("stored");
            digests.push(digest);
        }
        digests.sort();
        let mut ids = Vec::new();
        for _ in 0..7 {
            ids.push(self.begin().await);
        }
        ids.sort();
        for limit in [1, 3, 40, 100] {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = self.storage.list(after.as_ref(), limit).await.expect("listed");
                assert!(page.iter().all(|entry| entry.info.size == 1));
                after = page.last().map(|entry| entry.digest);
                seen.extend(page.iter().map(|entry| entry.digest));
                if page.len() < limit {
                    break;
                }
            }
            assert_eq!(seen, digests, "pages of {limit}");
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = self.storage.uploads(after.as_ref(), limit).await.expect("listed");
                after = page.last().map(|entry| entry.id.clone());
                seen.extend(page.iter().map(|entry| entry.id.clone()));
                if page.len() < limit {
                    break;
                }
            }
            assert_eq!(seen, ids, "pages of {limit}");
        }
        for digest in &digests {
            self.remove(digest).await;
        }
        for id in &ids {
            self.storage.upload_abort(id).await.expect("removed");
        }
    }

    async fn empty_again(&self) {
        assert!(self.storage.list(None, 10).await.expect("listed").is_empty());
        assert!(self.storage.uploads(None, 10).await.expect("listed").is_empty());
    }
}
