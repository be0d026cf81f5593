//! Starting an installed UCP: as a unit of systemd where that runs, else as a process of its own.

use std::time::Duration;

use anyhow::Context as _;
use dtr_service::{spawn_detached, systemd};

use crate::{data_dir::DataDir, status};

/// How long a start may take.
const START_MAX: Duration = Duration::from_secs(60);

/// Starts it and returns when it serves. Says how.
pub(crate) async fn start(data_dir: &DataDir) -> anyhow::Result<String> {
    let program = std::env::current_exe().context("the path of this program")?;
    let root = data_dir.root();
    if systemd::is_available() && root == std::path::Path::new("/var/lib/ucp") {
        let command =
            [program.as_os_str(), "serve".as_ref(), "--data-dir".as_ref(), root.as_os_str()];
        let unit = systemd::Unit {
            name: "ucp".to_owned(),
            description: "UCP, the identity service".to_owned(),
            command: command.map(|word| word.to_string_lossy().into_owned()).to_vec(),
            mounts: Vec::new(),
        };
        tokio::task::spawn_blocking(move || unit.start()).await??;
        return Ok("started by systemd as ucp.service".to_owned());
    }
    let args = ["serve".as_ref(), "--detached".as_ref(), "--data-dir".as_ref(), root.as_os_str()];
    let process = spawn_detached(&program, args, &data_dir.log())?;
    let pid = process.wait_until_ready(START_MAX, || status::is_ready(data_dir)).await?;
    Ok(format!("started as process {pid}; its log is {}", data_dir.log().display()))
}
