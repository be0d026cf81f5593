//! Bodies, paths and queries that mean harm: each is refused clearly, changes nothing, and is never an error of ours.

use serde_json::{Value, json};

use crate::{
    matrix::routes,
    people::{Answer, PRIVATE, Who},
    world::World,
};

async fn state(world: &World) -> Vec<Value> {
    let mut all = Vec::new();
    for path in [
        "/api/v0/repositories?pageSize=1000".to_owned(),
        "/api/v0/meta/settings".to_owned(),
        "/api/v0/api_tokens".to_owned(),
        "/api/v0/repositoryNamespaces/acme/teamAccess".to_owned(),
        format!("/api/v0/repositories/{PRIVATE}/teamAccess"),
        format!("/api/v0/repositories/{PRIVATE}/tags"),
    ] {
        all.push(world.admin("GET", &path, None).await.is(200).json());
    }
    all
}

fn told(answer: &Answer, what: &str) {
    let status = answer.status.as_u16();
    assert!((400..500).contains(&status), "{what}: {status}");
    let error = &answer.json()["errors"][0];
    assert!(!error["code"].as_str().expect("a code").is_empty(), "{what}");
    assert!(!error["message"].as_str().expect("a message").is_empty(), "{what}");
}

/// The routes that take a body, on things that are there.
fn with_bodies() -> Vec<(String, String)> {
    let fill = |path: &str| {
        path.replace("{namespace}/{reponame}", PRIVATE)
            .replace("{namespace}", "acme")
            .replace("{teamname}", "readers")
            .replace("{hashedtoken}", &"0".repeat(64))
    };
    let document = serde_json::to_value(dtr_api::openapi()).expect("JSON");
    let mut all = Vec::new();
    for route in routes() {
        let (method, path) = route.split_once(' ').expect("two words");
        if document["paths"][path][method.to_lowercase()]["requestBody"].is_object() {
            all.push((method.to_owned(), fill(path)));
        }
    }
    assert!(all.len() >= 7, "{all:?}");
    all
}

#[tokio::test]
async fn bodies() {
    let world = World::new().await;
    world.people.image(PRIVATE, "v1").await;
    let before = state(&world).await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let long = format!("{{\"name\":\"{}\"}}", "a".repeat(2 << 20));
    let bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"{".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"1".to_vec(),
        b"\"text\"".to_vec(),
        b"{\"noSuchField\":1}".to_vec(),
        b"{\"name\":1,\"accessLevel\":[],\"tokenLabel\":{},\"isActive\":\"x\",\"visibility\":7,\"gcGraceSeconds\":[]}"
            .to_vec(),
        b"{\"name\":\"\xff\xfe\"}".to_vec(),
        b"{\"name\":\"\\u0000\"}".to_vec(),
        deep.into_bytes(),
        long.into_bytes(),
        vec![0; 64],
    ];
    for (method, path) in with_bodies() {
        for body in &bodies {
            let what = format!(
                "{method} {path} {:?}",
                String::from_utf8_lossy(&body[..body.len().min(40)])
            );
            let call = world.people.call(&method, &path).who(Who::Admin);
            let answer = call.header("content-type", "application/json").body(body.clone()).send();
            told(&answer.await, &what);
        }
        let call = world.people.call(&method, &path).who(Who::Admin);
        let answer = call.header("content-type", "text/plain").body("{}").send().await;
        assert_eq!(answer.status.as_u16(), 415, "{method} {path}");
    }
    assert_eq!(state(&world).await, before);
}

#[tokio::test]
async fn paths_and_queries() {
    let world = World::new().await;
    let before = state(&world).await;
    let odd =
        ["%00", "%ff", "..%2f..", "%2e%2e", "a%0ab", "%F0%9F%92%A9", "A", "-", &"a".repeat(5000)];
    for route in routes() {
        let (method, path) = route.split_once(' ').expect("two words");
        if !path.contains('{') {
            continue;
        }
        for part in odd {
            let asked: String = path
                .split('/')
                .map(|segment| if segment.starts_with('{') { part } else { segment })
                .collect::<Vec<_>>()
                .join("/");
            let call = world.people.call(method, &asked).who(Who::Admin);
            let answer = call.header("content-type", "application/json").body("{}").send().await;
            let status = answer.status.as_u16();
            // Deleting what cannot be there may well be done already.
            let fine =
                (400..500).contains(&status) || status == 204 || (status == 200 && method == "GET");
            assert!(fine, "{method} {asked}: {status}");
        }
    }
    for query in [
        "pageStart=%00",
        "pageStart=%ff",
        "pageSize=1&pageSize=2",
        "pageSize=1.5",
        "usedbefore=x",
        "publishedAfter=%00",
        "dryRun=maybe",
        &format!("pageStart={}", "a".repeat(60_000)),
    ] {
        for route in routes() {
            let (method, path) = route.split_once(' ').expect("two words");
            if method != "GET" || path.contains('{') {
                continue;
            }
            let answer = world.admin("GET", &format!("{path}?{query}"), None).await;
            assert!(answer.status.as_u16() < 500, "{path}?{query}: {}", answer.status);
        }
    }
    assert_eq!(state(&world).await, before);
}

#[tokio::test]
async fn deleting_what_is_not_there_is_no_error_of_ours() {
    let world = World::new().await;
    let expected = json!([]);
    let list = world.admin("GET", "/api/v0/api_tokens", None).await.is(200).json();
    assert_eq!(list, expected);
    for (path, status) in [
        ("/api/v0/accounts/nobody/repositories", 404),
        ("/api/v0/api_tokens/none", 404),
        ("/api/v0/repositories/nobody/none", 404),
        ("/api/v0/api_tokens?generatedby=robots", 400),
    ] {
        world.admin("DELETE", path, None).await.is(status);
    }
}

#[tokio::test]
async fn strangers_are_told_to_log_in_before_a_body_is_read() {
    let world = World::new().await;
    for (method, path) in with_bodies() {
        for body in ["", "{", "{}"] {
            let call = world.people.call(&method, &path).body(body);
            let answer = call.header("content-type", "application/json").send().await.is(401);
            told(&answer, &format!("{method} {path} {body}"));
        }
    }
}

#[tokio::test]
async fn a_body_that_is_not_said_to_be_json_is_refused_everywhere() {
    let world = World::new().await;
    let routes = with_bodies().into_iter();
    // Also where no body is expected.
    for (method, path) in routes.chain([("POST".to_owned(), "/api/v0/gc".to_owned())]) {
        for kind in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
            let call = world.people.call(&method, &path).who(Who::Admin).body("{}");
            let call = match kind {
                Some(kind) => call.header("content-type", kind),
                None => call,
            };
            call.send().await.is(415);
        }
    }
    world.admin("POST", "/api/v0/gc", None).await.is(200);
}

#[tokio::test]
async fn whoever_guesses_is_told_how_long_to_wait() {
    let world = World::new().await;
    let guess = async || {
        let call = world.people.call("GET", "/api/v0/repositories");
        // reader:guess
        call.header("authorization", "Basic cmVhZGVyOmd1ZXNz").send().await
    };
    for _ in 0..10 {
        guess().await.is(401);
    }
    let answer = guess().await.is(429);
    assert_eq!(answer.header("retry-after"), "1");
    told(&answer, "a guess");
}
