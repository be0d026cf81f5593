//! Lists: tags, repositories, referrers.

use dtr_types::Digest;
use serde_json::{Value, json};

use crate::world::{CONFIG, INDEX, OCI, PRIVATE, PUBLIC, Who, World, descriptor, image, index};

/// The target of the `Link` to the next page.
fn next(link: &str) -> &str {
    let target = link.strip_suffix(">; rel=\"next\"").expect("a link to the next page");
    target.strip_prefix('<').expect("a target")
}

#[tokio::test]
async fn tags_in_order_page_by_page() {
    let world = World::new().await;
    let (manifest, _) = world.image(PRIVATE, "b").await;
    let mut expected = vec!["b".to_owned()];
    for tag in ["A", "a.1", "a-2", "Z", "_x", "latest", "10", "2"] {
        world.put(PRIVATE, tag, OCI, manifest.clone()).await.is(201);
        expected.push(tag.to_owned());
    }
    expected.sort();
    let path = format!("/v2/{PRIVATE}/tags/list");
    let answer = world.get(&path).await.is(200);
    assert_eq!(answer.json(), json!({ "name": PRIVATE, "tags": expected }));
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("link"), "");
    for n in [1, 2, 4, 8, 9, 10] {
        let mut at = format!("{path}?n={n}");
        let mut all: Vec<String> = Vec::new();
        loop {
            let answer = world.get(&at).await.is(200);
            let page: Vec<String> =
                serde_json::from_value(answer.json()["tags"].take()).expect("a list");
            assert!(page.len() <= n && !page.is_empty());
            all.extend(page);
            if answer.header("link").is_empty() {
                break;
            }
            at = next(answer.header("link")).to_owned();
        }
        assert_eq!(all, expected);
    }
    let tags = |answer: crate::world::Answer| answer.is(200).json()["tags"].clone();
    assert_eq!(tags(world.get(&format!("{path}?n=0")).await), json!([]));
    assert_eq!(tags(world.get(&format!("{path}?last=a.0&n=2")).await), json!(["a.1", "b"]));
    assert_eq!(tags(world.get(&format!("{path}?last=zzz")).await), json!([]));
    assert_eq!(tags(world.get(&format!("/v2/{PUBLIC}/tags/list")).await), json!([]));
    for n in ["-1", "x", "1.5", "%00"] {
        let answer = world.get(&format!("{path}?n={n}")).await.is(400);
        assert_eq!(answer.code(), "PAGINATION_NUMBER_INVALID");
    }
    world.get(&format!("{path}?n=99999999999999999999")).await.is(200);
    world.get(&format!("{path}?n=1000000")).await.is(200);
}

#[tokio::test]
async fn a_hostile_last_finds_nothing_of_others() {
    let world = World::new().await;
    world.image(PRIVATE, "v1").await;
    let path = format!("/v2/{PRIVATE}/tags/list");
    for last in ["%2e%2e", "/", "%00", "%ff", "~", "%C3%A9", "../x"] {
        let answer = world.get(&format!("{path}?last={last}")).await;
        assert!(answer.status == 200 || answer.status == 400, "{last}");
    }
}

#[tokio::test]
async fn the_catalog_shows_what_may_be_read() {
    let world = World::new().await;
    let list = |who: Who| {
        let call = world.call("GET", "/v2/_catalog").who(who);
        async { call.send().await.is(200).json()["repositories"].clone() }
    };
    assert_eq!(list(Who::Stranger).await, json!([PUBLIC]));
    for who in [Who::ReadOnly, Who::NamespaceReadOnly, Who::Owner, Who::Admin] {
        assert_eq!(list(who).await, json!([PRIVATE, PUBLIC]), "{who:?}");
    }
    assert_eq!(world.call("GET", "/v2/_catalog").send().await.is(401).code(), "UNAUTHORIZED");
    let first = world.get("/v2/_catalog?n=1").await.is(200);
    assert_eq!(first.json()["repositories"], json!([PRIVATE]));
    let second = world.get(next(first.header("link"))).await.is(200);
    assert_eq!(second.json()["repositories"], json!([PUBLIC]));
    assert_eq!(second.header("link"), "");
    assert_eq!(world.get("/v2/_catalog?n=0").await.is(200).json()["repositories"], json!([]));
    // Where a page begins need not be a name that could be, and a number may be larger than any.
    for (from, rest) in
        [("a", json!([PRIVATE, PUBLIC])), ("zz", json!([])), ("%00", json!([PRIVATE, PUBLIC]))]
    {
        let list = world.get(&format!("/v2/_catalog?n={}&last={from}", "9".repeat(40))).await;
        assert_eq!(list.is(200).json()["repositories"], rest, "{from}");
    }
    for bad in ["n=-1", "n=x"] {
        let answer = world.get(&format!("/v2/_catalog?{bad}")).await.is(400);
        assert_eq!(answer.code(), "PAGINATION_NUMBER_INVALID");
    }
}

async fn referrers(world: &World, path: &str) -> Vec<Value> {
    let answer = world.get(path).await.is(200);
    assert_eq!(answer.header("content-type"), INDEX);
    let index = answer.json();
    assert_eq!((&index["schemaVersion"], &index["mediaType"]), (&json!(2), &json!(INDEX)));
    index["manifests"].as_array().expect("a list").clone()
}

#[tokio::test]
async fn referrers_with_filter() {
    let world = World::new().await;
    let (manifest, subject) = world.image(PRIVATE, "v1").await;
    let config = world.blob(PRIVATE, "{}").await;
    let subject_of = descriptor(OCI, &subject, manifest.len());
    let sbom = json!({
        "artifactType": "application/spdx+json", "subject": subject_of,
        "annotations": { "org.example.format": "json" },
    });
    let sbom = image(descriptor("application/vnd.oci.empty.v1+json", &config, 2), &[], &sbom);
    let plain = json!({ "subject": subject_of });
    let signature = image(descriptor("application/x.sig", &config, 2), &[], &plain);
    let list = index(INDEX, &[], &plain);
    for (media_type, body) in [(OCI, &sbom), (OCI, &signature), (INDEX, &list)] {
        let digest = Digest::of(body.as_bytes()).to_string();
        let answer = world.put(PRIVATE, &digest, media_type, body.clone()).await.is(201);
        assert_eq!(answer.header("oci-subject"), subject.to_string());
    }
    let path = format!("/v2/{PRIVATE}/referrers/{subject}");
    let all = referrers(&world, &path).await;
    assert_eq!(all.len(), 3);
    let entry = |body: &str| {
        let digest = Digest::of(body.as_bytes()).to_string();
        all.iter().find(|entry| entry["digest"] == *digest).expect("listed").clone()
    };
    let listed = entry(&sbom);
    assert_eq!(listed["artifactType"], "application/spdx+json");
    assert_eq!(listed["mediaType"], OCI);
    assert_eq!(listed["size"], sbom.len());
    assert_eq!(listed["annotations"], json!({ "org.example.format": "json" }));
    assert_eq!(entry(&signature)["artifactType"], "application/x.sig", "the configuration's type");
    assert_eq!(entry(&list).get("artifactType"), None);
    for filter in ["application/spdx+json", "application/spdx%2Bjson", "application%2Fspdx+json"] {
        let path = format!("{path}?artifactType={filter}");
        assert_eq!(referrers(&world, &path).await, [entry(&sbom)], "{filter}");
        let answer = world.get(&path).await;
        assert_eq!(answer.header("oci-filters-applied"), "artifactType");
    }
    assert!(referrers(&world, &format!("{path}?artifactType=none")).await.is_empty());
    // Gone with its manifest; the subject may go before.
    world.own("DELETE", &format!("/v2/{PRIVATE}/manifests/{subject}")).send().await.is(202);
    assert_eq!(referrers(&world, &path).await.len(), 3);
    let digest = Digest::of(sbom.as_bytes());
    world.own("DELETE", &format!("/v2/{PRIVATE}/manifests/{digest}")).send().await.is(202);
    assert_eq!(referrers(&world, &path).await.len(), 2);
}

#[tokio::test]
async fn referrers_of_what_nobody_knows_are_an_empty_index() {
    let world = World::new().await;
    let none = Digest::of(b"none");
    assert!(referrers(&world, &format!("/v2/{PRIVATE}/referrers/{none}")).await.is_empty());
    assert!(referrers(&world, &format!("/v2/acme/none/referrers/{none}")).await.is_empty());
    let bad = world.get(&format!("/v2/{PRIVATE}/referrers/sha256:x")).await.is(400);
    assert_eq!(bad.code(), "DIGEST_INVALID");
}

/// What a client without the referrers API leaves behind is listed as well: the referrers, since each names its subject,
/// whether or not the index under the fallback tag lists them.
#[tokio::test]
async fn the_fallback_tag_of_older_clients() {
    let world = World::new().await;
    let (manifest, subject) = world.image(PRIVATE, "v1").await;
    let config = world.blob(PRIVATE, "{}").await;
    let more = json!({ "subject": descriptor(OCI, &subject, manifest.len()) });
    let referrer = image(descriptor(CONFIG, &config, 2), &[], &more);
    let digest = Digest::of(referrer.as_bytes());
    world.put(PRIVATE, &digest.to_string(), OCI, referrer.clone()).await.is(201);
    let fallback = subject.to_string().replace(':', "-");
    let list = index(INDEX, &[descriptor(OCI, &digest, referrer.len())], &json!({}));
    world.put(PRIVATE, &fallback, INDEX, list).await.is(201);
    let listed = referrers(&world, &format!("/v2/{PRIVATE}/referrers/{subject}")).await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["digest"], digest.to_string());
    world.get(&format!("/v2/{PRIVATE}/manifests/{fallback}")).await.is(200);
}

#[tokio::test]
async fn referrers_are_paged_below_four_mebibytes() {
    let world = World::new().await;
    let (manifest, subject) = world.image(PRIVATE, "v1").await;
    let config = world.blob(PRIVATE, "{}").await;
    let padding = "x".repeat(900 * 1024);
    for n in 0..9 {
        let more = json!({
            "subject": descriptor(OCI, &subject, manifest.len()),
            "annotations": { "n": n.to_string(), "padding": padding },
        });
        let referrer = image(descriptor("application/a+b", &config, 2), &[], &more);
        let digest = Digest::of(referrer.as_bytes()).to_string();
        world.put(PRIVATE, &digest, OCI, referrer).await.is(201);
    }
    for filter in ["", "?artifactType=application/a%2Bb"] {
        let mut at = format!("/v2/{PRIVATE}/referrers/{subject}{filter}");
        let mut seen = std::collections::BTreeSet::new();
        let mut pages = 0;
        loop {
            let answer = world.get(&at).await.is(200);
            assert!(answer.body.len() <= 4 * 1024 * 1024);
            for entry in answer.json()["manifests"].as_array().expect("a list") {
                assert!(seen.insert(entry["digest"].to_string()), "listed twice");
            }
            pages += 1;
            if answer.header("link").is_empty() {
                break;
            }
            at = next(answer.header("link")).to_owned();
        }
        assert_eq!(seen.len(), 9);
        assert!(pages > 1);
    }
}
