//! `ucp install`: the first admin, an authority, a certificate, keys; then the configuration, which makes it count.

use anyhow::Context as _;
use dtr_catalog::{
    Catalog,
    records::{CertificateRecord, ClusterRecord, DATA_FORMAT, IdentitySource},
};
use dtr_identity::{BuiltIn, BuiltInOptions};
use dtr_service::PidFile;
use dtr_transport::pki::{Authority, SERVER_VALIDITY};
use dtr_types::{ClusterId, Secret};

use crate::{
    VERSION,
    cli::InstallArgs,
    data_dir::{Config, DataDir},
    launch,
};

/// The name of the authority's record.
pub(crate) const CA: &str = "ca";
/// The name of the front's certificate's record.
pub(crate) const WEB: &str = "web";

/// Runs the command.
///
/// # Errors
/// With what went wrong; nothing is installed then.
pub async fn run(args: InstallArgs) -> anyhow::Result<()> {
    let data_dir = DataDir::new(&args.data.data_dir)?;
    if args.unless_installed && data_dir.find_config()?.is_some() {
        println!("there is a UCP in {} already", data_dir.root().display());
        return Ok(());
    }
    let config = Config::new(&args.network)?;
    data_dir.create()?;
    data_dir.ensure_vacant()?;
    let claim = PidFile::claim(&data_dir.pid_file())?;
    let building = data_dir.begin()?;
    let generated = args.admin_password.is_none();
    let password = args
        .admin_password
        .clone()
        .unwrap_or_else(|| Secret::new(building.catalog().random().hex(12)));
    if let Err(error) = fill(building.catalog(), &config, &args, password.clone()).await {
        building.discard();
        return Err(error);
    }
    building.finish(&config)?;
    drop(claim);
    println!("UCP is installed in {}", data_dir.root().display());
    println!("  address        {}", config.url());
    println!("  administrator  {}", args.admin_username);
    if generated {
        println!("  password       {}   (shown this once)", password.expose());
    }
    if args.no_start {
        println!("Run it with: ucp serve --data-dir {}", data_dir.root().display());
    } else {
        println!("{}", launch::start(&data_dir).await.context("it is installed, but not running")?);
    }
    Ok(())
}

async fn fill(
    catalog: &Catalog,
    config: &Config,
    args: &InstallArgs,
    password: Secret,
) -> anyhow::Result<()> {
    let identity = BuiltIn::new(catalog.clone(), BuiltInOptions::default());
    identity.create_first_admin(args.admin_username.clone(), password).await?;
    let authority = Authority::make("UCP root CA", catalog.now())?;
    if let Some(path) = &args.ca_output {
        std::fs::write(path, authority.certificate_pem())
            .with_context(|| format!("the authority cannot be written to {}", path.display()))?;
    }
    catalog.put(&authority_record(catalog, &authority)).await?;
    catalog.put(&issue(catalog, &authority, config)?).await?;
    dtr_recovery::ensure_archive_key(catalog).await?;
    let cluster = ClusterRecord {
        id: ClusterId::random(catalog.random()),
        data_format: DATA_FORMAT,
        created_at: catalog.now(),
        created_by: VERSION.to_owned(),
        identity: IdentitySource::BuiltIn,
        restored_from: None,
    };
    catalog.create_cluster(&cluster).await?;
    Ok(())
}

fn authority_record(catalog: &Catalog, authority: &Authority) -> CertificateRecord {
    CertificateRecord {
        name: CA.to_owned(),
        certificate: authority.certificate_pem().to_owned(),
        private_key: authority.key_pem().clone(),
        ca: String::new(),
        user_given: false,
        created_at: catalog.now(),
    }
}

/// A new certificate of the front, for the names of the configuration.
pub(crate) fn issue(
    catalog: &Catalog,
    authority: &Authority,
    config: &Config,
) -> anyhow::Result<CertificateRecord> {
    let issued = authority.issue_server(&config.names()?, catalog.now(), SERVER_VALIDITY)?;
    Ok(CertificateRecord {
        name: WEB.to_owned(),
        certificate: issued.chain_pem,
        private_key: issued.key_pem,
        ca: String::new(),
        user_given: false,
        created_at: catalog.now(),
    })
}
