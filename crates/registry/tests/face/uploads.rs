//! Uploads: in one request, streamed, in chunks, resumed, given up, mounted, and several at once.

use std::{io, time::Duration};

use axum::body::{Body, Bytes};
use dtr_types::{Algorithm, Digest};
use futures_util::stream;

use crate::world::{Answer, PRIVATE, PUBLIC, Who, World};

fn path(repository: &str) -> String {
    format!("/v2/{repository}/blobs/uploads/")
}

#[tokio::test]
async fn in_one_request() {
    let world = World::new().await;
    let digest = Digest::of(b"content");
    let whole = format!("{}?digest={digest}", path(PRIVATE));
    for _ in 0..2 {
        let answer = world.own("POST", &whole).body("content").send().await.is(201);
        assert_eq!(answer.header("location"), format!("/v2/{PRIVATE}/blobs/{digest}"));
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
        world.get(answer.header("location")).await.is(200);
    }
    let wrong = world.own("POST", &whole).body("other").send().await.is(400);
    assert_eq!(wrong.code(), "DIGEST_INVALID");
    for bad in ["sha256:x", "md5:00", ""] {
        let path = format!("{}?digest={bad}", path(PRIVATE));
        let answer = world.own("POST", &path).body("content").send().await.is(400);
        assert_eq!(answer.code(), "DIGEST_INVALID");
    }
    // Without the last slash, and without a length.
    let path = format!("/v2/{PRIVATE}/blobs/uploads?digest={digest}");
    world.own("POST", &path).stream(Body::from("content")).send().await.is(201);
}

/// `PUT` of the end.
async fn end(world: &World, location: &str, digest: &Digest, body: &'static str) -> Answer {
    let separator = if location.contains('?') { '&' } else { '?' };
    let path = format!("{location}{separator}digest={digest}");
    world.own("PUT", &path).body(body).send().await
}

#[tokio::test]
async fn begun_and_ended_with_the_whole() {
    let world = World::new().await;
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let digest = Digest::with(algorithm, b"content");
        let location = world.begin(PRIVATE).await;
        let answer = end(&world, &location, &digest, "content").await.is(201);
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
        let got = world.get(answer.header("location")).await.is(200);
        assert_eq!(got.body, "content");
        world.get(&location).await.is(404);
        end(&world, &location, &digest, "content").await.is(404);
    }
}

#[tokio::test]
async fn streamed_as_docker_does() {
    let world = World::new().await;
    let location = world.begin(PRIVATE).await;
    let parts = ["one ", "", "two ", "three"];
    let parts: Vec<io::Result<Bytes>> = parts.into_iter().map(|p| Ok(p.into())).collect();
    let body = Body::from_stream(stream::iter(parts));
    let answer = world.own("PATCH", &location).stream(body).send().await.is(202);
    assert_eq!(answer.header("range"), "0-12");
    let location = answer.header("location").to_owned();
    let digest = Digest::of(b"one two three");
    end(&world, &location, &digest, "").await.is(201);
    assert_eq!(world.get(&format!("/v2/{PRIVATE}/blobs/{digest}")).await.body, "one two three");
}

#[tokio::test]
async fn in_chunks_and_out_of_order() {
    let world = World::new().await;
    let location = world.begin(PRIVATE).await;
    let chunk = |range: &str, body: &'static str| {
        let call = world.own("PATCH", &location).header("content-range", range);
        call.header("content-type", "application/octet-stream").body(body).send()
    };
    let answer = chunk("5-9", "56789").await.is(416);
    assert_eq!(answer.header("location"), location);
    assert_eq!(answer.code(), "RANGE_INVALID");
    assert_eq!(world.get(&location).await.is(204).header("range"), "0-0");
    assert_eq!(chunk("0-4", "01234").await.is(202).header("range"), "0-4");
    assert_eq!(chunk("0-4", "01234").await.is(416).header("range"), "0-4");
    let status = world.get(&location).await.is(204);
    assert_eq!(status.header("range"), "0-4");
    assert_eq!(status.header("location"), location);
    for (range, body) in
        [("5-9", "567"), ("5-9", "5678901"), ("9-5", "x"), ("x", "x"), ("5-", "x"), ("", "x")]
    {
        assert_eq!(chunk(range, body).await.is(400).code(), "SIZE_INVALID", "{range}");
    }
    // Without a length the chunk's end is only known when it has come; nothing of it is kept then.
    let longer = world.own("PATCH", &location).header("content-range", "5-6");
    let answer = longer.stream(Body::from("567")).send().await.is(400);
    assert_eq!(answer.code(), "SIZE_INVALID");
    assert_eq!(world.get(&location).await.is(204).header("range"), "0-4");
    assert_eq!(chunk("bytes 5-7", "567").await.is(202).header("range"), "0-7");
    let digest = Digest::of(b"0123456789");
    let last = format!("{location}?digest={digest}");
    let wrong = world.own("PUT", &last).header("content-range", "9-10").body("89").send().await;
    wrong.is(416);
    let right = world.own("PUT", &last).header("content-range", "8-9").body("89").send().await;
    assert_eq!(right.is(201).header("location"), format!("/v2/{PRIVATE}/blobs/{digest}"));
    assert_eq!(world.get(&format!("/v2/{PRIVATE}/blobs/{digest}")).await.body, "0123456789");
}

#[tokio::test]
async fn hashed_with_what_was_announced() {
    let world = World::new().await;
    let begin = format!("{}?digest-algorithm=sha512", path(PRIVATE));
    let location = world.own("POST", &begin).body("").send().await.is(202);
    let location = location.header("location").to_owned();
    world.own("PATCH", &location).body("content").send().await.is(202);
    let digest = Digest::with(Algorithm::Sha512, b"content");
    end(&world, &location, &digest, "").await.is(201);
    let unknown = format!("{}?digest-algorithm=md5", path(PRIVATE));
    let refused = world.own("POST", &unknown).body("").send().await.is(400);
    assert_eq!(refused.code(), "DIGEST_INVALID");
    // Without the announcement it takes longer, and comes to the same.
    let digest = Digest::with(Algorithm::Sha512, b"content and end");
    let location = world.begin(PRIVATE).await;
    world.own("PATCH", &location).body("content ").send().await.is(202);
    end(&world, &location, &digest, "and end").await.is(201);
    let got = world.get(&format!("/v2/{PRIVATE}/blobs/{digest}")).await.is(200);
    assert_eq!(got.body, "content and end");
    let location = world.begin(PRIVATE).await;
    world.own("PATCH", &location).body("other").send().await.is(202);
    let refused = end(&world, &location, &digest, "").await.is(400);
    assert_eq!(refused.code(), "DIGEST_INVALID");
}

#[tokio::test]
async fn the_end_must_fit() {
    let world = World::new().await;
    let digest = Digest::of(b"content");
    let location = world.begin(PRIVATE).await;
    let none = world.own("PUT", &location).body("content").send().await.is(400);
    assert_eq!(none.code(), "DIGEST_INVALID");
    let bad = format!("{location}?digest=sha256:x");
    assert_eq!(
        world.own("PUT", &bad).body("content").send().await.is(400).code(),
        "DIGEST_INVALID"
    );
    let wrong = end(&world, &location, &digest, "other").await.is(400);
    assert_eq!(wrong.code(), "DIGEST_INVALID");
    world.get(&format!("/v2/{PRIVATE}/blobs/{digest}")).await.is(404);
}

#[tokio::test]
async fn given_up() {
    let world = World::new().await;
    let location = world.begin(PRIVATE).await;
    world.own("PATCH", &location).body("content").send().await.is(202);
    world.own("DELETE", &location).send().await.is(204);
    for method in ["GET", "DELETE", "PATCH"] {
        let answer = world.own(method, &location).body("").send().await.is(404);
        assert_eq!(answer.code(), "BLOB_UPLOAD_UNKNOWN");
    }
}

#[tokio::test]
async fn a_session_is_of_its_repository_and_of_who_began_it() {
    let world = World::new().await;
    let location = world.begin(PRIVATE).await;
    for who in [Who::Admin, Who::ReadWrite] {
        for method in ["GET", "PATCH", "DELETE"] {
            let answer = world.call(method, &location).who(who).body("").send().await.is(404);
            assert_eq!(answer.code(), "BLOB_UPLOAD_UNKNOWN");
        }
    }
    let elsewhere = location.replace(PRIVATE, PUBLIC);
    world.own("GET", &elsewhere).send().await.is(404);
    world.own("PATCH", &location).body("x").send().await.is(202);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_continued() {
    let world = World::new().await;
    let location = world.begin(PRIVATE).await;
    let parts = [Ok(Bytes::from("first ")), Err(io::Error::other("the connection broke"))];
    let body = Body::from_stream(stream::iter(parts));
    let answer = world.own("PATCH", &location).stream(body).send().await.is(400);
    assert_eq!(answer.code(), "BLOB_UPLOAD_INVALID");
    let status = world.get(&location).await.is(204);
    assert_eq!(status.header("range"), "0-5", "what had come is kept");
    world
        .own("PATCH", &location)
        .header("content-range", "6-11")
        .body("second")
        .send()
        .await
        .is(202);
    end(&world, &location, &Digest::of(b"first second"), "").await.is(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_write_to_one_session() {
    let world = World::new().await;
    let location = world.begin(PRIVATE).await;
    let (send, receive) = tokio::sync::mpsc::channel::<io::Result<Bytes>>(1);
    let receive =
        stream::unfold(receive, |mut receive| async { Some((receive.recv().await?, receive)) });
    let first = world.own("PATCH", &location).stream(Body::from_stream(receive)).send();
    let second = async {
        // The second and third are taken only after the first was.
        for part in ["a", "b", "c"] {
            send.send(Ok(part.into())).await.expect("taken");
        }
        // Nothing is wrong with it: it may come again. A client takes 416 for a wrong place and begins anew.
        let answer = world.own("PATCH", &location).body("other").send().await.is(503);
        assert_eq!(answer.code(), "UNAVAILABLE");
        assert_eq!(answer.header("retry-after"), "5");
        assert!(answer.message().contains("another request"), "{}", answer.message());
        drop(send);
    };
    let (first, ()) = tokio::join!(first, second);
    assert_eq!(first.is(202).header("range"), "0-2");
    end(&world, &location, &Digest::of(b"abc"), "").await.is(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_ended_twice_at_once_ends_once() {
    let world = World::new().await;
    for _ in 0..10 {
        let location = world.begin(PRIVATE).await;
        let digest = Digest::of(location.as_bytes());
        world.own("PATCH", &location).body(location.clone()).send().await.is(202);
        let limit = Duration::from_secs(20);
        let both = async {
            tokio::join!(end(&world, &location, &digest, ""), end(&world, &location, &digest, ""))
        };
        let (a, b) = tokio::time::timeout(limit, both).await.expect("in time");
        let codes = [a.status.as_u16(), b.status.as_u16()];
        assert!(codes.contains(&201), "{codes:?}");
        assert!(codes.iter().all(|code| [201, 404, 416, 503].contains(code)), "{codes:?}");
        world.get(&format!("/v2/{PRIVATE}/blobs/{digest}")).await.is(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_blob_pushed_by_many_at_once() {
    let world = World::new().await;
    let digest = Digest::of(b"popular");
    let repositories = [PUBLIC, PRIVATE];
    let pushes = (0..16).map(|n| {
        let path = format!("{}?digest={digest}", path(repositories[n % 2]));
        let call = world.own("POST", &path);
        async { call.body("popular").send().await.is(201) }
    });
    futures_util::future::join_all(pushes).await;
    for repository in repositories {
        let got = world.get(&format!("/v2/{repository}/blobs/{digest}")).await.is(200);
        assert_eq!(got.body, "popular");
    }
}

#[tokio::test]
async fn a_repository_that_goes_during_an_upload() {
    let world = World::new().await;
    let location = world.begin(PRIVATE).await;
    world.own("PATCH", &location).body("content").send().await.is(202);
    world.catalog.delete_repository(&world.private.name, None).await.expect("deleted");
    let answer = end(&world, &location, &Digest::of(b"content"), "").await.is(404);
    assert_eq!(answer.code(), "NAME_UNKNOWN");
}

#[tokio::test]
async fn mounting() {
    let world = World::new().await;
    let digest = world.blob(PRIVATE, "shared").await;
    let mount = |who, to: &str, query: String| {
        world.call("POST", &format!("{}?{query}", path(to))).who(who).body("").send()
    };
    let from = |source: &str| format!("mount={digest}&from={source}");
    // Into a repository of one's own, from one that one may not read: an ordinary upload, no refusal.
    let mine = dtr_catalog::records::Visibility::Private;
    let name = "stranger".parse().expect("a name");
    let account = dtr_identity::Identity::account(&world.identity, &name).await;
    let account = account.expect("read").expect("there");
    crate::world::repository(&world.catalog, "stranger/mine", &account.id, mine).await;
    for query in [from(PRIVATE), from("acme/none"), from("x"), from(""), format!("mount={digest}")]
    {
        let answer = mount(Who::Stranger, "stranger/mine", query.clone()).await.is(202);
        assert!(!answer.header("location").is_empty(), "{query}");
    }
    world
        .call("GET", &format!("/v2/stranger/mine/blobs/{digest}"))
        .who(Who::Stranger)
        .send()
        .await
        .is(404);
    for query in [format!("mount={}&from={PRIVATE}", Digest::of(b"none")), "mount=x".to_owned()] {
        mount(Who::Owner, PUBLIC, query).await.is(202);
    }
    let at = format!("/v2/{PUBLIC}/blobs/{digest}");
    world.get(&at).await.is(404);
    for query in [from(PRIVATE), from(PUBLIC), format!("mount={digest}")] {
        let answer = mount(Who::Owner, PUBLIC, query).await.is(201);
        assert_eq!(answer.header("location"), at);
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
        assert_eq!(world.get(&at).await.is(200).body, "shared");
    }
    // Without a source, from whatever the caller may read.
    let answer = mount(Who::Stranger, "stranger/mine", format!("mount={digest}")).await.is(201);
    assert_eq!(answer.header("location"), format!("/v2/stranger/mine/blobs/{digest}"));
    // The right to push is still needed.
    mount(Who::ReadOnly, PUBLIC, from(PRIVATE)).await.is(403);
    // Who has to log in for it is told of both repositories.
    let answer = mount(Who::Anonymous, PUBLIC, from(PRIVATE)).await.is(401);
    let scopes = format!("scope=\"repository:{PUBLIC}:pull,push repository:{PRIVATE}:pull\"");
    let challenge = answer.header("www-authenticate");
    assert!(challenge.contains(&scopes), "{challenge}");
}

#[tokio::test]
async fn a_session_without_a_byte_is_not_stored() {
    let world = World::new().await;
    let location = world.begin(PRIVATE).await;
    assert!(world.catalog.list_uploads(None).await.expect("listed").items.is_empty());
    assert_eq!(world.get(&location).await.is(204).header("range"), "0-0");
    world.own("DELETE", &location).send().await.is(204);
    world.get(&location).await.is(404);
    // An empty blob has no byte either.
    let location = world.begin(PRIVATE).await;
    end(&world, &location, &Digest::of(b""), "").await.is(201);
    world.get(&location).await.is(404);
}
