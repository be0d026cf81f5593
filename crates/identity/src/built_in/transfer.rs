//! Accounts taken out, all of one revision, and put in from elsewhere.

use std::collections::HashMap;

use argon2::password_hash::phc::PasswordHash;
use dtr_catalog::{
    CatalogError, Kind, Record,
    records::{Account, Credential, EventType, Membership, Team, TeamMembership},
};
use dtr_store::At;
use dtr_types::{AccountId, Revision, Secret};
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};

use super::{BuiltIn, accounts::check_account, organizations::check_description};
use crate::{AccountRecords, Actor, ExportLine, Identity as _, ImportAnswer, ManageError};

/// Records that are put at once: they share the store's syncs.
const AT_ONCE: usize = 64;
/// Most that a password hash from elsewhere may cost to check: memory in KiB, passes, lanes. Whoever can make us check
/// dearer ones can stop us.
const HASH_MEMORY_MAX: u32 = 256 * 1024;
const HASH_PASSES_MAX: u32 = 16;
const HASH_LANES_MAX: u32 = 16;
/// Longest password hash, in bytes.
const HASH_BYTES_MAX: usize = 512;

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
    Renamed(String, String),
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
    /// name stays as it is, with its password and its rights. May be repeated.
    ///
    /// # Errors
    /// [`ManageError::Invalid`] and [`ManageError::Refused`] for the first record that no identity service could hold;
    /// others may have been made by then.
    pub async fn import(
        &self,
        actor: &Actor,
        batch: AccountRecords,
    ) -> Result<ImportAnswer, ManageError> {
        // Everything is judged before anything is made.
        for account in &batch.accounts {
            check_account(account)?;
        }
        for credential in &batch.credentials {
            check_hash(&credential.account, &credential.password_hash)?;
            let of = batch.accounts.iter().find(|account| account.id == credential.account);
            if let Some(org) = of.filter(|account| account.is_org) {
                return Err(ManageError::Refused(format!(
                    "\"{}\" is an organization, which has no password",
                    org.name
                )));
            }
        }
        for team in &batch.teams {
            check_description(&team.description)?;
        }
        let AccountRecords { accounts, credentials, teams, memberships, team_members } = batch;
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
        self.each(actor, teams, &mut answer, |identity, actor, team| {
            async move { identity.import_team(&actor, &team).await }.boxed()
        })
        .await?;
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
            }
        }
        Ok(())
    }

    async fn import_account(
        &self,
        actor: &Actor,
        account: &Account,
        password: Option<&Credential>,
    ) -> Result<Fate, ManageError> {
        if self.account_record(&account.id).await?.is_some() {
            return Ok(Fate::Existing);
        }
        if let Some(here) = self.account(&account.name).await? {
            return Ok(Fate::Renamed(account.id.to_string(), here.id.to_string()));
        }
        let (id, name) = (account.id.as_str(), &account.name);
        let event = self.event(actor, EventType::Create, "account", name, id);
        self.catalog().create_account(account, password, Some(&event)).await?;
        self.forget();
        Ok(Fate::Created)
    }

    async fn import_team(&self, actor: &Actor, team: &Team) -> Result<Fate, ManageError> {
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
        let name = format!("{}/{}", org.name, team.name);
        let event = self.event(actor, EventType::Create, "team", name, team.id.as_str());
        self.catalog().create_team(team, Some(&event)).await?;
        self.forget();
        Ok(Fate::Created)
    }

    async fn import_member(
        &self,
        actor: &Actor,
        membership: &Membership,
    ) -> Result<Fate, ManageError> {
        let (org, member) = (&membership.organization, &membership.member);
        if self.membership(org, member).await?.is_some() {
            return Ok(Fate::Existing);
        }
        skip_missing(self.put_member(actor, org, member, Some(membership.is_admin)).await)
    }

    async fn import_team_member(
        &self,
        actor: &Actor,
        membership: &TeamMembership,
    ) -> Result<Fate, ManageError> {
        let TeamMembership { team, organization, member, is_admin } = membership;
        if self.team_membership(team, member).await?.is_some() {
            return Ok(Fate::Existing);
        }
        skip_missing(self.put_team_member(actor, organization, team, member, Some(*is_admin)).await)
    }
}

/// Members of what is not there: an archive may have them, of accounts that were deleted.
fn skip_missing<T>(made: Result<T, ManageError>) -> Result<Fate, ManageError> {
    match made {
        Ok(_) => Ok(Fate::Created),
        Err(ManageError::Missing { .. }) => Ok(Fate::Skipped),
        Err(error) => Err(error),
    }
}

/// A hash that we can check, and can afford to.
fn check_hash(account: &AccountId, hash: &Secret) -> Result<(), ManageError> {
    let refused = |why: &str| ManageError::Invalid {
        field: "passwordHash",
        reason: format!("that of account {account} {why}"),
    };
    let text = hash.expose();
    if text.len() > HASH_BYTES_MAX {
        return Err(refused("is too long"));
    }
    let hash = PasswordHash::new(text).map_err(|_| refused("is no hash in PHC form"))?;
    if hash.algorithm.as_str() != "argon2id" || hash.salt.is_none() || hash.hash.is_none() {
        return Err(refused("is no hash of Argon2id with its salt"));
    }
    let within = [("m", HASH_MEMORY_MAX), ("t", HASH_PASSES_MAX), ("p", HASH_LANES_MAX)]
        .into_iter()
        .all(|(name, most)| hash.params.get_decimal(name).is_some_and(|cost| cost <= most));
    if within { Ok(()) } else { Err(refused("would cost too much to check")) }
}
