//! The permission matrix: every route of the table against every kind of caller, on a public and on a private repository.
//! A route that is not spoken of here fails. What is expected is written down anew, not read from the table that is
//! evaluated.

use std::collections::BTreeSet;

use dtr_types::Digest;
use serde_json::{Value, json};

use crate::{
    people::{PRIVATE, PUBLIC, Who, basic},
    world::World,
};

/// Whom a route serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    /// Everybody; what is not readable is left out of the answer.
    Nothing,
    /// A login.
    Login,
    /// To see the repository.
    View,
    /// To see it, with a login.
    Events,
    /// To delete tags.
    Write,
    /// The level admin on the repository.
    Manage,
    /// To own the namespace: admin on it would do, but nobody here has that.
    Namespace,
    /// To be in the organization.
    Member,
    /// To be "reader", or an administrator.
    Reader,
    /// To be in the team "readers", to own the organization, or to be an administrator.
    ReadersTeam,
    /// To be an administrator.
    Admin,
}

/// Let through (`None`), or refused with this status.
fn expected(needs: Needs, who: Who, public: bool) -> Option<u16> {
    use Who::{
        Additive, Admin, AdminLevel, Anonymous, Inactive, Member, NamespaceReadOnly,
        NamespaceReadWrite, Owner, ReadOnly, ReadWrite, Stranger,
    };
    if who == Inactive {
        return Some(401);
    }
    if needs == Needs::Nothing || (needs == Needs::View && public) {
        return None;
    }
    if who == Anonymous {
        return Some(401);
    }
    let sees = public || !matches!(who, Stranger | Member);
    let let_in = match needs {
        Needs::Nothing | Needs::Login => true,
        Needs::View | Needs::Events => sees,
        Needs::Write => {
            matches!(who, ReadWrite | AdminLevel | NamespaceReadWrite | Additive | Owner | Admin)
        }
        Needs::Manage => matches!(who, AdminLevel | Owner | Admin),
        Needs::Namespace => matches!(who, Owner | Admin),
        // Whoever is in a team is in its organization.
        Needs::Member => who != Stranger,
        Needs::Reader => matches!(who, ReadOnly | Admin),
        Needs::ReadersTeam => matches!(who, ReadOnly | Additive | Owner | Admin),
        Needs::Admin => who == Admin,
    };
    let of_repository = matches!(needs, Needs::View | Needs::Events | Needs::Write | Needs::Manage);
    let looks_absent =
        (of_repository && !sees) || matches!(needs, Needs::Reader | Needs::ReadersTeam);
    debug_assert!(matches!(who, NamespaceReadOnly) || sees || !let_in || !of_repository);
    (!let_in).then_some(if looks_absent { 404 } else { 403 })
}

/// One request to a route.
struct Request {
    needs: Needs,
    path: String,
    body: Option<Value>,
    /// What it does to who is let in cannot be done twice: each caller gets a world of its own.
    destroys: bool,
}

fn request(needs: Needs, path: &str) -> Request {
    Request { needs, path: path.to_owned(), body: None, destroys: false }
}

/// What to ask of a route. Tags, digests and teams are of nothing that is there, so that nothing changes.
fn request_of(route: &str, repository: &str) -> Option<Request> {
    let none = Digest::of(b"none");
    let (method, template) = route.split_once(' ')?;
    let path = template
        .replace("{namespace}/{reponame}", repository)
        .replace("{namespace}", "acme")
        .replace("{orgname}", "acme")
        .replace("{username}", "reader")
        .replace("{tag}", "none")
        .replace("{reference}", &none.to_string())
        .replace("{hashedtoken}", &none.hex())
        .replace("{id}", "none");
    let of_team = path.replace("{teamname}", "nobody");
    let plain = |needs| Some(request(needs, &path));
    let with = |needs, body| Some(Request { body: Some(body), ..request(needs, &path) });
    let short = template.strip_prefix("/api/v0/")?;
    match (method, short) {
        ("GET", "repositories" | "repositories/{namespace}") => plain(Needs::Nothing),
        ("POST", "repositories/{namespace}") => {
            // A name that cannot be: who may make one is told so.
            with(Needs::Namespace, json!({ "name": "UPPER" }))
        }
        ("GET", "repositories/{namespace}/{reponame}") => plain(Needs::View),
        ("PATCH", "repositories/{namespace}/{reponame}") => {
            with(Needs::Manage, json!({ "shortDescription": "new" }))
        }
        ("DELETE", "repositories/{namespace}/{reponame}") => {
            Some(Request { destroys: true, ..request(Needs::Manage, &path) })
        }
        ("GET", "repositories/{namespace}/{reponame}/tags") => plain(Needs::View),
        ("GET", "repositories/{namespace}/{reponame}/tags/{tag}") => plain(Needs::View),
        ("DELETE", "repositories/{namespace}/{reponame}/tags/{tag}") => plain(Needs::Write),
        ("GET", "repositories/{namespace}/{reponame}/manifests") => plain(Needs::View),
        ("DELETE", "repositories/{namespace}/{reponame}/manifests/{reference}") => {
            plain(Needs::Write)
        }
        ("GET", "repositories/{namespace}/{reponame}/events") => plain(Needs::Events),
        ("GET", "repositories/{namespace}/{reponame}/teamAccess") => plain(Needs::Manage),
        ("PUT", "repositories/{namespace}/{reponame}/teamAccess/{teamname}") => Some(Request {
            body: Some(json!({ "accessLevel": "read-only" })),
            ..request(Needs::Manage, &of_team)
        }),
        ("DELETE", "repositories/{namespace}/{reponame}/teamAccess/{teamname}") => {
            Some(request(Needs::Manage, &of_team))
        }
        ("GET", "repositoryNamespaces/{namespace}/teamAccess") => plain(Needs::Namespace),
        ("GET", "repositoryNamespaces/{namespace}/teamAccess/{teamname}") => {
            Some(request(Needs::Member, &of_team))
        }
        ("PUT", "repositoryNamespaces/{namespace}/teamAccess/{teamname}") => Some(Request {
            body: Some(json!({ "accessLevel": "read-only" })),
            ..request(Needs::Namespace, &of_team)
        }),
        ("DELETE", "repositoryNamespaces/{namespace}/teamAccess/{teamname}") => {
            Some(request(Needs::Namespace, &of_team))
        }
        ("GET", "accounts/{orgname}/teams/{teamname}/repositoryAccess") => {
            Some(request(Needs::ReadersTeam, &path.replace("{teamname}", "readers")))
        }
        ("GET", "accounts/{username}/repositoryAccess/{namespace}/{reponame}") => {
            plain(Needs::Reader)
        }
        ("DELETE", "accounts/{namespace}/repositories") => {
            Some(Request { destroys: true, ..request(Needs::Namespace, &path) })
        }
        ("DELETE", "accounts/{namespace}") => {
            Some(Request { destroys: true, ..request(Needs::Admin, &path) })
        }
        ("GET", "api_tokens") => plain(Needs::Login),
        ("POST", "api_tokens") => with(Needs::Login, json!({ "tokenLabel": "" })),
        ("DELETE", "api_tokens") => plain(Needs::Login),
        // Of nobody: let in is who is told so.
        ("GET" | "DELETE", "api_tokens/{hashedtoken}") => plain(Needs::Login),
        ("PATCH", "api_tokens/{hashedtoken}") => with(Needs::Login, json!({ "isActive": true })),
        ("GET", "index/autocomplete" | "index/dockersearch") => {
            let query = if short.ends_with("search") { "q" } else { "query" };
            Some(request(Needs::Login, &format!("{path}?{query}=acme")))
        }
        ("GET", "meta/features") => plain(Needs::Login),
        ("GET", "events" | "meta/settings" | "meta/cluster_status" | "meta/alerts" | "backups") => {
            plain(Needs::Admin)
        }
        ("GET", "backups/{id}/report") => plain(Needs::Admin),
        ("POST", "meta/settings") => with(Needs::Admin, json!({})),
        ("PUT", "meta/certificate") => {
            with(Needs::Admin, json!({ "webTLSCert": "x", "webTLSKey": "x" }))
        }
        ("GET", "events/export") => plain(Needs::Admin),
        // Of nobody: let in is who is told so.
        ("POST", "revoke") => with(Needs::Admin, json!({ "username": "nobody" })),
        ("GET", "meta/registration") => plain(Needs::Admin),
        ("PUT", "meta/registration") => with(
            Needs::Admin,
            json!({ "url": "https://ucp", "service": "6f1c1c8e-5d0b-4f0e-8a51-0a3d6b8f2c11" }),
        ),
        ("POST", "gc" | "backups") => plain(Needs::Admin),
        ("POST", "backups/{id}/confirmation") => {
            with(Needs::Admin, json!({ "sha256": "0".repeat(64) }))
        }
        // Of a registry that has one replica: let in is who is told so.
        ("POST", "cluster/replicas") => with(
            Needs::Admin,
            json!({
                "replicaId": "000000000000", "host": "a", "clientPort": 1, "peerPort": 2, "publicKey": "", "dataFormat": 1
            }),
        ),
        ("GET", "cluster/restart") | ("POST", "cluster/upgrade") => plain(Needs::Admin),
        ("POST", "cluster/restart") => with(Needs::Admin, json!({ "replicas": [] })),
        ("DELETE", "cluster/replicas/{replicaid}") => plain(Needs::Admin),
        _ => None,
    }
}

/// Every route, as `METHOD /path`.
pub(crate) fn routes() -> Vec<String> {
    let document = serde_json::to_value(dtr_api::openapi()).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let mut routes = Vec::new();
    for (path, methods) in paths {
        for method in methods.as_object().expect("methods").keys() {
            if ["get", "put", "post", "delete", "patch", "head"].contains(&method.as_str()) {
                routes.push(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    routes
}

fn check(answer: &crate::people::Answer, asked: &Request, who: Who, public: bool, route: &str) {
    let status = answer.status.as_u16();
    let at = format!("{who:?} {route} ({}): {status}", if public { "public" } else { "private" });
    match expected(asked.needs, who, public) {
        None => {
            assert!(status != 401 && status != 403 && status < 500, "{at} should be let in");
            if status == 404 {
                let code = answer.json()["errors"][0]["code"].as_str().expect("a code").to_owned();
                assert_ne!(code, "NO_SUCH_REPOSITORY", "{at}: it is there");
            }
        }
        Some(refused) => {
            assert_eq!(status, refused, "{at}");
            let error = &answer.json()["errors"][0];
            assert!(!error["message"].as_str().expect("a message").is_empty(), "{at}");
            if refused == 401 {
                assert!(!answer.header("www-authenticate").is_empty(), "{at}");
            }
        }
    }
}

#[tokio::test]
async fn every_route_for_every_kind_of_caller() {
    let world = World::new().await;
    let mut spoken_of = BTreeSet::new();
    for route in routes() {
        let method = route.split(' ').next().expect("a method");
        for repository in [PUBLIC, PRIVATE] {
            let asked = request_of(&route, repository)
                .unwrap_or_else(|| panic!("{route}: nobody says who may do this"));
            for who in Who::ALL {
                let own;
                let here = if asked.destroys && expected(asked.needs, who, false).is_none() {
                    own = World::new().await;
                    &own
                } else {
                    &world
                };
                let answer = here.ask(who, method, &asked.path, asked.body.as_ref()).await;
                check(&answer, &asked, who, repository == PUBLIC, &route);
            }
        }
        spoken_of.insert(route);
    }
    assert!(spoken_of.len() >= 35, "{} routes are there", spoken_of.len());
}

/// A bearer token of the registry, and an access token in place of the password, give what the password gives.
#[tokio::test]
async fn an_access_token_gives_what_the_password_gives() {
    let world = World::new().await;
    for who in Who::ALL {
        if matches!(who, Who::Anonymous | Who::Inactive) {
            continue;
        }
        let new = json!({ "tokenLabel": "all of it" });
        let made = world.ask(who, "POST", "/api/v0/api_tokens", Some(&new)).await.is(201).json();
        let token = made["token"].as_str().expect("a token").to_owned();
        for route in routes() {
            let asked = request_of(&route, PRIVATE).expect("spoken of");
            if asked.destroys || route.contains("api_tokens") {
                continue;
            }
            let method = route.split(' ').next().expect("a method");
            for header in [basic(who.name(), &token), format!("Bearer {token}")] {
                let call = world.people.call(method, &asked.path);
                let call = call.header("authorization", &header);
                let answer = match &asked.body {
                    None => call.send().await,
                    Some(body) => {
                        let call = call.header("content-type", "application/json");
                        call.body(body.to_string()).send().await
                    }
                };
                check(&answer, &asked, who, false, &route);
            }
        }
    }
}

/// One that can only pull reads what its owner reads and changes nothing, not even when the owner is an administrator.
#[tokio::test]
async fn a_limited_token_never_changes_anything() {
    let world = World::new().await;
    let new = json!({ "tokenLabel": "pull", "pullOnly": true });
    let made = world.admin("POST", "/api/v0/api_tokens", Some(&new)).await.is(201).json();
    let token = basic("admin", made["token"].as_str().expect("a token"));
    // What `/auth/token` makes of it can do no more.
    let scope = format!("/auth/token?scope=repository:{PRIVATE}:*&scope=registry:catalog:*");
    let issued = world.people.call("GET", &scope).header("authorization", &token).send().await;
    let issued = format!("Bearer {}", issued.is(200).json()["token"].as_str().expect("a token"));
    for (route, token) in routes().iter().flat_map(|route| [(route, &token), (route, &issued)]) {
        let asked = request_of(route, PRIVATE).expect("spoken of");
        let method = route.split(' ').next().expect("a method");
        let call = world.people.call(method, &asked.path).header("authorization", token);
        let answer = match &asked.body {
            None => call.send().await,
            Some(body) => {
                call.header("content-type", "application/json").body(body.to_string()).send().await
            }
        };
        let status = answer.status.as_u16();
        if method != "GET" || asked.needs == Needs::Admin {
            assert!(
                matches!(status, 403 | 404),
                "{route}: {status} with a token that can only pull"
            );
        }
        assert!(status < 500, "{route}: {status}");
    }
    for name in [PUBLIC, PRIVATE] {
        let path = format!("/api/v0/repositories/{name}");
        world.admin("GET", &path, None).await.is(200);
    }
}

/// What an administrator's token is limited to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// An access token that can only pull.
    Pull,
    /// An access token for one repository.
    Repository,
    /// An access token that can only take backups.
    Backups,
    /// A token of `/auth/token` for pulls of one repository.
    Scope,
    /// One without a scope.
    NoScope,
    /// One for the catalog.
    Catalog,
}

impl Limit {
    const ALL: [Self; 6] =
        [Self::Pull, Self::Repository, Self::Backups, Self::Scope, Self::NoScope, Self::Catalog];

    /// The `Authorization` header.
    async fn token(self, world: &World) -> String {
        let more = match self {
            Self::Pull => json!({ "pullOnly": true }),
            Self::Repository => json!({ "repositories": [PUBLIC] }),
            Self::Backups => json!({ "backupsOnly": true }),
            Self::Scope | Self::NoScope | Self::Catalog => {
                let scope = match self {
                    Self::Scope => format!("repository:{PUBLIC}:pull"),
                    Self::Catalog => "registry:catalog:*".to_owned(),
                    _ => String::new(),
                };
                let path = format!("/auth/token?scope={scope}");
                let issued = world.people.call("GET", &path).who(Who::Admin).send().await;
                let issued = issued.is(200).json();
                return format!("Bearer {}", issued["token"].as_str().expect("a token"));
            }
        };
        let mut new = json!({ "tokenLabel": "limited" });
        new.as_object_mut().expect("an object").extend(more.as_object().expect("one").clone());
        let made = world.admin("POST", "/api/v0/api_tokens", Some(&new)).await.is(201).json();
        basic("admin", made["token"].as_str().expect("a token"))
    }

    /// Whether it opens a route, where that is about a repository about [`PRIVATE`].
    fn opens(self, route: &str, needs: Needs) -> bool {
        let (method, path) = route.split_once(" /api/v0/").expect("a route");
        let lists = matches!(
            path,
            "repositories"
                | "repositories/{namespace}"
                | "index/autocomplete"
                | "index/dockersearch"
        );
        if (method, path) == ("GET", "meta/features") {
            return true;
        }
        match self {
            Self::Pull => {
                let sees = matches!(needs, Needs::View | Needs::Events);
                method == "GET" && (lists || sees)
            }
            Self::Repository | Self::Catalog => method == "GET" && lists,
            Self::Backups => matches!(
                (method, path),
                ("GET" | "POST", "backups")
                    | ("GET", "backups/{id}/report" | "meta/cluster_status" | "meta/alerts")
                    | ("GET", "cluster/restart")
            ),
            Self::Scope | Self::NoScope => false,
        }
    }
}

/// Every route with tokens that are limited: each opens what it is for, and no list shows what it is not for.
#[tokio::test]
async fn a_limited_token_shows_nothing_beyond() {
    let world = World::new().await;
    for limit in Limit::ALL {
        let token = limit.token(&world).await;
        for route in routes() {
            let asked = request_of(&route, PRIVATE).expect("spoken of");
            let method = route.split(' ').next().expect("a method");
            let call = world.people.call(method, &asked.path).header("authorization", &token);
            let answer = match &asked.body {
                None => call.send().await,
                Some(body) => {
                    let call = call.header("content-type", "application/json");
                    call.body(body.to_string()).send().await
                }
            };
            let status = answer.status.as_u16();
            let at = format!("{limit:?} {route}: {status}");
            if !limit.opens(&route, asked.needs) {
                assert!(matches!(status, 403 | 404), "{at}");
                continue;
            }
            assert!(!matches!(status, 401 | 403) && status < 500, "{at}");
            let text = String::from_utf8_lossy(&answer.body);
            if matches!(limit, Limit::Repository | Limit::Catalog) {
                assert!(!text.contains(PRIVATE), "{at}: {text}");
            }
            // An archive has everything.
            if limit != Limit::Backups {
                assert!(!text.contains("isOrg") && !text.contains("hashedToken"), "{at}: {text}");
            }
        }
    }
    // Backups are an administrator's: a token of another account cannot be for them.
    let new = json!({ "tokenLabel": "limited", "backupsOnly": true });
    world.ask(Who::Owner, "POST", "/api/v0/api_tokens", Some(&new)).await.is(400);
}

/// A credential that lasts is made by a person: with an access token there is no other to be had, however much it may do.
#[tokio::test]
async fn an_access_token_makes_no_other() {
    let world = World::new().await;
    let new = json!({ "tokenLabel": "all of it" });
    let made = world.admin("POST", "/api/v0/api_tokens", Some(&new)).await.is(201).json();
    let token = made["token"].as_str().expect("a token").to_owned();
    for header in [basic("admin", &token), format!("Bearer {token}")] {
        let call = world.people.call("POST", "/api/v0/api_tokens").header("authorization", &header);
        let call = call.header("content-type", "application/json").body(new.to_string());
        assert_eq!(call.send().await.is(403).code(), "NOT_AUTHORIZED");
    }
}

#[tokio::test]
async fn absent_and_hidden_look_alike() {
    let world = World::new().await;
    for route in routes() {
        let asked = request_of(&route, PRIVATE).expect("spoken of");
        let hidden =
            matches!(asked.needs, Needs::View | Needs::Events | Needs::Write | Needs::Manage);
        if !hidden {
            continue;
        }
        let method = route.split(' ').next().expect("a method");
        let absent = asked.path.replace(PRIVATE, "acme/missing");
        for who in [Who::Anonymous, Who::Stranger, Who::Member] {
            let one = world.ask(who, method, &asked.path, asked.body.as_ref()).await;
            let other = world.ask(who, method, &absent, asked.body.as_ref()).await;
            assert_eq!(one.status, other.status, "{who:?} {route}");
            let text = String::from_utf8_lossy(&one.body).replace(PRIVATE, "acme/missing");
            assert_eq!(text, String::from_utf8_lossy(&other.body), "{who:?} {route}");
        }
    }
}

#[tokio::test]
async fn what_is_forged_is_nobody() {
    let world = World::new().await;
    let path = format!("/auth/token?service=dtr.example.com&scope=repository:{PRIVATE}:*");
    let issued = world.people.call("GET", &path).who(Who::Admin).send().await.is(200).json();
    let issued = issued["token"].as_str().expect("a token").to_owned();
    let parts: Vec<&str> = issued.split('.').collect();
    let [head, claims, signature] = parts[..] else { panic!("a token of three parts") };
    let other = if signature.starts_with('A') { "B" } else { "A" };
    let forged = [
        format!("{head}.{claims}."),
        format!("{head}.{claims}.{other}{}", &signature[1..]),
        format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}."),
        format!("{claims}.{head}.{signature}"),
        "a.b.c".to_owned(),
        String::new(),
    ];
    for header in forged.iter().map(|token| format!("Bearer {token}")).chain([
        basic("admin", "wrong"),
        basic("nobody", "wrong"),
        "Basic !".to_owned(),
        "Digest x".to_owned(),
    ]) {
        for path in ["/api/v0/meta/settings", "/api/v0/repositories"] {
            let answer = world.people.call("GET", path).header("authorization", &header).send();
            answer.await.is(401);
        }
    }
}
