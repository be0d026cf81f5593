//! `/auth/token` and the challenges that lead to it.

use std::time::Duration;

use base64::Engine as _;
use serde_json::Value;

use crate::world::{Answer, PASSWORD, PRIVATE, PUBLIC, Who, World};

const TOKEN: &str = "/auth/token?service=dtr.example.com&client_id=docker";

fn token(answer: &Answer) -> String {
    let json = answer.json();
    assert_eq!(json["token"], json["access_token"]);
    assert!(json["expires_in"].as_u64().expect("a number") >= 60);
    assert!(json["issued_at"].as_str().expect("a time").ends_with('Z'));
    assert_eq!(answer.header("cache-control"), "no-store");
    json["token"].as_str().expect("a token").to_owned()
}

fn part(token: &str, number: usize) -> Value {
    let part = token.split('.').nth(number).expect("a part");
    let raw = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).expect("base64");
    serde_json::from_slice(&raw).expect("JSON")
}

async fn ask(world: &World, who: Who, scopes: &str) -> Answer {
    world.call("GET", &format!("{TOKEN}{scopes}")).who(who).send().await
}

async fn form(world: &World, fields: &str) -> Answer {
    let call = world.call("POST", "/auth/token");
    call.header("content-type", "application/x-www-form-urlencoded")
        .body(fields.to_owned())
        .send()
        .await
}

#[tokio::test]
async fn the_base_always_challenges() {
    let world = World::new().await;
    for path in ["/v2/", "/v2"] {
        let answer = world.call("GET", path).send().await.is(401);
        assert_eq!(answer.code(), "UNAUTHORIZED");
        let challenge =
            "Bearer realm=\"https://dtr.example.com/auth/token\",service=\"dtr.example.com\"";
        assert_eq!(answer.header("www-authenticate"), challenge);
        world.call("HEAD", path).send().await.is(401);
    }
    let anonymous = token(&ask(&world, Who::Anonymous, "").await.is(200));
    world.call("GET", "/v2/").bearer(&anonymous).send().await.is(200);
    for who in [Who::Stranger, Who::Admin] {
        world.call("GET", "/v2/").who(who).send().await.is(200);
        let token = token(&ask(&world, who, "").await.is(200));
        assert_eq!(world.call("GET", "/v2/").bearer(&token).send().await.is(200).body, "{}");
    }
    let wrong = world.call("GET", "/v2/").bearer("nonsense").send().await.is(401);
    assert!(wrong.header("www-authenticate").ends_with("error=\"invalid_token\""));
}

#[tokio::test]
async fn a_challenge_names_the_scope_that_is_missing() {
    let world = World::new().await;
    world.image(PUBLIC, "v1").await;
    let challenge = async |method: &str, path: &str| {
        let answer = world.call(method, path).body("").send().await.is(401);
        let text = answer.header("www-authenticate");
        text.split_once("scope=\"")
            .and_then(|(_, rest)| rest.split_once('"'))
            .expect("one")
            .0
            .to_owned()
    };
    let manifest = |repository: &str| format!("/v2/{repository}/manifests/v1");
    assert_eq!(challenge("GET", &manifest(PRIVATE)).await, format!("repository:{PRIVATE}:pull"));
    assert_eq!(challenge("PUT", &manifest(PUBLIC)).await, format!("repository:{PUBLIC}:pull,push"));
    assert_eq!(challenge("DELETE", &manifest(PUBLIC)).await, format!("repository:{PUBLIC}:delete"));
    assert_eq!(challenge("GET", "/v2/_catalog").await, "registry:catalog:*");
    // A token that was asked for too little: the client is told to ask for more.
    let scope = format!("&scope=repository:{PUBLIC}:pull");
    let pull = token(&ask(&world, Who::Owner, &scope).await.is(200));
    let path = format!("/v2/{PUBLIC}/blobs/uploads/");
    let answer = world.call("POST", &path).bearer(&pull).body("").send().await.is(401);
    let challenge = answer.header("www-authenticate");
    assert!(challenge.contains(&format!("scope=\"repository:{PUBLIC}:pull,push\"")));
    assert!(challenge.contains("error=\"insufficient_scope\""));
    // Who has no right to more is told so instead of being sent round in circles.
    let pull = token(&ask(&world, Who::ReadOnly, &scope).await.is(200));
    let answer = world.call("POST", &path).bearer(&pull).body("").send().await.is(403);
    assert_eq!(answer.code(), "DENIED");
    assert!(answer.message().contains("read-write"), "{}", answer.message());
}

#[tokio::test]
async fn a_token_holds_what_was_asked_and_may_be_had() {
    let world = World::new().await;
    let access = |token: &str| part(token, 1)["access"].clone();
    let granted = |name: &str, actions: &[&str]| serde_json::json!({ "type": "repository", "name": name, "actions": actions });
    let both = format!("&scope=repository:{PUBLIC}:push,pull&scope=repository:{PRIVATE}:pull");
    let one = format!("&scope=repository:{PUBLIC}:push,pull%20repository:{PRIVATE}:pull");
    let plus = format!("&scope=repository:{PUBLIC}:push,pull+repository:{PRIVATE}:pull");
    for scopes in [both, one, plus] {
        let of_owner = access(&token(&ask(&world, Who::Owner, &scopes).await.is(200)));
        let expected = [granted(PUBLIC, &["pull", "push"]), granted(PRIVATE, &["pull"])];
        assert_eq!(of_owner, serde_json::json!(expected));
        let of_stranger = access(&token(&ask(&world, Who::Stranger, &scopes).await.is(200)));
        assert_eq!(of_stranger, serde_json::json!([granted(PUBLIC, &["pull"])]));
        let of_nobody = access(&token(&ask(&world, Who::Anonymous, &scopes).await.is(200)));
        assert_eq!(of_nobody, serde_json::json!([granted(PUBLIC, &["pull"])]));
    }
    let all = format!("&scope=repository:{PRIVATE}:*");
    let of_owner = access(&token(&ask(&world, Who::Owner, &all).await.is(200)));
    assert_eq!(of_owner, serde_json::json!([granted(PRIVATE, &["pull", "push", "delete"])]));
    for nothing in [
        format!("&scope=repository:{PRIVATE}:pull"),
        "&scope=repository:acme/none:pull,push".to_owned(),
        "&scope=repository:A/B:pull".to_owned(),
        "&scope=repository::".to_owned(),
        "&scope=x".to_owned(),
        "&scope=".to_owned(),
        format!("&scope=repository:{PUBLIC}:fly"),
        String::new(),
    ] {
        let token = token(&ask(&world, Who::Stranger, &nothing).await.is(200));
        assert_eq!(access(&token), serde_json::json!([]), "{nothing}");
    }
    let claims = part(&token(&ask(&world, Who::Owner, "").await.is(200)), 1);
    assert_eq!(claims["sub"], "owner");
    let cluster = format!("dtr:{}", crate::world::cluster());
    assert_eq!(claims["aud"], serde_json::json!(["dtr.example.com", cluster]));
    assert_eq!(claims["iss"], cluster.as_str());
    // The catalog is a scope of its own, in the claims and in the answer.
    let catalog = ask(&world, Who::Owner, "&scope=registry:catalog:*").await.is(200);
    assert_eq!(catalog.json()["scope"], "registry:catalog:*");
    assert_eq!(access(&token(&catalog))[0]["type"], "registry");
    let many: String = (0..500).map(|n| format!("&scope=repository:acme/r{n}:pull")).collect();
    ask(&world, Who::Admin, &many).await.is(200);
}

#[tokio::test]
async fn wrong_credentials_get_no_token() {
    let world = World::new().await;
    for header in [
        crate::world::basic("owner", "wrong"),
        crate::world::basic("nobody", PASSWORD),
        crate::world::basic("inactive", PASSWORD),
        "Basic %".to_owned(),
    ] {
        let answer = world.call("GET", TOKEN).header("authorization", &header).send().await.is(401);
        assert_eq!(answer.code(), "UNAUTHORIZED");
        assert!(answer.header("www-authenticate").starts_with("Basic"));
    }
    form(&world, "grant_type=password&username=owner&password=wrong").await.is(401);
    form(&world, "grant_type=refresh_token&refresh_token=dtr_00").await.is(401);
    form(&world, "grant_type=refresh_token").await.is(401);
    form(&world, "grant_type=authorization_code&code=x").await.is(400);
    // Told in words about the protocol, not about what reads it.
    let json = world.call("POST", "/auth/token").body("{}").send().await.is(415);
    for refused in [form(&world, "nonsense").await.is(400), json] {
        assert_eq!(refused.code(), "UNSUPPORTED");
        let message = refused.message();
        assert!(message.starts_with("POST /auth/token takes a form"), "{message}");
    }
}

/// podman, skopeo and buildah ask for a mount with one field each, once docker has logged in for them.
#[tokio::test]
async fn a_form_may_repeat_its_scopes() {
    let world = World::new().await;
    let answer = ask(&world, Who::Owner, "&offline_token=true").await.is(200);
    let refresh = answer.json()["refresh_token"].as_str().expect("one").to_owned();
    let both = [format!("repository:{PUBLIC}:pull,push"), format!("repository:{PRIVATE}:pull")];
    let login = format!("grant_type=refresh_token&service=x&refresh_token={refresh}");
    let password = format!("grant_type=password&username=owner&password={PASSWORD}");
    let password_twice = format!("password=wrong&{password}");
    for start in [login, password, password_twice] {
        for scopes in [
            format!("scope={}&scope={}", both[0], both[1]),
            format!("scope={}%20{}", both[0], both[1]),
            format!("scope=&scope={}+&scope={}&scope=%20", both[0], both[1]),
        ] {
            let answer = form(&world, &format!("{start}&{scopes}")).await.is(200);
            assert_eq!(answer.json()["scope"], both.join(" "), "{scopes}");
            assert_eq!(part(&token(&answer), 1)["access"].as_array().expect("a list").len(), 2);
        }
    }
}

#[tokio::test]
async fn a_login_is_kept_with_a_refresh_token() {
    let world = World::new().await;
    world.image(PRIVATE, "v1").await;
    let answer = ask(&world, Who::Owner, "&offline_token=true&account=owner").await.is(200);
    let refresh = answer.json()["refresh_token"].as_str().expect("one").to_owned();
    let scope = format!("scope=repository:{PRIVATE}:pull");
    let fields = format!("grant_type=refresh_token&service=x&refresh_token={refresh}&{scope}");
    let refreshed = form(&world, &fields).await.is(200);
    assert_eq!(refreshed.json()["scope"], format!("repository:{PRIVATE}:pull"));
    let path = format!("/v2/{PRIVATE}/manifests/v1");
    world.call("GET", &path).bearer(&token(&refreshed)).send().await.is(200);
    // The OAuth form with a password, as newer clients log in.
    let fields = format!(
        "grant_type=password&username=owner&password={PASSWORD}&access_type=offline&{scope}"
    );
    let answer = form(&world, &fields).await.is(200);
    assert!(answer.json()["refresh_token"].is_string());
    world.call("GET", &path).bearer(&token(&answer)).send().await.is(200);
    // A short-lived token is not good for one that lasts, and nobody gets one for nothing.
    let bearer = token(&answer);
    world.call("GET", &format!("{TOKEN}&offline_token=true")).bearer(&bearer).send().await.is(401);
    let nobody = ask(&world, Who::Anonymous, "&offline_token=true").await.is(200);
    assert!(nobody.json()["refresh_token"].is_null());
    let without = ask(&world, Who::Owner, "").await.is(200);
    assert!(without.json()["refresh_token"].is_null());
    // Nor does a refresh token get one in turn, however it is sent: it ends some day.
    for header in [crate::world::basic("owner", &refresh), format!("Bearer {refresh}")] {
        let call = world.call("GET", &format!("{TOKEN}&offline_token=true"));
        let again = call.header("authorization", &header).send().await.is(200);
        assert!(again.json()["refresh_token"].is_null());
    }
    let fields =
        format!("grant_type=password&username=owner&password={refresh}&access_type=offline");
    assert!(form(&world, &fields).await.is(200).json()["refresh_token"].is_null());
    // Listed with the account's access tokens, as made by a login.
    let name = "owner".parse().expect("a name");
    let account = dtr_identity::Identity::account(&world.identity, &name).await;
    let account = account.expect("read").expect("there");
    let tokens = world.catalog.account_tokens(&account.id).await.expect("read");
    assert_eq!(tokens.len(), 2);
    assert!(tokens.iter().all(|t| t.generated_by == dtr_catalog::records::TokenOrigin::Auto));
    assert!(tokens.iter().any(|t| t.label.contains("docker")));
}

#[tokio::test]
async fn a_login_ends_with_its_password() {
    let world = World::new().await;
    let answer = ask(&world, Who::Owner, "&offline_token=true").await.is(200);
    let refresh = answer.json()["refresh_token"].as_str().expect("one").to_owned();
    let fields = format!("grant_type=refresh_token&service=x&refresh_token={refresh}");
    form(&world, &fields).await.is(200);
    world.clock.advance(Duration::from_secs(60));
    let (old, new) = (dtr_types::Secret::new(PASSWORD), dtr_types::Secret::new("another-password"));
    let owner = "owner".parse().expect("a name");
    world.identity.change_own_password(&owner, &old, new, None).await.expect("changed");
    form(&world, &fields).await.is(401);
}

#[tokio::test]
async fn tokens_end_and_their_keys_change() {
    let world = World::new().await;
    world.image(PRIVATE, "v1").await;
    let path = format!("/v2/{PRIVATE}/manifests/v1");
    let scope = format!("&scope=repository:{PRIVATE}:pull");
    let first = token(&ask(&world, Who::Owner, &scope).await.is(200));
    assert_eq!(part(&first, 0)["alg"], "ES256");
    world.call("GET", &path).bearer(&first).send().await.is(200);
    world.clock.advance(Duration::from_secs(14 * 60));
    world.call("GET", &path).bearer(&first).send().await.is(200);
    world.clock.advance(Duration::from_secs(120));
    let ended = world.call("GET", &path).bearer(&first).send().await.is(401);
    assert!(ended.header("www-authenticate").contains("error=\"invalid_token\""));
    // A month later another key signs; what the old one signed just before is still good.
    world.clock.advance(Duration::from_secs(30 * 24 * 3600 - 20 * 60));
    let before = token(&ask(&world, Who::Owner, &scope).await.is(200));
    assert_eq!(part(&before, 0)["kid"], part(&first, 0)["kid"]);
    world.clock.advance(Duration::from_secs(10 * 60));
    let after = token(&ask(&world, Who::Owner, &scope).await.is(200));
    assert_ne!(part(&after, 0)["kid"], part(&first, 0)["kid"]);
    for token in [&before, &after] {
        world.call("GET", &path).bearer(token).send().await.is(200);
    }
}

#[tokio::test]
async fn a_token_that_was_touched_is_none() {
    let world = World::new().await;
    world.image(PRIVATE, "v1").await;
    let path = format!("/v2/{PRIVATE}/manifests/v1");
    let good = token(&ask(&world, Who::Stranger, "").await.is(200));
    let parts: Vec<&str> = good.split('.').collect();
    let encode =
        |value: &Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    let mut claims = part(&good, 1);
    claims["sub"] = "owner".into();
    let other = token(&ask(&world, Who::Owner, "").await.is(200));
    let none = serde_json::json!({ "alg": "none", "typ": "JWT", "kid": part(&good, 0)["kid"] });
    let hmac = serde_json::json!({ "alg": "HS256", "typ": "JWT", "kid": part(&good, 0)["kid"] });
    let signature = other.split('.').nth(2).expect("a part");
    for bad in [
        format!("{}.{}.{}", parts[0], encode(&claims), parts[2]),
        format!("{}.{}.{signature}", parts[0], parts[1]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}.", encode(&none), encode(&claims)),
        format!("{}.{}.{}", encode(&hmac), encode(&claims), parts[2]),
        format!("{good}x"),
        "a.b.c".to_owned(),
        "..".to_owned(),
        format!("{}.{}.{}", "A".repeat(40_000), parts[1], parts[2]),
    ] {
        world.call("GET", &path).bearer(&bad).send().await.is(401);
    }
}

#[tokio::test]
async fn a_session_token_is_as_good_as_a_password() {
    use dtr_identity::Identity as _;
    let world = World::new().await;
    world.image(PRIVATE, "v1").await;
    let password = dtr_types::Secret::new(PASSWORD);
    let login = world.identity.login("owner", &password, None).await.expect("logged in");
    let path = format!("/v2/{PRIVATE}/manifests/v1");
    let session = login.token.expose().to_owned();
    world.call("GET", &path).bearer(&session).send().await.is(200);
    world.identity.logout(&login.token).await.expect("logged out");
    world.call("GET", &path).bearer(&session).send().await.is(401);
}

#[tokio::test]
async fn too_many_wrong_passwords_are_told_to_wait() {
    let world = World::new().await;
    let wrong = crate::world::basic("owner", "wrong-password");
    let mut last = 401;
    for _ in 0..200 {
        let answer = world.call("GET", "/v2/").header("authorization", &wrong).send().await;
        last = answer.status.as_u16();
        if last != 401 {
            assert_eq!(answer.code(), "TOOMANYREQUESTS");
            assert!(answer.header("retry-after").parse::<u64>().expect("seconds") > 0);
            break;
        }
    }
    assert_eq!(last, 429);
}
