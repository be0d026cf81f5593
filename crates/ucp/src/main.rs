//! The `ucp` program: reads the command line and the environment, calls one command, turns its end into an exit code.

use std::process::ExitCode;

use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    dtr_service::settle_allocator();
    ucp::run(ucp::cli::Cli::parse())
}
