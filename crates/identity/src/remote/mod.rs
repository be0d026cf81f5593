//! Identity asked of a UCP over HTTPS, as a registered service.
//!
//! While the UCP is away, what was last known goes on: sessions and rights that were seen stay for
//! [`STALE_MAX`], logins say why not, and nothing waits longer than the timeouts of one call.

mod breaker;
mod cache;
mod client;
mod http;

use std::{hash::Hash, net::IpAddr, sync::Arc, time::Duration};

use aws_lc_rs::{digest, hmac};
use dtr_catalog::records::{Account, Team};
use dtr_types::{
    AccountId, AccountName, Clock, Random, Secret, ServiceId, TeamId, TeamName, Timestamp,
    household,
};
use serde::de::DeserializeOwned;

pub use client::UcpClient;
pub use http::{UcpError, sends_in_the_clear};

use self::{
    breaker::Breaker,
    cache::LastKnown,
    http::{Call, Http, PASSWORD_TIMEOUT},
};
use crate::{
    AccountCounts, AccountPage, AccountQuery, AccountRecords, Identity, IdentityError, Login,
    Member, Principal, ServiceForm, login_name,
    service_token::{self, ServiceTokenError},
    source::Missed,
    wire::{
        AccountList, AuthenticateAnswer, AuthenticateForm, MemberList, MemberOrgList,
        PrincipalView, SessionForm, TeamList, TeamView,
    },
};

/// For how long an answer is used without asking again.
const FRESH: Duration = Duration::from_secs(5);
/// For how long a verified password is used without asking again.
const PASSWORD_FRESH: Duration = Duration::from_secs(60);
/// For how long what was last known goes on while the UCP is away: the lifetime of a session.
pub const STALE_MAX: Duration = Duration::from_secs(4_320 * 60);
/// Pages of a list that are asked for at most.
const PAGES_MAX: usize = 100;

/// Who asks which UCP.
#[derive(Clone, Debug)]
pub struct RemoteOptions {
    /// Its address.
    pub url: String,
    /// What this cluster is registered as.
    pub service: ServiceId,
    /// The private half of the key that was registered: PKCS #8 in PEM.
    pub private_key: Secret,
}

/// Why the remote identity cannot be set up.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RemoteError {
    /// The address is not one.
    #[error(transparent)]
    Ucp(#[from] UcpError),
    /// The key is not one.
    #[error(transparent)]
    Key(#[from] ServiceTokenError),
}

/// Why an answer is not there.
enum Unanswered {
    /// The UCP is away: what was last known may go on.
    Away(String),
    /// It answered, and refused.
    Refused(UcpError),
}

impl From<Unanswered> for IdentityError {
    fn from(unanswered: Unanswered) -> Self {
        let reason = match unanswered {
            Unanswered::Away(reason) => reason,
            Unanswered::Refused(UcpError::Status { status: 429, retry_after, .. }) => {
                return Self::Throttled {
                    retry_after: Duration::from_secs(retry_after.unwrap_or(1)),
                };
            }
            Unanswered::Refused(error) if is_stranger(&error) => stranger(&error),
            Unanswered::Refused(error) => error.to_string(),
        };
        Self::Unavailable { reason }
    }
}

/// Whether a UCP says that it does not know this registry, or not as one that may ask.
fn is_stranger(error: &UcpError) -> bool {
    matches!(error.status(), Some(401 | 403))
}

fn stranger(error: &UcpError) -> String {
    format!(
        "the UCP does not know this registry, or by another key, so nobody can log in; register it anew, on the machine of a \
         replica: dtr reconfigure --data-dir DIR --ucp-url UCP ({error})"
    )
}

/// Identity asked of a UCP.
pub struct Remote {
    http: Http,
    options: RemoteOptions,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    breaker: Breaker,
    /// Why the UCP refused this registry when it last answered.
    refused: parking_lot::Mutex<Option<String>>,
    key: hmac::Key,
    /// With the time of the password that fitted: one that was changed since fits no more.
    passwords: LastKnown<[u8; 32], (AccountId, Option<Timestamp>)>,
    missed: Missed,
    sessions: LastKnown<[u8; 32], AccountId>,
    principals: LastKnown<AccountId, Arc<Principal>>,
    accounts: LastKnown<String, Account>,
    teams: LastKnown<(AccountId, String), Team>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({})", self.http.base())
    }
}

impl Remote {
    /// For the UCP of `options`, trusting what `tls` trusts. Nothing is asked yet.
    ///
    /// # Errors
    /// [`RemoteError`] when the address or the key is not one.
    pub fn new(
        options: RemoteOptions,
        tls: rustls::ClientConfig,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, RemoteError> {
        let http = Http::new(&options.url, tls)?;
        service_token::sign(&options.service, &options.private_key, clock.now(), &*random)?;
        let mut key = [0; 32];
        random.fill(&mut key);
        Ok(Self {
            http,
            options,
            clock,
            random,
            breaker: Breaker::default(),
            refused: parking_lot::Mutex::new(None),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            passwords: LastKnown::new(50_000),
            missed: Missed::new(),
            sessions: LastKnown::new(50_000),
            principals: LastKnown::new(50_000),
            accounts: LastKnown::new(50_000),
            teams: LastKnown::new(50_000),
        })
    }

    /// The UCP's address: scheme, host, port.
    pub fn url(&self) -> &str {
        self.http.base()
    }

    /// What this cluster is registered as.
    pub fn service(&self) -> &ServiceId {
        &self.options.service
    }

    /// Tells the UCP what has changed of this service: its replicas, its address.
    ///
    /// # Errors
    /// [`IdentityError::Unavailable`] with the reason.
    pub async fn update_registration(&self, form: &ServiceForm) -> Result<(), IdentityError> {
        let path = format!("/enzi/v0/services/{}", self.options.service);
        let call = Call::new(reqwest::Method::PATCH, path).body(form);
        self.ask::<serde_json::Value>(call).await?;
        Ok(())
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A token for one request: the UCP takes each once.
    fn service_token(&self) -> Result<Secret, Unanswered> {
        let options = &self.options;
        service_token::sign(&options.service, &options.private_key, self.now(), &*self.random)
            .map_err(|error| Unanswered::Away(error.to_string()))
    }

    /// Asks as this service. `None` when there is no such thing.
    async fn ask<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<Option<T>, Unanswered> {
        self.breaker.enter(self.now()).map_err(Unanswered::Away)?;
        let token = self.service_token()?;
        let answer = self.http.json(call.bearer(&token)).await;
        match &answer {
            Err(error) if is_stranger(error) => *self.refused.lock() = Some(stranger(error)),
            // Nothing was said about that.
            Err(error) if error.is_away() => {}
            _ => *self.refused.lock() = None,
        }
        match answer {
            Ok(answer) => {
                self.breaker.succeeded(self.now());
                Ok(Some(answer))
            }
            Err(error) if error.is_away() => {
                let reason = error.to_string();
                self.breaker.failed(self.now(), &reason);
                Err(Unanswered::Away(reason))
            }
            Err(error) => {
                self.breaker.succeeded(self.now());
                if error.status() == Some(404) { Ok(None) } else { Err(Unanswered::Refused(error)) }
            }
        }
    }

    /// What is known, fresh; else asked; else, while the UCP is away, what was last known.
    async fn known<K, V, T>(
        &self,
        cache: &LastKnown<K, V>,
        key: K,
        call: Call<'_>,
        read: impl FnOnce(T) -> Option<V> + Send,
    ) -> Result<Option<V>, IdentityError>
    where
        K: Hash + Eq + Send + Sync + 'static,
        V: Clone + Send + Sync + 'static,
        T: DeserializeOwned,
    {
        if let Some(value) = cache.get(&key, self.now(), FRESH) {
            return Ok(Some(value));
        }
        match self.ask::<T>(call).await {
            Ok(answer) => {
                let value = answer.and_then(read);
                match &value {
                    Some(value) => cache.put(key, value.clone(), self.now()),
                    None => cache.forget(&key),
                }
                Ok(value)
            }
            Err(Unanswered::Away(reason)) => match cache.get(&key, self.now(), STALE_MAX) {
                Some(value) => Ok(Some(value)),
                None => Err(Unanswered::Away(reason).into()),
            },
            Err(refused) => Err(refused.into()),
        }
    }

    fn learn(&self, view: PrincipalView) -> Arc<Principal> {
        let principal = Arc::new(Principal::from(view));
        let id = principal.account.id.clone();
        self.principals.put(id, Arc::clone(&principal), self.now());
        principal
    }

    /// What a password from a source is remembered by; never the password.
    fn fingerprint(&self, username: &str, password: &Secret, from: Option<IpAddr>) -> [u8; 32] {
        let from = from.map_or_else(|| "-".to_owned(), |from| household(from).to_string());
        let mut context = hmac::Context::with_key(&self.key);
        for part in [username, password.expose(), &from] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(context.sign().as_ref());
        fingerprint
    }

    async fn ask_password(
        &self,
        username: &str,
        password: &Secret,
        from: Option<IpAddr>,
        session: bool,
    ) -> Result<(Arc<Principal>, AuthenticateAnswer), IdentityError> {
        let form = AuthenticateForm {
            username: username.to_owned(),
            password: password.clone(),
            from,
            session,
        };
        let call = Call::post("/enzi/v0/service/authenticate", &form).timeout(PASSWORD_TIMEOUT);
        let answer: Option<AuthenticateAnswer> = self.ask(call).await?;
        let answer = answer.ok_or(IdentityError::WrongCredentials)?;
        Ok((self.learn(answer.principal.clone()), answer))
    }

    /// The account of a session; `key` is the SHA-256 of its token.
    async fn ask_session(
        &self,
        key: [u8; 32],
        form: &SessionForm,
    ) -> Result<Option<AccountId>, IdentityError> {
        let call = Call::post("/enzi/v0/service/session", form);
        self.known(&self.sessions, key, call, |view: PrincipalView| {
            Some(self.learn(view).account.id.clone())
        })
        .await
    }

    /// All pages of a list.
    async fn pages<L: DeserializeOwned, T>(
        &self,
        path: &str,
        take: impl Fn(L) -> (Vec<T>, String) + Send,
    ) -> Result<Vec<T>, IdentityError> {
        let (mut items, mut start) = (Vec::new(), String::new());
        for _ in 0..PAGES_MAX {
            let query = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("limit", "1000")
                .append_pair("start", &start)
                .finish();
            let Some(list) = self.ask::<L>(Call::get(format!("{path}?{query}"))).await? else {
                break;
            };
            let (page, next) = take(list);
            items.extend(page);
            if next.is_empty() || next <= start {
                break;
            }
            start = next;
        }
        Ok(items)
    }
}

fn token_key(token: &Secret) -> [u8; 32] {
    let mut key = [0; 32];
    key.copy_from_slice(digest::digest(&digest::SHA256, token.expose().as_bytes()).as_ref());
    key
}

/// A name as one part of a path.
fn segment(text: &str) -> String {
    // `form_urlencoded` writes a blank as `+`, which a path does not read back; names of teams have no blanks.
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[async_trait::async_trait]
impl Identity for Remote {
    async fn authenticate(
        &self,
        username: &str,
        password: &Secret,
    ) -> Result<Arc<Principal>, IdentityError> {
        self.authenticate_from(username, password, None).await
    }

    async fn authenticate_from(
        &self,
        username: &str,
        password: &Secret,
        from: Option<IpAddr>,
    ) -> Result<Arc<Principal>, IdentityError> {
        let username = &login_name(username);
        let fingerprint = self.fingerprint(username, password, from);
        // This memory stands in front of the UCP's guard: of a source that guesses, that one is asked.
        if self.missed.is_bearable(username, from, self.now())
            && let Some((id, then)) = self.passwords.get(&fingerprint, self.now(), PASSWORD_FRESH)
        {
            let principal = self.principal(&id).await?.ok_or(IdentityError::WrongCredentials)?;
            if principal.password_changed_at == then {
                return Ok(principal);
            }
        }
        let asked = self.ask_password(username, password, from, false).await;
        if matches!(asked, Err(IdentityError::Throttled { .. } | IdentityError::WrongCredentials)) {
            self.missed.add(username, from, self.now());
        }
        let (principal, _) = asked?;
        let verified = (principal.account.id.clone(), principal.password_changed_at);
        self.passwords.put(fingerprint, verified, self.now());
        Ok(principal)
    }

    async fn login(
        &self,
        username: &str,
        password: &Secret,
        from: Option<IpAddr>,
    ) -> Result<Login, IdentityError> {
        let username = &login_name(username);
        let (principal, answer) = self.ask_password(username, password, from, true).await?;
        match (answer.session_token, answer.expires_at) {
            (Some(token), Some(expires_at)) => {
                self.sessions.put(token_key(&token), principal.account.id.clone(), self.now());
                Ok(Login { token, principal, expires_at })
            }
            _ => Err(IdentityError::Unavailable {
                reason: format!("{} began no session", self.url()),
            }),
        }
    }

    async fn logout(&self, token: &Secret) -> Result<(), IdentityError> {
        self.sessions.forget(&token_key(token));
        let form = SessionForm { token: Some(token.clone()), hash: None };
        self.ask::<serde_json::Value>(Call::post("/enzi/v0/service/logout", &form)).await?;
        Ok(())
    }

    async fn session(&self, token: &Secret) -> Result<Option<Arc<Principal>>, IdentityError> {
        let form = SessionForm { token: Some(token.clone()), hash: None };
        match self.ask_session(token_key(token), &form).await? {
            Some(id) => self.principal(&id).await,
            None => Ok(None),
        }
    }

    async fn session_account(&self, hash: &str) -> Result<Option<AccountId>, IdentityError> {
        let mut key = [0; 32];
        if hex::decode_to_slice(hash, &mut key).is_err() {
            return Ok(None);
        }
        self.ask_session(key, &SessionForm { token: None, hash: Some(hash.to_owned()) }).await
    }

    async fn principal(&self, id: &AccountId) -> Result<Option<Arc<Principal>>, IdentityError> {
        let call = Call::get(format!("/enzi/v0/service/principals/{id}"));
        self.known(&self.principals, id.clone(), call, |view: PrincipalView| {
            (view.account.id == *id).then(|| Arc::new(view.into()))
        })
        .await
    }

    async fn account(&self, name: &AccountName) -> Result<Option<Account>, IdentityError> {
        let call = Call::get(format!("/enzi/v0/accounts/{}", segment(name.as_str())));
        self.known(&self.accounts, name.to_string(), call, |account: Account| {
            (account.name == *name).then_some(account)
        })
        .await
    }

    async fn account_by_id(&self, id: &AccountId) -> Result<Option<Account>, IdentityError> {
        let call = Call::get(format!("/enzi/v0/accounts/{id}"));
        self.known(&self.accounts, id.to_string(), call, |account: Account| {
            (account.id == *id).then_some(account)
        })
        .await
    }

    async fn team(&self, org: &AccountId, name: &TeamName) -> Result<Option<Team>, IdentityError> {
        let call = Call::get(format!("/enzi/v0/accounts/{org}/teams/{}", segment(name.as_str())));
        let key = (org.clone(), name.to_string());
        self.known(&self.teams, key, call, |team: TeamView| {
            (team.name == *name).then(|| team.into())
        })
        .await
    }

    async fn team_by_id(
        &self,
        org: &AccountId,
        id: &TeamId,
    ) -> Result<Option<Team>, IdentityError> {
        let call = Call::get(format!("/enzi/v0/accounts/{org}/teams/{id}"));
        let key = (org.clone(), id.to_string());
        self.known(&self.teams, key, call, |team: TeamView| (team.id == *id).then(|| team.into()))
            .await
    }

    async fn accounts(&self, query: &AccountQuery) -> Result<AccountPage, IdentityError> {
        let text = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("start", query.start.as_deref().unwrap_or_default())
            .append_pair("limit", &query.effective_limit().to_string())
            .append_pair("filter", query.filter.as_str())
            .finish();
        let list: Option<AccountList> =
            self.ask(Call::get(format!("/enzi/v0/accounts?{text}"))).await?;
        let list = list.unwrap_or_default();
        let next = (!list.next_page_start.is_empty()).then_some(list.next_page_start);
        Ok(AccountPage { accounts: list.accounts, next })
    }

    async fn account_counts(&self) -> Result<AccountCounts, IdentityError> {
        let list: Option<AccountList> = self.ask(Call::get("/enzi/v0/accounts?limit=1")).await?;
        let list = list.unwrap_or_default();
        Ok(AccountCounts { users: list.users_count, orgs: list.orgs_count })
    }

    async fn members(&self, org: &AccountId) -> Result<Vec<Member>, IdentityError> {
        self.pages(&format!("/enzi/v0/accounts/{org}/members"), |list: MemberList| {
            (list.members, list.next_page_start)
        })
        .await
    }

    async fn organizations(&self, user: &AccountId) -> Result<Vec<Member>, IdentityError> {
        let path = format!("/enzi/v0/accounts/{user}/organizations");
        self.pages(&path, |list: MemberOrgList| {
            let members = list.member_orgs.into_iter();
            let members = members.map(|m| Member { member: m.org, is_admin: m.is_admin });
            (members.collect(), list.next_page_start)
        })
        .await
    }

    async fn teams(&self, org: &AccountId) -> Result<Vec<Team>, IdentityError> {
        self.pages(&format!("/enzi/v0/accounts/{org}/teams"), |list: TeamList| {
            (list.teams.into_iter().map(Team::from).collect(), list.next_page_start)
        })
        .await
    }

    async fn team_members(
        &self,
        org: &AccountId,
        team: &TeamId,
    ) -> Result<Vec<Member>, IdentityError> {
        let path = format!("/enzi/v0/accounts/{org}/teams/{team}/members");
        self.pages(&path, |list: MemberList| (list.members, list.next_page_start)).await
    }

    async fn export(&self, proof: &Secret) -> Result<Option<AccountRecords>, IdentityError> {
        // A session that is good here alone: the UCP gives its answer to this registry, for whoever it is of.
        if let Some(("Bearer", token)) = proof.expose().split_once(' ') {
            let token = Some(Secret::new(token.trim()));
            let form = SessionForm { token, hash: None };
            let bearer = self.service_token()?;
            let call = Call::post("/enzi/v0/service/exportAccounts", &form).bearer(&bearer);
            if let Ok(records) = self.http.export(call).await {
                return Ok(Some(records));
            }
        }
        let call = Call::get("/enzi/v0/admin/exportAccounts").authorization(proof);
        match self.http.export(call).await {
            Ok(records) => Ok(Some(records)),
            // One that is older, or that does not take this for an administrator's word.
            Err(error) if matches!(error.status(), Some(401 | 403 | 404 | 405 | 501)) => Ok(None),
            Err(error) => Err(IdentityError::Unavailable { reason: error.to_string() }),
        }
    }

    async fn health(&self) -> Result<(), IdentityError> {
        let recent = self.breaker.succeeded_at().is_some_and(|at| self.now().since(at) < FRESH);
        if recent && self.breaker.failure().is_none() && self.trouble().is_none() {
            return Ok(());
        }
        // What only a registry may ask that the UCP knows.
        self.ask::<serde_json::Value>(Call::get("/enzi/v0/config/auth")).await?;
        Ok(())
    }

    fn trouble(&self) -> Option<String> {
        self.refused.lock().clone()
    }
}
