//! Password hashing: Argon2id off the runtime's threads, few at once, and a memory of what was verified lately.
//!
//! Docker sends the same basic credentials with every token request. What was verified is remembered for minutes under
//! a keyed hash over account, stored hash and password: never the password, and useless once any of them changes.

use std::{sync::Arc, time::Duration};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash},
};
use aws_lc_rs::hmac;
use dtr_types::{Random, Secret, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::IdentityError;

/// How long a login waits for its turn before it is told to come back.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// How many logins may wait for their turn.
const WAITING_MAX: usize = 64;

/// What one hash costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes.
    pub passes: u32,
}

impl Default for Cost {
    /// 19 MiB, two passes, one lane: OWASP's first recommendation for Argon2id (Password Storage Cheat Sheet).
    fn default() -> Self {
        Self { memory_kib: 19 * 1024, passes: 2 }
    }
}

impl Cost {
    /// As cheap as Argon2 allows: for tests.
    pub const fn least() -> Self {
        Self { memory_kib: 8, passes: 1 }
    }

    fn argon2(self) -> Argon2<'static> {
        let params = Params::new(self.memory_kib, self.passes, 1, Some(32)).unwrap_or_default();
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
    }

    /// A hash of this cost that no password has: what unknown users are checked against.
    fn decoy(self) -> Secret {
        Secret::new(format!(
            "$argon2id$v=19$m={},t={},p=1${}${}",
            self.memory_kib,
            self.passes,
            "A".repeat(22),
            "A".repeat(43)
        ))
    }
}

/// A password that was verified, without the password.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint([u8; 32]);

pub(super) struct Passwords {
    cost: Cost,
    decoy: Secret,
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    key: hmac::Key,
    verified: moka::sync::Cache<Fingerprint, Timestamp>,
    remember: Duration,
}

impl Passwords {
    pub(super) fn new(cost: Cost, at_once: usize, remember: Duration, random: &dyn Random) -> Self {
        let mut key = [0; 32];
        random.fill(&mut key);
        Self {
            cost,
            decoy: cost.decoy(),
            turns: Arc::new(Semaphore::new(at_once.max(1))),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            verified: moka::sync::Cache::new(10_000),
            remember,
        }
    }

    /// What stands in for the hash of a user who has none.
    pub(super) fn decoy(&self) -> &Secret {
        &self.decoy
    }

    pub(super) fn fingerprint(
        &self,
        account: &str,
        hash: &Secret,
        password: &Secret,
    ) -> Fingerprint {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [account, hash.expose(), password.expose()] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.sign().as_ref());
        Fingerprint(bytes)
    }

    pub(super) fn was_verified(&self, fingerprint: &Fingerprint, now: Timestamp) -> bool {
        self.verified.get(fingerprint).is_some_and(|at| now.since(at) < self.remember)
    }

    pub(super) fn remember(&self, fingerprint: Fingerprint, now: Timestamp) {
        self.verified.insert(fingerprint, now);
    }

    /// A turn to hash: few hashes run at once, since each takes a core and megabytes.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, IdentityError> {
        let busy = || IdentityError::Unavailable {
            reason: "too many passwords are being checked at once; try again in a moment"
                .to_owned(),
        };
        let _place = Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| busy())?;
        tokio::time::timeout(WAIT_MAX, Arc::clone(&self.turns).acquire_owned())
            .await
            .map_err(|_| busy())?
            .map_err(|_| busy())
    }

    /// Whether the password belongs to the hash. The turn ends with the work, even when nobody waits for it any more.
    pub(super) async fn verify(
        &self,
        turn: OwnedSemaphorePermit,
        hash: Secret,
        password: Secret,
    ) -> Result<bool, IdentityError> {
        run(move || {
            let _turn = turn;
            PasswordHash::new(hash.expose()).is_ok_and(|hash| {
                Argon2::default().verify_password(password.expose().as_bytes(), &hash).is_ok()
            })
        })
        .await
    }

    /// The hash to store, in PHC form.
    pub(super) async fn hash(
        &self,
        password: Secret,
        random: &dyn Random,
    ) -> Result<Secret, IdentityError> {
        let mut salt = [0; 16];
        random.fill(&mut salt);
        let turn = self.turn().await?;
        let cost = self.cost;
        run(move || {
            let _turn = turn;
            cost.argon2()
                .hash_password_with_salt(password.expose().as_bytes(), &salt)
                .map(|hash: PasswordHash| Secret::new(hash.to_string()))
                .map_err(|error| IdentityError::Unavailable {
                    reason: format!("the password cannot be hashed: {error}"),
                })
        })
        .await?
    }
}

async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, IdentityError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| IdentityError::Unavailable {
        reason: format!("a password could not be checked: {error}"),
    })
}
