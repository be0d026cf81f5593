//! The commands: one file a noun, each from its arguments to what it prints. [`run`] is the table of all.

mod accounts;
mod backup;
mod cluster;
mod connect;
mod content;
mod events;
mod gc;
mod image;
mod local;
mod loss;
mod reconfigure;
mod register;
mod report;
mod revoke;
mod rolling;
mod status;
mod token;

use clap::CommandFactory as _;

use crate::{
    cli::{Cli, Command},
    failure::Result,
    terminal,
};

/// Runs the command that was asked for.
pub async fn run(cli: Cli) -> Result<()> {
    if !matches!(cli.command, Command::Serve(_)) {
        // What commands have to say they say themselves; the log is for those who look for a fault.
        let level = if cli.debug { "debug" } else { "error" };
        dtr_transport::init_logging(dtr_transport::LogFormat::Text, level)?;
    }
    match cli.command {
        Command::Install(args) => local::install(args).await,
        Command::Serve(args) => local::serve(args, cli.debug).await,
        Command::Destroy(args) => local::destroy(args).await,
        Command::Restore(args) => local::restore(args).await,
        Command::Upgrade(args) => rolling::upgrade(args).await,
        Command::Reconfigure(args) => reconfigure::run(args).await,
        Command::Ping(args) => local::ping(&args).await,
        Command::Status(args) => status::run(args).await,
        Command::Backup(args) => backup::run(args).await,
        Command::Gc(args) => gc::run(args).await,
        Command::User(command) => accounts::user(command).await,
        Command::Org(command) => accounts::org(command).await,
        Command::Team(command) => accounts::team(command).await,
        Command::Repo(command) => content::repo(command).await,
        Command::Grant(command) => content::grant(command).await,
        Command::Revoke(args) => revoke::run(args).await,
        Command::Events(command) => events::run(command).await,
        Command::Tag(command) => content::tag(command).await,
        Command::Token(command) => token::token(command).await,
        Command::Image(command) => image::run(command).await,
        Command::Images => {
            let version = env!("CARGO_PKG_VERSION");
            terminal::print(&format!("docker/dtr:{version}\ndocker/ucp:{version}\n"))
        }
        Command::Join(args) => cluster::join(args).await,
        Command::Remove(args) => cluster::remove(args).await,
        Command::EmergencyRepair(args) => cluster::emergency_repair(args).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "dtr", &mut script);
            terminal::print(&String::from_utf8_lossy(&script))
        }
    }
}
