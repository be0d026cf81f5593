//! A restored registry is another one than that which was backed up: it signs with keys of its own, and a copy for a
//! rehearsal has nothing that is good at the original.

use std::io::Cursor;

use dtr_archive::ReadOptions;
use dtr_catalog::{Kind, keys, records::*};
use dtr_recovery::{
    BackupOptions, KnownKeys, RecoveryError, Refusal, RestoreOptions, VerifyOptions, archive_keys,
    verify,
};
use dtr_store::At;
use dtr_types::{Clock as _, Secret, ServiceId, StorageMark};

use crate::world::{VERSION, World};

fn with_images() -> BackupOptions {
    BackupOptions { with_images: true, ..BackupOptions::new(VERSION) }
}

fn copy() -> RestoreOptions {
    RestoreOptions { copy: true, ..RestoreOptions::new(VERSION) }
}

async fn token_key(world: &World) {
    let key = KeyRecord {
        purpose: KeyPurpose::Token,
        id: "0".repeat(32),
        private_key: dtr_transport::pki::new_es256_key().unwrap().private,
        created_at: world.clock.now(),
        not_after: None,
    };
    world.catalog.put(&key).await.unwrap();
}

#[tokio::test]
async fn a_restored_registry_signs_with_keys_of_its_own() {
    let world = World::installed(41).await;
    world.fill().await;
    token_key(&world).await;
    let first = archive_keys(&world.catalog).await.unwrap();
    assert_eq!(first.former, [""; 0]);
    let (archive, report) = world.backup(BackupOptions::new(VERSION)).await;
    assert_eq!(first.current.as_ref(), Some(&report.key_id));

    let second = world.beside(42).await;
    let back = second.restore(&archive, RestoreOptions::new(VERSION)).await.unwrap();
    assert_eq!(back.key_id, report.key_id);
    let now = archive_keys(&second.catalog).await.unwrap();
    assert_eq!((now.current.as_ref(), &now.former), (Some(&back.signs_with), &vec![report.key_id]));
    assert_ne!(back.signs_with, back.key_id);
    let tokens = second.catalog.signing_keys(KeyPurpose::Token).await.unwrap();
    assert!(tokens.is_empty(), "the registry makes one when it starts");
    let said = back.to_string();
    assert!(said.contains("compared with nothing") && said.contains(&back.signs_with), "{said}");
    let shared = back.shared.join(", ");
    assert!(shared.contains("authority") && shared.contains("1 access"), "{shared}");

    // Its backups are told from those of the original, and so are those of what is restored from them.
    let (archive, report) = second.backup(BackupOptions::new(VERSION)).await;
    assert_eq!(report.key_id, back.signs_with);
    let third = world.beside(43).await;
    third.restore(&archive, RestoreOptions::new(VERSION)).await.unwrap();
    let known = archive_keys(&third.catalog).await.unwrap();
    assert_eq!(known.former, [report.key_id.clone(), first.current.clone().unwrap()]);

    for (id, known) in [(report.key_id.as_str(), true), (first.current.as_deref().unwrap(), false)]
    {
        let read = ReadOptions { known: KnownKeys::only(id).unwrap(), ..ReadOptions::default() };
        let found = verify(Cursor::new(archive.clone()), read, VerifyOptions::default()).await;
        assert_eq!(found.is_ok(), known, "{id}");
        let said = found.map(|found| found.to_string()).unwrap_or_default();
        assert!(!said.contains("compared with nothing"), "{said}");
    }
}

#[tokio::test]
async fn nothing_of_a_copy_is_good_at_the_original() {
    let world = World::installed(44).await;
    world.fill().await;
    token_key(&world).await;
    let service = Service {
        id: ServiceId::random(&*world.random),
        owner: world.alice.id.clone(),
        name: "dtr".to_owned(),
        description: String::new(),
        url: "https://old.example".to_owned(),
        privileged: true,
        redirect_uris: Vec::new(),
        jwks_uris: Vec::new(),
        provider_identities: Vec::new(),
        ca_bundle: String::new(),
        public_key: String::new(),
        replicas: Vec::new(),
        created_at: world.clock.now(),
    };
    world.catalog.put(&service).await.unwrap();
    let (archive, report) = world.backup(with_images()).await;

    let target = World::empty(45).await;
    let own = CertificateRecord {
        name: "ca".to_owned(),
        certificate: "-----BEGIN CERTIFICATE-----\nnew".to_owned(),
        private_key: Secret::new("new key"),
        ca: String::new(),
        user_given: false,
        created_at: target.clock.now(),
    };
    let options = RestoreOptions { certificates: vec![own.clone()], ..copy() };
    let back = target.restore(&archive, options).await.unwrap();
    assert!(back.copy && back.signs_with != report.key_id);
    assert_eq!(back.blobs_restored, report.blobs);
    let catalog = &target.catalog;
    let certificates: Vec<CertificateRecord> =
        catalog.all(Kind::Certificate.prefix().as_bytes()).await.unwrap();
    assert_eq!(certificates, [own]);
    let tokens: Vec<AccessToken> =
        catalog.all(Kind::AccessToken.prefix().as_bytes()).await.unwrap();
    assert!(!tokens.is_empty() && tokens.iter().all(|token| !token.is_active), "{tokens:?}");
    assert!(catalog.services().await.unwrap().is_empty());
    assert!(catalog.signing_keys(KeyPurpose::Token).await.unwrap().is_empty());
    assert_eq!(catalog.settings().await.unwrap().dtr_host, "", "the original's address");
    let cluster = catalog.cluster().await.unwrap().unwrap();
    assert_ne!(cluster.id, report.cluster);
    // People prove themselves as they do there; that is said.
    assert_eq!(back.shared, ["the passwords of 1 users"]);
    // The original's token is as it was.
    let token: Vec<AccessToken> =
        world.catalog.all(Kind::AccessToken.prefix().as_bytes()).await.unwrap();
    assert!(token.iter().all(|token| token.is_active));
}

#[tokio::test]
async fn a_copy_takes_no_storage_away() {
    let world = World::installed(46).await;
    world.fill().await;
    let mark =
        StorageMark::first(&world.catalog.cluster().await.unwrap().unwrap().id, &*world.random);
    world.blobs.set_mark(&mark).await.unwrap();
    let (archive, _) = world.backup(with_images()).await;
    let target = world.beside(47).await;
    for dry_run in [true, false] {
        let options = RestoreOptions { dry_run, ..copy() };
        let error = target.restore(&archive, options).await.unwrap_err();
        assert!(
            matches!(&error, RecoveryError::Refused(Refusal::StorageTaken { cluster }) if *cluster == mark.cluster.to_string()),
            "{error}"
        );
    }
    assert!(target.state(At::Latest).await.is_empty());
    assert_eq!(world.blobs.mark().await.unwrap(), Some(mark));

    // A copy that was cut off after it took its own storage runs again.
    let target = World::empty(48).await;
    let own = StorageMark::first(&dtr_types::ClusterId::random(&*target.random), &*target.random);
    target.blobs.set_mark(&own).await.unwrap();
    let since = target.clock.now();
    let started = RestoreRecord {
        cluster: own.cluster.clone(),
        revision: dtr_types::Revision(1),
        started_at: since,
        version: VERSION.to_owned(),
    };
    target.catalog.begin_restore(&started).await.unwrap();
    target.catalog.put(&StorageRecord { mark: own, since }).await.unwrap();
    let back = target.restore(&archive, copy()).await.unwrap();
    assert!(back.cleaned);
    assert!(target.catalog.get(&keys::storage()).await.unwrap().is_some());
}
