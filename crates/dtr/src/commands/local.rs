//! Commands that work on a replica of this machine: the flags become the options of [`dtr_replica`], what comes of it is
//! said.

use std::{
    io::{self, IsTerminal as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use dtr_client::Identity;
use dtr_recovery::Exit;
use dtr_replica::{
    Before, DataDir, Ended, EtcdOptions, GivenEtcd, IdentityOptions, Outcome, ReplicaConfig,
    ReplicaOptions, RestoreRequest, Restored, StoreOptions, UcpLogin, UserCertificate,
};
use dtr_transport::{LogFormat, init_logging, shutdown_on_signals};
use dtr_types::{AccountName, Random as _, ReplicaId, Secret, SystemRandom};
use serde_json::json;

use super::{
    backup::{Watched, keys, known},
    connect::RETRY,
    loss,
    report::ReportFile,
};
use crate::{
    cli::{
        DataDirArgs, DestroyArgs, EtcdArgs, InstallArgs, LogArgs, NetworkArgs, PingArgs,
        RestoreArgs, ServeArgs, StorageArgs, StoreArgs, StoreEngine, TlsArgs, UcpArgs,
    },
    failure::{Failure, Result, Said},
    terminal,
};

/// The data directory, by its whole path: a replica in the background is not where the person is.
pub(super) fn data_dir(args: &DataDirArgs) -> Result<DataDir> {
    Ok(DataDir::new(whole(&args.data_dir)?))
}

/// A folder by its whole name.
fn whole(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot use the folder {}", path.display()))
}

/// The name of this machine.
fn node() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    match name.trim() {
        "" | "(none)" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

/// What was given and is not empty, as a variable of the environment may be.
fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty())
}

pub(super) fn options(
    id: Option<ReplicaId>,
    network: NetworkArgs,
    tls: Option<TlsArgs>,
    store: StoreOptions,
    storage: StorageArgs,
    log: LogArgs,
) -> Result<ReplicaOptions> {
    let log_format = log.log_format.unwrap_or_else(|| "text".to_owned());
    let known: Result<LogFormat, _> = log_format.parse();
    known.map_err(|error| Failure::usage(error.to_string()))?;
    let certificate = tls.and_then(|tls| {
        let (certificate, key) = (given(tls.dtr_cert)?, tls.dtr_key?);
        Some(UserCertificate { certificate, key, ca: given(tls.dtr_ca) })
    });
    Ok(ReplicaOptions {
        id,
        https_port: network.replica_https_port.unwrap_or(443),
        http_port: network.replica_http_port.unwrap_or(80),
        listen_address: network.listen_address.unwrap_or_else(dtr_replica::any_address),
        plain_http: network.plain_http,
        trusted_proxies: network.trusted_proxies,
        external_url: given(network.dtr_external_url),
        node: node(),
        certificate,
        store,
        storage: storage.config()?,
        take_over_storage: false,
        log_level: log.log_level.unwrap_or_else(|| "info".to_owned()).to_lowercase(),
        log_format,
    })
}

/// The UCP, where one was named, with everything that was left out asked for.
fn ucp(args: &UcpArgs) -> Result<Option<UcpLogin>> {
    if args.ucp_url.as_ref().is_none_or(|url| url.trim().is_empty()) {
        return Ok(None);
    }
    let login = args.complete()?;
    Ok(Some(UcpLogin {
        url: login.url,
        ca: login.tls.ca_pem.unwrap_or_default(),
        insecure_tls: login.tls.insecure,
        username: login.username,
        password: login.password,
    }))
}

/// Where metadata is kept.
fn store(args: StoreArgs) -> Result<StoreOptions> {
    match args.store {
        StoreEngine::Etcd => Ok(StoreOptions::Etcd(etcd(args.etcd)?)),
        StoreEngine::Embedded if !args.etcd.etcd_endpoints.is_empty() => Err(Failure::usage(
            "--etcd-endpoints names an etcd, and --store says that none is used: give --store etcd",
        )),
        StoreEngine::Embedded => Ok(StoreOptions::Embedded),
    }
}

/// How etcd is reached.
pub(super) fn etcd(args: EtcdArgs) -> Result<EtcdOptions> {
    // Not told by the flags themselves: what comes out of a file is not known to them as given.
    let given = match (given(args.etcd_ca), given(args.etcd_cert), args.etcd_key) {
        (Some(ca), Some(certificate), Some(key)) if !args.etcd_endpoints.is_empty() => {
            Some(GivenEtcd { endpoints: args.etcd_endpoints, ca, certificate, key })
        }
        _ if args.etcd_endpoints.is_empty() => None,
        _ => {
            return Err(Failure::usage(
                "--etcd-endpoints needs --etcd-ca, --etcd-cert and --etcd-key (or DTR_ETCD_CA_FILE, DTR_ETCD_CERT_FILE and \
                 DTR_ETCD_KEY_FILE, each with the name of a file)",
            ));
        }
    };
    Ok(EtcdOptions {
        host: self::given(args.replica_host),
        client_port: args.etcd_client_port,
        peer_port: args.etcd_peer_port,
        quota_bytes: args.etcd_quota_mib.map(|mib| mib << 20),
        given,
    })
}

/// Starts what is installed, or says how.
pub(super) async fn start(dir: &DataDir, no_start: bool) -> Result<()> {
    if no_start {
        return terminal::print(&format!(
            "run it with: dtr serve --data-dir {}",
            dir.root().display()
        ));
    }
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let how = terminal::waiting("starting", dtr_replica::start(dir, program)).await;
    let how = how.with_context(|| {
        format!(
            "it is in {} and complete, but does not run; start it with \"dtr serve\"",
            dir.root().display()
        )
    })?;
    terminal::print(&how)
}

/// Refuses a port that is taken while nothing is written yet. With `no_start` the ports may well be another's for now.
pub(super) async fn try_ports(options: &ReplicaOptions, no_start: bool) -> Result<()> {
    if no_start {
        return Ok(());
    }
    let tried = dtr_replica::try_ports(options).await;
    tried.context(
        "nothing was changed (choose ports with --replica-https-port and --replica-http-port, 0 for no redirect; \
         --no-start installs without starting)",
    )
}

/// Whether there is a replica in the folder, which is said.
pub(super) fn is_installed(dir: &DataDir) -> Result<bool> {
    let there = dir.config_file().exists();
    if there {
        terminal::print(&format!("there is a replica in {} already", dir.root().display()))?;
    }
    Ok(there)
}

/// `dtr ping`
pub async fn ping(args: &PingArgs) -> Result<()> {
    let dir = data_dir(&args.dir)?;
    dtr_replica::ping(&dir).await.context("this replica cannot do its work")?;
    terminal::print("it is well")
}

/// `dtr install`
pub async fn install(args: InstallArgs) -> Result<()> {
    let dir = data_dir(&args.dir)?;
    if args.unless_installed && is_installed(&dir)? {
        return Ok(());
    }
    let store = store(args.store)?;
    let mut options =
        options(args.replica_id, args.network, Some(args.tls), store, args.storage, args.log)?;
    options.take_over_storage = args.take_over_storage;
    // The ports of a replica that runs in it are its own: that it is there is the thing to say.
    dtr_replica::unoccupied(&dir).await.context("cannot install")?;
    try_ports(&options, args.no_start).await?;
    let mut made = None;
    let identity = match ucp(&args.ucp)? {
        Some(login) => IdentityOptions::Ucp { login, replace: args.replace_registration },
        None => {
            let admin: AccountName = args
                .admin_username
                .parse()
                .map_err(|error| Failure::usage(format!("--admin-username: {error}")))?;
            let password = args.admin_password.filter(|given| !given.is_empty());
            let password = password.unwrap_or_else(|| {
                let password = Secret::new(SystemRandom.hex(12));
                made = Some(password.clone());
                password
            });
            IdentityOptions::BuiltIn { admin, password }
        }
    };
    let installed =
        dtr_replica::install(&dir, &options, &identity).await.context("cannot install")?;
    for warning in &installed.warnings {
        terminal::say(&format!("warning: {warning}"));
    }
    let mut text = format!(
        "DTR is installed in {}\n  address        {}\n  replica        {}\n",
        dir.root().display(),
        installed.url,
        installed.id
    );
    match &identity {
        IdentityOptions::BuiltIn { admin, .. } => {
            text.push_str(&format!("  administrator  {admin}\n"));
        }
        IdentityOptions::Ucp { login, .. } => {
            text.push_str(&format!("  accounts       {}\n", login.url));
        }
    }
    text.push_str(&format!("  backups' key   {}\n", installed.archive_key));
    if let Some(password) = &made {
        text.push_str(&format!("  password       {}   (shown this once)\n", password.expose()));
    }
    terminal::print(&text)?;
    start(&dir, args.no_start).await
}

/// Where this program was started from: a link stays one, so that it may lead elsewhere later.
fn program() -> io::Result<PathBuf> {
    match std::env::args_os().next() {
        Some(name) if Path::new(&name).components().count() > 1 => std::path::absolute(name),
        _ => std::env::current_exe(),
    }
}

/// `dtr serve`: until a signal.
pub async fn serve(args: ServeArgs, debug: bool) -> Result<()> {
    if args.detached {
        dtr_service::begin_session();
    }
    let dir = data_dir(&args.dir)?;
    let config = ReplicaConfig::load(&dir)?;
    let level = match args.log.log_level {
        _ if debug => "debug".to_owned(),
        Some(level) => level.to_lowercase(),
        None => config.log_level.clone(),
    };
    let format = args.log.log_format.unwrap_or_else(|| config.log_format.clone());
    let format: LogFormat =
        format.parse().map_err(|error| Failure::usage(format!("--log-format: {error}")))?;
    init_logging(format, &level)?;
    let shutdown = shutdown_on_signals().context("signals cannot be received")?;
    let name = node();
    // The file is looked for again when it restarts: by then it may be another version's.
    let program = program().context("cannot find this program's own file")?;
    let served = dtr_replica::serve(&dir, &config, &name, shutdown).await;
    match served.with_context(|| format!("cannot serve {}", dir.root().display()))? {
        Ended::Stopped => Ok(()),
        Ended::Restarts => {
            tracing::info!(program = %program.display(), "restarting");
            // The same process, so that whoever watches over it sees none end.
            let error = Command::new(&program).args(std::env::args_os().skip(1)).exec();
            Err(anyhow::Error::new(error)
                .context(format!("cannot start {} again", program.display())))
        }
    }
}

/// `dtr restore`
pub async fn restore(args: RestoreArgs) -> Result<()> {
    if io::stdin().is_terminal() {
        return Err(Failure::usage(
            "there is no archive: redirect one into standard input (dtr restore ... < backup.tar). In a container, run \
             with -i and without -t",
        ));
    }
    let report = ReportFile::open(args.report.as_deref())?;
    let (dir, dry_run, no_start) = (data_dir(&args.dir)?, args.dry_run, args.no_start);
    let outcome = match restore_into(&dir, args).await {
        Ok(outcome) => outcome,
        Err(error) => {
            report.failed(&error);
            return Err(error);
        }
    };
    let exit = match outcome {
        Outcome::Restored(restored) => told(*restored, &dir, dry_run, report),
        Outcome::Before(before) => told_before(&before, &dir, report),
    };
    if !dry_run {
        start(&dir, no_start).await?;
    }
    match exit {
        Exit::Done => Ok(()),
        exit => Err(anyhow::Error::new(Said(exit))),
    }
}

async fn restore_into(dir: &DataDir, args: RestoreArgs) -> Result<Outcome> {
    let store = store(args.store)?;
    let mut options =
        options(args.replica_id, args.network, Some(args.tls), store, args.storage, args.log)?;
    options.take_over_storage = args.take_over_storage;
    let runs = dtr_replica::running(dir).is_some();
    try_ports(&options, args.no_start || args.dry_run || runs).await.context("cannot restore")?;
    let owner_map = match &args.map_owners {
        None => Default::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            text.parse().map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?
        }
    };
    let ucp = match args.clone {
        false => ucp(&args.ucp)?,
        true => {
            if given(args.ucp.ucp_url.clone()).is_some() {
                terminal::say("--clone reaches out to nobody: --ucp-url is not used");
            }
            None
        }
    };
    let request = RestoreRequest {
        ucp,
        keys: keys(&args.decryption)?,
        known: known(&args.signer)?,
        copy: args.clone,
        replace_registration: args.replace_registration,
        dry_run: args.dry_run,
        with_identity: args.with_identity,
        owner_map,
        accept_unknown_owners: args.allow_unknown_owners,
        accept_empty_storage: args.allow_empty_storage,
        storage_of_archive: args.dtr_use_default_storage,
        keep_old: args.keep_old,
        accept_salvaged: args.salvaged,
        progress: None,
    };
    let input = Box::new(Watched::new(Box::new(io::stdin()), "restoring"));
    dtr_replica::restore(dir, &options, request, input).await.map_err(|error| {
        let what = match error.exit() {
            Exit::Locked => {
                "cannot restore; open the archive with --identity-file or --passphrase-file"
            }
            _ => "cannot restore",
        };
        anyhow::Error::new(error).context(what)
    })
}

/// Says what was restored. It is done: nothing that goes wrong in saying so makes it a failure.
fn told(restored: Restored, dir: &DataDir, dry_run: bool, file: ReportFile) -> Exit {
    for warning in &restored.warnings {
        terminal::say(&format!("warning: {warning}"));
    }
    let exit = restored.report.exit();
    file.done(exit, &restored.report);
    let mut text = restored.report.to_string();
    if !dry_run {
        text.push_str(&format!(
            "\nDTR is restored in {}\n  address        {}\n  replica        {}\n",
            dir.root().display(),
            restored.url,
            restored.id
        ));
    }
    if let Some(aside) = &restored.aside {
        text.push_str(&format!(
            "  former folder  {0} (rename it to take it back; \"dtr destroy --data-dir {0}\" when nobody needs it)\n",
            aside.display()
        ));
    }
    if let Err(error) = terminal::print(text.trim_end()) {
        tracing::warn!(%error, "the restore is done, and nobody reads what came back");
    }
    exit
}

/// Says that the archive had been restored, by a run whose end nobody saw.
fn told_before(before: &Before, dir: &DataDir, file: ReportFile) -> Exit {
    let Before { cluster, at, blobs_missing } = before;
    let exit = if *blobs_missing > 0 { Exit::Incomplete } else { Exit::Done };
    file.done(
        exit,
        &json!({"restoredBefore": at, "cluster": cluster, "blobsMissingCount": blobs_missing}),
    );
    let lost = match blobs_missing {
        0 => String::new(),
        count => format!("; the content of {count} blobs is missing"),
    };
    let text = format!(
        "this archive was restored here at {at}, to cluster {cluster}{lost}. It is complete and was never started: {}",
        dir.root().display()
    );
    if let Err(error) = terminal::print(&text) {
        tracing::warn!(%error, "nobody reads that the archive had been restored");
    }
    exit
}

/// `dtr destroy`
pub async fn destroy(args: DestroyArgs) -> Result<()> {
    let dir = data_dir(&args.dir)?;
    let plan = dtr_replica::plan_destroy(&dir, args.keep_storage)?;
    // An installation or a restore that was cut off may have no configuration yet.
    let config = ReplicaConfig::load(&dir).ok();
    if let Some(wanted) = &args.replica_id {
        let found = config.as_ref().map(|config| config.id.clone());
        if found.as_ref() != Some(wanted) {
            let found = found.map_or_else(|| "none".to_owned(), |id| id.to_string());
            return Err(Failure::ending(
                Exit::Refused,
                format!(
                    "{} holds replica {found}, not {wanted}; nothing was changed",
                    dir.root().display()
                ),
            ));
        }
    }
    loss::say(&dir, &plan, &args).await;
    if !args.yes && !terminal::confirm("go on?", "--yes")? {
        return Err(Failure::ending(Exit::Refused, "nothing was changed"));
    }
    let login = ucp(&args.ucp)?;
    match (&login, &config) {
        (Some(_), Some(config)) => forget(&args.ucp, &config.id).await?,
        (Some(login), None) => terminal::say(&format!(
            "warning: the replica has no replica.json, so the UCP at {} cannot be told which one goes: take it off its list",
            login.url
        )),
        (None, _) => {}
    }
    if args.keep_old {
        let aside = terminal::waiting("stopping", dtr_replica::put_aside(&dir)).await?;
        return terminal::print(&format!(
            "the replica is stopped, and its folder is put aside: {0}\nrename it to take it back; \"dtr destroy --data-dir {0}\" \
             when nobody needs it",
            aside.path().display()
        ));
    }
    terminal::waiting("stopping and deleting", dtr_replica::destroy(&plan)).await?;
    let kept = match &plan.kept {
        Some(kept) => {
            format!("; image content stays in {}, for a restore into the folder", kept.display())
        }
        None => String::new(),
    };
    terminal::print(&format!("destroyed the replica in {}{kept}", dir.root().display()))
}

/// Takes the replica off the list of the identity service: its whole service if it was the only one.
async fn forget(args: &UcpArgs, replica: &ReplicaId) -> Result<()> {
    let login = args.complete()?;
    let identity = Identity::new(&login.url, &login.tls, RETRY)?;
    let session = identity.login_admin(&login.username, &login.password).await?;
    let forgotten = async {
        let services = identity.services(&session).await?;
        let api = identity.api(&session);
        for service in services {
            let (gone, left): (Vec<_>, Vec<_>) =
                service.replicas.into_iter().partition(|known| known.id == *replica);
            let path = format!("/enzi/v0/services/{}", service.id);
            if gone.is_empty() {
                continue;
            }
            if left.is_empty() {
                api.delete(&path).await?;
            } else {
                let _: Option<serde_json::Value> =
                    api.patch(&path, &json!({"replicas": left})).await?;
            }
        }
        Ok::<_, dtr_client::ClientError>(())
    }
    .await;
    // It ends by itself.
    let _ = identity.logout(&session).await;
    forgotten.context("cannot take the replica off the list of the UCP; nothing was deleted")
}
