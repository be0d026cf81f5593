//! The shelf: hostile and foreign archives by name, each with the one error that it must meet.

use std::io::{Cursor, Read};

use dtr_archive::*;
use tar::{Builder, EntryType};

use crate::common::*;

const TOP: &str = "dtr-backup-v0.1.0";

/// What a tar library makes of these names and contents, without asking whether they are sensible.
fn tar_of(members: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (path, kind, content) in members {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(if *kind == EntryType::Directory { 0o700 } else { 0o600 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_790_000_000);
        header.set_size(content.len() as u64);
        as_ours(header.as_mut_bytes());
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Forms the block as our writer does, where tar libraries differ.
fn as_ours(block: &mut [u8]) {
    block[329..345].copy_from_slice(b"0000000\x000000000\0");
    block[148..156].fill(b' ');
    let sum: u32 = block[..512].iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;

/// The sample with these bytes put in before the first entry whose name ends so.
fn insert_before(name: &str, what: &[u8]) -> Vec<u8> {
    let mut archive = sample();
    let at = archive
        .chunks(512)
        .position(|block| block.starts_with(format!("{TOP}/{name}").as_bytes()))
        .unwrap();
    archive.splice(at * 512..at * 512, what.iter().copied());
    archive
}

/// One member's blocks, without the end of archive.
fn member(path: &str, kind: EntryType, content: &[u8]) -> Vec<u8> {
    let tar = tar_of(&[(path, kind, content)]);
    tar[..tar.len() - 1024].to_vec()
}

/// A short path, hidden in an extension as only long ones are.
fn renaming() -> Vec<u8> {
    let path = format!("{TOP}/certificates/x.pem");
    let mut record = format!("00 path={path}\n");
    record.replace_range(..2, &record.len().to_string());
    let mut blocks = member(&format!("{TOP}/certificates/"), DIR, b"");
    blocks.extend(member("PaxHeaders/entry", EntryType::XHeader, record.as_bytes()));
    blocks.extend(member(&format!("{TOP}/y"), FILE, b""));
    blocks
}

/// A file that would be executable.
fn executable() -> Vec<u8> {
    let mut blocks = member(&format!("{TOP}/metadata/events.jsonl"), FILE, b"{}\n");
    blocks[104..107].copy_from_slice(b"755");
    as_ours(&mut blocks[..512]);
    blocks
}

fn original() -> Vec<u8> {
    let top = "dtr-backup-v2.9.4-online";
    tar_of(&[
        (&format!("{top}/"), DIR, b""),
        (&format!("{top}/rethink/"), DIR, b""),
        (&format!("{top}/rethink/properties/"), DIR, b""),
        (&format!("{top}/rethink/properties/0"), FILE, b"{}"),
    ])
}

fn shelf() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let top = format!("{TOP}/");
    let cut = |n: usize| sample()[..n].to_vec();
    let inner = |name: &str| format!("{TOP}/{name}");
    let mut appended = sample();
    appended.extend(b"more");
    let mut newer = sample();
    let at = newer.windows(11).position(|w| w == b"\"format\": 1").unwrap();
    newer[at + 10] = b'2';
    vec![
        ("nothing", "Empty", vec![]),
        ("only zeros", "NotTar", vec![0; 10240]),
        ("a line of text", "NotTar", b"error: cannot connect\n".to_vec()),
        ("compressed", "NotTar", [b"\x1f\x8b\x08".as_slice(), &[1; 2000]].concat()),
        ("PGP", "NotTar", b"-----BEGIN PGP MESSAGE-----\n\nhQEMA".repeat(40)),
        ("JSON", "NotTar", br#"{"errors":[{"code":"NOT_AUTHENTICATED"}]}"#.to_vec()),
        ("a foreign tar", "Foreign", tar_of(&[("etc/", DIR, b""), ("etc/passwd", FILE, b"root")])),
        ("a foreign tar from .", "Foreign", tar_of(&[("./", DIR, b""), ("./a", FILE, b"")])),
        (
            "a tar that begins at the root",
            "AbsolutePath",
            tar_of(&[("/etc/passwd", FILE, b"root")]),
        ),
        ("a tar that begins above", "PathEscapes", tar_of(&[("../x", FILE, b"")])),
        (
            "a git archive",
            "Extension",
            tar_of(&[("pax_global_header", EntryType::XGlobalHeader, b"13 comment=x\n")]),
        ),
        ("an original backup", "OriginalDtr", original()),
        (
            "an original backup without folders",
            "OriginalDtr",
            tar_of(&[("dtr-backup-v2.5.3/rethink/tags/0", FILE, b"{}")]),
        ),
        (
            "no header",
            "OutOfOrder",
            tar_of(&[(&top, DIR, b""), (&inner("manifest.json"), FILE, b"{}")]),
        ),
        (
            "a header that is not JSON",
            "Header",
            tar_of(&[(&top, DIR, b""), (&inner("header.json"), FILE, b"hello")]),
        ),
        (
            "a header too large",
            "TooLarge",
            tar_of(&[(&top, DIR, b""), (&inner("header.json"), FILE, &[b' '; 70_000])]),
        ),
        ("no top folder", "Missing", tar_of(&[(&inner("header.json"), FILE, b"{}")])),
        ("a link as top folder", "Link", tar_of(&[(&top, EntryType::Symlink, b"")])),
        ("newer", "NewerFormat", newer),
        ("cut in the header", "Cut", cut(700)),
        ("cut before the manifest", "Cut", cut(7 * 512)),
        ("cut in the end", "EndBlocks", cut(sample().len() - 512)),
        ("something appended", "TrailingGarbage", appended),
        ("two archives in one", "TrailingGarbage", [sample(), sample()].concat()),
        (
            "a symbolic link",
            "Link",
            insert_before(
                "metadata/tags",
                &member(&inner("certificates/x"), EntryType::Symlink, b""),
            ),
        ),
        (
            "a hard link",
            "Link",
            insert_before("metadata/tags", &member(&inner("certificates/x"), EntryType::Link, b"")),
        ),
        (
            "a device",
            "Device",
            insert_before(
                "metadata/tags",
                &member(&inner("certificates/x"), EntryType::Block, b""),
            ),
        ),
        (
            "a pipe",
            "Device",
            insert_before("metadata/tags", &member(&inner("certificates/x"), EntryType::Fifo, b"")),
        ),
        (
            "an absolute path",
            "AbsolutePath",
            insert_before("metadata/tags", &member("/etc/cron.d/x", FILE, b"x")),
        ),
        (
            "a Windows path",
            "AbsolutePath",
            insert_before("metadata/tags", &member("C:\\x", FILE, b"x")),
        ),
        (
            "a path that leaves",
            "PathEscapes",
            insert_before("metadata/tags", &member(&inner("../x"), FILE, b"x")),
        ),
        (
            "a path that leaves by backslash",
            "PathEscapes",
            insert_before("metadata/tags", &member(&inner("certificates\\..\\x"), FILE, b"x")),
        ),
        (
            "an unknown folder",
            "UnknownName",
            insert_before("metadata/tags", &member(&inner("secrets/"), DIR, b"")),
        ),
        (
            "an unknown file",
            "UnknownName",
            insert_before("metadata/tags", &member(&inner("metadata/tags.json"), FILE, b"{}")),
        ),
        (
            "a header twice",
            "Duplicate",
            insert_before("metadata/tags", &member(&inner("header.json"), FILE, b"{}\n")),
        ),
        (
            "a part out of turn",
            "Missing",
            insert_before(
                "metadata/tags",
                &member(&inner("metadata/events-00002.jsonl"), FILE, b"{}\n"),
            ),
        ),
        (
            "a folder that was not announced",
            "Missing",
            insert_before("metadata/tags", &member(&inner("jobs/jobs.jsonl"), FILE, b"{}\n")),
        ),
        (
            "an extra file",
            "Extra",
            insert_before("metadata/tags", &member(&inner("metadata/events.jsonl"), FILE, b"{}\n")),
        ),
        (
            "an extra folder",
            "StreamHash",
            insert_before("metadata/tags", &member(&inner("jobs/"), DIR, b"")),
        ),
        (
            "a long name by GNU",
            "Extension",
            insert_before("metadata/tags", &member("././@LongLink", EntryType::GNULongName, b"x")),
        ),
        (
            "a sparse file",
            "Extension",
            insert_before("metadata/tags", &member(&inner("x"), EntryType::GNUSparse, b"")),
        ),
        (
            "an extension bomb",
            "Extension",
            insert_before(
                "metadata/tags",
                &member("PaxHeaders/entry", EntryType::XHeader, &[b'1'; 100_000]),
            ),
        ),
        ("an extension that renames", "NotCanonical", insert_before("metadata/tags", &renaming())),
        ("other permissions", "NotCanonical", insert_before("metadata/tags", &executable())),
    ]
}

#[test]
fn the_shelf_is_refused_by_name() {
    let mut wrong = Vec::new();
    for (name, expected, archive) in shelf() {
        match check(&archive) {
            Ok(_) => wrong.push(format!("{name}: accepted")),
            Err(error) if error.kind() == expected => {}
            Err(error) => {
                wrong.push(format!("{name}: {} instead of {expected}: {error}", error.kind()))
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn messages_say_what_to_do() {
    let message = |name: &str| {
        let (_, _, archive) = shelf().into_iter().find(|(n, ..)| *n == name).unwrap();
        check(&archive).unwrap_err().to_string()
    };
    assert!(message("compressed").contains("gzip -d"));
    assert!(message("PGP").contains("gpg -d"));
    assert!(message("an original backup").contains("dtr-backup-v2.9.4-online"));
    assert!(message("newer").contains("Restore it with version 0.1.0 or newer"));
    assert!(message("a line of text").contains("error: cannot connect"));
    assert!(message("cut before the manifest").contains("config/settings.jsonl"));
}

/// A blob without end must not be taken into memory, and its lie be found at the first byte.
#[test]
fn limits_hold_before_anything_is_read() {
    let archive = sample();
    let strict = |change: fn(&mut Limits)| {
        let mut options = options();
        change(&mut options.limits);
        verify(archive.as_slice(), options).unwrap_err().kind()
    };
    assert_eq!(strict(|l| l.entries = 3), "TooManyEntries");
    assert_eq!(strict(|l| l.header_bytes = 10), "TooLarge");
    assert_eq!(strict(|l| l.record_bytes = 20), "LineTooLong");
    assert_eq!(strict(|l| l.part_bytes = 20), "TooLarge");
    assert_eq!(strict(|l| l.file_bytes = 20), "TooLarge");
    assert_eq!(strict(|l| l.index_bytes = 20), "TooLarge");
    assert_eq!(strict(|l| l.blob_bytes = 20), "TooLarge");
    assert_eq!(strict(|l| l.manifest_bytes = 20), "TooLarge");
}

#[test]
fn another_products_backup_is_not_taken() {
    let options = ReadOptions { product: Some(Product::Ucp), ..options() };
    assert_eq!(verify(sample().as_slice(), options).unwrap_err().kind(), "Header");
}

#[test]
fn an_error_is_final() {
    let mut archive = sample();
    // An empty record at the beginning of the tags.
    let at = archive.windows(13).position(|w| w == br#"{"repository""#).unwrap();
    archive[at] = b'\n';
    let mut reader = ArchiveReader::open(archive.as_slice(), options()).unwrap();
    let error = loop {
        match reader.next_entry() {
            Ok(Some(Entry::Records(mut records))) => while let Ok(Some(_)) = records.next_line() {},
            Ok(Some(_)) => {}
            Ok(None) => panic!("accepted"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ArchiveError::Misuse { .. }), "{error}");
    assert!(reader.next_entry().is_err());
}

#[test]
fn what_the_input_says_is_kept() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("cable pulled"))
        }
    }
    let archive = sample();
    let input = Cursor::new(&archive[..3000]).chain(Broken);
    let error = verify(input, options()).unwrap_err();
    assert!(error.to_string().contains("cable pulled"), "{error}");
    assert_eq!(error.kind(), "Read");
}

#[test]
fn a_blob_read_through_io_keeps_its_error() {
    let mut archive = sample();
    let at = archive.windows(16).position(|w| w == [7; 16]).unwrap();
    archive[at] = 8;
    let mut reader = ArchiveReader::open(archive.as_slice(), options()).unwrap();
    while let Some(entry) = reader.next_entry().unwrap() {
        if let Entry::Blob(mut blob) = entry {
            let failed = std::io::copy(&mut blob, &mut std::io::sink()).unwrap_err();
            assert!(matches!(ArchiveError::from_io(failed), ArchiveError::BlobDigest { .. }));
            return;
        }
    }
    panic!("no blob came");
}
