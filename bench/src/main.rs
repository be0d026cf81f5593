//! The speed promises, measured: `bench run` starts Debian's `docker-registry` and ours, asks both for the same, and
//! prints one table with ratios. The other commands are the parts of ours that it runs as processes of their own.

mod cluster;
mod compare;
mod http;
mod load;
mod ours;
mod process;
mod protected;
mod push;
mod servers;
mod state;
mod table;
mod wrk;

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Result;
use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures ours and docker-registry side by side.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure everything and print the table
    Run {
        /// Small sizes and short rounds: shows that it works, not how fast it is
        #[arg(long)]
        quick: bool,
        /// Where both registries keep their data while measured [default: the system's folder for temporary files]
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Only these parts, with commas: state,get,push,blob,protected,cluster
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
    },
    /// Serve our registry without TLS and without access control
    Serve {
        /// Its data
        #[arg(long)]
        dir: PathBuf,
        /// Its address
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Make a registry with so many manifests, and so many tags of them
    Fill {
        /// Its data
        #[arg(long)]
        dir: PathBuf,
        /// Manifests
        #[arg(long)]
        manifests: u32,
        /// Tags
        #[arg(long)]
        tags: u32,
    },
    /// Restore an archive into an empty store, and say how it went as JSON
    Restore {
        /// The archive
        #[arg(long)]
        archive: PathBuf,
        /// The new store's folder
        #[arg(long)]
        dir: PathBuf,
        /// The folder of the blob storage
        #[arg(long)]
        blobs: PathBuf,
    },
}

fn main() -> Result<()> {
    // As the product does it.
    dtr_service::settle_allocator();
    tokio::runtime::Runtime::new()?.block_on(run())
}

async fn run() -> Result<()> {
    match Cli::parse().command {
        Command::Run { quick, dir, only } => compare::run(quick, dir, only).await,
        Command::Serve { dir, listen } => ours::serve(&dir, listen).await,
        Command::Fill { dir, manifests, tags } => ours::fill(&dir, manifests, tags).await,
        Command::Restore { archive, dir, blobs } => ours::restore(&archive, &dir, &blobs).await,
    }
}
