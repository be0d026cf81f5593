//! Changes of accounts, with their rules: one namespace for users and organizations, and always an active admin.

use std::net::IpAddr;

use dtr_catalog::{
    Kind, TransactionExt as _, Versioned, keys,
    records::{Account, Credential, Event, EventType, TokenOrigin},
};
use dtr_store::{At, Transaction};
use dtr_types::{AccountId, AccountName, Secret};

use super::BuiltIn;
use crate::{
    AccountChange, Actor, Identity as _, IdentityError, ManageError, NewAccount,
    PASSWORD_BYTES_MAX, PASSWORD_BYTES_MIN,
};

/// How often a change starts over when others change the same thing meanwhile.
const ATTEMPTS_MAX: usize = 64;
/// Longest full name, in characters.
const FULL_NAME_MAX: usize = 256;

/// Whether a password is one that is taken: neither too short nor too long.
///
/// # Errors
/// [`ManageError::Invalid`], which says what it takes.
pub fn check_password_form(password: &Secret) -> Result<(), ManageError> {
    let length = password.expose().len();
    if (PASSWORD_BYTES_MIN..=PASSWORD_BYTES_MAX).contains(&length) {
        return Ok(());
    }
    Err(ManageError::Invalid {
        field: "password",
        reason: format!("use {PASSWORD_BYTES_MIN} to {PASSWORD_BYTES_MAX} bytes"),
    })
}

fn check_full_name(name: &str) -> Result<(), ManageError> {
    if name.chars().count() <= FULL_NAME_MAX && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(ManageError::Invalid {
        field: "fullName",
        reason: format!("use at most {FULL_NAME_MAX} characters, none of them control characters"),
    })
}

/// What every account must be.
pub(super) fn check_account(account: &Account) -> Result<(), ManageError> {
    check_full_name(&account.full_name)?;
    if account.name.as_str().parse::<AccountId>().is_ok() {
        return Err(ManageError::Invalid {
            field: "name",
            reason: "it has the form of an account's id".to_owned(),
        });
    }
    if account.is_org && (account.is_admin || !account.is_active) {
        return Err(ManageError::Refused(format!(
            "\"{}\" is an organization, which is no admin and cannot be inactive",
            account.name
        )));
    }
    Ok(())
}

pub(super) fn missing(kind: &'static str, name: impl ToString) -> ManageError {
    ManageError::Missing { kind, name: name.to_string() }
}

fn is_active_admin(account: &Account) -> bool {
    account.is_admin && account.is_active && !account.is_org
}

impl BuiltIn {
    /// Makes the first account, an admin.
    ///
    /// # Errors
    /// [`ManageError::Exists`] when there is an account already.
    pub async fn create_first_admin(
        &self,
        name: AccountName,
        password: Secret,
    ) -> Result<Account, ManageError> {
        let _changing = self.inner.changing.lock().await;
        if self.catalog().any(keys::ACCOUNT_NAMES.as_bytes()).await? {
            return Err(ManageError::Exists { kind: "account", name: "of an admin".to_owned() });
        }
        let mut new = NewAccount::user(name, password);
        new.is_admin = true;
        self.create_account(&Actor::system(), new).await
    }

    /// Makes a user or an organization.
    pub async fn create_account(
        &self,
        actor: &Actor,
        new: NewAccount,
    ) -> Result<Account, ManageError> {
        let account = Account {
            id: AccountId::random(self.catalog().random()),
            name: new.name,
            full_name: new.full_name,
            is_org: new.is_org,
            is_admin: new.is_admin,
            is_active: new.is_active,
            created_at: self.catalog().now(),
        };
        check_account(&account)?;
        if account.is_org && new.password.is_some() {
            return Err(ManageError::Refused("an organization has no password".to_owned()));
        }
        if let Some(password) = &new.password {
            check_password_form(password)?;
        }
        // Before the hashing, which is what an attacker would have us do for nothing; the commit decides.
        if self.account(&account.name).await?.is_some() {
            return Err(ManageError::Exists { kind: "account", name: account.name.to_string() });
        }
        let credential = match new.password {
            Some(password) => Some(self.credential(&account.id, password).await?),
            None => None,
        };
        let event =
            self.event(actor, EventType::Create, "account", &account.name, account.id.as_str());
        self.catalog().create_account(&account, credential.as_ref(), Some(&event)).await?;
        self.forget();
        Ok(account)
    }

    async fn credential(
        &self,
        account: &AccountId,
        password: Secret,
    ) -> Result<Credential, ManageError> {
        check_password_form(&password)?;
        let password_hash = self.inner.passwords.hash(password, self.catalog().random()).await?;
        let changed_at = self.catalog().now();
        Ok(Credential { account: account.clone(), password_hash, changed_at })
    }

    /// Changes an account.
    pub async fn update_account(
        &self,
        actor: &Actor,
        id: &AccountId,
        change: AccountChange,
    ) -> Result<Account, ManageError> {
        if let Some(name) = &change.full_name {
            check_full_name(name)?;
        }
        let account = self.account_record(id).await?.ok_or_else(|| missing("account", id))?;
        if account.is_org && (change.is_admin == Some(true) || change.is_active == Some(false)) {
            return Err(ManageError::Refused(
                "an organization is no admin and cannot be inactive".to_owned(),
            ));
        }
        let event =
            self.event(actor, EventType::Update, "account", &account.name, account.id.as_str());
        let changed = self
            .change_account(id, Some(&event), |account| {
                if let Some(name) = &change.full_name {
                    account.full_name.clone_from(name);
                }
                account.is_admin = change.is_admin.unwrap_or(account.is_admin);
                account.is_active = change.is_active.unwrap_or(account.is_active);
            })
            .await?;
        if !changed.is_active {
            self.catalog().delete_account_sessions(id).await?;
        }
        Ok(changed)
    }

    /// Changes an account's record. Whoever takes the admin's part away from one names another admin as witness: the
    /// commit demands that the witness is still as it was read, so that two admins cannot remove each other at once.
    async fn change_account(
        &self,
        id: &AccountId,
        event: Option<&Event>,
        change: impl Fn(&mut Account),
    ) -> Result<Account, ManageError> {
        let key = keys::account(id);
        for _ in 0..ATTEMPTS_MAX {
            let found = self.catalog().get(&key).await?.ok_or_else(|| missing("account", id))?;
            let mut new = found.value.clone();
            change(&mut new);
            if new == found.value {
                return Ok(new);
            }
            let mut transaction =
                Transaction::new().if_modified_at(&key, found.modified).put_record(&new)?;
            if let Some(event) = event {
                transaction = transaction.event(event)?;
            }
            if is_active_admin(&found.value) && !is_active_admin(&new) {
                let witness = self.other_admin(id).await?.ok_or_else(|| {
                    ManageError::Refused(format!(
                        "\"{}\" is the last active admin; make another account an admin first",
                        found.value.name
                    ))
                })?;
                transaction =
                    transaction.if_modified_at(keys::account(&witness.value.id), witness.modified);
            }
            if self.catalog().commit(transaction).await?.committed().is_some() {
                self.forget();
                return Ok(new);
            }
        }
        Err(dtr_catalog::CatalogError::Contention("account").into())
    }

    async fn other_admin(&self, id: &AccountId) -> Result<Option<Versioned<Account>>, ManageError> {
        let prefix = Kind::Account.prefix().as_bytes();
        let mut after = None::<String>;
        loop {
            let page =
                self.catalog().list::<Account>(prefix, after.as_deref(), 0, At::Latest).await?;
            after = page.items.last().map(|found| found.value.id.to_string());
            let other = page
                .items
                .into_iter()
                .find(|found| found.value.id != *id && is_active_admin(&found.value));
            if other.is_some() || !page.more {
                return Ok(other);
            }
        }
    }

    /// Deletes an account with its memberships, teams, sessions and tokens.
    ///
    /// # Errors
    /// [`ManageError::Refused`] for the last active admin, and while repositories are in its namespace.
    pub async fn delete_account(&self, actor: &Actor, id: &AccountId) -> Result<(), ManageError> {
        let account = self.account_record(id).await?.ok_or_else(|| missing("account", id))?;
        if self.catalog().any(&keys::repository_names_of(&account.name)).await? {
            return Err(ManageError::Refused(format!(
                "\"{}\" still has repositories; delete them first",
                account.name
            )));
        }
        if !account.is_org {
            // Rights first: an interruption leaves an account that can do nothing.
            self.change_account(id, None, |account| {
                account.is_admin = false;
                account.is_active = false;
            })
            .await?;
        }
        let event =
            self.event(actor, EventType::Delete, "account", &account.name, account.id.as_str());
        let deleted = self.catalog().delete_account(id, Some(&event)).await?;
        self.forget();
        if deleted { Ok(()) } else { Err(missing("account", id)) }
    }

    /// Ends all sessions of an account, or of everybody; yields how many.
    pub async fn end_sessions(
        &self,
        actor: &Actor,
        id: Option<&AccountId>,
    ) -> Result<u64, ManageError> {
        let (ended, name) = match id {
            Some(id) => {
                let account =
                    self.account_record(id).await?.ok_or_else(|| missing("account", id))?;
                (self.catalog().delete_account_sessions(id).await?, account.name.to_string())
            }
            None => (self.catalog().delete_all_sessions().await?, "everybody".to_owned()),
        };
        let of = id.map(AccountId::as_str).unwrap_or_default();
        let event = self.event(actor, EventType::Delete, "sessions", name, of);
        self.catalog().record_events(&[event]).await?;
        Ok(ended)
    }

    /// Ends all access tokens of an account that this catalog has, those of logins among them; yields how many. At a UCP there
    /// are none: its registries keep their own.
    pub async fn end_tokens(&self, actor: &Actor, id: &AccountId) -> Result<u64, ManageError> {
        let account = self.account_record(id).await?.ok_or_else(|| missing("account", id))?;
        let event =
            self.event(actor, EventType::Delete, "tokens", &account.name, account.id.as_str());
        Ok(self.catalog().delete_account_tokens(id, Some(&event)).await?)
    }

    /// Sets a user's password and ends all its sessions and logins.
    pub async fn set_password(
        &self,
        actor: &Actor,
        id: &AccountId,
        password: Secret,
    ) -> Result<(), ManageError> {
        let account = self.account_record(id).await?.ok_or_else(|| missing("account", id))?;
        if account.is_org {
            return Err(ManageError::Refused("an organization has no password".to_owned()));
        }
        let credential = self.credential(id, password).await?;
        let event =
            self.event(actor, EventType::Update, "password", &account.name, account.id.as_str());
        let transaction = Transaction::new()
            .if_present(keys::account(id))
            .put_record(&credential)?
            .event(&event)?;
        if self.catalog().commit(transaction).await?.committed().is_none() {
            return Err(missing("account", id));
        }
        self.catalog().delete_account_sessions(id).await?;
        for token in self.catalog().account_tokens(id).await? {
            if token.generated_by == TokenOrigin::Auto {
                self.catalog().delete_access_token(&token.hash, None).await?;
            }
        }
        self.forget();
        Ok(())
    }

    /// Changes one's own password, which takes the old one.
    pub async fn change_own_password(
        &self,
        name: &AccountName,
        old: &Secret,
        new: Secret,
        from: Option<IpAddr>,
    ) -> Result<(), ManageError> {
        check_password_form(&new)?;
        let principal = self.check_password(name.as_str(), old, from).await?;
        if old == &new {
            return Err(ManageError::Invalid {
                field: "newPassword",
                reason: "it is the old one".to_owned(),
            });
        }
        self.set_password(&Actor::from(&*principal), &principal.account.id, new).await
    }

    /// Whether there is any account yet.
    pub async fn is_empty(&self) -> Result<bool, IdentityError> {
        Ok(!self.catalog().any(keys::ACCOUNT_NAMES.as_bytes()).await?)
    }
}
