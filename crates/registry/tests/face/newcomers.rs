//! What a newcomer meets first: the text at `/`, `docker search`, and why there is no such repository.

use serde_json::Value;

use crate::world::{PRIVATE, PUBLIC, Who, World};

#[tokio::test]
async fn a_browser_is_told_what_this_is() {
    let world = World::new().await;
    let answer = world.call("GET", "/").send().await.is(200);
    assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    let text = String::from_utf8(answer.body.to_vec()).expect("text");
    for part in [
        "docker login dtr.example.com",
        "https://dtr.example.com/ca",
        "/etc/docker/certs.d/dtr.example.com/ca.crt",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

fn names(answer: &Value) -> Vec<&str> {
    let results = answer["results"].as_array().expect("a list");
    assert_eq!(answer["num_results"], results.len());
    results.iter().map(|result| result["name"].as_str().expect("a name")).collect()
}

#[tokio::test]
async fn docker_search_finds_what_one_may_see() {
    let world = World::new().await;
    let ping = world.call("GET", "/v1/_ping").send().await.is(200);
    assert_eq!(ping.header("x-docker-registry-standalone"), "true");
    let search = async |who: Who, query: &str| {
        world.call("GET", &format!("/v1/search{query}")).who(who).send().await.is(200).json()
    };
    assert_eq!(names(&search(Who::Anonymous, "?q=acme&n=25").await), [PUBLIC]);
    assert_eq!(names(&search(Who::Stranger, "?q=acme").await), [PUBLIC]);
    for who in [Who::ReadOnly, Who::Owner, Who::Admin] {
        assert_eq!(names(&search(who, "?q=ACME/P").await), [PRIVATE, PUBLIC], "{who:?}");
        assert_eq!(names(&search(who, "?q=priv").await), [PRIVATE], "{who:?}");
    }
    assert_eq!(names(&search(Who::Owner, "?q=acme&n=1").await), [PRIVATE]);
    assert_eq!(names(&search(Who::Owner, "?q=acme&n=x").await).len(), 2);
    assert!(names(&search(Who::Owner, "?q=nothing").await).is_empty());
    let all = search(Who::Owner, "").await;
    assert_eq!(names(&all).len(), 2);
    assert_eq!(all["results"][0]["star_count"], 0);
    let wrong = crate::world::basic("owner", "wrong-password");
    world.call("GET", "/v1/search?q=a").header("authorization", &wrong).send().await.is(401);
    // As docker asks when it has a login of its own kind: with a token for the search.
    let scope = "/auth/token?service=dtr.example.com&scope=registry:catalog:search";
    let token = world.call("GET", scope).who(Who::Owner).send().await.is(200).json();
    let token = token["token"].as_str().expect("one");
    let found = world.call("GET", "/v1/search?q=priv").bearer(token).send().await.is(200).json();
    assert_eq!(names(&found), [PRIVATE]);
    // One that was issued for a repository shows nothing beyond it.
    let scope = format!("/auth/token?service=dtr.example.com&scope=repository:{PUBLIC}:pull");
    let token = world.call("GET", &scope).who(Who::Owner).send().await.is(200).json();
    let token = token["token"].as_str().expect("one");
    let found = world.call("GET", "/v1/search?q=acme").bearer(token).send().await.is(200).json();
    assert_eq!(names(&found), [PUBLIC]);
}

/// A pull is not told what a push must do first. What one may not see is told like what is not there.
#[tokio::test]
async fn a_missing_repository_is_told_by_what_was_asked() {
    let world = World::new().await;
    world.image(PRIVATE, "v1").await;
    let message = async |method: &str, path: &str| {
        let answer = world.call(method, path).who(Who::Stranger).body("").send().await.is(404);
        assert_eq!(answer.code(), "NAME_UNKNOWN");
        answer.message()
    };
    for (path, is_push) in [("manifests/v1", false), ("tags/list", false), ("blobs/uploads/", true)]
    {
        let method = if is_push { "POST" } else { "GET" };
        let absent = message(method, &format!("/v2/acme/none/{path}")).await;
        let hidden = message(method, &format!("/v2/{PRIVATE}/{path}")).await;
        assert_eq!(absent.replace("acme/none", ""), hidden.replace(PRIVATE, ""));
        assert_eq!(absent.contains("must be created"), is_push, "{absent}");
        assert!(is_push || absent.contains("logged in"), "{absent}");
    }
}
