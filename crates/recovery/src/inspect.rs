//! What is in an archive, for a person who looks for something: its header, its repositories, its counts.

use std::{collections::BTreeMap, fmt, io::Read};

use dtr_archive::{Header, ReadOptions};
use dtr_types::RepositoryId;
use serde::{Deserialize, Serialize};

use crate::{
    RecoveryError, Salvaged,
    lines::Line,
    pump::{Piece, Pump},
    verify::Checks,
};

/// A repository in an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositorySummary {
    /// Its full name.
    pub name: String,
    /// Its tags.
    pub tags: u64,
    /// Its manifests.
    pub manifests: u64,
    /// What they refer to, added up, in bytes; content that several refer to counts for each.
    pub bytes: u64,
}

/// What is in an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    /// What it says of itself.
    pub header: Header,
    /// Whether the stream was encrypted.
    pub encrypted: bool,
    /// Records by entry.
    pub records: BTreeMap<String, u64>,
    /// In order of their names.
    pub repositories: Vec<RepositorySummary>,
    /// Names of users, where the archive has them.
    pub users: Vec<String>,
    /// Names of organizations, where the archive has them.
    pub organizations: Vec<String>,
    /// Image content inside: blobs and manifests.
    pub image_entries: u64,
    /// Bytes of it.
    pub image_bytes: u64,
    /// What it says, if it was salvaged from a damaged archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salvaged: Option<Salvaged>,
}

/// Reads an archive to its end, proof and all, and lists what is in it. Memory grows with the number of repositories and
/// accounts.
///
/// # Errors
/// As [`crate::verify`].
pub async fn inspect<R: Read + Send + 'static>(
    input: R,
    read: ReadOptions,
) -> Result<Inspection, RecoveryError> {
    let mut pump = Pump::start(input, read)?;
    let (header, encrypted) = pump.header().await?;
    let mut checks = Checks::new(&header)?;
    let mut repositories: BTreeMap<RepositoryId, RepositorySummary> = BTreeMap::new();
    let (mut users, mut organizations) = (Vec::new(), Vec::new());
    let proof = loop {
        let lines = match pump.next().await? {
            Piece::Lines(lines) => lines,
            Piece::End(proof) => break proof,
            _ => continue,
        };
        for (line, _) in checks.lines(&lines)? {
            match line {
                Line::Repository(found) => {
                    let name = found.name.to_string();
                    repositories.insert(found.id, RepositorySummary { name, ..Default::default() });
                }
                Line::Manifest(found) => {
                    if let Some(summary) = repositories.get_mut(&found.record.repository) {
                        summary.manifests += 1;
                        summary.bytes = summary.bytes.saturating_add(found.record.content_size);
                    }
                }
                Line::Tag(tag) => {
                    if let Some(summary) = repositories.get_mut(&tag.repository) {
                        summary.tags += 1;
                    }
                }
                Line::Account(account) if account.is_org => {
                    organizations.push(account.name.to_string());
                }
                Line::Account(account) => users.push(account.name.to_string()),
                _ => {}
            }
        }
    };
    let mut repositories: Vec<_> = repositories.into_values().collect();
    repositories.sort_by(|a, b| a.name.cmp(&b.name));
    users.sort();
    organizations.sort();
    Ok(Inspection {
        header: *header,
        encrypted,
        records: checks.counts,
        repositories,
        users,
        organizations,
        image_entries: proof.totals.blobs,
        image_bytes: proof.totals.blob_bytes,
        salvaged: checks.salvaged,
    })
}

impl Inspection {
    /// Users without a single password come from a UCP that did not hand them out.
    fn without_passwords(&self) -> &'static str {
        let passwords = self.records.get("identity/credentials").copied().unwrap_or_default();
        if passwords == 0 && !self.users.is_empty() { ", without password hashes" } else { "" }
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = &self.header;
        let scope = &header.scope;
        let yes = |b| if b { "yes" } else { "no" };
        let replica = header.replica_id.as_ref().map_or("-", |id| id.as_str());
        writeln!(f, "product       {} {}", header.product.as_str(), header.version)?;
        writeln!(f, "format        {} (records: {})", header.format, header.schema)?;
        writeln!(f, "cluster       {}", header.cluster_id)?;
        writeln!(f, "replica       {replica}")?;
        writeln!(f, "store         {}", header.engine)?;
        if let Some(storage) = &header.storage {
            writeln!(f, "content       {storage}")?;
        }
        writeln!(f, "revision      {} at {}", header.revision, header.created)?;
        writeln!(f, "encrypted     {}", yes(self.encrypted))?;
        writeln!(f, "images        {} ({} bytes)", yes(scope.images), self.image_bytes)?;
        writeln!(f, "accounts      {}{}", yes(scope.identity), self.without_passwords())?;
        if let Some(url) = &header.identity.url {
            writeln!(f, "UCP           {url}")?;
        }
        writeln!(f, "signed by     {}", header.signer.key_id)?;
        if let Some(salvaged) = &self.salvaged {
            write!(f, "{salvaged}")?;
        }
        writeln!(f, "records")?;
        for (path, count) in &self.records {
            writeln!(f, "  {count:>9}  {path}")?;
        }
        writeln!(f, "repositories  {:>6} tags {:>6} manifests", "", "")?;
        for repository in &self.repositories {
            let RepositorySummary { name, tags, manifests, bytes } = repository;
            writeln!(f, "  {tags:>9} {manifests:>9} {bytes:>14} B  {name}")?;
        }
        for (what, names) in [("organizations", &self.organizations), ("users", &self.users)] {
            if !names.is_empty() {
                writeln!(f, "{what}: {}", names.join(", "))?;
            }
        }
        Ok(())
    }
}
