//! Owner maps of every shape: two that change places, chains, circles, many to one. No repository is lost, what a map
//! touches goes along, and what would leave two repositories with one name is refused with nothing changed. Names that
//! must be unique are looked at by a verification and by a restore.

use std::{collections::BTreeMap, fmt::Write as _};

use dtr_catalog::{CatalogError, Loader, records::*};
use dtr_recovery::{
    BackupOptions, Exit, RecoveryError, Refusal, RestoreOptions, RestoreReport, VerifyOptions,
    verify,
};
use dtr_store::At;
use dtr_types::{AccountId, Clock as _, Random as _, RepositoryId, TeamId};

use crate::world::{VERSION, World, assert_same, restored};

const USERS: usize = 4;
const ORGS: usize = 3;
const TEAMS: usize = 2;

/// People, organizations and what they own.
struct People {
    world: World,
    accounts: Vec<Account>,
    teams: Vec<Team>,
}

impl People {
    async fn new(seed: u64) -> Self {
        let world = World::installed(seed).await;
        let (mut accounts, mut teams) = (Vec::new(), Vec::new());
        for number in 0..USERS + ORGS {
            let is_org = number >= USERS;
            let name = if is_org { format!("org{number}") } else { format!("user{number}") };
            let account = Account {
                id: AccountId::random(&*world.random),
                name: name.parse().unwrap(),
                is_org,
                ..world.alice.clone()
            };
            world.catalog.create_account(&account, None, None).await.unwrap();
            for team in 0..if is_org { TEAMS } else { 0 } {
                let team = Team {
                    id: TeamId::random(&*world.random),
                    organization: account.id.clone(),
                    name: format!("team{team}").parse().unwrap(),
                    ..world.team.clone()
                };
                world.catalog.create_team(&team, None).await.unwrap();
                teams.push(team);
            }
            accounts.push(account);
        }
        Self { world, accounts, teams }
    }

    async fn own(&self, owner: &Account, name: &str) -> Repository {
        let repository = Repository {
            id: RepositoryId::random(&*self.world.random),
            name: format!("{}/{name}", owner.name).parse().unwrap(),
            namespace: owner.id.clone(),
            namespace_is_org: owner.is_org,
            ..self.world.repository("alice/form").await
        };
        self.world.catalog.create_repository(&repository, None).await.unwrap();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{0}","manifests":[],"annotations":{{"of":"{1}"}}}}"#,
            dtr_types::media_types::OCI_INDEX,
            repository.name
        );
        self.world.manifest(&repository, &manifest, &["1"]).await.unwrap();
        for team in self.teams.iter().filter(|team| team.organization == owner.id) {
            let level = match self.world.random.bytes::<1>()[0] % 4 {
                0 => continue,
                1 => AccessLevel::ReadOnly,
                2 => AccessLevel::ReadWrite,
                _ => AccessLevel::Admin,
            };
            let grant = RepositoryGrant {
                repository: repository.id.clone(),
                team: team.id.clone(),
                organization: owner.id.clone(),
                level,
                granted_at: self.world.clock.now(),
            };
            self.world.catalog.put_repository_grant(&grant, None).await.unwrap();
        }
        repository
    }

    async fn fill(&self, same_names: bool) {
        for (number, owner) in self.accounts.iter().enumerate() {
            self.own(owner, &format!("own{number}/deep")).await;
            if same_names {
                self.own(owner, "app").await;
            }
            let limits = vec![format!("{}/*", owner.name), format!("{}/app", owner.name)];
            let token = AccessToken {
                account: owner.id.clone(),
                hash: self.world.random.hex(32),
                repositories: Some(limits),
                ..self.world.token("form").await
            };
            self.world.catalog.create_access_token(&token, None).await.unwrap();
            for team in self.teams.iter().filter(|team| team.organization == owner.id) {
                let grant = NamespaceGrant {
                    namespace: owner.id.clone(),
                    team: team.id.clone(),
                    level: AccessLevel::ReadWrite,
                    granted_at: self.world.clock.now(),
                };
                self.world.catalog.put_namespace_grant(&grant, None).await.unwrap();
            }
        }
    }

    fn teams_of(&self, id: &AccountId) -> Vec<&Team> {
        self.teams.iter().filter(|team| team.organization == *id).collect()
    }

    fn pick(&self, from: usize) -> usize {
        usize::from(self.world.random.bytes::<1>()[0]) % from
    }

    /// A map at random, of users to users and organizations to organizations, with lines for the teams.
    fn map(&self) -> (String, BTreeMap<AccountId, Account>, BTreeMap<TeamId, Team>) {
        let (mut text, mut accounts, mut teams) = (String::new(), BTreeMap::new(), BTreeMap::new());
        for account in &self.accounts {
            let here = match self.pick(3) {
                0 => account,
                _ if account.is_org => &self.accounts[USERS + self.pick(ORGS)],
                _ => &self.accounts[self.pick(USERS)],
            };
            if here.id != account.id {
                // By its name or by its id, on either side.
                let there =
                    if self.pick(2) == 0 { account.name.as_str() } else { account.id.as_str() };
                let now = if self.pick(2) == 0 { here.name.as_str() } else { here.id.as_str() };
                writeln!(text, "{there} = {now}").unwrap();
            }
            accounts.insert(account.id.clone(), here.clone());
            for team in self.teams_of(&account.id) {
                let others = self.teams_of(&here.id);
                let other = others[self.pick(others.len())];
                writeln!(text, "{}/{} {}/{}", account.name, team.name, here.name, other.name)
                    .unwrap();
                teams.insert(team.id.clone(), other.clone());
            }
        }
        (text, accounts, teams)
    }
}

async fn all<T: dtr_catalog::Record>(world: &World) -> Vec<T> {
    world.catalog.all(T::KIND.prefix().as_bytes()).await.unwrap()
}

async fn mapped(
    world: &World,
    map: &str,
    dry_run: bool,
    archive: &[u8],
) -> Result<RestoreReport, RecoveryError> {
    let owner_map = map.parse().unwrap();
    world
        .restore(archive, RestoreOptions { owner_map, dry_run, ..RestoreOptions::new(VERSION) })
        .await
}

/// What belongs to whom after a restore with a map is what the map says, by every way in.
async fn check(
    people: &People,
    target: &World,
    accounts: &BTreeMap<AccountId, Account>,
    teams: &BTreeMap<TeamId, Team>,
) {
    let here = |id: &AccountId| accounts.get(id).map_or(id, |account| &account.id).clone();
    let before: Vec<Repository> = all(&people.world).await;
    let mut names = Vec::new();
    for old in &before {
        let new = accounts.get(&old.namespace);
        let (_, rest) = old.name.as_str().split_once('/').unwrap();
        let name = new.map_or(old.name.to_string(), |new| format!("{}/{rest}", new.name));
        let found = target.catalog.lookup_repository(&name.parse().unwrap()).await.unwrap();
        let found = found.unwrap_or_else(|| panic!("{} is not at {name}", old.name)).value;
        assert_eq!((&found.id, &found.namespace), (&old.id, &here(&old.namespace)), "{name}");
        names.push(name);
    }
    names.sort();
    let mut listed: Vec<String> =
        all::<Repository>(target).await.iter().map(|found| found.name.to_string()).collect();
    listed.sort();
    assert_eq!(listed, names);

    let mut grants: BTreeMap<(RepositoryId, TeamId), AccessLevel> = BTreeMap::new();
    for old in all::<RepositoryGrant>(&people.world).await {
        let team = teams.get(&old.team).map_or(&old.team, |team| &team.id).clone();
        let level = grants.entry((old.repository, team)).or_insert(old.level);
        *level = old.level.max(*level);
    }
    let found: BTreeMap<_, _> = all::<RepositoryGrant>(target)
        .await
        .into_iter()
        .map(|grant| {
            let owner = people.teams.iter().find(|team| team.id == grant.team);
            assert!(owner.is_none_or(|team| team.organization == grant.organization));
            ((grant.repository, grant.team), grant.level)
        })
        .collect();
    assert_eq!(found, grants);
    for token in all::<AccessToken>(&people.world).await {
        let key = dtr_catalog::keys::access_token(&token.hash);
        let found = target.catalog.get(&key).await.unwrap().unwrap().value;
        assert_eq!(found.account, here(&token.account));
        if let Some(new) = accounts.get(&token.account) {
            let limits = vec![format!("{}/*", new.name), format!("{}/app", new.name)];
            assert_eq!(found.repositories, Some(limits));
        }
        let of = target.catalog.account_tokens(&found.account).await.unwrap();
        assert!(of.iter().any(|one| one.hash == token.hash));
    }
    // Every key is the one that these records would have had from the beginning.
    let (archive, _) =
        target.backup(BackupOptions { record: false, ..BackupOptions::new(VERSION) }).await;
    let input = std::io::Cursor::new(archive.clone());
    let judged = verify(input, Default::default(), VerifyOptions::default()).await.unwrap();
    assert_eq!(judged.exit(), Exit::Done, "{judged}");
    let again = target.beside(7).await;
    again.restore(&archive, RestoreOptions::new(VERSION)).await.unwrap();
    let state = restored(target.state(At::Latest).await);
    assert_same(&restored(again.state(At::Latest).await), &state);
}

#[tokio::test]
async fn maps_at_random_lose_nothing_or_are_refused() {
    let (mut refused, mut done) = (0, 0);
    for seed in 0..30 {
        let people = People::new(200 + seed).await;
        let same_names = seed % 2 == 0;
        people.fill(same_names).await;
        let (map, accounts, teams) = people.map();
        let (archive, _) = people.world.backup(BackupOptions::new(VERSION)).await;
        // In which two of one name meet: with the same names, wherever two become one.
        let mut takers = BTreeMap::new();
        for here in accounts.values() {
            *takers.entry(&here.id).or_insert(0) += 1;
        }
        let meet = same_names && takers.values().any(|count| *count > 1);
        let target = people.world.beside(300 + seed).await;
        let would = mapped(&target, &map, true, &archive).await;
        let outcome = mapped(&target, &map, false, &archive).await;
        if meet {
            for error in [would.unwrap_err(), outcome.unwrap_err()] {
                let RecoveryError::Refused(Refusal::Names { names }) = &error else {
                    panic!("seed {seed}: {error}\n{map}");
                };
                assert!(names.iter().all(|name| name.contains("/app ")), "{names:?}");
                assert_eq!(error.exit(), Exit::Refused);
            }
            assert!(target.state(At::Latest).await.is_empty(), "seed {seed}");
            refused += 1;
        } else {
            would.unwrap_or_else(|error| panic!("seed {seed}: {error}\n{map}"));
            let report = outcome.unwrap_or_else(|error| panic!("seed {seed}: {error}\n{map}"));
            assert!(report.owners.unknown.is_empty(), "{report}\n{map}");
            check(&people, &target, &accounts, &teams).await;
            done += 1;
        }
    }
    assert!(refused > 2 && done > 10, "{refused} refused, {done} done");
}

#[tokio::test]
async fn two_that_change_places_keep_everything() {
    let people = People::new(250).await;
    people.fill(true).await;
    let (archive, _) = people.world.backup(BackupOptions::new(VERSION)).await;
    for map in
        ["user0 user1\nuser1 user0\n", "user0 user1\nuser1 user2\nuser2 user0\nuser9 user0\n"]
    {
        let target = people.world.beside(251).await;
        let report = mapped(&target, map, false, &archive).await.unwrap();
        let accounts =
            |name: &str| people.accounts.iter().find(|a| a.name.as_str() == name).unwrap();
        let pairs = map.lines().filter(|line| !line.contains('9')).map(|line| {
            let (there, here) = line.split_once(' ').unwrap();
            (accounts(there).id.clone(), accounts(here).clone())
        });
        check(&people, &target, &pairs.collect(), &BTreeMap::new()).await;
        let unused: &[&str] = if map.contains('9') { &["user9"] } else { &[] };
        assert_eq!(report.owners.not_in_archive, unused, "{report}");
    }
}

#[tokio::test]
async fn what_goes_to_an_organization_is_its_own() {
    let people = People::new(252).await;
    people.fill(false).await;
    let (archive, _) = people.world.backup(BackupOptions::new(VERSION)).await;
    let target = people.world.beside(253).await;
    mapped(&target, "user0 org4\n", false, &archive).await.unwrap();
    assert!(target.repository("org4/own0/deep").await.namespace_is_org);
    // An organization's teams are looked for in the one that takes its place: by name, or they are unknown.
    let target = people.world.beside(254).await;
    mapped(&target, "org4 org5\n", false, &archive).await.unwrap();
    let target = people.world.beside(255).await;
    let error = mapped(&target, "org4 user0\n", false, &archive).await.unwrap_err();
    assert!(
        matches!(error, RecoveryError::Refused(Refusal::UnknownOwners { count: 2, .. })),
        "{error}"
    );
}

#[tokio::test]
async fn a_name_that_two_have_is_no_good_backup() {
    let people = People::new(256).await;
    people.fill(true).await;
    let world = &people.world;
    let app: Repository = world
        .catalog
        .lookup_repository(&"user0/app".parse().unwrap())
        .await
        .unwrap()
        .unwrap()
        .value;
    let second = Repository { id: RepositoryId::random(&*world.random), ..app };
    world.catalog.put(&second).await.unwrap();
    let account = Account { id: AccountId::random(&*world.random), ..people.accounts[1].clone() };
    world.catalog.put(&account).await.unwrap();
    let team = Team { id: TeamId::random(&*world.random), ..people.teams[0].clone() };
    world.catalog.put(&team).await.unwrap();
    let other =
        Team { organization: people.accounts[USERS + 1].id.clone(), ..people.teams[1].clone() };
    let other = Team { name: "elsewhere".parse().unwrap(), ..other };
    world.catalog.put(&other).await.unwrap();
    let (archive, _) = world.backup(BackupOptions::new(VERSION)).await;

    let input = std::io::Cursor::new(archive.clone());
    let judged = verify(input, Default::default(), VerifyOptions::default()).await.unwrap();
    assert_eq!((judged.exit(), judged.broken.count), (Exit::Damaged, 4), "{judged}");
    for what in [
        "repositories are named user0/app",
        "accounts are named user1",
        "named team0",
        "have the id",
    ] {
        assert!(judged.broken.listed.iter().any(|found| found.contains(what)), "{judged}");
    }
    let target = world.beside(257).await;
    let error = target.restore(&archive, RestoreOptions::new(VERSION)).await.unwrap_err();
    assert!(matches!(error, RecoveryError::Inconsistent { count: 4, .. }), "{error}");
    assert_eq!(error.exit(), Exit::Damaged);
    assert!(target.state(At::Latest).await.is_empty());

    // The store itself takes no second one either.
    let mut loader = Loader::new(&target.catalog);
    loader.put(&second, None).await.unwrap();
    let third = Repository { id: RepositoryId::random(&*world.random), ..second };
    let error = loader.put(&third, None).await.unwrap_err();
    assert!(matches!(error, CatalogError::Exists { kind: "repository", .. }), "{error}");
    loader.abandon().await;
}
