//! How fast blobs go in and out of a directory: `cargo run --release -p dtr-blobs --example speed -- DIR [MiB]`.
//! Prints, for each step, MiB/s and the processor time it took.

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dtr_blobs::{BlobError, BlobStorage as _, FileStorage, Options, body, contract::frames};
use dtr_types::{Algorithm, Digest, Hasher, SystemClock, SystemRandom, UploadId};
use futures_util::StreamExt as _;

const MIB: usize = 1024 * 1024;
const SMALL: u32 = 300;

/// Processor time of this process so far.
fn processor_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

struct Step(&'static str, Instant, Duration);

impl Step {
    fn begin(name: &'static str) -> Self {
        Self(name, Instant::now(), processor_time())
    }

    fn end(self, bytes: usize) {
        let (wall, cpu) = (self.1.elapsed(), processor_time() - self.2);
        let rate = bytes as f64 / MIB as f64 / wall.as_secs_f64();
        println!(
            "{:<44}{rate:>8.0} MiB/s{:>8.3} s{:>8.3} s cpu",
            self.0,
            wall.as_secs_f64(),
            cpu.as_secs_f64()
        );
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(dir) = arguments.next() else {
        eprintln!("usage: speed DIR [MiB]");
        return ExitCode::FAILURE;
    };
    let size = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(512) * MIB;
    match measure(dir.into(), size).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(dir: PathBuf, size: usize) -> Result<(), BlobError> {
    let options = Options::new(Arc::new(SystemClock), Arc::new(SystemRandom));
    let storage = FileStorage::open(dir, options).await?;
    let content: Bytes = (0..size / 8)
        .flat_map(|n| (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect();
    let step = Step::begin("hash alone, sha256");
    let digest = Digest::of(&content);
    step.end(size);
    for (name, frame) in
        [("upload, frames of 16 KiB", 16 * 1024), ("upload, frames of 256 KiB", 256 * 1024)]
    {
        let id = UploadId::random(&SystemRandom);
        let parts = (0..size).step_by(frame).map(|at| content.slice(at..size.min(at + frame)));
        let parts = frames(parts.collect());
        let step = Step::begin(name);
        storage.upload_create(&id).await?;
        let done = storage.upload_append(&id, 0, Hasher::new(Algorithm::Sha256), parts).await?;
        let staged = storage.upload_finish(&id, &done).await?;
        assert_eq!(done.hasher.finish(), digest);
        storage.publish(&staged, &digest).await?;
        storage.upload_end(&staged).await?;
        step.end(size);
    }
    for _ in 0..2 {
        let step = Step::begin("download, cached by the system");
        let mut reader = storage.read(&digest, None).await?;
        let mut received = 0;
        while let Some(block) = reader.next().await {
            received += block?.len();
        }
        assert_eq!(received, size);
        step.end(size);
    }
    small(&storage).await?;
    storage.delete(&digest).await?;
    Ok(())
}

async fn small(storage: &FileStorage) -> Result<(), BlobError> {
    for at_once in [1, 8] {
        let started = (Instant::now(), processor_time());
        let pushes = futures_util::stream::iter(0..SMALL).map(|n| {
            let storage = storage.clone();
            tokio::spawn(async move {
                let content = Bytes::from(format!("{at_once} {n}").repeat(200));
                let id = UploadId::random(&SystemRandom);
                storage.upload_create(&id).await?;
                let hasher = Hasher::new(Algorithm::Sha256);
                let done = storage.upload_append(&id, 0, hasher, body(content)).await?;
                let staged = storage.upload_finish(&id, &done).await?;
                let digest = done.hasher.finish();
                storage.publish(&staged, &digest).await?;
                storage.upload_end(&staged).await?;
                Ok::<_, BlobError>(digest)
            })
        });
        let stored: Vec<_> = pushes.buffer_unordered(at_once).collect().await;
        let rate = f64::from(SMALL) / started.0.elapsed().as_secs_f64();
        let cpu = (processor_time() - started.1).as_secs_f64() * 1e6 / f64::from(SMALL);
        println!("small blobs, {at_once} at once{rate:>27.0} a second, {cpu:.0} us cpu each");
        let read = Instant::now();
        for digest in stored.into_iter().flatten() {
            let digest = digest?;
            storage.read(&digest, None).await?.bytes().await?;
            storage.delete(&digest).await?;
        }
        println!(
            "  read and deleted{:>33.0} a second",
            f64::from(SMALL) / read.elapsed().as_secs_f64()
        );
    }
    Ok(())
}
