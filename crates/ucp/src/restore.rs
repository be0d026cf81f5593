//! `ucp restore`: reads an archive from standard input into a fresh store, proves it, and only then makes it a UCP.

use std::{
    io::{self, IsTerminal as _, Read},
    sync::Arc,
};

use anyhow::{Context as _, ensure};
use dtr_archive::{Keys, KnownKeys, Product, ReadOptions};
use dtr_catalog::records::IdentitySource;
use dtr_identity::{AccountFilter, AccountQuery, BuiltIn, BuiltInOptions, Identity as _};
use dtr_recovery::{RestoreOptions, RestoreReport, RestoreTarget};
use dtr_service::PidFile;

use crate::{
    VERSION,
    backup::passphrase,
    cli::RestoreArgs,
    data_dir::{Building, Config, DataDir},
    launch,
    no_content::NoContent,
};

/// Runs the command.
///
/// # Errors
/// With what went wrong; nothing was changed then.
pub async fn run(args: RestoreArgs) -> anyhow::Result<()> {
    ensure!(
        !io::stdin().is_terminal(),
        "a backup is read from standard input: `ucp restore < backup.tar`"
    );
    restore(args, io::stdin()).await
}

/// Restores the archive `input`.
///
/// # Errors
/// With what went wrong; nothing was changed then.
pub async fn restore(args: RestoreArgs, input: impl Read + Send + 'static) -> anyhow::Result<()> {
    let data_dir = DataDir::new(&args.data.data_dir)?;
    let config = Config::new(&args.network)?;
    let keys = Keys { passphrase: passphrase(&args.passphrase)?, ..Keys::default() };
    let known = match &args.signed_by {
        Some(id) => KnownKeys::only(id).context("--signed-by")?,
        None => KnownKeys::default(),
    };
    data_dir.ensure_vacant()?;
    data_dir.create()?;
    let claim = PidFile::claim(&data_dir.pid_file())?;
    let building = data_dir.begin()?;
    let read = ReadOptions { keys, known, product: Some(Product::Ucp), ..ReadOptions::default() };
    let report = match load(&building, read, args.dry_run, input).await {
        Ok(report) => report,
        Err(error) => {
            building.discard();
            return Err(error);
        }
    };
    eprintln!("{report}");
    if args.dry_run {
        building.discard();
        return Ok(());
    }
    building.finish(&config)?;
    drop(claim);
    println!("UCP is restored in {}", data_dir.root().display());
    println!("  address  {}", config.url());
    if args.no_start {
        println!("Run it with: ucp serve --data-dir {}", data_dir.root().display());
    } else {
        println!("{}", launch::start(&data_dir).await.context("it is restored, but not running")?);
    }
    Ok(())
}

async fn load(
    building: &Building,
    read: ReadOptions,
    dry_run: bool,
    input: impl Read + Send + 'static,
) -> anyhow::Result<RestoreReport> {
    let target = RestoreTarget {
        catalog: building.catalog().clone(),
        blobs: Arc::new(NoContent),
        identity: None,
        identity_target: None,
    };
    let options = RestoreOptions {
        product: Product::Ucp,
        dry_run,
        identity: Some(IdentitySource::BuiltIn),
        ..RestoreOptions::new(VERSION)
    };
    let report = dtr_recovery::restore(input, read, &target, options).await?;
    if !dry_run {
        let identity = BuiltIn::new(building.catalog().clone(), BuiltInOptions::default());
        let filter = AccountFilter::Admins;
        let mut query = AccountQuery { start: None, limit: AccountQuery::LIMIT_MAX, filter };
        loop {
            let page = identity.accounts(&query).await?;
            if page.accounts.iter().any(|account| account.is_active) {
                break;
            }
            ensure!(
                page.next.is_some(),
                "the backup has no active administrator; nobody could manage it"
            );
            query.start = page.next;
        }
    }
    Ok(report)
}
