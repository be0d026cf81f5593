//! A password on its way through the guards: how long its source has to wait, what is remembered, a turn to hash.
//!
//! The guard is asked before the memory. Whoever has to wait is answered from what the same source proved before and from
//! nothing else, so that guesses during a wait tell nothing.

use std::{net::IpAddr, sync::Arc};

use dtr_catalog::keys;
use dtr_types::{AccountName, Secret};

use super::{BuiltIn, password::Fingerprints};
use crate::{IdentityError, Principal};

/// One login.
struct Attempt<'a> {
    username: &'a str,
    password: &'a Secret,
    from: Option<IpAddr>,
    /// The name, if there is such an account.
    account: Option<&'a str>,
    hash: Secret,
    has_password: bool,
    prints: Fingerprints,
}

impl BuiltIn {
    /// Checks a password. The same work is done whether the user exists, is active, has a password, or not.
    pub(super) async fn check_password(
        &self,
        username: &str,
        password: &Secret,
        from: Option<IpAddr>,
    ) -> Result<Arc<Principal>, IdentityError> {
        let passwords = &self.inner.passwords;
        let account = match username.parse::<AccountName>() {
            Ok(name) => self.catalog().lookup_account(&name).await?.map(|found| found.value),
            Err(_) => None,
        };
        let credential = match &account {
            Some(account) => self.catalog().get(&keys::credential(&account.id)).await?,
            None => None,
        };
        let has_password = credential.is_some();
        let hash = credential
            .map_or_else(|| passwords.decoy().clone(), |found| found.value.password_hash.clone());
        let subject = account.as_ref().map_or("", |account| account.id.as_str());
        let prints = passwords.fingerprints(subject, &hash, password, from);
        let name = account.as_ref().map(|account| account.name.as_str());
        let attempt =
            Attempt { username, password, from, account: name, hash, has_password, prints };
        match self.checked(attempt).await {
            Ok(()) => {}
            Err(error) => {
                match error {
                    IdentityError::Throttled { .. } => self.inner.figures.throttled.inc(),
                    IdentityError::Unavailable { .. } => self.inner.figures.refused.inc(),
                    _ => 0,
                };
                return Err(error);
            }
        }
        let Some(account) = account else { return Err(IdentityError::WrongCredentials) };
        self.load_principal(&account.id).await?.ok_or(IdentityError::WrongCredentials)
    }

    async fn checked(&self, attempt: Attempt<'_>) -> Result<(), IdentityError> {
        let (passwords, throttle) = (&self.inner.passwords, &self.inner.throttle);
        let (username, from, prints) = (attempt.username, attempt.from, attempt.prints);
        if let Err(throttled) = self.check_throttle(username, from) {
            let now = self.catalog().now();
            if throttle.may_remember(username, from, now)
                && passwords.was_verified(&prints.here, now)
            {
                return Ok(());
            }
            throttle.missed(username, from, now);
            return Err(throttled);
        }
        let now = self.catalog().now();
        if passwords.was_verified(&prints.here, now) {
            return Ok(());
        }
        if throttle.is_attacked(username, now) {
            tokio::time::sleep(self.inner.options.hold_up).await;
        }
        if !passwords.was_verified(&prints.anywhere, self.catalog().now()) {
            let turn = passwords.turn(from).await?;
            // Others with the same password, or with wrong ones, may have had their turn meanwhile.
            self.check_throttle(username, from)?;
            if !passwords.was_verified(&prints.anywhere, self.catalog().now()) {
                let password = attempt.password.clone();
                let fits = passwords.verify(turn, attempt.hash, password).await?;
                if !fits || !attempt.has_password {
                    return self.failed(username, attempt.account, from).await;
                }
                // Not when memory answered: else who guesses beside a busy pipeline would always begin anew.
                throttle.succeeded(username, from);
                passwords.remember(prints.anywhere, self.catalog().now());
            }
        }
        passwords.remember(prints.here, self.catalog().now());
        passwords.know(from);
        Ok(())
    }

    async fn failed(
        &self,
        username: &str,
        account: Option<&str>,
        from: Option<IpAddr>,
    ) -> Result<(), IdentityError> {
        let counted = self.inner.throttle.failed(username, from, self.catalog().now());
        self.login_failed(account, from);
        if let Some(account) = account
            && counted.user_attacked
        {
            self.tell_of_attack(account, u64::from(counted.of_user)).await;
        }
        Err(IdentityError::WrongCredentials)
    }

    fn check_throttle(&self, username: &str, from: Option<IpAddr>) -> Result<(), IdentityError> {
        match self.inner.throttle.check(username, from, self.catalog().now()) {
            Some(retry_after) => Err(IdentityError::Throttled { retry_after }),
            None => Ok(()),
        }
    }
}
