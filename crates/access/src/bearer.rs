//! Bearer tokens of `/auth/token`: signed, short-lived, verified once and then remembered. Source: Docker registry token
//! authentication.
//!
//! A token names its cluster, its account, what it is limited to, and what it was asked for with: what the account may do, and
//! whether that credential still holds, is looked up at each request. It is good in the cluster that issued it: a copy made from a
//! backup has the same accounts, and is another. Its signing key is changed every month; a key is accepted until the tokens that it
//! signed have ended.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dtr_catalog::{
    Catalog, CatalogError, keys,
    records::{AccessToken, KeyPurpose, KeyRecord},
};
use dtr_types::{AccountId, ClusterId, Digest, Secret, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use tokio::sync::RwLock;

use crate::{AccessError, Caller, Limits, Proof, RepositoryPattern, caller::Scope};

/// How long a token is good for. Clients ask anew by themselves; a request that has begun is not cut off by it.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// How far clocks may be apart.
const SKEW: Duration = Duration::from_secs(60);
/// How long a key signs.
const KEY_AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long keys are used before they are read again.
const KEYS_TTL: Duration = Duration::from_secs(60);

/// The name of a cluster as issuer of tokens, and as the one that they are for.
fn issuer(cluster: &ClusterId) -> String {
    format!("dtr:{cluster}")
}

/// A token for a client.
#[derive(Clone, Debug)]
pub struct IssuedToken {
    /// The token.
    pub token: Secret,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// How long it is good for.
    pub expires_in: Duration,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    /// The user's name; empty for anonymous.
    sub: String,
    /// The service that the client named, if it named one, and the cluster.
    aud: Vec<String>,
    iat: i64,
    nbf: i64,
    exp: i64,
    jti: String,
    access: Vec<ClaimedAccess>,
    /// The user's account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account: Option<AccountId>,
    /// The limits of the access token it was asked for with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repositories: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pull_only: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    backups_only: bool,
    #[serde(flatten)]
    origin: Origin,
}

/// What a token was asked for with. The token ends with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The access or refresh token, by its hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
    /// The session, by its hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// When the account's password was last changed, by the identity service's clock. Not with an access token that somebody
    /// made, which outlives passwords.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_changed_at: Option<Timestamp>,
    /// The end of the access token.
    #[serde(skip)]
    pub ends: Option<Timestamp>,
}

impl Origin {
    /// What `caller` proved itself with; `None` when nothing can be made of that.
    pub fn of(caller: &Caller) -> Option<Self> {
        let Caller::User { principal, proof, .. } = caller else { return Some(Self::default()) };
        let of_token = |token: &AccessToken| Self {
            access_token: Some(token.hash.clone()),
            session: None,
            password_changed_at: token.password_changed_at,
            ends: token.expires_at,
        };
        let password_changed_at = principal.password_changed_at;
        match proof {
            Proof::Password => Some(Self { password_changed_at, ..Self::default() }),
            Proof::Session(hash) => {
                Some(Self { session: Some(hash.clone()), password_changed_at, ..Self::default() })
            }
            Proof::AccessToken(token) | Proof::RefreshToken(token) => Some(of_token(token)),
            Proof::Issued => None,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct ClaimedAccess {
    #[serde(rename = "type")]
    kind: String,
    #[serde(flatten)]
    scope: Scope,
}

/// A token whose signature was checked.
#[derive(Debug)]
pub(crate) struct Verified {
    pub account: Option<AccountId>,
    pub limits: Arc<Limits>,
    pub origin: Origin,
    key: String,
    not_before: Timestamp,
    expires_at: Timestamp,
}

struct Key {
    id: String,
    created_at: Timestamp,
    not_after: Option<Timestamp>,
    sign: EncodingKey,
    verify: DecodingKey,
}

struct Keys {
    read_at: Timestamp,
    /// Newest first.
    keys: Vec<Arc<Key>>,
}

/// Issues and verifies.
pub(crate) struct Bearer {
    catalog: Catalog,
    /// As it stands in tokens.
    issuer: String,
    keys: RwLock<Keys>,
    verified: moka::sync::Cache<Digest, Arc<Verified>>,
    odd: Odd,
}

/// Tokens of our own whose time is so odd that clocks must differ: told once in a while.
#[derive(Default)]
struct Odd(std::sync::Mutex<Option<Instant>>);

/// How often that is told.
const TELL_EVERY: Duration = Duration::from_secs(60);

impl Odd {
    fn tell(&self, now: Timestamp, how: &str, token: Timestamp) {
        let mut last = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.is_some_and(|at| at.elapsed() < TELL_EVERY) {
            return;
        }
        *last = Some(Instant::now());
        tracing::warn!(
            %now,
            %token,
            "a token of this registry {how}: it was refused. If it was given out just now, the clocks of the replicas differ \
             (\"dtr status\")"
        );
    }
}

fn refused(error: impl std::fmt::Display) -> AccessError {
    AccessError::Key(error.to_string())
}

impl Key {
    fn read(record: &KeyRecord) -> Result<Self, AccessError> {
        let pem = record.private_key.expose();
        let pair = rcgen::KeyPair::from_pem(pem).map_err(refused)?;
        Ok(Self {
            id: record.id.clone(),
            created_at: record.created_at,
            not_after: record.not_after,
            sign: EncodingKey::from_ec_pem(pem.as_bytes()).map_err(refused)?,
            verify: DecodingKey::from_ec_pem(pair.public_key_pem().as_bytes()).map_err(refused)?,
        })
    }
}

impl Bearer {
    pub async fn open(catalog: Catalog, cluster: &ClusterId) -> Result<Self, AccessError> {
        let keys = Keys { read_at: Timestamp::default(), keys: Vec::new() };
        let verified =
            moka::sync::Cache::builder().max_capacity(20_000).time_to_live(TOKEN_LIFETIME).build();
        let issuer = issuer(cluster);
        let keys = RwLock::new(keys);
        let this = Self { catalog, issuer, keys, verified, odd: Odd::default() };
        this.current().await?;
        Ok(this)
    }

    /// The key that signs now. Makes a new one when there is none or the newest is too old.
    async fn current(&self) -> Result<Arc<Key>, AccessError> {
        let now = self.catalog.now();
        let known = {
            let known = self.keys.read().await;
            let fresh = now.since(known.read_at) < KEYS_TTL;
            known.keys.first().filter(|_| fresh).cloned()
        };
        if let Some(key) = known
            && now.since(key.created_at) < KEY_AGE_MAX
            && self.is_there(&key.id).await?
        {
            return Ok(key);
        }
        let mut known = self.keys.write().await;
        *known = self.read_keys(now).await?;
        if let Some(key) = known.keys.first()
            && now.since(key.created_at) < KEY_AGE_MAX
        {
            return Ok(Arc::clone(key));
        }
        // Two replicas that do this at once make two keys; both are accepted everywhere.
        let pair = rcgen::KeyPair::generate().map_err(refused)?;
        let record = KeyRecord {
            purpose: KeyPurpose::Token,
            id: Digest::of(pair.public_key_pem().as_bytes()).hex()[..32].to_owned(),
            private_key: Secret::new(pair.serialize_pem()),
            created_at: now,
            not_after: Some(now.plus(KEY_AGE_MAX + 2 * TOKEN_LIFETIME + SKEW)),
        };
        self.catalog.put(&record).await?;
        let key = Arc::new(Key::read(&record)?);
        known.keys.insert(0, Arc::clone(&key));
        Ok(key)
    }

    /// Whether a key has not been taken back.
    async fn is_there(&self, id: &str) -> Result<bool, CatalogError> {
        Ok(self.catalog.get(&keys::signing_key(KeyPurpose::Token, id)).await?.is_some())
    }

    async fn read_keys(&self, now: Timestamp) -> Result<Keys, AccessError> {
        let records = self.catalog.signing_keys(KeyPurpose::Token).await?;
        let accepted = records.iter().filter(|key| key.not_after.is_none_or(|end| end > now));
        let accepted =
            accepted.map(|record| Key::read(record).map(Arc::new)).collect::<Result<_, _>>()?;
        Ok(Keys { read_at: now, keys: accepted })
    }

    /// The key of an id, which another replica may have made just now.
    async fn by_id(&self, id: &str) -> Result<Option<Arc<Key>>, AccessError> {
        let now = self.catalog.now();
        let find = |keys: &Keys| {
            let found = keys.keys.iter().find(|key| key.id == id);
            found.filter(|key| key.not_after.is_none_or(|end| end > now)).cloned()
        };
        {
            let known = self.keys.read().await;
            // A stranger's token must not make us read the store each time.
            if let Some(key) = find(&known) {
                return Ok(Some(key));
            }
            if now.since(known.read_at) < Duration::from_secs(1) {
                return Ok(None);
            }
        }
        let mut known = self.keys.write().await;
        *known = self.read_keys(now).await?;
        Ok(find(&known))
    }

    pub async fn issue(
        &self,
        account: Option<&AccountId>,
        name: &str,
        limits: Limits,
        service: &str,
        origin: Origin,
    ) -> Result<IssuedToken, AccessError> {
        let key = self.current().await?;
        let now = self.catalog.now();
        let end = now.plus(TOKEN_LIFETIME);
        let end = origin.ends.map_or(end, |ends| ends.min(end));
        let access = limits.scopes.unwrap_or_default().into_iter().map(|scope| ClaimedAccess {
            kind: if scope.name == "catalog" { "registry" } else { "repository" }.to_owned(),
            scope,
        });
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: name.to_owned(),
            aud: [service, &self.issuer]
                .into_iter()
                .filter(|aud| !aud.is_empty())
                .map(str::to_owned)
                .collect(),
            iat: now.seconds(),
            nbf: now.minus(SKEW).seconds(),
            exp: end.seconds(),
            jti: self.catalog.random().hex(16),
            access: access.collect(),
            account: account.cloned(),
            repositories: limits
                .repositories
                .map(|patterns| patterns.iter().map(RepositoryPattern::to_string).collect()),
            pull_only: limits.pull_only,
            backups_only: limits.backups_only,
            origin,
        };
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(key.id.clone());
        let token = jsonwebtoken::encode(&header, &claims, &key.sign).map_err(refused)?;
        Ok(IssuedToken { token: Secret::new(token), issued_at: now, expires_in: end.since(now) })
    }

    /// A token of ours that is good now; `None` for any other text.
    pub async fn verify(&self, token: &Secret) -> Result<Option<Arc<Verified>>, CatalogError> {
        let text = token.expose();
        if text.len() > 32 * 1024 || text.bytes().filter(|b| *b == b'.').count() != 2 {
            return Ok(None);
        }
        let hash = Digest::of(text.as_bytes());
        let verified = match self.verified.get(&hash) {
            Some(verified) => verified,
            None => {
                let Some(verified) = self.check(text).await? else { return Ok(None) };
                let verified = Arc::new(verified);
                self.verified.insert(hash, Arc::clone(&verified));
                verified
            }
        };
        let now = self.catalog.now();
        if now < verified.not_before {
            self.odd.tell(now, "is from the future", verified.not_before.plus(SKEW));
        } else if now > verified.expires_at.plus(TOKEN_LIFETIME) {
            // Clients ask anew long before.
            self.odd.tell(now, "has ended long ago", verified.expires_at);
        }
        let good = verified.not_before <= now && now < verified.expires_at;
        // Looked up each time: keys are taken back on the day of a compromise, on all replicas at once.
        Ok((good && self.is_there(&verified.key).await?).then_some(verified))
    }

    async fn check(&self, text: &str) -> Result<Option<Verified>, CatalogError> {
        let Ok(header) = jsonwebtoken::decode_header(text) else { return Ok(None) };
        let Some(kid) = header.kid else { return Ok(None) };
        let key = match self.by_id(&kid).await {
            Ok(Some(key)) => key,
            Ok(None) => return Ok(None),
            Err(AccessError::Catalog(error)) => return Err(error),
            Err(error) => {
                tracing::error!(%error, "tokens cannot be verified");
                return Ok(None);
            }
        };
        let mut validation = Validation::new(Algorithm::ES256);
        // Times are checked against the clock that was handed in.
        validation.validate_exp = false;
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.issuer]);
        validation.set_required_spec_claims(&["iss", "aud", "exp"]);
        let Ok(decoded) = jsonwebtoken::decode::<Claims>(text, &key.verify, &validation) else {
            return Ok(None);
        };
        let claims = decoded.claims;
        let at = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1000));
        let patterns = claims
            .repositories
            .map(|all| all.iter().filter_map(|text| text.parse().ok()).collect());
        Ok(Some(Verified {
            account: claims.account,
            limits: Arc::new(Limits {
                repositories: patterns,
                pull_only: claims.pull_only,
                backups_only: claims.backups_only,
                scopes: Some(claims.access.into_iter().map(|access| access.scope).collect()),
            }),
            origin: claims.origin,
            key: kid,
            not_before: at(claims.nbf),
            expires_at: at(claims.exp),
        }))
    }
}
