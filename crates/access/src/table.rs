//! The permission table: every operation, and who may do it. Source: the original's permission levels.

use dtr_catalog::records::AccessLevel;

use crate::Action;

/// Everything that needs a permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// See a repository, its tags and manifests.
    ViewRepository,
    /// Pull.
    Pull,
    /// Push, and upload what a push needs.
    Push,
    /// Delete a tag, a manifest, a blob's link.
    DeleteTag,
    /// See what happened in a repository, without pulls.
    ViewEvents,
    /// See pulls among what happened.
    ViewPullEvents,
    /// Change description, visibility, immutability.
    EditRepository,
    /// See and change which teams have a level on a repository.
    ManageTeamAccess,
    /// Delete a repository.
    DeleteRepository,
    /// Make a repository in a namespace.
    CreateRepository,
    /// See a team's level on a namespace.
    ViewNamespaceAccess,
    /// See and change which teams have a level on a namespace.
    ManageNamespaceAccess,
    /// Delete all repositories of a namespace.
    DeleteNamespaceRepositories,
    /// Read the catalog of all repositories through `/v2/_catalog` (which shows only readable ones).
    ListCatalog,
    /// List and search repositories through `/api/v0` (which shows only readable ones).
    ListRepositories,
    /// Search accounts.
    SearchAccounts,
    /// See the version, and what the registry can do.
    ViewFeatures,
    /// See the repositories on which a team has a level.
    ViewTeamRepositories,
    /// See, make, change and delete access tokens.
    ManageTokens,
    /// See events of the whole registry.
    ViewAllEvents,
    /// See settings.
    ViewSettings,
    /// Change settings and certificates.
    ChangeSettings,
    /// See the status of the cluster.
    ViewClusterStatus,
    /// Let replicas in, and remove them.
    ManageCluster,
    /// See alerts.
    ViewAlerts,
    /// Read the figures of `/metrics`.
    ViewMetrics,
    /// Run the collector.
    CollectGarbage,
    /// Take backups, and see those that were taken.
    TakeBackup,
    /// End sessions and tokens of everybody, and take the keys of tokens back.
    RevokeCredentials,
    /// Delete an account with its repositories.
    DeleteAccount,
}

/// What an operation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Realm {
    /// One repository.
    Repository,
    /// The namespace of an account.
    Namespace,
    /// The registry as a whole.
    System,
}

/// A row of the table. Administrators may do everything; inactive accounts nothing.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// What is done.
    pub operation: Operation,
    /// In words.
    pub label: &'static str,
    /// What it is about.
    pub realm: Realm,
    /// Whether somebody without login may, on a public repository.
    pub anonymous_if_public: bool,
    /// Whether any user may, on a public repository (or, for the registry as a whole, at all).
    pub user_if_public: bool,
    /// The level that suffices; on a namespace it is the level on the namespace.
    pub level: Option<AccessLevel>,
    /// Whether any member of the organization may.
    pub member: bool,
    /// Whether the owner of the namespace may: the user itself, or an owner of the organization.
    pub owner: bool,
    /// What a token must allow.
    pub action: Action,
}

const fn on_repository(
    operation: Operation,
    label: &'static str,
    level: AccessLevel,
    action: Action,
) -> Rule {
    Rule {
        operation,
        label,
        realm: Realm::Repository,
        anonymous_if_public: false,
        user_if_public: false,
        level: Some(level),
        member: false,
        owner: true,
        action,
    }
}

const fn readable(operation: Operation, label: &'static str, anonymous: bool) -> Rule {
    Rule {
        anonymous_if_public: anonymous,
        user_if_public: true,
        ..on_repository(operation, label, AccessLevel::ReadOnly, Action::Pull)
    }
}

const fn on_namespace(
    operation: Operation,
    label: &'static str,
    level: Option<AccessLevel>,
    member: bool,
) -> Rule {
    Rule {
        operation,
        label,
        realm: Realm::Namespace,
        anonymous_if_public: false,
        user_if_public: false,
        level,
        member,
        owner: true,
        action: Action::Manage,
    }
}

const fn on_system(operation: Operation, label: &'static str) -> Rule {
    Rule {
        operation,
        label,
        realm: Realm::System,
        anonymous_if_public: false,
        user_if_public: false,
        level: None,
        member: false,
        owner: false,
        action: Action::Manage,
    }
}

/// The table.
pub const RULES: &[Rule] = {
    use AccessLevel::{Admin, ReadWrite};
    use Operation as O;
    &[
        readable(O::ViewRepository, "see a repository, its tags and manifests", true),
        readable(O::Pull, "pull", true),
        on_repository(O::Push, "push", ReadWrite, Action::Push),
        on_repository(O::DeleteTag, "delete a tag, manifest or blob", ReadWrite, Action::Delete),
        readable(O::ViewEvents, "see events of a repository", false),
        on_repository(O::ViewPullEvents, "see pulls among the events", Admin, Action::Manage),
        on_repository(O::EditRepository, "change a repository", Admin, Action::Manage),
        on_repository(O::ManageTeamAccess, "manage team access", Admin, Action::Manage),
        on_repository(O::DeleteRepository, "delete a repository", Admin, Action::Manage),
        on_namespace(O::CreateRepository, "make a repository in a namespace", Some(Admin), false),
        on_namespace(O::ViewNamespaceAccess, "see a team's level on a namespace", None, true),
        on_namespace(O::ManageNamespaceAccess, "manage access to a namespace", Some(Admin), false),
        on_namespace(
            O::DeleteNamespaceRepositories,
            "delete all repositories of a namespace",
            None,
            false,
        ),
        Rule {
            user_if_public: true,
            action: Action::Pull,
            ..on_system(O::ListCatalog, "list readable repositories through /v2/_catalog")
        },
        Rule {
            anonymous_if_public: true,
            user_if_public: true,
            action: Action::Pull,
            ..on_system(O::ListRepositories, "list and search readable repositories")
        },
        Rule { user_if_public: true, ..on_system(O::SearchAccounts, "search accounts") },
        Rule {
            user_if_public: true,
            action: Action::Any,
            ..on_system(O::ViewFeatures, "see the version and what the registry can do")
        },
        on_namespace(O::ViewTeamRepositories, "see the repositories of a team", None, true),
        on_namespace(O::ManageTokens, "see and change access tokens", None, false),
        on_system(O::ViewAllEvents, "see events of the whole registry"),
        on_system(O::ViewSettings, "see settings"),
        on_system(O::ChangeSettings, "change settings and certificates"),
        Rule {
            action: Action::Backup,
            ..on_system(O::ViewClusterStatus, "see the status of the cluster")
        },
        on_system(O::ManageCluster, "let replicas in, and remove them"),
        Rule { action: Action::Backup, ..on_system(O::ViewAlerts, "see alerts") },
        // A token that can only pull is enough: whoever gathers figures is to hold no more.
        Rule { action: Action::Pull, ..on_system(O::ViewMetrics, "read the figures of /metrics") },
        on_system(O::CollectGarbage, "run the collector"),
        Rule { action: Action::Backup, ..on_system(O::TakeBackup, "take and list backups") },
        on_system(O::RevokeCredentials, "end all sessions and tokens"),
        on_system(O::DeleteAccount, "delete an account with its repositories"),
    ]
};

impl Operation {
    /// Its row.
    pub fn rule(self) -> &'static Rule {
        // Every operation has a row: a test walks them all.
        RULES.iter().find(|rule| rule.operation == self).unwrap_or(&RULES[RULES.len() - 1])
    }
}

/// The answer that somebody may do something. It is not handed on: that every handler asks is proven by the tests that walk all
/// routes with all kinds of callers, not by this type. Only [`crate::Access`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Permit {
    operation: Operation,
    target: String,
}

impl Permit {
    pub(crate) fn new(operation: Operation, target: impl Into<String>) -> Self {
        Self { operation, target: target.into() }
    }

    /// What may be done.
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// On what: a repository's full name, an account's name; empty for the registry as a whole.
    pub fn target(&self) -> &str {
        &self.target
    }
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nobody logged in, and it needs a login.
    #[error("authentication is required")]
    NotAuthenticated,
    /// The caller may not even know of it: to be told like something that does not exist.
    #[error("there is no such thing, or you may not see it")]
    Absent,
    /// The caller sees it but may not do this; says what it would need.
    #[error("{0}")]
    Forbidden(String),
}

/// The table as Markdown, for the documents.
pub fn markdown() -> String {
    let mut text = String::from(
        "| operation | anonymous | any user | read-only | read-write | admin | owner of the namespace | administrator | token for backups |\n|:--|:-:|:-:|:-:|:-:|:-:|:-:|:-:|:-:|\n",
    );
    for rule in RULES {
        let mark = |yes: bool| if yes { "x" } else { "" };
        let public = |yes: bool| match (yes, rule.realm) {
            (true, Realm::Repository) => "public only",
            (true, _) => "x",
            (false, _) => "",
        };
        let any = match rule {
            Rule { member: true, .. } => "members",
            _ => public(rule.user_if_public),
        };
        let from = |level: AccessLevel| mark(rule.level.is_some_and(|least| least <= level));
        text.push_str(&format!(
            "| {} | {} | {} | {} | {} | {} | {} | x | {} |\n",
            rule.label,
            public(rule.anonymous_if_public),
            any,
            from(AccessLevel::ReadOnly),
            from(AccessLevel::ReadWrite),
            from(AccessLevel::Admin),
            mark(rule.owner),
            mark(matches!(rule.action, Action::Backup | Action::Any)),
        ));
    }
    text
}
