//! The built-in identity through its public face: logins, sessions, rules of accounts, services.

use std::{net::IpAddr, sync::Arc, time::Duration};

use dtr_catalog::{
    Catalog, Kind, keys,
    records::{Event, EventType},
};
use dtr_identity::{
    AccountChange, AccountFilter, AccountQuery, Actor, BuiltIn, BuiltInOptions, Cost, Identity,
    IdentityError, ManageError, NewAccount, NewTeam, ServiceForm, TeamChange,
};
use dtr_store_embedded::EmbeddedStore;
use dtr_types::{AccountId, AccountName, ManualClock, Secret, SeededRandom, Timestamp};

struct World {
    identity: BuiltIn,
    clock: Arc<ManualClock>,
    actor: Actor,
}

fn name(text: &str) -> AccountName {
    text.parse().expect("a name")
}

fn secret(text: &str) -> Secret {
    Secret::new(text)
}

fn world_with(options: BuiltInOptions) -> World {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
    let catalog =
        Catalog::new(EmbeddedStore::in_memory(), clock.clone(), Arc::new(SeededRandom::new(7)));
    World { identity: BuiltIn::new(catalog, options), clock, actor: Actor::system() }
}

fn world() -> World {
    world_with(BuiltInOptions { cost: Cost::least(), ..BuiltInOptions::default() })
}

impl World {
    async fn user(&self, who: &str) -> AccountId {
        let new = NewAccount::user(name(who), secret("password1"));
        self.identity.create_account(&self.actor, new).await.expect("made").id
    }

    async fn org(&self, who: &str) -> AccountId {
        self.identity
            .create_account(&self.actor, NewAccount::org(name(who)))
            .await
            .expect("made")
            .id
    }

    async fn change(&self, id: &AccountId, change: AccountChange) -> Result<(), ManageError> {
        self.identity.update_account(&self.actor, id, change).await.map(drop)
    }
}

fn wrong<T: std::fmt::Debug>(result: Result<T, IdentityError>) {
    assert!(matches!(result, Err(IdentityError::WrongCredentials)), "{result:?}");
}

#[tokio::test]
async fn passwords() {
    let w = world();
    let id = w.user("ann").await;
    let principal = w.identity.authenticate("ann", &secret("password1")).await.expect("fits");
    assert_eq!(principal.account.id, id);
    wrong(w.identity.authenticate("ann", &secret("password2")).await);
    wrong(w.identity.authenticate("ann", &secret("")).await);
    wrong(w.identity.authenticate("nobody", &secret("password1")).await);
    for hostile in ["", "../x", "ann\0", "a nn", &"a".repeat(1 << 16)] {
        wrong(w.identity.authenticate(hostile, &secret("password1")).await);
    }
    // Names are in lower case by rule, and have no blanks.
    for typed in ["Ann", "ANN", "ann ", "ann\t"] {
        let principal = w.identity.authenticate(typed, &secret("password1")).await.expect("fits");
        assert_eq!(principal.account.id, id);
    }
    // Remembered as verified, and still not after a change.
    w.identity.set_password(&w.actor, &id, secret("password2")).await.expect("set");
    wrong(w.identity.authenticate("ann", &secret("password1")).await);
    w.identity.authenticate("ann", &secret("password2")).await.expect("fits");
    w.change(&id, AccountChange { is_active: Some(false), ..Default::default() })
        .await
        .expect("changed");
    wrong(w.identity.authenticate("ann", &secret("password2")).await);
    assert!(w.identity.principal(&id).await.expect("asked").is_none());
    let org = w.org("acme").await;
    wrong(w.identity.authenticate("acme", &secret("password1")).await);
    let refused = w.identity.set_password(&w.actor, &org, secret("password1")).await;
    assert!(matches!(refused, Err(ManageError::Refused(_))));
    for bad in ["short", &"x".repeat(1025)] {
        let refused = w.identity.set_password(&w.actor, &id, secret(bad)).await;
        assert!(matches!(refused, Err(ManageError::Invalid { field: "password", .. })));
    }
}

#[tokio::test]
async fn one_changes_its_own_password_with_the_old_one() {
    let w = world();
    w.user("ann").await;
    let change = |old: &'static str, new: &'static str| {
        let identity = w.identity.clone();
        async move { identity.change_own_password(&name("ann"), &secret(old), secret(new), None).await }
    };
    assert!(matches!(
        change("password9", "password2").await,
        Err(ManageError::Identity(IdentityError::WrongCredentials))
    ));
    assert!(matches!(change("password1", "password1").await, Err(ManageError::Invalid { .. })));
    change("password1", "password2").await.expect("changed");
    w.identity.authenticate("ann", &secret("password2")).await.expect("fits");
}

#[tokio::test]
async fn guessing_is_slowed_down() {
    let w = world();
    w.user("ann").await;
    let here: Option<IpAddr> = Some([10, 0, 0, 1].into());
    for _ in 0..10 {
        wrong(w.identity.authenticate_from("ann", &secret("guess"), here).await);
    }
    let refused = w.identity.authenticate_from("ann", &secret("guess"), here).await;
    assert!(matches!(refused, Err(IdentityError::Throttled { .. })), "{refused:?}");
    // The right password does not help whoever guesses, but comes through from elsewhere.
    let refused = w.identity.authenticate_from("ann", &secret("password1"), here).await;
    assert!(matches!(refused, Err(IdentityError::Throttled { .. })), "{refused:?}");
    let there: Option<IpAddr> = Some([10, 0, 0, 2].into());
    w.identity.authenticate_from("ann", &secret("password1"), there).await.expect("fits");
    w.clock.advance(Duration::from_secs(2));
    w.identity.authenticate_from("ann", &secret("password1"), here).await.expect("fits");
    // Unknown users are treated alike.
    for _ in 0..10 {
        wrong(w.identity.authenticate_from("nobody", &secret("guess"), here).await);
    }
    let refused = w.identity.authenticate_from("nobody", &secret("guess"), here).await;
    assert!(matches!(refused, Err(IdentityError::Throttled { .. })), "{refused:?}");
}

#[tokio::test]
async fn guesses_during_a_wait_tell_nothing() {
    let w = world();
    w.user("bob").await;
    let at = |last| Some(IpAddr::from([10, 0, 0, last]));
    let (his, attacker) = (at(1), at(2));
    let tried = async |password: &str, from| {
        let (identity, password) = (w.identity.clone(), secret(password));
        identity.authenticate_from("bob", &password, from).await.map(drop)
    };
    tried("password1", his).await.expect("remembered from here on");
    for _ in 0..10 {
        wrong(tried("guess", attacker).await);
    }
    for i in 0..200 {
        let refused = tried(&format!("guess{i}"), attacker).await;
        assert!(matches!(refused, Err(IdentityError::Throttled { .. })), "{refused:?}");
    }
    let refused = tried("password1", attacker).await;
    assert!(matches!(refused, Err(IdentityError::Throttled { .. })), "the right one, too");
    tried("password1", his).await.expect("whoever proved himself goes on");
    // The same from behind one address: what goes on there does so until guesses come.
    for _ in 0..10 {
        wrong(tried("guess", his).await);
    }
    tried("password1", his).await.expect("of many machines, one has the old password");
    for i in 0..200 {
        let refused = tried(&format!("guess{i}"), his).await;
        assert!(matches!(refused, Err(IdentityError::Throttled { .. })), "{refused:?}");
    }
    let refused = tried("password1", his).await;
    assert!(matches!(refused, Err(IdentityError::Throttled { .. })), "{refused:?}");
    w.clock.advance(Duration::from_secs(2));
    tried("password1", his).await.expect("the wait is over");
    let figures = w.identity.login_figures();
    assert_eq!((figures.failed.get(), figures.throttled.get()), (20, 402));
}

#[tokio::test]
async fn an_address_that_sprays_waits() {
    let w = world();
    for i in 0..60 {
        w.user(&format!("user{i}")).await;
    }
    let from = Some(IpAddr::from([10, 0, 0, 1]));
    let mut told = Vec::new();
    for i in 0..60 {
        let user = format!("user{i}");
        told.push(w.identity.authenticate_from(&user, &secret("Summer2026!"), from).await);
    }
    let throttled = |tried: &&Result<_, _>| matches!(tried, Err(IdentityError::Throttled { .. }));
    assert_eq!(told.iter().filter(throttled).count(), 30);
    let elsewhere = Some(IpAddr::from([10, 0, 0, 2]));
    w.identity.authenticate_from("user1", &secret("password1"), elsewhere).await.expect("fits");
}

async fn failures(w: &World) -> Vec<(String, String, u64)> {
    let events = w.identity.catalog().list_events(None, "", "", 1000).await.expect("read");
    let failed = events.items.into_iter().filter(|e| e.event_type == EventType::Fail);
    failed.map(|e| (e.object.name, e.object.id, e.count)).collect()
}

async fn failures_are_told(w: &World, expected: &[(&str, &str, u64)]) {
    let told = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let told = failures(w).await;
            if !told.is_empty() {
                return told;
            }
            // poll: what is gathered is told after a moment, within the limit
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let told = told.await.expect("an event");
    let told: Vec<_> = told.iter().map(|(n, a, c)| (n.as_str(), a.as_str(), *c)).collect();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_burst_of_failures_is_one_event() {
    let gather_failures = Duration::from_secs(2);
    let cost = Cost::least();
    let w = world_with(BuiltInOptions { cost, gather_failures, ..BuiltInOptions::default() });
    w.user("ann").await;
    for i in 0..300 {
        let from = Some(IpAddr::from([10, 0, 0, if i % 100 == 0 { 2 } else { 1 }]));
        let _refused = w.identity.authenticate_from("ann", &secret("guess"), from).await;
    }
    assert_eq!(failures(&w).await, [], "it is not over");
    // Those that were throttled were not checked; three failures of a person are no event.
    failures_are_told(&w, &[("ann", "10.0.0.1", 10)]).await;
}

#[tokio::test]
async fn a_user_guessed_at_from_many_addresses_is_told_of_and_not_kept_out() {
    let hold_up = Duration::from_millis(50);
    let cost = Cost::least();
    let w = world_with(BuiltInOptions { cost, hold_up, ..BuiltInOptions::default() });
    w.user("ann").await;
    for i in 0..110 {
        let from = Some(IpAddr::from([10, 1, 0, i]));
        wrong(w.identity.authenticate_from("ann", &secret("guess"), from).await);
    }
    failures_are_told(&w, &[("ann", "many addresses", 100)]).await;
    let began = std::time::Instant::now();
    let from = Some(IpAddr::from([10, 2, 0, 1]));
    w.identity.authenticate_from("ann", &secret("password1"), from).await.expect("slowly");
    assert!(began.elapsed() >= hold_up);
}

#[tokio::test]
async fn sessions() {
    let w = world();
    let id = w.user("ann").await;
    let login = w.identity.login("ann", &secret("password1"), None).await.expect("fits");
    let session = |token: Secret| {
        let identity = w.identity.clone();
        async move { identity.session(&token).await.expect("asked").is_some() }
    };
    assert!(session(login.token.clone()).await);
    assert!(!session(secret("x")).await);
    assert!(!session(secret(&"0".repeat(64))).await);
    // Usable as a password, by its owner only.
    w.identity.authenticate("ann", &login.token).await.expect("a session is a password");
    w.user("bob").await;
    wrong(w.identity.authenticate("bob", &login.token).await);
    // The store knows the token's hash, never the token.
    let stored =
        w.identity.catalog().all_names(Kind::Session.prefix().as_bytes()).await.expect("read");
    assert_eq!(stored.len(), 1);
    assert_ne!(stored[0], login.token.expose());
    // At most five; the one used least recently goes.
    for _ in 0..5 {
        w.clock.advance(Duration::from_secs(1));
        w.identity.login("ann", &secret("password1"), None).await.expect("fits");
    }
    assert!(!session(login.token).await, "the sixth ended the first");
    // Used near its end it lasts again; unused it ends.
    let login = w.identity.login("ann", &secret("password1"), None).await.expect("fits");
    w.clock.advance(Duration::from_secs(60 * 60));
    assert!(session(login.token.clone()).await);
    w.clock.advance(Duration::from_secs(50 * 60 * 60));
    assert!(session(login.token.clone()).await, "51 h: renewed");
    w.clock.advance(Duration::from_secs(71 * 60 * 60));
    assert!(session(login.token.clone()).await);
    w.clock.advance(Duration::from_secs(73 * 60 * 60));
    assert!(!session(login.token).await);
    // A password change, a logout, and being switched off end sessions.
    let login = w.identity.login("ann", &secret("password1"), None).await.expect("fits");
    w.clock.advance(Duration::from_millis(5));
    w.identity.set_password(&w.actor, &id, secret("password2")).await.expect("set");
    assert!(!session(login.token).await);
    let login = w.identity.login("ann", &secret("password2"), None).await.expect("fits");
    assert!(session(login.token.clone()).await);
    w.identity.logout(&login.token).await.expect("ended");
    w.identity.logout(&login.token).await.expect("no error twice");
    assert!(!session(login.token).await);
    let login = w.identity.login("ann", &secret("password2"), None).await.expect("fits");
    for is_active in [false, true] {
        w.change(&id, AccountChange { is_active: Some(is_active), ..Default::default() })
            .await
            .expect("changed");
        assert!(!session(login.token.clone()).await, "it does not come back either");
    }
}

#[tokio::test]
async fn there_is_always_an_active_admin() {
    let w = world();
    let first = w.identity.create_first_admin(name("admin"), secret("password1")).await;
    let first = first.expect("made").id;
    let again = w.identity.create_first_admin(name("other"), secret("password1")).await;
    assert!(matches!(again, Err(ManageError::Exists { .. })));
    let no_admin = AccountChange { is_admin: Some(false), ..Default::default() };
    let inactive = AccountChange { is_active: Some(false), ..Default::default() };
    for change in [no_admin.clone(), inactive] {
        assert!(matches!(w.change(&first, change).await, Err(ManageError::Refused(_))));
    }
    let gone = w.identity.delete_account(&w.actor, &first).await;
    assert!(matches!(gone, Err(ManageError::Refused(_))), "{gone:?}");
    assert!(w.identity.principal(&first).await.expect("asked").is_some(), "nothing was changed");
    // Two admins that take each other's part away at the same moment: exactly one stays, every time.
    for round in 0..20 {
        let second = w.user(&format!("second{round}")).await;
        w.change(&second, AccountChange { is_admin: Some(true), ..Default::default() })
            .await
            .expect("changed");
        let (a, b) =
            tokio::join!(w.change(&first, no_admin.clone()), w.change(&second, no_admin.clone()));
        assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
        let admin = AccountChange { is_admin: Some(true), ..Default::default() };
        w.change(&first, admin).await.expect("changed");
        w.identity.delete_account(&w.actor, &second).await.expect("deleted");
    }
}

#[tokio::test]
async fn names_are_one_namespace() {
    let w = world();
    w.user("acme").await;
    let taken = w.identity.create_account(&w.actor, NewAccount::org(name("acme"))).await;
    assert!(matches!(taken, Err(ManageError::Exists { .. })));
    let like_an_id = NewAccount::org(name("00000000-0000-4000-8000-000000000000"));
    let refused = w.identity.create_account(&w.actor, like_an_id).await;
    assert!(matches!(refused, Err(ManageError::Invalid { field: "name", .. })));
    let mut org = NewAccount::org(name("org"));
    org.is_admin = true;
    assert!(matches!(w.identity.create_account(&w.actor, org).await, Err(ManageError::Refused(_))));
}

#[tokio::test]
async fn rights_change_at_once() {
    let w = world();
    let (ann, org) = (w.user("ann").await, w.org("acme").await);
    let principal = || async { w.identity.principal(&ann).await.expect("asked").expect("active") };
    assert!(principal().await.memberships.is_empty());
    let new = NewTeam { name: "dev".parse().expect("a name"), description: String::new() };
    let team = w.identity.create_team(&w.actor, &org, new.clone()).await.expect("made");
    assert!(matches!(
        w.identity.create_team(&w.actor, &org, new).await,
        Err(ManageError::Exists { .. })
    ));
    w.identity.put_team_member(&w.actor, &org, &team.id, &ann, None).await.expect("put");
    let p = principal().await;
    assert!(p.is_member(&org) && !p.owns(&org), "a team's member is the organization's");
    assert_eq!(p.teams, [(team.id.clone(), org.clone())]);
    w.identity.put_member(&w.actor, &org, &ann, Some(true)).await.expect("put");
    assert!(principal().await.owns(&org));
    w.identity.put_member(&w.actor, &org, &ann, None).await.expect("left as it is");
    assert!(principal().await.owns(&org));
    let change = TeamChange { name: Some("ops".parse().expect("a name")), description: None };
    w.identity.update_team(&w.actor, &org, &team.id, change).await.expect("changed");
    assert_eq!(w.identity.teams(&org).await.expect("listed")[0].name.as_str(), "ops");
    assert!(w.identity.team(&org, &"dev".parse().expect("a name")).await.expect("asked").is_none());
    w.identity.remove_member(&w.actor, &org, &ann).await.expect("removed");
    let p = principal().await;
    assert!(p.memberships.is_empty() && p.teams.is_empty());
    assert!(w.identity.team_members(&org, &team.id).await.expect("listed").is_empty());
    // Deleting an organization leaves nobody in it.
    w.identity.put_team_member(&w.actor, &org, &team.id, &ann, None).await.expect("put");
    w.identity.delete_account(&w.actor, &org).await.expect("deleted");
    let p = principal().await;
    assert!(p.memberships.is_empty() && p.teams.is_empty());
    assert!(matches!(
        w.identity.put_member(&w.actor, &org, &ann, None).await,
        Err(ManageError::Missing { .. })
    ));
}

#[tokio::test]
async fn lists_in_pages_with_filters() {
    let w = world();
    w.identity.create_first_admin(name("admin"), secret("password1")).await.expect("made");
    for i in 0..25 {
        w.identity
            .create_account(&w.actor, NewAccount::org(name(&format!("org{i:02}"))))
            .await
            .expect("made");
    }
    let inactive = w.user("zoe").await;
    w.change(&inactive, AccountChange { is_active: Some(false), ..Default::default() })
        .await
        .expect("changed");
    let all = |filter, limit| {
        let identity = w.identity.clone();
        async move {
            let (mut names, mut start) = (Vec::new(), None);
            loop {
                let query = AccountQuery { start, limit, filter };
                let page = identity.accounts(&query).await.expect("listed");
                assert!(page.accounts.len() <= query.effective_limit());
                names.extend(page.accounts.iter().map(|account| account.name.to_string()));
                start = page.next;
                if start.is_none() {
                    return names;
                }
            }
        }
    };
    for limit in [1, 3, 7, 0, 1000] {
        let names = all(AccountFilter::All, limit).await;
        assert_eq!(names.len(), 27, "limit {limit}");
        assert!(names.is_sorted());
    }
    assert_eq!(all(AccountFilter::Orgs, 10).await.len(), 25);
    assert_eq!(all(AccountFilter::Users, 10).await, ["admin", "zoe"]);
    assert_eq!(all(AccountFilter::Admins, 10).await, ["admin"]);
    assert_eq!(all(AccountFilter::InactiveUsers, 10).await, ["zoe"]);
    assert_eq!(all(AccountFilter::ActiveUsers, 10).await, ["admin"]);
    let counts = w.identity.account_counts().await.expect("counted");
    assert_eq!((counts.users, counts.orgs), (2, 25));
    w.identity.create_account(&w.actor, NewAccount::org(name("more"))).await.expect("made");
    assert_eq!(w.identity.account_counts().await.expect("counted").orgs, 26);
}

#[tokio::test]
async fn every_change_has_its_event() {
    let w = world();
    let (ann, org) = (w.user("ann").await, w.org("acme").await);
    w.identity.put_member(&w.actor, &org, &ann, Some(true)).await.expect("put");
    w.identity.delete_account(&w.actor, &ann).await.expect("deleted");
    let events: Vec<Event> =
        w.identity.catalog().all(Kind::Event.prefix().as_bytes()).await.expect("read");
    let mut said: Vec<_> = events
        .iter()
        .map(|e| format!("{:?} {} {}", e.event_type, e.object.kind, e.object.name))
        .collect();
    said.sort();
    assert_eq!(
        said,
        [
            "Create account acme",
            "Create account ann",
            "Create membership acme/ann",
            "Delete account ann"
        ]
    );
    let text = format!("{events:?}");
    assert!(!text.contains("password1"));
}

#[tokio::test]
async fn services_are_registered_and_checked() {
    let w = world();
    let owner = w.user("admin").await;
    let form = ServiceForm {
        name: Some("Docker Trusted Registry".to_owned()),
        url: Some("https://dtr.example.com".to_owned()),
        ..ServiceForm::default()
    };
    let service =
        w.identity.register_service(&w.actor, &owner, form.clone()).await.expect("registered");
    assert!(matches!(
        w.identity.register_service(&w.actor, &owner, form.clone()).await,
        Err(ManageError::Exists { .. })
    ));
    let bad = [
        ServiceForm { url: Some("javascript:alert(1)".to_owned()), ..form.clone() },
        ServiceForm { public_key: Some("nonsense".to_owned()), ..form.clone() },
        ServiceForm { name: Some(String::new()), ..form.clone() },
        ServiceForm { ca_bundle: Some("x".repeat(1 << 20)), ..form },
    ];
    for form in bad {
        let refused = w.identity.update_service(&w.actor, &service.id, form).await;
        assert!(matches!(refused, Err(ManageError::Invalid { .. })), "{refused:?}");
    }
    let stored = w.identity.service(&service.id).await.expect("read");
    assert_eq!(stored, Some(service.clone()));
    w.identity.delete_service(&w.actor, &service.id).await.expect("deleted");
    w.identity.delete_service(&w.actor, &service.id).await.expect("no error twice");
    assert!(w.identity.services().await.expect("listed").is_empty());
}

#[tokio::test]
async fn many_logins_at_once_all_come_through() {
    let w = world_with(BuiltInOptions { cost: Cost::least(), ..BuiltInOptions::default() });
    w.user("ann").await;
    let logins = (0..40).map(|_| {
        let identity = w.identity.clone();
        tokio::spawn(
            async move { identity.authenticate("ann", &secret("password1")).await.is_ok() },
        )
    });
    for login in logins.collect::<Vec<_>>() {
        assert!(login.await.expect("ran"));
    }
}

/// What is stored is an Argon2id hash of the cost that is promised.
#[tokio::test]
async fn the_default_cost_is_what_it_says() {
    let w = world_with(BuiltInOptions::default());
    let id = w.user("ann").await;
    let credential =
        w.identity.catalog().get(&keys::credential(&id)).await.expect("read").expect("there").value;
    let hash = credential.password_hash.expose();
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    w.identity.authenticate("ann", &secret("password1")).await.expect("fits");
}
