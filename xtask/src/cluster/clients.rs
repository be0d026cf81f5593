//! Clients that write and read tags through all replicas, and write down what they saw.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use dtr_types::Digest;
use serde_json::json;
use tokio::sync::Mutex;

use super::{
    REPOSITORY,
    history::{Act, Operation},
};
use crate::crash::{Dice, Wire};

/// Tags that are written and read at a time.
const TAGS: usize = 4;
/// How long they are the same; then others are new.
const EPOCH: Duration = Duration::from_secs(10);
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most time between two operations of a client, in milliseconds.
const PAUSE: u64 = 60;
/// Of a hundred operations, those that write.
const WRITES: u64 = 45;
pub const OCTETS: &str = "application/octet-stream";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What all clients write down.
pub struct Log {
    began: Instant,
    pub seen: Mutex<Vec<Operation>>,
    /// Every manifest that was ever sent: its bytes, and whether it was acknowledged.
    pub sent: Mutex<Vec<(Digest, Bytes, bool)>>,
}

impl Log {
    pub fn new() -> Self {
        Self { began: Instant::now(), seen: Mutex::default(), sent: Mutex::default() }
    }

    /// Nanoseconds since the beginning.
    pub fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn epoch(&self) -> usize {
        usize::try_from(self.began.elapsed().as_secs() / EPOCH.as_secs()).unwrap_or(usize::MAX)
    }

    /// How many tags there were at most.
    pub fn tags(&self) -> usize {
        (self.epoch() + 1) * TAGS
    }

    /// A tag's name.
    pub fn name_of(number: usize) -> String {
        format!("t{}-{}", number % TAGS, number / TAGS)
    }

    /// The number of a tag; one that no tag has when it is none of ours.
    pub fn number_of(name: &str) -> usize {
        let parts = name.strip_prefix('t').and_then(|rest| rest.split_once('-'));
        let numbers = parts.and_then(|(n, epoch)| {
            Some(epoch.parse::<usize>().ok()?.checked_mul(TAGS)? + n.parse::<usize>().ok()?)
        });
        numbers.unwrap_or(usize::MAX)
    }

    /// The number of each manifest by its digest.
    pub async fn values(&self) -> BTreeMap<String, u32> {
        let sent = self.sent.lock().await;
        let numbered = sent.iter().zip(0_u32..);
        numbered.map(|((digest, ..), number)| (digest.to_string(), number)).collect()
    }

    async fn note(&self, act: Act, began: u64, answered: bool) {
        let ended = answered.then(|| self.now());
        self.seen.lock().await.push(Operation { act, began, ended });
    }

    /// Reads a tag, and writes down what came.
    pub async fn read(&self, wire: &Wire, tag: usize) {
        let began = self.now();
        let name = Self::name_of(tag);
        let read = wire.tag(REPOSITORY, &name);
        let Ok(Ok(found)) = tokio::time::timeout(PATIENCE, read).await else {
            return;
        };
        let ended = Some(self.now());
        let value = match found {
            None => None,
            Some(digest) => {
                let sent = self.sent.lock().await;
                let number = sent.iter().position(|(known, ..)| *known == digest);
                // What nobody sent is a value that no write has.
                Some(number.and_then(|n| u32::try_from(n).ok()).unwrap_or(u32::MAX))
            }
        };
        self.seen.lock().await.push(Operation { act: Act::Read(tag, value), began, ended });
    }
}

/// A repository, and a configuration that all manifests share.
pub async fn prepare(wire: &Wire) -> anyhow::Result<(Digest, usize)> {
    make_repository(wire, "history").await?;
    let config = Bytes::from_static(b"{}");
    let digest = Digest::of(&config);
    let path = format!("/v2/{REPOSITORY}/blobs/uploads/?digest={digest}");
    let pushed = wire.send(reqwest::Method::POST, &path, Some(OCTETS), Some(config.clone())).await;
    let pushed = pushed.ok().context("no answer")?;
    ensure!(pushed.is(201), "a blob: {}", pushed.text());
    Ok((digest, config.len()))
}

/// A repository of the administrator's, unless it is there.
pub async fn make_repository(wire: &Wire, name: &str) -> anyhow::Result<()> {
    let made = wire.post("/api/v0/repositories/admin", &json!({ "name": name })).await;
    let made = made.ok().context("no answer")?;
    ensure!(made.is(201) || made.is(409), "a repository: {}", made.text());
    Ok(())
}

/// A manifest without layers that no other number has.
pub fn manifest(config: &Digest, size: usize, number: &str) -> Bytes {
    let body = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": size },
        "annotations": { "number": number },
    });
    Bytes::from(body.to_string())
}

/// One client.
pub struct Client {
    pub wires: Vec<Wire>,
    pub dice: Dice,
    pub log: Arc<Log>,
    pub config: (Digest, usize),
}

impl Client {
    pub async fn run(self, until: Instant) {
        while Instant::now() < until {
            let wire = &self.wires[self.dice.index(self.wires.len())];
            let tag = self.log.epoch() * TAGS + self.dice.index(TAGS);
            match self.dice.percent(WRITES) {
                true => self.write(wire, tag).await,
                false => self.log.read(wire, tag).await,
            }
            tokio::time::sleep(Duration::from_millis(self.dice.below(PAUSE))).await;
        }
    }

    async fn write(&self, wire: &Wire, tag: usize) {
        let (config, size) = self.config;
        let (number, body) = {
            let mut sent = self.log.sent.lock().await;
            let number = u32::try_from(sent.len()).unwrap_or(u32::MAX);
            let body = manifest(&config, size, &number.to_string());
            sent.push((Digest::of(&body), body.clone(), false));
            (number, body)
        };
        let began = self.log.now();
        let path = format!("/v2/{REPOSITORY}/manifests/{}", Log::name_of(tag));
        let put = wire.send(reqwest::Method::PUT, &path, Some(MANIFEST), Some(body));
        let answered = match tokio::time::timeout(PATIENCE, put).await {
            // Any other answer may stand for one that was lost further in.
            Ok(Ok(answer)) => answer.is(201),
            Ok(Err(_)) | Err(_) => false,
        };
        self.log.note(Act::Write(tag, number), began, answered).await;
        if answered && let Some(sent) = self.log.sent.lock().await.get_mut(number as usize) {
            sent.2 = true;
        }
    }
}
