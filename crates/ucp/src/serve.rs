//! `ucp serve`: claims the data directory, opens the store, serves until told to stop.

use anyhow::Context as _;
use dtr_service::PidFile;
use dtr_transport::{Shutdown, shutdown_on_signals};

use crate::{cli::ServeArgs, data_dir::DataDir, server::Service};

/// Runs the command, until a signal.
///
/// # Errors
/// When it cannot begin to serve.
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let shutdown = shutdown_on_signals().context("signals cannot be received")?;
    serve(&DataDir::new(&args.data.data_dir)?, shutdown).await
}

/// Serves a data directory until `shutdown`.
///
/// # Errors
/// When it cannot begin to serve.
pub async fn serve(data_dir: &DataDir, shutdown: Shutdown) -> anyhow::Result<()> {
    let config = data_dir.config()?;
    let claim = PidFile::claim(&data_dir.pid_file())?;
    let service = Service::open(data_dir.open()?, config).await?;
    service.run(data_dir.root(), shutdown).await?;
    tracing::info!("stopped");
    drop(claim);
    Ok(())
}
