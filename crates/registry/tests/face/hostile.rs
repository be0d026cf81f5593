//! What no client sends: paths, queries, headers and bodies that are wrong in every way. Nothing panics, nothing is let
//! through, and everything is answered in the form of the specification.

use proptest::prelude::*;

use crate::world::{OCI, PRIVATE, World};

#[tokio::test]
async fn paths() {
    let world = World::new().await;
    world.image(PRIVATE, "v1").await;
    for (path, status, code) in [
        ("/v2/Acme/private/tags/list", 400, "NAME_INVALID"),
        ("/v2/private/tags/list", 404, "NAME_UNKNOWN"),
        ("/v2/Private/tags/list", 400, "NAME_INVALID"),
        ("/v2/acme/../private/tags/list", 400, "NAME_INVALID"),
        ("/v2/acme/%2e%2e/private/tags/list", 400, "NAME_INVALID"),
        ("/v2/acme//private/tags/list", 400, "NAME_INVALID"),
        ("/v2/acme/private%00/tags/list", 400, "NAME_INVALID"),
        ("/v2/acme/%ff/tags/list", 400, "NAME_INVALID"),
        ("/v2/acme/private/manifests/a%20b", 400, "TAG_INVALID"),
        ("/v2/acme/private/manifests/-x", 400, "TAG_INVALID"),
        ("/v2/acme/private/manifests/sha256:x", 400, "DIGEST_INVALID"),
        ("/v2/acme/private/blobs/sha256:x", 400, "DIGEST_INVALID"),
        ("/v2/acme/private/blobs/x", 400, "DIGEST_INVALID"),
        ("/v2/acme/private/referrers/x", 400, "DIGEST_INVALID"),
        ("/v2/acme/private/blobs/uploads/..", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("/v2/acme/private", 404, "UNSUPPORTED"),
        ("/v2/acme/private/tags", 404, "UNSUPPORTED"),
        ("/v2/acme/private/manifests", 404, "UNSUPPORTED"),
        ("/v2/_catalog/x", 404, "UNSUPPORTED"),
        ("/v2//", 404, "UNSUPPORTED"),
    ] {
        assert_eq!(world.get(path).await.is(status).code(), code, "{path}");
    }
    let long = "a".repeat(300);
    world.get(&format!("/v2/acme/{long}/tags/list")).await.is(404);
    // A proxy that filters by path must see the path that is answered.
    for encoded in ["/v2/acme%2Fprivate/manifests/v1", "/v2/acme%2fprivate/manifests/v1"] {
        let refused = world.get(encoded).await.is(400);
        assert_eq!(refused.code(), "NAME_INVALID");
        assert!(refused.message().contains("%2F"), "{}", refused.message());
    }
    for encoded in ["/v2/acme/%70rivate/manifests/v1", "/v2/acme/private/manifests/%761"] {
        world.get(encoded).await.is(200);
    }
    world.get("/v2/acme%252Fprivate/manifests/v1").await.is(400);
}

/// The commonest mistake of newcomers. docker retries what it takes for an accident; what is not known it tells at once.
#[tokio::test]
async fn a_name_of_one_part_is_unknown() {
    let world = World::new().await;
    let digest = dtr_types::Digest::of(b"x");
    for (method, path) in [
        ("POST", "/v2/web/blobs/uploads/".to_owned()),
        ("PUT", "/v2/web/manifests/1.0".to_owned()),
        ("GET", "/v2/web/manifests/1.0".to_owned()),
        ("GET", "/v2/web/tags/list".to_owned()),
    ] {
        let answer = world.own(method, &path).body("").send().await.is(404);
        assert_eq!(answer.code(), "NAME_UNKNOWN", "{method} {path}");
        assert!(answer.message().contains("namespace/name"), "{}", answer.message());
    }
    world.own("HEAD", &format!("/v2/web/blobs/{digest}")).send().await.is(404);
    world.own("HEAD", "/v2/web/manifests/1.0").send().await.is(404);
}

#[tokio::test]
async fn methods() {
    let world = World::new().await;
    world.image(PRIVATE, "v1").await;
    for (method, path) in [
        ("POST", "/v2/"),
        ("DELETE", "/v2/_catalog"),
        ("POST", "/v2/acme/private/manifests/v1"),
        ("PATCH", "/v2/acme/private/manifests/v1"),
        ("PUT", "/v2/acme/private/tags/list"),
        ("GET", "/v2/acme/private/blobs/uploads/"),
        ("DELETE", "/v2/acme/private/blobs/uploads/"),
        ("PROPFIND", "/v2/acme/private/manifests/v1"),
        ("OPTIONS", "/v2/acme/private/manifests/v1"),
    ] {
        let answer = world.own(method, path).body("").send().await.is(405);
        assert_eq!(answer.code(), "UNSUPPORTED", "{method} {path}");
    }
}

#[tokio::test]
async fn headers() {
    let world = World::new().await;
    let (manifest, _) = world.image(PRIVATE, "v1").await;
    let path = format!("/v2/{PRIVATE}/manifests/v1");
    let binary = "\u{80}\u{ff}";
    for name in ["if-none-match", "range", "accept", "content-range", "x-forwarded-host"] {
        for value in ["", binary, &"x".repeat(8000), "bytes=99999999999999999999-"] {
            world.own("GET", &path).header(name, value).send().await.is(200);
        }
    }
    for media_type in ["", binary, ";", "application/", &"x".repeat(8000)] {
        let call = world.own("PUT", &path).header("content-type", media_type);
        call.body(manifest.clone()).send().await.is(400);
    }
    let location = world.begin(PRIVATE).await;
    for range in [binary, "18446744073709551615-18446744073709551616", "--", "0-x", "-1-5"] {
        let call = world.own("PATCH", &location).header("content-range", range);
        assert_eq!(call.body("x").send().await.is(400).code(), "SIZE_INVALID");
    }
    let call = world.own("PATCH", &location).header("content-range", "0-18446744073709551615");
    assert_eq!(call.body("x").send().await.is(400).code(), "SIZE_INVALID");
    // A host that would break out of the challenge's quotes cannot.
    let request = axum::http::Request::builder().uri("/v2/").header("host", "a\",scope=\"x");
    let answer = world.answer(request.body(axum::body::Body::empty()).expect("one")).await.is(401);
    assert!(!answer.header("www-authenticate").contains("a\","));
}

#[tokio::test]
async fn queries() {
    let world = World::new().await;
    let uploads = format!("/v2/{PRIVATE}/blobs/uploads/");
    for query in ["?", "?&&&", "?digest", "?=", "?mount", "?mount=&from=", "?mount=%ff&from=%00"] {
        let answer = world.own("POST", &format!("{uploads}{query}")).body("").send().await;
        assert!([202, 400].contains(&answer.status.as_u16()), "{query}");
    }
    let many: String = (0..1000).map(|n| format!("&k{n}=v")).collect();
    world.own("POST", &format!("{uploads}?{many}")).body("").send().await.is(202);
}

#[tokio::test]
async fn deep_and_wide_json() {
    let world = World::new().await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let wide = format!("{{\"schemaVersion\":2,\"config\":[{}0]}}", "0,".repeat(500_000));
    let twice = "{\"schemaVersion\":2,\"schemaVersion\":2,\"config\":{}}".to_owned();
    let numbers = "{\"schemaVersion\":2e999}".to_owned();
    for body in [deep, wide, twice, numbers, "\u{feff}{}".to_owned(), "null".to_owned()] {
        let answer = world.put(PRIVATE, "x", OCI, body).await.is(400);
        assert_eq!(answer.code(), "MANIFEST_INVALID");
    }
}

#[test]
fn nothing_panics() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let world = runtime.block_on(World::new());
    let part = "acme|private|tags|list|blobs|uploads|manifests|referrers|_catalog|v1|\\.\\.|%2e|%ff|sha256:[0-9a-f]{0,64}|[ -~&&[^#?%\\\\\"<>`{}|^]]{0,10}";
    let path = prop::collection::vec(part, 0..8);
    let method = prop::sample::select(vec!["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"]);
    let query = "(\\?(digest|mount|from|n|last|tag|artifactType)=[a-z0-9:%+-]{0,20})?";
    proptest!(ProptestConfig::with_cases(400), |(method in method, path in path, query in query)| {
        let path = format!("/v2/{}{query}", path.join("/").replace(' ', "%20"));
        prop_assume!(path.parse::<axum::http::Uri>().is_ok());
        let answer = runtime.block_on(world.own(method, &path).body("x").send());
        prop_assert!(answer.status.as_u16() < 500, "{} {}: {}", method, path, answer.status);
    });
}
