//! The layout of every key, in one table. Nothing else builds keys.
//!
//! Keys are text; components are separated by `/`. A repository's full name contains `/` and is only ever the last
//! component. Ids, digests and hexadecimal times contain none.
//!
//! | prefix | rest | holds | in a backup |
//! |---|---|---|---|
//! | `cluster` | | [`ClusterRecord`]: identity of the cluster, its data format | as header and `config/cluster` |
//! | `settings` | | [`Settings`] | `config/settings` |
//! | `storage` | | [`StorageRecord`]: the mark that the blob storage must have | no: a restore makes its own |
//! | `replica/` | replica id | [`ReplicaRecord`]: address, heartbeat | no: a restore makes its own |
//! | `lock/` | name | [`LockRecord`]: who does what only one replica does at a time; vanishes with its lease | no |
//! | `restart` | | [`RestartRecord`]: replicas whose turn to restart is to come | no |
//! | `backup/` | time, id | [`BackupRecord`]: backups that were taken | `config/backups` |
//! | `key/` | purpose, key id | [`KeyRecord`]: signing keys | `certificates/` |
//! | `cert/` | name | [`CertificateRecord`]: certificates and their keys | `certificates/` |
//! | `r/` | repository id | [`Repository`] | `metadata/repositories` |
//! | `rn/` | full name | repository id: names in order | derived |
//! | `rc/` | repository id | [`Counters`]: pulls, pushes | `metadata/counters` |
//! | `rd/` | repository id | [`DeletedRepository`]: content still to be unlinked | no |
//! | `t/` | repository id, tag | [`TagRecord`] | `metadata/tags` |
//! | `m/` | repository id, digest | [`ManifestRecord`] | `metadata/manifests` |
//! | `mb/` | repository id, digest, part | the manifest's bytes, compressed, in parts below the store's value limit | with its manifest |
//! | `mt/` | repository id, digest, tag | tags of a manifest | derived |
//! | `mi/` | repository id, digest, index digest | an index lists a manifest | derived |
//! | `sub/` | repository id, subject digest, manifest digest | [`ReferrerRecord`] | derived |
//! | `b/` | digest | [`BlobRecord`]: a blob that is stored | `metadata/blobs`, if a manifest refers to it |
//! | `l/` | repository id, digest | a blob that may be read through a repository | derived |
//! | `bl/` | digest, repository id | the same, by blob | derived |
//! | `lu/` | repository id, digest | [`UnlinkedBlob`]: readable until it is clear that no manifest needs it | no |
//! | `ref/` | digest, repository id, manifest digest | a manifest refers to a blob | derived |
//! | `rf/` | digest, repository id, manifest digest | a manifest names content that may be absent; counts where the blob is linked | derived |
//! | `gc/` | digest | [`Candidate`]: perhaps garbage | derived |
//! | `x/` | digest | [`CondemnedRecord`]: being removed right now, or was a moment ago | no |
//! | `dmg/` | digest | [`DamagedBlob`]: its bytes in the storage are known to be lost or wrong | no: a restore asks the storage |
//! | `md/` | repository id, digest | [`DeletedManifest`]: references still to be dropped | no |
//! | `ms/` | repository id, digest | [`StagedManifest`]: references and bytes are being written ahead of it | no |
//! | `u/` | upload id | [`UploadRecord`] | no: an upload is not yet content |
//! | `gr/` | repository id, team id | [`RepositoryGrant`] | `access/repository_grants` |
//! | `gn/` | namespace account id, team id | [`NamespaceGrant`] | `access/namespace_grants` |
//! | `gt/` | team id, repository id | repository grants by team | derived |
//! | `at/` | token hash | [`AccessToken`] | `access/tokens` (hashes) |
//! | `ata/` | account id, token hash | access tokens by account | derived |
//! | `e/` | event id | [`Event`] | `metadata/events` |
//! | `er/` | repository id, event id | events by repository | derived |
//! | `ia/` | account id | [`Account`] | `identity/accounts` |
//! | `in/` | account name | account id | derived |
//! | `ig` | | nothing: its revision is that of the last change of an account, a password or a membership | no: a restored store has none |
//! | `ip/` | account id | [`Credential`]: password hash | `identity/credentials` |
//! | `im/` | organization id, account id | [`Membership`] | `identity/memberships` |
//! | `imo/` | account id, organization id | memberships by member | derived |
//! | `it/` | organization id, team id | [`Team`] | `identity/teams` |
//! | `itn/` | organization id, team name | team id | derived |
//! | `itm/` | team id, account id | [`TeamMembership`] | `identity/team_members` |
//! | `ita/` | account id, team id | teams by member | derived |
//! | `is/` | session hash | [`Session`] | no: people log in again |
//! | `isa/` | account id, session hash | sessions by account | no |
//! | `iv/` | service id | [`Service`]: registered DTRs | `identity/services` |
//! | `restore` | | [`RestoreRecord`]: a restore that has not finished | no |
//! | `!hold/` | hold id | a hold ([`dtr_store::hold`]) | no |
//! | `!age` | | how much time was seen to pass, and at which revisions ([`dtr_store::age`]) | no: what is restored is new |

use std::{fmt, marker::PhantomData};

use bytes::Bytes;
use dtr_types::{
    AccountId, AccountName, Digest, ReplicaId, RepositoryId, RepositoryName, ServiceId, Tag,
    TeamId, TeamName, UploadId,
};

use crate::{Record, records::*};

/// A key that leads to a record of type `T`.
pub struct Key<T>(Bytes, PhantomData<fn() -> T>);

impl<T> Key<T> {
    fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into(), PhantomData)
    }

    /// The key itself.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        Self::new(self.0.clone())
    }
}

impl<T> From<Key<T>> for Bytes {
    fn from(key: Key<T>) -> Self {
        key.0
    }
}

impl<T> From<&Key<T>> for Bytes {
    fn from(key: &Key<T>) -> Self {
        key.0.clone()
    }
}

impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(&self.0))
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $prefix:literal, $name:literal, $archived:expr;)*) => {
        /// A row of the key layout that holds records (rows that only hold derived keys are not kinds).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind { $($(#[$doc])* $variant,)* }

        impl Kind {
            /// Every kind, in the order of an archive: what is referred to comes before what refers to it.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// What all its keys begin with.
            pub const fn prefix(self) -> &'static str { match self { $(Self::$variant => $prefix,)* } }

            /// What people call it.
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }

            /// Its entry in an archive, if a backup carries it.
            pub const fn archived(self) -> Option<&'static str> { match self { $(Self::$variant => $archived,)* } }
        }
    };
}

kinds! {
    /// The cluster's own record.
    Cluster = "cluster", "cluster", Some("config/cluster");
    /// Settings.
    Settings = "settings", "settings", Some("config/settings");
    /// The mark of the blob storage.
    Storage = "storage", "storage", None;
    /// A restore that has not finished.
    Restore = "restore", "unfinished restore", None;
    /// Replicas that are to restart.
    Restart = "restart", "restart", None;
    /// Replicas.
    Replica = "replica/", "replica", None;
    /// What only one replica does at a time.
    Lock = "lock/", "lock", None;
    /// Backups that were taken.
    Backup = "backup/", "backup", Some("config/backups");
    /// Signing keys.
    Key = "key/", "signing key", Some("certificates/keys");
    /// Certificates.
    Certificate = "cert/", "certificate", Some("certificates/certificates");
    /// Accounts.
    Account = "ia/", "account", Some("identity/accounts");
    /// Password hashes.
    Credential = "ip/", "credential", Some("identity/credentials");
    /// Members of organizations.
    Membership = "im/", "membership", Some("identity/memberships");
    /// Teams.
    Team = "it/", "team", Some("identity/teams");
    /// Members of teams.
    TeamMembership = "itm/", "team membership", Some("identity/team_members");
    /// Sessions.
    Session = "is/", "session", None;
    /// Registered services.
    Service = "iv/", "service", Some("identity/services");
    /// Repositories.
    Repository = "r/", "repository", Some("metadata/repositories");
    /// Counters of repositories.
    Counters = "rc/", "counters", Some("metadata/counters");
    /// Repositories whose content is still to be unlinked.
    DeletedRepository = "rd/", "deleted repository", None;
    /// Blobs.
    Blob = "b/", "blob", Some("metadata/blobs");
    /// Manifests.
    Manifest = "m/", "manifest", Some("metadata/manifests");
    /// Manifests whose references are still to be dropped.
    DeletedManifest = "md/", "deleted manifest", None;
    /// Manifests that are being pushed in several transactions.
    StagedManifest = "ms/", "staged manifest", None;
    /// Blobs that are being taken away from a repository.
    UnlinkedBlob = "lu/", "unlinked blob", None;
    /// Referrers.
    Referrer = "sub/", "referrer", None;
    /// Tags.
    Tag = "t/", "tag", Some("metadata/tags");
    /// Uploads.
    Upload = "u/", "upload", None;
    /// Candidates for collection.
    Candidate = "gc/", "candidate", None;
    /// Blobs that are being removed.
    Condemned = "x/", "condemned blob", None;
    /// Blobs that are lost or damaged in the storage.
    DamagedBlob = "dmg/", "damaged blob", None;
    /// Grants on repositories.
    RepositoryGrant = "gr/", "repository grant", Some("access/repository_grants");
    /// Grants on namespaces.
    NamespaceGrant = "gn/", "namespace grant", Some("access/namespace_grants");
    /// Access tokens.
    AccessToken = "at/", "access token", Some("access/tokens");
    /// Events.
    Event = "e/", "event", Some("metadata/events");
}

/// Tables with mostly few keys, in which nearly all that is looked for is absent.
pub(crate) const FEW: [&[u8]; 6] = [b"u/", b"x/", b"md/", b"ms/", b"lu/", b"dmg/"];

/// Tables that are written all the time, and read when somebody asks for history.
pub(crate) const SELDOM_READ: [&[u8]; 3] = [b"e/", b"er/", b"gc/"];

fn key<T: Record>(parts: &[&str]) -> Key<T> {
    Key::new(join(T::KIND.prefix(), parts))
}

fn join(prefix: &str, parts: &[&str]) -> Bytes {
    let mut key =
        String::with_capacity(prefix.len() + parts.iter().map(|p| p.len() + 1).sum::<usize>());
    key.push_str(prefix);
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            key.push('/');
        }
        key.push_str(part);
    }
    key.into()
}

/// The cluster's record.
pub fn cluster() -> Key<ClusterRecord> {
    key(&[])
}
/// The settings.
pub fn settings() -> Key<Settings> {
    key(&[])
}
/// The mark that the blob storage must have.
pub fn storage() -> Key<StorageRecord> {
    key(&[])
}
/// The mark of a restore that has not finished.
pub fn restore() -> Key<RestoreRecord> {
    key(&[])
}
/// Replicas that are to restart.
pub fn restart() -> Key<RestartRecord> {
    key(&[])
}
/// Who does what only one replica does at a time.
pub fn lock(name: &str) -> Key<LockRecord> {
    key(&[name])
}

/// A replica.
pub fn replica(id: &ReplicaId) -> Key<ReplicaRecord> {
    key(&[id.as_str()])
}
/// A backup that was taken: `id` is that of an event.
pub fn backup(id: &str) -> Key<BackupRecord> {
    key(&[id])
}
/// A signing key.
pub fn signing_key(purpose: KeyPurpose, id: &str) -> Key<KeyRecord> {
    key(&[purpose.as_str(), id])
}
/// The prefix of all signing keys of a purpose.
pub fn signing_keys(purpose: KeyPurpose) -> Bytes {
    join(Kind::Key.prefix(), &[purpose.as_str(), ""])
}
/// A certificate.
pub fn certificate(name: &str) -> Key<CertificateRecord> {
    key(&[name])
}
/// A repository.
pub fn repository(id: &RepositoryId) -> Key<Repository> {
    key(&[id.as_str()])
}
/// Prefix of the names of repositories, in order.
pub const REPOSITORY_NAMES: &str = "rn/";
/// The id behind a repository's name.
pub fn repository_name(name: &RepositoryName) -> Bytes {
    join(REPOSITORY_NAMES, &[name.as_str()])
}
/// Prefix of the names of one namespace's repositories.
pub fn repository_names_of(namespace: &AccountName) -> Bytes {
    join(REPOSITORY_NAMES, &[namespace.as_str(), ""])
}
/// A repository's counters.
pub fn counters(id: &RepositoryId) -> Key<Counters> {
    key(&[id.as_str()])
}
/// A repository whose content is still to be unlinked.
pub fn deleted_repository(id: &RepositoryId) -> Key<DeletedRepository> {
    key(&[id.as_str()])
}
/// A tag.
pub fn tag(repository: &RepositoryId, tag: &Tag) -> Key<TagRecord> {
    key(&[repository.as_str(), tag.as_str()])
}
/// Prefix of a repository's tags.
pub fn tags(repository: &RepositoryId) -> Bytes {
    join(Kind::Tag.prefix(), &[repository.as_str(), ""])
}
/// A manifest.
pub fn manifest(repository: &RepositoryId, digest: &Digest) -> Key<ManifestRecord> {
    key(&[repository.as_str(), &digest.to_string()])
}
/// Prefix of a repository's manifests.
pub fn manifests(repository: &RepositoryId) -> Bytes {
    join(Kind::Manifest.prefix(), &[repository.as_str(), ""])
}
/// Prefix of all manifests' bytes.
pub const MANIFEST_BODIES: &str = "mb/";
/// Prefix of the parts of a manifest's bytes.
pub fn manifest_parts(repository: &RepositoryId, digest: &Digest) -> Bytes {
    join(MANIFEST_BODIES, &[repository.as_str(), &digest.to_string(), ""])
}
/// A part of a manifest's bytes.
pub fn manifest_body(repository: &RepositoryId, digest: &Digest, part: u32) -> Bytes {
    join(MANIFEST_BODIES, &[repository.as_str(), &digest.to_string(), &format!("{part:04}")])
}
/// A tag of a manifest.
pub fn manifest_tag(repository: &RepositoryId, digest: &Digest, tag: &Tag) -> Bytes {
    join("mt/", &[repository.as_str(), &digest.to_string(), tag.as_str()])
}
/// Prefix of a manifest's tags.
pub fn manifest_tags(repository: &RepositoryId, digest: &Digest) -> Bytes {
    join("mt/", &[repository.as_str(), &digest.to_string(), ""])
}
/// A manifest that an index lists.
pub fn listing(repository: &RepositoryId, manifest: &Digest, index: &Digest) -> Bytes {
    join("mi/", &[repository.as_str(), &manifest.to_string(), &index.to_string()])
}
/// Prefix of the indexes that list a manifest.
pub fn listings(repository: &RepositoryId, manifest: &Digest) -> Bytes {
    join("mi/", &[repository.as_str(), &manifest.to_string(), ""])
}
/// A referrer of a subject.
pub fn referrer(
    repository: &RepositoryId,
    subject: &Digest,
    digest: &Digest,
) -> Key<ReferrerRecord> {
    key(&[repository.as_str(), &subject.to_string(), &digest.to_string()])
}
/// Prefix of a subject's referrers.
pub fn referrers(repository: &RepositoryId, subject: &Digest) -> Bytes {
    join(Kind::Referrer.prefix(), &[repository.as_str(), &subject.to_string(), ""])
}
/// A blob.
pub fn blob(digest: &Digest) -> Key<BlobRecord> {
    key(&[&digest.to_string()])
}
/// A blob readable through a repository.
pub fn link(repository: &RepositoryId, digest: &Digest) -> Bytes {
    join("l/", &[repository.as_str(), &digest.to_string()])
}
/// Prefix of a repository's links.
pub fn links(repository: &RepositoryId) -> Bytes {
    join("l/", &[repository.as_str(), ""])
}
/// A link, by blob.
pub fn blob_link(digest: &Digest, repository: &RepositoryId) -> Bytes {
    join("bl/", &[&digest.to_string(), repository.as_str()])
}
/// Prefix of a blob's links.
pub fn blob_links(digest: &Digest) -> Bytes {
    join("bl/", &[&digest.to_string(), ""])
}
/// Prefix of all references.
pub const REFERENCES: &str = "ref/";
/// A manifest's reference to a blob.
pub fn reference(blob: &Digest, repository: &RepositoryId, manifest: &Digest) -> Bytes {
    join("ref/", &[&blob.to_string(), repository.as_str(), &manifest.to_string()])
}
/// Prefix of the references to a blob.
pub fn references(blob: &Digest) -> Bytes {
    join("ref/", &[&blob.to_string(), ""])
}
/// Prefix of the references to a blob from one repository.
pub fn references_in(blob: &Digest, repository: &RepositoryId) -> Bytes {
    join("ref/", &[&blob.to_string(), repository.as_str(), ""])
}
/// A manifest that names content which may be absent.
pub fn mention(blob: &Digest, repository: &RepositoryId, manifest: &Digest) -> Bytes {
    join("rf/", &[&blob.to_string(), repository.as_str(), &manifest.to_string()])
}
/// Prefix of the manifests that name content which may be absent.
pub fn mentions(blob: &Digest) -> Bytes {
    join("rf/", &[&blob.to_string(), ""])
}
/// Prefix of those of one repository.
pub fn mentions_in(blob: &Digest, repository: &RepositoryId) -> Bytes {
    join("rf/", &[&blob.to_string(), repository.as_str(), ""])
}
/// A candidate for collection.
pub fn candidate(digest: &Digest) -> Key<Candidate> {
    key(&[&digest.to_string()])
}
/// A blob that is being removed.
pub fn condemned(digest: &Digest) -> Key<CondemnedRecord> {
    key(&[&digest.to_string()])
}
/// A blob that is lost or damaged in the storage.
pub fn damaged_blob(digest: &Digest) -> Key<DamagedBlob> {
    key(&[&digest.to_string()])
}
/// A manifest whose references are still to be dropped.
pub fn deleted_manifest(repository: &RepositoryId, digest: &Digest) -> Key<DeletedManifest> {
    key(&[repository.as_str(), &digest.to_string()])
}
/// A manifest that is being pushed in several transactions.
pub fn staged_manifest(repository: &RepositoryId, digest: &Digest) -> Key<StagedManifest> {
    key(&[repository.as_str(), &digest.to_string()])
}
/// Prefix of a repository's manifests that are being pushed in several transactions.
pub fn staged_manifests(repository: &RepositoryId) -> Bytes {
    join(Kind::StagedManifest.prefix(), &[repository.as_str(), ""])
}
/// A blob that is being taken away from a repository.
pub fn unlinked_blob(repository: &RepositoryId, digest: &Digest) -> Key<UnlinkedBlob> {
    key(&[repository.as_str(), &digest.to_string()])
}
/// Prefix of the blobs that are being taken away from a repository.
pub fn unlinked_blobs(repository: &RepositoryId) -> Bytes {
    join(Kind::UnlinkedBlob.prefix(), &[repository.as_str(), ""])
}
/// An upload.
pub fn upload(id: &UploadId) -> Key<UploadRecord> {
    key(&[id.as_str()])
}
/// A grant on a repository.
pub fn repository_grant(repository: &RepositoryId, team: &TeamId) -> Key<RepositoryGrant> {
    key(&[repository.as_str(), team.as_str()])
}
/// Prefix of a repository's grants.
pub fn repository_grants(repository: &RepositoryId) -> Bytes {
    join(Kind::RepositoryGrant.prefix(), &[repository.as_str(), ""])
}
/// A grant on a namespace.
pub fn namespace_grant(namespace: &AccountId, team: &TeamId) -> Key<NamespaceGrant> {
    key(&[namespace.as_str(), team.as_str()])
}
/// Prefix of a namespace's grants.
pub fn namespace_grants(namespace: &AccountId) -> Bytes {
    join(Kind::NamespaceGrant.prefix(), &[namespace.as_str(), ""])
}
/// A repository grant, by team.
pub fn team_grant(team: &TeamId, repository: &RepositoryId) -> Bytes {
    join("gt/", &[team.as_str(), repository.as_str()])
}
/// Prefix of a team's repository grants.
pub fn team_grants(team: &TeamId) -> Bytes {
    join("gt/", &[team.as_str(), ""])
}
/// An access token, by its hash.
pub fn access_token(hash: &str) -> Key<AccessToken> {
    key(&[hash])
}
/// An access token, by account.
pub fn account_token(account: &AccountId, hash: &str) -> Bytes {
    join("ata/", &[account.as_str(), hash])
}
/// Prefix of an account's access tokens.
pub fn account_tokens(account: &AccountId) -> Bytes {
    join("ata/", &[account.as_str(), ""])
}
/// An event.
pub fn event(id: &str) -> Key<Event> {
    key(&[id])
}
/// An event, by repository.
pub fn repository_event(repository: &RepositoryId, id: &str) -> Bytes {
    join("er/", &[repository.as_str(), id])
}
/// Prefix of a repository's events.
pub fn repository_events(repository: &RepositoryId) -> Bytes {
    join("er/", &[repository.as_str(), ""])
}
/// An account.
pub fn account(id: &AccountId) -> Key<Account> {
    key(&[id.as_str()])
}
/// Put by every commit that changes what follows [`RIGHTS`].
pub(crate) const RIGHTS_CHANGED: &[u8] = b"ig";
/// What a person's rights are made of, besides grants: accounts, passwords, memberships.
pub(crate) const RIGHTS: [&str; 6] = [
    Kind::Account.prefix(),
    Kind::Credential.prefix(),
    Kind::Membership.prefix(),
    "imo/",
    Kind::TeamMembership.prefix(),
    "ita/",
];
/// Prefix of the names of accounts, in order.
pub const ACCOUNT_NAMES: &str = "in/";
/// The id behind an account's name.
pub fn account_name(name: &AccountName) -> Bytes {
    join(ACCOUNT_NAMES, &[name.as_str()])
}
/// An account's password hash.
pub fn credential(id: &AccountId) -> Key<Credential> {
    key(&[id.as_str()])
}
/// A membership in an organization.
pub fn membership(org: &AccountId, member: &AccountId) -> Key<Membership> {
    key(&[org.as_str(), member.as_str()])
}
/// Prefix of an organization's memberships.
pub fn memberships(org: &AccountId) -> Bytes {
    join(Kind::Membership.prefix(), &[org.as_str(), ""])
}
/// A membership, by member.
pub fn member_org(member: &AccountId, org: &AccountId) -> Bytes {
    join("imo/", &[member.as_str(), org.as_str()])
}
/// Prefix of a member's organizations.
pub fn member_orgs(member: &AccountId) -> Bytes {
    join("imo/", &[member.as_str(), ""])
}
/// A team.
pub fn team(org: &AccountId, id: &TeamId) -> Key<Team> {
    key(&[org.as_str(), id.as_str()])
}
/// Prefix of an organization's teams.
pub fn teams(org: &AccountId) -> Bytes {
    join(Kind::Team.prefix(), &[org.as_str(), ""])
}
/// The id behind a team's name.
pub fn team_name(org: &AccountId, name: &TeamName) -> Bytes {
    join("itn/", &[org.as_str(), name.as_str()])
}
/// Prefix of the names of an organization's teams.
pub fn team_names(org: &AccountId) -> Bytes {
    join("itn/", &[org.as_str(), ""])
}
/// A membership in a team.
pub fn team_membership(team: &TeamId, member: &AccountId) -> Key<TeamMembership> {
    key(&[team.as_str(), member.as_str()])
}
/// Prefix of a team's memberships.
pub fn team_memberships(team: &TeamId) -> Bytes {
    join(Kind::TeamMembership.prefix(), &[team.as_str(), ""])
}
/// A team, by member. The value is the organization's id.
pub fn member_team(member: &AccountId, team: &TeamId) -> Bytes {
    join("ita/", &[member.as_str(), team.as_str()])
}
/// Prefix of a member's teams.
pub fn member_teams(member: &AccountId) -> Bytes {
    join("ita/", &[member.as_str(), ""])
}
/// A session, by the hash of its token.
pub fn session(hash: &str) -> Key<Session> {
    key(&[hash])
}
/// A session, by account.
pub fn account_session(account: &AccountId, hash: &str) -> Bytes {
    join("isa/", &[account.as_str(), hash])
}
/// Prefix of an account's sessions.
pub fn account_sessions(account: &AccountId) -> Bytes {
    join("isa/", &[account.as_str(), ""])
}
/// A registered service.
pub fn service(id: &ServiceId) -> Key<Service> {
    key(&[id.as_str()])
}
