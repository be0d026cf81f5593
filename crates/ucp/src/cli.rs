//! The command line, with the original's names for flags and environment where it had them.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use dtr_types::{AccountName, Secret};

/// The identity service: users, organizations and teams for one or several registries
#[derive(Debug, Parser)]
#[command(name = "ucp", version, about)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
    /// Log what is going on in detail
    #[arg(long, short = 'D', global = true, env = "DEBUG")]
    pub debug: bool,
    /// Log in JSON, one object a line
    #[arg(long, global = true, env = "JSONLOG")]
    pub jsonlog: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a UCP on this machine and start it
    Install(InstallArgs),
    /// Run an installed UCP in the foreground
    Serve(ServeArgs),
    /// Stream a backup to standard output, while the UCP runs
    Backup(BackupArgs),
    /// Make a UCP out of a backup read from standard input, and start it
    Restore(RestoreArgs),
    /// Say how the UCP of this machine is
    Status(StatusArgs),
    /// Stop the UCP of this machine
    Stop(DataDirArgs),
}

/// Where the data is.
#[derive(Clone, Debug, Args)]
pub struct DataDirArgs {
    /// Folder of the UCP's data
    #[arg(long, env = "UCP_DATA_DIR", default_value = "/var/lib/ucp", value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// Names, addresses and ports.
#[derive(Clone, Debug, Args)]
pub struct NetworkArgs {
    /// Name or address that clients reach this machine by [default: the machine's name]
    #[arg(long, env = "UCP_HOST_ADDRESS", value_name = "HOST")]
    pub host_address: Option<String>,
    /// Further name or address for the certificate; may be repeated
    #[arg(long = "san", env = "UCP_SAN", value_delimiter = ',', value_name = "HOST")]
    pub sans: Vec<String>,
    /// Port for HTTPS
    #[arg(long, env = "UCP_CONTROLLER_PORT", default_value_t = 443, value_name = "PORT")]
    pub controller_port: u16,
    /// Address to listen on [default: all]
    #[arg(long, env = "UCP_LISTEN_ADDRESS", value_name = "ADDRESS")]
    pub listen_address: Option<IpAddr>,
}

/// `ucp install`
#[derive(Debug, Args)]
pub struct InstallArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "the text would be shown as help")]
    pub data: DataDirArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "the text would be shown as help")]
    pub network: NetworkArgs,
    /// Name of the first administrator
    #[arg(long, env = "UCP_ADMIN_USER", default_value = "admin", value_name = "NAME")]
    pub admin_username: AccountName,
    /// Its password; made and shown once when left out
    #[arg(long, env = "UCP_ADMIN_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    pub admin_password: Option<Secret>,
    /// Write the authority of its certificate there, for those who are to trust it
    #[arg(long, env = "UCP_CA_OUTPUT", value_name = "FILE")]
    pub ca_output: Option<PathBuf>,
    /// Do nothing, and succeed, when there is a UCP in the data directory: for whatever runs it at each start
    #[arg(long)]
    pub unless_installed: bool,
    /// Do not start it: `ucp serve` does
    #[arg(long)]
    pub no_start: bool,
}

/// `ucp serve`
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "the text would be shown as help")]
    pub data: DataDirArgs,
    /// Leave the session of whoever started this
    #[arg(long, hide = true)]
    pub detached: bool,
}

/// A passphrase, given in one of several ways.
#[derive(Clone, Debug, Default, Args)]
pub struct PassphraseArgs {
    /// Passphrase of the archive
    #[arg(long, env = "UCP_PASSPHRASE", hide_env_values = true, value_name = "PASSPHRASE")]
    #[arg(conflicts_with_all = ["passphrase_file", "no_passphrase"])]
    pub passphrase: Option<Secret>,
    /// File whose first line is the passphrase
    #[arg(long, value_name = "FILE", conflicts_with = "no_passphrase")]
    pub passphrase_file: Option<PathBuf>,
    /// The archive is not encrypted
    #[arg(long)]
    pub no_passphrase: bool,
}

/// `ucp backup`
#[derive(Debug, Args)]
pub struct BackupArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "the text would be shown as help")]
    pub data: DataDirArgs,
    /// Back up the UCP at this address instead of the one on this machine
    #[arg(long, env = "UCP_URL", value_name = "URL")]
    pub ucp_url: Option<String>,
    /// Administrator to act as, with --ucp-url
    #[arg(long, env = "UCP_USERNAME", value_name = "NAME")]
    pub ucp_username: Option<String>,
    /// Its password; asked for on a terminal when left out
    #[arg(long, env = "UCP_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    pub ucp_password: Option<Secret>,
    /// PEM text of the authority behind the UCP's certificate, such as "$(cat ca.pem)"
    #[arg(long, env = "UCP_CA", hide_env_values = true, value_name = "PEM")]
    #[arg(allow_hyphen_values = true)]
    pub ucp_ca: Option<String>,
    /// Do not verify the UCP's certificate: anybody in between can listen
    #[arg(long, env = "UCP_INSECURE_TLS")]
    pub ucp_insecure_tls: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "the text would be shown as help")]
    pub passphrase: PassphraseArgs,
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `ucp restore`
#[derive(Debug, Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "the text would be shown as help")]
    pub data: DataDirArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "the text would be shown as help")]
    pub network: NetworkArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "the text would be shown as help")]
    pub passphrase: PassphraseArgs,
    /// Accept only this signing key (its id, as the backup's report shows it)
    #[arg(long, value_name = "KEY_ID")]
    pub signed_by: Option<String>,
    /// Only say what would happen
    #[arg(long)]
    pub dry_run: bool,
    /// Do not start it: `ucp serve` does
    #[arg(long)]
    pub no_start: bool,
}

/// `ucp status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "the text would be shown as help")]
    pub data: DataDirArgs,
    /// Form of the answer
    #[arg(long, short = 'o', default_value = "text", value_name = "FORM")]
    pub output: Form,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
}
