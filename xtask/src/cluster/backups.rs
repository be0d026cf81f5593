//! Backups that are taken while all goes on: what each one shows, by its own records and by a registry that is restored
//! from it, which must have each of them and no other.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::{
    PASSWORD, REPOSITORY,
    clients::Log,
    history::{Act, Operation},
    machines::{Machines, Which, run},
};
use crate::crash::{Dice, Wire};

/// The most time one may take.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a restored replica may take to answer.
const UP: Duration = Duration::from_secs(30);
/// Backups at a time.
const AT_ONCE: usize = 2;
/// Entries of an archive whose records a restored registry has as they were: all but those that say where it lives.
const RECORDS: [&str; 7] = [
    "*/metadata/*",
    "*/access/*",
    "*/identity/accounts*",
    "*/identity/credentials*",
    "*/identity/memberships*",
    "*/identity/teams*",
    "*/identity/team_members*",
];

/// One that was taken.
pub struct Backup {
    pub file: PathBuf,
    began: u64,
    ended: u64,
    /// Whether a majority stood behind its revision.
    pub confirmed: bool,
    /// What each tag names in it, by the tag's name.
    pub tags: BTreeMap<String, String>,
    pub revision: u64,
}

/// One about every second, through any replica; one that meets a fault fails, and says so.
pub async fn take(
    machines: &Machines,
    count: usize,
    dice: Dice,
    until: Instant,
    folder: &Path,
    log: &Arc<Log>,
) -> (Vec<Backup>, usize) {
    let places = &Semaphore::new(AT_ONCE);
    let seconds = until.saturating_duration_since(Instant::now()).as_secs();
    let running = (1..=seconds).map(|number| {
        let (file, through) = (folder.join(format!("backup-{number}.tar")), dice.index(count));
        async move {
            tokio::time::sleep(Duration::from_secs(number)).await;
            let _place = places.acquire().await;
            if Instant::now() > until {
                return None;
            }
            let began = log.now();
            let taken = machines.backup(through, &file);
            let done = matches!(tokio::time::timeout(LIMIT, taken).await, Ok(Ok(())));
            Some((done, file, began, log.now()))
        }
    });
    let running: Vec<_> = running.collect();
    let (mut good, mut failed) = (Vec::new(), 0);
    for (done, file, began, ended) in
        futures_util::future::join_all(running).await.into_iter().flatten()
    {
        match done {
            true => good.push(Backup {
                file,
                began,
                ended,
                confirmed: true,
                tags: BTreeMap::new(),
                revision: 0,
            }),
            false => failed += 1,
        }
    }
    (good, failed)
}

/// In the events that a restore and the backup after it make themselves: a registration, and the backup.
const OWN: [&str; 2] = [r#""object":{"type":"service""#, r#""object":{"type":"backup""#];

impl Backup {
    /// Reads what it shows, when it is good.
    pub async fn read(&mut self, machines: &Machines, spare: usize) -> anyhow::Result<()> {
        let file = self.file.display().to_string();
        machines.dtr(spare, &["backup", "verify", &file]).await?;
        let tar = |pattern: &'static str| {
            let arguments = ["-xOf", &file, "--wildcards", pattern].map(str::to_owned);
            async move {
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                run("tar", &arguments).await
            }
        };
        let header: Value = serde_json::from_str(&tar("*/header.json").await?)?;
        self.revision = header["revision"].as_u64().context("no revision")?;
        let report = std::fs::read(self.file.with_extension("json"))?;
        let report: Value = serde_json::from_slice(&report)?;
        self.confirmed = report["confirmed"].as_bool().unwrap_or(true);
        for line in tar("*/metadata/tags*.jsonl").await?.lines() {
            let tag: Value = serde_json::from_str(line)?;
            let (Some(name), Some(digest)) = (tag["name"].as_str(), tag["digest"].as_str()) else {
                anyhow::bail!("a tag without a name or a digest: {line}");
            };
            self.tags.insert(name.to_owned(), digest.to_owned());
        }
        Ok(())
    }

    /// Whether another, which began when this one had ended, shows a later moment.
    pub fn comes_before(&self, other: &Self) -> bool {
        self.ended >= other.began || self.revision <= other.revision
    }

    /// As an operation of the history: all tags, read at one moment between its begin and its end. One without a majority
    /// behind it may be of any earlier moment.
    pub fn operation(&self, values: &BTreeMap<String, u32>, seen: &[Operation]) -> Operation {
        let shown = self.tags.iter().map(|(tag, digest)| {
            (Log::number_of(tag), values.get(digest).copied().unwrap_or(u32::MAX))
        });
        let shown: BTreeMap<usize, u32> = shown.collect();
        // Not before what it shows was sent.
        let begins = seen.iter().filter_map(|operation| match operation.act {
            Act::Write(tag, value) if shown.get(&tag) == Some(&value) => Some(operation.began),
            _ => None,
        });
        let began = if self.confirmed { self.began } else { begins.max().unwrap_or(0) };
        Operation { act: Act::All(shown), began, ended: Some(self.ended) }
    }

    /// Restores it on a machine that has nothing, and asks the registry there for everything that is in the backup, and
    /// whether there is more.
    pub async fn restore(
        &self,
        machines: &Machines,
        spare: usize,
        wire: &Wire,
    ) -> anyhow::Result<()> {
        let ended = self.restored(machines, spare, wire).await;
        machines.signal(spare, Which::All, "KILL").await?;
        let data = machines.data(spare);
        let empty = async {
            while machines.runs(spare, Which::All).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            tokio::fs::remove_dir_all(&data).await?;
            tokio::fs::remove_dir_all(machines.storage(spare)).await
        };
        tokio::time::timeout(UP, empty).await.context("it does not end")??;
        ended.with_context(|| format!("{}, restored", self.file.display()))
    }

    async fn restored(&self, machines: &Machines, spare: usize, wire: &Wire) -> anyhow::Result<()> {
        // A restore takes the storage over, and the cluster goes on.
        run("cp", &["-a", &machines.storage(0), &machines.storage(spare)]).await?;
        let mut command = machines.dtr_command(spare);
        command.arg("restore").args(machines.place(spare)).stdin(std::fs::File::open(&self.file)?);
        let out = tokio::time::timeout(UP, command.stderr(Stdio::piped()).output()).await;
        let out = out.context("the restore does not end")??;
        ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let began = Instant::now();
        while !wire.answers().await {
            ensure!(began.elapsed() < UP, "no answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let again = self.file.with_extension("again.tar");
        machines.backup(spare, &again).await.context("a backup of what was restored")?;
        let (wanted, there) = (records(&self.file).await?, records(&again).await?);
        if let Some(record) = wanted.difference(&there).next() {
            bail!("a record is not there: {record}");
        }
        let is_own = |record: &&String| OWN.iter().any(|own| record.contains(own));
        let mut more = there.difference(&wanted).filter(|record| !is_own(record));
        if let Some(record) = more.next() {
            bail!("a record was not in the backup: {record}");
        }
        let path = format!("/v2/{REPOSITORY}/tags/list");
        let there = wire.names(&path, "tags").await.map_err(anyhow::Error::msg)?;
        let mut there = there.unwrap_or_default();
        there.sort();
        let wanted: Vec<_> = self.tags.keys().cloned().collect();
        ensure!(there == wanted, "it has the tags {there:?}, the backup {wanted:?}");
        for (tag, digest) in &self.tags {
            let found = wire.tag(REPOSITORY, tag).await.map_err(anyhow::Error::msg)?;
            let found = found.map(|digest| digest.to_string());
            ensure!(found.as_ref() == Some(digest), "{tag} names {found:?} and not {digest}");
            let body = wire.pull(&format!("/v2/{REPOSITORY}/manifests/{digest}")).await;
            let body = body.map_err(anyhow::Error::msg)?.context("a manifest is missing")?;
            let is = dtr_types::Digest::of(&body).to_string();
            ensure!(is == *digest, "{tag}: what is pulled is {is}");
        }
        Ok(())
    }
}

/// The records in an archive, as they stand there.
async fn records(archive: &Path) -> anyhow::Result<BTreeSet<String>> {
    let archive = archive.display().to_string();
    let mut all = BTreeSet::new();
    for pattern in RECORDS {
        let lines = run("tar", &["-xOf", &archive, "--wildcards", pattern]).await?;
        all.extend(lines.lines().map(str::to_owned));
    }
    Ok(all)
}

/// For a wire to the machine that is restored on.
pub fn wire_to(machines: &Machines, spare: usize) -> anyhow::Result<Wire> {
    Wire::new(machines.url(spare), PASSWORD)
}
