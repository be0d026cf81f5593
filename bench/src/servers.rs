//! Starting the servers that are compared, each with its data in a folder of its own.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::process::Server;

/// An address that nobody uses at the moment.
pub fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// This program again.
pub fn this_program() -> Result<PathBuf> {
    Ok(std::env::current_exe()?)
}

/// Debian's registry: files, plain HTTP, no access control, deletion on, its cache of descriptors on as Debian has it.
pub fn reference(dir: &Path) -> Result<Server> {
    std::fs::create_dir_all(dir)?;
    let (host, config) = (free_address()?, dir.join("config.yml"));
    let text = format!(
        "version: 0.1\n\
         log:\n  level: error\n  accesslog:\n    disabled: true\n\
         storage:\n  cache:\n    blobdescriptor: inmemory\n  delete:\n    enabled: true\n  \
         filesystem:\n    rootdirectory: {}\n\
         http:\n  addr: {host}\n",
        dir.join("data").display(),
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(&config).env("OTEL_TRACES_EXPORTER", "none");
    Server::start(command, &host, &dir.join("log"))
        .context("docker-registry (Debian's package of that name)")
}

/// Ours over a folder, which may be filled.
pub fn ours(dir: &Path) -> Result<Server> {
    let host = free_address()?;
    let mut command = Command::new(this_program()?);
    command.args(["serve", "--listen", &host, "--dir"]).arg(dir);
    std::fs::create_dir_all(dir)?;
    Server::start(command, &host, &dir.join("log"))
}

/// The name and password of the administrator of [`protected`].
pub const ADMIN: (&str, &str) = ("admin", "only-for-this-benchmark");

/// The product, if it is built: it stands beside this program.
pub fn product() -> Result<Option<PathBuf>> {
    let dtr = this_program()?.with_file_name("dtr");
    Ok(dtr.exists().then_some(dtr))
}

/// The product itself with TLS and accounts of its own, so many tags, and a repository `admin/bench`. `None` when the
/// program is not built.
pub fn protected(dir: &Path, tags: u32) -> Result<Option<Server>> {
    let Some(dtr) = product()? else { return Ok(None) };
    std::fs::create_dir_all(dir)?;
    let (host, data) = (free_address()?, dir.join("data"));
    let port = host.rsplit_once(':').context("a port")?.1;
    let mut install = Command::new(&dtr);
    install.args(["install", "--no-start", "--listen-address", "127.0.0.1"]);
    install.args(["--replica-https-port", port, "--replica-http-port", "0"]);
    install.args(["--dtr-external-url", &format!("https://{host}")]);
    install.args(["--admin-username", ADMIN.0, "--admin-password", ADMIN.1]);
    done(install.arg("--data-dir").arg(&data))?;
    if tags > 0 {
        let mut fill = Command::new(this_program()?);
        fill.args(["fill", "--manifests", &tags.to_string(), "--tags", &tags.to_string()]);
        done(fill.arg("--dir").arg(&data))?;
    }
    let mut serve = Command::new(&dtr);
    serve.arg("serve").arg("--data-dir").arg(&data);
    let mut server = Server::start(serve, &host, &dir.join("log"))?;
    server.endpoint.tls = true;
    let mut create = Command::new(&dtr);
    create.args(["repo", "create", "admin/bench", "--ucp-url", &format!("https://{host}")]);
    create.args(["--ucp-username", ADMIN.0, "--ucp-password", ADMIN.1, "--ucp-insecure-tls"]);
    done(&mut create)?;
    Ok(Some(server))
}

/// Runs a command to its end, which must be good.
pub fn done(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{:?} failed: {said}", command.get_program());
    Ok(())
}
