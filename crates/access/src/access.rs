//! Credentials to callers, callers to permits.

use std::{net::IpAddr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use dtr_catalog::{
    Catalog, CatalogError,
    records::{AccessLevel, Account, Repository, TokenOrigin, Visibility},
};
use dtr_identity::{
    Identity, IdentityError, Principal, is_session_token, login_name, session_hash,
};
use dtr_types::{AccountId, ClusterId, Secret, Timestamp};

use crate::{
    Caller, Denied, Operation, Permit, Proof, Rule,
    access_token::AccessTokens,
    bearer::{Bearer, IssuedToken, Origin, Verified},
    caller::Scope,
};

/// How long a refresh token, such as docker keeps after a login, is good for.
const REFRESH_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);

/// Why the room cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The key that signs tokens cannot be made or used.
    #[error("the key that signs tokens cannot be used: {0}")]
    Key(String),
    /// Somebody asked for a token with one of `/auth/token`.
    #[error(
        "a token of /auth/token makes no other; ask with the password, an access token or a refresh token"
    )]
    Derived,
}

/// Why credentials make nobody.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// They are wrong, or not in a form that is understood.
    #[error("{0}")]
    Wrong(&'static str),
    /// The identity service failed, or says no.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// What credentials are given for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To do something.
    Request,
    /// To get a token of `/auth/token`.
    Exchange,
}

/// Who may do what. Cheap to clone.
#[derive(Clone)]
pub struct Access {
    pub(crate) catalog: Catalog,
    identity: Arc<dyn Identity>,
    bearer: Arc<Bearer>,
    tokens: AccessTokens,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Access")
    }
}

impl Access {
    /// Over the catalog of a cluster and an identity service; makes the key that signs tokens if there is none. Tokens that
    /// another cluster issued are none here.
    ///
    /// # Errors
    /// When the catalog fails, or a key in it cannot be used.
    pub async fn new(
        catalog: Catalog,
        cluster: &ClusterId,
        identity: Arc<dyn Identity>,
    ) -> Result<Self, AccessError> {
        let bearer = Arc::new(Bearer::open(catalog.clone(), cluster).await?);
        let tokens = AccessTokens::new(catalog.clone());
        Ok(Self { catalog, identity, bearer, tokens })
    }

    /// The identity service.
    pub fn identity(&self) -> &Arc<dyn Identity> {
        &self.identity
    }

    /// Who sends this `Authorization` header.
    ///
    /// # Errors
    /// [`AuthError`]: wrong credentials are an error, never an anonymous caller.
    pub async fn caller_from_header(&self, header: &str) -> Result<Caller, AuthError> {
        self.caller_from_header_at(header, None).await
    }

    /// As [`Access::caller_from_header`], saying where the request comes from: wrong passwords from one address then do
    /// not keep the user out at another.
    ///
    /// # Errors
    /// As [`Access::caller_from_header`].
    pub async fn caller_from_header_at(
        &self,
        header: &str,
        from: Option<IpAddr>,
    ) -> Result<Caller, AuthError> {
        self.by_header(header, from, Purpose::Request).await
    }

    /// Who asks for a token of `/auth/token` with this `Authorization` header: as [`Access::caller_from_header_at`], but refresh
    /// tokens are taken, and tokens of `/auth/token` are not.
    ///
    /// # Errors
    /// As [`Access::caller_from_header`].
    pub async fn exchanger_from_header(
        &self,
        header: &str,
        from: Option<IpAddr>,
    ) -> Result<Caller, AuthError> {
        self.by_header(header, from, Purpose::Exchange).await
    }

    /// Who asks for a token of `/auth/token` with a name and a password, or what stands in place of one.
    ///
    /// # Errors
    /// As [`Access::caller_from_header`].
    pub async fn exchanger_from_password(
        &self,
        username: &str,
        password: &Secret,
        from: Option<IpAddr>,
    ) -> Result<Caller, AuthError> {
        self.by_password(username, password, from, Purpose::Exchange).await
    }

    /// Who asks for a token of `/auth/token` with a token that lasts: a refresh token, an access token, or a session.
    ///
    /// # Errors
    /// As [`Access::caller_from_header`].
    pub async fn exchanger_from_token(&self, token: &Secret) -> Result<Caller, AuthError> {
        self.by_bearer(token, Purpose::Exchange).await
    }

    async fn by_header(
        &self,
        header: &str,
        from: Option<IpAddr>,
        purpose: Purpose,
    ) -> Result<Caller, AuthError> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            let wrong = AuthError::Wrong("the Authorization header is not Basic authentication");
            let Ok(decoded) = STANDARD.decode(rest.trim()) else { return Err(wrong) };
            let Ok(text) = String::from_utf8(decoded) else { return Err(wrong) };
            let Some((username, password)) = text.split_once(':') else { return Err(wrong) };
            return self.by_password(username, &Secret::new(password), from, purpose).await;
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.by_bearer(&Secret::new(rest.trim()), purpose).await;
        }
        Err(AuthError::Wrong("the Authorization header is neither Basic nor Bearer"))
    }

    /// Whether an `Authorization` header holds a password or a session, which the identity service checks, and no token
    /// that this registry has made itself.
    pub fn is_for_identity(header: &str) -> bool {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            let text = STANDARD.decode(rest.trim()).ok().and_then(|b| String::from_utf8(b).ok());
            let password = text.as_deref().and_then(|text| text.split_once(':'));
            return password.is_some_and(|(_, p)| !AccessTokens::is_token(&Secret::new(p)));
        }
        // The tokens of `/auth/token` have dots, sessions have none.
        let token = Secret::new(rest.trim());
        scheme.eq_ignore_ascii_case("bearer")
            && !AccessTokens::is_token(&token)
            && !token.expose().contains('.')
    }

    /// Whether an `Authorization` header holds a token of `/auth/token`, which says by itself what it is good for, and ends
    /// soon. It is not looked at whether it does.
    pub fn is_issued_token(header: &str) -> bool {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header, ""));
        let is_issued = !AccessTokens::is_token(&Secret::new(rest.trim())) && rest.contains('.');
        scheme.eq_ignore_ascii_case("bearer") && is_issued
    }

    /// Whether an `Authorization` header holds a name and a password, and no access token in place of it.
    pub fn is_password_header(header: &str) -> bool {
        let (scheme, _) = header.trim().split_once(' ').unwrap_or((header, ""));
        scheme.eq_ignore_ascii_case("basic") && Self::is_for_identity(header)
    }

    /// Whether what was given as a password is one, and no access token.
    pub fn is_password(text: &Secret) -> bool {
        !AccessTokens::is_token(text)
    }

    /// Who logs in with this name and password, or access token in place of the password.
    pub async fn caller_from_password(
        &self,
        username: &str,
        password: &Secret,
    ) -> Result<Caller, AuthError> {
        self.caller_from_password_at(username, password, None).await
    }

    /// As [`Access::caller_from_password`], saying where the login comes from.
    ///
    /// # Errors
    /// As [`Access::caller_from_password`].
    pub async fn caller_from_password_at(
        &self,
        username: &str,
        password: &Secret,
        from: Option<IpAddr>,
    ) -> Result<Caller, AuthError> {
        self.by_password(username, password, from, Purpose::Request).await
    }

    async fn by_password(
        &self,
        username: &str,
        password: &Secret,
        from: Option<IpAddr>,
        purpose: Purpose,
    ) -> Result<Caller, AuthError> {
        let name = login_name(username);
        let is_of_user = |p: &Arc<Principal>| p.account.name.as_str() == name;
        if AccessTokens::is_token(password) {
            let caller = self.by_access_token(password, purpose).await?;
            let same = caller.principal().is_some_and(is_of_user);
            return if same { Ok(caller) } else { Err(IdentityError::WrongCredentials.into()) };
        }
        // A session in place of the password is one: what is made with it ends with it.
        if is_session_token(password)
            && let Some(principal) = self.identity.session(password).await?.filter(is_of_user)
        {
            return Ok(by_session(principal, password));
        }
        Ok(Caller::user(self.identity.authenticate_from(username, password, from).await?))
    }

    /// Who sends this bearer token: one of `/auth/token`, an access token, or a session token.
    pub async fn caller_from_bearer(&self, token: &Secret) -> Result<Caller, AuthError> {
        self.by_bearer(token, Purpose::Request).await
    }

    async fn by_bearer(&self, token: &Secret, purpose: Purpose) -> Result<Caller, AuthError> {
        if AccessTokens::is_token(token) {
            return self.by_access_token(token, purpose).await;
        }
        if let Some(verified) = self.bearer.verify(token).await? {
            if purpose == Purpose::Exchange {
                return Err(AuthError::Wrong("a token of /auth/token makes no other"));
            }
            return self.by_verified(&verified).await;
        }
        match self.identity.session(token).await? {
            Some(principal) => Ok(by_session(principal, token)),
            None => Err(AuthError::Wrong("the token is not valid, or no longer")),
        }
    }

    /// The user of an account, if its password is the one of `password_changed_at`.
    async fn user_of(
        &self,
        account: &AccountId,
        password_changed_at: Option<Timestamp>,
    ) -> Result<Arc<Principal>, AuthError> {
        let principal = self.identity.principal(account).await?;
        let principal = principal.ok_or(AuthError::Wrong("the account is not active any more"))?;
        // Compared for equality, since the two times may be of two clocks: the identity service has its own.
        if let (Some(then), Some(now)) = (password_changed_at, principal.password_changed_at)
            && then != now
        {
            return Err(AuthError::Wrong("the password was changed; log in again"));
        }
        Ok(principal)
    }

    async fn by_verified(&self, verified: &Verified) -> Result<Caller, AuthError> {
        let Some(account) = &verified.account else { return Ok(Caller::Anonymous) };
        let origin = &verified.origin;
        let principal = self.user_of(account, origin.password_changed_at).await?;
        if let Some(hash) = &origin.access_token
            && self.tokens.by_hash(hash).await?.is_none_or(|token| token.account != *account)
        {
            return Err(AuthError::Wrong(
                "the access token that this token was made with is not there any more",
            ));
        }
        if let Some(hash) = &origin.session
            && self.identity.session_account(hash).await?.as_ref() != Some(account)
        {
            return Err(AuthError::Wrong("the session that this token was made in is over"));
        }
        Ok(Caller::User { principal, limits: Arc::clone(&verified.limits), proof: Proof::Issued })
    }

    async fn by_access_token(&self, token: &Secret, purpose: Purpose) -> Result<Caller, AuthError> {
        let Some(record) = self.tokens.check(token).await? else {
            return Err(AuthError::Wrong(
                "the access token is not known, switched off, or has expired",
            ));
        };
        let is_refresh = record.generated_by == TokenOrigin::Auto;
        if is_refresh && purpose == Purpose::Request {
            return Err(AuthError::Wrong(
                "a refresh token is exchanged at /auth/token, and opens nothing by itself",
            ));
        }
        let principal = self.user_of(&record.account, record.password_changed_at).await?;
        let limits = Arc::new(AccessTokens::limits(&record));
        let record = Arc::new(record);
        let proof =
            if is_refresh { Proof::RefreshToken(record) } else { Proof::AccessToken(record) };
        Ok(Caller::User { principal, limits, proof })
    }

    /// A token for `/v2`: the caller may do with it what it may do without, at most what `scopes` says. It ends with what the
    /// caller has proved itself with, at the latest. `service` is the name under which the client knows this registry; it may be
    /// empty.
    ///
    /// # Errors
    /// [`AccessError::Derived`] where that is such a token itself.
    pub async fn issue_token(
        &self,
        caller: &Caller,
        scopes: Vec<Scope>,
        service: &str,
    ) -> Result<IssuedToken, AccessError> {
        let mut limits = caller.limits().cloned().unwrap_or_default();
        limits.scopes = Some(scopes);
        let origin = Origin::of(caller).ok_or(AccessError::Derived)?;
        self.bearer.issue(caller.account_id(), caller.name(), limits, service, origin).await
    }

    /// The highest level that a caller has on a repository by grants; owners and administrators have [`AccessLevel::Admin`].
    pub async fn level(
        &self,
        caller: &Caller,
        repository: &Repository,
    ) -> Result<Option<AccessLevel>, CatalogError> {
        let principal = match caller {
            Caller::Anonymous => return Ok(None),
            Caller::Local => return Ok(Some(AccessLevel::Admin)),
            Caller::User { principal, .. } => principal,
        };
        if !principal.account.is_active {
            return Ok(None);
        }
        if principal.account.is_admin || principal.owns(&repository.namespace) {
            return Ok(Some(AccessLevel::Admin));
        }
        if principal.teams.is_empty() {
            return Ok(None);
        }
        let in_team = |team| principal.teams.iter().any(|(id, _)| id == team);
        let on_repository = self.catalog.repository_grants(&repository.id).await?;
        let granted = on_repository.iter().filter(|g| in_team(&g.team)).map(|g| g.level).max();
        Ok(granted.max(self.namespace_level(principal, &repository.namespace).await?))
    }

    async fn namespace_level(
        &self,
        principal: &Principal,
        namespace: &AccountId,
    ) -> Result<Option<AccessLevel>, CatalogError> {
        let grants = self.catalog.namespace_grants(namespace).await?;
        let in_team = |team| principal.teams.iter().any(|(id, _)| id == team);
        Ok(grants.iter().filter(|grant| in_team(&grant.team)).map(|grant| grant.level).max())
    }

    /// Whether a caller may do something on a repository.
    pub async fn authorize_repository(
        &self,
        caller: &Caller,
        operation: Operation,
        repository: &Repository,
    ) -> Result<Result<Permit, Denied>, CatalogError> {
        let rule = operation.rule();
        let public = repository.visibility == Visibility::Public;
        let level = self.level(caller, repository).await?;
        let is_active = caller.principal().is_none_or(|p| p.account.is_active);
        let by_rule = |rule: &Rule| {
            let by_public = public
                && is_active
                && match caller {
                    Caller::Anonymous => rule.anonymous_if_public,
                    _ => rule.user_if_public,
                };
            by_public || (level.is_some() && level >= rule.level)
        };
        let limits = caller.limits();
        let allowed = limits.is_none_or(|l| l.allow(rule.action, Some(&repository.name)));
        if allowed && by_rule(rule) {
            return Ok(Ok(Permit::new(operation, repository.name.as_str())));
        }
        if !by_rule(Operation::ViewRepository.rule()) {
            return Ok(Err(match caller {
                Caller::Anonymous => Denied::NotAuthenticated,
                _ => Denied::Absent,
            }));
        }
        Ok(Err(match caller {
            Caller::Anonymous => Denied::NotAuthenticated,
            _ if by_rule(rule) => Denied::Forbidden(format!(
                "your token does not allow to {} in {}; log in with one that does",
                rule.label, repository.name
            )),
            _ => Denied::Forbidden(needs(rule, repository)),
        }))
    }

    /// Whether a caller may do something in an account's namespace. What its token takes away is taken away here too: no
    /// scope of a bearer token has a word for a namespace.
    pub async fn authorize_namespace(
        &self,
        caller: &Caller,
        operation: Operation,
        owner: &Account,
    ) -> Result<Result<Permit, Denied>, CatalogError> {
        let rule = operation.rule();
        let principal = match caller {
            Caller::Anonymous => return Ok(Err(Denied::NotAuthenticated)),
            Caller::Local => return Ok(Ok(Permit::new(operation, owner.name.as_str()))),
            Caller::User { principal, .. } => principal,
        };
        if let Err(denied) = self.left_by_token(caller, operation) {
            return Ok(Err(denied));
        }
        let account = &principal.account;
        let yes = account.is_active
            && (account.is_admin
                || (rule.owner && principal.owns(&owner.id))
                || (rule.member && principal.is_member(&owner.id))
                || match rule.level {
                    Some(least) => self.namespace_level(principal, &owner.id).await? >= Some(least),
                    None => false,
                });
        if yes {
            return Ok(Ok(Permit::new(operation, owner.name.as_str())));
        }
        Ok(Err(Denied::Forbidden(format!(
            "to {} in \"{}\" you need to own it, be an administrator, or be in a team with level admin on it",
            rule.label, owner.name
        ))))
    }

    /// Whether a caller may do something about the registry as a whole.
    pub fn authorize_system(
        &self,
        caller: &Caller,
        operation: Operation,
    ) -> Result<Permit, Denied> {
        let rule = operation.rule();
        let permit = || Permit::new(operation, "");
        match caller {
            Caller::Local => Ok(permit()),
            Caller::Anonymous if rule.anonymous_if_public => Ok(permit()),
            Caller::Anonymous => Err(Denied::NotAuthenticated),
            Caller::User { principal, .. } if !principal.account.is_active => {
                Err(Denied::NotAuthenticated)
            }
            Caller::User { limits, .. } if !limits.allow(rule.action, None) => {
                Err(Denied::Forbidden(format!("your token does not allow to {}", rule.label)))
            }
            Caller::User { principal, .. } if principal.account.is_admin || rule.user_if_public => {
                Ok(permit())
            }
            Caller::User { .. } => {
                Err(Denied::Forbidden(format!("only administrators may {}", rule.label)))
            }
        }
    }

    /// Whether a caller's token leaves it an operation that is about no repository, for what is decided elsewhere besides.
    pub fn left_by_token(&self, caller: &Caller, operation: Operation) -> Result<(), Denied> {
        let rule = operation.rule();
        if caller.limits().is_none_or(|limits| limits.allow(rule.action, None)) {
            return Ok(());
        }
        Err(Denied::Forbidden(format!(
            "your token does not allow to {}; log in with one that does",
            rule.label
        )))
    }

    /// When a refresh token that is made now ends.
    pub fn refresh_token_end(&self) -> Timestamp {
        self.catalog.now().plus(REFRESH_LIFETIME)
    }
}

fn by_session(principal: Arc<Principal>, token: &Secret) -> Caller {
    let proof = Proof::Session(session_hash(token));
    Caller::User { principal, limits: Arc::default(), proof }
}

fn needs(rule: &Rule, repository: &Repository) -> String {
    let level = match rule.level {
        Some(AccessLevel::ReadOnly) | None => "read-only",
        Some(AccessLevel::ReadWrite) => "read-write",
        Some(AccessLevel::Admin) => "admin",
    };
    format!(
        "to {} in {} you need the level {level} on it; ask an owner of \"{}\" for it",
        rule.label,
        repository.name,
        repository.name.namespace()
    )
}
