//! The dtr program: reads the command line and the environment, calls one command, turns its end into an exit code.

#![expect(
    rustdoc::broken_intra_doc_links,
    reason = "doc comments of flags are help texts: host[:port] is no link"
)]

mod cli;
mod commands;
mod failure;
mod terminal;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    dtr_service::settle_allocator();
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        terminal::say(&format!(
            "dtr: this is a fault of the program ({at}); please report it. Nothing half-done counts as done"
        ));
        tracing::debug!("{panic}");
    }));
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => {
            terminal::say(&format!("dtr: {error}"));
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            terminal::say(&format!("dtr: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async { tokio::spawn(commands::run(cli)).await });
    // Threads that read a terminal or a pipe would keep the process for ever.
    runtime.shutdown_background();
    match done {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            if let Some(message) = failure::message(&error) {
                terminal::say(&format!("dtr: {message}"));
            }
            ExitCode::from(failure::exit_code(&error))
        }
        // The hook has said it.
        Err(_) => ExitCode::FAILURE,
    }
}

/// The command line; what it lacks comes from the environment, and from files that the environment names.
fn parse() -> Result<cli::Cli, dtr_service::ServiceError> {
    let command =
        dtr_service::variables::with_files(cli::Cli::command(), &|name| std::env::var_os(name))?;
    Ok(cli::Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit()))
}
