//! What a registry costs an etcd: bytes of its file, its memory, the size of a snapshot, and how long a member takes to
//! start. What it prints is in docs/sizing.md.
//!
//! `cargo run -p dtr-store-etcd --example sizes -- [IMAGES]`, with `DTR_ETCD_DIR` for a folder on a disk. Each image is the
//! records that a push of a manifest with five layers makes, two of them shared with others, as `dtr_catalog::keys` lays
//! them out, with values of the length that they have there.

#[path = "../tests/support/mod.rs"]
mod support;

use std::{fs, time::Instant};

use bytes::Bytes;
use dtr_store::Store as _;
use dtr_store_etcd::EtcdStore;
use support::{Etcd, PATIENCE, open};

const MIB: f64 = 1024.0 * 1024.0;
const LAYERS: u64 = 5;
const OWN_LAYERS: u64 = 3;
const IMAGES_PER_REPOSITORY: u64 = 500;

/// 64 characters that look like a hash.
fn hash(kind: u64, number: u64) -> String {
    let mut state = kind << 48 | number;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    format!("{:016x}{:016x}{:016x}{:016x}", next(), next(), next(), next())
}

/// A value of this many bytes that does not compress.
fn value(length: usize, number: u64) -> Bytes {
    let mut text = String::new();
    let mut part = 0;
    while text.len() < length {
        text.push_str(&hash(1_000 + part, number));
        part += 1;
    }
    text.truncate(length);
    text.into()
}

/// The records of one image.
fn image(number: u64) -> Vec<(Bytes, Bytes)> {
    let repository = &hash(1, number / IMAGES_PER_REPOSITORY)[..36];
    let manifest = format!("sha256:{}", hash(2, number));
    let tag = format!("v1.{number}");
    let event = &hash(3, number)[..25];
    let mut all = vec![
        (format!("t/{repository}/{tag}"), 303),
        (format!("m/{repository}/{manifest}"), 536),
        (format!("mb/{repository}/{manifest}/0000"), 460),
        (format!("mt/{repository}/{manifest}/{tag}"), 0),
        (format!("e/{event}"), 289),
        (format!("er/{repository}/{event}"), 0),
    ];
    // The configuration and the layers of its own; the others were there, and get a reference.
    for layer in 0..=LAYERS {
        let own = layer <= OWN_LAYERS;
        let name = if own { number * 10 + layer } else { (1 << 40) | (number % 100 * 10 + layer) };
        let blob = format!("sha256:{}", hash(4, name));
        all.push((format!("ref/{blob}/{repository}/{manifest}"), 0));
        if own {
            all.push((format!("b/{blob}"), 136));
            all.push((format!("l/{repository}/{blob}"), 0));
            all.push((format!("bl/{blob}/{repository}"), 0));
        }
    }
    all.into_iter().map(|(key, length)| (key.into(), value(length, number))).collect()
}

fn memory_mib(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}

#[tokio::main]
async fn main() {
    let images: u64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(70_000);
    let etcd = Etcd::start_with(|options| options.quota_bytes = 8 << 30).await;
    let store = open(&etcd.options()).await;
    let (mut records, mut bytes, began) = (0, 0, Instant::now());
    for first in (0..images).step_by(15) {
        let group: Vec<_> = (first..images.min(first + 15)).flat_map(image).collect();
        records += group.len();
        bytes += group.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        store.load(group).await.expect("is loaded");
    }
    store.finish_load().await.expect("is loaded");
    println!(
        "{images} images, {records} records, {:.0} MiB of keys and values, loaded in {:.0} s",
        bytes as f64 / MIB,
        began.elapsed().as_secs_f64()
    );
    let (admin, url) = (store.maintenance(), etcd.url());
    let revision = admin.status(&url).await.expect("a status").revision;
    admin.compact_and_wait(&url, revision).await.expect("is compacted");
    let pid = || etcd.member.pid().unwrap_or_default();
    println!("memory when loaded: {:.0} MiB", memory_mib(pid()));
    let began = Instant::now();
    admin.defragment(&url).await.expect("is defragmented");
    println!("written anew in {:.1} s", began.elapsed().as_secs_f64());
    let size = admin.status(&url).await.expect("a status").size_bytes as f64;
    println!(
        "file {:.0} MiB: {:.0} bytes a record, {:.0} an image; {:.0} records a GiB; {:.2} million images in 8 GiB",
        size / MIB,
        size / records as f64,
        size / images as f64,
        records as f64 * MIB * 1024.0 / size,
        images as f64 * 8.0 * MIB * 1024.0 / size / 1e6
    );
    let began = Instant::now();
    let taken = admin.snapshot(&url, &etcd.dir.path().join("snapshot")).await.expect("a snapshot");
    println!(
        "snapshot {:.0} MiB in {:.1} s",
        taken.size_bytes as f64 / MIB,
        began.elapsed().as_secs_f64()
    );
    let before = pid();
    let began = Instant::now();
    etcd.kill();
    support::until("a new process", async || pid() != before && pid() != 0).await;
    let store = EtcdStore::new(&etcd.options()).expect("good options");
    // poll: a large file and a long log take longer than the store waits for.
    while store.ready(PATIENCE).await.is_err() {
        assert!(began.elapsed() < 20 * PATIENCE, "etcd does not come back");
    }
    println!("killed, answers after {:.1} s", began.elapsed().as_secs_f64());
    println!("memory then: {:.0} MiB", memory_mib(pid()));
}
