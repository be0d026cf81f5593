//! UCP: the identity service by itself. Accounts, organizations, teams, sessions, and the registries that trust it, over
//! a store of its own.
//!
//! - [`cli`] is the command line. [`install`], [`serve`](mod@serve), [`backup`], [`restore`] and [`status`] are the commands.
//! - [`data_dir`] says where everything is. [`server`] is what answers.
//!
//! Invariant: a data directory has a configuration file only when everything else in it is complete, so a command that is
//! killed leaves either a service that runs or nothing that looks like one.

pub mod backup;
pub mod cli;
pub mod data_dir;
pub mod install;
pub mod restore;
pub mod serve;
pub mod server;
pub mod status;

mod launch;
mod no_content;

use std::process::ExitCode;

use cli::{Cli, Command};
use dtr_archive::ArchiveError;
use dtr_recovery::{Exit, RecoveryError};
use dtr_transport::{LogFormat, init_logging};

/// The version of the program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs a command to its end.
pub fn run(cli: Cli) -> ExitCode {
    match try_run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ucp: {error:#}");
            ExitCode::from(exit_of(&error).code())
        }
    }
}

/// The exit code that an error has: `dtr_recovery::Exit` has the table.
fn exit_of(error: &anyhow::Error) -> Exit {
    if let Some(error) = error.downcast_ref::<RecoveryError>() {
        return error.exit();
    }
    match error.downcast_ref::<ArchiveError>() {
        Some(
            ArchiveError::NeedsIdentity
            | ArchiveError::NeedsPassphrase
            | ArchiveError::WrongPassphrase
            | ArchiveError::WrongIdentity,
        ) => Exit::Locked,
        Some(ArchiveError::Read { .. } | ArchiveError::Write { .. }) | None => Exit::Failed,
        Some(_) => Exit::Damaged,
    }
}

fn try_run(cli: Cli) -> anyhow::Result<ExitCode> {
    let level = match (cli.debug, &cli.command) {
        (true, _) => "debug",
        (false, Command::Serve(_)) => "info",
        (false, _) => "warn",
    };
    let format = if cli.jsonlog { LogFormat::Json } else { LogFormat::Text };
    init_logging(format, level)?;
    if let Command::Serve(args) = &cli.command
        && args.detached
    {
        dtr_service::begin_session();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Install(args) => install::run(args).await?,
            Command::Serve(args) => serve::run(args).await?,
            Command::Backup(args) => backup::run(args).await?,
            Command::Restore(args) => restore::run(args).await?,
            Command::Stop(args) => status::stop(&args).await?,
            Command::Status(args) => return status::run(args).await,
        }
        Ok(ExitCode::SUCCESS)
    })
}
