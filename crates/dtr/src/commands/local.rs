//! Commands that work on a replica of this machine: the flags become the options of `dtr_replica`.

use std::{
    io::{self, IsTerminal as _},
    path::Path,
};

use anyhow::Context as _;
use dtr_replica::{
    DataDir, IdentityOptions, ReplicaConfig, ReplicaOptions, RestoreRequest, UcpLogin,
    UserCertificate,
};
use dtr_transport::LogFormat;
use dtr_types::{Random as _, Secret, SystemRandom};

use super::backup::keys;
use crate::{
    cli::{
        DestroyArgs, InstallArgs, LogArgs, NetworkArgs, RestoreArgs, ServeArgs, StorageArgs,
        TlsArgs, UcpArgs, UpgradeArgs,
    },
    failure::{Failure, Result, Said},
    terminal,
};

/// This machine's name.
fn node() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

fn given(text: Option<String>) -> Option<String> {
    text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// An absolute path: the replica runs with another working directory.
fn absolute(path: &Path) -> Result<std::path::PathBuf> {
    std::path::absolute(path).with_context(|| format!("{} is no path", path.display()))
}

fn certificate(args: TlsArgs) -> Option<UserCertificate> {
    let (certificate, key) = (given(args.dtr_cert)?, args.dtr_key?);
    Some(UserCertificate { certificate, key, ca: given(args.dtr_ca) })
}

fn options(
    id: Option<dtr_types::ReplicaId>,
    network: NetworkArgs,
    tls: TlsArgs,
    storage: &StorageArgs,
    log: &LogArgs,
) -> Result<ReplicaOptions> {
    Ok(ReplicaOptions {
        id,
        https_port: network.replica_https_port.unwrap_or(443),
        http_port: network.replica_http_port.unwrap_or(80),
        listen_address: network.listen_address.unwrap_or_else(dtr_replica::any_address),
        plain_http: network.plain_http,
        trusted_proxies: network.trusted_proxies,
        external_url: given(network.dtr_external_url),
        node: node(),
        certificate: certificate(tls),
        storage_volume: storage.dtr_storage_volume.as_deref().map(absolute).transpose()?,
        log_level: log.log_level.clone().unwrap_or_else(|| "info".to_owned()).to_lowercase(),
        log_format: log.log_format.clone().unwrap_or_else(|| "text".to_owned()),
    })
}

/// Who acts at the UCP, if one was named.
fn ucp(args: &UcpArgs) -> Result<Option<UcpLogin>> {
    if args.ucp_url.as_deref().is_none_or(|url| url.trim().is_empty()) {
        return Ok(None);
    }
    let login = args.complete()?;
    Ok(Some(UcpLogin {
        url: login.url,
        ca: args.ucp_ca.clone().unwrap_or_default(),
        insecure_tls: args.ucp_insecure_tls,
        username: login.username,
        password: login.password,
    }))
}

/// Starts an installed replica unless told not to; says how.
async fn start(dir: &DataDir, no_start: bool) -> Result<()> {
    if no_start {
        terminal::say(&format!(
            "not started; run it with \"dtr serve --data-dir {}\"",
            dir.root().display()
        ));
        return Ok(());
    }
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    let how = terminal::waiting("starting", dtr_replica::start(dir, program)).await?;
    terminal::say(&how);
    Ok(())
}

/// `dtr install`
pub async fn install(args: InstallArgs) -> Result<()> {
    let dir = DataDir::new(absolute(&args.dir.data_dir)?);
    let ucp = ucp(&args.ucp)?;
    let mut generated = None;
    let identity = match ucp {
        Some(ucp) => IdentityOptions::Ucp(ucp),
        None => {
            let admin = args
                .admin_username
                .parse()
                .map_err(|error: dtr_types::NameError| Failure::usage(error.to_string()))?;
            let password = match args.admin_password {
                Some(password) if !password.is_empty() => password,
                _ => {
                    let password = Secret::new(SystemRandom.hex(12));
                    generated = Some(password.clone());
                    password
                }
            };
            IdentityOptions::BuiltIn { admin, password }
        }
    };
    let options = options(args.replica_id, args.network, args.tls, &args.storage, &args.log)?;
    let installing = dtr_replica::install(&dir, &options, &identity);
    let installed = terminal::waiting("installing", installing).await.context("cannot install")?;
    for warning in &installed.warnings {
        terminal::say(&format!("note: {warning}"));
    }
    start(&dir, args.no_start).await?;
    let mut told = format!("replica {}\naddress {}\n", installed.id, installed.url);
    if let Some(password) = generated {
        told.push_str(&format!(
            "administrator {}\npassword {}\n",
            args.admin_username,
            password.expose()
        ));
        terminal::say("the password is shown this one time: keep it");
    }
    terminal::print(&told)
}

/// `dtr serve`
pub async fn serve(args: ServeArgs, debug: bool) -> Result<()> {
    if args.detached {
        dtr_service_session();
    }
    let dir = DataDir::new(absolute(&args.dir.data_dir)?);
    let config = ReplicaConfig::load(&dir).context("cannot serve")?;
    let level = match (debug, args.log.log_level) {
        (true, _) => "debug".to_owned(),
        (false, Some(level)) => level.to_lowercase(),
        (false, None) => config.log_level.clone(),
    };
    let format = args.log.log_format.unwrap_or_else(|| config.log_format.clone());
    let format: LogFormat = format.parse()?;
    dtr_transport::init_logging(format, &level)?;
    let shutdown = dtr_transport::shutdown_on_signals().context("cannot handle signals")?;
    let serving = dtr_replica::bind(&dir, &config, &node()).await.context("cannot serve")?;
    serving.run(shutdown).await;
    Ok(())
}

fn dtr_service_session() {
    dtr_replica::begin_session();
}

/// `dtr restore`
pub async fn restore(args: RestoreArgs) -> Result<()> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(Failure::usage(
            "standard input is a terminal: redirect the archive into it, as in \"dtr restore ... < backup.tar\"",
        ));
    }
    let dir = DataDir::new(absolute(&args.dir.data_dir)?);
    let owner_map = match &args.map_owners {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            text.parse::<dtr_recovery::OwnerMap>()
                .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?
        }
        None => dtr_recovery::OwnerMap::default(),
    };
    let request = RestoreRequest {
        ucp: ucp(&args.ucp)?,
        keys: keys(&args.decryption)?,
        signed_by: args.signed_by,
        dry_run: args.dry_run,
        with_identity: args.with_identity,
        owner_map,
        accept_unknown_owners: args.allow_unknown_owners,
        // The storage was named, or the default was asked for by name: then one without blobs is what was meant.
        accept_empty_storage: args.dtr_use_default_storage
            || args.storage.dtr_storage_volume.is_some(),
        progress: None,
    };
    let options = options(args.replica_id, args.network, args.tls, &args.storage, &args.log)?;
    let restoring = dtr_replica::restore(&dir, &options, request, Box::new(stdin));
    let restored = match terminal::waiting("restoring", restoring).await {
        Ok(restored) => restored,
        Err(error) => {
            let exit = error.exit();
            let text = format!("cannot restore: {error}");
            return Err(Failure::ending(exit, text));
        }
    };
    for warning in &restored.warnings {
        terminal::say(&format!("note: {warning}"));
    }
    terminal::say(restored.report.to_string().trim_end());
    if let Some(path) = &args.report {
        let mut text = serde_json::to_vec_pretty(&restored.report)?;
        text.push(b'\n');
        std::fs::write(path, text)
            .with_context(|| format!("restored, but cannot write {}", path.display()))?;
    }
    if !args.dry_run {
        start(&dir, args.no_start).await?;
        terminal::print(&format!("replica {}\naddress {}\n", restored.id, restored.url))?;
    }
    match restored.report.exit() {
        dtr_recovery::Exit::Done => Ok(()),
        exit => Err(anyhow::Error::new(Said(exit))),
    }
}

/// `dtr destroy`
pub async fn destroy(args: DestroyArgs) -> Result<()> {
    let dir = DataDir::new(absolute(&args.dir.data_dir)?);
    let plan = dtr_replica::plan_destroy(&dir, args.keep_storage).context("cannot destroy")?;
    let known = ReplicaConfig::load(&dir).ok();
    if let (Some(wanted), Some(known)) = (&args.replica_id, &known)
        && *wanted != known.id
    {
        return Err(Failure::ending(
            dtr_recovery::Exit::Refused,
            format!(
                "{} holds replica {}, not {wanted}: nothing was changed",
                dir.root().display(),
                known.id
            ),
        ));
    }
    let mut question = format!("delete everything in {}", dir.root().display());
    if let Some(storage) = &plan.storage {
        question.push_str(&format!(" and all image content in {}", storage.display()));
    }
    if !args.yes && !terminal::confirm(&format!("{question}?"), "--yes")? {
        return Err(Failure::ending(dtr_recovery::Exit::Refused, "nothing was changed"));
    }
    let destroying = dtr_replica::destroy(&plan);
    terminal::waiting("destroying", destroying).await.context("cannot destroy")?;
    terminal::say(&format!("{} is gone", dir.root().display()));
    Ok(())
}

/// `dtr upgrade`: migrations run when a store is opened; here somebody wants to know that they have.
pub async fn upgrade(args: UpgradeArgs) -> Result<()> {
    let dir = DataDir::new(absolute(&args.dir.data_dir)?);
    let config = ReplicaConfig::load(&dir)?;
    if let Some(pid) = dtr_replica::running(&dir) {
        return Err(Failure::ending(
            dtr_recovery::Exit::Refused,
            format!(
                "process {pid} serves this data with its own version; stop it, and start the new version: it upgrades by itself"
            ),
        ));
    }
    let opened = dtr_replica::open(&dir, &config).await.context("cannot upgrade")?;
    terminal::print(&format!(
        "data format {}, as this version ({}) writes it\n",
        opened.cluster.data_format,
        env!("CARGO_PKG_VERSION")
    ))
}
