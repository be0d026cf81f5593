//! Restores into another identity service: owners are found by map, by id, by name, or listed.

use std::sync::Arc;

use dtr_catalog::records::{Account, ClusterRecord, IdentitySource, Team};
use dtr_identity::{AccountRecords, Identity, IdentityError, ImportAnswer, Principal};
use dtr_recovery::{BackupOptions, Exit, IdentityTarget, RecoveryError, Refusal, RestoreOptions};
use dtr_store::At;
use dtr_types::{AccountId, AccountName, ClusterId, Secret, TeamId, TeamName};
use service::Service;

use crate::world::{VERSION, World};

/// A UCP, as far as a restore asks it.
mod service {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    pub struct Service {
        pub accounts: Mutex<Vec<Account>>,
        pub teams: Mutex<Vec<Team>>,
    }

    impl Service {
        pub fn with(accounts: Vec<Account>, teams: Vec<Team>) -> Arc<Self> {
            Arc::new(Self { accounts: Mutex::new(accounts), teams: Mutex::new(teams) })
        }
    }

    #[async_trait::async_trait]
    impl Identity for Service {
        async fn authenticate(&self, _: &str, _: &Secret) -> Result<Arc<Principal>, IdentityError> {
            Err(IdentityError::WrongCredentials)
        }
        async fn session(&self, _: &Secret) -> Result<Option<Arc<Principal>>, IdentityError> {
            Ok(None)
        }
        async fn principal(&self, _: &AccountId) -> Result<Option<Arc<Principal>>, IdentityError> {
            Ok(None)
        }
        async fn account(&self, name: &AccountName) -> Result<Option<Account>, IdentityError> {
            Ok(self.accounts.lock().unwrap().iter().find(|a| a.name == *name).cloned())
        }
        async fn account_by_id(&self, id: &AccountId) -> Result<Option<Account>, IdentityError> {
            Ok(self.accounts.lock().unwrap().iter().find(|a| a.id == *id).cloned())
        }
        async fn team(
            &self,
            org: &AccountId,
            name: &TeamName,
        ) -> Result<Option<Team>, IdentityError> {
            let teams = self.teams.lock().unwrap();
            Ok(teams.iter().find(|t| t.organization == *org && t.name == *name).cloned())
        }
        async fn team_by_id(
            &self,
            org: &AccountId,
            id: &TeamId,
        ) -> Result<Option<Team>, IdentityError> {
            let teams = self.teams.lock().unwrap();
            Ok(teams.iter().find(|t| t.organization == *org && t.id == *id).cloned())
        }
        async fn health(&self) -> Result<(), IdentityError> {
            Ok(())
        }
    }

    #[async_trait::async_trait]
    impl IdentityTarget for Service {
        async fn check(&self, records: &AccountRecords) -> Result<ImportAnswer, RecoveryError> {
            if records.accounts.iter().any(|account| account.name.as_str() == "mallory") {
                let reason = "\"mallory\" is refused".to_owned();
                return Err(Refusal::Accounts { reason }.into());
            }
            let created = records.accounts.len() as u64;
            Ok(ImportAnswer { created, ..ImportAnswer::default() })
        }

        async fn load(&self, records: AccountRecords) -> Result<ImportAnswer, RecoveryError> {
            let created = records.len() as u64;
            self.accounts.lock().unwrap().extend(records.accounts.iter().cloned());
            self.teams.lock().unwrap().extend(records.teams.iter().cloned());
            Ok(ImportAnswer { created, ..ImportAnswer::default() })
        }
    }
}

fn ucp() -> IdentitySource {
    IdentitySource::Ucp {
        url: "https://ucp.example".to_owned(),
        ca: String::new(),
        insecure_tls: false,
        service: None,
    }
}

/// A registry whose people live in a UCP.
async fn at_a_ucp(seed: u64) -> (World, Arc<Service>) {
    let world = World::installed(seed).await;
    world.fill().await;
    let service =
        Service::with(vec![world.alice.clone(), world.corp.clone()], vec![world.team.clone()]);
    world.catalog.delete_account(&world.alice.id, None).await.unwrap();
    world.catalog.delete_team(&world.corp.id, &world.team.id, None).await.unwrap();
    world.catalog.delete_account(&world.corp.id, None).await.unwrap();
    let front = world.repository("corp/web/front").await;
    world.grant(&front).await;
    world.token("ci").await;
    let cluster = world.catalog.cluster().await.unwrap().unwrap();
    let cluster = ClusterRecord { identity: ucp(), ..cluster };
    world.catalog.put(&cluster).await.unwrap();
    (world, service)
}

fn rebuilt(world: &World, seed: u64) -> (Account, Account, Team, Arc<Service>) {
    let random = dtr_types::SeededRandom::new(seed);
    let alice = Account { id: AccountId::random(&random), ..world.alice.clone() };
    let corp = Account { id: AccountId::random(&random), ..world.corp.clone() };
    let team =
        Team { id: TeamId::random(&random), organization: corp.id.clone(), ..world.team.clone() };
    let service = Service::with(vec![alice.clone(), corp.clone()], vec![team.clone()]);
    (alice, corp, team, service)
}

#[tokio::test]
async fn the_same_ucp_knows_all_by_id() {
    let (world, service) = at_a_ucp(61).await;
    let (archive, report) = world.backup(BackupOptions::new(VERSION)).await;
    assert!(!report.with_identity);
    assert!(report.not_included.iter().any(|missing| missing.how.contains("ucp backup")));
    let target = world.beside(62).await;
    let mut to = target.target();
    to.identity = Some(service);
    let input = std::io::Cursor::new(archive);
    let back = dtr_recovery::restore(input, Default::default(), &to, RestoreOptions::new(VERSION))
        .await
        .unwrap();
    assert_eq!((back.owners.by_id, back.exit()), (3, Exit::Done), "{back}");
    let cluster = target.catalog.cluster().await.unwrap().unwrap();
    assert_eq!(cluster.identity, ucp());
}

#[tokio::test]
async fn a_rebuilt_ucp_is_matched_by_name_and_everything_is_handed_over() {
    let (world, service) = at_a_ucp(63).await;
    let options = BackupOptions { directory: Some(service), ..BackupOptions::new(VERSION) };
    let (archive, _) = world.backup(options).await;
    let (alice, corp, team, service) = rebuilt(&world, 64);
    let target = world.beside(65).await;
    let mut to = target.target();
    to.identity = Some(service);
    let input = std::io::Cursor::new(archive);
    let back = dtr_recovery::restore(input, Default::default(), &to, RestoreOptions::new(VERSION))
        .await
        .unwrap();
    assert_eq!(back.owners.by_name.len(), 3, "{back}");
    assert_eq!(target.repository("alice/app").await.namespace, alice.id);
    let front = target.repository("corp/web/front").await;
    assert_eq!(front.namespace, corp.id);
    let grants = target.catalog.repository_grants(&front.id).await.unwrap();
    assert_eq!((&grants[0].team, &grants[0].organization), (&team.id, &corp.id));
    assert_eq!(target.catalog.team_grants(&team.id).await.unwrap().len(), 1);
    assert!(target.catalog.team_grants(&world.team.id).await.unwrap().is_empty());
    assert_eq!(target.catalog.account_tokens(&alice.id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn unknown_owners_are_listed_mapped_or_accepted() {
    let (world, service) = at_a_ucp(66).await;
    let options = BackupOptions { directory: Some(service), ..BackupOptions::new(VERSION) };
    let (archive, _) = world.backup(options).await;
    let (mut bob, mut firm, mut people, _) = rebuilt(&world, 67);
    bob.name = "bob".parse().unwrap();
    firm.name = "firm".parse().unwrap();
    people.name = "people".parse().unwrap();
    let service = Service::with(vec![bob.clone(), firm.clone()], vec![people.clone()]);
    let target = world.beside(68).await;
    let mut to = target.target();
    to.identity = Some(service);

    let input = || std::io::Cursor::new(archive.clone());
    let options = RestoreOptions::new(VERSION);
    let error = dtr_recovery::restore(input(), Default::default(), &to, options).await.unwrap_err();
    let RecoveryError::Refused(Refusal::UnknownOwners { count: 3, owners }) = &error else {
        panic!("{error}");
    };
    assert!(owners.iter().any(|owner| owner.starts_with("alice ")), "{owners:?}");
    assert!(target.state(At::Latest).await.is_empty());

    let map = "alice = bob\ncorp = firm\ncorp/web = firm/people\n";
    let mapped = RestoreOptions { owner_map: map.parse().unwrap(), ..RestoreOptions::new(VERSION) };
    let back = dtr_recovery::restore(input(), Default::default(), &to, mapped).await.unwrap();
    assert_eq!(back.owners.mapped.len(), 3, "{back}");
    let name = "bob/app".parse().unwrap();
    let moved = target.catalog.lookup_repository(&name).await.unwrap().unwrap().value;
    assert_eq!(moved.namespace, bob.id);
    let old = "alice/app".parse().unwrap();
    assert!(target.catalog.lookup_repository(&old).await.unwrap().is_none());
    assert_eq!(target.catalog.team_grants(&people.id).await.unwrap().len(), 1);

    let other = world.beside(69).await;
    let to = dtr_recovery::RestoreTarget { catalog: other.catalog.clone(), ..to };
    let accepted = RestoreOptions { accept_unknown_owners: true, ..RestoreOptions::new(VERSION) };
    let back = dtr_recovery::restore(input(), Default::default(), &to, accepted).await.unwrap();
    assert_eq!(back.owners.unknown.len(), 3);
}

#[tokio::test]
async fn the_archives_own_accounts_are_loaded_first() {
    let (world, _) = at_a_ucp(70).await;
    let identity = AccountRecords {
        accounts: vec![world.corp.clone(), world.alice.clone()],
        teams: vec![world.team.clone()],
        ..AccountRecords::default()
    };
    let options = BackupOptions { identity: Some(identity), ..BackupOptions::new(VERSION) };
    let (archive, report) = world.backup(options).await;
    assert!(report.with_identity && !report.with_passwords);
    assert!(report.not_included.iter().any(|missing| missing.what.contains("password hashes")));
    assert_eq!(report.records["identity/accounts"], 2);
    let input = std::io::Cursor::new(archive.clone());
    let inspection = dtr_recovery::inspect(input, Default::default()).await.unwrap();
    assert!(inspection.to_string().contains("yes, without password hashes"), "{inspection}");

    // Into an empty UCP.
    let service = Service::with(Vec::new(), Vec::new());
    let target = world.beside(71).await;
    let mut to = target.target();
    to.identity = Some(service.clone());
    to.identity_target = Some(service.clone());
    let load = RestoreOptions { load_identity: true, ..RestoreOptions::new(VERSION) };
    let look = RestoreOptions { dry_run: true, ..load.clone() };
    let input = std::io::Cursor::new(archive.clone());
    let would = dtr_recovery::restore(input, Default::default(), &to, look).await.unwrap();
    assert!(would.to_string().contains("accounts: 2 would be made"), "{would}");
    assert!(service.accounts.lock().unwrap().is_empty(), "a dry run loads nothing");
    let input = std::io::Cursor::new(archive.clone());
    let back = dtr_recovery::restore(input, Default::default(), &to, load.clone()).await.unwrap();
    assert_eq!(back.accounts.as_ref().map(|loaded| loaded.created), Some(3));
    assert!(back.next[0].contains("set passwords"), "{back}");
    assert_eq!((back.owners.by_id, service.accounts.lock().unwrap().len()), (3, 2), "{back}");
    assert!(target.catalog.lookup_account(&world.alice.name).await.unwrap().is_none());

    // Into the built-in identity.
    let target = world.beside(72).await;
    let built_in = RestoreOptions { identity: Some(IdentitySource::BuiltIn), ..load };
    let back = target.restore(&archive, built_in).await.unwrap();
    assert_eq!(back.owners.by_id, 3, "{back}");
    assert!(target.catalog.lookup_account(&world.alice.name).await.unwrap().is_some());

    // Without them, a fresh built-in identity knows nobody.
    let target = world.beside(73).await;
    let without =
        RestoreOptions { identity: Some(IdentitySource::BuiltIn), ..RestoreOptions::new(VERSION) };
    let error = target.restore(&archive, without).await.unwrap_err();
    assert!(matches!(error, RecoveryError::Refused(Refusal::UnknownOwners { .. })), "{error}");
    let cluster: ClusterId = world.catalog.cluster().await.unwrap().unwrap().id;
    assert_eq!(cluster, back.from_cluster);
}

#[tokio::test]
async fn a_service_that_refuses_one_account_gets_none() {
    let (world, _) = at_a_ucp(74).await;
    let mallory = Account { name: "mallory".parse().unwrap(), ..world.alice.clone() };
    let accounts = vec![world.corp.clone(), mallory];
    let identity = AccountRecords { accounts, ..AccountRecords::default() };
    let options = BackupOptions { identity: Some(identity), ..BackupOptions::new(VERSION) };
    let (archive, _) = world.backup(options).await;
    let service = Service::with(Vec::new(), Vec::new());
    let target = world.beside(75).await;
    let mut to = target.target();
    to.identity = Some(service.clone());
    to.identity_target = Some(service.clone());
    let load = RestoreOptions { load_identity: true, ..RestoreOptions::new(VERSION) };
    let input = std::io::Cursor::new(archive);
    let error = dtr_recovery::restore(input, Default::default(), &to, load).await.unwrap_err();
    assert!(matches!(error, RecoveryError::Refused(Refusal::Accounts { .. })), "{error}");
    assert_eq!(error.exit(), Exit::Refused);
    assert!(service.accounts.lock().unwrap().is_empty());
    assert!(target.catalog.cluster().await.unwrap().is_none());
}
