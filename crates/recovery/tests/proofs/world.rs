//! A registry to back up: a store in memory, a blob storage in a folder, and the operations that a real one does.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Cursor,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use dtr_archive::ReadOptions;
use dtr_blobs::{BlobStorage, FileStorage, body};
use dtr_catalog::{Catalog, LinkCheck, PutManifest, TransactionExt as _, keys, records::*};
use dtr_recovery::{
    BackupOptions, BackupReport, RecoveryError, RestoreOptions, RestoreReport, RestoreTarget,
    backup, ensure_archive_key, restore,
};
use dtr_store::{At, SharedStore, Transaction};
use dtr_store_embedded::EmbeddedStore;
use dtr_transport::pki::{Authority, new_es256_key};
use dtr_types::*;
use futures_util::TryStreamExt as _;

/// Everything in a store at a revision.
pub type State = BTreeMap<Vec<u8>, Vec<u8>>;

/// A registry.
pub struct World {
    pub catalog: Catalog,
    pub blobs: Arc<dyn BlobStorage>,
    pub clock: Arc<ManualClock>,
    pub random: Arc<SeededRandom>,
    pub alice: Account,
    pub corp: Account,
    pub team: Team,
    pub folder: Arc<tempfile::TempDir>,
}

pub const VERSION: &str = "1.0.0";

fn account(name: &str, is_org: bool, random: &dyn Random, now: Timestamp) -> Account {
    Account {
        id: AccountId::random(random),
        name: name.parse().unwrap(),
        full_name: format!("{name} in full \"quoted\" \u{1f980}"),
        is_org,
        is_admin: false,
        is_active: true,
        created_at: now,
    }
}

/// The certificates of a registry: its own authority, and what proves it to a UCP.
fn certificates(now: Timestamp) -> [CertificateRecord; 2] {
    let authority = Authority::make("test", now).unwrap();
    let ca = CertificateRecord {
        name: "ca".to_owned(),
        certificate: authority.certificate_pem().to_owned(),
        private_key: authority.key_pem().clone(),
        ca: String::new(),
        user_given: false,
        created_at: now,
    };
    let pair = new_es256_key().unwrap();
    let service = CertificateRecord {
        name: "service".to_owned(),
        certificate: pair.public,
        private_key: pair.private,
        ..ca.clone()
    };
    [ca, service]
}

impl World {
    /// A store without anything in it.
    pub async fn empty(seed: u64) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
        let random = Arc::new(SeededRandom::new(seed));
        let store: SharedStore = EmbeddedStore::in_memory();
        let options = dtr_blobs::Options::new(clock.clone(), random.clone());
        let blobs = FileStorage::open(folder.path(), options).await.unwrap();
        let now = clock.now();
        let alice = account("alice", false, &*random, now);
        let corp = account("corp", true, &*random, now);
        let team = Team {
            id: TeamId::random(&*random),
            organization: corp.id.clone(),
            name: "web".parse().unwrap(),
            description: String::new(),
            created_at: now,
        };
        Self {
            catalog: Catalog::new(store, clock.clone(), random.clone()),
            blobs: Arc::new(blobs),
            clock,
            random,
            alice,
            corp,
            team,
            folder,
        }
    }

    /// A store without anything in it, with the blob storage of this one.
    pub async fn beside(&self, seed: u64) -> Self {
        Self::over(self.blobs.clone(), seed).await
    }

    /// Another that uses this blob storage.
    pub async fn over(blobs: Arc<dyn BlobStorage>, seed: u64) -> Self {
        Self { blobs, ..Self::empty(seed).await }
    }

    /// An installed registry with people in it.
    pub async fn installed(seed: u64) -> Self {
        let world = Self::empty(seed).await;
        let (catalog, now) = (&world.catalog, world.clock.now());
        ensure_archive_key(catalog).await.unwrap();
        for certificate in certificates(now) {
            catalog.put(&certificate).await.unwrap();
        }
        catalog
            .put(&Settings { dtr_host: "old.example".to_owned(), ..Settings::default() })
            .await
            .unwrap();
        let credential = Credential {
            account: world.alice.id.clone(),
            password_hash: Secret::new("$argon2id$"),
            changed_at: now,
        };
        catalog.create_account(&world.alice, Some(&credential), None).await.unwrap();
        catalog.create_account(&world.corp, None, None).await.unwrap();
        catalog.create_team(&world.team, None).await.unwrap();
        let member = TeamMembership {
            team: world.team.id.clone(),
            organization: world.corp.id.clone(),
            member: world.alice.id.clone(),
            is_admin: false,
        };
        catalog.put_team_membership(&member, None).await.unwrap();
        let session = Session {
            service: None,
            hash: "00".repeat(32),
            account: world.alice.id.clone(),
            created_at: now,
            expires_at: now.plus(Duration::from_secs(60)),
            bound: None,
        };
        catalog.put(&session).await.unwrap();
        let cluster = ClusterRecord {
            id: ClusterId::random(&*world.random),
            data_format: DATA_FORMAT,
            created_at: now,
            created_by: VERSION.to_owned(),
            identity: IdentitySource::BuiltIn,
            restored_from: None,
        };
        catalog.create_cluster(&cluster).await.unwrap();
        world
    }

    pub fn store(&self) -> &SharedStore {
        self.catalog.store()
    }

    /// The repository of that name, made if it is not there.
    pub async fn repository(&self, name: &str) -> Repository {
        let name: RepositoryName = name.parse().unwrap();
        if let Some(found) = self.catalog.lookup_repository(&name).await.unwrap() {
            return found.value;
        }
        let owner = if name.as_str().starts_with("corp/") { &self.corp } else { &self.alice };
        let repository = Repository {
            id: RepositoryId::random(&*self.random),
            name: name.clone(),
            namespace: owner.id.clone(),
            namespace_is_org: owner.is_org,
            visibility: Visibility::Private,
            short_description: String::new(),
            long_description: "# A page\nwith lines\n".to_owned(),
            immutable_tags: false,
            scan_on_push: false,
            tag_limit: 0,
            created_at: self.clock.now(),
        };
        match self.catalog.create_repository(&repository, None).await {
            Ok(()) => repository,
            Err(_) => self.catalog.lookup_repository(&name).await.unwrap().unwrap().value,
        }
    }

    /// Stores a blob and links it, as the end of an upload does.
    pub async fn blob(&self, repository: &Repository, content: &Bytes) -> Option<Digest> {
        let digest = Digest::of(content);
        for _ in 0..1000 {
            let linked = match self.catalog.check_link(&digest).await.unwrap() {
                LinkCheck::Condemned => {
                    tokio::task::yield_now().await;
                    continue;
                }
                LinkCheck::Present { modified, .. } => {
                    self.catalog
                        .link_blob(&repository.id, &digest, modified, Transaction::new())
                        .await
                }
                LinkCheck::Absent { removed } => {
                    self.blobs.put(&digest, None, body(content.clone())).await.unwrap();
                    let size = content.len() as u64;
                    self.catalog
                        .link_new_blob(&repository.id, &digest, size, removed, Transaction::new())
                        .await
                }
            };
            if linked.unwrap() {
                return Some(digest);
            }
            self.catalog.get(&keys::repository(&repository.id)).await.unwrap()?;
        }
        None
    }

    /// Pushes an image of some layers; `None` when somebody deleted its repository meanwhile.
    pub async fn push(&self, name: &str, tag: &str, layers: &[String]) -> Option<Digest> {
        let repository = self.repository(name).await;
        let config = Bytes::from(format!("{{\"for\":\"{name}\"}}"));
        let mut descriptors = Vec::new();
        for content in std::iter::once(config).chain(layers.iter().cloned().map(Bytes::from)) {
            let digest = self.blob(&repository, &content).await?;
            descriptors.push((digest, content.len()));
        }
        let text = |(digest, size): &(Digest, usize)| {
            format!(
                r#"{{"mediaType":"application/octet-stream","digest":"{digest}","size":{size}}}"#
            )
        };
        let layers: Vec<_> = descriptors[1..].iter().map(text).collect();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}],"annotations":{{"a":"ü \\ \" "}}}}"#,
            media_types::OCI_MANIFEST,
            text(&descriptors[0]),
            layers.join(",")
        );
        self.manifest(&repository, &manifest, &[tag]).await
    }

    /// Pushes an index of manifests that are there.
    pub async fn push_index(&self, name: &str, tag: &str, children: &[Digest]) -> Option<Digest> {
        let repository = self.repository(name).await;
        let children: Vec<_> = children
            .iter()
            .map(|digest| {
                format!(
                    r#"{{"mediaType":"{}","digest":"{digest}","size":1}}"#,
                    media_types::OCI_MANIFEST
                )
            })
            .collect();
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#,
            media_types::OCI_INDEX,
            children.join(",")
        );
        self.manifest(&repository, &index, &[tag]).await
    }

    pub async fn manifest(
        &self,
        repository: &Repository,
        text: &str,
        tags: &[&str],
    ) -> Option<Digest> {
        let body = Bytes::from(text.to_owned());
        let manifest = Manifest::parse(None, &body).unwrap();
        let digest = Digest::of(&body);
        let tags: Vec<Tag> = tags.iter().map(|tag| tag.parse().unwrap()).collect();
        let put = PutManifest {
            repository,
            digest,
            manifest: &manifest,
            body: &body,
            tags: &tags,
            author: "alice",
            author_id: Some(self.alice.id.clone()),
            platform: None,
            allow_sparse: false,
        };
        self.catalog.put_manifest(&put).await.ok().map(|_| digest)
    }

    pub async fn grant(&self, repository: &Repository) {
        let grant = RepositoryGrant {
            repository: repository.id.clone(),
            team: self.team.id.clone(),
            organization: self.corp.id.clone(),
            level: AccessLevel::ReadWrite,
            granted_at: self.clock.now(),
        };
        // The repository may be gone by now.
        let _ = self.catalog.put_repository_grant(&grant, None).await;
    }

    pub async fn token(&self, label: &str) -> AccessToken {
        let token = AccessToken {
            creator_address: "192.0.2.1".to_owned(),
            backups_only: false,
            hash: self.random.hex(32),
            account: self.alice.id.clone(),
            label: label.to_owned(),
            is_active: true,
            created_at: self.clock.now(),
            expires_at: None,
            last_used: None,
            generated_by: TokenOrigin::User,
            creator_ua: String::new(),
            repositories: Some(vec!["alice/*".to_owned()]),
            pull_only: true,
            password_changed_at: None,
        };
        self.catalog.create_access_token(&token, None).await.unwrap();
        token
    }

    /// Some of everything.
    pub async fn fill(&self) {
        for number in 0..6 {
            let layers = ["base layer".to_owned(), format!("layer {number}")];
            let name = if number % 2 == 0 { "alice/app" } else { "corp/web/front" };
            let digest = self.push(name, &format!("v{number}"), &layers).await.unwrap();
            if number < 2 {
                self.push_index(name, &format!("multi{number}"), &[digest]).await.unwrap();
            }
            if number == 3 {
                let repository = self.repository(name).await;
                let subject = format!(
                    r#"{{"schemaVersion":2,"mediaType":"{0}","artifactType":"application/sbom","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{1}","size":2}},"layers":[],"subject":{{"mediaType":"{0}","digest":"{digest}","size":1}}}}"#,
                    media_types::OCI_MANIFEST,
                    self.blob(&repository, &Bytes::from_static(b"{}")).await.unwrap(),
                );
                self.manifest(&repository, &subject, &[]).await.unwrap();
            }
        }
        let app = self.repository("alice/app").await;
        let front = self.repository("corp/web/front").await;
        self.grant(&front).await;
        let namespace = NamespaceGrant {
            namespace: self.corp.id.clone(),
            team: self.team.id.clone(),
            level: AccessLevel::ReadOnly,
            granted_at: self.clock.now(),
        };
        self.catalog.put_namespace_grant(&namespace, None).await.unwrap();
        self.token("ci").await;
        self.catalog.add_counts(&app.id, 3, 4).await.unwrap();
        // What no backup holds: content that nobody refers to, an upload, a deleted repository.
        self.blob(&app, &Bytes::from_static(b"nobody refers to this")).await.unwrap();
        self.push("alice/gone", "x", &["gone".to_owned()]).await.unwrap();
        let gone = "alice/gone".parse().unwrap();
        self.catalog.delete_repository(&gone, None).await.unwrap();
        let upload = UploadRecord {
            id: UploadId::random(&*self.random),
            repository: app.id,
            account: None,
            offset: 0,
            hash: String::new(),
            started_at: self.clock.now(),
            ended: false,
            updated_at: self.clock.now(),
        };
        self.catalog.commit(Transaction::new().put_record(&upload).unwrap()).await.unwrap();
    }

    /// Collects whatever may be, without any grace.
    pub async fn collect(&self) {
        let options = dtr_jobs::CollectOptions { grace: Duration::ZERO, dry_run: false };
        dtr_jobs::collect(&self.catalog, &*self.blobs, options).await.unwrap();
    }

    pub async fn backup(&self, options: BackupOptions) -> (Vec<u8>, BackupReport) {
        backup(&self.catalog, &self.blobs, options, Vec::new()).await.unwrap()
    }

    pub fn target(&self) -> RestoreTarget {
        RestoreTarget {
            catalog: self.catalog.clone(),
            blobs: self.blobs.clone(),
            identity: None,
            identity_target: None,
        }
    }

    pub async fn restore(
        &self,
        archive: &[u8],
        options: RestoreOptions,
    ) -> Result<RestoreReport, RecoveryError> {
        let input = Cursor::new(archive.to_vec());
        restore(input, ReadOptions::default(), &self.target(), options).await
    }

    /// Everything in the store at a revision.
    pub async fn state(&self, at: At) -> State {
        dtr_store::scan(&**self.store(), b"", at)
            .map_ok(|kv| (kv.key.to_vec(), kv.value.to_vec()))
            .try_collect::<State>()
            .await
            .unwrap()
    }
}

fn parts(key: &[u8]) -> (String, Vec<String>) {
    let text = String::from_utf8(key.to_vec()).unwrap();
    match text.split_once('/') {
        Some((prefix, rest)) => (prefix.to_owned(), rest.split('/').map(str::to_owned).collect()),
        None => (text, Vec::new()),
    }
}

/// What a restore must make of a state: everything but what no backup holds. Written from the key layout alone, so that
/// it shares no code with what it judges.
pub fn expected(state: &State) -> State {
    let has = |key: String| state.contains_key(key.as_bytes());
    let mut needed: BTreeSet<(String, String)> = BTreeSet::new();
    for key in state.keys() {
        let (prefix, rest) = parts(key);
        // A reference counts if its manifest is there and its repository is not deleted.
        if prefix == "ref"
            && has(format!("m/{}/{}", rest[1], rest[2]))
            && !has(format!("rd/{}", rest[1]))
        {
            needed.insert((rest[0].clone(), rest[1].clone()));
        }
    }
    let digests: BTreeSet<&String> = needed.iter().map(|(digest, _)| digest).collect();
    let mut expected = State::new();
    for (key, value) in state {
        let (prefix, rest) = parts(key);
        let of_deleted = |repository: &String| has(format!("rd/{repository}"));
        let keep = match prefix.as_str() {
            "cluster" | "settings" | "replica" | "rd" | "md" | "u" | "is" | "ig" | "gc" | "x"
            | "restore" | "restart" | "!hold" | "key" => false,
            "b" => digests.contains(&rest[0]),
            "l" => needed.contains(&(rest[1].clone(), rest[0].clone())),
            "bl" => needed.contains(&(rest[0].clone(), rest[1].clone())),
            "ref" => {
                needed.contains(&(rest[0].clone(), rest[1].clone()))
                    && has(format!("m/{}/{}", rest[1], rest[2]))
            }
            "t" | "m" | "mt" | "rc" | "gr" | "sub" => !of_deleted(&rest[0]),
            "mb" => !of_deleted(&rest[0]) && has(format!("m/{}/{}", rest[0], rest[1])),
            "gt" => !of_deleted(&rest[1]),
            // Lists of events are made from the events, those of deleted repositories too.
            "er" => false,
            _ => true,
        };
        if keep {
            let value = if prefix == "ref" { Vec::new() } else { value.clone() };
            expected.insert(key.clone(), value);
        }
        if prefix == "e" {
            let event: Event = serde_json::from_slice(&value[1..]).unwrap();
            if let Some(repository) = event.repository_id {
                expected.insert(format!("er/{repository}/{}", event.id).into_bytes(), Vec::new());
            }
        }
    }
    expected
}

/// The restored state without what a restore makes anew.
pub fn restored(state: State) -> State {
    state
        .into_iter()
        .filter(|(key, _)| {
            ![&b"cluster"[..], b"settings", b"storage"].contains(&key.as_slice())
                && key[0] != b'!'
                && !key.starts_with(b"key/")
        })
        .collect()
}

/// Says what differs, for people, instead of printing two states.
pub fn assert_same(found: &State, expected: &State) {
    assert!(!expected.is_empty(), "an empty state proves nothing");
    let show = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
    let missing: Vec<_> =
        expected.keys().filter(|k| !found.contains_key(*k)).map(|k| show(k)).take(5).collect();
    let extra: Vec<_> =
        found.keys().filter(|k| !expected.contains_key(*k)).map(|k| show(k)).take(5).collect();
    let other: Vec<_> = found
        .iter()
        .filter(|(k, v)| expected.get(*k).is_some_and(|e| e != *v))
        .map(|(k, v)| format!("{}: {} instead of {}", show(k), show(v), show(&expected[k])))
        .take(5)
        .collect();
    assert!(
        missing.is_empty() && extra.is_empty() && other.is_empty(),
        "missing {missing:#?}\nextra {extra:#?}\nother {other:#?}"
    );
}
