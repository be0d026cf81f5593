//! Pulling: manifests and blobs, whole, in part, conditionally, and only asked about.

use dtr_types::{Algorithm, Digest};

use crate::world::{DOCKER, INDEX, OCI, PRIVATE, PUBLIC, Who, World, image};

#[tokio::test]
async fn a_manifest_comes_back_as_it_was_pushed() {
    let world = World::new().await;
    let (manifest, digest) = world.image(PRIVATE, "v1").await;
    for reference in ["v1", &digest.to_string()] {
        let path = format!("/v2/{PRIVATE}/manifests/{reference}");
        let got = world.get(&path).await.is(200);
        assert_eq!(got.body, manifest.as_bytes());
        let head = world.own("HEAD", &path).send().await.is(200);
        for answer in [&got, &head] {
            assert_eq!(answer.header("content-type"), OCI);
            assert_eq!(answer.header("content-length"), manifest.len().to_string());
            assert_eq!(answer.header("docker-content-digest"), digest.to_string());
            assert_eq!(answer.header("etag"), format!("\"{digest}\""));
        }
        let tag = format!("\"{digest}\"");
        for known in [&tag, "*", &format!("W/{tag}"), &format!("\"x\", {tag}")] {
            let answer = world.own("GET", &path).header("if-none-match", known).send().await;
            assert!(answer.is(304).body.is_empty());
        }
        world.own("GET", &path).header("if-none-match", "\"sha256:0\"").send().await.is(200);
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_by_its_code() {
    let world = World::new().await;
    let (_, digest) = world.image(PRIVATE, "v1").await;
    let none = Digest::of(b"none");
    for (path, code) in [
        (format!("/v2/{PRIVATE}/manifests/none"), "MANIFEST_UNKNOWN"),
        (format!("/v2/{PRIVATE}/manifests/{none}"), "MANIFEST_UNKNOWN"),
        (format!("/v2/{PRIVATE}/blobs/{none}"), "BLOB_UNKNOWN"),
        // A manifest is no blob, and content of one repository is not that of another.
        (format!("/v2/{PRIVATE}/blobs/{digest}"), "BLOB_UNKNOWN"),
        (format!("/v2/{PUBLIC}/manifests/{digest}"), "MANIFEST_UNKNOWN"),
        (format!("/v2/{PUBLIC}/blobs/{}", Digest::of(b"layer of v1")), "BLOB_UNKNOWN"),
        ("/v2/acme/none/manifests/v1".to_owned(), "NAME_UNKNOWN"),
        ("/v2/acme/none/tags/list".to_owned(), "NAME_UNKNOWN"),
    ] {
        assert_eq!(world.get(&path).await.is(404).code(), code, "{path}");
        world.own("HEAD", &path).send().await.is(404);
    }
}

#[tokio::test]
async fn blobs_are_read_whole_and_in_part() {
    let world = World::new().await;
    let content: Vec<u8> = (0..2048u32).map(|n| (n % 251) as u8).collect();
    let digest = world.blob(PRIVATE, content.clone()).await;
    let path = format!("/v2/{PRIVATE}/blobs/{digest}");
    let whole = world.get(&path).await.is(200);
    assert_eq!(whole.body, content);
    let head = world.own("HEAD", &path).send().await.is(200);
    for answer in [&whole, &head] {
        assert_eq!(answer.header("content-length"), "2048");
        assert_eq!(answer.header("content-type"), "application/octet-stream");
        assert_eq!(answer.header("accept-ranges"), "bytes");
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    }
    for (range, from, to) in [
        ("500-1499", 500, 1499),
        ("500-", 500, 2047),
        ("-500", 1548, 2047),
        ("2000-5000", 2000, 2047),
        ("0-0", 0, 0),
    ] {
        let asked = format!("bytes={range}");
        let answer = world.own("GET", &path).header("range", &asked).send().await.is(206);
        assert_eq!(answer.header("content-range"), format!("bytes {from}-{to}/2048"));
        assert_eq!(answer.header("content-length"), (to - from + 1).to_string());
        assert_eq!(answer.body, content[from..=to]);
    }
    for range in ["500-0", "5000-10000", "-0"] {
        let asked = format!("bytes={range}");
        let answer = world.own("GET", &path).header("range", &asked).send().await.is(416);
        assert_eq!(answer.header("content-range"), "bytes */2048");
        assert_eq!(answer.code(), "RANGE_INVALID");
    }
    for ignored in ["bytes=0-1,4-5", "lines=1-2", "bytes=x-y", "nonsense"] {
        world.own("GET", &path).header("range", ignored).send().await.is(200);
    }
    let known = format!("\"{digest}\"");
    world.own("GET", &path).header("if-none-match", &known).send().await.is(304);
    // A range is of a GET alone, and of the content of which the client has the rest.
    let head = world.own("HEAD", &path).header("range", "bytes=0-9").send().await.is(200);
    assert_eq!(head.header("content-length"), "2048");
    for (condition, status) in [(known.as_str(), 206), ("\"other\"", 200), ("W/\"other\"", 200)] {
        let call = world.own("GET", &path).header("range", "bytes=0-9");
        call.header("if-range", condition).send().await.is(status);
    }
    let answer = world.own("PUT", &path).body("").send().await.is(405);
    assert_eq!(answer.header("allow"), "GET, HEAD, DELETE");
}

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    let world = World::new().await;
    let digest = world.blob(PRIVATE, "").await;
    let path = format!("/v2/{PRIVATE}/blobs/{digest}");
    let got = world.get(&path).await.is(200);
    assert_eq!(got.header("content-length"), "0");
    assert!(got.body.is_empty());
    world.own("HEAD", &path).send().await.is(200);
    world.own("GET", &path).header("range", "bytes=0-").send().await.is(416);
}

#[tokio::test]
async fn sha512_content_keeps_its_digest() {
    let world = World::new().await;
    let config = Digest::with(Algorithm::Sha512, b"{}");
    let path = format!("/v2/{PRIVATE}/blobs/uploads/?digest={config}");
    let answer = world.own("POST", &path).body("{}").send().await.is(201);
    assert_eq!(answer.header("docker-content-digest"), config.to_string());
    let descriptor = crate::world::descriptor("application/x", &config, 2);
    let manifest = image(descriptor, &[], &serde_json::json!({}));
    let digest = Digest::with(Algorithm::Sha512, manifest.as_bytes());
    let put = world.put(PRIVATE, &digest.to_string(), OCI, manifest.clone()).await.is(201);
    assert_eq!(put.header("docker-content-digest"), digest.to_string());
    let got = world.get(&format!("/v2/{PRIVATE}/manifests/{digest}")).await.is(200);
    assert_eq!(got.header("docker-content-digest"), digest.to_string());
    assert_eq!(got.body, manifest.as_bytes());
}

#[tokio::test]
async fn a_type_is_never_converted_whatever_the_client_accepts() {
    let world = World::new().await;
    let (manifest, _) = world.image(PRIVATE, "v1").await;
    let docker = manifest.replace(OCI, DOCKER);
    world.put(PRIVATE, "docker", DOCKER, docker.clone()).await.is(201);
    let path = format!("/v2/{PRIVATE}/manifests/docker");
    for accept in [OCI, INDEX, "*/*", "text/html", "application/json, application/x;q=0.1"] {
        let answer = world.own("GET", &path).header("accept", accept).send().await.is(200);
        assert_eq!(answer.header("content-type"), DOCKER);
        assert_eq!(answer.body, docker.as_bytes());
    }
}

#[tokio::test]
async fn a_deleted_or_moved_tag_is_seen_at_once() {
    let world = World::new().await;
    let (_, first) = world.image(PRIVATE, "v1").await;
    let path = format!("/v2/{PRIVATE}/manifests/v1");
    let digest = |answer: crate::world::Answer| answer.header("docker-content-digest").to_owned();
    for round in 0..20 {
        assert_eq!(digest(world.get(&path).await.is(200)), first.to_string());
        let (other, second) = world.image(PRIVATE, &format!("other{round}")).await;
        world.put(PRIVATE, "v1", OCI, other).await.is(201);
        assert_eq!(digest(world.get(&path).await.is(200)), second.to_string());
        world.own("DELETE", &path).send().await.is(202);
        world.get(&path).await.is(404);
        let (_, again) = world.image(PRIVATE, "v1").await;
        assert_eq!(again, first);
    }
    world.own("DELETE", &format!("/v2/{PRIVATE}/manifests/{first}")).send().await.is(202);
    world.get(&path).await.is(404);
    world.get(&format!("/v2/{PRIVATE}/manifests/{first}")).await.is(404);
    // The repository itself, made again under the same name, has nothing of the old one.
    world.catalog.delete_repository(&world.private.name, None).await.expect("deleted");
    world.get(&format!("/v2/{PRIVATE}/tags/list")).await.is(404);
    let visibility = dtr_catalog::records::Visibility::Private;
    crate::world::repository(&world.catalog, PRIVATE, &world.org, visibility).await;
    world.get(&format!("/v2/{PRIVATE}/manifests/other0")).await.is(404);
    let list = world.get(&format!("/v2/{PRIVATE}/tags/list")).await.is(200).json();
    assert_eq!(list["tags"], serde_json::json!([]));
}

#[tokio::test]
async fn pulls_are_counted_and_recorded_and_pushes_too() {
    let world = World::new().await;
    let (_, digest) = world.image(PUBLIC, "v1").await;
    let path = format!("/v2/{PUBLIC}/manifests/v1");
    world.call("GET", &path).send().await.is(200);
    world.call("GET", &path).who(Who::ReadOnly).send().await.is(200);
    world.call("HEAD", &path).who(Who::ReadOnly).send().await.is(200);
    world.own("DELETE", &path).send().await.is(202);
    world.registry.shutdown().await;
    let counters = world.catalog.counters(&world.public.id).await.expect("read");
    assert_eq!((counters.pulls, counters.pushes), (2, 1));
    let events = world.catalog.list_events(Some(&world.public.id), "", "", 100).await;
    let events = events.expect("read").items;
    let mut told: Vec<String> = events
        .iter()
        .map(|e| format!("{:?} {} {} by {}", e.event_type, e.object.kind, e.object.name, e.actor))
        .collect();
    told.sort();
    let expected = [
        "Create tag v1 by owner",
        "Delete tag v1 by owner",
        "Get tag v1 by ",
        "Get tag v1 by reader",
    ];
    assert_eq!(told, expected);
    assert!(events.iter().any(|e| e.object.id == digest.to_string()));
}

#[tokio::test]
async fn pulls_that_are_alike_are_one_event() {
    let world = World::new().await;
    for tag in ["v1", "v2"] {
        world.image(PUBLIC, tag).await;
    }
    let pull = async |who: Who, tag: &str| {
        let call = world.call("GET", &format!("/v2/{PUBLIC}/manifests/{tag}"));
        call.who(who).send().await.is(200);
    };
    for tag in ["v1", "v1", "v1", "v2", "v2"] {
        pull(Who::Anonymous, tag).await;
    }
    for tag in ["v1", "v1", "v2"] {
        pull(Who::Stranger, tag).await;
    }
    world.registry.shutdown().await;
    let events = world.catalog.list_events(Some(&world.public.id), "", "", 100).await;
    let pulls = events.expect("read").items.into_iter();
    let mut pulls: Vec<_> = pulls
        .filter(|e| e.event_type == dtr_catalog::records::EventType::Get)
        .map(|e| (e.actor, e.object.name, e.count))
        .collect();
    pulls.sort();
    let told = |actor: &str, name: &str, count| (actor.to_owned(), name.to_owned(), count);
    // Of strangers, each pull of a repository is like the others; a user's are told by tag.
    let expected = [told("", "v1", 5), told("stranger", "v1", 2), told("stranger", "v2", 1)];
    assert_eq!(pulls, expected);
    assert_eq!(world.catalog.counters(&world.public.id).await.expect("read").pulls, 8);
}

#[tokio::test]
async fn pulls_are_not_recorded_when_that_is_switched_off() {
    let world = World::with(|settings| settings.record_pull_events = false).await;
    world.image(PUBLIC, "v1").await;
    world.call("GET", &format!("/v2/{PUBLIC}/manifests/v1")).send().await.is(200);
    world.registry.shutdown().await;
    let events = world.catalog.list_events(Some(&world.public.id), "", "", 100).await;
    let events = events.expect("read").items;
    assert!(events.iter().all(|e| e.event_type != dtr_catalog::records::EventType::Get));
    assert_eq!(world.catalog.counters(&world.public.id).await.expect("read").pulls, 1);
}
