//! Identity over a catalog of its own.

mod accounts;
mod bound;
mod bursts;
mod check;
mod identity;
mod organizations;
mod password;
mod services;
mod sessions;
mod throttle;
mod transfer;
mod turns;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dtr_catalog::{
    Catalog, keys,
    records::{Account, Event, EventObject, EventType, Service},
};
use dtr_types::{AccountId, Revision, ServiceId, Timestamp};

pub use accounts::check_password_form;
pub use bursts::LoginFigures;
pub use password::Cost;
pub use sessions::{is_session_token, session_hash};
pub use transfer::ExportCursor;

use self::{bursts::Bursts, password::Passwords, throttle::Throttle};
use crate::{
    AccountCounts, Actor, IdentityError, Principal,
    service_token::{self, ServiceTokenError},
};

/// Tokens of services that are remembered: those of four minutes with eight hundred requests a second.
const USED_MAX: u64 = 200_000;

/// How the built-in identity behaves. The defaults are the original's where it had them.
#[derive(Clone, Debug)]
pub struct BuiltInOptions {
    /// What a password's hash costs.
    pub cost: Cost,
    /// How many passwords are hashed at once.
    pub checks_at_once: usize,
    /// For how long a verified password is remembered (as a keyed hash).
    pub remember_verified: Duration,
    /// How long a session lasts.
    pub session_lifetime: Duration,
    /// A session that is used when less than this is left of it lasts its whole lifetime again. Zero: never extended.
    pub session_renewal: Duration,
    /// How many sessions a user has at most; a new one ends the one that was used least recently. 0: no limit.
    pub sessions_per_user: usize,
    /// How long failed logins of an address are gathered before they are told of; at twice the time if they go on, and so on.
    pub gather_failures: Duration,
    /// How long a login from an address that has not proved itself is held up when the user is guessed at from many.
    pub hold_up: Duration,
}

impl Default for BuiltInOptions {
    fn default() -> Self {
        Self {
            cost: Cost::default(),
            checks_at_once: 2,
            remember_verified: Duration::from_secs(300),
            session_lifetime: Duration::from_secs(4_320 * 60),
            session_renewal: Duration::from_secs(1_440 * 60),
            sessions_per_user: 5,
            gather_failures: Duration::from_secs(30),
            hold_up: Duration::from_secs(2),
        }
    }
}

/// The built-in identity. Cheap to clone.
#[derive(Clone)]
pub struct BuiltIn {
    inner: Arc<Inner>,
}

struct Inner {
    catalog: Catalog,
    options: BuiltInOptions,
    passwords: Passwords,
    throttle: Throttle,
    bursts: Bursts,
    figures: LoginFigures,
    /// Users, each with what [`Catalog::rights_changed`] said before it was read.
    principals: moka::sync::Cache<AccountId, (Revision, Arc<Principal>)>,
    counts: parking_lot::Mutex<Option<Known<AccountCounts>>>,
    /// Tokens of services that were sent, until they have ended.
    used: moka::sync::Cache<(ServiceId, String), ()>,
    /// Raised by every own change; what was counted before a change is not used after it.
    generation: AtomicU64,
    /// Held by the changes whose rule looks at more than one record and that no condition can express.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Known<T> {
    value: T,
    at: Timestamp,
    generation: u64,
}

impl std::fmt::Debug for BuiltIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BuiltIn")
    }
}

impl BuiltIn {
    /// Over a catalog.
    pub fn new(catalog: Catalog, options: BuiltInOptions) -> Self {
        let passwords = Passwords::new(
            options.cost,
            options.checks_at_once,
            options.remember_verified,
            catalog.random(),
        );
        Self {
            inner: Arc::new(Inner {
                catalog,
                options,
                passwords,
                throttle: Throttle::new(),
                bursts: Bursts::default(),
                figures: LoginFigures::default(),
                principals: moka::sync::Cache::new(10_000),
                counts: parking_lot::Mutex::new(None),
                used: moka::sync::Cache::builder()
                    .max_capacity(USED_MAX)
                    .time_to_live(service_token::LIFETIME + 2 * service_token::SKEW)
                    .build(),
                generation: AtomicU64::new(0),
                changing: tokio::sync::Mutex::new(()),
            }),
        }
    }

    /// The catalog beneath.
    pub fn catalog(&self) -> &Catalog {
        &self.inner.catalog
    }

    /// Proves that a token is one of a registered service, sent for the first time; see [`service_token::verify`].
    ///
    /// # Errors
    /// [`ServiceTokenError`]; [`ServiceTokenError::Used`] for one that this process has seen.
    pub fn verify_service(&self, service: &Service, token: &str) -> Result<(), ServiceTokenError> {
        let now = self.catalog().now();
        let id = service_token::verify(token, &service.id, &service.public_key, now)?;
        let first = self.inner.used.entry((service.id.clone(), id)).or_insert(()).is_fresh();
        if first { Ok(()) } else { Err(ServiceTokenError::Used) }
    }

    fn generation(&self) -> u64 {
        self.inner.generation.load(Ordering::SeqCst)
    }

    /// Forgets what was counted.
    fn forget(&self) {
        self.inner.generation.fetch_add(1, Ordering::SeqCst);
    }

    fn is_fresh<T>(&self, known: &Known<T>, ttl: Duration) -> bool {
        known.generation == self.generation() && self.catalog().now().since(known.at) < ttl
    }

    fn known<T>(&self, value: T, generation: u64) -> Known<T> {
        Known { value, at: self.catalog().now(), generation }
    }

    fn event(
        &self,
        actor: &Actor,
        event_type: EventType,
        kind: &str,
        name: impl ToString,
        id: &str,
    ) -> Event {
        let now = self.catalog().now();
        Event {
            id: Event::new_id(now, self.catalog().random()),
            published_at: now,
            actor: actor.name.clone(),
            actor_id: actor.id.clone(),
            event_type,
            repository: String::new(),
            repository_id: None,
            object: EventObject {
                kind: kind.to_owned(),
                name: name.to_string(),
                id: id.to_owned(),
            },
            count: 1,
        }
    }

    async fn account_record(&self, id: &AccountId) -> Result<Option<Account>, IdentityError> {
        Ok(self.catalog().get(&keys::account(id)).await?.map(|found| found.value))
    }

    /// An active user with its memberships, remembered until somebody's are changed, on whatever replica.
    async fn load_principal(
        &self,
        id: &AccountId,
    ) -> Result<Option<Arc<Principal>>, IdentityError> {
        // Before what is remembered is read: a change that comes between is seen the next time.
        let changed = self.catalog().rights_changed().await?;
        if let Some((then, principal)) = self.inner.principals.get(id)
            && then == changed
        {
            return Ok(Some(principal));
        }
        let account = self.account_record(id).await?.filter(|a| a.is_active && !a.is_org);
        let Some(account) = account else {
            self.inner.principals.invalidate(id);
            return Ok(None);
        };
        let memberships = self.catalog().member_orgs(id).await?;
        let teams = self.catalog().member_teams(id).await?;
        let credential = self.catalog().get(&keys::credential(id)).await?;
        let password_changed_at = credential.map(|found| found.value.changed_at);
        let principal = Principal { account, memberships, teams, password_changed_at };
        let principal = Arc::new(principal);
        self.inner.principals.insert(id.clone(), (changed, Arc::clone(&principal)));
        Ok(Some(principal))
    }
}
