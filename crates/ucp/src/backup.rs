//! `ucp backup`: the running UCP streams an archive, over the local socket or over HTTPS as an administrator; this
//! command reads along, checks every hash and the signature, and encrypts.

use std::{
    fs,
    io::{self, IsTerminal as _, Read, Write},
    path::Path,
    sync::{Arc, mpsc as channel},
};

use anyhow::{Context as _, bail, ensure};
use axum::body::Body;
use bytes::Bytes;
use dtr_archive::{Encryption, Product, ReadOptions, Sealed, Verified};
use dtr_blobs::BlobStorage;
use dtr_catalog::Catalog;
use dtr_enzi::BackupSource;
use dtr_identity::UcpClient;
use dtr_recovery::BackupOptions;
use dtr_service::{Output, local};
use dtr_transport::tls;
use dtr_types::Secret;
use http::Request;
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    VERSION,
    cli::{BackupArgs, PassphraseArgs},
    data_dir::DataDir,
    no_content::NoContent,
};

/// Pieces of the stream that wait at most.
const QUEUE: usize = 16;

/// The serving side: streams archives of a catalog.
pub struct Source {
    catalog: Catalog,
}

impl Source {
    /// Of this catalog.
    pub fn new(catalog: Catalog) -> Self {
        Self { catalog }
    }
}

/// What is written goes into a body.
struct IntoBody(mpsc::Sender<io::Result<Bytes>>);

impl Write for IntoBody {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gone =
            |_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads the backup any more");
        self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl BackupSource for Source {
    async fn backup(&self, by: &str, encrypted: bool) -> Body {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let options = BackupOptions {
            product: Product::Ucp,
            by: by.to_owned(),
            encrypted,
            ..BackupOptions::new(VERSION)
        };
        let catalog = self.catalog.clone();
        tokio::spawn(async move {
            let blobs: Arc<dyn BlobStorage> = Arc::new(NoContent);
            let out = IntoBody(sender.clone());
            match dtr_recovery::backup(&catalog, &blobs, options, out).await {
                Ok((_, report)) => {
                    let (records, revision) = (report.total_records, report.revision);
                    tracing::info!(records, %revision, "a backup was taken");
                }
                Err(error) => {
                    tracing::error!(%error, "a backup failed");
                    // The connection then ends without the stream's end, which no client takes for a success.
                    let failed = io::Error::other(error.to_string());
                    sender.send(Err(failed)).await.ok();
                }
            }
        });
        Body::from_stream(ReceiverStream::new(receiver))
    }
}

/// The stream as it comes in; everything that is read is also written on.
struct Tee<W: Write> {
    pieces: channel::Receiver<io::Result<Bytes>>,
    current: Bytes,
    out: W,
}

impl<W: Write> Read for Tee<W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.recv() {
                Ok(piece) => self.current = piece?,
                Err(_) => return Ok(0),
            }
        }
        let count = self.current.len().min(buffer.len());
        let piece = self.current.split_to(count);
        buffer[..count].copy_from_slice(&piece);
        self.out.write_all(&piece)?;
        Ok(count)
    }
}

/// Runs the command.
///
/// # Errors
/// With what went wrong; a file asked for is not there then.
pub async fn run(args: BackupArgs) -> anyhow::Result<()> {
    let passphrase = passphrase(&args.passphrase)?;
    if args.output.is_none() {
        ensure!(
            !io::stdout().is_terminal(),
            "a backup is not for a terminal: write `ucp backup > backup.tar`, or use --output FILE"
        );
    }
    let encrypted = passphrase.is_some();
    if !encrypted && !args.passphrase.no_passphrase {
        eprintln!(
            "ucp: the backup is not encrypted and holds password hashes and private keys; --passphrase-file FILE \
             encrypts it, --no-passphrase silences this"
        );
    }
    let encryption = passphrase.map_or(Encryption::None, Encryption::passphrase);
    let (sender, pieces) = channel::sync_channel(QUEUE);
    let target = args.output.clone();
    let writing =
        tokio::task::spawn_blocking(move || write(pieces, target.as_deref(), &encryption));
    let received = receive(&args, encrypted, sender.clone()).await;
    if let Err(error) = &received {
        let failed = io::Error::other(format!("{error:#}"));
        let sender = sender.clone();
        // The writer must learn that this is no end; it may be gone already.
        tokio::task::spawn_blocking(move || sender.send(Err(failed)).ok()).await?;
    }
    drop(sender);
    let written = writing.await?;
    received?;
    report(&written?, encrypted);
    Ok(())
}

async fn receive(
    args: &BackupArgs,
    encrypted: bool,
    sender: channel::SyncSender<io::Result<Bytes>>,
) -> anyhow::Result<()> {
    let take = async |piece: Bytes| {
        let sender = sender.clone();
        tokio::task::block_in_place(move || sender.send(Ok(piece)).is_ok())
    };
    match &args.ucp_url {
        Some(url) => from_address(args, url, encrypted, take).await,
        None => from_here(args, encrypted, take).await,
    }
}

async fn from_here(
    args: &BackupArgs,
    encrypted: bool,
    mut take: impl AsyncFnMut(Bytes) -> bool,
) -> anyhow::Result<()> {
    let data_dir = DataDir::new(&args.data.data_dir)?;
    data_dir.config()?;
    let path = format!("/backup?encrypted={encrypted}");
    let request = Request::post(path).body(Bytes::new())?;
    let response = local::call(data_dir.root(), request).await?;
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.context("the backup broke off; the UCP's log has more")?;
        if let Ok(piece) = frame.into_data()
            && !take(piece).await
        {
            break;
        }
    }
    Ok(())
}

async fn from_address(
    args: &BackupArgs,
    url: &str,
    encrypted: bool,
    take: impl AsyncFnMut(Bytes) -> bool,
) -> anyhow::Result<()> {
    let client =
        UcpClient::new(url, tls::client_config(args.ucp_ca.as_deref(), args.ucp_insecure_tls)?)?;
    let Some(username) = &args.ucp_username else {
        bail!("--ucp-url needs --ucp-username, an administrator of that UCP");
    };
    if dtr_identity::sends_in_the_clear(url) {
        eprintln!(
            "ucp: warning: {} is not encrypted: whoever is in between reads the password and the backup; use https://",
            url.escape_debug()
        );
    }
    let password = match &args.ucp_password {
        Some(password) => password.clone(),
        None if io::stdin().is_terminal() => {
            Secret::new(rpassword::prompt_password(format!("Password of {username}: "))?)
        }
        None => bail!("give the password in UCP_PASSWORD, or with --ucp-password"),
    };
    let login = client.login(username, &password).await?;
    let streamed = client.backup(&login.session_token, encrypted, take).await;
    if let Err(error) = client.logout(&login.session_token).await {
        tracing::debug!(%error, "the session was not ended");
    }
    Ok(streamed?)
}

/// Writes the stream to its place, checking it on the way.
fn write(
    pieces: channel::Receiver<io::Result<Bytes>>,
    target: Option<&Path>,
    encryption: &Encryption,
) -> anyhow::Result<Verified> {
    let out = match target {
        None => Output::standard()?,
        Some(target) => Output::file(target)?,
    };
    let (verified, out) = check(pieces, io::BufWriter::with_capacity(1 << 18, out), encryption)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
    Ok(verified)
}

fn check<W: Write>(
    pieces: channel::Receiver<io::Result<Bytes>>,
    out: W,
    encryption: &Encryption,
) -> anyhow::Result<(Verified, W)> {
    let mut tee = Tee { pieces, current: Bytes::new(), out: Sealed::new(out, encryption)? };
    let options = ReadOptions { product: Some(Product::Ucp), ..ReadOptions::default() };
    let verified = dtr_archive::verify(&mut tee, options)?;
    Ok((verified, tee.out.finish()?))
}

fn report(verified: &Verified, encrypted: bool) {
    let (header, totals) = (&verified.header, &verified.manifest.totals);
    eprintln!(
        "Backup of UCP {} at revision {} ({}): {} records, {} bytes{}; every hash and the signature checked",
        header.cluster_id,
        header.revision,
        header.created,
        totals.records,
        verified.bytes,
        if encrypted { ", encrypted" } else { "" }
    );
    for (kind, count) in totals.kinds.iter().filter(|(_, count)| **count > 0) {
        eprintln!("  {count:>9}  {kind}");
    }
    eprintln!("  signed by key {}", header.signer.key_id);
    eprintln!("Not in it: sessions (people log in again), flags and units of this machine.");
}

/// The passphrase, from wherever it was said to be.
pub(crate) fn passphrase(args: &PassphraseArgs) -> anyhow::Result<Option<Secret>> {
    let passphrase = match (&args.passphrase, &args.passphrase_file) {
        (Some(passphrase), _) => passphrase.clone(),
        (None, Some(file)) => {
            let text = fs::read_to_string(file)
                .with_context(|| format!("the passphrase file {}", file.display()))?;
            Secret::new(text.lines().next().unwrap_or_default())
        }
        (None, None) => return Ok(None),
    };
    ensure!(!passphrase.is_empty(), "the passphrase is empty");
    Ok(Some(passphrase))
}
