//! A thousand archives damaged by a seeded mutator: each refused, with a message that names what is wrong.

use std::collections::{BTreeMap, BTreeSet};

use dtr_archive::*;
use dtr_types::Secret;

use crate::common::*;

#[test]
fn a_thousand_damaged_archives_are_refused() {
    let archive = sample();
    check(&archive).unwrap();
    let mut seen: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for seed in 0..1000 {
        let damaged = mutate::damage(&archive, seed);
        let about = format!("seed {seed}, {} ({})", damaged.kind, damaged.what);
        assert_ne!(damaged.bytes, archive, "{about}");
        let Err(error) = check(&damaged.bytes) else { panic!("accepted: {about}") };
        let message = error.to_string();
        let named =
            error.entry().is_some() || message.contains("byte") || message.contains("archive");
        assert!(named && message.len() > 20, "{about}: {message}");
        assert!(!message.contains(|c: char| c.is_control()), "{about}: {message:?}");
        seen.entry(damaged.kind).or_default().insert(error.kind());
    }
    assert_eq!(seen.len(), mutate::kinds().count());
    // Where one cause has one name, it must be that name.
    for (kind, expected) in [
        ("absolute path", "AbsolutePath"),
        ("device", "Device"),
        ("end missing", "EndBlocks"),
        ("entry added, hashes fitted", "Signature"),
        ("entry dropped, hashes fitted", "Signature"),
        ("entry with an unknown name", "UnknownName"),
        ("extension bomb", "Extension"),
        ("garbage appended", "TrailingGarbage"),
        ("line end lost", "Record"),
        ("link", "Link"),
        ("manifest missing", "Missing"),
        ("manifest signed by a stranger", "HeaderMismatch"),
        ("newer format", "NewerFormat"),
        ("other folder", "OutsideFolder"),
        ("path that leaves", "PathEscapes"),
        ("record removed, hashes fitted", "Signature"),
        ("signature replaced", "Signature"),
        ("signed by a stranger", "WrongKey"),
    ] {
        assert_eq!(seen[kind], BTreeSet::from([expected.to_owned()]), "{kind}");
    }
}

#[test]
fn zeros_after_the_end_say_nothing() {
    let archive = sample();
    for zeros in [1, 512, 10_240, 1 << 20] {
        let padded = [archive.clone(), vec![0; zeros]].concat();
        check(&padded).unwrap();
        let mut more = padded.clone();
        more.push(7);
        let refused = check(&more).unwrap_err();
        let ArchiveError::TrailingGarbage { offset } = refused else { panic!("{refused}") };
        assert_eq!(offset, padded.len() as u64);
    }
}

#[test]
fn damaged_encrypted_archives_are_refused() {
    let (key, passphrase) = (key(7), Secret::new("correct horse"));
    let encryption = Encryption::Passphrase { passphrase: passphrase.clone(), work_factor: 4 };
    let sealed = Sealed::new(Vec::new(), &encryption).unwrap();
    let mut writer = ArchiveWriter::new(sealed, header(&key), &key).unwrap();
    fill(&mut writer).unwrap();
    let archive = writer.finish().unwrap().0.finish().unwrap();
    let open = |bytes: &[u8]| {
        let keys = Keys { identities: vec![], passphrase: Some(passphrase.clone()) };
        verify(bytes, ReadOptions { keys, ..options() })
    };
    open(&archive).unwrap();
    for seed in 0..300 {
        let damaged = mutate::damage(&archive, seed);
        let refused = open(&damaged.bytes);
        assert!(refused.is_err(), "accepted: seed {seed}, {}: {}", damaged.kind, damaged.what);
    }
}

#[test]
fn only_the_known_key_tells_a_strangers_archive() {
    let archive = sample();
    let index = mutate::kinds().position(|kind| kind == "signed by a stranger").unwrap();
    let forged = mutate::damage(&archive, index as u64);
    let refused = check(&forged.bytes).unwrap_err();
    assert!(matches!(refused, ArchiveError::WrongKey { .. }), "{refused}");
    // Without a key to compare with, it is whole: that is what such a signature proves.
    verify(forged.bytes.as_slice(), ReadOptions::default()).unwrap();
}
