//! Damaged archives, and what can be had of them: whatever a mutator did, what is written is accepted by a verification and
//! by a restore that was told, it says what is lost, and what was not hit is all there.

use std::{collections::BTreeSet, io::Cursor, sync::Arc};

use dtr_archive::{ArchiveReader, Entry, ReadOptions, mutate, survey::ReadAt};
use dtr_catalog::records::*;
use dtr_recovery::{
    BackupOptions, Exit, RecoveryError, Refusal, RestoreOptions, SalvageReport, VerifyOptions,
    VerifyReport, salvage, verify,
};
use dtr_store::At;
use dtr_types::{Clock as _, RepositoryId};

use crate::{
    assets::without,
    world::{State, VERSION, World, assert_same, restored},
};

struct Bytes(Vec<u8>);

impl ReadAt for Bytes {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0[..].read_at(offset, buffer)
    }
}

async fn salvaged(damaged: &[u8]) -> Result<(Vec<u8>, SalvageReport), RecoveryError> {
    let world = World::empty(100).await;
    let (input, length) = (Arc::new(Bytes(damaged.to_vec())), damaged.len() as u64);
    let now = world.clock.now();
    salvage(input, length, Vec::new(), VERSION, &*world.random, now).await
}

async fn judged(archive: &[u8]) -> Result<VerifyReport, RecoveryError> {
    let input = Cursor::new(archive.to_vec());
    verify(input, Default::default(), VerifyOptions::default()).await
}

fn told() -> RestoreOptions {
    RestoreOptions {
        accept_salvaged: true,
        accept_empty_storage: true,
        accept_unknown_owners: true,
        ..RestoreOptions::new(VERSION)
    }
}

/// A registry's state after a restore of what was salvaged, which is one that would start.
async fn back(archive: &[u8], report: &SalvageReport) -> State {
    let verdict = judged(archive).await.unwrap_or_else(|error| panic!("{error}\n{report}"));
    assert_eq!(verdict.exit(), Exit::Incomplete, "{verdict}\n{report}");
    assert!(verdict.broken.is_empty() && verdict.salvaged.is_some(), "{verdict}");
    let target = World::empty(101).await;
    let plain = RestoreOptions { accept_salvaged: false, ..told() };
    let refused = target.restore(archive, plain).await.unwrap_err();
    assert!(matches!(refused, RecoveryError::Refused(Refusal::Salvaged { .. })), "{refused}");
    assert!(target.state(At::Latest).await.is_empty());
    let restored = target.restore(archive, told()).await;
    let restored = restored.unwrap_or_else(|error| panic!("{error}\n{report}"));
    assert_eq!(restored.exit(), Exit::Incomplete);
    assert!(restored.salvaged.is_some() && restored.to_string().contains("SALVAGED"), "{restored}");
    for name in ["ca", "service"] {
        let key = dtr_catalog::keys::certificate(name);
        assert!(target.catalog.get(&key).await.unwrap().is_some(), "{name} is made anew");
    }
    let (again, _) = target.backup(BackupOptions::new(VERSION)).await;
    let again = judged(&again).await.unwrap();
    assert!(again.broken.is_empty() && again.salvaged.is_none(), "{again}");
    target.state(At::Latest).await
}

/// Keys of records by which something is found, without what a restore or a salvage makes anew.
fn records(state: &State) -> BTreeSet<String> {
    let keys = state.keys().map(|key| String::from_utf8_lossy(key).into_owned());
    let kept = ["r/", "t/", "m/", "ia/", "it/", "itm/", "gr/", "gn/", "at/", "e/", "b/"];
    keys.filter(|key| kept.iter().any(|prefix| key.starts_with(prefix))).collect()
}

/// Where the content of an entry begins.
fn content_of(archive: &[u8], wanted: &str) -> std::ops::Range<usize> {
    let mut reader = ArchiveReader::open(archive, ReadOptions::default()).unwrap();
    loop {
        let size = match reader.next_entry().unwrap().unwrap() {
            Entry::Records(mut records) if records.name() == wanted => {
                let mut size = 0;
                while let Some(line) = records.next_line().unwrap() {
                    size += line.len() + 1;
                }
                size
            }
            Entry::Blob(mut blob) if wanted == "blob" && blob.size() > 1 => {
                let size = usize::try_from(blob.size()).unwrap();
                while blob.chunk().unwrap().is_some() {}
                size
            }
            Entry::End(_) => panic!("{wanted} is not in it"),
            _ => continue,
        };
        let end = usize::try_from(reader.bytes()).unwrap();
        let start = end - size.next_multiple_of(512);
        return start..start + size;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bit_costs_one_record() {
    let world = World::installed(110).await;
    world.fill().await;
    let with_images = BackupOptions { with_images: true, ..BackupOptions::new(VERSION) };
    let (archive, _) = world.backup(with_images).await;
    let target = World::empty(111).await;
    target.restore(&archive, RestoreOptions::new(VERSION)).await.unwrap();
    let whole = records(&restored(target.state(At::Latest).await));

    // A letter of an event: it is kept, and may be another.
    let mut harmed = archive.clone();
    let events = content_of(&archive, "metadata/events.jsonl");
    let letter = harmed[events.clone()].windows(5).position(|w| w == b"alice").unwrap();
    harmed[events.start + letter] ^= 2;
    assert!(judged(&harmed).await.is_err());
    let (kept, report) = salvaged(&harmed).await.unwrap();
    assert_eq!((report.exit(), report.records_lost, report.blobs_lost), (Exit::Incomplete, 0, 0));
    assert!(report.signed_by.is_some() && report.lost.count == 1, "{report}");
    assert!(report.to_string().contains("metadata/events.jsonl: it is not what was written"));
    assert_eq!(records(&back(&kept, &report).await), whole);

    // A bracket of a tag: that tag is lost.
    let mut harmed = archive.clone();
    let tags = content_of(&archive, "metadata/tags.jsonl");
    harmed[tags.start] ^= 1;
    let (kept, report) = salvaged(&harmed).await.unwrap();
    assert_eq!(report.records_lost, 1, "{report}");
    let lost: Vec<_> = whole.difference(&records(&back(&kept, &report).await)).cloned().collect();
    assert!(lost.len() == 1 && lost[0].starts_with("t/"), "{lost:?}");

    // A letter of a layer: its content is lost, everything else is there.
    let mut harmed = archive.clone();
    harmed[content_of(&archive, "blob").start] ^= 1;
    let (kept, report) = salvaged(&harmed).await.unwrap();
    assert_eq!((report.records_lost, report.blobs_lost), (0, 1), "{report}");
    let state = back(&kept, &report).await;
    let lost: Vec<_> = whole.difference(&records(&state)).cloned().collect();
    assert!(lost.len() == 1 && lost[0].starts_with("b/"), "{lost:?}");

    // A tar header: what it led is lost.
    let mut harmed = archive.clone();
    harmed[events.start - 500] ^= 1;
    let (kept, report) = salvaged(&harmed).await.unwrap();
    assert!(report.to_string().contains("metadata/events"), "{report}");
    let lost: Vec<_> = whole.difference(&records(&back(&kept, &report).await)).cloned().collect();
    assert!(!lost.is_empty() && lost.iter().all(|key| key.starts_with("e/")), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_whole_is_written_as_it_is() {
    let world = World::installed(112).await;
    world.fill().await;
    let (archive, _) = world.backup(BackupOptions::new(VERSION)).await;
    for more in [&[][..], &[0; 3000], b"something else"] {
        let (kept, report) = salvaged(&[&archive[..], more].concat()).await.unwrap();
        assert!(report.whole && report.exit() == Exit::Done, "{report}");
        assert!(kept == archive, "with its own signature");
    }
    let (kept, _) = salvaged(&archive[..archive.len() - 700]).await.unwrap();
    assert!(kept == archive);
    for none in [&b""[..], b"hello", &[0; 4096]] {
        let error = salvaged(none).await.unwrap_err();
        assert_eq!(error.exit(), Exit::Damaged, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_kinds_and_names_that_two_have_are_mended() {
    let world = World::installed(113).await;
    world.fill().await;
    let app = world.repository("alice/app").await;
    let second = Repository { id: RepositoryId::random(&*world.random), ..app };
    world.catalog.put(&second).await.unwrap();
    let key = KeyRecord {
        purpose: KeyPurpose::Token,
        id: "00".repeat(16),
        private_key: dtr_types::Secret::new("garbage"),
        created_at: world.clock.now(),
        not_after: None,
    };
    world.catalog.put(&key).await.unwrap();
    let (archive, _) = world.backup(BackupOptions::new(VERSION)).await;
    assert_eq!(judged(&archive).await.unwrap().exit(), Exit::Damaged);
    let (kept, report) = salvaged(&archive).await.unwrap();
    assert!(report.to_string().contains("two repositories were named alice/app"), "{report}");
    assert!(report.to_string().contains("garbage") == false, "no key is said");
    let state = back(&kept, &report).await;
    let names = state.keys().filter(|key| key.starts_with(b"rn/alice/app")).count();
    assert_eq!(names, 2);

    for kind in ["metadata/tags", "metadata/repositories", "certificates/certificates.jsonl", "config/cluster", "identity/accounts"] {
        let (kept, report) = salvaged(&without(&archive, kind)).await.unwrap();
        let named = kind.trim_end_matches(".jsonl");
        assert!(report.lost.listed.iter().any(|lost| lost.starts_with(named)), "{report}");
        back(&kept, &report).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_done_what_is_left_is_an_archive() {
    let world = World::installed(114).await;
    world.fill().await;
    let with_images = BackupOptions { with_images: true, ..BackupOptions::new(VERSION) };
    let (images, _) = world.backup(with_images).await;
    let (metadata, _) = world.backup(BackupOptions::new(VERSION)).await;
    let mut nothing = 0;
    for seed in 0..mutate::kinds().count() as u64 {
        let archive = if seed % 4 == 0 { &images } else { &metadata };
        let damaged = mutate::damage(archive, seed);
        let about = format!("seed {seed}: {}: {}", damaged.kind, damaged.what);
        match salvaged(&damaged.bytes).await {
            Ok((kept, report)) if report.whole => {
                let verdict = judged(&kept).await.unwrap();
                assert_ne!(verdict.exit(), Exit::Damaged, "{about}: {verdict}");
            }
            Ok((kept, report)) => {
                assert!(report.lost.count > 0, "{about}: {report}");
                back(&kept, &report).await;
            }
            Err(error) => {
                assert!(matches!(error.exit(), Exit::Damaged | Exit::Refused), "{about}: {error}");
                nothing += 1;
            }
        }
    }
    assert!(nothing < 12, "{nothing} gave nothing");
    // Cut at every eighth.
    let target = World::empty(115).await;
    target.restore(&images, RestoreOptions::new(VERSION)).await.unwrap();
    let whole = restored(target.state(At::Latest).await);
    let mut before = 0;
    for eighth in 1..8 {
        let cut = &images[..images.len() * eighth / 8];
        let (kept, report) = salvaged(cut).await.unwrap();
        assert!(report.signed_by.is_none(), "{report}");
        let found = records(&back(&kept, &report).await).len();
        assert!(found >= before, "more is left of more: {found}, {before}");
        before = found;
    }
    let (kept, _) = salvaged(&images).await.unwrap();
    let target = World::empty(116).await;
    target.restore(&kept, RestoreOptions::new(VERSION)).await.unwrap();
    assert_same(&restored(target.state(At::Latest).await), &whole);
}
