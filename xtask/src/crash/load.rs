//! What one client does until its connection breaks: pushes in all their forms, tags that move, deletions.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use dtr_types::Digest;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{
    state::{Doubt, Held, Repository, Worker, content},
    wire::{Answer, Lost, Wire},
};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const BYTES: &str = "application/octet-stream";
/// Names that tags of a repository have.
const TAGS: u64 = 40;
/// Layers that several clients push at once.
const SHARED: u64 = 60;
/// Blobs that are remembered for mounting.
const MOUNTABLE: usize = 40;

/// What all clients share.
#[derive(Clone)]
pub struct Load {
    pub wire: Wire,
    pub round: u32,
    pub counted: Arc<Counted>,
    /// Blobs that were acknowledged lately, with their repository.
    pub mountable: Arc<Mutex<Vec<(String, Digest)>>>,
}

/// Acknowledgements, by what they acknowledge.
#[derive(Default)]
pub struct Counted {
    pub blobs: AtomicU64,
    pub mounts: AtomicU64,
    pub chunks: AtomicU64,
    pub manifests: AtomicU64,
    pub deletions: AtomicU64,
    pub repositories: AtomicU64,
}

pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counted {
    /// All of them.
    pub fn acknowledged(&self) -> u64 {
        [
            &self.blobs,
            &self.mounts,
            &self.chunks,
            &self.manifests,
            &self.deletions,
            &self.repositories,
        ]
        .iter()
        .map(|counter| counter.load(Ordering::Relaxed))
        .sum()
    }
}

/// Why a client stopped.
pub enum End {
    /// The connection broke, as it should.
    Broken,
    /// An answer that it should not have got.
    Refused(String),
}

impl From<Lost> for End {
    fn from(_: Lost) -> Self {
        Self::Broken
    }
}

fn expect(answer: Answer, status: u16, what: &str) -> Result<Answer, End> {
    if answer.is(status) {
        Ok(answer)
    } else {
        Err(End::Refused(format!("{what}: expected {status}, got {}", answer.text())))
    }
}

fn descriptor(media_type: &str, digest: &Digest, size: usize) -> Value {
    json!({ "mediaType": media_type, "digest": digest, "size": size })
}

impl Load {
    /// Works until something ends it.
    pub async fn work(&self, worker: &mut Worker) -> End {
        loop {
            if let Err(end) = self.one(worker).await {
                return end;
            }
        }
    }

    async fn one(&self, worker: &mut Worker) -> Result<(), End> {
        let at = worker.dice.index(worker.repositories.len());
        match worker.dice.below(100) {
            _ if worker.repositories.is_empty() => self.create(worker, "main").await,
            0..50 => self.image(worker, at, None).await.map(drop),
            50..58 => self.index(worker, at).await,
            58..66 => self.artifact(worker, at).await,
            66..72 => self.again(worker, at).await,
            72..80 => self.delete_tag(worker, at).await,
            80..89 => self.delete_manifest(worker, at).await,
            89..94 => self.lonely_blob(worker, at).await,
            94..97 if worker.repositories.len() < 3 => {
                let name = format!("side{}", worker.dice.below(3));
                self.create(worker, &name).await
            }
            97..100 if at > 0 => self.delete(worker, at).await,
            _ => self.image(worker, at, None).await.map(drop),
        }
    }

    async fn create(&self, worker: &mut Worker, name: &str) -> Result<(), End> {
        let name = format!("w{}-{name}", worker.number);
        let full = format!("admin/{name}");
        if worker.at(&full).is_some() {
            return Ok(());
        }
        worker.doubt = Some(Doubt::Create { repository: full.clone() });
        let body = json!({ "name": name, "visibility": "private" });
        let answer = self.wire.post("/api/v0/repositories/admin", &body).await?;
        expect(answer, 201, "the making of a repository")?;
        worker.doubt = None;
        worker.gone.remove(&full);
        worker.repositories.push(Repository::new(&full));
        count(&self.counted.repositories);
        Ok(())
    }

    async fn delete(&self, worker: &mut Worker, at: usize) -> Result<(), End> {
        let name = worker.repositories[at].name.clone();
        worker.doubt = Some(Doubt::Delete { repository: name.clone() });
        let answer = self.wire.delete(&format!("/api/v0/repositories/{name}")).await?;
        expect(answer, 204, "the deletion of a repository")?;
        worker.doubt = None;
        worker.repositories.remove(at);
        self.mountable.lock().await.retain(|(repository, _)| *repository != name);
        worker.gone.insert(name);
        count(&self.counted.repositories);
        Ok(())
    }

    /// A blob that somebody pushes, in one of the ways there are.
    async fn blob(&self, worker: &mut Worker, at: usize, bytes: &Bytes) -> Result<Digest, End> {
        let digest = Digest::of(bytes);
        let start = worker.repositories[at].path("blobs", "uploads/");
        match worker.dice.below(4) {
            0 => {
                let path = format!("{start}?digest={digest}");
                let sent = self.wire.send(Method::POST, &path, Some(BYTES), Some(bytes.clone()));
                expect(sent.await?, 201, "an upload in one request")?;
            }
            1 => {
                let begun = self.wire.send(Method::POST, &start, None, None).await?;
                let begun = expect(begun, 202, "the beginning of an upload")?;
                self.finish(begun.header("location"), &digest, bytes.clone()).await?;
            }
            _ => self.chunks(worker, at, &start, bytes).await?,
        }
        worker.repositories[at].has_blob(digest);
        count(&self.counted.blobs);
        let mut mountable = self.mountable.lock().await;
        if mountable.len() >= MOUNTABLE {
            mountable.remove(0);
        }
        mountable.push((worker.repositories[at].name.clone(), digest));
        Ok(digest)
    }

    /// The end of an upload.
    pub async fn finish(&self, location: &str, digest: &Digest, rest: Bytes) -> Result<(), End> {
        let joint = if location.contains('?') { '&' } else { '?' };
        let path = format!("{location}{joint}digest={digest}");
        let sent = self.wire.send(Method::PUT, &path, Some(BYTES), Some(rest)).await?;
        expect(sent, 201, "the end of an upload").map(drop)
    }

    async fn chunks(
        &self,
        worker: &mut Worker,
        at: usize,
        start: &str,
        bytes: &Bytes,
    ) -> Result<(), End> {
        let begun = self.wire.send(Method::POST, start, None, None).await?;
        let begun = expect(begun, 202, "the beginning of an upload")?;
        let mut location = begun.header("location").to_owned();
        let (mut arrived, parts) = (0, worker.dice.below(3) + 1);
        let step = bytes.len() / (usize::try_from(parts).unwrap_or(1) + 1) + 1;
        let repository = worker.repositories[at].name.clone();
        loop {
            worker.doubt = Some(Doubt::Upload {
                repository: repository.clone(),
                location: location.clone(),
                content: bytes.clone(),
                arrived: arrived as u64,
            });
            let end = (arrived + step).min(bytes.len());
            if end == bytes.len() {
                break;
            }
            let part = bytes.slice(arrived..end);
            let sent = self.wire.send(Method::PATCH, &location, Some(BYTES), Some(part)).await?;
            let sent = expect(sent, 202, "a chunk")?;
            location = sent.header("location").to_owned();
            arrived = end;
            count(&self.counted.chunks);
        }
        self.finish(&location, &Digest::of(bytes), bytes.slice(arrived..)).await?;
        worker.doubt = None;
        Ok(())
    }

    /// A blob from somebody else's repository; `None` when it could not be mounted.
    async fn mount(&self, worker: &mut Worker, at: usize) -> Result<Option<Digest>, End> {
        let picked = {
            let mountable = self.mountable.lock().await;
            mountable.get(worker.dice.index(mountable.len())).cloned()
        };
        let Some((from, digest)) = picked else { return Ok(None) };
        let start = worker.repositories[at].path("blobs", "uploads/");
        let path = format!("{start}?mount={digest}&from={from}");
        let answer = self.wire.send(Method::POST, &path, None, None).await?;
        if answer.is(202) {
            // Its owner has deleted it meanwhile.
            self.wire.delete(answer.header("location")).await?;
            return Ok(None);
        }
        expect(answer, 201, "a mount")?;
        worker.repositories[at].has_blob(digest);
        count(&self.counted.mounts);
        Ok(Some(digest))
    }

    async fn layer(&self, worker: &mut Worker, at: usize) -> Result<(Digest, usize), End> {
        if worker.dice.percent(20)
            && let Some(digest) = self.mount(worker, at).await?
        {
            let path = worker.repositories[at].path("blobs", digest);
            let found = self.wire.head(&path).await?;
            let found = expect(found, 200, "a mounted blob")?;
            if let Ok(size) = found.header("content-length").parse() {
                return Ok((digest, size));
            }
        }
        let number = if worker.dice.percent(40) {
            worker.dice.below(SHARED)
        } else {
            worker.made += 1;
            (worker.number as u64 + 1) << 40 | worker.made
        };
        let size = 100 + usize::try_from(number % 7).unwrap_or(0) * 9_973;
        let bytes = content(number, size);
        Ok((self.blob(worker, at, &bytes).await?, size))
    }

    async fn config(&self, worker: &mut Worker, at: usize) -> Result<(Digest, usize), End> {
        worker.made += 1;
        let made = format!("{}-{}", worker.number, worker.made);
        let text = json!({ "os": "linux", "architecture": "amd64", "made": made }).to_string();
        let size = text.len();
        Ok((self.blob(worker, at, &text.into()).await?, size))
    }

    /// An image with one to three layers, perhaps about another manifest.
    async fn image(
        &self,
        worker: &mut Worker,
        at: usize,
        subject: Option<(Digest, usize)>,
    ) -> Result<(Digest, usize), End> {
        let config = self.config(worker, at).await?;
        let mut blobs = vec![config.0];
        let mut layers = Vec::new();
        for _ in 0..worker.dice.below(3) + 1 {
            let (digest, size) = self.layer(worker, at).await?;
            layers.push(descriptor(LAYER, &digest, size));
            blobs.push(digest);
        }
        let config = descriptor(CONFIG, &config.0, config.1);
        let mut manifest =
            json!({ "schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": layers });
        if let Some((digest, size)) = &subject {
            manifest["subject"] = descriptor(IMAGE, digest, *size);
            manifest["artifactType"] = json!("application/x.signature");
        }
        let held = Held {
            body: manifest.to_string().into(),
            media_type: IMAGE,
            blobs,
            subject: subject.map(|(digest, _)| digest),
            round: self.round,
        };
        let size = held.body.len();
        Ok((self.push(worker, at, held).await?, size))
    }

    async fn index(&self, worker: &mut Worker, at: usize) -> Result<(), End> {
        let mut children = Vec::new();
        for _ in 0..2 {
            let (digest, size) = self.image(worker, at, None).await?;
            children.push(descriptor(IMAGE, &digest, size));
        }
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": children });
        let held = Held {
            body: index.to_string().into(),
            media_type: INDEX,
            blobs: Vec::new(),
            subject: None,
            round: self.round,
        };
        self.push(worker, at, held).await.map(drop)
    }

    async fn artifact(&self, worker: &mut Worker, at: usize) -> Result<(), End> {
        let manifests = &worker.repositories[at].manifests;
        let of = worker.dice.index(manifests.len());
        let subject = manifests.iter().nth(of).map(|(digest, held)| (*digest, held.body.len()));
        self.image(worker, at, subject).await.map(drop)
    }

    /// An image that is there already gets another tag.
    async fn again(&self, worker: &mut Worker, at: usize) -> Result<(), End> {
        let manifests = &worker.repositories[at].manifests;
        let which = worker.dice.index(manifests.len());
        let held = manifests.values().filter(|held| held.media_type == IMAGE).nth(which).cloned();
        match held {
            Some(held) => self.push(worker, at, Held { round: self.round, ..held }).await.map(drop),
            None => Ok(()),
        }
    }

    /// By one tag, by digest with some tags, or by digest alone.
    async fn push(&self, worker: &mut Worker, at: usize, held: Held) -> Result<Digest, End> {
        let digest = Digest::of(&held.body);
        let repository = worker.repositories[at].name.clone();
        let mut tags = Vec::new();
        let many = worker.dice.below(10);
        for _ in 0..if many < 7 { 1 } else { 9 - many } {
            let tag = format!("t{}", worker.dice.below(TAGS));
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        let path = if many < 7 {
            worker.repositories[at].path("manifests", &tags[0])
        } else {
            let query: Vec<String> = tags.iter().map(|tag| format!("tag={tag}")).collect();
            worker.repositories[at].path("manifests", format!("{digest}?{}", query.join("&")))
        };
        worker.doubt =
            Some(Doubt::Push { repository, digest, held: held.clone(), tags: tags.clone() });
        let sent =
            self.wire.send(Method::PUT, &path, Some(held.media_type), Some(held.body.clone()));
        expect(sent.await?, 201, "the push of a manifest")?;
        worker.doubt = None;
        worker.repositories[at].has_manifest(digest, &held, &tags);
        count(&self.counted.manifests);
        Ok(digest)
    }

    async fn delete_tag(&self, worker: &mut Worker, at: usize) -> Result<(), End> {
        let tags = &worker.repositories[at].tags;
        let Some(tag) = tags.keys().nth(worker.dice.index(tags.len())).cloned() else {
            return Ok(());
        };
        let repository = worker.repositories[at].name.clone();
        worker.doubt = Some(Doubt::DeleteTag { repository, tag: tag.clone() });
        let path = worker.repositories[at].path("manifests", &tag);
        expect(self.wire.delete(&path).await?, 202, "the deletion of a tag")?;
        worker.doubt = None;
        worker.repositories[at].tags.remove(&tag);
        count(&self.counted.deletions);
        Ok(())
    }

    async fn delete_manifest(&self, worker: &mut Worker, at: usize) -> Result<(), End> {
        let manifests = &worker.repositories[at].manifests;
        let picked = manifests.keys().nth(worker.dice.index(manifests.len())).copied();
        let Some(digest) = picked else { return Ok(()) };
        let repository = worker.repositories[at].name.clone();
        worker.doubt = Some(Doubt::DeleteManifest { repository, digest });
        let path = worker.repositories[at].path("manifests", digest);
        let sent = self.wire.delete(&path).await?;
        // What an index lists stays with it.
        if worker.repositories[at].is_listed(&digest) {
            expect(sent, 403, "the deletion of a manifest that an index lists")?;
            worker.doubt = None;
            return Ok(());
        }
        expect(sent, 202, "the deletion of a manifest")?;
        worker.doubt = None;
        worker.repositories[at].lost_manifest(&digest, self.round);
        count(&self.counted.deletions);
        Ok(())
    }

    /// A blob that no manifest needs; some are deleted again.
    async fn lonely_blob(&self, worker: &mut Worker, at: usize) -> Result<(), End> {
        worker.made += 1;
        let number = (worker.number as u64 + 1) << 50 | worker.made;
        let digest = self.blob(worker, at, &content(number, 150_000)).await?;
        if worker.dice.percent(50) {
            return Ok(());
        }
        self.mountable.lock().await.retain(|(_, blob)| *blob != digest);
        let repository = worker.repositories[at].name.clone();
        worker.doubt = Some(Doubt::DeleteBlob { repository, digest });
        let path = worker.repositories[at].path("blobs", digest);
        expect(self.wire.delete(&path).await?, 202, "the deletion of a blob")?;
        worker.doubt = None;
        worker.repositories[at].blobs.remove(&digest);
        worker.repositories[at].deleted_blobs.insert(digest);
        count(&self.counted.deletions);
        Ok(())
    }
}
