//! Accounts out of one identity and into another: with their passwords, repeatably, and without what no account may be.

use std::sync::Arc;

use dtr_catalog::{
    Catalog, Kind,
    records::{Account, Event, Team},
};
use dtr_identity::{
    AccountChange, AccountRecords, Actor, BuiltIn, BuiltInOptions, Cost, ExportCursor, Identity,
    ManageError, NewAccount, NewTeam,
};
use dtr_store_embedded::EmbeddedStore;
use dtr_types::{AccountId, AccountName, ManualClock, Secret, SeededRandom, TeamId, Timestamp};

fn name(text: &str) -> AccountName {
    text.parse().expect("a name")
}

fn identity(seed: u64) -> BuiltIn {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
    let random = Arc::new(SeededRandom::new(seed));
    let catalog = Catalog::new(EmbeddedStore::in_memory(), clock, random);
    BuiltIn::new(catalog, BuiltInOptions { cost: Cost::least(), ..BuiltInOptions::default() })
}

async fn user(identity: &BuiltIn, who: &str, password: &str) -> AccountId {
    let new = NewAccount::user(name(who), Secret::new(password));
    identity.create_account(&Actor::system(), new).await.expect("made").id
}

async fn org(identity: &BuiltIn, who: &str) -> AccountId {
    let new = NewAccount::org(name(who));
    identity.create_account(&Actor::system(), new).await.expect("made").id
}

async fn team(identity: &BuiltIn, org: &AccountId, who: &str) -> TeamId {
    let new = NewTeam { name: who.parse().expect("a name"), description: "d".to_owned() };
    identity.create_team(&Actor::system(), org, new).await.expect("made").id
}

/// admin, alice who owns acme, bob in its team and switched off, carol who manages the team.
async fn filled(seed: u64) -> BuiltIn {
    let all = identity(seed);
    let actor = Actor::system();
    all.create_first_admin(name("admin"), Secret::new("admins-password")).await.expect("made");
    let alice = user(&all, "alice", "alices-password").await;
    let bob = user(&all, "bob", "bobs-password").await;
    let carol = user(&all, "carol", "carols-password").await;
    let acme = org(&all, "acme").await;
    let dev = team(&all, &acme, "dev").await;
    all.put_member(&actor, &acme, &alice, Some(true)).await.expect("put");
    all.put_team_member(&actor, &acme, &dev, &bob, None).await.expect("put");
    all.put_team_member(&actor, &acme, &dev, &carol, Some(true)).await.expect("put");
    let off = AccountChange { is_active: Some(false), ..AccountChange::default() };
    all.update_account(&actor, &bob, off).await.expect("changed");
    all
}

async fn export(identity: &BuiltIn) -> AccountRecords {
    let (mut cursor, mut records) = (ExportCursor::default(), AccountRecords::default());
    let mut ended = None;
    while let Some(lines) = identity.export(&mut cursor).await.expect("exported") {
        for line in lines {
            ended = records.add(line);
        }
    }
    assert_eq!(ended, Some(records.len() as u64));
    records
}

async fn fits(identity: &BuiltIn, who: &str, password: &str) -> bool {
    identity.authenticate(who, &Secret::new(password)).await.is_ok()
}

#[tokio::test]
async fn accounts_come_over_with_ids_flags_and_passwords_and_again_changes_nothing() {
    let from = filled(1).await;
    let all = export(&from).await;
    assert_eq!((all.accounts.len(), all.credentials.len()), (5, 4));
    assert_eq!((all.teams.len(), all.memberships.len(), all.team_members.len()), (1, 3, 2));
    let to = identity(2);
    let would = to.check_import(&all).await.expect("looked at");
    assert_eq!((would.created, would.existing), (5, 0));
    assert!(to.is_empty().await.expect("asked"), "only looked at");
    let actor = Actor { name: "root".to_owned(), id: None };
    let answer = to.import(&actor, all.clone()).await.expect("loaded");
    assert_eq!((answer.created, answer.existing), (11, 0));
    assert!(answer.ids.is_empty(), "{answer:?}");
    assert_eq!(export(&to).await, all);
    assert!(fits(&to, "alice", "alices-password").await);
    assert!(fits(&to, "admin", "admins-password").await);
    assert!(!fits(&to, "alice", "bobs-password").await);
    assert!(!fits(&to, "bob", "bobs-password").await, "switched off there, so here");
    let carol = to.authenticate("carol", &Secret::new("carols-password")).await.expect("fits");
    assert_eq!((carol.memberships.len(), carol.teams.len()), (1, 1));
    let events: Vec<Event> = to.catalog().all(Kind::Event.prefix().as_bytes()).await.expect("read");
    assert_eq!(events.len(), 11, "each leaves what it leaves when it is made by itself");
    assert!(events.iter().all(|event| event.actor == "root"));
    let answer = to.import(&actor, all.clone()).await.expect("loaded");
    assert_eq!((answer.created, answer.existing), (0, 11));
    assert_eq!(export(&to).await, all);
}

#[tokio::test]
async fn what_is_there_by_name_stays_and_what_follows_is_handed_to_it() {
    let all = export(&filled(3).await).await;
    let to = identity(4);
    let actor = Actor::system();
    to.create_first_admin(name("root"), Secret::new("roots-password")).await.expect("made");
    // Here the archive's administrator is nobody special, and alice only a member.
    let admin = user(&to, "admin", "another-password").await;
    let alice = user(&to, "alice", "alices-new-password").await;
    let acme = org(&to, "acme").await;
    let dev = team(&to, &acme, "dev").await;
    to.put_member(&actor, &acme, &alice, Some(false)).await.expect("put");
    let answer = to.import(&actor, all.clone()).await.expect("loaded");
    assert_eq!(answer.ids.len(), 4, "{answer:?}");
    assert_eq!(answer.ids[all.teams[0].id.as_str()], dev.as_str());
    assert!(fits(&to, "alice", "alices-new-password").await);
    assert!(!fits(&to, "alice", "alices-password").await, "nobody gets another password");
    let here = to.account_by_id(&admin).await.expect("asked").expect("there");
    assert!(!here.is_admin, "nor rights over everything");
    let membership = to.membership(&acme, &alice).await.expect("asked").expect("there");
    assert!(!membership.is_admin, "nor an organization");
    let carol = to.authenticate("carol", &Secret::new("carols-password")).await.expect("fits");
    assert_eq!(carol.teams, [(dev, acme)]);
    let again = to.import(&actor, all).await.expect("loaded");
    assert_eq!((again.created, again.existing, again.skipped), (0, 11, 0));
    assert_eq!(again.ids, answer.ids);
}

#[tokio::test]
async fn a_team_cannot_take_the_members_of_another_by_its_id() {
    let to = filled(5).await;
    let mut all = export(&to).await;
    let other = org(&to, "other").await;
    all.teams[0].organization = other.clone();
    all.teams[0].name = "thieves".parse().expect("a name");
    let victim = all.teams[0].id.clone();
    let batch = AccountRecords { teams: all.teams.clone(), ..AccountRecords::default() };
    let answer = to.import(&Actor::system(), batch).await.expect("loaded");
    let made: TeamId = answer.ids[victim.as_str()].parse().expect("an id");
    assert_ne!(made, victim);
    assert!(to.team_members(&other, &made).await.expect("asked").is_empty());
}

#[tokio::test]
async fn what_no_account_may_be_is_refused_before_anything_is_made() {
    let all = export(&filled(6).await).await;
    let acme = all.accounts.iter().position(|account| account.is_org).expect("there");
    let alice = all.accounts.iter().position(|a| a.name.as_str() == "alice").expect("there");
    let good = all.credentials[0].password_hash.expose().to_owned();
    let id = all.accounts[alice].id.clone();
    let hash = |text: &str| {
        let (mut all, id, text) = (all.clone(), id.clone(), text.to_owned());
        let of = all.credentials.iter_mut().find(|found| found.account == id).expect("there");
        of.password_hash = Secret::new(text);
        all
    };
    let tail = good.split('$').skip(4).collect::<Vec<_>>().join("$");
    let costs = |costs: &str| hash(&format!("$argon2id$v=19${costs}${tail}"));
    let changed = |change: &dyn Fn(&mut AccountRecords)| {
        let mut all = all.clone();
        change(&mut all);
        all
    };
    let salt = tail.split('$').next().expect("a salt").to_owned();
    let cases = [
        ("Argon2id", hash("alices-password")),
        ("Argon2id", hash("")),
        ("Argon2id", hash("$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW")),
        ("Argon2id", hash(&good.replace("argon2id", "argon2i"))),
        ("Argon2id", hash(&good.replace("v=19", "v=16"))),
        ("Argon2id", hash(&"$".repeat(100_000))),
        ("too much memory", costs("m=4194304,t=1,p=1")),
        ("too much memory", costs("m=65536,t=4000000,p=1")),
        ("too much memory", costs("m=1024,t=1,p=128")),
        ("parameters", costs("m=4,t=1,p=1")),
        ("parameters", costs("x=1")),
        ("too short", hash(&format!("$argon2id$v=19$m=8,t=1,p=1${salt}"))),
        ("too short", hash(&format!("$argon2id$v=19$m=8,t=1,p=1${salt}$AAAAAAAAAAAAAA"))),
        ("which is no admin", changed(&|all| all.accounts[acme].is_admin = true)),
        ("which is no admin", changed(&|all| all.accounts[acme].is_active = false)),
        (
            "which has no password",
            changed(&|all| all.credentials[0].account = all.accounts[acme].id.clone()),
        ),
        ("has two", changed(&|all| all.credentials.push(all.credentials[0].clone()))),
        ("twice", changed(&|all| all.accounts.push(all.accounts[0].clone()))),
        ("twice", changed(&|all| all.teams.push(all.teams[0].clone()))),
        ("form of", changed(&|all| all.accounts[alice].name = name(all.accounts[0].id.as_str()))),
        ("characters", changed(&|all| all.accounts[alice].full_name = "x".repeat(300))),
        ("characters", changed(&|all| all.accounts[alice].full_name = "a\nb".to_owned())),
        ("characters", changed(&|all| all.teams[0].description = "x".repeat(3_000))),
    ];
    let to = identity(7);
    for (expected, batch) in cases {
        for error in [
            to.check_import(&batch).await.expect_err(expected),
            to.import(&Actor::system(), batch.clone()).await.expect_err(expected),
        ] {
            let text = error.to_string();
            assert!(text.contains(expected), "{text} is not about {expected}");
            assert!(!text.contains(&tail) && !text.contains("alices-password"), "{text}");
            assert!(matches!(error, ManageError::Invalid { .. } | ManageError::Refused(_)));
        }
        assert!(to.is_empty().await.expect("asked"), "{expected}");
    }
}

#[tokio::test]
async fn what_refers_to_nothing_is_left_out_and_a_user_is_no_organization() {
    let to = filled(8).await;
    let all = export(&to).await;
    let acme = all.accounts.iter().find(|account| account.is_org).expect("there").clone();
    let alice = all.accounts.iter().find(|a| a.name.as_str() == "alice").expect("there").clone();
    let stranger = AccountId::random(&SeededRandom::new(99));
    let ghosts = [
        (&stranger, &alice.id),
        (&alice.id, &alice.id),
        (&acme.id, &stranger),
        (&acme.id, &acme.id),
    ];
    let mut batch = AccountRecords::default();
    for (organization, member) in ghosts {
        let mut membership = all.memberships[0].clone();
        (membership.organization, membership.member) = (organization.clone(), member.clone());
        batch.memberships.push(membership);
        let mut membership = all.team_members[0].clone();
        (membership.organization, membership.member) = (organization.clone(), member.clone());
        batch.team_members.push(membership);
    }
    batch.team_members.push(all.team_members[0].clone());
    batch.team_members[4].team = TeamId::random(&SeededRandom::new(98));
    batch.teams.push(all.teams[0].clone());
    batch.teams[0].organization = alice.id.clone();
    let answer = to.import(&Actor::system(), batch).await.expect("loaded");
    assert_eq!((answer.created, answer.existing, answer.skipped), (0, 0, 10), "{answer:?}");
    let user = Account { id: stranger, name: acme.name.clone(), ..alice.clone() };
    let org = Account { id: alice.id.clone(), ..acme.clone() };
    for (expected, account) in
        [("is an organization here and a user", user), ("is a user here and an organization", org)]
    {
        let batch = AccountRecords { accounts: vec![account], ..AccountRecords::default() };
        let error = to.import(&Actor::system(), batch).await.expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert_eq!(export(&to).await, all);
}

#[tokio::test]
async fn times_to_come_are_brought_back() {
    let mut all = export(&filled(9).await).await;
    let far = Timestamp::from_millis(9_000_000_000_000);
    for account in &mut all.accounts {
        account.created_at = far;
    }
    for credential in &mut all.credentials {
        credential.changed_at = far;
    }
    let to = identity(10);
    to.import(&Actor::system(), all).await.expect("loaded");
    let login = to.login("alice", &Secret::new("alices-password"), None).await.expect("fits");
    assert!(to.session(&login.token).await.expect("asked").is_some(), "the session goes on");
}

#[tokio::test]
async fn batches_fit_into_requests() {
    let mut all = export(&filled(11).await).await;
    let (account, team) = (all.accounts[0].clone(), all.teams[0].clone());
    let random = SeededRandom::new(12);
    for n in 0..3_000 {
        let id = AccountId::random(&random);
        let (name, full_name) = (name(&format!("user{n}")), "\u{10ffff}".repeat(256));
        all.accounts.push(Account { id, name, full_name, ..account.clone() });
        // Written with six bytes each.
        let description = "\u{1}".repeat(1_024);
        all.teams.push(Team { id: TeamId::random(&random), description, ..team.clone() });
    }
    let (accounts, teams, count) = (all.accounts.clone(), all.teams.clone(), all.len());
    let batches = all.batches(1_000);
    let mut sum = AccountRecords::default();
    for batch in &batches {
        let size = serde_json::to_vec(batch).expect("JSON").len();
        assert!(size < 400 << 10, "{size}");
        assert!(batch.len() <= 1_000);
        for credential in &batch.credentials {
            assert!(batch.accounts.iter().any(|account| account.id == credential.account));
        }
        sum.accounts.extend(batch.accounts.iter().cloned());
        sum.teams.extend(batch.teams.iter().cloned());
    }
    assert_eq!((sum.accounts, sum.teams), (accounts, teams), "in their order");
    assert_eq!(batches.iter().map(AccountRecords::len).sum::<usize>(), count);
}
