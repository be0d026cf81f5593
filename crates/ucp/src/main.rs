//! The `ucp` program: reads the command line and the environment, calls one command, turns its end into an exit code.

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    dtr_service::settle_allocator();
    let command = ucp::cli::Cli::command();
    match dtr_service::variables::with_files(command, &|name| std::env::var_os(name)) {
        Ok(command) => {
            let cli = ucp::cli::Cli::from_arg_matches(&command.get_matches());
            ucp::run(cli.unwrap_or_else(|error| error.exit()))
        }
        Err(error) => {
            eprintln!("ucp: {error}");
            ExitCode::from(2)
        }
    }
}
