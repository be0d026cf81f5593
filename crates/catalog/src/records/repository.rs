//! Repositories and what is counted of them.

use dtr_types::{AccountId, RepositoryId, RepositoryName, Timestamp};
use serde::{Deserialize, Serialize};

use super::record;
use crate::keys;

/// Who may read without a grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Everybody, also without login.
    Public,
    /// Only who has a grant.
    #[default]
    Private,
}

/// A repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Repository {
    /// Its id; a repository of the same name made later has another.
    pub id: RepositoryId,
    /// Its full name.
    pub name: RepositoryName,
    /// The account that owns it: by id, since an account of the same name may be another one elsewhere.
    pub namespace: AccountId,
    /// Whether that account is an organization, as told when the repository was made.
    #[serde(default)]
    pub namespace_is_org: bool,
    /// Who may read without a grant.
    pub visibility: Visibility,
    /// One line.
    #[serde(default)]
    pub short_description: String,
    /// A page of Markdown.
    #[serde(default)]
    pub long_description: String,
    /// Whether a tag, once pushed, keeps naming the same content.
    #[serde(default)]
    pub immutable_tags: bool,
    /// Whether a push starts a scan (kept for the scanner).
    #[serde(default)]
    pub scan_on_push: bool,
    /// How many tags to keep, the newest; 0 means all. Without effect where tags are immutable.
    #[serde(default)]
    pub tag_limit: u32,
    /// When it was made.
    pub created_at: Timestamp,
}
record!(Repository, Repository, |r| keys::repository(&r.id));

/// What is counted of a repository. Statistics: kept apart from what decides anything, and written in batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// The repository.
    pub repository: RepositoryId,
    /// Manifests pulled.
    pub pulls: u64,
    /// Manifests pushed.
    pub pushes: u64,
}
record!(Counters, Counters, |c| keys::counters(&c.repository));

/// A repository that was deleted: nobody sees it, its content is being unlinked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeletedRepository {
    /// Its id.
    pub id: RepositoryId,
    /// Its name, for messages.
    pub name: RepositoryName,
    /// When it was deleted.
    pub deleted_at: Timestamp,
}
record!(DeletedRepository, DeletedRepository, |d| keys::deleted_repository(&d.id));
