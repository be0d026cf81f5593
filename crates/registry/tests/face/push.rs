//! Pushing manifests and deleting what was pushed.

use dtr_types::Digest;
use serde_json::json;

use crate::world::{
    Answer, CONFIG, DOCKER, DOCKER_LIST, INDEX, LAYER, OCI, PRIVATE, PUBLIC, World, descriptor,
    image, index,
};

#[tokio::test]
async fn a_push_says_where_it_is() {
    let world = World::new().await;
    let (manifest, digest) = world.image(PRIVATE, "v1").await;
    let by_tag = world.put(PRIVATE, "v1", OCI, manifest.clone()).await.is(201);
    assert_eq!(by_tag.header("location"), format!("/v2/{PRIVATE}/manifests/v1"));
    world.get(by_tag.header("location")).await.is(200);
    let reference = digest.to_string();
    let by_digest = world.put(PRIVATE, &reference, OCI, manifest.clone()).await.is(201);
    assert_eq!(by_digest.header("location"), format!("/v2/{PRIVATE}/manifests/{digest}"));
    assert_eq!(by_digest.header("docker-content-digest"), reference);
    // Parameters of the type are ignored, and a type that the body names may be left out.
    let typed = format!("{OCI}; charset=utf-8");
    world.put(PRIVATE, "v2", &typed, manifest.clone()).await.is(201);
    let path = format!("/v2/{PRIVATE}/manifests/v3");
    world.own("PUT", &path).body(manifest).send().await.is(201);
    assert_eq!(world.get(&path).await.is(200).header("content-type"), OCI);
}

#[tokio::test]
async fn several_tags_in_one_push() {
    let world = World::new().await;
    let (manifest, digest) = world.image(PRIVATE, "v1").await;
    let reference = format!("{digest}?tag=a&tag=b&tag=a");
    let answer = world.put(PRIVATE, &reference, OCI, manifest.clone()).await.is(201);
    let tags: Vec<_> = answer.headers.get_all("oci-tag").iter().collect();
    assert_eq!(tags, ["a", "b"]);
    for tag in ["a", "b"] {
        let got = world.get(&format!("/v2/{PRIVATE}/manifests/{tag}")).await.is(200);
        assert_eq!(got.header("docker-content-digest"), digest.to_string());
    }
    let bad = format!("{digest}?tag=-x");
    assert_eq!(world.put(PRIVATE, &bad, OCI, manifest.clone()).await.is(400).code(), "TAG_INVALID");
    let many: String = (0..200).map(|n| format!("&tag=t{n}")).collect();
    let many = format!("{digest}?{}", &many[1..]);
    world.put(PRIVATE, &many, OCI, manifest).await.is(414);
}

#[tokio::test]
async fn what_a_manifest_refers_to_must_be_there() {
    let world = World::new().await;
    let config = world.blob(PRIVATE, "{}").await;
    let none = Digest::of(b"none");
    let refused = |answer: Answer, code: &str| {
        let answer = answer.is(400);
        assert_eq!(answer.code(), code);
        answer.json()["errors"][0]["detail"].clone()
    };
    let layer = image(descriptor(CONFIG, &config, 2), &[descriptor(LAYER, &none, 1)], &json!({}));
    let detail = refused(world.put(PRIVATE, "x", OCI, layer).await, "MANIFEST_BLOB_UNKNOWN");
    assert_eq!(detail["digest"], none.to_string());
    let config_missing = image(descriptor(CONFIG, &none, 2), &[], &json!({}));
    refused(world.put(PRIVATE, "x", OCI, config_missing).await, "MANIFEST_BLOB_UNKNOWN");
    // It must be there in this repository.
    let own = image(descriptor(CONFIG, &config, 2), &[], &json!({}));
    refused(world.put(PUBLIC, "x", OCI, own.clone()).await, "MANIFEST_BLOB_UNKNOWN");
    let wrong_size = image(descriptor(CONFIG, &config, 3), &[], &json!({}));
    refused(world.put(PRIVATE, "x", OCI, wrong_size).await, "MANIFEST_INVALID");
    // Also where the same content is named a second time.
    let twice = [descriptor(LAYER, &config, 2), descriptor(LAYER, &config, 3)];
    let twice = image(descriptor(CONFIG, &config, 2), &twice, &json!({}));
    refused(world.put(PRIVATE, "x", OCI, twice).await, "MANIFEST_INVALID");
    let child = index(INDEX, &[descriptor(OCI, &none, 5)], &json!({}));
    refused(world.put(PRIVATE, "x", INDEX, child).await, "MANIFEST_BLOB_UNKNOWN");
    // A subject need not be there, nor what is fetched from elsewhere.
    let subject = json!({ "subject": descriptor(OCI, &none, 5) });
    let referrer = image(descriptor(CONFIG, &config, 2), &[], &subject);
    let answer = world.put(PRIVATE, "r", OCI, referrer).await.is(201);
    assert_eq!(answer.header("oci-subject"), none.to_string());
    let mut foreign = descriptor(LAYER, &none, 5);
    foreign["urls"] = json!(["https://example.com/layer"]);
    let kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let layers = [foreign, descriptor(kind, &none, 5)];
    let windows = image(descriptor(CONFIG, &config, 2), &layers, &json!({}));
    world.put(PRIVATE, "w", OCI, windows).await.is(201);
    // An address that is none makes nothing optional.
    for url in ["", "ftp://example.com/layer"] {
        let mut layer = descriptor(LAYER, &none, 5);
        layer["urls"] = json!([url]);
        let image = image(descriptor(CONFIG, &config, 2), &[layer], &json!({}));
        refused(world.put(PRIVATE, "x", OCI, image).await, "MANIFEST_BLOB_UNKNOWN");
    }
}

#[tokio::test]
async fn content_with_an_address_elsewhere_is_in_use_when_it_is_there() {
    let world = World::new().await;
    let config = world.blob(PRIVATE, "{}").await;
    let layer = Digest::of(b"layer");
    let mut foreign = descriptor(LAYER, &layer, 5);
    foreign["urls"] = json!(["https://example.com/layer"]);
    let manifest = image(descriptor(CONFIG, &config, 2), &[foreign], &json!({}));
    world.put(PRIVATE, "w", OCI, manifest.clone()).await.is(201);
    let path = format!("/v2/{PRIVATE}/blobs/{layer}");
    world.get(&path).await.is(404);
    world.blob(PRIVATE, "layer").await;
    assert_eq!(world.own("DELETE", &path).send().await.is(403).code(), "DENIED");
    // Of what is there the size must be right.
    let wrong = manifest.replace(
        &format!("\"digest\":\"{layer}\",\"mediaType\":\"{LAYER}\",\"size\":5"),
        &format!("\"digest\":\"{layer}\",\"mediaType\":\"{LAYER}\",\"size\":6"),
    );
    assert_ne!(wrong, manifest);
    assert_eq!(world.put(PRIVATE, "w", OCI, wrong).await.is(400).code(), "MANIFEST_INVALID");
    world
        .own("DELETE", &format!("/v2/{PRIVATE}/manifests/{}", Digest::of(manifest.as_bytes())))
        .send()
        .await
        .is(202);
    world.own("DELETE", &path).send().await.is(202);
}

#[tokio::test]
async fn a_manifest_of_an_index_is_deleted_after_it() {
    let world = World::new().await;
    let (manifest, digest) = world.image(PRIVATE, "amd64").await;
    let list = index(INDEX, &[descriptor(OCI, &digest, manifest.len())], &json!({}));
    let list_digest = Digest::of(list.as_bytes());
    world.put(PRIVATE, "multi", INDEX, list).await.is(201);
    let delete = async |reference: &str| {
        world.own("DELETE", &format!("/v2/{PRIVATE}/manifests/{reference}")).send().await
    };
    let refused = delete(&digest.to_string()).await.is(403);
    assert_eq!(refused.code(), "DENIED");
    let message = refused.message();
    for part in
        [list_digest.to_string(), "(tag multi)".to_owned(), "delete that index first".to_owned()]
    {
        assert!(message.contains(&part), "{message}");
    }
    delete("amd64").await.is(202);
    world.get(&format!("/v2/{PRIVATE}/manifests/{digest}")).await.is(200);
    delete(&list_digest.to_string()).await.is(202);
    delete(&digest.to_string()).await.is(202);
    world.get(&format!("/v2/{PRIVATE}/manifests/{digest}")).await.is(404);
}

#[tokio::test]
async fn keys_that_clients_read_in_different_ways_are_refused() {
    let world = World::new().await;
    let config = world.blob(PRIVATE, "{}").await;
    let layers = json!({ "LAYERS": [descriptor(LAYER, &config, 2)] });
    let manifest = image(descriptor(CONFIG, &config, 2), &[], &layers);
    let refused = world.put(PRIVATE, "x", OCI, manifest).await.is(400);
    assert_eq!(refused.code(), "MANIFEST_INVALID");
    assert!(
        refused.message().contains("\"LAYERS\" differs from \"layers\""),
        "{}",
        refused.message()
    );
}

#[tokio::test]
async fn indexes_of_manifests_of_indexes_and_of_blobs() {
    let world = World::new().await;
    let (manifest, digest) = world.image(PRIVATE, "amd64").await;
    let child = descriptor(OCI, &digest, manifest.len());
    let longer = index(INDEX, &[descriptor(OCI, &digest, manifest.len() + 1)], &json!({}));
    assert_eq!(world.put(PRIVATE, "x", INDEX, longer).await.is(400).code(), "MANIFEST_INVALID");
    let empty = index(INDEX, &[], &json!({}));
    world.put(PRIVATE, "empty", INDEX, empty).await.is(201);
    let list = index(INDEX, std::slice::from_ref(&child), &json!({}));
    let list_digest = Digest::of(list.as_bytes());
    world.put(PRIVATE, "list", INDEX, list.clone()).await.is(201);
    let nested = index(INDEX, &[descriptor(INDEX, &list_digest, list.len()), child], &json!({}));
    world.put(PRIVATE, "nested", INDEX, nested).await.is(201);
    // What BuildKit makes of its caches: an index whose entries are layers.
    let layer = world.blob(PRIVATE, "cached").await;
    let cache = index(INDEX, &[descriptor(LAYER, &layer, 6)], &json!({}));
    world.put(PRIVATE, "cache", INDEX, cache).await.is(201);
    let blob = format!("/v2/{PRIVATE}/blobs/{layer}");
    assert_eq!(world.own("DELETE", &blob).send().await.is(403).code(), "DENIED");
    let docker = manifest.replace(OCI, DOCKER);
    let docker_digest = Digest::of(docker.as_bytes());
    world.put(PRIVATE, "docker", DOCKER, docker.clone()).await.is(201);
    let child = descriptor(DOCKER, &docker_digest, docker.len());
    let list = index(DOCKER_LIST, &[child], &json!({}));
    world.put(PRIVATE, "docker", DOCKER_LIST, list).await.is(201);
    let got = world.get(&format!("/v2/{PRIVATE}/manifests/docker")).await.is(200);
    assert_eq!(got.header("content-type"), DOCKER_LIST, "a tag can move to another type");
}

#[tokio::test]
async fn sparse_indexes_are_for_settings_to_allow() {
    let world = World::with(|settings| settings.allow_sparse_indexes = true).await;
    let child = descriptor(OCI, &Digest::of(b"none"), 5);
    world.put(PRIVATE, "sparse", INDEX, index(INDEX, &[child], &json!({}))).await.is(201);
}

#[tokio::test]
async fn what_is_no_manifest_is_refused_with_the_reason() {
    let world = World::new().await;
    let (manifest, digest) = world.image(PRIVATE, "v1").await;
    let v1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let both = index(INDEX, &[], &json!({ "layers": [] }));
    for (media_type, body) in [
        (OCI, "not json".to_owned()),
        (OCI, "{}".to_owned()),
        (OCI, String::new()),
        (OCI, manifest.replace("\"schemaVersion\":2", "\"schemaVersion\":1")),
        (OCI, manifest.replace("sha256:", "md5:")),
        (OCI, manifest.replace("\"size\":", "\"size\":-")),
        (DOCKER, manifest.clone()),
        (INDEX, manifest.clone()),
        (INDEX, both),
        (v1, "{\"schemaVersion\":1}".to_owned()),
        ("application/vnd.oci.artifact.manifest.v1+json", "{}".to_owned()),
        ("text/plain", manifest.clone()),
    ] {
        let answer = world.put(PRIVATE, "x", media_type, body.clone()).await.is(400);
        assert_eq!(answer.code(), "MANIFEST_INVALID", "{media_type}: {body}");
    }
    world.get(&format!("/v2/{PRIVATE}/manifests/x")).await.is(404);
    let none = Digest::of(b"none").to_string();
    let wrong = world.put(PRIVATE, &none, OCI, manifest.clone()).await.is(400);
    assert_eq!(wrong.code(), "DIGEST_INVALID");
    assert!(wrong.message().contains(&digest.to_string()), "the right digest is told");
    for bad in ["sha256:baddigeststring", "sha512:00", "md5:00"] {
        let answer = world.put(PRIVATE, bad, OCI, manifest.clone()).await.is(400);
        assert_eq!(answer.code(), "DIGEST_INVALID");
    }
}

#[tokio::test]
async fn embedded_data_must_match_and_unknown_fields_stay() {
    let world = World::new().await;
    world.blob(PRIVATE, "{}").await;
    let mut config = descriptor("application/vnd.oci.empty.v1+json", &Digest::of(b"{}"), 2);
    config["data"] = json!("e30=");
    let more = json!({ "artifactType": "application/x", "org.example": { "a": [1, 2] } });
    let manifest = image(config.clone(), &[], &more);
    world.put(PRIVATE, "a", OCI, manifest.clone()).await.is(201);
    let got = world.get(&format!("/v2/{PRIVATE}/manifests/a")).await.is(200);
    assert_eq!(got.body, manifest.as_bytes());
    config["data"] = json!("e31=");
    let wrong = world.put(PRIVATE, "a", OCI, image(config, &[], &more)).await.is(400);
    assert_eq!(wrong.code(), "MANIFEST_INVALID");
}

#[tokio::test]
async fn immutable_tags_keep_naming_what_they_name() {
    let world = World::new().await;
    let (first, _) = world.image(PRIVATE, "v1").await;
    let (other, _) = world.image(PRIVATE, "v2").await;
    let mut repository = world.private.clone();
    repository.immutable_tags = true;
    world.catalog.put(&repository).await.expect("put");
    world.put(PRIVATE, "v1", OCI, first).await.is(201);
    let refused = world.put(PRIVATE, "v1", OCI, other.clone()).await.is(403);
    assert_eq!(refused.code(), "DENIED");
    assert!(refused.message().contains("v1"), "{}", refused.message());
    world.put(PRIVATE, "new", OCI, other).await.is(201);
    // Deleting is allowed to those who may.
    world.own("DELETE", &format!("/v2/{PRIVATE}/manifests/v1")).send().await.is(202);
}

#[tokio::test]
async fn deleting() {
    let world = World::new().await;
    let (manifest, digest) = world.image(PRIVATE, "v1").await;
    world.put(PRIVATE, "v2", OCI, manifest).await.is(201);
    let at = |reference: &str| format!("/v2/{PRIVATE}/manifests/{reference}");
    world.own("DELETE", &at("v1")).send().await.is(202);
    world.get(&at("v1")).await.is(404);
    world.get(&at("v2")).await.is(200);
    let answer = world.own("DELETE", &at("v1")).send().await.is(404);
    assert_eq!(answer.code(), "MANIFEST_UNKNOWN");
    // A blob that a manifest needs stays; without the manifest it goes.
    let blob = format!("/v2/{PRIVATE}/blobs/{}", Digest::of(b"layer of v1"));
    assert_eq!(world.own("DELETE", &blob).send().await.is(403).code(), "DENIED");
    world.own("DELETE", &at(&digest.to_string())).send().await.is(202);
    world.get(&at("v2")).await.is(404);
    world.get(&at(&digest.to_string())).await.is(404);
    let answer = world.own("DELETE", &at(&digest.to_string())).send().await.is(404);
    assert_eq!(answer.code(), "MANIFEST_UNKNOWN");
    world.own("DELETE", &blob).send().await.is(202);
    world.get(&blob).await.is(404);
    assert_eq!(world.own("DELETE", &blob).send().await.is(404).code(), "BLOB_UNKNOWN");
    // And all of it can come back.
    world.image(PRIVATE, "v1").await;
    world.get(&at("v1")).await.is(200);
}

#[tokio::test]
async fn a_read_only_registry_is_still_pulled_from() {
    let world = World::new().await;
    let (manifest, digest) = world.image(PRIVATE, "v1").await;
    let location = world.begin(PRIVATE).await;
    let settings =
        dtr_catalog::records::Settings { read_only_registry: true, ..Default::default() };
    world.catalog.put(&settings).await.expect("put");
    let uploads = format!("/v2/{PRIVATE}/blobs/uploads/");
    let answer = world.own("POST", &uploads).body("").send().await.is(503);
    assert_eq!(answer.code(), "UNAVAILABLE");
    assert!(!answer.header("retry-after").is_empty());
    assert!(answer.message().contains("read-only"));
    let at = |reference: &str| format!("/v2/{PRIVATE}/manifests/{reference}");
    world.put(PRIVATE, "v2", OCI, manifest).await.is(503);
    world.own("DELETE", &at("v1")).send().await.is(503);
    world.own("PATCH", &location).body("x").send().await.is(503);
    let blob = format!("/v2/{PRIVATE}/blobs/{}", Digest::of(b"layer of v1"));
    world.own("DELETE", &blob).send().await.is(503);
    world.get(&at("v1")).await.is(200);
    world.get(&at(&digest.to_string())).await.is(200);
    world.get(&blob).await.is(200);
    world.get(&format!("/v2/{PRIVATE}/tags/list")).await.is(200);
}

#[tokio::test]
async fn a_push_makes_its_repository_where_that_is_allowed() {
    let world = World::new().await;
    let closed = world.own("POST", "/v2/acme/new/blobs/uploads/").body("").send().await.is(404);
    assert_eq!(closed.code(), "NAME_UNKNOWN");
    let world = World::with(|settings| settings.create_repository_on_push = true).await;
    world.image("acme/new", "v1").await;
    let name = "acme/new".parse().expect("a name");
    let made = world.catalog.lookup_repository(&name).await.expect("read").expect("made").value;
    assert_eq!(made.visibility, dtr_catalog::records::Visibility::Private);
    assert_eq!((made.namespace, made.namespace_is_org), (world.org.clone(), true));
    let begin = |who, path: &'static str| world.call("POST", path).who(who).body("").send();
    use crate::world::Who;
    begin(Who::Stranger, "/v2/stranger/mine/blobs/uploads/").await.is(202);
    begin(Who::Admin, "/v2/stranger/other/blobs/uploads/").await.is(202);
    for (who, path) in [
        (Who::Stranger, "/v2/acme/theirs/blobs/uploads/"),
        (Who::ReadWrite, "/v2/acme/theirs/blobs/uploads/"),
        (Who::NamespaceReadWrite, "/v2/acme/theirs/blobs/uploads/"),
        (Who::Stranger, "/v2/nobody/x/blobs/uploads/"),
        (Who::Admin, "/v2/nobody/x/blobs/uploads/"),
    ] {
        assert_eq!(begin(who, path).await.is(404).code(), "NAME_UNKNOWN", "{who:?}");
    }
    begin(Who::Anonymous, "/v2/acme/theirs/blobs/uploads/").await.is(401);
    // Asking for a repository makes none.
    world.get("/v2/acme/asked/tags/list").await.is(404);
}
