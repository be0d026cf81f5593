//! The face as clients use it: accounts, teams, passwords, sessions, services; and what comes in from those who mean harm.

use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::world::{Caller, PASSWORD, World, basic};
use dtr_identity::service_token;
use dtr_types::{Clock as _, SeededRandom};
use http::{Method, StatusCode};

#[tokio::test]
async fn accounts_from_the_first_to_the_last_request() {
    let w = World::new().await;
    let admin = Caller::Admin;
    let body = r#"{"name":"zoe","fullName":"Zoë","password":"zoes-password"}"#;
    let made = w.send(admin, Method::POST, "/enzi/v0/accounts", body).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let made = made.json();
    assert_eq!(made["isActive"], true);
    assert_eq!(made["isOrg"], false);
    let again = w.send(admin, Method::POST, "/enzi/v0/accounts", body).await;
    assert_eq!((again.status, again.code().as_str()), (StatusCode::CONFLICT, "ACCOUNT_EXISTS"));
    for by in ["zoe", made["id"].as_str().expect("an id")] {
        let got = w.send(admin, Method::GET, &format!("/enzi/v0/accounts/{by}"), "").await;
        assert_eq!(got.json()["fullName"], "Zoë");
    }
    // The same under a UCP's older address.
    let got = w.send(admin, Method::GET, "/accounts/zoe", "").await;
    assert_eq!(got.json()["name"], "zoe");
    let listed = w.send(admin, Method::GET, "/enzi/v0/accounts?filter=users&limit=2", "").await;
    let listed = listed.json();
    assert_eq!(listed["accounts"].as_array().expect("a list").len(), 2);
    assert_eq!((&listed["usersCount"], &listed["orgsCount"]), (&6.into(), &1.into()));
    assert_eq!(listed["nextPageStart"], "bob");
    let next = w.send(admin, Method::GET, "/enzi/v0/accounts?start=zo&limit=9", "").await.json();
    assert_eq!(next["accounts"][0]["name"], "zoe");
    assert_eq!(next["nextPageStart"], "");
    // A user changes its name, but not what is for admins.
    let zoe = basic("zoe", "zoes-password");
    let patch =
        |body: &'static str| w.send_with(Some(&zoe), Method::PATCH, "/enzi/v0/accounts/zoe", body);
    assert_eq!(patch(r#"{"fullName":"Z."}"#).await.json()["fullName"], "Z.");
    for body in [r#"{"isAdmin":true}"#, r#"{"isActive":true}"#, r#"{"isAdmin":false}"#] {
        assert_eq!(patch(body).await.status, StatusCode::FORBIDDEN);
    }
    let off = w.send(admin, Method::PATCH, "/enzi/v0/accounts/zoe", r#"{"isActive":false}"#).await;
    assert_eq!(off.json()["isActive"], false);
    let refused = w.send_with(Some(&zoe), Method::GET, "/id/", "").await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    for _ in 0..2 {
        let gone = w.send(admin, Method::DELETE, "/enzi/v0/accounts/zoe", "").await;
        assert_eq!(gone.status, StatusCode::NO_CONTENT, "deleting twice is no error");
    }
    let gone = w.send(admin, Method::GET, "/enzi/v0/accounts/zoe", "").await;
    assert_eq!((gone.status, gone.code().as_str()), (StatusCode::NOT_FOUND, "NO_SUCH_ACCOUNT"));
    let last = w.send(admin, Method::DELETE, "/enzi/v0/accounts/admin", "").await;
    assert_eq!((last.status, last.code().as_str()), (StatusCode::CONFLICT, "NOT_ALLOWED"));
}

#[tokio::test]
async fn teams_and_members() {
    let w = World::new().await;
    let owner = Caller::Owner;
    let teams = "/enzi/v0/accounts/acme/teams";
    let made = w.send(owner, Method::POST, teams, r#"{"name":"ops","description":"d"}"#).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    assert_eq!(made.json()["orgID"], w.org.as_str());
    let put = w.send(owner, Method::PUT, &format!("{teams}/ops/members/bob"), "").await;
    assert_eq!(put.status, StatusCode::OK, "{}", put.text);
    let org = w.send(owner, Method::GET, "/enzi/v0/accounts/acme", "").await.json();
    assert_eq!((&org["membersCount"], &org["teamsCount"]), (&4.into(), &2.into()));
    let member = w.send(owner, Method::GET, "/enzi/v0/accounts/acme/members/bob", "").await.json();
    assert_eq!((&member["isAdmin"], &member["member"]["name"]), (&false.into(), &"bob".into()));
    let of_bob = w.send(owner, Method::GET, "/enzi/v0/accounts/acme/members/bob/teams", "").await;
    assert_eq!(of_bob.json()["teams"][0]["name"], "ops");
    let orgs =
        w.send(Caller::Stranger, Method::GET, "/enzi/v0/accounts/bob/organizations", "").await;
    assert_eq!(orgs.json()["memberOrgs"][0]["org"]["name"], "acme");
    // A team's manager adds members of the organization, but brings nobody in and makes nobody a manager.
    let tim = Caller::TeamManager;
    let dev = |who: &str| format!("{teams}/dev/members/{who}");
    assert_eq!(w.send(tim, Method::PUT, &dev("bob"), "").await.status, StatusCode::OK);
    assert_eq!(w.send(tim, Method::PUT, &dev("admin"), "").await.status, StatusCode::FORBIDDEN);
    let raise = w.send(tim, Method::PUT, &dev("bob"), r#"{"isAdmin":true}"#).await;
    assert_eq!(raise.status, StatusCode::FORBIDDEN);
    let other = w.send(tim, Method::PUT, &format!("{teams}/ops/members/ann"), "").await;
    assert_eq!(other.status, StatusCode::FORBIDDEN, "another team is none of its business");
    let out = w.send(owner, Method::DELETE, "/enzi/v0/accounts/acme/members/bob", "").await;
    assert_eq!(out.status, StatusCode::NO_CONTENT);
    let gone = w.send(owner, Method::GET, &dev("bob"), "").await;
    assert_eq!((gone.status, gone.code().as_str()), (StatusCode::NOT_FOUND, "NO_SUCH_MEMBER"));
    let patched = w.send(owner, Method::PATCH, &dev("bob"), r#"{"isAdmin":true}"#).await;
    assert_eq!(patched.status, StatusCode::NOT_FOUND);
    // An owner cannot make itself more than that.
    let raise = w.send(owner, Method::PATCH, "/enzi/v0/accounts/olga", r#"{"isAdmin":true}"#).await;
    assert_eq!(raise.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn sessions_and_passwords() {
    let w = World::new().await;
    let body = format!(r#"{{"username":"ann","password":"{PASSWORD}"}}"#);
    for path in ["/id/login", "/enzi/v0/id/login"] {
        let login = w.send(Caller::Anonymous, Method::POST, path, &body).await;
        assert_eq!(login.status, StatusCode::OK, "{}", login.text);
        assert_eq!(login.headers["cache-control"], "no-store");
        let bearer = format!("Bearer {}", login.json()["sessionToken"].as_str().expect("a token"));
        let who = w.send_with(Some(&bearer), Method::GET, "/id/", "").await;
        assert_eq!(who.json()["name"], "ann");
        let out = w.send_with(Some(&bearer), Method::POST, "/id/logout", "").await;
        assert_eq!(out.status, StatusCode::NO_CONTENT);
        let who = w.send_with(Some(&bearer), Method::GET, "/id/", "").await;
        assert_eq!(who.status, StatusCode::UNAUTHORIZED);
    }
    let login = w.send(Caller::Anonymous, Method::POST, "/auth/login", &body).await;
    let bearer = format!("Bearer {}", login.json()["auth_token"].as_str().expect("a token"));
    let change = "/enzi/v0/accounts/ann/changePassword";
    let wrong = r#"{"oldPassword":"not-this-one","newPassword":"another-one"}"#;
    let refused = w.send_with(Some(&bearer), Method::POST, change, wrong).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    w.clock.advance(Duration::from_millis(2));
    let right = format!(r#"{{"oldPassword":"{PASSWORD}","newPassword":"another-one"}}"#);
    let done = w.send_with(Some(&bearer), Method::POST, change, &right).await;
    assert_eq!(done.status, StatusCode::OK, "{}", done.text);
    let over = w.send_with(Some(&bearer), Method::GET, "/id/", "").await;
    assert_eq!(over.status, StatusCode::UNAUTHORIZED, "a new password ends sessions");
    let forced =
        w.send(Caller::Admin, Method::POST, change, r#"{"newPassword":"forced-one"}"#).await;
    assert_eq!(forced.status, StatusCode::OK, "admins need no old password: {}", forced.text);
    let who = w.send_with(Some(&basic("ann", "forced-one")), Method::GET, "/id/", "").await;
    assert_eq!(who.status, StatusCode::OK);
    // An administrator's own password takes the old one: a session that was stolen is not to become the account.
    let own = change.replace("/ann/", "/admin/");
    let stolen = w.send(Caller::Admin, Method::POST, &own, r#"{"newPassword":"stolen-one"}"#).await;
    assert_eq!(stolen.status, StatusCode::UNAUTHORIZED, "{}", stolen.text);
    let body =
        format!(r#"{{"oldPassword":"{PASSWORD}","newPassword":"admins-next","endTokens":true}}"#);
    let own = w.send(Caller::Admin, Method::POST, &own, &body).await;
    assert_eq!(own.status, StatusCode::OK, "{}", own.text);
    // Names are in lower case by rule: who types another, or a blank at its end, means the same.
    for name in ["Ann", "ANN", "ann "] {
        let who = w.send_with(Some(&basic(name, "forced-one")), Method::GET, "/id/", "").await;
        assert_eq!(who.status, StatusCode::OK, "{name:?}");
        let form = format!(r#"{{"username":"{name}","password":"forced-one"}}"#);
        let login = w.send_with(None, Method::POST, "/id/login", &form).await;
        assert_eq!(login.status, StatusCode::OK, "{name:?}: {}", login.text);
    }
    // Guessing ends in 429 with a time to wait.
    for _ in 0..10 {
        w.send_with(Some(&basic("ann", "guess")), Method::GET, "/id/", "").await;
    }
    let slow = w.send_with(Some(&basic("ann", "guess")), Method::GET, "/id/", "").await;
    assert_eq!(slow.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(slow.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn service_tokens_are_short_lived_and_bound() {
    let w = World::new().await;
    let get = |bearer: String| {
        let w = &w;
        async move { w.send_with(Some(&bearer), Method::GET, "/enzi/v0/accounts", "").await.status }
    };
    let good = w.service_bearer(&w.privileged);
    assert_eq!(get(good.clone()).await, StatusCode::OK);
    assert_eq!(get(good.clone()).await, StatusCode::UNAUTHORIZED, "each is good once");
    let stranger = dtr_transport::pki::new_es256_key().expect("a key");
    let random = SeededRandom::new(3);
    let forged = service_token::sign(&w.privileged, &stranger.private, w.clock.now(), &random);
    let forged = format!("Bearer {}", forged.expect("signed").expose());
    assert_eq!(get(forged).await, StatusCode::UNAUTHORIZED);
    let (head, signature) = good.rsplit_once('.').expect("a token");
    assert_eq!(get(format!("{head}.")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(get(format!("{head}.{}", &signature[..20])).await, StatusCode::UNAUTHORIZED);
    // The algorithm is ours to choose, not the token's.
    let payload = head.split('.').nth(1).expect("claims").to_owned();
    let none = format!("Bearer eyJhbGciOiJub25lIn0.{payload}.");
    assert_eq!(get(none).await, StatusCode::UNAUTHORIZED);
    // Clocks may be a minute apart, and no more.
    let (early, late) = (w.service_bearer(&w.privileged), w.service_bearer(&w.privileged));
    w.clock.advance(Duration::from_secs(175));
    assert_eq!(get(early).await, StatusCode::OK);
    w.clock.advance(Duration::from_secs(10));
    assert_eq!(get(late).await, StatusCode::UNAUTHORIZED, "it is over");
    assert_eq!(get(w.service_bearer(&w.privileged)).await, StatusCode::OK);
    // A service changes its replicas, but does not make itself privileged.
    let own = w.service_bearer(&w.unprivileged);
    let path = format!("/enzi/v0/services/{}", w.unprivileged);
    let replicas = r#"{"replicas":[{"id":"a1640e1c15b6","address":"https://10.0.0.1:443"}]}"#;
    let done = w.send_with(Some(&own), Method::PATCH, &path, replicas).await;
    assert_eq!(done.json()["replicas"][0]["id"], "a1640e1c15b6", "{}", done.text);
    let own = w.service_bearer(&w.unprivileged);
    let raise = w.send_with(Some(&own), Method::PATCH, &path, r#"{"privileged":true}"#).await;
    assert_eq!(raise.status, StatusCode::FORBIDDEN);
    let listed = w.send(Caller::Admin, Method::GET, "/enzi/v0/services", "").await.json();
    assert_eq!(listed["services"].as_array().expect("a list").len(), 2);
    // Forgotten, it is a stranger at once.
    let gone = w.send(Caller::Admin, Method::DELETE, &path, "").await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    let own = w.service_bearer(&w.unprivileged);
    let refused = w.send_with(Some(&own), Method::GET, &path, "").await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn hostile_requests_get_an_answer() {
    let w = World::new().await;
    let admin = w.authorization(Caller::Admin).expect("a header");
    let deep = "[".repeat(100_000);
    let long = format!(r#"{{"name":"{}"}}"#, "a".repeat(600 << 10));
    let long_name = format!(r#"{{"name":"{}"}}"#, "a".repeat(200));
    let bodies = [
        "",
        "null",
        "[]",
        "{",
        "\"",
        "{\"name\":7}",
        r#"{"name":"../etc"}"#,
        r#"{"name":"A"}"#,
        r#"{"name":"a\u0000b"}"#,
        r#"{"name":"ok","password":"short"}"#,
        &deep,
        &long,
        &long_name,
        r#"{"name":"ok","isOrg":true,"isAdmin":true}"#,
    ];
    for body in bodies {
        let answer = w.send_with(Some(&admin), Method::POST, "/enzi/v0/accounts", body).await;
        assert!(answer.status.is_client_error(), "{} for {:.60}", answer.status, body);
        assert!(!answer.code().is_empty());
    }
    let paths = [
        "/enzi/v0/accounts/%00",
        "/enzi/v0/accounts/%ff",
        "/enzi/v0/accounts/..%2f..%2fx",
        "/enzi/v0/accounts/acme/teams/%2e%2e",
        "/enzi/v0/accounts/acme/members/%20",
        "/enzi/v0/services/x",
        "/enzi/v0/accounts?limit=-1",
        "/enzi/v0/accounts?limit=x",
        "/enzi/v0/accounts?filter=x",
        "/enzi/v0/accounts/acme/teams?limit=99999999999999999999",
    ];
    for path in paths {
        let answer = w.send_with(Some(&admin), Method::GET, path, "").await;
        assert!(answer.status.is_client_error(), "{} for {path}", answer.status);
    }
    let far = format!("/enzi/v0/accounts?start={}", "z".repeat(5_000));
    assert_eq!(w.send_with(Some(&admin), Method::GET, &far, "").await.status, StatusCode::OK);
    for header in [
        "",
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic YQ==",
        "Bearer ",
        "Bearer a.b.c",
        "Digest x",
        "Bearer ....",
        &format!("Basic {}", "A".repeat(10_000)),
        "Basic //8=",
    ] {
        let answer = w.send_with(Some(header), Method::GET, "/id/", "").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "for {header:.40}");
    }
    let wrong_method = w.send_with(Some(&admin), Method::PUT, "/enzi/v0/accounts", "").await;
    assert_eq!(wrong_method.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("unpoisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn no_password_is_logged_or_sent_back() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!("the log is read");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let w = World::new().await;
            let secret = "hunter2-hunter2";
            let right = format!(r#"{{"username":"admin","password":"{PASSWORD}"}}"#);
            let wrong = format!(r#"{{"username":"admin","password":"{secret}"}}"#);
            let create = format!(r#"{{"name":"zoe","password":"{secret}"}}"#);
            let change = format!(r#"{{"newPassword":"{secret}"}}"#);
            let posts = [
                ("/id/login", right.as_str()),
                ("/id/login", &wrong),
                ("/enzi/v0/accounts", &create),
                ("/enzi/v0/accounts", &create),
                ("/enzi/v0/accounts/zoe/changePassword", &change),
            ];
            for (path, body) in posts {
                let answer = w.send(Caller::Admin, Method::POST, path, body).await;
                assert!(!answer.text.contains(secret) && !answer.text.contains(PASSWORD));
                assert!(!answer.text.contains("argon2"));
            }
        });
    });
    let text = String::from_utf8(log.0.lock().expect("unpoisoned").clone()).expect("UTF-8");
    assert!(text.contains("the log is read"));
    for secret in ["hunter2", PASSWORD, "argon2id"] {
        assert!(!text.contains(secret), "{secret} is in the log");
    }
}
