//! `dtr reconfigure`: changes given settings and leaves the others. What all replicas share is changed through the
//! interface and holds at once; what is one replica's own is in its data directory and holds from its next start.

use std::path::Path;

use anyhow::Context as _;
use dtr_replica::{DataDir, EtcdConfig, GivenEtcd, ReplicaConfig, StorageConfig, StoreConfig};
use dtr_types::ClientHost;
use serde_json::{Value, json};

use super::{connect, register::register, rolling};
use crate::{
    cli::{ReconfigureArgs, UcpArgs},
    failure::{Failure, Result},
    terminal,
};

/// `dtr reconfigure`
pub async fn run(mut args: ReconfigureArgs) -> Result<()> {
    // With both, the UCP is named to be registered with: the replica is reached through its folder.
    let registers = args.connect.data_dir.is_some() && args.connect.ucp.ucp_url.is_some();
    let ucp = args.connect.ucp.clone();
    if registers {
        args.connect.ucp.ucp_url = None;
    }
    let own = own_changes(&args);
    let shared =
        args.network.dtr_external_url.is_some() || args.tls.dtr_cert.is_some() || args.no_dtr_cert;
    if args.replace_registration && !registers {
        return Err(Failure::usage(
            "--replace-registration is about the UCP: give --data-dir and --ucp-url",
        ));
    }
    if !own && !shared && !args.restart && !registers {
        return Err(Failure::usage(
            "nothing to change: give a setting (see dtr reconfigure --help)",
        ));
    }
    let dir = match (&args.connect.data_dir, own) {
        (None, true) => {
            return Err(Failure::usage(
                "ports, addresses, storage and log are a replica's own: give its --data-dir, on its own machine",
            ));
        }
        (dir, _) => dir.as_deref(),
    };
    // Judged before anything is changed.
    let external = args.network.dtr_external_url.as_deref().map(ClientHost::from_address);
    let external = external
        .transpose()
        .map_err(|error| Failure::usage(format!("--dtr-external-url: {error}")))?;
    let changed = match dir {
        Some(dir) if own => Some(configured(dir, &args)?),
        _ => None,
    };
    let etcd = match (&changed, dir) {
        (Some(config), Some(dir)) if args.etcd.is_given() => Some(given(dir, config, &args).await?),
        _ => None,
    };
    if let (Some(config), Some(dir)) = (&changed, dir)
        && (args.storage.is_given() || args.dtr_use_default_storage)
    {
        dtr_replica::check_storage(&config.storage).await?;
        let dir = DataDir::new(dir);
        let now = ReplicaConfig::load(&dir)?;
        if !is_same_place(&now.storage, &config.storage) {
            dtr_replica::check_copy(&dir, &now.storage, &config.storage).await?;
            if now.store != StoreConfig::Embedded {
                nobody_pushes(&args).await?;
            }
        }
    }
    if shared {
        change_shared(&args, external.as_ref()).await?;
    }
    if let (Some(_), Some(dir)) = (changed, dir) {
        let data_dir = DataDir::new(dir);
        // Once more, in what is there by now: a replica that runs writes down where the others are.
        ReplicaConfig::change(&data_dir, |config| configure(config, dir, &args))?;
        if let Some(etcd) = etcd {
            etcd.write(&data_dir).context("cannot write the certificates towards etcd")?;
            terminal::say("certificates towards etcd hold within seconds");
        }
        let how = match args.restart {
            true => "saved",
            false => {
                "saved, and waits for a restart of the replica: it holds from its next start (add --restart to this command, or \"systemctl \
                 restart dtr\")"
            }
        };
        terminal::say(how);
    }
    let nothing_else = !own && !shared && !args.restart;
    if registers && (nothing_else || args.replace_registration) {
        registered(&args, &ucp).await?;
    }
    if args.restart {
        restart(&args).await?;
    }
    Ok(())
}

/// Registers the registry with its UCP, and restarts all replicas if they are to ask as another registration.
async fn registered(args: &ReconfigureArgs, ucp: &UcpArgs) -> Result<()> {
    connect::with(&args.connect, async |c| {
        if register(c, ucp, args.replace_registration).await? {
            terminal::waiting("restarting", rolling::restart(c, &[], &args.drain)).await?;
        }
        Ok(())
    })
    .await
}

/// Restarts this replica, or all of them.
async fn restart(args: &ReconfigureArgs) -> Result<()> {
    let own = match &args.connect.data_dir {
        Some(dir) => vec![ReplicaConfig::load(&DataDir::new(dir))?.id.to_string()],
        None => Vec::new(),
    };
    connect::with(&args.connect, async |c| {
        terminal::waiting("restarting", rolling::restart(c, &own, &args.drain)).await
    })
    .await
}

fn own_changes(args: &ReconfigureArgs) -> bool {
    let network = &args.network;
    network.replica_https_port.is_some()
        || network.replica_http_port.is_some()
        || network.listen_address.is_some()
        || network.plain_http.is_some()
        || !network.trusted_proxies.is_empty()
        || args.no_plain_http
        || args.no_trusted_proxies
        || args.storage.is_given()
        || args.dtr_use_default_storage
        || args.etcd_quota_mib.is_some()
        || args.etcd.is_given()
        || args.log.log_level.is_some()
        || args.log.log_format.is_some()
}

/// The replica's own configuration with the changes in it.
fn configured(dir: &Path, args: &ReconfigureArgs) -> Result<ReplicaConfig> {
    let mut config = ReplicaConfig::load(&DataDir::new(dir))?;
    configure(&mut config, dir, args)?;
    Ok(config)
}

fn configure(config: &mut ReplicaConfig, dir: &Path, args: &ReconfigureArgs) -> Result<()> {
    let network = &args.network;
    if let Some(port) = network.replica_https_port {
        config.address = with_port(&config.address, port);
        config.https_port = port;
    }
    config.http_port = network.replica_http_port.unwrap_or(config.http_port);
    config.listen_address = network.listen_address.unwrap_or(config.listen_address);
    config.plain_http = match args.no_plain_http {
        true => None,
        false => network.plain_http.or(config.plain_http),
    };
    if args.no_trusted_proxies {
        config.trusted_proxies.clear();
    }
    if !network.trusted_proxies.is_empty() {
        for text in &network.trusted_proxies {
            let network: Result<dtr_transport::Network, _> = text.parse();
            network
                .map_err(|error| Failure::usage(format!("--trusted-proxies {text}: {error}")))?;
        }
        config.trusted_proxies.clone_from(&network.trusted_proxies);
    }
    if args.storage.is_given() || args.dtr_use_default_storage {
        config.storage = storage(dir, &config.storage, args)?;
    }
    if let Some(mib) = args.etcd_quota_mib {
        match &mut config.store {
            StoreConfig::Etcd(EtcdConfig { member: Some(member), .. }) => {
                member.quota_bytes = Some(mib << 20);
            }
            _ => {
                return Err(Failure::usage(
                    "--etcd-quota-mib is for a replica that runs an etcd of its own; this one does not",
                ));
            }
        }
    }
    if let StoreConfig::Etcd(EtcdConfig { member: None, endpoints }) = &mut config.store
        && !args.etcd.etcd_endpoints.is_empty()
    {
        endpoints.clone_from(&args.etcd.etcd_endpoints);
    }
    if let Some(level) = &args.log.log_level {
        config.log_level.clone_from(level);
    }
    if let Some(format) = &args.log.log_format {
        let known: Result<dtr_transport::LogFormat, _> = format.parse();
        known.map_err(|error| Failure::usage(error.to_string()))?;
        config.log_format.clone_from(format);
    }
    Ok(())
}

/// How the etcd that was given is reached from now on, if it is the same one and answers.
async fn given(dir: &Path, config: &ReplicaConfig, args: &ReconfigureArgs) -> Result<GivenEtcd> {
    let StoreConfig::Etcd(EtcdConfig { member: None, endpoints }) = &config.store else {
        return Err(Failure::usage(
            "--etcd-endpoints, --etcd-ca, --etcd-cert and --etcd-key are for a replica that was given an etcd; this one was not",
        ));
    };
    let mut etcd = GivenEtcd::read(&DataDir::new(dir), endpoints)
        .context("cannot read the certificates towards etcd")?;
    let new = &args.etcd;
    if let Some(ca) = &new.etcd_ca {
        etcd.ca.clone_from(ca);
    }
    match (&new.etcd_cert, &new.etcd_key) {
        (None, None) => {}
        (Some(certificate), Some(key)) => {
            etcd.certificate.clone_from(certificate);
            etcd.key = key.clone();
        }
        _ => return Err(Failure::usage("--etcd-cert and --etcd-key are given together")),
    }
    terminal::waiting("asking etcd", etcd.verify(&config.id))
        .await
        .context("nothing was changed")?;
    Ok(etcd)
}

/// The same bucket and folder of it, by another key or certificate: nothing moves.
fn is_same_place(now: &StorageConfig, new: &StorageConfig) -> bool {
    match (now, new) {
        (StorageConfig::S3(now), StorageConfig::S3(new)) => now.is_same_place(new),
        _ => now == new,
    }
}

/// Refuses a change of the storage while several replicas take pushes: what is pushed to one would be missing on another
/// that uses the other storage.
async fn nobody_pushes(args: &ReconfigureArgs) -> Result<()> {
    connect::with(&args.connect, async |c| {
        let status: Value = c
            .api
            .get("/api/v0/meta/cluster_status")
            .await
            .context("how many replicas there are cannot be found out")?;
        let replicas = status["replica_readonly"].as_object();
        let Some(replicas) = replicas.filter(|replicas| !replicas.is_empty()) else {
            return Err(Failure::usage(
                "how many replicas there are is not known without a majority of them: bring that back first",
            ));
        };
        if replicas.len() > 1 && replicas.values().any(|read_only| read_only != &json!(true)) {
            return Err(Failure::usage(format!(
                "there are {} replicas: what is pushed through one that uses the one storage would be missing on another that \
                 uses the other. Make the registry read-only first (the setting readOnlyRegistry), copy what came meanwhile, \
                 do this on each replica, restart them, and make it writable again",
                replicas.len()
            )));
        }
        Ok(())
    })
    .await
}

/// Where image content is from now on.
fn storage(dir: &Path, now: &StorageConfig, args: &ReconfigureArgs) -> Result<StorageConfig> {
    let new = args.storage.config()?;
    if !args.storage_migrated && !is_same_place(now, &new) {
        return Err(Failure::usage(
            "another storage must already hold all blobs: copy the old one there with everything in it (it may go on being used \
             meanwhile; copy again when nobody pushes any more: after stopping the replica, or where there are several, while \
             the registry is read-only), then give --storage-migrated",
        ));
    }
    let folder = match &new {
        StorageConfig::Filesystem { root } => {
            root.clone().unwrap_or_else(|| DataDir::new(dir).default_storage())
        }
        StorageConfig::S3(_) | StorageConfig::Nfs { .. } => return Ok(new),
    };
    if !folder.is_dir() {
        return Err(Failure::usage(format!("{} is not a folder", folder.display())));
    }
    Ok(new)
}

/// The same address at another port.
fn with_port(address: &str, port: u16) -> String {
    let Ok(mut url) = url::Url::parse(address) else { return address.to_owned() };
    let port = (port != 443).then_some(port);
    match url.set_port(port) {
        Ok(()) => url.as_str().trim_end_matches('/').to_owned(),
        Err(()) => address.to_owned(),
    }
}

async fn change_shared(args: &ReconfigureArgs, external: Option<&ClientHost>) -> Result<()> {
    connect::with(&args.connect, async |c| {
        if let Some(host) = external {
            let _: Value = c
                .api
                .post("/api/v0/meta/settings", &json!({"dtrHost": host.to_string()}))
                .await
                .context("cannot set the address that clients use")?;
            terminal::say(&format!("clients are now told to use https://{host}"));
        }
        if let (Some(certificate), Some(key)) = (&args.tls.dtr_cert, &args.tls.dtr_key) {
            let form = json!({
                "webTLSCert": certificate,
                "webTLSKey": key.expose(),
                "webTLSCA": args.tls.dtr_ca.clone().unwrap_or_default(),
            });
            let answer: Value = c
                .api
                .put("/api/v0/meta/certificate", &form)
                .await
                .context("cannot exchange the certificate")?;
            for warning in answer["warnings"].as_array().into_iter().flatten() {
                terminal::say(&format!("warning: {}", warning.as_str().unwrap_or_default()));
            }
            terminal::say("the certificate is exchanged; replicas present it within seconds");
        }
        if args.no_dtr_cert {
            let form = json!({"webTLSCert": "", "webTLSKey": ""});
            let _: Value = c
                .api
                .put("/api/v0/meta/certificate", &form)
                .await
                .context("cannot give up the certificate")?;
            terminal::say(
                "a certificate of the cluster's own authority is made; replicas present it within seconds, and clients must \
                 trust that authority (/ca)",
            );
        }
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_its_host() {
        assert_eq!(with_port("https://a.example:1", 2), "https://a.example:2");
        assert_eq!(with_port("https://a.example:1", 443), "https://a.example");
        assert_eq!(with_port("https://[::1]", 8443), "https://[::1]:8443");
    }
}
