//! What is made on the strength of a credential ends with it: every way to get a token, with every kind of credential, which is
//! then taken away in every way there is.

use std::time::Duration;

use axum::body::{Body, Bytes};
use dtr_access::NewAccessToken;
use dtr_catalog::records::TokenOrigin;
use dtr_identity::{AccountChange, Actor, Identity as _};
use dtr_types::{AccountId, Secret};

use crate::world::{Answer, PASSWORD, PRIVATE, Who, World, basic};

/// Who has the credentials: a writer by a team's level.
const WHO: Who = Who::ReadWrite;
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Credential {
    Password,
    Session,
    /// An access token that somebody made.
    Token,
    /// As above, with an end in five minutes.
    ShortToken,
    /// What docker keeps after a login.
    Refresh,
    /// A token of `/auth/token`.
    Issued,
}

impl Credential {
    const ALL: [Self; 6] =
        [Self::Password, Self::Session, Self::Token, Self::ShortToken, Self::Refresh, Self::Issued];
}

/// The ways to ask `/auth/token`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    GetBasic,
    GetBearer,
    PostPassword,
    PostRefresh,
}

impl Way {
    const ALL: [Self; 4] = [Self::GetBasic, Self::GetBearer, Self::PostPassword, Self::PostRefresh];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Deleted,
    SwitchedOff,
    Expired,
    NewPassword,
    LoggedOut,
    OutOfTeam,
    AccountOff,
    AccountDeleted,
}

impl Loss {
    const ALL: [Self; 8] = [
        Self::Deleted,
        Self::SwitchedOff,
        Self::Expired,
        Self::NewPassword,
        Self::LoggedOut,
        Self::OutOfTeam,
        Self::AccountOff,
        Self::AccountDeleted,
    ];
}

async fn id(world: &World) -> AccountId {
    let name = WHO.name().parse().expect("a name");
    world.identity.account(&name).await.expect("read").expect("there").id
}

async fn access_token(world: &World, lifetime: Option<Duration>, origin: TokenOrigin) -> String {
    let principal =
        world.identity.principal(&id(world).await).await.expect("read").expect("active");
    let new = NewAccessToken {
        creator_address: String::new(),
        backups_only: false,
        account: principal.account.id.clone(),
        label: "a token".to_owned(),
        expires_at: lifetime.map(|lifetime| world.catalog.now().plus(lifetime)),
        repositories: None,
        pull_only: false,
        password_changed_at: match origin {
            TokenOrigin::Auto => principal.password_changed_at,
            TokenOrigin::User => None,
        },
        origin,
        creator_ua: String::new(),
    };
    world.access.create_access_token(new, None).await.expect("made").1.expose().to_owned()
}

async fn credential(world: &World, kind: Credential) -> String {
    match kind {
        Credential::Password => PASSWORD.to_owned(),
        Credential::Session => {
            let login = world.identity.login(WHO.name(), &Secret::new(PASSWORD), None).await;
            login.expect("logged in").token.expose().to_owned()
        }
        Credential::Token => access_token(world, None, TokenOrigin::User).await,
        Credential::ShortToken => access_token(world, Some(5 * MINUTE), TokenOrigin::User).await,
        Credential::Refresh => {
            access_token(world, Some(90 * 1440 * MINUTE), TokenOrigin::Auto).await
        }
        Credential::Issued => {
            let answer = ask(world, Way::GetBasic, PASSWORD).await.is(200).json();
            answer["token"].as_str().expect("a token").to_owned()
        }
    }
}

async fn ask(world: &World, way: Way, credential: &str) -> Answer {
    let name = WHO.name();
    let scope = format!("scope=repository:{PRIVATE}:pull,push");
    let get = format!("/auth/token?service=dtr.example.com&{scope}");
    let post = |fields: String| {
        let call = world.call("POST", "/auth/token");
        call.header("content-type", "application/x-www-form-urlencoded")
            .body(format!("service=dtr.example.com&{scope}&{fields}"))
    };
    match way {
        Way::GetBasic => world.call("GET", &get).header("authorization", &basic(name, credential)),
        Way::GetBearer => world.call("GET", &get).bearer(credential),
        Way::PostPassword => {
            post(format!("grant_type=password&username={name}&password={credential}"))
        }
        Way::PostRefresh => post(format!("grant_type=refresh_token&refresh_token={credential}")),
    }
    .send()
    .await
}

/// Whether a credential opens `/auth/token` this way.
fn opens(kind: Credential, way: Way) -> bool {
    match kind {
        Credential::Password => matches!(way, Way::GetBasic | Way::PostPassword),
        Credential::Issued => false,
        _ => true,
    }
}

/// Whether a credential ends with a loss, if it can be lost so; with what is made of it.
fn ends(kind: Credential, loss: Loss) -> Option<bool> {
    use Credential::{Issued, Password, Refresh, Session, ShortToken, Token};
    let is_token = matches!(kind, Token | ShortToken | Refresh);
    match loss {
        Loss::Deleted | Loss::SwitchedOff => is_token.then_some(true),
        Loss::Expired => matches!(kind, ShortToken).then_some(true),
        Loss::NewPassword => Some(matches!(kind, Password | Session | Refresh | Issued)),
        Loss::LoggedOut => matches!(kind, Session).then_some(true),
        Loss::OutOfTeam | Loss::AccountOff | Loss::AccountDeleted => Some(true),
    }
}

async fn lose(world: &World, kind: Credential, credential: &str, loss: Loss) {
    let (actor, id) = (Actor::system(), id(world).await);
    let hash = dtr_types::Digest::of(credential.as_bytes()).hex();
    match loss {
        Loss::Deleted => {
            assert!(world.access.delete_access_token(&hash, None).await.expect("gone"))
        }
        Loss::SwitchedOff => {
            let off = world.access.update_access_token(&hash, None, Some(false), None).await;
            assert!(off.expect("changed").is_some());
        }
        Loss::Expired => world.clock.advance(5 * MINUTE),
        Loss::NewPassword => {
            let new = Secret::new("another-password");
            world.identity.set_password(&actor, &id, new).await.expect("set");
        }
        Loss::LoggedOut => {
            assert_eq!(kind, Credential::Session);
            world.identity.logout(&Secret::new(credential)).await.expect("ended");
        }
        Loss::OutOfTeam => {
            for (team, org) in world.catalog.member_teams(&id).await.expect("read") {
                assert_eq!(org, world.org);
                let out = world.identity.remove_team_member(&actor, &org, &team, &id).await;
                out.expect("taken out");
            }
        }
        Loss::AccountOff => {
            let change = AccountChange { is_active: Some(false), ..AccountChange::default() };
            world.identity.update_account(&actor, &id, change).await.expect("changed");
        }
        Loss::AccountDeleted => world.identity.delete_account(&actor, &id).await.expect("deleted"),
    }
}

/// The statuses of a pull, of the begin of a push, and of a request for another token.
async fn uses(world: &World, bearer: &str, way: Way, credential: &str) -> [u16; 3] {
    let pull = world.call("GET", &format!("/v2/{PRIVATE}/manifests/v1")).bearer(bearer);
    let push = world.call("POST", &format!("/v2/{PRIVATE}/blobs/uploads/")).bearer(bearer).body("");
    let (pull, push) = (pull.send().await, push.send().await);
    let again = ask(world, way, credential).await;
    [pull.status.as_u16(), push.status.as_u16(), again.status.as_u16()]
}

#[tokio::test]
async fn what_is_made_of_a_credential_ends_with_it() {
    let mut tried = 0;
    for kind in Credential::ALL {
        for (way, loss) in Way::ALL.into_iter().flat_map(|way| Loss::ALL.map(|loss| (way, loss))) {
            let Some(ends) = ends(kind, loss) else { continue };
            if !opens(kind, way) {
                continue;
            }
            let world = World::new().await;
            world.image(PRIVATE, "v1").await;
            let credential = credential(&world, kind).await;
            let answer = ask(&world, way, &credential).await.is(200).json();
            let bearer = answer["token"].as_str().expect("a token").to_owned();
            if kind == Credential::ShortToken {
                assert_eq!(answer["expires_in"], 300, "it says when it ends: {way:?}");
            }
            world.clock.advance(MINUTE / 2);
            let at = format!("{kind:?} by {way:?}, then {loss:?}");
            assert_eq!(uses(&world, &bearer, way, &credential).await, [200, 202, 200], "{at}");
            lose(&world, kind, &credential, loss).await;
            let expected = match (ends, loss) {
                // There is no such repository for who is not in the team, and a token without rights is no error.
                (_, Loss::OutOfTeam) => [404, 404, 200],
                (true, _) => [401, 401, 401],
                (false, _) => [200, 202, 200],
            };
            assert_eq!(uses(&world, &bearer, way, &credential).await, expected, "{at}");
            // Nor on another replica, which has never seen it.
            let other = World::beside(&world).await;
            assert_eq!(uses(&other, &bearer, way, &credential).await, expected, "{at}");
            tried += 1;
        }
    }
    assert!(tried >= 80, "{tried} cases");
}

#[tokio::test]
async fn a_token_makes_no_other() {
    for kind in Credential::ALL {
        for way in Way::ALL {
            // One of its own for each: wrong passwords are counted.
            let world = World::new().await;
            let credential = credential(&world, kind).await;
            let answer = ask(&world, way, &credential).await;
            if !opens(kind, way) {
                answer.is(401);
                continue;
            }
            let bearer = answer.is(200).json()["token"].as_str().expect("a token").to_owned();
            for again in [Way::GetBasic, Way::GetBearer, Way::PostPassword, Way::PostRefresh] {
                let at = format!("{kind:?} by {way:?}, then {again:?}");
                assert_eq!(ask(&world, again, &bearer).await.status, 401, "{at}");
            }
        }
    }
    let world = World::new().await;
    let nobody = world.call("GET", "/auth/token?service=x").send().await.is(200).json();
    let nobody = nobody["token"].as_str().expect("a token");
    for way in [Way::GetBearer, Way::PostRefresh] {
        ask(&world, way, nobody).await.is(401);
    }
}

#[tokio::test]
async fn a_refresh_token_opens_nothing_by_itself() {
    let world = World::new().await;
    world.image(PRIVATE, "v1").await;
    let refresh = credential(&world, Credential::Refresh).await;
    let path = format!("/v2/{PRIVATE}/manifests/v1");
    for header in [basic(WHO.name(), &refresh), format!("Bearer {refresh}")] {
        world.call("GET", &path).header("authorization", &header).send().await.is(401);
    }
}

#[tokio::test]
async fn a_request_that_has_begun_is_finished() {
    let world = World::new().await;
    let credential = credential(&world, Credential::ShortToken).await;
    let answer = ask(&world, Way::GetBearer, &credential).await.is(200).json();
    let bearer = answer["token"].as_str().expect("a token");
    let path = format!("/v2/{PRIVATE}/blobs/uploads/");
    let begun = world.call("POST", &path).bearer(bearer).body("").send().await.is(202);
    // The token ends, and what it was made with is deleted, while the bytes are on their way.
    let (clock, access) = (world.clock.clone(), world.access.clone());
    let hash = dtr_types::Digest::of(credential.as_bytes()).hex();
    let parts = futures_util::stream::unfold(0, move |part| {
        let (clock, access, hash) = (clock.clone(), access.clone(), hash.clone());
        async move {
            match part {
                0 => Some((Ok::<_, std::io::Error>(Bytes::from_static(b"first ")), 1)),
                1 => {
                    clock.advance(20 * MINUTE);
                    access.delete_access_token(&hash, None).await.expect("deleted");
                    Some((Ok(Bytes::from_static(b"second")), 2))
                }
                _ => None,
            }
        }
    });
    let location = begun.header("location").to_owned();
    let body = Body::from_stream(parts);
    let done = world.call("PATCH", &location).bearer(bearer).stream(body).send().await.is(202);
    assert_eq!(done.header("range"), "0-11");
    let next = done.header("location").to_owned();
    world.call("PATCH", &next).bearer(bearer).body("third").send().await.is(401);
}
