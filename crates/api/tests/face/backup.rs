//! A backup as a client gets it: the stream, the trailer that says it is whole, the report, and who goes away early.

use axum::{
    body::Body,
    http::{Request, header},
};
use dtr_archive::{ArchiveReader, Entry, ReadOptions};
use http_body_util::BodyExt as _;
use serde_json::json;
use tower::ServiceExt as _;

use crate::{
    people::{CONFIG, LAYER, OCI, PASSWORD, PRIVATE, Who, basic, descriptor, image},
    world::World,
};

struct Taken {
    id: String,
    archive: Vec<u8>,
    status: Option<String>,
}

async fn begin(world: &World, query: &str) -> axum::response::Response {
    let request = Request::post(format!("/api/v0/backups{query}"))
        .header(header::AUTHORIZATION, basic("admin", PASSWORD))
        .body(Body::empty())
        .expect("a request");
    let response = world.people.router.clone().oneshot(request).await.expect("answers");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/x-tar");
    assert_eq!(response.headers()["trailer"], "dtr-status");
    response
}

async fn take(world: &World, query: &str) -> Taken {
    let response = begin(world, query).await;
    let id = response.headers()["x-dtr-backup-id"].to_str().expect("text").to_owned();
    let collected = response.into_body().collect().await.expect("a whole stream");
    let status = collected.trailers().and_then(|trailers| trailers.get("dtr-status"));
    let status = status.map(|value| value.to_str().expect("text").to_owned());
    Taken { id, archive: collected.to_bytes().to_vec(), status }
}

/// The names of the entries of records, and how many blobs there are.
fn read(archive: &[u8]) -> (Vec<String>, usize) {
    let mut reader = ArchiveReader::open(archive, ReadOptions::default()).expect("an archive");
    let (mut names, mut blobs, mut ended) = (Vec::new(), 0, false);
    while let Some(entry) = reader.next_entry().expect("whole") {
        match entry {
            Entry::Records(mut records) => {
                names.push(records.name().to_owned());
                while records.next_line().expect("a line").is_some() {}
            }
            Entry::Blob(mut blob) => {
                blobs += 1;
                while blob.chunk().expect("bytes").is_some() {}
            }
            Entry::File(_) => {}
            Entry::End(_) => ended = true,
        }
    }
    assert!(ended, "the proof comes last");
    (names, blobs)
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_with_its_trailer_and_report() {
    let world = World::new().await;
    world.people.image(PRIVATE, "v1").await;
    let taken = take(&world, "").await;
    assert_eq!(taken.status.as_deref(), Some("complete"));
    let (names, blobs) = read(&taken.archive);
    assert!(names.iter().any(|name| name.contains("tags")), "{names:?}");
    assert_eq!(blobs, 0);
    let path = format!("/api/v0/backups/{}/report", taken.id);
    let report = world.admin("GET", &path, None).await.is(200).json();
    assert_eq!(report["bytes"], json!(taken.archive.len()));
    world.ask(Who::Owner, "GET", &path, None).await.is(403);
    let list = world.admin("GET", "/api/v0/backups", None).await.is(200).json();
    assert_eq!(list.as_array().map(Vec::len), Some(1));
    let events = "/api/v0/events?objectType=backup";
    let events = world.admin("GET", events, None).await.is(200).json();
    assert_eq!((&events[0]["type"], &events[0]["actor"]), (&json!("SEND"), &json!("admin")));
}

async fn backup_alert(world: &World) -> Option<String> {
    let alerts = world.admin("GET", "/api/v0/meta/alerts", None).await.is(200).json();
    let mut alerts = alerts.as_array().expect("a list").iter();
    let found = alerts.find(|alert| alert["id"] == "backup")?;
    Some(found["message"].as_str().expect("text").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_arrived_counts() {
    let world = World::new().await;
    assert!(backup_alert(&world).await.expect("an alert").contains("no backup was ever taken"));
    let taken = take(&world, "").await;
    let list = world.admin("GET", "/api/v0/backups", None).await.is(200).json();
    let listed = &list[0];
    assert_eq!(
        (&listed["id"], &listed["confirmedAt"]),
        (&json!(taken.id), &serde_json::Value::Null)
    );
    let sum = dtr_types::Digest::of(&taken.archive).hex();
    assert_eq!(listed["sha256"], json!(sum), "what a file is matched with");
    let said = backup_alert(&world).await.expect("sent is not arrived");
    assert!(said.contains("no backup is known to have arrived"), "{said}");

    let path = format!("/api/v0/backups/{}/confirmation", taken.id);
    let wrong = json!({ "sha256": "0".repeat(64) });
    world.admin("POST", &path, Some(&wrong)).await.is(409);
    assert!(backup_alert(&world).await.is_some());
    let right = json!({ "sha256": sum });
    world.ask(Who::Owner, "POST", &path, Some(&right)).await.is(403);
    let other = "/api/v0/backups/000000000000-000000000000/confirmation";
    world.admin("POST", other, Some(&right)).await.is(404);
    for _ in 0..2 {
        let record = world.admin("POST", &path, Some(&right)).await.is(200).json();
        assert!(record["confirmedAt"].is_string());
    }
    assert_eq!(backup_alert(&world).await, None);
    let status = world.admin("GET", "/api/v0/meta/cluster_status", None).await.is(200).json();
    assert_eq!(status["last_backup"]["id"], json!(taken.id));
    assert_eq!(status["archive_keys"]["current"], listed["keyId"]);

    // One of a clock that was ahead, when this one has grown old.
    let catalog = &world.people.catalog;
    let now = catalog.now();
    let day = std::time::Duration::from_secs(24 * 3600);
    let known: dtr_catalog::records::BackupRecord =
        catalog.last_backups().await.expect("read").confirmed.expect("one");
    let old =
        dtr_catalog::records::BackupRecord { finished_at: now.minus(8 * day), ..known.clone() };
    catalog.put(&old).await.expect("put");
    let ahead = dtr_catalog::records::BackupRecord {
        id: format!("f{}", &known.id[1..]),
        finished_at: now.plus(40 * day),
        confirmed_at: Some(now.plus(40 * day)),
        ..known
    };
    catalog.put(&ahead).await.expect("put");
    let said = backup_alert(&world).await.expect("it keeps nothing quiet");
    assert!(said.contains("yet to come"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_images() {
    let world = World::new().await;
    world.people.image(PRIVATE, "v1").await;
    let taken = take(&world, "?withImages=true").await;
    assert_eq!(taken.status.as_deref(), Some("complete"));
    let (_, blobs) = read(&taken.archive);
    assert!(blobs >= 3, "configuration, layer and manifest: {blobs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_do_not_mind_each_other() {
    let world = World::new().await;
    world.people.image(PRIVATE, "v1").await;
    let (one, other) = tokio::join!(take(&world, ""), take(&world, "?withImages=true"));
    for taken in [&one, &other] {
        assert_eq!(taken.status.as_deref(), Some("complete"));
        read(&taken.archive);
    }
    assert_ne!(one.id, other.id);
}

/// A client that goes away leaves no hold behind, the report says that it failed, and the next backup is not disturbed.
#[tokio::test(flavor = "multi_thread")]
async fn given_up_by_the_client() {
    let world = World::new().await;
    // More than waits for a slow client.
    let layer = vec![7; 4 << 20];
    let digest = world.people.blob(PRIVATE, layer.clone()).await;
    let config = world.people.blob(PRIVATE, "{}").await;
    let manifest = image(
        descriptor(CONFIG, &config, 2),
        &[descriptor(LAYER, &digest, layer.len())],
        &json!({}),
    );
    world.people.put(PRIVATE, "large", OCI, manifest).await.is(201);
    let response = begin(&world, "?withImages=true").await;
    let id = response.headers()["x-dtr-backup-id"].to_str().expect("text").to_owned();
    let mut body = response.into_body();
    body.frame().await.expect("a first block").expect("bytes");
    let holds = async || {
        let status = world.admin("GET", "/api/v0/meta/cluster_status", None).await.is(200).json();
        status["store"]["holds"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(holds().await, 1);
    drop(body);
    for _ in 0..500 {
        if holds().await == 0 {
            break;
        }
        // poll: until the backup has noticed
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(holds().await, 0, "what it held is free");
    let report = world.admin("GET", &format!("/api/v0/backups/{id}/report"), None).await.is(409);
    assert_eq!(report.json()["errors"][0]["code"], "BACKUP_FAILED");
    assert_eq!(take(&world, "").await.status.as_deref(), Some("complete"));
}

#[tokio::test]
async fn only_for_administrators() {
    let world = World::new().await;
    for (who, status) in [(Who::Anonymous, 401), (Who::Owner, 403), (Who::Inactive, 401)] {
        world.ask(who, "POST", "/api/v0/backups", None).await.is(status);
    }
    let list = world.admin("GET", "/api/v0/backups", None).await.is(200).json();
    assert_eq!(list, json!([]));
}
