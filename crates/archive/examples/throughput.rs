//! How fast archives are written and read, in records per second: `cargo run --release -p dtr-archive --example
//! throughput [RECORDS] [MIB]`. Output goes nowhere and input comes from memory, so that only the format is measured.

use std::{io::Write, time::Instant};

use dtr_archive::*;
use dtr_types::{Algorithm, ClusterId, Digest, Hasher, Revision, SystemRandom, Timestamp};
use serde::{Deserialize, Serialize};

/// What a tag's record is like.
#[derive(Serialize, Deserialize)]
struct TagRecord<'a> {
    repository: &'a str,
    tag: &'a str,
    digest: Digest,
    author: &'a str,
    created: Timestamp,
    updated: Timestamp,
    size: u64,
}

fn main() -> Result<()> {
    let number = |n| std::env::args().nth(n).and_then(|text| text.parse().ok());
    let records: u64 = number(1).unwrap_or(1_000_000);
    let mib: u64 = number(2).unwrap_or(512);
    let key = SigningKey::from_seed(&[1; 32])?;

    let start = Instant::now();
    let (_, summary) = write_records(&key, records, std::io::sink())?;
    report("write", records, summary.bytes, start);
    println!("peak memory    {}", peak());
    let (archive, _) = write_records(&key, records, Vec::new())?;

    let start = Instant::now();
    let mut reader = ArchiveReader::open(archive.as_slice(), ReadOptions::default())?;
    let mut sizes = 0;
    while let Some(entry) = reader.next_entry()? {
        let Entry::Records(mut lines) = entry else { continue };
        while let Some(tag) = lines.next_record::<TagRecord<'_>>()? {
            sizes += tag.size;
        }
    }
    assert!(sizes > 0);
    report("read, parsed", records, summary.bytes, start);

    let start = Instant::now();
    verify(archive.as_slice(), ReadOptions::default())?;
    report("verify", records, summary.bytes, start);
    drop(archive);

    blobs(&key, mib)
}

/// The process's highest memory use so far, where Linux tells.
fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.unwrap_or("unknown").trim().to_owned()
}

fn report(what: &str, records: u64, bytes: u64, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    let (rate, mib) = (records as f64 / seconds, bytes as f64 / 1048576.0 / seconds);
    println!("{what:14} {rate:>12.0} records/s {mib:>8.0} MiB/s");
}

fn write_records<W: Write>(key: &SigningKey, records: u64, out: W) -> Result<(W, Summary)> {
    let mut writer = ArchiveWriter::new(out, header(key), key)?;
    let mut tags = writer.records(Section::Metadata, "tags")?;
    let digest = Digest::of(b"manifest");
    for n in 0..records {
        let (repository, tag) = (format!("engineering/service-{}", n / 1000), format!("v1.{n}"));
        tags.push(&TagRecord {
            repository: &repository,
            tag: &tag,
            digest,
            author: "5f0c2b64-5b6e-4a8c-9df5-0c9a3c1de001",
            created: Timestamp::from_millis(1_700_000_000_000),
            updated: Timestamp::from_millis(1_700_000_001_000),
            size: n,
        })?;
    }
    writer.finish()
}

fn header(key: &SigningKey) -> Header {
    Header::new(Product::Dtr, "1.0.0", ClusterId::random(&SystemRandom), key)
        .at(Revision(1), Timestamp::from_millis(1_700_000_000_000))
}

fn blobs(key: &SigningKey, mib: u64) -> Result<()> {
    let chunk = vec![0xa5u8; 1 << 20];
    let mut hasher = Hasher::new(Algorithm::Sha256);
    (0..mib).for_each(|_| hasher.update(&chunk));
    let digest = hasher.finish();
    let start = Instant::now();
    let mut writer = ArchiveWriter::new(std::io::sink(), header(key), key)?;
    let mut blob = writer.begin_blob(&digest, mib << 20)?;
    for _ in 0..mib {
        blob.write(&chunk)?;
    }
    blob.finish()?;
    let (_, summary) = writer.finish()?;
    report("write a blob", 1, summary.bytes, start);
    Ok(())
}
