//! How fast the engine is on the disk it is given: `cargo run --release -p dtr-store-embedded --example measure -- DIR`.
//! Ends without closing, so that it also measures opening after a crash.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dtr_store::{At, Range, Store, StoreError, Transaction};
use dtr_store_embedded::{EmbeddedStore, Options};

const RECORDS: usize = 100_000;
const VALUE: usize = 500;

fn key(n: usize) -> String {
    // Spread like digests, not in order.
    format!("m/{:016x}/{n}", (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn say(what: &str, count: usize, took: Duration) {
    println!("{what}: {count} in {took:.2?}, {:.0}/s", count as f64 / took.as_secs_f64());
}

/// Many callers at once, each with one small commit after the other.
async fn small(store: &Arc<EmbeddedStore>, callers: usize, round: usize) -> Result<(), StoreError> {
    const EACH: usize = 300;
    let begin = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut slowest = Duration::ZERO;
                for n in 0..EACH {
                    let began = Instant::now();
                    let name = format!("s/{round}/{caller}/{n}");
                    let t = Transaction::new().if_absent(name.clone()).put(name, vec![7; 200]);
                    store.commit(t).await?;
                    slowest = slowest.max(began.elapsed());
                }
                Ok::<_, StoreError>(slowest)
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    for task in tasks {
        if let Ok(took) = task.await {
            slowest = slowest.max(took?);
        }
    }
    say(&format!("small commits, {callers} callers"), callers * EACH, begin.elapsed());
    println!("    slowest {slowest:.2?}");
    Ok(())
}

/// Several callers, each with transactions of 100 puts.
async fn bulk(
    store: &Arc<EmbeddedStore>,
    what: &str,
    callers: usize,
    key: fn(usize) -> String,
) -> Result<(), StoreError> {
    let begin = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let store = store.clone();
            tokio::spawn(async move {
                for chunk in (caller * 100..RECORDS).step_by(100 * callers) {
                    let t = (chunk..chunk + 100)
                        .fold(Transaction::new(), |t, n| t.put(key(n), vec![n as u8; VALUE]));
                    store.commit(t).await?;
                }
                Ok::<_, StoreError>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap_or(Ok(()))?;
    }
    say(&format!("{what}, 100 a commit, {callers} callers"), RECORDS, begin.elapsed());
    Ok(())
}

async fn ranges(store: &EmbeddedStore, what: &str, mut at: At) -> Result<(), StoreError> {
    let (begin, mut start, mut count) = (Instant::now(), bytes::Bytes::from_static(b"m/"), 0);
    loop {
        let end = bytes::Bytes::from_static(b"m0");
        let page = store.range(Range { start, end, limit: 0, keys_only: false, at }).await?;
        at = At::Revision(page.revision);
        count += page.items.len();
        match page.items.last() {
            Some(last) if page.more => start = [&last.key[..], b"\0"].concat().into(),
            _ => break,
        }
    }
    say(what, count, begin.elapsed());
    Ok(())
}

async fn gets(store: &EmbeddedStore) -> Result<(), StoreError> {
    let begin = Instant::now();
    for n in 0..RECORDS {
        store.get(key((n * 7919) % RECORDS).as_bytes(), At::Latest).await?;
    }
    say("gets, one caller", RECORDS, begin.elapsed());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    for quick_repair in [false, true] {
        println!("quick_repair {quick_repair}");
        let path = std::path::Path::new(&directory).join("measure.redb");
        drop(std::fs::remove_file(&path));
        let options = Options { quick_repair, ..Options::default() };
        let store = EmbeddedStore::open(&path, options.clone())?;
        small(&store, 1, 0).await?;
        small(&store, 64, 1).await?;
        bulk(&store, "puts anywhere", 4, key).await?;
        bulk(&store, "puts in order", 4, |n| format!("o/{n:08}")).await?;
        bulk(&store, "puts in order", 16, |n| format!("p/{n:08}")).await?;
        small(&store, 1, 2).await?;
        small(&store, 64, 3).await?;
        gets(&store).await?;
        ranges(&store, "range of the latest", At::Latest).await?;
        let at = At::Revision(store.revision().await?);
        for chunk in (0..RECORDS).step_by(1000) {
            let t = (chunk..chunk + 100)
                .fold(Transaction::new(), |t, n| t.put(key(n), vec![n as u8; VALUE]));
            store.commit(t).await?;
        }
        ranges(&store, "range of an earlier revision", at).await?;
        println!("file: {} MiB", store.status().await?.size_bytes >> 20);
        // A copy of the open file is what a killed process leaves.
        let copy = std::path::Path::new(&directory).join("measure-copy.redb");
        std::fs::copy(&path, &copy)?;
        let begin = Instant::now();
        let opened = EmbeddedStore::open(&copy, options)?;
        println!("opened after a crash in {:.2?}", begin.elapsed());
        drop((opened, store));
        std::fs::remove_file(&copy)?;
        std::fs::remove_file(&path)?;
    }
    Ok(())
}
