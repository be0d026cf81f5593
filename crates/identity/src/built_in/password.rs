//! Password hashing: Argon2id off the runtime's threads, few at once, and a memory of what was verified lately.
//!
//! Docker sends the same basic credentials with every token request. What was verified is remembered for minutes under
//! a keyed hash over account, stored hash and password: never the password, and useless once any of them changes.

use std::{net::IpAddr, time::Duration};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash},
};
use aws_lc_rs::hmac;
use dtr_types::{Random, Secret, Timestamp, household};

use super::turns::{Turn, Turns};
use crate::IdentityError;

/// Most memory that checking a password may take, in KiB: a hash that was made elsewhere says itself what it costs. Four
/// times RFC 9106's second recommendation, and thirteen times what is used here; two run at once.
const MEMORY_KIB_MAX: u32 = 256 * 1024;
/// Most that it may work, in passes over a KiB: about a second of a core, where a login waits ten for its turn.
const WORK_MAX: u64 = 1024 * 1024;
/// Most lanes.
const LANES_MAX: u32 = 16;
/// Shortest hash, in bytes: a shorter one would fit other passwords too.
const HASH_BYTES_MIN: usize = 16;
/// Shortest salt, in bytes.
const SALT_BYTES_MIN: usize = 8;

/// Whether a hash that was made elsewhere is one that passwords can be checked against here, at a bearable cost. The
/// reason never quotes it.
pub(super) fn check_hash(hash: &Secret) -> Result<(), &'static str> {
    let parsed =
        PasswordHash::new(hash.expose()).map_err(|_| "it is not an Argon2id hash in PHC form")?;
    if parsed.algorithm.as_str() != "argon2id" || parsed.version != Some(Version::V0x13.into()) {
        return Err("it is not Argon2id of version 19");
    }
    let params = Params::try_from(&parsed).map_err(|_| "its parameters are not those of Argon2")?;
    let work = u64::from(params.m_cost()) * u64::from(params.t_cost());
    if params.m_cost() > MEMORY_KIB_MAX || work > WORK_MAX || params.p_cost() > LANES_MAX {
        return Err("checking a password against it would cost too much memory or time");
    }
    if !params.keyid().is_empty() || !params.data().is_empty() {
        return Err("it was made with a key, which is not known here");
    }
    if parsed.hash.is_none_or(|hash| hash.len() < HASH_BYTES_MIN)
        || parsed.salt.is_none_or(|salt| salt.len() < SALT_BYTES_MIN)
    {
        return Err("its salt or the hash itself is missing or too short");
    }
    Ok(())
}

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

/// A password that was verified, without the password: wherever that was, or from one source.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint([u8; 32]);

/// What a login may be remembered by.
#[derive(Clone, Copy)]
pub(super) struct Fingerprints {
    /// That the password fits. Good for whoever does not have to wait.
    pub anywhere: Fingerprint,
    /// That it was given from here: what lets a source through that has to wait.
    pub here: Fingerprint,
}

pub(super) struct Passwords {
    cost: Cost,
    decoy: Secret,
    turns: Turns,
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
            turns: Turns::new(at_once),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            verified: moka::sync::Cache::new(50_000),
            remember,
        }
    }

    /// What stands in for the hash of a user who has none.
    pub(super) fn decoy(&self) -> &Secret {
        &self.decoy
    }

    pub(super) fn fingerprints(
        &self,
        account: &str,
        hash: &Secret,
        password: &Secret,
        from: Option<IpAddr>,
    ) -> Fingerprints {
        let here = from.map_or_else(|| "-".to_owned(), |from| household(from).to_string());
        let of = |source: &str| {
            let mut context = hmac::Context::with_key(&self.key);
            for part in [account, hash.expose(), password.expose(), source] {
                context.update(&(part.len() as u64).to_le_bytes());
                context.update(part.as_bytes());
            }
            let mut bytes = [0; 32];
            bytes.copy_from_slice(context.sign().as_ref());
            Fingerprint(bytes)
        };
        Fingerprints { anywhere: of(""), here: of(&here) }
    }

    pub(super) fn was_verified(&self, fingerprint: &Fingerprint, now: Timestamp) -> bool {
        self.verified.get(fingerprint).is_some_and(|at| now.since(at) < self.remember)
    }

    pub(super) fn remember(&self, fingerprint: Fingerprint, now: Timestamp) {
        self.verified.insert(fingerprint, now);
    }

    /// Somebody logged in from there: its turns come among those of others of whom that is known.
    pub(super) fn know(&self, from: Option<IpAddr>) {
        self.turns.know(from);
    }

    /// A turn to hash, for a login from an address.
    pub(super) async fn turn(&self, from: Option<IpAddr>) -> Result<Turn, IdentityError> {
        self.turns.take(from).await
    }

    /// Whether the password belongs to the hash. The turn ends with the work, even when nobody waits for it any more.
    pub(super) async fn verify(
        &self,
        turn: Turn,
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
        let turn = self.turn(None).await?;
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
