//! Accounts move from one UCP to another, passwords and all, and what is there already stays.

use std::sync::Arc;

use crate::world::{Caller, PASSWORD, World};
use dtr_catalog::{
    Catalog,
    records::{Account, Credential, Membership, Team, TeamMembership},
};
use dtr_enzi::Enzi;
use dtr_identity::{
    AccountRecords, Actor, BuiltIn, BuiltInOptions, Cost, ExportLine, Identity as _, ImportAnswer,
    NewAccount,
};
use dtr_store_embedded::EmbeddedStore;
use dtr_types::{AccountId, Secret, SeededRandom};
use http::{Method, StatusCode};

const EXPORT: &str = "/enzi/v0/admin/exportAccounts";
const IMPORT: &str = "/enzi/v0/admin/importAccounts";

/// A UCP that knows nobody but its admin, whose ids are others.
async fn fresh() -> World {
    let mut world = World::new().await;
    let random = Arc::new(SeededRandom::new(77));
    let catalog = Catalog::new(EmbeddedStore::in_memory(), world.clock.clone(), random);
    let options = BuiltInOptions { cost: Cost::least(), ..BuiltInOptions::default() };
    world.identity = BuiltIn::new(catalog, options);
    let admin = "admin".parse().expect("a name");
    let made = world.identity.create_first_admin(admin, Secret::new(PASSWORD)).await;
    world.admin = made.expect("made").id;
    world.router = dtr_enzi::router(Enzi::new(world.identity.clone(), "https://other.example.com"));
    world
}

pub async fn export(from: &World) -> AccountRecords {
    let answer = from.send(Caller::Admin, Method::GET, EXPORT, "").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(answer.headers["cache-control"], "no-store");
    let mut records = AccountRecords::default();
    let mut ended = None;
    for line in answer.text.lines() {
        assert!(ended.is_none(), "nothing follows the end");
        let line: ExportLine = serde_json::from_str(line).expect("a line");
        ended = records.add(line);
    }
    assert_eq!(ended, Some(records.len() as u64));
    records
}

async fn import(into: &World, records: &AccountRecords) -> ImportAnswer {
    let body = serde_json::to_string(records).expect("JSON");
    let answer = into.send(Caller::Admin, Method::POST, IMPORT, &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    serde_json::from_str(&answer.text).expect("an answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_over_once() {
    let (from, into) = (World::new().await, fresh().await);
    let records = export(&from).await;
    assert_eq!((records.accounts.len(), records.credentials.len()), (6, 5));
    assert_eq!((records.teams.len(), records.team_members.len()), (1, 2));
    let answer = import(&into, &records).await;
    assert_eq!(answer.existing, 1, "the admin");
    assert_eq!(answer.ids.get(from.admin.as_str()).map(String::as_str), Some(into.admin.as_str()));
    assert_eq!(answer.created, 5 + 1 + records.memberships.len() as u64 + 2);
    // Everybody is who they were: the same ids, passwords, rights.
    let ann = into.identity.authenticate("ann", &Secret::new(PASSWORD)).await.expect("logs in");
    assert_eq!(ann.account.id, from.ann);
    assert_eq!(ann.teams, [(from.team.clone(), from.org.clone())]);
    let olga = into.identity.authenticate("olga", &Secret::new(PASSWORD)).await.expect("logs in");
    assert!(olga.owns(&from.org));
    let tim = into.send(Caller::TeamManager, Method::GET, "/enzi/v0/accounts/acme/teams/dev", "");
    assert_eq!(tim.await.status, StatusCode::OK);
    // Again: nothing changes, not even what was changed here since.
    let actor = Actor::system();
    into.identity.put_member(&actor, &from.org, &from.ann, Some(true)).await.expect("put");
    let again = import(&into, &records).await;
    assert_eq!((again.created, again.skipped), (0, 0), "{again:?}");
    let ann = into.identity.authenticate("ann", &Secret::new(PASSWORD)).await.expect("logs in");
    assert!(ann.owns(&from.org), "what is there stays as it is");
    assert_eq!(export(&into).await.accounts.len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_taken_keep_their_owner() {
    let (from, into) = (World::new().await, fresh().await);
    let actor = Actor::system();
    let other = NewAccount::user("ann".parse().expect("a name"), Secret::new("another-password"));
    let other = into.identity.create_account(&actor, other).await.expect("made");
    let mut records = export(&from).await;
    // As a client does it: what refers to accounts goes after them, under the ids of here.
    let accounts = AccountRecords {
        accounts: std::mem::take(&mut records.accounts),
        credentials: std::mem::take(&mut records.credentials),
        ..AccountRecords::default()
    };
    let answer = import(&into, &accounts).await;
    assert_eq!(answer.ids.get(from.ann.as_str()).map(String::as_str), Some(other.id.as_str()));
    let wrong = into.identity.authenticate("ann", &Secret::new(PASSWORD)).await;
    assert!(wrong.is_err(), "the password of here stays");
    // Members that are not here under that id are left out, not made up.
    let answer = import(&into, &records).await;
    assert!(answer.skipped > 0);
    let members = into.identity.members(&from.org).await.expect("asked");
    assert!(!members.iter().any(|member| member.member.name.as_str() == "ann"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_is_refused_by_name() {
    let (from, into) = (World::new().await, fresh().await);
    let good = export(&from).await;
    let is_ann = |account: &&mut Account| account.name.as_str() == "ann";
    let forge = |forge: &dyn Fn(&mut AccountRecords)| {
        let mut records = good.clone();
        forge(&mut records);
        serde_json::to_string(&records).expect("JSON")
    };
    let hash = |text: &'static str| {
        forge(&move |records: &mut AccountRecords| {
            records.credentials[0].password_hash = Secret::new(text);
        })
    };
    let salt = "A".repeat(22);
    let dear = format!("$argon2id$v=19$m=4194304,t=2,p=1${salt}${}", "A".repeat(43));
    let long = format!("$argon2id$v=19$m=8,t=4000000,p=1${salt}${}", "A".repeat(43));
    let cases = [
        (
            "an organization as admin",
            forge(&|records| {
                for account in records.accounts.iter_mut().filter(|account| account.is_org) {
                    account.is_admin = true;
                }
            }),
        ),
        (
            "an organization with a password",
            forge(&|records| {
                let org =
                    records.accounts.iter().find(|account| account.is_org).expect("one").id.clone();
                records.credentials[0].account = org;
            }),
        ),
        (
            "a full name without end",
            forge(&|records| {
                let ann = records.accounts.iter_mut().find(is_ann).expect("ann");
                ann.full_name = "x".repeat(300);
            }),
        ),
        ("no hash", hash("swordfish")),
        ("another kind of hash", hash("$5$rounds=5000$saltsalt$hash")),
        (
            "a hash that costs 4 GiB",
            forge(&|r| r.credentials[0].password_hash = Secret::new(&*dear)),
        ),
        (
            "a hash that costs hours",
            forge(&|r| r.credentials[0].password_hash = Secret::new(&*long)),
        ),
        ("what is no record", r#"{"accounts":[{"id":1}]}"#.to_owned()),
        ("what nobody knows", r#"{"sessions":[]}"#.to_owned()),
        ("a name that is none", forge(&|_| {}).replace("\"ann\"", "\"../ann\"")),
    ];
    for (what, body) in cases {
        let answer = into.send(Caller::Admin, Method::POST, IMPORT, &body).await;
        assert!(answer.status.is_client_error(), "{what}: {} {}", answer.status, answer.text);
        assert!(!answer.text.contains("$argon2id"), "{what}: no hash is told: {}", answer.text);
    }
    assert_eq!(export(&into).await.accounts.len(), 1, "nothing was made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_admins_gets_hashes() {
    let world = World::new().await;
    for caller in Caller::ALL.into_iter().filter(|caller| *caller != Caller::Admin) {
        let answer = world.send(caller, Method::GET, EXPORT, "").await;
        assert!(matches!(answer.status.as_u16(), 401 | 403), "{caller:?}: {}", answer.status);
        assert!(!answer.text.contains("argon2"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_come_over_in_batches() {
    let (from, into) = (World::new().await, fresh().await);
    let template = export(&from).await;
    let hash = template.credentials[0].password_hash.clone();
    let random = SeededRandom::new(5);
    let mut records = AccountRecords::default();
    for number in 0..2_500 {
        let account = Account {
            id: AccountId::random(&random),
            name: format!("user{number}").parse().expect("a name"),
            ..template.accounts.iter().find(|account| !account.is_org).expect("a user").clone()
        };
        records.credentials.push(Credential {
            account: account.id.clone(),
            password_hash: hash.clone(),
            changed_at: account.created_at,
        });
        records.memberships.push(Membership {
            organization: from.org.clone(),
            member: account.id.clone(),
            is_admin: false,
        });
        records.team_members.push(TeamMembership {
            team: from.team.clone(),
            organization: from.org.clone(),
            member: account.id.clone(),
            is_admin: false,
        });
        records.accounts.push(Account { is_admin: false, ..account });
    }
    let org = template.accounts.iter().find(|account| account.is_org).expect("one").clone();
    records.accounts.push(org);
    records.teams.extend(template.teams.iter().map(|team| Team { ..team.clone() }));
    let mut sum = ImportAnswer::default();
    for batch in records.clone().batches(200) {
        assert!(serde_json::to_vec(&batch).expect("JSON").len() < 512 << 10);
        sum.add(import(&into, &batch).await);
    }
    assert_eq!((sum.created, sum.existing, sum.skipped), (3 * 2_500 + 2, 0, 0));
    let exported = export(&into).await;
    assert_eq!(exported.accounts.len(), 2_502);
    assert_eq!(exported.team_members.len(), 2_500);
}
