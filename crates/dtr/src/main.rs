//! The dtr program: reads the command line and the environment, calls one command, turns its end into an exit code.

mod cli;

use clap::Parser as _;

fn main() {
    let cli = cli::Cli::parse();
    println!("{cli:?}");
}
