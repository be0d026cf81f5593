//! Tokens by themselves: signing keys that are changed while tokens run, two replicas with one store, and refresh tokens,
//! which last until they end, are switched off, or the password is another one.

use std::{sync::Arc, time::Duration};

use base64::Engine as _;
use dtr_access::{
    Access, Action, AuthError, Caller, LOGINS_MAX, NewAccessToken, Scope, TOKEN_LIFETIME,
};
use dtr_catalog::{
    Catalog,
    records::{KeyPurpose, KeyRecord, TokenOrigin},
};
use dtr_identity::{
    AccountChange, Actor, BuiltIn, BuiltInOptions, Cost, IdentityError, NewAccount, Principal,
};
use dtr_store_embedded::EmbeddedStore;
use dtr_types::{
    AccountName, Clock as _, ClusterId, ManualClock, Secret, SeededRandom, SystemClock,
};

const PASSWORD: &str = "password-of-alice";
const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a key signs.
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

struct World {
    catalog: Catalog,
    identity: BuiltIn,
    access: Access,
    clock: Arc<ManualClock>,
    alice: AccountName,
}

impl World {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::new(SystemClock.now()));
        let random = Arc::new(SeededRandom::new(1));
        let catalog = Catalog::new(EmbeddedStore::in_memory(), clock.clone(), random);
        let options = BuiltInOptions { cost: Cost::least(), ..BuiltInOptions::default() };
        let identity = BuiltIn::new(catalog.clone(), options);
        let alice: AccountName = "alice".parse().expect("a name");
        let new = NewAccount::user(alice.clone(), Secret::new(PASSWORD));
        identity.create_account(&Actor::system(), new).await.expect("made");
        let access = open(&catalog, &identity).await;
        Self { catalog, identity, access, clock, alice }
    }

    async fn login(&self, password: &str) -> Result<Arc<Principal>, AuthError> {
        let caller = self.access.caller_from_password("alice", &Secret::new(password)).await?;
        Ok(Arc::clone(caller.principal().expect("a user")))
    }

    async fn issue(&self) -> Secret {
        issue(&self.access, Caller::user(self.login(PASSWORD).await.expect("logged in"))).await
    }

    /// A token as `docker login` keeps it.
    async fn refresh(&self, principal: &Principal) -> Secret {
        let new = NewAccessToken {
            creator_address: String::new(),
            backups_only: false,
            account: principal.account.id.clone(),
            label: "login of docker".to_owned(),
            expires_at: Some(self.access.refresh_token_end()),
            repositories: None,
            pull_only: false,
            password_changed_at: principal.password_changed_at,
            origin: TokenOrigin::Auto,
            creator_ua: String::new(),
        };
        self.access.create_access_token(new, None).await.expect("made").1
    }

    async fn is_good(&self, token: &Secret) -> bool {
        is_good(&self.access, token).await
    }

    async fn keys(&self) -> Vec<KeyRecord> {
        self.catalog.signing_keys(KeyPurpose::Token).await.expect("read")
    }
}

async fn open(catalog: &Catalog, identity: &BuiltIn) -> Access {
    open_as("6f1c1c8e-5d0b-4f0e-8a51-0a3d6b8f2c11", catalog, identity).await
}

async fn open_as(cluster: &str, catalog: &Catalog, identity: &BuiltIn) -> Access {
    let cluster: ClusterId = cluster.parse().expect("an id");
    Access::new(catalog.clone(), &cluster, Arc::new(identity.clone())).await.expect("opens")
}

async fn issue(access: &Access, caller: Caller) -> Secret {
    let scope = Scope { name: "alice/app".to_owned(), actions: vec![Action::Pull] };
    access.issue_token(&caller, vec![scope], "registry").await.expect("issued").token
}

/// Whether a token makes alice; any other refusal than for being wrong is a failure.
async fn is_good(access: &Access, token: &Secret) -> bool {
    is_alice(access.caller_from_bearer(token).await)
}

/// Whether a refresh token can be exchanged; it never opens anything by itself.
async fn is_exchanged(access: &Access, token: &Secret) -> bool {
    assert!(!is_good(access, token).await);
    is_alice(access.exchanger_from_token(token).await)
}

fn is_alice(caller: Result<Caller, AuthError>) -> bool {
    match caller {
        Ok(caller) => {
            assert_eq!(caller.name(), "alice");
            true
        }
        Err(AuthError::Wrong(_)) => false,
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_token_ends_with_its_time() {
    let world = World::new().await;
    let token = world.issue().await;
    assert!(world.is_good(&token).await);
    world.clock.advance(TOKEN_LIFETIME - Duration::from_secs(2));
    assert!(world.is_good(&token).await);
    world.clock.advance(Duration::from_secs(3));
    // Also where it was verified before, and where it never was.
    assert!(!world.is_good(&token).await);
    assert!(!is_good(&open(&world.catalog, &world.identity).await, &token).await);
}

#[tokio::test]
async fn keys_are_changed_every_month_and_tokens_outlive_theirs() {
    let world = World::new().await;
    assert_eq!(world.keys().await.len(), 1, "one is made at once");
    let mut last = world.issue().await;
    for month in 2..5 {
        world.clock.advance(MONTH - Duration::from_secs(60));
        let before = world.issue().await;
        world.clock.advance(Duration::from_secs(120));
        let after = world.issue().await;
        assert_eq!(world.keys().await.len(), month, "another key signs");
        assert!(world.is_good(&before).await, "the last key's tokens go on");
        assert!(world.is_good(&after).await);
        assert!(!world.is_good(&last).await, "a token of a month ago does not");
        world.clock.advance(2 * TOKEN_LIFETIME);
        assert!(!world.is_good(&before).await);
        last = world.issue().await;
    }
    // A key that is over verifies nothing: not even a token that it signs today.
    let keys = world.keys().await;
    let ended =
        keys.iter().filter(|key| key.not_after.is_some_and(|end| end <= world.catalog.now()));
    assert_eq!(ended.count(), keys.len() - 1);
}

#[tokio::test]
async fn a_key_is_kept_over_restarts_and_shared_by_replicas() {
    let world = World::new().await;
    let other = open(&world.catalog, &world.identity).await;
    assert_eq!(world.keys().await.len(), 1);
    let token = world.issue().await;
    assert!(is_good(&other, &token).await);
    // One of them makes a new key; the other has not read it yet.
    world.clock.advance(MONTH + Duration::from_secs(1));
    let token = world.issue().await;
    assert_eq!(world.keys().await.len(), 2);
    assert!(is_good(&other, &token).await);
}

#[tokio::test]
async fn tokens_of_another_registry_are_none() {
    let (one, two) = (World::new().await, World::new().await);
    let token = one.issue().await;
    assert!(one.is_good(&token).await);
    // The seeds are the same and so may be the key's id, but never the key.
    assert!(!two.is_good(&token).await);
}

#[tokio::test]
async fn tokens_of_a_copy_are_none() {
    let world = World::new().await;
    let copy = open_as("a3b7f0d2-1111-4222-8333-9d9d9d9d9d9d", &world.catalog, &world.identity);
    let copy = copy.await;
    // Even where it has the same key, accounts and repositories.
    assert_eq!(world.keys().await.len(), 1);
    let caller = Caller::user(world.login(PASSWORD).await.expect("logged in"));
    let token = issue(&copy, caller).await;
    assert!(is_good(&copy, &token).await);
    assert!(!world.is_good(&token).await);
    assert!(!is_good(&copy, &world.issue().await).await);
}

#[tokio::test]
async fn a_refresh_token_lasts_three_months() {
    let world = World::new().await;
    let principal = world.login(PASSWORD).await.expect("logged in");
    let token = world.refresh(&principal).await;
    assert!(is_exchanged(&world.access, &token).await);
    // Signing keys come and go meanwhile.
    world.clock.advance(89 * DAY);
    assert!(is_exchanged(&world.access, &token).await);
    let caller = world.access.exchanger_from_token(&token).await.expect("good");
    assert!(world.is_good(&issue(&world.access, caller).await).await);
    world.clock.advance(2 * DAY);
    assert!(!is_exchanged(&world.access, &token).await);
}

#[tokio::test]
async fn a_refresh_token_ends_with_the_password_it_was_made_with() {
    let world = World::new().await;
    let principal = world.login(PASSWORD).await.expect("logged in");
    assert!(principal.password_changed_at.is_some());
    let refresh = world.refresh(&principal).await;
    let made = NewAccessToken {
        creator_address: String::new(),
        backups_only: false,
        account: principal.account.id.clone(),
        label: "made by hand".to_owned(),
        expires_at: None,
        repositories: None,
        pull_only: false,
        password_changed_at: None,
        origin: TokenOrigin::User,
        creator_ua: String::new(),
    };
    let by_hand = world.access.create_access_token(made, None).await.expect("made").1;
    world.clock.advance(DAY);
    assert!(is_exchanged(&world.access, &refresh).await);
    let (old, new) = (Secret::new(PASSWORD), Secret::new("another-password"));
    let changed = world.identity.change_own_password(&world.alice, &old, new, None).await;
    changed.expect("changed");
    assert!(!is_exchanged(&world.access, &refresh).await, "the old password's login is over");
    assert!(world.is_good(&by_hand).await, "a token that somebody made goes on");
    let wrong = world.login(PASSWORD).await.expect_err("the old password");
    assert!(matches!(wrong, AuthError::Identity(IdentityError::WrongCredentials)), "{wrong}");
    // At once, within what is remembered of a person.
    let again = world.login("another-password").await.expect("logged in");
    let refresh = world.refresh(&again).await;
    assert!(is_exchanged(&world.access, &refresh).await);
}

#[tokio::test]
async fn no_token_is_good_for_an_account_that_is_off() {
    let world = World::new().await;
    let principal = world.login(PASSWORD).await.expect("logged in");
    let (refresh, bearer) = (world.refresh(&principal).await, world.issue().await);
    let id = &principal.account.id;
    for active in [false, true] {
        let change = AccountChange { is_active: Some(active), ..AccountChange::default() };
        world.identity.update_account(&Actor::system(), id, change).await.expect("changed");
        assert_eq!(is_exchanged(&world.access, &refresh).await, active);
        assert_eq!(world.is_good(&bearer).await, active);
    }
}

#[tokio::test]
async fn a_login_is_by_password_only_where_one_was_given() {
    let world = World::new().await;
    let principal = world.login(PASSWORD).await.expect("logged in");
    let token = world.refresh(&principal).await;
    let basic = |password: &str| {
        let text = base64::engine::general_purpose::STANDARD.encode(format!("alice:{password}"));
        format!("Basic {text}")
    };
    assert!(Access::is_password_header(&basic(PASSWORD)));
    assert!(!Access::is_password_header(&basic(token.expose())));
    assert!(!Access::is_password_header(&format!("Bearer {}", token.expose())));
    assert!(!Access::is_password_header("Basic %"));
    assert!(!Access::is_password_header(""));
    assert!(Access::is_password(&Secret::new(PASSWORD)));
    assert!(!Access::is_password(&token));
}

/// A login of a client, as `docker login` leaves it.
async fn log_in(world: &World, agent: &str, address: &str) -> Secret {
    let principal = world.login(PASSWORD).await.expect("logged in");
    let new = NewAccessToken {
        account: principal.account.id.clone(),
        label: "login of docker".to_owned(),
        expires_at: Some(world.access.refresh_token_end()),
        repositories: None,
        pull_only: false,
        backups_only: false,
        password_changed_at: principal.password_changed_at,
        origin: TokenOrigin::Auto,
        creator_ua: agent.to_owned(),
        creator_address: address.to_owned(),
    };
    world.access.create_access_token(new, None).await.expect("made").1
}

#[tokio::test]
async fn logins_are_bounded_and_a_client_replaces_its_own() {
    let world = World::new().await;
    let laptop = log_in(&world, "docker/28.2", "192.0.2.7").await;
    world.clock.advance(DAY);
    for _ in 0..200 {
        log_in(&world, "docker/28.2", "192.0.2.1").await;
        world.clock.advance(Duration::from_secs(60));
    }
    let account = world.login(PASSWORD).await.expect("logged in").account.id.clone();
    let tokens = world.catalog.account_tokens(&account).await.expect("read");
    assert_eq!(tokens.len(), LOGINS_MAX);
    // A machine that logs in for every job ends its own logins; the one that nobody used since is not one of them.
    assert!(is_exchanged(&world.access, &laptop).await);
    // From everywhere else: the one that was used least recently goes.
    for n in 0..LOGINS_MAX - 1 {
        log_in(&world, "docker/28.2", &format!("198.51.100.{n}")).await;
    }
    assert!(is_exchanged(&world.access, &laptop).await, "it was used a moment ago");
    let tokens = world.catalog.account_tokens(&account).await.expect("read");
    assert_eq!(tokens.len(), LOGINS_MAX);
}
