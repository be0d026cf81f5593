//! What is written comes back, through our reader and through the tools that the format promises to work with.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
};

use crate::common::*;
use dtr_archive::*;
use dtr_types::{Digest, Secret};
use proptest::prelude::*;

/// Runs a program with this input; its output when it ended well.
fn run(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program} is needed by this test: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap()
    });
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    output.stdout
}

#[test]
fn everything_comes_back_in_order() {
    let archive = sample();
    let mut reader = ArchiveReader::open(archive.as_slice(), options()).unwrap();
    assert_eq!(*reader.header(), header(&key(7)));
    let mut seen = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        match entry {
            Entry::Records(mut records) => {
                let mut count = 0;
                while let Some(record) = records.next_record::<serde_json::Value>().unwrap() {
                    assert!(record.is_object());
                    count += 1;
                }
                seen.push(format!("{} {count}", records.name()));
            }
            Entry::File(file) => seen.push(format!("{} {}", file.name(), file.size())),
            Entry::Blob(mut blob) => {
                let mut content = Vec::new();
                blob.read_to_end(&mut content).unwrap();
                assert!(blob.digest().matches(&content));
                seen.push(format!("blob {}", content.len()));
            }
            Entry::End(manifest) => {
                assert_eq!(manifest.totals.records, 341);
                assert_eq!(manifest.totals.blobs, 4);
                assert_eq!(manifest.totals.kinds["access/client_tokens"], 0);
                seen.push("end".to_owned());
            }
        }
    }
    assert!(reader.next_entry().unwrap().is_none());
    assert_eq!(
        seen,
        [
            "config/settings.jsonl 1",
            "metadata/repositories.jsonl 40",
            "metadata/tags.jsonl 300",
            "access/client_tokens.jsonl 0",
            "certificates/ca.pem 28",
            "certificates/empty 0",
            "images/oci-layout 31",
            "blob 5000",
            "blob 19",
            "blob 0",
            "blob 4",
            "images/index.json 308",
            "end"
        ]
    );
}

#[test]
fn the_summary_tells_what_was_written() {
    let key = key(7);
    let mut writer = ArchiveWriter::new(Vec::new(), header(&key), &key).unwrap();
    fill(&mut writer).unwrap();
    let (archive, summary) = writer.finish().unwrap();
    assert_eq!(summary.bytes, archive.len() as u64);
    assert_eq!(summary.sha256, Sha256::of(&archive));
    let verified = check(&archive).unwrap();
    assert_eq!(verified.manifest.totals, summary.totals);
    assert_eq!(verified.bytes, summary.bytes);
    assert_eq!(verified.header.signer.key_id, summary.key_id);
}

#[test]
fn many_records_become_numbered_parts() {
    let key = key(7);
    let mut writer = ArchiveWriter::new(Vec::new(), header(&key), &key).unwrap();
    let mut tags = writer.records(Section::Metadata, "tags").unwrap();
    let filler = "x".repeat(1000);
    for n in 0..9000 {
        tags.push(&(n, &filler)).unwrap();
    }
    let (archive, summary) = writer.finish().unwrap();
    assert_eq!(summary.totals.kinds["metadata/tags"], 9000);
    let mut reader = ArchiveReader::open(archive.as_slice(), options()).unwrap();
    let (mut parts, mut next) = (Vec::new(), 0);
    while let Some(entry) = reader.next_entry().unwrap() {
        let Entry::Records(mut records) = entry else { continue };
        parts.push(records.name().to_owned());
        while let Some((n, text)) = records.next_record::<(u32, &str)>().unwrap() {
            assert_eq!((n, text), (next, filler.as_str()));
            next += 1;
        }
    }
    assert_eq!(next, 9000);
    assert_eq!(
        parts,
        ["metadata/tags-00001.jsonl", "metadata/tags-00002.jsonl", "metadata/tags-00003.jsonl"]
    );
}

#[test]
fn a_writer_that_failed_makes_no_archive() {
    let key = key(7);
    let mut writer = ArchiveWriter::new(Vec::new(), header(&key), &key).unwrap();
    let digest = Digest::of(b"right");
    let wrong = writer.blob(&digest, 5, &mut &b"wrong"[..]);
    assert!(matches!(wrong, Err(ArchiveError::BlobDigest { .. })));
    assert!(matches!(writer.finish(), Err(ArchiveError::Misuse { .. })));

    let mut writer = ArchiveWriter::new(Vec::new(), header(&key), &key).unwrap();
    let short = writer.blob(&digest, 6, &mut &b"right"[..]);
    assert!(matches!(short, Err(ArchiveError::BlobSize { found: 5, .. })));
    let mut writer = ArchiveWriter::new(Vec::new(), header(&key), &key).unwrap();
    let long = writer.blob(&digest, 4, &mut &b"right"[..]);
    assert!(matches!(long, Err(ArchiveError::BlobSize { found: 5, .. })));
}

#[test]
fn what_does_not_belong_cannot_be_written() {
    let key = key(7);
    let mut writer = ArchiveWriter::new(Vec::new(), header(&key), &key).unwrap();
    fill(&mut writer).unwrap();
    for kind in ["Tags", "tags-1", "", "../x"] {
        assert!(writer.records(Section::Metadata, kind).is_err(), "{kind}");
    }
    assert!(writer.records(Section::Metadata, "tags").is_err());
    assert!(writer.certificate("../etc/passwd", b"").is_err());
    assert!(writer.certificate("ca.pem", b"").is_err());
    assert!(writer.oci_layout().is_err());
    assert!(writer.blob(&Digest::of(b""), 0, &mut &b""[..]).is_err());
    let mut events = writer.records(Section::Metadata, "events").unwrap();
    assert!(events.push_json(b"{\n}").is_err());
    assert!(events.push_json(b"").is_err());
    events.push_json(b"{}").unwrap();
    let (archive, _) = writer.finish().unwrap();
    assert_eq!(check(&archive).unwrap().manifest.totals.records, 342);
}

#[test]
fn tar_and_jq_alone_can_read_it() {
    let archive = sample();
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_str().unwrap();
    let listed = String::from_utf8(run("tar", &["-tf", "-"], &archive)).unwrap();
    let lines: Vec<_> = listed.lines().collect();
    assert_eq!(
        lines[..4],
        [
            "dtr-backup-v0.1.0/",
            "dtr-backup-v0.1.0/header.json",
            "dtr-backup-v0.1.0/config/",
            "dtr-backup-v0.1.0/config/settings.jsonl"
        ]
    );
    assert_eq!(lines.last(), Some(&"dtr-backup-v0.1.0/manifest.json"));
    run("tar", &["-xf", "-", "-C", at], &archive);
    let top = format!("{at}/dtr-backup-v0.1.0");
    for entry in check_entries(&top) {
        let (name, sha256) = entry.split_once(' ').unwrap();
        let content = std::fs::read(format!("{top}/{name}")).unwrap();
        assert_eq!(Sha256::of(&content).to_string(), sha256, "{name}");
    }
    let count = run("jq", &["-rs", "length", &format!("{top}/metadata/tags.jsonl")], b"");
    assert_eq!(String::from_utf8(count).unwrap().trim(), "300");
}

fn check_entries(top: &str) -> Vec<String> {
    let list = run(
        "jq",
        &["-r", ".entries[] | .name + \" \" + .sha256", &format!("{top}/manifest.json")],
        b"",
    );
    String::from_utf8(list).unwrap().lines().map(str::to_owned).collect()
}

fn encrypted(encryption: &Encryption) -> Vec<u8> {
    let key = key(7);
    let sealed = Sealed::new(Vec::new(), encryption).unwrap();
    let mut writer = ArchiveWriter::new(sealed, header(&key), &key).unwrap();
    fill(&mut writer).unwrap();
    writer.finish().unwrap().0.finish().unwrap()
}

fn with(identities: Vec<UnlockKey>, passphrase: Option<&str>) -> ReadOptions {
    let passphrase = passphrase.map(Secret::new);
    ReadOptions { keys: Keys { identities, passphrase }, ..options() }
}

#[test]
fn encrypted_to_recipients() {
    let (one, two, other) = (UnlockKey::generate(), UnlockKey::generate(), UnlockKey::generate());
    let archive = encrypted(&Encryption::Recipients(vec![one.recipient(), two.recipient()]));
    assert!(is_encrypted(&archive));
    for key in [&one, &two] {
        let verified = verify(archive.as_slice(), with(vec![other.clone(), key.clone()], None));
        assert!(verified.unwrap().encrypted);
    }
    let refused = |options| verify(archive.as_slice(), options).unwrap_err();
    assert!(matches!(refused(with(vec![other], None)), ArchiveError::WrongIdentity));
    assert!(matches!(refused(with(vec![], Some("x"))), ArchiveError::NeedsIdentity));
    assert!(Sealed::new(Vec::new(), &Encryption::Recipients(vec![])).is_err());
    for cut in [0, 1, 10, 100, 200, archive.len() / 2, archive.len() - 1] {
        let read = verify(&archive[..cut], with(vec![one.clone()], None));
        assert!(read.is_err(), "cut at {cut}");
    }
    let mut more = archive.clone();
    more.push(0);
    assert!(verify(more.as_slice(), with(vec![one], None)).is_err());
}

#[test]
fn encrypted_with_a_passphrase() {
    let passphrase = Secret::new("correct horse");
    let archive = encrypted(&Encryption::Passphrase { passphrase, work_factor: 10 });
    verify(archive.as_slice(), with(vec![], Some("correct horse"))).unwrap();
    let refused = |options| verify(archive.as_slice(), options).unwrap_err();
    assert!(matches!(refused(with(vec![], Some("wrong"))), ArchiveError::WrongPassphrase));
    assert!(matches!(
        refused(with(vec![UnlockKey::generate()], None)),
        ArchiveError::NeedsPassphrase
    ));
    let empty = Encryption::passphrase(Secret::new(""));
    assert!(Sealed::new(Vec::new(), &empty).is_err());
}

#[test]
fn the_age_tool_reads_ours_and_we_read_its() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.txt");
    let path = path.to_str().unwrap();
    run("age-keygen", &["-o", path], b"");
    let keys = UnlockKey::parse_file(&std::fs::read_to_string(path).unwrap()).unwrap();
    let recipient = keys[0].recipient().to_string();
    let clear = sample();

    let ours = encrypted(&Encryption::Recipients(vec![recipient.parse().unwrap()]));
    assert_eq!(run("age", &["-d", "-i", path], &ours), clear);
    for armor in [&["-r", recipient.as_str()][..], &["-a", "-r", recipient.as_str()]] {
        let theirs = run("age", armor, &clear);
        let verified = verify(theirs.as_slice(), with(keys.clone(), None)).unwrap();
        assert!(verified.encrypted);
    }
}

#[test]
fn hostile_encryption_headers_are_bounded() {
    let mut endless = b"age-encryption.org/v1\n".to_vec();
    endless.resize(3 << 20, b'A');
    assert!(matches!(
        verify(endless.as_slice(), with(vec![], Some("x"))),
        Err(ArchiveError::SealHeader { .. })
    ));
    let mut armor = b"-----BEGIN AGE ENCRYPTED FILE-----\n".to_vec();
    armor.resize(3 << 20, b'A');
    assert!(matches!(
        verify(armor.as_slice(), with(vec![], Some("x"))),
        Err(ArchiveError::SealHeader { .. })
    ));
}

#[test]
fn keys_can_be_kept() {
    let key = key(3);
    let kept = SigningKey::from_pkcs8(&key.to_pkcs8().unwrap()).unwrap();
    assert_eq!(kept.public_key(), key.public_key());
    assert_eq!(key.public_key().to_string().parse::<PublicKey>().unwrap(), key.public_key());
    assert!("zz".parse::<PublicKey>().is_err());
    assert!(UnlockKey::parse_file("# nothing\n").is_err());
    assert!(UnlockKey::parse_file("AGE-SECRET-KEY-1XYZ").is_err());
    assert!("age1xyz".parse::<Recipient>().is_err());
    let unlock = UnlockKey::generate();
    let file = format!("# created\n{}\n", unlock.to_secret().expose());
    assert_eq!(
        UnlockKey::parse_file(&file).unwrap()[0].recipient().to_string(),
        unlock.recipient().to_string()
    );
    assert!(!format!("{unlock:?} {key:?}").contains("SECRET"));
}

#[test]
fn skopeo_copies_from_the_unpacked_images() {
    let layer = run("tar", &["-cf", "-", "-C", "/etc", "hostname"], b"");
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        Digest::of(&layer)
    );
    let descriptor = |media_type: &str, content: &[u8]| {
        let (digest, size) = (Digest::of(content), content.len());
        serde_json::json!({"mediaType": media_type, "digest": digest, "size": size})
    };
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let image = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    let image = serde_json::to_vec(&image).unwrap();

    let key = key(7);
    let mut writer = ArchiveWriter::new(Vec::new(), header(&key), &key).unwrap();
    writer.oci_layout().unwrap();
    let mut index = oci::Index::new();
    for content in [config.as_bytes(), &layer, &image] {
        writer.blob(&Digest::of(content), content.len() as u64, &mut &content[..]).unwrap();
    }
    for name in ["team/app:v1", "team/app:latest", "team/sub/other:1.0"] {
        index.push(media_type, &Digest::of(&image), image.len() as u64, Some(name));
    }
    writer.oci_index(&index.finish()).unwrap();
    let archive = writer.finish().unwrap().0;

    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_str().unwrap();
    run("tar", &["-xf", "-", "-C", at], &archive);
    for (n, name) in ["team/app:v1", "team/sub/other:1.0"].into_iter().enumerate() {
        let from = format!("oci:{at}/dtr-backup-v0.1.0/images:{name}");
        let to = format!("dir:{at}/copy{n}");
        run("skopeo", &["--insecure-policy", "copy", "--preserve-digests", &from, &to], b"");
        assert_eq!(std::fs::read(format!("{at}/copy{n}/manifest.json")).unwrap(), image);
    }
}

#[test]
fn the_signature_can_be_checked_with_openssl_alone() {
    let archive = sample();
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_str().unwrap();
    run("tar", &["-xf", "-", "-C", at], &archive);
    // The recipe of docs/archive-format.md.
    let recipe = r#"
        cd "$0"/dtr-backup-v*
        { echo dtr-backup-manifest-v1; head -n -1 manifest.json | sha256sum | cut -d' ' -f1; } > message
        jq -j .signature manifest.json | tr a-f A-F | basenc --base16 -d > signature
        { printf 302a300506032b6570032100; jq -j .manifest.signer.public_key manifest.json; } | tr a-f A-F | basenc --base16 -d > key.der
        jq -r '.entries[] | .sha256 + "  " + .name' manifest.json | sha256sum -c --quiet
        openssl pkeyutl -verify -rawin -in message -sigfile signature -pubin -keyform DER -inkey key.der
    "#;
    let said = run("bash", &["-ec", recipe, at], b"");
    assert!(String::from_utf8_lossy(&said).contains("Verified Successfully"));
    let stream = r#"head -c "$(tar -xOf - --wildcards '*/manifest.json' < "$0" | jq .manifest.stream.bytes)" "$0" | sha256sum"#;
    let path = folder.path().join("backup.tar");
    std::fs::write(&path, &archive).unwrap();
    let hash = run("bash", &["-ec", stream, path.to_str().unwrap()], b"");
    let proof = check(&archive).unwrap().manifest.stream.sha256.to_string();
    assert!(String::from_utf8(hash).unwrap().starts_with(&proof));
}

/// Gives a few bytes at a time, as a pipe does.
struct Trickle<'a>(&'a [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.1 = self.1 % 700 + 1;
        let n = self.1.min(self.0.len()).min(buffer.len());
        buffer[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_content_comes_back(
        kinds in prop::collection::vec(prop::collection::vec(".{0,60}", 0..20), 0..6),
        blobs in prop::collection::hash_set(prop::collection::vec(any::<u8>(), 0..3000), 0..5),
        files in prop::collection::btree_map("[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,30}", prop::collection::vec(any::<u8>(), 0..1500), 0..4),
    ) {
        let key = key(7);
        let mut writer = ArchiveWriter::new(Vec::new(), header(&key), &key).unwrap();
        for (n, records) in kinds.iter().enumerate() {
            let mut kind = writer.records(Section::ALL[n], &format!("kind{n}")).unwrap();
            for record in records {
                kind.push(record).unwrap();
            }
        }
        for (name, content) in &files {
            writer.certificate(name, content).unwrap();
        }
        for blob in &blobs {
            writer.blob(&Digest::of(blob), blob.len() as u64, &mut blob.as_slice()).unwrap();
        }
        let (archive, summary) = writer.finish().unwrap();

        let mut reader = ArchiveReader::open(Trickle(&archive, 0), options()).unwrap();
        let (mut kinds_back, mut files_back, mut blobs_back) = (vec![], vec![], vec![]);
        let mut ended = false;
        while let Some(entry) = reader.next_entry().unwrap() {
            match entry {
                Entry::Records(mut records) => {
                    let mut back = vec![];
                    while let Some(record) = records.next_record::<String>().unwrap() {
                        back.push(record);
                    }
                    kinds_back.push(back);
                }
                Entry::File(file) => {
                    let name = file.name().to_string();
                    files_back.push((name, file.read_all().unwrap()));
                }
                Entry::Blob(mut blob) => {
                    let mut back = vec![];
                    while let Some(chunk) = blob.chunk().unwrap() {
                        back.extend_from_slice(chunk);
                    }
                    blobs_back.push(back);
                }
                Entry::End(manifest) => {
                    prop_assert_eq!(&manifest.totals, &summary.totals);
                    ended = true;
                }
            }
        }
        prop_assert!(ended);
        prop_assert_eq!(kinds_back, kinds);
        let files: Vec<_> = files.into_iter().map(|(n, c)| (format!("certificates/{n}"), c)).collect();
        prop_assert_eq!(files_back, files);
        prop_assert_eq!(blobs_back, blobs.into_iter().collect::<Vec<_>>());
    }
}
