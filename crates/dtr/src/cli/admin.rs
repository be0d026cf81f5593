//! The administrator's commands over the REST interface, for people who script.

use clap::{Args, Subcommand, ValueEnum};
use dtr_types::Secret;

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
        name: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Make a user
    Create {
        name: String,
        /// The password; asked for on a terminal when left out
        #[arg(long, env = "DTR_USER_PASSWORD", hide_env_values = true)]
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
        name: String,
        /// What the user is called in full
        #[arg(long)]
        full_name: Option<String>,
        /// Whether it is an administrator
        #[arg(long)]
        is_admin: Option<bool>,
        /// Whether it may log in
        #[arg(long)]
        is_active: Option<bool>,
        /// A new password
        #[arg(long, env = "DTR_USER_PASSWORD", hide_env_values = true)]
        password: Option<Secret>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Delete a user
    Delete {
        name: String,
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
        name: String,
        /// What it is called in full
        #[arg(long, default_value = "")]
        full_name: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Delete an organization
    Delete {
        name: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// List its members
    Members {
        name: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Make a user a member
    AddMember {
        name: String,
        user: String,
        /// Make the user an owner of the organization
        #[arg(long)]
        owner: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Take a user out
    RemoveMember {
        name: String,
        user: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// `dtr team`
#[derive(Debug, Subcommand)]
pub enum TeamCommand {
    /// List the teams of an organization
    List {
        org: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Make a team
    Create {
        org: String,
        team: String,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Delete a team
    Delete {
        org: String,
        team: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// List its members
    Members {
        org: String,
        team: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Make a user a member
    AddMember {
        org: String,
        team: String,
        user: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Take a user out
    RemoveMember {
        org: String,
        team: String,
        user: String,
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
        namespace: Option<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show a repository
    Show {
        /// namespace/name
        repository: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Make a repository
    Create {
        /// namespace/name
        repository: String,
        /// Let everybody read it, also without login
        #[arg(long)]
        public: bool,
        /// Let no tag be pushed twice
        #[arg(long)]
        immutable_tags: bool,
        /// One line about it
        #[arg(long, default_value = "")]
        description: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Change a repository
    Update {
        /// namespace/name
        repository: String,
        /// public or private
        #[arg(long)]
        visibility: Option<String>,
        /// Whether no tag can be pushed twice
        #[arg(long)]
        immutable_tags: Option<bool>,
        /// One line about it
        #[arg(long)]
        description: Option<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Delete a repository and all its tags
    Delete {
        /// namespace/name
        repository: String,
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
        target: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Give a team of the owning organization a level
    Set {
        /// namespace/name, or a namespace
        target: String,
        /// The team
        team: String,
        /// read-only, read-write or admin
        level: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Take a team's level away
    Remove {
        /// namespace/name, or a namespace
        target: String,
        /// The team
        team: String,
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
        user: Option<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Make an access token; it is shown this one time
    Create {
        /// What it is called
        label: String,
        /// Whose [default: one's own]
        #[arg(long)]
        user: Option<String>,
        /// When it ends, in RFC 3339 form [default: never]
        #[arg(long)]
        expires: Option<String>,
        /// Limit it to this repository (namespace/name or namespace/*); may be given several times
        #[arg(long)]
        repository: Vec<String>,
        /// Limit it to pulling
        #[arg(long)]
        pull_only: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Rename an access token, or switch it on or off
    Update {
        /// Its id (the hash that "token list" shows)
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
        /// Its id (the hash that "token list" shows)
        id: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// `dtr tag`
#[derive(Debug, Subcommand)]
pub enum TagCommand {
    /// List the tags of a repository
    List {
        /// namespace/name
        repository: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show a tag
    Show {
        /// namespace/name
        repository: String,
        tag: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Delete a tag; what it names stays
    Delete {
        /// namespace/name
        repository: String,
        tag: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
}
