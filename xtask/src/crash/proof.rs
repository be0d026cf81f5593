//! After a crash: what was in doubt is settled, and everything acknowledged is pulled and compared.

use std::{
    collections::{BTreeSet, HashSet},
    sync::atomic::{AtomicU64, Ordering},
};

use dtr_types::Digest;

use super::{
    load::{End, Load, count},
    state::{Doubt, Repository, Worker},
    wire::Wire,
};

/// Older manifests that are looked at in each round, besides all new ones.
const OLD_SAMPLE: usize = 5;
/// Gone manifests of earlier rounds that are looked for in each round.
const GONE_SAMPLE: usize = 5;

/// What was looked at, and what was wrong with it.
#[derive(Default)]
pub struct Findings {
    pub pulled: AtomicU64,
    /// Requests without an answer that had taken effect, and those that had not.
    pub applied: AtomicU64,
    pub dropped: AtomicU64,
    /// Uploads that went on where they had stopped.
    pub resumed: AtomicU64,
    /// Blobs without a manifest that the collector removed.
    pub collected: AtomicU64,
}

/// How much is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// What this round did, and a sample of all else.
    Round(u32),
    Everything,
}

/// Of a hundred tags that have not changed, those that are looked at in each round.
const TAG_SAMPLE: u64 = 10;

type Wrong = Vec<String>;

/// One client's part.
pub async fn prove(load: &Load, worker: &mut Worker, extent: Extent, seen: &Findings) -> Wrong {
    let mut wrong = Vec::new();
    if let Some(doubt) = worker.doubt.take() {
        let settled = settle(load, worker, doubt, seen).await;
        wrong.extend(settled.err());
    }
    for at in 0..worker.repositories.len() {
        let repository = worker.repositories[at].clone();
        worker.repositories[at].touched.clear();
        if let Err(error) = check(&load.wire, worker, &repository, extent, seen).await {
            wrong.push(error);
        }
    }
    for name in &worker.gone {
        match load.wire.names(&format!("/v2/{name}/tags/list"), "tags").await {
            Ok(None) => {}
            Ok(Some(_)) => wrong.push(format!("{name} was deleted and is back")),
            Err(error) => wrong.push(error),
        }
    }
    wrong
}

/// The catalog shows every repository that there is, and no other.
pub async fn prove_catalog(wire: &Wire, workers: &[Worker]) -> Result<(), String> {
    let listed = wire.names("/v2/_catalog", "repositories").await?.unwrap_or_default();
    let mut expected: Vec<String> =
        workers.iter().flat_map(|w| w.repositories.iter().map(|r| r.name.clone())).collect();
    expected.sort();
    if listed == expected {
        Ok(())
    } else {
        Err(format!("the catalog has {listed:?}, expected {expected:?}"))
    }
}

fn decided(seen: &Findings, applied: bool) -> bool {
    count(if applied { &seen.applied } else { &seen.dropped });
    applied
}

/// Finds out whether the request took effect: wholly, or not at all.
async fn settle(
    load: &Load,
    worker: &mut Worker,
    doubt: Doubt,
    seen: &Findings,
) -> Result<(), String> {
    let wire = &load.wire;
    match doubt {
        Doubt::Push { repository, digest, held, tags } => {
            let Some(known) = worker.find(&repository) else { return Ok(()) };
            let there = wire.pull(&known.path("manifests", digest)).await?.is_some();
            let mut named = Vec::new();
            for tag in &tags {
                named.push(wire.tag(&repository, tag).await?);
            }
            let all = there && named.iter().all(|named| *named == Some(digest));
            let before =
                tags.iter().zip(&named).all(|(tag, now)| known.tags.get(tag) == now.as_ref());
            let none = before && there == known.manifests.contains_key(&digest);
            if !all && !none {
                return Err(format!(
                    "{repository}: half of the push of {digest} with {tags:?} is there: {there}, {named:?}"
                ));
            }
            if decided(seen, all) {
                known.has_manifest(digest, &held, &tags);
            }
        }
        Doubt::DeleteTag { repository, tag } => {
            let Some(known) = worker.find(&repository) else { return Ok(()) };
            if decided(seen, wire.tag(&repository, &tag).await?.is_none()) {
                known.tags.remove(&tag);
            }
        }
        Doubt::DeleteManifest { repository, digest } => {
            let Some(known) = worker.find(&repository) else { return Ok(()) };
            let there = wire.pull(&known.path("manifests", digest)).await?.is_some();
            if decided(seen, !there) {
                known.lost_manifest(&digest, load.round);
            }
        }
        Doubt::DeleteBlob { repository, digest } => {
            let Some(known) = worker.find(&repository) else { return Ok(()) };
            let there = wire.pull(&known.path("blobs", digest)).await?.is_some();
            if decided(seen, !there) {
                known.blobs.remove(&digest);
                known.deleted_blobs.insert(digest);
            }
        }
        Doubt::Upload { repository, location, content, arrived } => {
            let Some(known) = worker.find(&repository) else { return Ok(()) };
            if resume(load, known, &location, &content, arrived, seen).await? {
                known.has_blob(Digest::of(&content));
            }
        }
        Doubt::Create { repository } => {
            let there = exists(wire, &repository).await?;
            if decided(seen, there) {
                worker.gone.remove(&repository);
                worker.repositories.push(Repository::new(&repository));
            }
        }
        Doubt::Delete { repository } => {
            let there = exists(wire, &repository).await?;
            if decided(seen, !there) {
                worker.repositories.retain(|known| known.name != repository);
                worker.gone.insert(repository);
            }
        }
    }
    Ok(())
}

async fn exists(wire: &Wire, repository: &str) -> Result<bool, String> {
    Ok(wire.names(&format!("/v2/{repository}/tags/list"), "tags").await?.is_some())
}

/// Goes on with an upload where the registry says it is: never before what it acknowledged. Whether the blob is there
/// then; it is, unless nothing of it had been acknowledged.
async fn resume(
    load: &Load,
    known: &Repository,
    location: &str,
    content: &bytes::Bytes,
    arrived: u64,
    seen: &Findings,
) -> Result<bool, String> {
    let name = &known.name;
    let digest = Digest::of(content);
    let status = load.wire.get(location).await.map_err(|_| format!("{location}: no answer"))?;
    if status.is(404) {
        let there = load.wire.pull(&known.path("blobs", digest)).await?.is_some();
        if !there && arrived > 0 {
            return Err(format!("{name}: an upload with {arrived} acknowledged bytes is unknown"));
        }
        return Ok(decided(seen, there));
    }
    // Once the blob was linked, the session is over, and its id one to which nothing was sent.
    if status.header("range") == "0-0"
        && load.wire.pull(&known.path("blobs", digest)).await?.is_some()
    {
        return Ok(decided(seen, true));
    }
    let offset = match status.header("range").strip_prefix("0-").and_then(|n| n.parse::<u64>().ok())
    {
        Some(0) => 0,
        Some(last) => last + 1,
        None => return Err(format!("{location}: {} {:?}", status.text(), status.headers)),
    };
    if offset < arrived || offset > content.len() as u64 {
        return Err(format!(
            "{name}: an upload is at {offset}; {arrived} bytes were acknowledged of {}",
            content.len()
        ));
    }
    let rest = content.slice(usize::try_from(offset).unwrap_or(usize::MAX)..);
    match load.finish(location, &digest, rest).await {
        Ok(()) => {
            count(&seen.resumed);
            Ok(true)
        }
        Err(End::Broken) => Err(format!("{location}: no answer")),
        // Killed in its first chunk: bytes that no record speaks of might be somebody's, so it begins anew.
        Err(End::Refused(why)) if offset == 0 && why.contains("BLOB_UPLOAD_UNKNOWN") => {
            Ok(decided(seen, false))
        }
        Err(End::Refused(why)) => {
            Err(format!("{name}: an upload does not go on at {offset}: {why}"))
        }
    }
}

async fn check(
    wire: &Wire,
    worker: &Worker,
    repository: &Repository,
    extent: Extent,
    seen: &Findings,
) -> Result<(), String> {
    let name = &repository.name;
    let listed = wire.names(&format!("/v2/{name}/tags/list"), "tags").await?;
    let listed: BTreeSet<String> =
        listed.ok_or_else(|| format!("{name} is gone"))?.into_iter().collect();
    let expected: BTreeSet<String> = repository.tags.keys().cloned().collect();
    if listed != expected {
        let lost: Vec<_> = expected.difference(&listed).collect();
        let more: Vec<_> = listed.difference(&expected).collect();
        return Err(format!("{name}: tags lost: {lost:?}, tags that should not be: {more:?}"));
    }
    for (tag, digest) in &repository.tags {
        let sampled = extent == Extent::Everything || worker.dice.percent(TAG_SAMPLE);
        if !sampled && !repository.touched.contains(tag) {
            continue;
        }
        let now = wire.tag(name, tag).await?;
        if now != Some(*digest) {
            return Err(format!("{name}:{tag} names {now:?}, acknowledged was {digest}"));
        }
        seen.pulled.fetch_add(1, Ordering::Relaxed);
    }
    let chosen = chosen(worker, repository, extent);
    let mut blobs: HashSet<Digest> = repository.young_blobs().copied().collect();
    for digest in &chosen {
        blobs.extend(manifest(wire, repository, digest, seen).await?);
    }
    for digest in blobs {
        match wire.pull(&repository.path("blobs", digest)).await? {
            Some(bytes) if digest.matches(&bytes) => count(&seen.pulled),
            Some(_) => return Err(format!("{name}: {digest} has other bytes")),
            None => return Err(format!("{name}: the blob {digest} is lost")),
        }
    }
    if extent == Extent::Everything {
        for digest in repository.old_blobs() {
            if wire.pull(&repository.path("blobs", digest)).await?.is_none() {
                count(&seen.collected);
            }
        }
    }
    for path in gone(worker, repository, extent) {
        if wire.pull(&path).await?.is_some() {
            return Err(format!("{path} was deleted and is back"));
        }
        count(&seen.pulled);
    }
    Ok(())
}

/// The manifests to look at.
fn chosen(worker: &Worker, repository: &Repository, extent: Extent) -> BTreeSet<Digest> {
    let mut chosen = BTreeSet::new();
    for (digest, held) in &repository.manifests {
        match extent {
            Extent::Round(round) if held.round != round => {}
            _ => drop(chosen.insert(*digest)),
        }
    }
    if extent != Extent::Everything {
        for _ in 0..OLD_SAMPLE {
            let which = worker.dice.index(repository.manifests.len());
            chosen.extend(repository.manifests.keys().nth(which));
        }
    }
    chosen
}

/// A manifest is what was pushed, and found where it should be; yields what it needs.
async fn manifest(
    wire: &Wire,
    repository: &Repository,
    digest: &Digest,
    seen: &Findings,
) -> Result<Vec<Digest>, String> {
    let name = &repository.name;
    let Some(held) = repository.manifests.get(digest) else { return Ok(Vec::new()) };
    match wire.pull(&repository.path("manifests", digest)).await? {
        Some(body) if body == held.body => count(&seen.pulled),
        Some(_) => return Err(format!("{name}: {digest} has other bytes")),
        None => return Err(format!("{name}: the manifest {digest} is lost")),
    }
    if let Some(subject) = held.subject {
        let path = repository.path("referrers", subject);
        let listed = wire.pull(&path).await?.unwrap_or_default();
        if !String::from_utf8_lossy(&listed).contains(&digest.to_string()) {
            return Err(format!("{path} does not list {digest}"));
        }
        count(&seen.pulled);
    }
    Ok(held.blobs.clone())
}

/// What must not be there any more.
fn gone(worker: &Worker, repository: &Repository, extent: Extent) -> Vec<String> {
    let mut paths = Vec::new();
    for (digest, when) in &repository.deleted {
        match extent {
            Extent::Round(round) if round != *when => {}
            _ => paths.push(repository.path("manifests", digest)),
        }
    }
    if extent != Extent::Everything {
        for _ in 0..GONE_SAMPLE {
            let which = worker.dice.index(repository.deleted.len());
            let old = repository.deleted.keys().nth(which);
            paths.extend(old.map(|digest| repository.path("manifests", digest)));
        }
    }
    paths.extend(repository.deleted_blobs.iter().map(|digest| repository.path("blobs", digest)));
    paths
}
