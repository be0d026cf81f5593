//! The day of a compromise, and the events as an audit log.

use dtr_identity::Identity as _;
use dtr_types::{Secret, Timestamp};
use serde_json::{Value, json};

use crate::{
    people::{PASSWORD, PRIVATE, Who},
    world::World,
};

const PULL: &str = "/v2/acme/private/tags/list";

/// A session, an access token, and a token of `/auth/token` for each of them and the password.
async fn credentials(world: &World, who: Who) -> Vec<String> {
    let login = world.people.identity.login(who.name(), &Secret::new(PASSWORD), None).await;
    let session = login.expect("logged in").token.expose().to_owned();
    let new = json!({ "tokenLabel": "of old" });
    let made = world.ask(who, "POST", "/api/v0/api_tokens", Some(&new)).await.is(201).json();
    let token = made["token"].as_str().expect("a token").to_owned();
    let mut all = vec![format!("Bearer {session}"), format!("Bearer {token}")];
    let path = format!("/auth/token?scope=repository:{PRIVATE}:pull");
    let proofs = [who.authorization().expect("one"), all[0].clone(), all[1].clone()];
    for proof in proofs {
        let call = world.people.call("GET", &path).header("authorization", &proof);
        let issued = call.send().await.is(200).json();
        all.push(format!("Bearer {}", issued["token"].as_str().expect("a token")));
    }
    all
}

async fn good(world: &World, credentials: &[String]) -> Vec<bool> {
    // Also where it was never seen before, and where it is remembered: two replicas.
    let other = crate::people::World::beside(&world.people).await;
    let mut good = Vec::new();
    for value in credentials {
        let here = world.people.call("GET", PULL).header("authorization", value).send().await;
        let there = other.call("GET", PULL).header("authorization", value).send().await;
        assert_eq!(here.status, there.status);
        good.push(here.status == 200);
    }
    good
}

#[tokio::test]
async fn everything_of_one_or_of_all_ends() {
    let world = World::new().await;
    let reader = credentials(&world, Who::ReadOnly).await;
    let owner = credentials(&world, Who::Owner).await;
    assert_eq!(good(&world, &reader).await, [true; 5]);
    let of = json!({ "username": "reader" });
    let revoked = world.admin("POST", "/api/v0/revoke", Some(&of)).await.is(200).json();
    assert_eq!((&revoked["sessions"], &revoked["accessTokens"]), (&json!(1), &json!(1)));
    assert!(revoked["signingKeys"].as_u64() >= Some(1));
    assert_eq!(good(&world, &reader).await, [false; 5]);
    // Of others, what lasts goes on, and they get a token of `/auth/token` anew.
    assert_eq!(good(&world, &owner).await, [true, true, false, false, false]);
    let owner = credentials(&world, Who::Owner).await;
    assert_eq!(good(&world, &owner).await, [true; 5]);
    world.admin("POST", "/api/v0/revoke", Some(&json!({}))).await.is(400);
    let all = json!({ "everybody": true });
    world.admin("POST", "/api/v0/revoke", Some(&all)).await.is(200);
    assert_eq!(good(&world, &owner).await, [false; 5]);
    // Passwords stay, and what is made with them is good.
    let again = credentials(&world, Who::ReadOnly).await;
    assert_eq!(good(&world, &again).await, [true; 5]);
    let path = "/api/v0/events?objectType=credentials";
    let events = world.admin("GET", path, None).await.is(200).json();
    let names: Vec<&str> = events
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|e| e["object"]["name"].as_str())
        .collect();
    assert_eq!(names, ["reader", "everybody"]);
    world.ask(Who::Owner, "POST", "/api/v0/revoke", Some(&all)).await.is(403);
}

#[tokio::test]
async fn events_are_exported_from_a_time_on() {
    let world = World::new().await;
    let lines = async |query: &str| -> Vec<Value> {
        let path = format!("/api/v0/events/export?{query}");
        let answer = world.admin("GET", &path, None).await.is(200);
        assert_eq!(answer.header("content-type"), "application/x-ndjson");
        let text = String::from_utf8(answer.body.to_vec()).expect("text");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let clock = &world.people.clock;
    clock.advance(std::time::Duration::from_secs(60));
    let since: Timestamp = world.people.catalog.now();
    // More than a page of them.
    for n in 0..1_203 {
        let new = json!({ "tokenLabel": format!("token {n}") });
        world.ask(Who::Owner, "POST", "/api/v0/api_tokens", Some(&new)).await;
        if n == 600 {
            world
                .ask(Who::Owner, "DELETE", "/api/v0/api_tokens?generatedby=user", None)
                .await
                .is(204);
        }
        clock.advance(std::time::Duration::from_millis(1));
    }
    let all = lines("").await;
    let late = lines(&format!("publishedAfter={since}")).await;
    assert!(late.len() >= 1_203 && late.len() < all.len());
    assert!(late.windows(2).all(|pair| pair[0]["id"].as_str() < pair[1]["id"].as_str()));
    let made = late.iter().filter(|event| event["type"] == "CREATE").count();
    assert_eq!(made, 1_203);
    // One goes on where another ended.
    let last = late[700]["id"].as_str().expect("an id");
    assert_eq!(lines(&format!("after={last}")).await, late[701..]);
    let none = lines(&format!("publishedBefore={since}")).await;
    assert_eq!(none.len() + late.len(), all.len());
    world.admin("GET", "/api/v0/events/export?publishedAfter=yesterday", None).await.is(400);
    world.ask(Who::Owner, "GET", "/api/v0/events/export", None).await.is(403);
}
