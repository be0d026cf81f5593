//! Chores of the project: `cargo xtask check` (the house rules that no compiler checks; also runs as an ordinary test),
//! `cargo xtask crash` (what was acknowledged survives kill -9) and `cargo xtask cluster` (replicas that are broken in every
//! way show one history).

mod check;
mod cluster;
mod crash;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of the project.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Checks the house rules over the whole checkout and lists every place that breaks one.
    Check,
    /// Kills a server at random under load, again and again; everything acknowledged must be there.
    Crash(crash::Options),
    /// Breaks machines of a cluster under load, as root; its history must be linearizable, and nothing lost.
    Cluster(cluster::Options),
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Check => {
            let found = check::all(&check::root())?;
            for breach in &found {
                eprintln!("{breach}");
            }
            eprintln!("{} breaches of the house rules", found.len());
            Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Crash(options) => crash::run(&options),
        Command::Cluster(options) => cluster::run(&options),
    }
}
