//! Chores of the project: `cargo xtask check` (the house rules that no compiler checks, and what may come from others; also runs
//! as ordinary tests), `cargo xtask advisories` (whether a known hole is in what is built),
//! `cargo xtask crash` (what was acknowledged survives kill -9) and `cargo xtask cluster` (replicas that are broken in every
//! way show one history).

mod check;
mod cluster;
mod crash;
mod settings;
mod supply;

use std::{path::PathBuf, process::ExitCode};

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
    /// Lists the advisories of a copy of the RustSec database that speak of a crate that is built; fails when one is a hole.
    Advisories {
        /// The folder of the copy, with `crates` in it
        #[arg(long)]
        db: PathBuf,
    },
    /// Kills a server at random under load, again and again; everything acknowledged must be there.
    Crash(crash::Options),
    /// Breaks machines of a cluster under load, as root; its history must be linearizable, and nothing lost.
    Cluster(cluster::Options),
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Check => {
            let mut found: Vec<String> =
                check::all(&check::root())?.iter().map(ToString::to_string).collect();
            found.extend(settings::unread(&check::root())?);
            found.extend(supply::check(&check::root())?);
            for breach in &found {
                eprintln!("{breach}");
            }
            eprintln!("{} breaches of the house rules", found.len());
            Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Advisories { db } => {
            let (act, informed) = supply::advisories(&check::root(), &db)?;
            informed.iter().for_each(|line| eprintln!("for information: {line}"));
            act.iter().for_each(|line| eprintln!("{line}"));
            eprintln!("{} advisories to act on", act.len());
            Ok(if act.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Crash(options) => crash::run(&options),
        Command::Cluster(options) => cluster::run(&options),
    }
}
