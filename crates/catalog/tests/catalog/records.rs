//! Keys and records: no two kinds meet, everything comes back, what is not known is kept or refused by name.

use bytes::Bytes;
use dtr_catalog::{
    CatalogError, Derive, Kind, Loader, Record, decode, encode, json, keys,
    records::{
        AccessLevel, AccessToken, BlobRecord, Candidate, Counters, Event, EventObject, EventType,
        NamespaceGrant, Repository, RepositoryGrant, Settings, TokenOrigin,
    },
};
use dtr_store::At;
use dtr_types::{AccountId, Clock as _, Digest, TeamId};

use crate::world::World;

#[test]
fn the_keys_of_no_kind_begin_like_those_of_another() {
    for one in Kind::ALL {
        for other in Kind::ALL {
            let same = one == other;
            assert_eq!(other.prefix().starts_with(one.prefix()), same, "{one:?} {other:?}");
            assert!(same || one.name() != other.name());
            let entries = (one.archived(), other.archived());
            assert!(same || entries.0.is_none() || entries.0 != entries.1, "{one:?} {other:?}");
        }
        assert!(one.prefix().ends_with('/') || one.prefix().len() > 4, "{one:?} could be a part");
    }
}

#[test]
fn a_key_is_made_of_its_parts_and_sorts_by_them() {
    let world = World::new();
    let (a, b) = (world.repository("x/a").id, world.repository("x/b").id);
    let tag = |text: &str| text.parse().expect("a tag");
    assert_eq!(keys::tag(&a, &tag("v1")).bytes(), format!("t/{a}/v1").as_bytes());
    assert!(keys::tag(&a, &tag("v1")).bytes().starts_with(&keys::tags(&a)));
    assert!(!keys::tag(&b, &tag("v1")).bytes().starts_with(&keys::tags(&a)));
    let digest = Digest::of(b"x");
    assert!(keys::reference(&digest, &a, &digest).starts_with(&keys::references_in(&digest, &a)));
    assert!(keys::references_in(&digest, &a).starts_with(&keys::references(&digest)));
    // Parts of a manifest are read in order, so their keys are, also from nine to ten.
    let parts: Vec<Bytes> = (0..30).map(|n| keys::manifest_body(&a, &digest, n)).collect();
    assert!(parts.is_sorted());
    assert!(parts.iter().all(|part| part.starts_with(&keys::manifest_parts(&a, &digest))));
    // Names with the same beginning: the longer one belongs to another namespace.
    let name = |text: &str| keys::repository_name(&text.parse().expect("a name"));
    let prefix = keys::repository_names_of(&"ab".parse().expect("a name"));
    assert!(name("ab/c").starts_with(&prefix) && !name("abc/d").starts_with(&prefix));
    assert!(name("ab/c/d").starts_with(&prefix));
}

fn comes_back<T: Record + PartialEq + std::fmt::Debug>(record: &T) {
    let stored = encode(record).expect("encodes");
    assert_eq!(decode::<T>(&record.key(), &stored).expect("decodes"), *record);
    assert!(record.key().starts_with(T::KIND.prefix().as_bytes()), "{record:?}");
    // A line of an archive may have more than this version knows.
    let line = json(T::KIND, &record.key(), &stored).expect("JSON");
    let mut value: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
    value["aFieldOfTomorrow"] = serde_json::json!({ "with": ["anything"] });
    let more = [&stored[..1], value.to_string().as_bytes()].concat();
    assert_eq!(decode::<T>(&record.key(), &more.into()).expect("decodes"), *record);
    // Another form is named, never guessed at; nothing of it is believed.
    let mut newer = stored.to_vec();
    newer[0] = 2;
    for damaged in [newer, Vec::new(), vec![1], stored[..stored.len() - 1].to_vec()] {
        match decode::<T>(&record.key(), &damaged.into()) {
            Err(CatalogError::Record { kind, key, .. }) => {
                assert_eq!((kind, key.as_bytes()), (T::KIND.name(), &record.key()[..]));
            }
            other => panic!("{other:?}"),
        }
    }
}

struct Some {
    repository: Repository,
    grant: RepositoryGrant,
    namespace: NamespaceGrant,
    token: AccessToken,
    counters: Counters,
    event: Event,
    blob: BlobRecord,
    settings: Settings,
}

fn some(world: &World) -> Some {
    let now = world.clock.now();
    let repository = world.repository("corp/web");
    let (team, account) = (TeamId::random(&*world.random), AccountId::random(&*world.random));
    Some {
        grant: RepositoryGrant {
            repository: repository.id.clone(),
            team: team.clone(),
            organization: account.clone(),
            level: AccessLevel::ReadWrite,
            granted_at: now,
        },
        namespace: NamespaceGrant {
            namespace: account.clone(),
            team,
            level: AccessLevel::Admin,
            granted_at: now,
        },
        token: AccessToken {
            creator_address: String::new(),
            backups_only: false,
            hash: "ab".repeat(32),
            account,
            label: "a \"label\" with ü and \u{1f980}".to_owned(),
            is_active: true,
            created_at: now,
            expires_at: Some(now),
            last_used: None,
            generated_by: TokenOrigin::User,
            creator_ua: String::new(),
            repositories: Some(vec!["corp/*".to_owned()]),
            pull_only: true,
            password_changed_at: None,
        },
        counters: Counters { repository: repository.id.clone(), pulls: u64::MAX, pushes: 0 },
        event: Event {
            id: Event::new_id(now, &*world.random),
            published_at: now,
            actor: "somebody".to_owned(),
            actor_id: None,
            event_type: EventType::Create,
            repository: repository.name.to_string(),
            repository_id: Some(repository.id.clone()),
            object: EventObject {
                kind: "repository".to_owned(),
                name: "corp/web".to_owned(),
                id: String::new(),
            },
            count: 3,
        },
        blob: BlobRecord { digest: Digest::of(b"x"), size: 1, stored_at: now },
        settings: Settings { gc_grace_seconds: 77, ..Settings::default() },
        repository,
    }
}

#[test]
fn records_come_back_and_damaged_ones_are_named() {
    let world = World::new();
    let some = some(&world);
    comes_back(&some.repository);
    comes_back(&some.grant);
    comes_back(&some.namespace);
    comes_back(&some.token);
    comes_back(&some.counters);
    comes_back(&some.event);
    comes_back(&some.blob);
    comes_back(&Candidate { digest: some.blob.digest, since: world.clock.now() });
}

#[test]
fn what_an_older_version_did_not_write_gets_its_default() {
    let older = Bytes::from_static(b"\x01{\"gcGraceSeconds\":99}");
    let read: Settings = decode(b"settings", &older).expect("decodes");
    assert_eq!(read, Settings { gc_grace_seconds: 99, ..Settings::default() });
    let world = World::new();
    let repository = world.repository("corp/web");
    let line = encode(&repository).expect("encodes");
    let mut value: serde_json::Value = serde_json::from_slice(&line[1..]).expect("JSON");
    let fields = value.as_object_mut().expect("an object");
    for since in ["namespaceIsOrg", "shortDescription", "longDescription", "immutableTags"] {
        assert!(fields.remove(since).is_some(), "{since}");
    }
    let older = Bytes::from([&line[..1], value.to_string().as_bytes()].concat());
    assert_eq!(decode::<Repository>(&repository.key(), &older).expect("decodes"), repository);
}

async fn load<T: Derive>(loader: &mut Loader, record: &T) {
    let line = json(T::KIND, &record.key(), &encode(record).expect("encodes")).expect("JSON");
    let mut value: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
    value["aFieldOfTomorrow"] = serde_json::json!(1);
    loader.put(record, Some(value.to_string().as_bytes())).await.expect("put");
}

/// What a newer version wrote into an archive survives a restore by this one, and its next backup.
#[tokio::test]
async fn fields_of_tomorrow_survive_an_import_and_the_next_export() {
    let world = World::new();
    let some = some(&world);
    let mut loader = Loader::new(&world.catalog);
    load(&mut loader, &some.repository).await;
    load(&mut loader, &some.grant).await;
    load(&mut loader, &some.namespace).await;
    load(&mut loader, &some.token).await;
    load(&mut loader, &some.counters).await;
    load(&mut loader, &some.event).await;
    load(&mut loader, &some.settings).await;
    loader.finish().await.expect("finished");
    // What is derived was made again.
    let found = world.catalog.lookup_repository(&some.repository.name).await.expect("reads");
    assert_eq!(found.expect("is there").value, some.repository);
    assert_eq!(world.catalog.settings().await.expect("reads"), some.settings);
    let revision = world.catalog.store().revision().await.expect("reads");
    let export = world.catalog.export(revision).await.expect("exports");
    let mut lines = 0;
    for kind in Kind::ALL.iter().filter(|kind| kind.archived().is_some()) {
        let mut cursor = dtr_catalog::Cursor::default();
        while let Some(batch) = export.next(*kind, &mut cursor).await.expect("reads") {
            let dtr_catalog::Batch::Lines(batch) = batch else { continue };
            for line in batch {
                let text = String::from_utf8_lossy(&line);
                assert!(text.contains("aFieldOfTomorrow"), "{kind:?}: {text}");
                lines += 1;
            }
        }
    }
    assert_eq!(lines, 7);
    assert!(world.catalog.store().get(b"r/none", At::Latest).await.expect("reads").is_none());
}
