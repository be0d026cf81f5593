//! `dtr backup verify`, `inspect` and `list`.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use dtr_archive::{ArchiveError, Product, ReadOptions};
use dtr_client::PageStyle;
use dtr_recovery::{Exit, RecoveryError, VerifyOptions};
use dtr_replica::{DataDir, S3Settings, StorageConfig};
use dtr_types::{SystemClock, SystemRandom};
use serde_json::Value;

use super::{Watched, keys, known};
use crate::{
    cli::{BackupCommand, DecryptionArgs, Output},
    commands::{connect, report},
    failure::{Failure, Result, Said},
    terminal::{self, Table, field},
};

/// `dtr backup verify|inspect|list`
pub async fn run(command: BackupCommand) -> Result<()> {
    match command {
        BackupCommand::Verify { file, decryption, storage, bucket, deep, signer, output } => {
            let storage = match bucket.settings()? {
                Some(settings) => Some(open_bucket(settings).await?),
                None => open_storage(storage).await?,
            };
            if deep && storage.is_none() {
                return Err(Failure::usage(
                    "--deep reads the blobs: say where they are, with --storage or --s3-bucket",
                ));
            }
            let options = VerifyOptions { storage, deep };
            let read = ReadOptions { known: known(&signer)?, ..read_options(&decryption)? };
            verify(&file, read, options, output).await
        }
        BackupCommand::Inspect { file, decryption, output } => {
            let read = read_options(&decryption)?;
            let found = dtr_recovery::inspect(open(&file, "inspecting")?, read)
                .await
                .with_context(|| format!("cannot inspect {}", named(&file)))?;
            match output {
                Output::Json => terminal::print_json(&found),
                Output::Text => terminal::print(&found.to_string()),
            }
        }
        BackupCommand::Salvage(args) => super::salvage::run(args).await,
        BackupCommand::List { connect, output } => {
            connect::with(&connect, async |c| {
                let list = c.api.list("/api/v0/backups", PageStyle::Dtr, "backups", 100).await;
                list_backups(output, &list.context("cannot list backups")?)
            })
            .await
        }
    }
}

fn named(file: &Path) -> String {
    if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() }
}

/// The archive as a stream, with its progress shown.
fn open(file: &Path, what: &'static str) -> Result<Watched> {
    let input: Box<dyn Read + Send> = if file == Path::new("-") {
        if io::stdin().is_terminal() {
            return Err(Failure::usage(
                "standard input is a terminal: redirect the archive into it",
            ));
        }
        Box::new(io::stdin())
    } else {
        Box::new(File::open(file).with_context(|| format!("cannot open {}", file.display()))?)
    };
    Ok(Watched::new(input, what))
}

fn read_options(decryption: &DecryptionArgs) -> Result<ReadOptions> {
    Ok(ReadOptions {
        keys: keys(decryption)?,
        product: Some(Product::Dtr),
        ..ReadOptions::default()
    })
}

async fn open_bucket(settings: S3Settings) -> Result<Arc<dyn dtr_blobs::BlobStorage>> {
    // Without a data directory: nothing is looked for in it.
    let nowhere = DataDir::new("");
    let opened = dtr_replica::open_storage(&nowhere, &StorageConfig::S3(Box::new(settings))).await;
    opened.context("cannot use the bucket")
}

async fn open_storage(folder: Option<PathBuf>) -> Result<Option<Arc<dyn dtr_blobs::BlobStorage>>> {
    let Some(folder) = folder else { return Ok(None) };
    // Opening would make an empty storage of a mistyped folder, and then miss everything.
    if !folder.is_dir() {
        return Err(Failure::usage(format!(
            "--storage {}: there is no such folder",
            folder.display()
        )));
    }
    let options = dtr_blobs::Options::new(Arc::new(SystemClock), Arc::new(SystemRandom));
    let storage = dtr_blobs::FileStorage::open(&folder, options)
        .await
        .with_context(|| format!("cannot open the blob storage in {}", folder.display()))?;
    Ok(Some(Arc::new(storage)))
}

async fn verify(
    file: &Path,
    read: ReadOptions,
    options: VerifyOptions,
    output: Output,
) -> Result<()> {
    let cannot = || format!("{} is not a good backup", named(file));
    let report = match dtr_recovery::verify(open(file, "verifying")?, read, options).await {
        Ok(report) => report,
        Err(error) => {
            let text = match error.exit() {
                Exit::Failed => format!("cannot verify {}", named(file)),
                Exit::Locked => {
                    let flags = "--identity-file, --passphrase-file";
                    format!("cannot open {} with the keys that were given ({flags})", named(file))
                }
                _ if matches!(&error, RecoveryError::Archive(ArchiveError::WrongKey { .. })) => {
                    format!("{} is signed by another key than the known one", named(file))
                }
                _ => cannot(),
            };
            let error = anyhow::Error::new(error).context(text);
            if output == Output::Json {
                terminal::print_json(&report::refused(&error))?;
            }
            return Err(error);
        }
    };
    match output {
        Output::Json => terminal::print_json(&report::told(report.exit(), &report)?)?,
        Output::Text => terminal::print(&report.to_string())?,
    }
    match report.exit() {
        Exit::Done => Ok(()),
        exit => Err(anyhow::Error::new(Said(exit))),
    }
}

fn list_backups(output: Output, backups: &[Value]) -> Result<()> {
    if output == Output::Json {
        return terminal::print_json(&backups);
    }
    let mut table = Table::new(&[
        "BEGAN", "REVISION", "RECORDS", "SIZE", "IMAGES", "ARRIVED", "BY", "ID", "SHA-256", "KEY",
    ]);
    for backup in backups {
        let size = terminal::size(backup["bytes"].as_u64().unwrap_or_default());
        let [began, revision, records, by, id] =
            ["startedAt", "revision", "records", "by", "id"].map(|n| field(backup, n));
        let images = match (backup["withImages"].as_bool(), backup["missingBlobs"].as_u64()) {
            (Some(true), Some(missing)) if missing > 0 => format!("yes, {missing} missing"),
            (Some(true), _) => "yes".to_owned(),
            _ => "no".to_owned(),
        };
        let arrived = match backup["confirmedAt"].is_string() {
            true => "yes",
            false => "not confirmed",
        };
        // Enough to tell them apart; all digits are in the JSON.
        let [hash, key] = ["sha256", "keyId"]
            .map(|n| backup[n].as_str().unwrap_or_default().chars().take(32).collect());
        let arrived = arrived.to_owned();
        table.row([began, revision, records, size, images, arrived, by, id, hash, key]);
    }
    table.print()
}
