//! The permission matrix: every endpoint against every kind of caller, on a public and on a private repository, with a
//! password and with a token. What is expected is written down here anew, not read from the table that is evaluated.

use dtr_access::{NewAccessToken, Operation, RULES, Realm};
use dtr_catalog::records::TokenOrigin;
use dtr_types::Digest;

use crate::world::{Answer, PRIVATE, PUBLIC, Who, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Read,
    Write,
    Delete,
}

/// What a caller gets: let through, or refused with this status.
fn expected(who: Who, needs: Needs, repository: &str) -> Option<u16> {
    let public = repository == PUBLIC;
    let refused = if public { 403 } else { 404 };
    match (who, needs) {
        (Who::Inactive, _) => Some(401),
        (Who::Anonymous, Needs::Read) if public => None,
        (Who::Anonymous, _) => Some(401),
        (Who::Stranger | Who::Member, Needs::Read) if public => None,
        (Who::Stranger | Who::Member, _) => Some(refused),
        (Who::ReadOnly | Who::NamespaceReadOnly, Needs::Read) => None,
        (Who::ReadOnly | Who::NamespaceReadOnly, _) => Some(403),
        (
            Who::ReadWrite
            | Who::AdminLevel
            | Who::NamespaceReadWrite
            | Who::Additive
            | Who::Owner
            | Who::Admin,
            _,
        ) => None,
    }
}

/// Every endpoint of a repository, with what it needs. Digests and tags are of nothing that is there, so that nothing
/// changes while the table is walked: who is let through is told that it is not there.
fn endpoints(repository: &str) -> Vec<(&'static str, String, Needs)> {
    let none = Digest::of(b"none");
    let upload = format!("/v2/{repository}/blobs/uploads/11111111-2222-4333-8444-555555555555");
    let manifest = |reference: &str| format!("/v2/{repository}/manifests/{reference}");
    let by_digest = manifest(&none.to_string());
    let blob = format!("/v2/{repository}/blobs/{none}");
    let mut all = vec![
        ("PUT", manifest("none"), Needs::Write),
        ("PUT", by_digest.clone(), Needs::Write),
        ("DELETE", manifest("none"), Needs::Delete),
        ("DELETE", by_digest.clone(), Needs::Delete),
        ("DELETE", blob.clone(), Needs::Delete),
        ("POST", format!("/v2/{repository}/blobs/uploads/"), Needs::Write),
        ("POST", format!("/v2/{repository}/blobs/uploads/?digest={none}"), Needs::Write),
        ("POST", format!("/v2/{repository}/blobs/uploads/?mount={none}"), Needs::Write),
        ("PATCH", upload.clone(), Needs::Write),
        ("PUT", format!("{upload}?digest={none}"), Needs::Write),
        ("GET", upload.clone(), Needs::Write),
        ("DELETE", upload, Needs::Write),
    ];
    for method in ["GET", "HEAD"] {
        all.push((method, manifest("none"), Needs::Read));
        all.push((method, by_digest.clone(), Needs::Read));
        all.push((method, blob.clone(), Needs::Read));
        all.push((method, format!("/v2/{repository}/tags/list"), Needs::Read));
        all.push((method, format!("/v2/{repository}/referrers/{none}"), Needs::Read));
    }
    all
}

fn check(answer: &Answer, who: Who, needs: Needs, repository: &str, at: &str) {
    let status = answer.status.as_u16();
    let has_body = !answer.body.is_empty();
    match expected(who, needs, repository) {
        None => {
            assert!(![401, 403].contains(&status), "{who:?} {at}: {status}");
            if status == 404 && has_body {
                assert_ne!(answer.code(), "NAME_UNKNOWN", "{who:?} {at}");
            }
        }
        // Referrers of what one may not see look like those of what is not there.
        Some(404) if at.contains("/referrers/") => assert_eq!(status, 200, "{who:?} {at}"),
        Some(refused) => {
            assert_eq!(status, refused, "{who:?} {at}");
            if status == 401 {
                let challenge = answer.header("www-authenticate");
                assert!(
                    challenge.starts_with("Bearer realm=\"https://dtr.example.com/auth/token\"")
                );
            }
            if has_body {
                let code = answer.code();
                let told = match refused {
                    401 => "UNAUTHORIZED",
                    403 => "DENIED",
                    _ => "NAME_UNKNOWN",
                };
                assert_eq!(code, told, "{who:?} {at}");
            }
        }
    }
}

#[tokio::test]
async fn every_endpoint_for_every_kind_of_caller() {
    let world = World::new().await;
    let mut walked = 0;
    for repository in [PUBLIC, PRIVATE] {
        for (method, path, needs) in endpoints(repository) {
            for who in Who::ALL {
                let answer = world.call(method, &path).who(who).body("").send().await;
                check(&answer, who, needs, repository, &format!("{method} {path}"));
                walked += 1;
            }
        }
    }
    assert_eq!(walked, 2 * 22 * 12);
}

#[tokio::test]
async fn a_token_gives_what_the_password_gives() {
    let world = World::new().await;
    for who in Who::ALL {
        if who == Who::Inactive {
            continue;
        }
        let scopes = format!("scope=repository:{PUBLIC}:*&scope=repository:{PRIVATE}:*");
        let path = format!("/auth/token?service=dtr.example.com&{scopes}");
        let token = world.call("GET", &path).who(who).send().await.is(200).json();
        let token = token["token"].as_str().expect("a token").to_owned();
        for repository in [PUBLIC, PRIVATE] {
            for (method, path, needs) in endpoints(repository) {
                let answer = world.call(method, &path).bearer(&token).body("").send().await;
                check(&answer, who, needs, repository, &format!("{method} {path}"));
            }
        }
    }
}

#[tokio::test]
async fn absent_and_hidden_look_alike() {
    let world = World::new().await;
    world.image(PRIVATE, "v1").await;
    for (method, path, _) in endpoints(PRIVATE) {
        let other = path.replace(PRIVATE, "acme/missing");
        for who in [Who::Anonymous, Who::Stranger, Who::Member] {
            let hidden = world.call(method, &path).who(who).body("").send().await;
            let absent = world.call(method, &other).who(who).body("").send().await;
            assert_eq!(hidden.status, absent.status, "{who:?} {method} {path}");
            let text = String::from_utf8_lossy(&hidden.body).replace(PRIVATE, "acme/missing");
            assert_eq!(text, String::from_utf8_lossy(&absent.body), "{who:?} {method} {path}");
        }
    }
}

async fn access_token(world: &World, patterns: Option<&[&str]>, pull_only: bool) -> String {
    let name = Who::Owner.name().parse().expect("a name");
    let account = dtr_identity::Identity::account(&world.identity, &name).await;
    let new = NewAccessToken {
        creator_address: String::new(),
        backups_only: false,
        account: account.expect("read").expect("there").id,
        label: "test".to_owned(),
        expires_at: None,
        repositories: patterns.map(|all| all.iter().map(ToString::to_string).collect()),
        pull_only,
        password_changed_at: None,
        origin: TokenOrigin::User,
        creator_ua: String::new(),
    };
    let (_, token) = world.access.create_access_token(new, None).await.expect("made");
    token.expose().to_owned()
}

#[tokio::test]
async fn access_tokens_take_away_and_never_add() {
    let world = World::new().await;
    for repository in [PUBLIC, PRIVATE] {
        world.image(repository, "v1").await;
    }
    let get = |repository: &str| format!("/v2/{repository}/manifests/v1");
    let uploads = |repository: &str| format!("/v2/{repository}/blobs/uploads/");
    for (patterns, pull_only, rows) in [
        (None, false, [(PRIVATE, 200, 202), (PUBLIC, 200, 202)]),
        (None, true, [(PRIVATE, 200, 403), (PUBLIC, 200, 403)]),
        (Some(&[PRIVATE][..]), false, [(PRIVATE, 200, 202), (PUBLIC, 403, 403)]),
        (Some(&["acme/*"][..]), true, [(PRIVATE, 200, 403), (PUBLIC, 200, 403)]),
        (Some(&["other/*"][..]), false, [(PRIVATE, 403, 403), (PUBLIC, 403, 403)]),
        (Some(&[][..]), false, [(PRIVATE, 403, 403), (PUBLIC, 403, 403)]),
    ] {
        let token = access_token(&world, patterns, pull_only).await;
        let as_password = crate::world::basic("owner", &token);
        for (repository, pull, push) in rows {
            for header in [as_password.clone(), format!("Bearer {token}")] {
                let path = get(repository);
                world.call("GET", &path).header("authorization", &header).send().await.is(pull);
                let path = uploads(repository);
                let call = world.call("POST", &path).header("authorization", &header);
                call.body("").send().await.is(push);
            }
            // What /auth/token makes of it has the same limits.
            let path = format!("/auth/token?scope=repository:{repository}:*");
            let issued = world.call("GET", &path).header("authorization", &as_password).send();
            let issued = issued.await.is(200).json()["token"].as_str().expect("one").to_owned();
            world.call("GET", &get(repository)).bearer(&issued).send().await.is(pull);
            world.call("POST", &uploads(repository)).bearer(&issued).body("").send().await.is(push);
        }
        // A token is of its account, whatever name it is sent with.
        let other = crate::world::basic("admin", &token);
        world.call("GET", &get(PRIVATE)).header("authorization", &other).send().await.is(401);
    }
}

#[tokio::test]
async fn access_tokens_end() {
    let world = World::new().await;
    world.image(PRIVATE, "v1").await;
    let path = format!("/v2/{PRIVATE}/manifests/v1");
    let token = access_token(&world, None, false).await;
    let hash = Digest::of(token.as_bytes()).hex();
    let get = async || world.call("GET", &path).bearer(&token).send().await;
    get().await.is(200);
    world.access.update_access_token(&hash, None, Some(false), None).await.expect("changed");
    get().await.is(401);
    world.access.update_access_token(&hash, None, Some(true), None).await.expect("changed");
    get().await.is(200);
    world.access.delete_access_token(&hash, None).await.expect("deleted");
    get().await.is(401);
    let almost = format!("{}0", &token[..token.len() - 1]);
    world.call("GET", &path).bearer(&almost).send().await.is(401);
}

#[tokio::test]
async fn rights_are_looked_up_at_each_request() {
    let world = World::new().await;
    world.image(PRIVATE, "v1").await;
    let path = format!("/auth/token?scope=repository:{PRIVATE}:pull,push");
    let token = world.call("GET", &path).who(Who::ReadWrite).send().await.is(200).json();
    let token = token["token"].as_str().expect("a token").to_owned();
    let uploads = format!("/v2/{PRIVATE}/blobs/uploads/");
    world.call("POST", &uploads).bearer(&token).body("").send().await.is(202);
    for grant in world.catalog.repository_grants(&world.private.id).await.expect("read") {
        let (repository, team) = (&grant.repository, &grant.team);
        world.catalog.delete_repository_grant(repository, team, None).await.expect("taken away");
    }
    world.call("POST", &uploads).bearer(&token).body("").send().await.is(404);
    world.call("GET", &format!("/v2/{PRIVATE}/manifests/v1")).bearer(&token).send().await.is(404);
}

#[tokio::test]
async fn a_password_that_is_wrong_is_never_anonymous() {
    let world = World::new().await;
    world.image(PUBLIC, "v1").await;
    let path = format!("/v2/{PUBLIC}/manifests/v1");
    let wrong = crate::world::basic("owner", "wrong");
    let unknown = crate::world::basic("nobody", "wrong");
    for header in
        [&wrong, &unknown, "Basic x", "Basic", "Digest x", "Bearer", "Bearer a.b.c", "", "é"]
    {
        let answer = world.call("GET", &path).header("authorization", header).send().await.is(401);
        assert_eq!(answer.code(), "UNAUTHORIZED", "{header}");
    }
}

/// Each operation has one row, and the rows of this face are those that the walk above covers.
#[test]
fn the_table_is_whole() {
    for rule in RULES {
        assert_eq!(rule.operation.rule().label, rule.label);
        assert_eq!(RULES.iter().filter(|other| other.operation == rule.operation).count(), 1);
        assert!(rule.realm != Realm::System || rule.level.is_none(), "{}", rule.label);
    }
    use dtr_catalog::records::AccessLevel::{ReadOnly, ReadWrite};
    for (operation, level, anonymous) in [
        (Operation::ViewRepository, ReadOnly, true),
        (Operation::Pull, ReadOnly, true),
        (Operation::Push, ReadWrite, false),
        (Operation::DeleteTag, ReadWrite, false),
    ] {
        let rule = operation.rule();
        assert_eq!((rule.level, rule.anonymous_if_public), (Some(level), anonymous));
    }
}
