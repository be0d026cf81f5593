//! Accounts taken out, all of one revision, and put in from elsewhere.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use dtr_catalog::{
    CatalogError, Kind, Record, TransactionExt as _, keys,
    records::{Account, Credential, EventType, Membership, Team, TeamMembership},
};
use dtr_store::{At, Transaction};
use dtr_types::{AccountId, Revision, TeamId};
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};

use super::{
    BuiltIn, accounts::check_account, organizations::check_description, password::check_hash,
};
use crate::{
    AccountRecords, Actor, ExportLine, Identity as _, ImportAnswer, ManageError, transfer::rename,
};

/// Records that are put at once: they share the store's syncs.
const AT_ONCE: usize = 64;
/// How often something starts over when others change the same thing meanwhile.
const ATTEMPTS_MAX: usize = 16;

/// A place in an export.
#[derive(Clone, Debug, Default)]
pub struct ExportCursor {
    at: Option<Revision>,
    kind: usize,
    after: Option<String>,
    records: u64,
    done: bool,
}

/// The kinds of an export, in its order.
const KINDS: [Kind; 5] =
    [Kind::Account, Kind::Credential, Kind::Membership, Kind::Team, Kind::TeamMembership];

enum Fate {
    Created,
    Existing,
    Skipped,
    /// It is there under another id.
    Renamed(String, String),
    /// It was made under another id: its own is somebody else's here.
    Moved(String, String),
}

fn invalid(field: &'static str, reason: String) -> ManageError {
    ManageError::Invalid { field, reason }
}

/// What can be said of a batch by itself: forms, limits, nothing twice, no password of an organization.
fn check(batch: &AccountRecords) -> Result<(), ManageError> {
    let (mut accounts, mut names) = (HashMap::new(), HashSet::new());
    for account in &batch.accounts {
        check_account(account)?;
        if accounts.insert(&account.id, account).is_some() || !names.insert(&account.name) {
            return Err(invalid("accounts", format!("\"{}\" is there twice", account.name)));
        }
    }
    let mut with_password = HashSet::new();
    for credential in &batch.credentials {
        let id = &credential.account;
        check_hash(&credential.password_hash)
            .map_err(|why| invalid("passwordHash", format!("that of account {id}: {why}")))?;
        if !with_password.insert(id) {
            return Err(invalid("credentials", format!("account {id} has two")));
        }
        if let Some(org) = accounts.get(id).filter(|account| account.is_org) {
            return Err(ManageError::Refused(format!(
                "\"{}\" is an organization, which has no password",
                org.name
            )));
        }
    }
    let mut teams = HashSet::new();
    for team in &batch.teams {
        check_description(&team.description)?;
        if !teams.insert(&team.id) {
            return Err(invalid("teams", format!("\"{}\" is there twice", team.name)));
        }
    }
    Ok(())
}

impl BuiltIn {
    /// The next lines of an export; `None` after the last. All of them are of one revision.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn export(
        &self,
        cursor: &mut ExportCursor,
    ) -> Result<Option<Vec<ExportLine>>, CatalogError> {
        if cursor.done {
            return Ok(None);
        }
        let lines = match KINDS.get(cursor.kind) {
            Some(Kind::Account) => self.lines(cursor, ExportLine::Account).await?,
            Some(Kind::Credential) => self.lines(cursor, ExportLine::Credential).await?,
            Some(Kind::Membership) => self.lines(cursor, ExportLine::Membership).await?,
            Some(Kind::Team) => self.lines(cursor, ExportLine::Team).await?,
            Some(_) => self.lines(cursor, ExportLine::TeamMember).await?,
            None => {
                cursor.done = true;
                vec![ExportLine::End { records: cursor.records }]
            }
        };
        Ok(Some(lines))
    }

    async fn lines<T: Record>(
        &self,
        cursor: &mut ExportCursor,
        line: impl Fn(T) -> ExportLine,
    ) -> Result<Vec<ExportLine>, CatalogError> {
        let prefix = T::KIND.prefix().as_bytes();
        let at = cursor.at.map_or(At::Latest, At::Revision);
        let page = self.catalog().list::<T>(prefix, cursor.after.as_deref(), 0, at).await?;
        cursor.at = Some(page.revision);
        cursor.records += page.items.len() as u64;
        match page.items.last() {
            Some(last) if page.more => {
                let key = last.value.key();
                cursor.after = Some(String::from_utf8_lossy(&key[prefix.len()..]).into_owned());
            }
            _ => {
                cursor.after = None;
                cursor.kind += 1;
            }
        }
        Ok(page.items.into_iter().map(|found| line(found.value)).collect())
    }

    /// Makes what is not there yet: accounts with their ids and passwords, teams, memberships. What is there by id or by
    /// name stays as it is, with its password and its rights; a membership is neither raised nor lowered. May be repeated.
    ///
    /// Each thing leaves the event that it leaves when it is made by itself: a load is no way to make an account that the
    /// log does not know.
    ///
    /// # Errors
    /// Before anything of the batch is made: [`ManageError::Invalid`] and [`ManageError::Refused`] for what no identity
    /// service could hold, a password hash that cannot be checked here or would cost too much, a user where an organization
    /// is here. A failure of the store may leave a part made.
    pub async fn import(
        &self,
        actor: &Actor,
        mut batch: AccountRecords,
    ) -> Result<ImportAnswer, ManageError> {
        // Everything is judged before anything is made, and by one import at a time: ids are looked at before they are
        // taken.
        let _changing = self.inner.changing.lock().await;
        self.check_import(&batch).await?;
        let taken = self.teams_by_id(&batch.teams).await?;
        let accounts = std::mem::take(&mut batch.accounts);
        let credentials = std::mem::take(&mut batch.credentials);
        let mut passwords: HashMap<_, _> =
            credentials.into_iter().map(|c| (c.account.clone(), c)).collect();
        let accounts = accounts
            .into_iter()
            .map(|account| {
                let password = passwords.remove(&account.id);
                (account, password)
            })
            .collect();
        let mut answer = ImportAnswer::default();
        self.each(actor, accounts, &mut answer, |identity, actor, (account, password)| {
            async move { identity.import_account(&actor, &account, password.as_ref()).await }
                .boxed()
        })
        .await?;
        rename(&mut batch, &answer.ids);
        let teams = std::mem::take(&mut batch.teams)
            .into_iter()
            .map(|team| {
                let elsewhere = taken.get(&team.id).is_some_and(|org| *org != team.organization);
                (team, elsewhere)
            })
            .collect();
        self.each(actor, teams, &mut answer, |identity, actor, (team, elsewhere)| {
            async move { identity.import_team(&actor, team, elsewhere).await }.boxed()
        })
        .await?;
        rename(&mut batch, &answer.ids);
        let AccountRecords { memberships, team_members, .. } = batch;
        self.each(actor, memberships, &mut answer, |identity, actor, membership| {
            async move { identity.import_member(&actor, &membership).await }.boxed()
        })
        .await?;
        self.each(actor, team_members, &mut answer, |identity, actor, membership| {
            async move { identity.import_team_member(&actor, &membership).await }.boxed()
        })
        .await?;
        Ok(answer)
    }

    /// Puts many records, some at once, and counts what became of them.
    async fn each<T: Send>(
        &self,
        actor: &Actor,
        records: Vec<T>,
        answer: &mut ImportAnswer,
        put: fn(Self, Actor, T) -> BoxFuture<'static, Result<Fate, ManageError>>,
    ) -> Result<(), ManageError> {
        let (identity, actor) = (self.clone(), actor.clone());
        let mut fates = stream::iter(records)
            .map(move |record| put(identity.clone(), actor.clone(), record))
            .buffer_unordered(AT_ONCE);
        while let Some(fate) = fates.try_next().await? {
            match fate {
                Fate::Created => answer.created += 1,
                Fate::Existing => answer.existing += 1,
                Fate::Skipped => answer.skipped += 1,
                Fate::Renamed(given, here) => {
                    answer.existing += 1;
                    answer.ids.insert(given, here);
                }
                Fate::Moved(given, here) => {
                    answer.created += 1;
                    answer.ids.insert(given, here);
                }
            }
        }
        Ok(())
    }

    /// What [`BuiltIn::import`] would say of a batch's accounts, which are not made. Its teams and memberships are looked
    /// at only by themselves: they may be of accounts that would come before.
    ///
    /// # Errors
    /// As [`BuiltIn::import`].
    pub async fn check_import(&self, batch: &AccountRecords) -> Result<ImportAnswer, ManageError> {
        check(batch)?;
        let mut answer = ImportAnswer::default();
        for account in &batch.accounts {
            let Some(here) = self.here(account).await? else {
                answer.created += 1;
                continue;
            };
            if here.is_org != account.is_org {
                let what = |is_org| if is_org { "an organization" } else { "a user" };
                return Err(ManageError::Refused(format!(
                    "\"{}\" is {} here and {} in what is loaded",
                    here.name,
                    what(here.is_org),
                    what(account.is_org)
                )));
            }
            answer.existing += 1;
            if here.id != account.id {
                answer.ids.insert(account.id.to_string(), here.id.to_string());
            }
        }
        Ok(answer)
    }

    /// Who an account is here: by its id, else by its name.
    async fn here(&self, account: &Account) -> Result<Option<Account>, ManageError> {
        match self.account_record(&account.id).await? {
            Some(here) => Ok(Some(here)),
            None => Ok(self.account(&account.name).await?),
        }
    }

    /// Whose each team's id is. Memberships are stored under it alone: a team with the id of another organization's team
    /// would have the members of that one.
    async fn teams_by_id(&self, new: &[Team]) -> Result<HashMap<TeamId, AccountId>, ManageError> {
        if new.is_empty() {
            return Ok(HashMap::new());
        }
        let all = self.catalog().all::<Team>(Kind::Team.prefix().as_bytes()).await?;
        Ok(all.into_iter().map(|team| (team.id, team.organization)).collect())
    }

    async fn import_account(
        &self,
        actor: &Actor,
        account: &Account,
        password: Option<&Credential>,
    ) -> Result<Fate, ManageError> {
        let now = self.catalog().now();
        // A time to come would end every session before it begins.
        let new = Account { created_at: account.created_at.min(now), ..account.clone() };
        let password = password
            .map(|known| Credential { changed_at: known.changed_at.min(now), ..known.clone() });
        for _ in 0..ATTEMPTS_MAX {
            if let Some(here) = self.here(account).await? {
                return Ok(if here.id == account.id {
                    Fate::Existing
                } else {
                    Fate::Renamed(account.id.to_string(), here.id.to_string())
                });
            }
            let event = self.event(actor, EventType::Create, "account", &new.name, new.id.as_str());
            match self.catalog().create_account(&new, password.as_ref(), Some(&event)).await {
                Ok(()) => {
                    self.forget();
                    return Ok(Fate::Created);
                }
                // Somebody else was faster: then that one is it.
                Err(CatalogError::Exists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CatalogError::Contention("account").into())
    }

    async fn import_team(
        &self,
        actor: &Actor,
        mut team: Team,
        elsewhere: bool,
    ) -> Result<Fate, ManageError> {
        let Some(org) = self.account_record(&team.organization).await?.filter(|org| org.is_org)
        else {
            return Ok(Fate::Skipped);
        };
        if self.team_by_id(&org.id, &team.id).await?.is_some() {
            return Ok(Fate::Existing);
        }
        if let Some(here) = self.team(&org.id, &team.name).await? {
            return Ok(Fate::Renamed(team.id.to_string(), here.id.to_string()));
        }
        let given = team.id.clone();
        if elsewhere {
            team.id = TeamId::random(self.catalog().random());
        }
        team.created_at = team.created_at.min(self.catalog().now());
        let name = format!("{}/{}", org.name, team.name);
        let event = self.event(actor, EventType::Create, "team", name, team.id.as_str());
        self.catalog().create_team(&team, Some(&event)).await?;
        self.forget();
        Ok(if elsewhere {
            Fate::Moved(given.to_string(), team.id.to_string())
        } else {
            Fate::Created
        })
    }

    async fn org_and_user(
        &self,
        org: &AccountId,
        user: &AccountId,
    ) -> Result<Option<(Account, Account)>, ManageError> {
        let org = self.account_record(org).await?.filter(|account| account.is_org);
        let user = self.account_record(user).await?.filter(|account| !account.is_org);
        Ok(org.zip(user))
    }

    /// Makes a membership that is not there; one that appears meanwhile is left alone. Members of what is not there are
    /// left out: an archive may have them, of accounts that were deleted.
    async fn import_member(
        &self,
        actor: &Actor,
        membership: &Membership,
    ) -> Result<Fate, ManageError> {
        let Membership { organization, member, .. } = membership;
        let Some((org, user)) = self.org_and_user(organization, member).await? else {
            return Ok(Fate::Skipped);
        };
        for _ in 0..ATTEMPTS_MAX {
            if self.membership(organization, member).await?.is_some() {
                return Ok(Fate::Existing);
            }
            let name = format!("{}/{}", org.name, user.name);
            let event = self.event(actor, EventType::Create, "membership", name, user.id.as_str());
            let transaction = Transaction::new()
                .if_present(keys::account(organization))
                .if_present(keys::account(member))
                .create_record(membership)?
                .put(keys::member_org(member, organization), Bytes::new())
                .event(&event)?;
            if self.catalog().commit(transaction).await?.committed().is_some() {
                self.forget();
                return Ok(Fate::Created);
            }
        }
        Err(CatalogError::Contention("membership").into())
    }

    /// The same in a team, and with that in its organization.
    async fn import_team_member(
        &self,
        actor: &Actor,
        membership: &TeamMembership,
    ) -> Result<Fate, ManageError> {
        let TeamMembership { team, organization, member, .. } = membership;
        let Some((org, user)) = self.org_and_user(organization, member).await? else {
            return Ok(Fate::Skipped);
        };
        let Some(of) = self.team_by_id(organization, team).await? else {
            return Ok(Fate::Skipped);
        };
        for _ in 0..ATTEMPTS_MAX {
            if self.team_membership(team, member).await?.is_some() {
                return Ok(Fate::Existing);
            }
            let in_org = Membership {
                organization: organization.clone(),
                member: member.clone(),
                is_admin: false,
            };
            self.import_member(actor, &in_org).await?;
            let name = format!("{}/{}/{}", org.name, of.name, user.name);
            let event =
                self.event(actor, EventType::Create, "team-membership", name, user.id.as_str());
            let transaction = Transaction::new()
                .if_present(keys::team(organization, team))
                .if_present(keys::membership(organization, member))
                .create_record(membership)?
                .put(keys::member_team(member, team), organization.to_string())
                .event(&event)?;
            if self.catalog().commit(transaction).await?.committed().is_some() {
                self.forget();
                return Ok(Fate::Created);
            }
        }
        Err(CatalogError::Contention("team membership").into())
    }
}
