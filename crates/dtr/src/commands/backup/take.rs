//! Taking a backup: from a running replica as a stream, or, where it is not running, from its data directory itself.

use std::path::Path;

use anyhow::Context as _;
use aws_lc_rs::digest::{Context as Hash, SHA256};
use bytes::Bytes;
use dtr_archive::Encryption;
use dtr_client::{ClientError, Download};
use dtr_recovery::{BackupOptions, BackupReport, Exit};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{encryption, sink::Sink};
use crate::{
    cli::BackupTakeArgs,
    commands::{
        connect::{self, Connection, NotRunning},
        report::ReportFile,
    },
    failure::{Failure, Result, Said},
    terminal::{self, Progress},
};

/// Blocks that wait for a slow output.
const WAITING: usize = 32;
/// In which header the answer says the id of its report.
const ID: &str = "x-dtr-backup-id";
/// What is said of every archive that did not come to its end.
const USELESS: &str = "the backup failed, and what was written is not usable as one";

/// `dtr backup`
pub async fn run(mut args: BackupTakeArgs) -> Result<()> {
    args.connect.export = args.with_identity;
    let file = ReportFile::open(args.report.as_deref())?;
    let report = match taken(&args).await {
        Ok(report) => report,
        Err(error) => {
            file.failed(&error);
            return Err(error);
        }
    };
    let Some(report) = report else {
        let what = "the archive is complete, but its report could not be fetched";
        if args.report.is_some() {
            let what = format!("{what}; see it with \"dtr backup inspect\"");
            let error = Failure::ending(Exit::Failed, what);
            file.failed(&error);
            return Err(error);
        }
        terminal::say(&format!("warning: {what}; see it with \"dtr backup inspect\""));
        return Ok(());
    };
    terminal::say(report.to_string().trim_end());
    let exit = report.exit();
    file.done(exit, &report);
    match exit {
        Exit::Done => Ok(()),
        exit => Err(anyhow::Error::new(Said(exit))),
    }
}

/// Takes it; `None` when it is whole and its report could not be fetched.
async fn taken(args: &BackupTakeArgs) -> Result<Option<BackupReport>> {
    let encryption = encryption(&args.encryption)?;
    // Before anything is asked or sent: a terminal or a file that cannot be written is known now.
    let sink = Sink::open(args.output.as_deref(), &encryption)?;
    if args.offline_backup {
        terminal::say(
            "--offline-backup is not needed: every backup is consistent; nothing is stopped",
        );
    }
    match connect::connect(&args.connect).await {
        Ok(connection) => {
            let report = interruptible(stream(&connection, args, &encryption, sink)).await;
            connection.close().await;
            report
        }
        Err(error) if error.is::<NotRunning>() => {
            let Some(dir) = args.connect.data_dir.as_deref().filter(|dir| dir.is_dir()) else {
                return Err(error);
            };
            interruptible(offline(dir, args, &encryption, sink)).await
        }
        Err(error) => Err(error),
    }
}

/// Until it ends or the person has had enough: a part file is removed then.
async fn interruptible<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let shutdown = dtr_transport::shutdown_on_signals().context("cannot watch for signals")?;
    tokio::select! {
        done = work => done,
        () = shutdown.drain.cancelled() => Err(Failure::ending(Exit::Failed, format!("interrupted: {USELESS}"))),
    }
}

/// From a running replica.
async fn stream(
    connection: &Connection,
    args: &BackupTakeArgs,
    encryption: &Encryption,
    sink: Sink,
) -> Result<Option<BackupReport>> {
    let path = format!(
        "/api/v0/backups?withImages={}&withIdentity={}&encrypted={}",
        args.with_images,
        args.with_identity,
        encryption.is_on()
    );
    let mut download =
        connection.api.download(&path, Some(&json!({}))).await.context("cannot take a backup")?;
    let id = download.headers().get(ID).and_then(|id| id.to_str().ok()).map(ToOwned::to_owned);
    let Some(id) = id else {
        return Err(Failure::ending(Exit::Failed, format!("no backup was sent: {USELESS}")));
    };
    // The report has the length and the hash of the whole: as good a confirmation where a proxy swallowed the other.
    download.accept_unconfirmed();
    let copied = copy(&mut download, sink).await;
    let report = connection.api.get(&format!("/api/v0/backups/{id}/report")).await;
    let (sink, sum) = match (copied, &report) {
        (Ok(copied), _) => copied,
        // The connection only broke off; the registry knows why.
        (Err(_), Err(ClientError::Refused { message, .. })) => {
            return Err(Failure::ending(Exit::Failed, message.clone()).context(USELESS));
        }
        (Err(error), _) => return Err(error.context(USELESS)),
    };
    let report: Option<BackupReport> = match report {
        Ok(report) => Some(report),
        Err(error) if !download.is_confirmed() => {
            let what = "neither the end of the archive nor its report confirms that it is whole";
            return Err(anyhow::Error::new(error).context(what).context(USELESS));
        }
        Err(error) => {
            tracing::warn!(%error, "the report could not be fetched");
            None
        }
    };
    if report.as_ref().is_some_and(|r| r.sha256 != sum || r.bytes != download.received()) {
        let what = "the archive that arrived is not the one that was sent";
        return Err(Failure::ending(Exit::Damaged, format!("{what}: {USELESS}")));
    }
    tokio::task::spawn_blocking(move || sink.finish()).await?.context(USELESS)?;
    confirm(connection, &id, &sum).await;
    Ok(report)
}

/// Tells the registry that the archive is where it is to be kept: its alert and its status count only such backups.
async fn confirm(connection: &Connection, id: &str, sha256: &str) {
    let path = format!("/api/v0/backups/{id}/confirmation");
    let told: Result<Value, ClientError> =
        connection.api.post(&path, &json!({ "sha256": sha256 })).await;
    if let Err(error) = told {
        terminal::say(&format!(
            "warning: the archive is complete, but the registry could not be told so, and does not count it: {error}"
        ));
    }
}

/// Writes what comes on a thread that may block, hashing it: the report says what the hash should be.
async fn copy(download: &mut Download, mut sink: Sink) -> Result<(Sink, String)> {
    let (to, mut from) = mpsc::channel::<Bytes>(WAITING);
    let writing = tokio::task::spawn_blocking(move || {
        let mut hash = Hash::new(&SHA256);
        let mut progress = Progress::new("backing up");
        while let Some(block) = from.blocking_recv() {
            hash.update(&block);
            sink.write(&block).context("cannot write the archive")?;
            progress.add(block.len() as u64);
        }
        Ok::<_, anyhow::Error>((sink, hex::encode(hash.finish())))
    });
    let mut failed = None;
    loop {
        match download.next().await {
            Ok(Some(block)) => {
                // The writer has given up; its own error is the one to tell.
                if to.send(block).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    drop(to);
    let written = writing.await?;
    match failed {
        Some(error) => Err(error.into()),
        None => written,
    }
}

/// From the data directory of a replica that is not running.
async fn offline(
    dir: &Path,
    args: &BackupTakeArgs,
    encryption: &Encryption,
    sink: Sink,
) -> Result<Option<BackupReport>> {
    terminal::say(&format!("no replica runs in {}: reading its store directly", dir.display()));
    let mut options = BackupOptions::new(env!("CARGO_PKG_VERSION"));
    options.with_images = args.with_images;
    options.encrypted = encryption.is_on();
    if args.with_identity {
        return Err(Failure::usage(
            "--with-identity asks the UCP, which only a running replica can; start it, or use \"ucp backup\"",
        ));
    }
    let out = SinkWriter { sink, progress: Progress::new("backing up") };
    let finish = |out: SinkWriter| {
        out.sink.finish().map_err(|error| std::io::Error::other(format!("{error:#}")))
    };
    let report = dtr_replica::backup_offline(&dtr_replica::DataDir::new(dir), options, out, finish)
        .await
        .context(USELESS)?;
    Ok(Some(report))
}

/// A sink as a writer that shows its progress.
pub(super) struct SinkWriter {
    pub(super) sink: Sink,
    pub(super) progress: Progress,
}

impl std::io::Write for SinkWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.sink.write(bytes)?;
        self.progress.add(bytes.len() as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
