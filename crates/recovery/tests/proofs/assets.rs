//! Keys, certificates and kinds that a registry cannot be without: a verification names what is missing or cannot be used,
//! and a restore does not make a registry that would not start.

use std::io::Cursor;

use dtr_archive::{ArchiveReader, ArchiveWriter, Entry, EntryName, ReadOptions, SigningKey};
use dtr_catalog::{TransactionExt as _, keys, records::*};
use dtr_recovery::{
    BackupOptions, Exit, RecoveryError, RestoreOptions, VerifyOptions, VerifyReport, verify,
};
use dtr_store::{At, Transaction};
use dtr_transport::pki::{Authority, SubjectNames, new_es256_key};
use dtr_types::{Clock as _, Secret, Timestamp};

use crate::world::{VERSION, World};

const WEEK: std::time::Duration = std::time::Duration::from_secs(7 * 86_400);

/// An archive without some of its files, signed anew.
pub fn without(archive: &[u8], dropped: &str) -> Vec<u8> {
    let mut reader = ArchiveReader::open(archive, ReadOptions::default()).unwrap();
    let key = SigningKey::from_seed(&[9; 32]).unwrap();
    let mut writer = ArchiveWriter::new(Vec::new(), reader.header().clone(), &key).unwrap();
    while let Some(entry) = reader.next_entry().unwrap() {
        match entry {
            Entry::Records(mut records) => {
                if format!("{}/{}", records.section(), records.kind()) == dropped {
                    continue;
                }
                let kind = records.kind().to_owned();
                let mut to = writer.records(records.section(), &kind).unwrap();
                while let Some(line) = records.next_line().unwrap() {
                    to.push_json(line).unwrap();
                }
            }
            Entry::File(file) => {
                let name = file.name().clone();
                let content = file.read_all().unwrap();
                match name {
                    EntryName::Certificate(name) if format!("certificates/{name}") != dropped => {
                        writer.certificate(&name, &content).unwrap();
                    }
                    EntryName::OciLayout => writer.oci_layout().unwrap(),
                    EntryName::OciIndex => writer.oci_index(&content).unwrap(),
                    _ => {}
                }
            }
            Entry::Blob(mut blob) => {
                let (digest, size) = (*blob.digest(), blob.size());
                writer.blob(&digest, size, &mut blob).unwrap();
            }
            Entry::End(_) => {}
        }
    }
    writer.finish().unwrap().0
}

async fn judged(archive: &[u8]) -> VerifyReport {
    let input = Cursor::new(archive.to_vec());
    verify(input, Default::default(), VerifyOptions::default()).await.unwrap()
}

/// Is no good backup, for this reason, and not restored either.
async fn no_good(archive: &[u8], words: &[&str]) {
    let report = judged(archive).await;
    assert_eq!(report.exit(), Exit::Damaged, "{report}");
    for word in words {
        assert!(report.broken.listed.iter().any(|found| found.contains(word)), "{word}: {report}");
    }
    let target = World::empty(81).await;
    let allowed = RestoreOptions { accept_empty_storage: true, ..RestoreOptions::new(VERSION) };
    let error = target.restore(archive, allowed).await.unwrap_err();
    assert!(matches!(error, RecoveryError::Inconsistent { .. }), "{error}");
    assert!(target.state(At::Latest).await.is_empty());
}

#[tokio::test]
async fn keys_and_certificates_can_be_used_or_the_archive_is_no_good() {
    let garbage = Secret::new("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    let now = Timestamp::from_millis(1_700_000_000_000);
    let stranger = Authority::make("stranger", now).unwrap();
    let key = |purpose: KeyPurpose, private: &Secret| KeyRecord {
        purpose,
        id: "00".repeat(16),
        private_key: private.clone(),
        created_at: now,
        not_after: None,
    };
    let certificate = |name: &str, certificate: &str, private: &Secret| CertificateRecord {
        name: name.to_owned(),
        certificate: certificate.to_owned(),
        private_key: private.clone(),
        ca: String::new(),
        user_given: false,
        created_at: now,
    };
    let ca = stranger.certificate_pem();
    let (one, other) = (new_es256_key().unwrap(), new_es256_key().unwrap());
    let names = SubjectNames::local();
    let validity = std::time::Duration::from_secs(3600);
    let web = stranger.issue_server(&names, now, validity).unwrap();
    for (word, record) in [
        ("token key", Transaction::new().put_record(&key(KeyPurpose::Token, &garbage))),
        ("archive key", Transaction::new().put_record(&key(KeyPurpose::Archive, &garbage))),
        ("archive key", Transaction::new().put_record(&key(KeyPurpose::Archive, &one.private))),
        (
            "\"ca\"",
            Transaction::new().put_record(&certificate("ca", "garbage", stranger.key_pem())),
        ),
        ("\"ca\"", Transaction::new().put_record(&certificate("ca", ca, &one.private))),
        (
            "\"service\"",
            Transaction::new().put_record(&certificate("service", &one.public, &other.private)),
        ),
        (
            "\"web\"",
            Transaction::new().put_record(&certificate("web", &web.chain_pem, &one.private)),
        ),
        ("\"web\"", Transaction::new().put_record(&certificate("web", "garbage", &web.key_pem))),
        ("\"ca\" is not in it", Ok(Transaction::new().delete(keys::certificate("ca")))),
        ("\"service\" is not in it", Ok(Transaction::new().delete(keys::certificate("service")))),
    ] {
        let world = World::installed(80).await;
        world.push("alice/app", "1", &["layer".to_owned()]).await.unwrap();
        let (archive, _) = world.backup(BackupOptions::new(VERSION)).await;
        assert_eq!(judged(&archive).await.exit(), Exit::Done);
        world.catalog.commit(record.unwrap()).await.unwrap();
        let (archive, _) = world.backup(BackupOptions::new(VERSION)).await;
        no_good(&archive, &[word]).await;
    }
}

#[tokio::test]
async fn a_kind_that_is_missing_is_named() {
    let world = World::installed(82).await;
    world.fill().await;
    let (archive, _) = world.backup(BackupOptions::new(VERSION)).await;
    assert_eq!(judged(&without(&archive, "none")).await.exit(), Exit::Done);
    for kind in ["metadata/events", "config/backups", "access/tokens", "identity/services"] {
        no_good(&without(&archive, kind), &[kind]).await;
    }
    no_good(&without(&archive, "certificates/keys.jsonl"), &["certificates/keys"]).await;
    no_good(&without(&archive, "metadata/manifests"), &["metadata/manifests is", "tag "]).await;
}

#[tokio::test]
async fn what_somebody_should_know_is_said() {
    let world = World::installed(83).await;
    let (archive, _) = world.backup(BackupOptions::new(VERSION)).await;
    let report = judged(&archive).await;
    assert!(
        report.warnings.iter().any(|told| told.contains("no active administrator")),
        "{report}"
    );
    assert_eq!(report.exit(), Exit::Done, "it is whole all the same");
    let admin = Account { is_admin: true, ..world.alice.clone() };
    world.catalog.put(&admin).await.unwrap();
    let now = world.clock.now();
    let stranger = Authority::make("stranger", now).unwrap();
    let validity = std::time::Duration::from_secs(3600);
    let web = stranger.issue_server(&SubjectNames::local(), now, validity).unwrap();
    let record = CertificateRecord {
        name: "web".to_owned(),
        certificate: web.chain_pem,
        private_key: web.key_pem,
        ca: String::new(),
        user_given: true,
        created_at: now,
    };
    world.catalog.put(&record).await.unwrap();
    let (archive, _) = world.backup(BackupOptions::new(VERSION)).await;
    assert!(judged(&archive).await.warnings.is_empty());
    world.clock.advance(2 * validity);
    let (archive, _) = world.backup(BackupOptions::new(VERSION)).await;
    let report = judged(&archive).await;
    assert!(report.warnings.iter().any(|told| told.contains("\"web\"")), "{report}");
    assert_eq!(report.exit(), Exit::Done);
    let back =
        World::empty(84).await.restore(&archive, RestoreOptions::new(VERSION)).await.unwrap();
    assert!(back.warnings.iter().any(|told| told.contains("\"web\"")), "{back}");
}

#[tokio::test]
async fn the_authority_of_replicas_and_what_it_took_back_are_no_server_certificates() {
    let world = World::installed(85).await;
    let now = world.clock.now();
    let authority = Authority::make("DTR replicas", now).unwrap();
    let member = new_es256_key().unwrap();
    let given =
        authority.issue_member("replica", &SubjectNames::local(), &member.public, now, WEEK);
    let given = given.unwrap();
    let revoked = authority.revocation_list(&[&given], 1, now).unwrap();
    let record = |name: &str, certificate: &str, private_key: &Secret| CertificateRecord {
        name: name.to_owned(),
        certificate: certificate.to_owned(),
        private_key: private_key.clone(),
        ca: String::new(),
        user_given: false,
        created_at: now,
    };
    let none = Secret::new("");
    for record in [
        record("replicas", authority.certificate_pem(), authority.key_pem()),
        record("replicas-revoked", &revoked, &none),
        record("000000000001", &given, &none),
    ] {
        world.catalog.put(&record).await.unwrap();
    }
    let (archive, _) = world.backup(BackupOptions::new(VERSION)).await;
    let report = judged(&archive).await;
    assert_eq!(report.exit(), Exit::Done, "{report}");
    let damaged = revoked.replacen("MI", "!!", 1);
    world.catalog.put(&record("replicas-revoked", &damaged, &none)).await.unwrap();
    let (archive, _) = world.backup(BackupOptions::new(VERSION)).await;
    no_good(&archive, &["replicas-revoked"]).await;
}
