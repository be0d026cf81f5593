//! The administrator's commands over the REST interface, for people who script.

use clap::{Args, Subcommand, ValueEnum};
use dtr_types::{AccountName, RepositoryName, Secret, Tag, TeamName};

use super::ConnectArgs;

/// How a command prints what it found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Who may read a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Visibility {
    /// Everybody, also without login.
    Public,
    /// Who has a right to it.
    Private,
}

impl Visibility {
    /// As the REST interface calls it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
        }
    }
}

/// What a team may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Pull.
    ReadOnly,
    /// Pull and push.
    ReadWrite,
    /// Pull, push and manage the repository.
    Admin,
}

impl Level {
    /// As the REST interface calls it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "read-only",
            Self::ReadWrite => "read-write",
            Self::Admin => "admin",
        }
    }
}

/// What a team has a level on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One repository.
    Repository(RepositoryName),
    /// All repositories of a namespace, also future ones.
    Namespace(AccountName),
}

impl std::str::FromStr for Target {
    type Err = dtr_types::NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('/') {
            text.parse().map(Self::Repository)
        } else {
            text.parse().map(Self::Namespace)
        }
    }
}

/// What all administrator's commands need.
#[derive(Debug, Clone, Args)]
pub struct AdminArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// `dtr user`
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// List users
    List {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show a user
    Show {
        name: AccountName,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Make a user
    Create {
        name: AccountName,
        /// The password; asked for on a terminal when left out
        #[arg(long, env = "DTR_USER_PASSWORD", hide_env_values = true, allow_hyphen_values = true)]
        password: Option<Secret>,
        /// What the user is called in full
        #[arg(long, default_value = "")]
        full_name: String,
        /// Make it an administrator
        #[arg(long)]
        is_admin: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Change a user
    Update {
        name: AccountName,
        /// What the user is called in full
        #[arg(long)]
        full_name: Option<String>,
        /// Whether it is an administrator
        #[arg(long)]
        is_admin: Option<bool>,
        /// Whether it may log in
        #[arg(long)]
        is_active: Option<bool>,
        /// A new password; it ends all sessions and logins of the user
        #[arg(long, env = "DTR_USER_PASSWORD", hide_env_values = true, allow_hyphen_values = true)]
        password: Option<Secret>,
        /// End all access tokens of the user too
        #[arg(long)]
        end_tokens: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Delete a user
    Delete {
        name: AccountName,
        /// Delete the user's repositories too; without this, a user who has some is not deleted
        #[arg(long)]
        with_repositories: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// `dtr org`
#[derive(Debug, Subcommand)]
pub enum OrgCommand {
    /// List organizations
    List {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Make an organization
    Create {
        name: AccountName,
        /// What it is called in full
        #[arg(long, default_value = "")]
        full_name: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Delete an organization
    Delete {
        name: AccountName,
        /// Delete its repositories too; without this, an organization that has some is not deleted
        #[arg(long)]
        with_repositories: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// List its members
    Members {
        name: AccountName,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Make a user a member
    AddMember {
        name: AccountName,
        user: AccountName,
        /// Make the user an owner of the organization
        #[arg(long)]
        owner: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Take a user out
    RemoveMember {
        name: AccountName,
        user: AccountName,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// `dtr team`
#[derive(Debug, Subcommand)]
pub enum TeamCommand {
    /// List the teams of an organization
    List {
        org: AccountName,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Make a team
    Create {
        org: AccountName,
        team: TeamName,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Delete a team
    Delete {
        org: AccountName,
        team: TeamName,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// List its members
    Members {
        org: AccountName,
        team: TeamName,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Make a user a member
    AddMember {
        org: AccountName,
        team: TeamName,
        user: AccountName,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Take a user out
    RemoveMember {
        org: AccountName,
        team: TeamName,
        user: AccountName,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// `dtr repo`
#[derive(Debug, Subcommand)]
pub enum RepoCommand {
    /// List repositories
    List {
        /// Only those of this namespace
        #[arg(long)]
        namespace: Option<AccountName>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show a repository
    Show {
        /// namespace/name
        repository: RepositoryName,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Make a repository
    Create {
        /// namespace/name
        repository: RepositoryName,
        /// Let everybody read it, also without login
        #[arg(long)]
        public: bool,
        /// Let no tag be pushed twice
        #[arg(long, conflicts_with = "tag_limit")]
        immutable_tags: bool,
        /// Keep so many tags, those pushed last [default: all]
        #[arg(long)]
        tag_limit: Option<u32>,
        /// One line about it
        #[arg(long, default_value = "")]
        description: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Change a repository
    Update {
        /// namespace/name
        repository: RepositoryName,
        /// Who may read it
        #[arg(long, value_enum)]
        visibility: Option<Visibility>,
        /// Whether no tag can be pushed twice
        #[arg(long)]
        immutable_tags: Option<bool>,
        /// Keep so many tags, those pushed last; 0 for all
        #[arg(long)]
        tag_limit: Option<u32>,
        /// One line about it
        #[arg(long)]
        description: Option<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Delete a repository and all its tags
    Delete {
        /// namespace/name
        repository: RepositoryName,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// `dtr grant`
#[derive(Debug, Subcommand)]
pub enum GrantCommand {
    /// List the teams with a level on a repository, or on a namespace
    List {
        /// namespace/name, or a namespace
        target: Target,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Give a team of the owning organization a level
    Set {
        /// namespace/name, or a namespace
        target: Target,
        /// The team
        team: TeamName,
        /// What it may do
        #[arg(value_enum)]
        level: Level,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Take a team's level away
    Remove {
        /// namespace/name, or a namespace
        target: Target,
        /// The team
        team: TeamName,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// `dtr token`
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// List a user's access tokens
    List {
        /// Whose [default: one's own]
        #[arg(long)]
        user: Option<AccountName>,
        /// Also those that clients were given at a login, such as docker's
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Make an access token; it is shown this one time
    Create {
        /// What it is called
        label: String,
        /// Whose [default: one's own]
        #[arg(long)]
        user: Option<AccountName>,
        /// When it ends, in RFC 3339 form [default: never]
        #[arg(long)]
        expires: Option<String>,
        /// Limit it to this repository (namespace/name or namespace/*); may be given several times
        #[arg(long)]
        repository: Vec<String>,
        /// Limit it to pulling
        #[arg(long)]
        pull_only: bool,
        /// Limit it to taking and listing backups and to the status: for an administrator's account
        #[arg(long, conflicts_with_all = ["pull_only", "repository"])]
        backups_only: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Rename an access token, or switch it on or off
    Update {
        /// Its id, as "token list" shows it, or the first digits of it
        id: String,
        /// A new label
        #[arg(long)]
        label: Option<String>,
        /// Whether it is accepted
        #[arg(long)]
        active: Option<bool>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Delete an access token
    Delete {
        /// Its id, as "token list" shows it, or the first digits of it
        id: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// `dtr revoke`
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// Whose sessions, access tokens and logins end
    #[arg(long, value_name = "NAME", required_unless_present = "everybody")]
    pub user: Option<AccountName>,
    /// End those of everybody, one's own too
    #[arg(long, conflicts_with = "user")]
    pub everybody: bool,
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// `dtr events`
#[derive(Debug, Subcommand)]
pub enum EventsCommand {
    /// Write events to standard output, oldest first, as one JSON object a line
    Export {
        /// Only those at or after this time, in RFC 3339 form
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Only those before this time, in RFC 3339 form [default: now]
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// Only those after the event of this id: the last one of an earlier export
        #[arg(long, value_name = "ID")]
        after: Option<String>,
        /// Leave pulls out
        #[arg(long)]
        without_pulls: bool,
        #[command(flatten)]
        connect: ConnectArgs,
    },
}

/// `dtr tag`
#[derive(Debug, Subcommand)]
pub enum TagCommand {
    /// List the tags of a repository
    List {
        /// namespace/name
        repository: RepositoryName,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show a tag
    Show {
        /// namespace/name
        repository: RepositoryName,
        tag: Tag,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Delete a tag; what it names stays
    Delete {
        /// namespace/name
        repository: RepositoryName,
        tag: Tag,
        /// Delete what it names too, with all its other tags; the room is free after the grace period of collection
        #[arg(long)]
        with_image: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
}
