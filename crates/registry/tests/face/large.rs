//! Large things: images of many layers, manifests at the limit, many tags.

use std::time::Instant;

use dtr_types::{Digest, MANIFEST_BYTES_MAX};
use serde_json::json;

use crate::world::{CONFIG, LAYER, OCI, PRIVATE, World, descriptor, image};

/// 300 layers are more than one transaction of an engine takes.
#[tokio::test]
async fn images_of_many_layers() {
    let world = World::new().await;
    let config = world.blob(PRIVATE, "{}").await;
    for count in [100, 300] {
        let mut layers = Vec::new();
        for n in 0..count {
            let content = format!("layer {n}");
            let digest = world.blob(PRIVATE, content.clone()).await;
            layers.push(descriptor(LAYER, &digest, content.len()));
        }
        let manifest = image(descriptor(CONFIG, &config, 2), &layers, &json!({}));
        let tag = format!("l{count}");
        world.put(PRIVATE, &tag, OCI, manifest.clone()).await.is(201);
        let path = format!("/v2/{PRIVATE}/manifests/{tag}");
        assert_eq!(world.get(&path).await.is(200).body, manifest.as_bytes());
        let last = Digest::of(format!("layer {}", count - 1).as_bytes());
        let blob = format!("/v2/{PRIVATE}/blobs/{last}");
        world.own("DELETE", &blob).send().await.is(403);
        let missing = json!({ "mediaType": LAYER, "digest": Digest::of(b"none"), "size": 1 });
        layers.push(missing);
        let lacking = image(descriptor(CONFIG, &config, 2), &layers, &json!({}));
        let refused = world.put(PRIVATE, "lacking", OCI, lacking).await.is(400);
        assert_eq!(refused.code(), "MANIFEST_BLOB_UNKNOWN");
        world.get(&format!("/v2/{PRIVATE}/manifests/lacking")).await.is(404);
        let digest = Digest::of(manifest.as_bytes());
        world.own("DELETE", &format!("/v2/{PRIVATE}/manifests/{digest}")).send().await.is(202);
        world.own("DELETE", &blob).send().await.is(202);
    }
}

#[tokio::test]
async fn manifests_up_to_the_limit() {
    let world = World::new().await;
    let config = world.blob(PRIVATE, "{}").await;
    // Text that does not become small: its stored form takes several values.
    let mut state = 1u64;
    let mut noise = String::new();
    while noise.len() < MANIFEST_BYTES_MAX {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        noise.push_str(&format!("{state:016x}"));
    }
    let of = |size: usize| {
        let empty = json!({ "annotations": { "x": "" } });
        let frame = image(descriptor(CONFIG, &config, 2), &[], &empty).len();
        let more = json!({ "annotations": { "x": noise[..size - frame] } });
        image(descriptor(CONFIG, &config, 2), &[], &more)
    };
    let largest = of(MANIFEST_BYTES_MAX);
    assert_eq!(largest.len(), MANIFEST_BYTES_MAX);
    world.put(PRIVATE, "largest", OCI, largest.clone()).await.is(201);
    let got = world.get(&format!("/v2/{PRIVATE}/manifests/largest")).await.is(200);
    assert_eq!(got.body, largest.as_bytes());
    let too_large = of(MANIFEST_BYTES_MAX - 1).replace("\"x\":\"", "\"x\":\"ab");
    assert_eq!(too_large.len(), MANIFEST_BYTES_MAX + 1);
    let path = format!("/v2/{PRIVATE}/manifests/x");
    for call in [
        world.own("PUT", &path).header("content-type", OCI).body(too_large.clone()),
        world.own("PUT", &path).header("content-type", OCI).stream(too_large.into()),
    ] {
        assert_eq!(call.send().await.is(413).code(), "SIZE_INVALID");
    }
    world.get(&path).await.is(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_tags() {
    let world = World::new().await;
    let (manifest, digest) = world.image(PRIVATE, "t0000").await;
    for chunk in (1..1000).collect::<Vec<_>>().chunks(50) {
        let pushes = chunk.iter().map(|n| {
            let manifest = manifest.clone();
            let world = &world;
            async move { world.put(PRIVATE, &format!("t{n:04}"), OCI, manifest).await.is(201) }
        });
        futures_util::future::join_all(pushes).await;
    }
    let list = world.get(&format!("/v2/{PRIVATE}/tags/list")).await.is(200).json();
    let tags = list["tags"].as_array().expect("a list").clone();
    assert_eq!(tags.len(), 1000);
    assert_eq!((&tags[0], &tags[999]), (&json!("t0000"), &json!("t0999")));
    let path = format!("/v2/{PRIVATE}/tags/list?n=100&last=t0499");
    let begun = Instant::now();
    for _ in 0..20 {
        world.get(&path).await.is(200);
    }
    // A page costs what the page costs, not what the repository holds; far above what it takes even unoptimised.
    assert!(begun.elapsed().as_millis() < 20 * 100, "{:?}", begun.elapsed());
    world.own("DELETE", &format!("/v2/{PRIVATE}/manifests/{digest}")).send().await.is(202);
    let list = world.get(&format!("/v2/{PRIVATE}/tags/list")).await.is(200).json();
    assert_eq!(list["tags"], json!([]));
}
