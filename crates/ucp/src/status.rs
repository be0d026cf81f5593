//! `ucp status` and `ucp stop`.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use dtr_service::{local, systemd};
use http::Request;
use http_body_util::BodyExt as _;

use crate::{
    cli::{DataDirArgs, Form, StatusArgs},
    data_dir::DataDir,
    server::Status,
};

/// How long a stop may take: requests in flight are finished.
const STOP_MAX: Duration = Duration::from_secs(90);

fn request(path: &str) -> anyhow::Result<Request<Bytes>> {
    Ok(Request::get(path).body(Bytes::new())?)
}

/// Whether the service of a directory answers and is healthy.
pub(crate) async fn is_ready(data_dir: &DataDir) -> bool {
    let Ok(request) = request("/_ping") else { return false };
    local::call(data_dir.root(), request).await.is_ok()
}

async fn ask(data_dir: &DataDir) -> anyhow::Result<Status> {
    let response = local::call(data_dir.root(), request("/status")?).await?;
    let bytes = response.into_body().collect().await?.to_bytes();
    serde_json::from_slice(&bytes).context("the status cannot be read")
}

/// Shows how it is. Exit code 0 when it serves and is healthy.
///
/// # Errors
/// When nothing is installed, or it does not run.
pub async fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let data_dir = DataDir::new(&args.data.data_dir)?;
    data_dir.config()?;
    let status = ask(&data_dir).await?;
    match args.output {
        Form::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Form::Text => {
            let health = if status.problem.is_empty() { "healthy" } else { &status.problem };
            println!("{} is {health}", status.url);
            println!("  version       {} (process {})", status.version, status.pid);
            println!(
                "  accounts      {} users, {} organizations, {} services",
                status.users, status.orgs, status.services
            );
            println!("  store         revision {}, {} bytes", status.revision, status.store_bytes);
            println!("  certificate   until {}", status.certificate_until);
            let backup = if status.last_backup.is_empty() { "never" } else { &status.last_backup };
            println!("  last backup   {backup}");
        }
    }
    Ok(if status.problem.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Stops it. No error when it does not run.
///
/// # Errors
/// When it does not stop in time.
pub async fn stop(args: &DataDirArgs) -> anyhow::Result<()> {
    let data_dir = DataDir::new(&args.data_dir)?;
    let unit = systemd::Unit {
        name: "ucp".to_owned(),
        description: String::new(),
        command: Vec::new(),
        mounts: Vec::new(),
    };
    if systemd::is_available()
        && data_dir.root() == std::path::Path::new("/var/lib/ucp")
        && unit.path().exists()
    {
        tokio::task::spawn_blocking(move || unit.stop()).await??;
    }
    let path = data_dir.pid_file();
    let stopped = tokio::task::spawn_blocking(move || dtr_service::stop(&path, STOP_MAX)).await??;
    println!("{}", if stopped { "stopped" } else { "it was not running" });
    Ok(())
}
