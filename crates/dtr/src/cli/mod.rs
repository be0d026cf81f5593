//! The command line: commands, flags and their environment names, as of the original where it has them.

mod admin;
mod flags;
mod image;
mod storage;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use admin::{
    AdminArgs, EventsCommand, GrantCommand, OrgCommand, Output, RepoCommand, RevokeArgs,
    TagCommand, Target, TeamCommand, TokenCommand, UserCommand,
};
pub use flags::{
    ConnectArgs, DataDirArgs, DecryptionArgs, EncryptionArgs, EtcdArgs, GivenEtcdArgs, LogArgs,
    NetworkArgs, SignerArgs, StoreArgs, StoreEngine, TlsArgs, UcpArgs,
};
pub use image::{ImageCommand, RegistryArgs};
pub use storage::{S3Args, StorageArgs};

/// A container registry that can be lost and got back.
#[derive(Debug, Parser)]
#[command(name = "dtr", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// Say on standard error what is done
    #[arg(long, global = true, env = "DTR_DEBUG", value_parser = clap::builder::FalseyValueParser::new())]
    pub debug: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Install a replica on this machine and start it
    Install(InstallArgs),
    /// Run an installed replica in the foreground, as a container does
    Serve(ServeArgs),
    /// Change given settings of a replica, leave the others
    Reconfigure(ReconfigureArgs),
    /// Say how a replica and its cluster are
    Status(StatusArgs),
    /// Say whether the replica of this machine can do its work, as /_ping does
    Ping(PingArgs),
    /// Stop a replica and delete everything it has on this machine
    Destroy(DestroyArgs),
    /// Write a backup of a running registry to standard output, or look into one
    Backup(BackupArgs),
    /// Make a replica from a backup on standard input
    Restore(RestoreArgs),
    /// Restart replicas with the program that is installed, one after the other, then raise the format of the data
    Upgrade(UpgradeArgs),
    /// Remove content that nothing refers to
    Gc(GcArgs),
    /// List the container images that an installation needs
    Images,
    /// Install a replica on this machine that joins the cluster of another
    Join(JoinArgs),
    /// Remove replicas from their cluster, alive or dead
    Remove(RemoveArgs),
    /// Make one survivor a cluster of its own, when the majority is lost for good
    EmergencyRepair(RepairArgs),
    /// Manage users
    #[command(subcommand)]
    User(UserCommand),
    /// Manage organizations and their members
    #[command(subcommand)]
    Org(OrgCommand),
    /// Manage teams and their members
    #[command(subcommand)]
    Team(TeamCommand),
    /// Manage repositories
    #[command(subcommand)]
    Repo(RepoCommand),
    /// Manage what teams may do
    #[command(subcommand)]
    Grant(GrantCommand),
    /// Manage access tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// End all sessions and tokens of a user, or of everybody, on the day of a compromise
    Revoke(RevokeArgs),
    /// Read what happened
    #[command(subcommand)]
    Events(EventsCommand),
    /// Manage tags
    #[command(subcommand)]
    Tag(TagCommand),
    /// Push, pull and copy images without any engine
    #[command(subcommand)]
    Image(ImageCommand),
    /// Print the completion script of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// `dtr install`
#[derive(Debug, Args)]
pub struct InstallArgs {
    #[command(flatten)]
    pub dir: DataDirArgs,
    /// UCP to register with; without it, accounts are kept by the registry itself
    #[command(flatten)]
    pub ucp: UcpArgs,
    /// Id of the replica: 12 hexadecimal digits [default: random]
    #[arg(long, env = "DTR_INSTALL_REPLICA_ID")]
    pub replica_id: Option<dtr_types::ReplicaId>,
    /// First administrator, when accounts are kept by the registry itself
    #[arg(long, env = "DTR_ADMIN_USERNAME", default_value = "admin")]
    pub admin_username: String,
    /// The administrator's password [default: random, printed once]
    #[arg(long, env = "DTR_ADMIN_PASSWORD", hide_env_values = true, allow_hyphen_values = true)]
    pub admin_password: Option<dtr_types::Secret>,
    /// Take away what the UCP has registered for the same address or replica id: the registry that was lost
    #[arg(long)]
    pub replace_registration: bool,
    #[command(flatten)]
    pub network: NetworkArgs,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub storage: StorageArgs,
    /// Take a storage with content that is not of a registry like this; what no image here needs is removed from it
    #[arg(long)]
    pub take_over_storage: bool,
    #[command(flatten)]
    pub log: LogArgs,
    /// Do nothing, and succeed, when there is a replica in the data directory: for whatever runs it at each start
    #[arg(long)]
    pub unless_installed: bool,
    /// Only install; run it later with "dtr serve"
    #[arg(long)]
    pub no_start: bool,
}

/// `dtr join`
#[derive(Debug, Args)]
pub struct JoinArgs {
    #[command(flatten)]
    pub dir: DataDirArgs,
    #[command(flatten)]
    pub ucp: UcpArgs,
    /// The replica to join through
    #[arg(long, env = "DTR_REPLICA_ID", value_name = "ID")]
    pub existing_replica_id: Option<dtr_types::ReplicaId>,
    /// Id of the new replica: 12 hexadecimal digits [default: random]
    #[arg(long, env = "DTR_INSTALL_REPLICA_ID")]
    pub replica_id: Option<dtr_types::ReplicaId>,
    #[command(flatten)]
    pub network: NetworkArgs,
    #[command(flatten)]
    pub etcd: EtcdArgs,
    #[command(flatten)]
    pub storage: StorageArgs,
    #[command(flatten)]
    pub log: LogArgs,
    /// Join although other replicas do not answer: one more loss may take the majority away
    #[arg(long, env = "DTR_UNSAFE_JOIN", value_parser = clap::builder::FalseyValueParser::new())]
    pub unsafe_join: bool,
    /// Accepted for the original's sake: what a join needs of the network, it tests by using it
    #[arg(long, env = "DTR_SKIP_NETWORK_TEST", hide = true, value_parser = clap::builder::FalseyValueParser::new())]
    pub skip_network_test: bool,
    /// Do nothing, and succeed, when there is a replica in the data directory: for whatever runs it at each start
    #[arg(long)]
    pub unless_installed: bool,
    /// Only join; it catches up and votes when it runs, later, with "dtr serve"
    #[arg(long)]
    pub no_start: bool,
}

/// `dtr ping`
#[derive(Debug, Args)]
pub struct PingArgs {
    #[command(flatten)]
    pub dir: DataDirArgs,
}

/// `dtr remove`
#[derive(Debug, Args)]
pub struct RemoveArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// The replicas to remove, several with commas (old name: --replica-id)
    #[arg(
        long,
        env = "DTR_REMOVE_REPLICA_IDS",
        alias = "replica-id",
        value_delimiter = ',',
        value_name = "IDS",
        required = true
    )]
    pub replica_ids: Vec<dtr_types::ReplicaId>,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// `dtr emergency-repair`
#[derive(Debug, Args)]
pub struct RepairArgs {
    #[command(flatten)]
    pub dir: DataDirArgs,
    #[command(flatten)]
    pub original: RepairOriginal,
    /// The survivor's id, to be sure that it is this one
    #[arg(long, env = "DTR_REPLICA_ID", value_name = "ID")]
    pub existing_replica_id: Option<dtr_types::ReplicaId>,
    /// Do not ask
    #[arg(short, long, env = "YES", value_parser = clap::builder::FalseyValueParser::new())]
    pub yes: bool,
    /// Only repair; run it later with "dtr serve"
    #[arg(long)]
    pub no_start: bool,
}

/// What the original's repair was given, and ours needs not: it works on the survivor's own machine, and the survivor tells
/// its UCP by itself.
#[derive(Debug, Args)]
pub struct RepairOriginal {
    #[arg(long, env = "UCP_URL", hide = true)]
    pub ucp_url: Option<String>,
    #[arg(long, env = "UCP_USERNAME", hide = true)]
    pub ucp_username: Option<String>,
    #[arg(
        long,
        env = "UCP_PASSWORD",
        hide = true,
        hide_env_values = true,
        allow_hyphen_values = true
    )]
    pub ucp_password: Option<dtr_types::Secret>,
    #[arg(long, env = "UCP_CA", hide = true, hide_env_values = true, allow_hyphen_values = true)]
    pub ucp_ca: Option<String>,
    #[arg(long, env = "UCP_INSECURE_TLS", hide = true, value_parser = clap::builder::FalseyValueParser::new())]
    pub ucp_insecure_tls: bool,
    #[arg(long, env = "PRUNE", hide = true, value_parser = clap::builder::FalseyValueParser::new())]
    pub prune: bool,
}

/// `dtr serve`
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub dir: DataDirArgs,
    /// Leave the session of whoever started it: how "install" starts it
    #[arg(long, hide = true)]
    pub detached: bool,
    #[command(flatten)]
    pub log: LogArgs,
}

/// `dtr reconfigure`
#[derive(Debug, Args)]
pub struct ReconfigureArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
    #[command(flatten)]
    pub network: NetworkArgs,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub storage: StorageArgs,
    #[command(flatten)]
    pub log: LogArgs,
    /// Speak plain HTTP no more: takes back --plain-http
    #[arg(long, conflicts_with = "plain_http")]
    pub no_plain_http: bool,
    /// Believe no proxy any more: takes back --trusted-proxies
    #[arg(long, conflicts_with = "trusted_proxies")]
    pub no_trusted_proxies: bool,
    /// Present a certificate of the cluster's own authority again: takes back --dtr-cert
    #[arg(long, conflicts_with = "dtr_cert")]
    pub no_dtr_cert: bool,
    /// Keep image content inside the data directory again: takes back --dtr-storage-volume
    #[arg(long, conflicts_with_all = ["dtr_storage_volume", "nfs_storage_url", "s3_bucket", "s3_form"])]
    pub dtr_use_default_storage: bool,
    /// How large the file of this replica's etcd may become, in MiB; the same on all replicas
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(16..=102_400))]
    pub etcd_quota_mib: Option<u64>,
    #[command(flatten)]
    pub etcd: GivenEtcdArgs,
    /// Restart for what holds from the next start: this replica with --data-dir, else all, one after the other
    #[arg(long)]
    pub restart: bool,
    #[command(flatten)]
    pub drain: DrainArgs,
    /// With --data-dir and --ucp-url, which register the registry anew: take away what the UCP has for its address or replicas
    #[arg(long)]
    pub replace_registration: bool,
    /// The new storage already holds all blobs
    #[arg(long, env = "STORAGE_MIGRATED", value_parser = clap::builder::FalseyValueParser::new())]
    pub storage_migrated: bool,
}

/// `dtr status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// `dtr destroy`
#[derive(Debug, Args)]
pub struct DestroyArgs {
    #[command(flatten)]
    pub dir: DataDirArgs,
    #[command(flatten)]
    pub ucp: UcpArgs,
    /// Id of the replica to destroy, to be sure that it is this one
    #[arg(long, env = "DTR_DESTROY_REPLICA_ID")]
    pub replica_id: Option<dtr_types::ReplicaId>,
    /// Keep image content, for a restore into the same folder; what replicas share is always kept
    #[arg(long)]
    pub keep_storage: bool,
    /// Delete nothing: stop the replica and put its folder aside, as DIR.before-TIME
    #[arg(long, conflicts_with = "keep_storage")]
    pub keep_old: bool,
    /// Do not ask
    #[arg(short, long, env = "YES", value_parser = clap::builder::FalseyValueParser::new())]
    pub yes: bool,
}

/// `dtr backup`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BackupArgs {
    /// Look into a backup instead of taking one
    #[command(subcommand)]
    pub command: Option<BackupCommand>,
    #[command(flatten)]
    pub take: BackupTakeArgs,
}

/// Taking a backup.
#[derive(Debug, Args)]
pub struct BackupTakeArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// Write to this file (through FILE.part, synced and renamed) instead of standard output
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Put the image content in, as an OCI layout
    #[arg(long)]
    pub with_images: bool,
    /// Put UCP's users, organizations and teams in, with password hashes if an administrator's password is given
    #[arg(long)]
    pub with_identity: bool,
    #[command(flatten)]
    pub encryption: EncryptionArgs,
    /// Write what the backup is worth to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Accepted for the original's sake: every backup here is consistent
    #[arg(long, env = "DTR_OFFLINE_BACKUP", hide = true, value_parser = clap::builder::FalseyValueParser::new())]
    pub offline_backup: bool,
}

/// Looking into a backup.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Check that a backup is whole, genuine and consistent
    Verify {
        /// The archive, or "-" for standard input
        file: PathBuf,
        #[command(flatten)]
        decryption: DecryptionArgs,
        /// Ask the blob storage in this folder for every blob that the backup mentions
        #[arg(long, value_name = "DIR", conflicts_with = "s3_bucket")]
        storage: Option<PathBuf>,
        #[command(flatten)]
        bucket: Box<S3Args>,
        /// Read and hash every blob of the storage as well
        #[arg(long)]
        deep: bool,
        #[command(flatten)]
        signer: SignerArgs,
        /// How to print the result
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Say what is in a backup
    Inspect {
        /// The archive, or "-" for standard input
        file: PathBuf,
        #[command(flatten)]
        decryption: DecryptionArgs,
        /// How to print it
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Write what is whole of a damaged backup as a new one, and say what is lost
    Salvage(SalvageArgs),
    /// List the backups that the registry remembers
    List {
        #[command(flatten)]
        connect: ConnectArgs,
        /// How to print it
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
}

/// `dtr backup salvage`
#[derive(Debug, Args)]
pub struct SalvageArgs {
    /// The damaged archive, a plain file that is not encrypted
    pub file: PathBuf,
    /// Write the new archive to this file (through FILE.part, synced and renamed)
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    #[command(flatten)]
    pub encryption: EncryptionArgs,
    /// Write what was kept and what was lost to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// `dtr restore`
#[derive(Debug, Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    pub dir: DataDirArgs,
    #[command(flatten)]
    pub ucp: UcpArgs,
    /// Id to give to the replica [default: random; need not be the old one]
    #[arg(long, env = "DTR_INSTALL_REPLICA_ID")]
    pub replica_id: Option<dtr_types::ReplicaId>,
    #[command(flatten)]
    pub network: NetworkArgs,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub storage: StorageArgs,
    /// Use the storage that the backup names: the folder in the data directory; a bucket must be named by its own flags
    #[arg(long, env = "DTR_DEFAULT_STORAGE", value_parser = clap::builder::FalseyValueParser::new())]
    #[arg(conflicts_with_all = ["dtr_storage_volume", "nfs_storage_url", "s3_bucket", "s3_form"])]
    pub dtr_use_default_storage: bool,
    /// Take a storage with content that is not of a registry like this; what no image here needs is removed from it
    #[arg(long)]
    pub take_over_storage: bool,
    /// Go on although the storage has none of the content that the backup mentions: all images lack it
    #[arg(long)]
    pub allow_empty_storage: bool,
    /// Take an archive that was salvaged from a damaged one, although not everything is in it
    #[arg(long)]
    pub salvaged: bool,
    /// Put a replica that is in the data directory, and does not run, aside as DIR.before-TIME
    #[arg(long)]
    pub keep_old: bool,
    #[command(flatten)]
    pub decryption: DecryptionArgs,
    #[command(flatten)]
    pub log: LogArgs,
    /// Say what would happen, change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Owners that have another name now: a file of lines "old-name new-name"
    #[arg(long, value_name = "FILE")]
    pub map_owners: Option<PathBuf>,
    /// Load the archive's users, organizations and teams first: into the UCP, or into the registry's own accounts
    #[arg(long)]
    pub with_identity: bool,
    /// Go on although owners are unknown to the identity service
    #[arg(long)]
    pub allow_unknown_owners: bool,
    #[command(flatten)]
    pub signer: SignerArgs,
    /// Make a copy beside the original, for a rehearsal: new keys and authority, access tokens off, no UCP asked
    #[arg(long)]
    pub clone: bool,
    /// Take away what the UCP has registered for the same address or replica id: the registry that was lost
    #[arg(long)]
    pub replace_registration: bool,
    /// Write what came back to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Only restore; run it later with "dtr serve"
    #[arg(long)]
    pub no_start: bool,
}

/// `dtr upgrade`
#[derive(Debug, Args)]
pub struct UpgradeArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
    #[command(flatten)]
    pub drain: DrainArgs,
}

/// How replicas go when they restart.
#[derive(Debug, Clone, Args)]
pub struct DrainArgs {
    /// How long a replica says that it goes before it does, in seconds: until the load balancer has seen it
    #[arg(long, value_name = "SECONDS", default_value_t = 12)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=600))]
    pub drain_seconds: u64,
}

/// `dtr gc`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("mode").required(true))]
pub struct GcArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// Only say what would be removed
    #[arg(long, group = "mode")]
    pub dry_run: bool,
    /// Remove it
    #[arg(long, group = "mode")]
    pub run: bool,
    /// Remove nothing: give images back what they lacked and is in the storage again
    #[arg(long, group = "mode")]
    pub relink: bool,
    /// Say that the clock of the replica is right now, although it was set or has jumped: what is old is deleted again
    #[arg(long, requires = "run")]
    pub clock_is_right: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}
