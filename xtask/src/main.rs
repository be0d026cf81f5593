//! `cargo xtask check`: the house rules that no compiler checks. Also runs as an ordinary test.

mod check;

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
    }
}
