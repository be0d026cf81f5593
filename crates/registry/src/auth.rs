//! Who asks and whether they may, in the terms of the protocol: challenges, scopes, and which refusal a client
//! understands. Source: Docker registry token authentication; traps of real clients are noted where they matter.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use dtr_access::{AuthError, Caller, Denied, Limits, Operation};
use dtr_catalog::records::{Repository, Visibility};
use dtr_store::together::is_lately;
use dtr_transport::{RequestInfo, Scheme};
use dtr_types::{ClientHost, RepositoryId, RepositoryName};

use crate::{Gate, OciError, Registry};

/// For how long the name of this registry is used before it is read again.
const NAME_TTL: Duration = Duration::from_secs(1);

/// Makes the challenge that tells a client where to get a token.
#[derive(Clone, Debug)]
pub(crate) struct Challenger {
    base: String,
    host: String,
    has_token: bool,
    /// Where the request comes from.
    client: Option<IpAddr>,
}

impl Challenger {
    /// A client fetches its token where it reached us, since it may know no other of our names: a replica's own, or one of
    /// several in front of a proxy. Where that is not sure, as behind a proxy that hands on its own name for us, at the
    /// address for clients (`external`, the setting `dtrHost`). Where there is such an address, clients use TLS, whatever a
    /// proxy says of its own connection: no password may be sent in the clear because of that word.
    pub fn of(request: &Request, external: &str) -> Self {
        let info = request.extensions().get::<RequestInfo>();
        let used = info.and_then(|info| info.host.as_deref().map(|host| (info.scheme, host)));
        let is_sure = info.is_some_and(|info| info.host_is_sure);
        let (base, host) = token_address(external.parse().ok().as_ref(), used, is_sure);
        let has_token = request.headers().contains_key(header::AUTHORIZATION);
        Self { base, host, has_token, client: info.and_then(|info| info.source) }
    }

    /// Where the client reached us, or should: `https://host[:port]`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The host (and port) of it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// `401` with the challenge for a scope.
    pub fn unauthorized(
        &self,
        message: &str,
        scope: Option<&str>,
        error: Option<&str>,
    ) -> OciError {
        let mut challenge =
            format!("Bearer realm=\"{}/auth/token\",service=\"{}\"", self.base, self.host);
        if let Some(scope) = scope {
            challenge.push_str(&format!(",scope=\"{scope}\""));
        }
        if let Some(error) = error {
            challenge.push_str(&format!(",error=\"{error}\""));
        }
        // It follows the host that the client says it used: no cache may hand it to another.
        OciError::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
            .header(header::WWW_AUTHENTICATE, challenge)
            .header(header::CACHE_CONTROL, "no-store")
    }

    /// Where the request comes from.
    pub fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// The answer to credentials that are refused. The challenge lets the client ask for another token.
    fn refused(&self, error: AuthError) -> OciError {
        let error = OciError::from(error);
        if error.status() == StatusCode::UNAUTHORIZED {
            let message = "the credentials are wrong, or the token has ended";
            return self.unauthorized(message, None, Some("invalid_token"));
        }
        error
    }
}

/// The text of the `Authorization` header.
fn authorization<'a>(
    challenger: &Challenger,
    headers: &'a HeaderMap,
) -> Result<Option<&'a str>, OciError> {
    let text = headers.get(header::AUTHORIZATION).map(HeaderValue::to_str).transpose();
    text.map_err(|_| {
        let message = "the Authorization header is not text";
        challenger.unauthorized(message, None, Some("invalid_token"))
    })
}

/// Where a client fetches its token, as `scheme://host`, and that host. `used` is what the client is seen to have used.
fn token_address(
    external: Option<&ClientHost>,
    used: Option<(Scheme, &ClientHost)>,
    is_sure: bool,
) -> (String, String) {
    let (scheme, host) = match (external, used) {
        (Some(_), Some((_, used))) if is_sure => (Scheme::Https, used.to_string()),
        (Some(external), _) => (Scheme::Https, external.to_string()),
        (None, Some((scheme, used))) => (scheme, used.to_string()),
        (None, None) => (Scheme::Https, "localhost".to_owned()),
    };
    (format!("{}://{host}", scheme.as_str()), host)
}

impl Registry {
    /// `host` or `host:port` of the address for clients; empty for none, and while the store cannot be asked: who asks is
    /// told something nevertheless.
    pub(crate) async fn external_host(&self) -> String {
        if let Some(known) = self.settings_known(NAME_TTL) {
            return known.dtr_host.clone();
        }
        self.settings().await.map(|settings| settings.dtr_host.clone()).unwrap_or_default()
    }

    /// Who sends these headers.
    pub(crate) async fn authenticate(
        &self,
        challenger: &Challenger,
        headers: &HeaderMap,
    ) -> Result<Caller, OciError> {
        let text = authorization(challenger, headers)?;
        match (&self.gate, text) {
            (Gate::Open, _) => Ok(Caller::Local),
            (Gate::Access(_), None) => Ok(Caller::Anonymous),
            (Gate::Access(access), Some(text)) => access
                .caller_from_header_at(text, challenger.client)
                .await
                .map_err(|error| challenger.refused(error)),
        }
    }

    /// Who asks for a token with these headers.
    pub(crate) async fn exchanger(
        &self,
        challenger: &Challenger,
        headers: &HeaderMap,
    ) -> Result<Caller, OciError> {
        let text = authorization(challenger, headers)?;
        match (&self.gate, text) {
            (Gate::Open, _) => Ok(Caller::Local),
            (Gate::Access(_), None) => Ok(Caller::Anonymous),
            (Gate::Access(access), Some(text)) => access
                .exchanger_from_header(text, challenger.client)
                .await
                .map_err(|error| challenger.refused(error)),
        }
    }
}

/// A request with who asks.
pub(crate) struct Asked<'a> {
    pub registry: &'a Registry,
    pub caller: Caller,
    pub challenger: Challenger,
    /// A repository that a blob is mounted from: a client that has to ask for a token is to ask for that one too.
    pub source: Option<RepositoryName>,
}

/// The actions of a scope that an operation needs, as a challenge names them.
fn actions(operation: Operation) -> &'static str {
    match operation {
        Operation::Push => "pull,push",
        Operation::DeleteTag => "delete",
        _ => "pull",
    }
}

impl Asked<'_> {
    /// `GET /v2/`: always challenges without a token, also where anonymous pulls are allowed, since podman and skopeo
    /// learn only here how to log in.
    pub fn base(&self) -> Result<Response, OciError> {
        if matches!(self.caller, Caller::Anonymous) && !self.challenger.has_token {
            return Err(self.challenger.unauthorized("log in first", None, None));
        }
        let mut response = Response::new(Body::from("{}"));
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }

    /// The repository, if the caller may do this with it.
    pub async fn repository(
        &self,
        name: &RepositoryName,
        operation: Operation,
    ) -> Result<Repository, OciError> {
        let found = self.registry.catalog.lookup_repository(name).await?.map(|found| found.value);
        let access = match &self.registry.gate {
            Gate::Open => return self.open_repository(name, found).await,
            Gate::Access(access) => access,
        };
        let mut scope = format!("repository:{name}:{}", actions(operation));
        if let Some(source) = self.source.as_ref().filter(|source| *source != name) {
            scope.push_str(&format!(" repository:{source}:pull"));
        }
        let Some(repository) = found else {
            // That stores something, so it is not decided by what was true lately.
            if operation == Operation::Push
                && !is_lately()
                && let Some(made) = self.create_on_push(name, &scope).await?
            {
                return Ok(made);
            }
            return Err(match self.caller {
                Caller::Anonymous => self.log_in(&scope),
                _ => OciError::name_unknown(name, operation),
            });
        };
        let allowed = access.authorize_repository(&self.caller, operation, &repository).await?;
        let Err(denied) = allowed else { return Ok(repository) };
        // A token that was issued for something else: the client is to ask for another one.
        if let Some(unscoped) = without_scopes(&self.caller)
            && access.authorize_repository(&unscoped, operation, &repository).await?.is_ok()
        {
            let message = format!("the token does not cover {scope}");
            return Err(self.challenger.unauthorized(
                &message,
                Some(&scope),
                Some("insufficient_scope"),
            ));
        }
        // Told without regard to the token's scopes, which only say what was asked for.
        let denied = match without_scopes(&self.caller) {
            Some(unscoped) => {
                match access.authorize_repository(&unscoped, operation, &repository).await? {
                    Err(denied) => denied,
                    Ok(_) => denied,
                }
            }
            None => denied,
        };
        Err(match denied {
            Denied::NotAuthenticated => self.log_in(&scope),
            Denied::Absent => OciError::name_unknown(name, operation),
            Denied::Forbidden(reason) => OciError::denied(reason),
        })
    }

    fn log_in(&self, scope: &str) -> OciError {
        self.challenger.unauthorized("authentication is required", Some(scope), None)
    }

    /// Makes the repository that a push names, if the settings and the caller's rights allow it.
    async fn create_on_push(
        &self,
        name: &RepositoryName,
        scope: &str,
    ) -> Result<Option<Repository>, OciError> {
        let Gate::Access(access) = &self.registry.gate else { return Ok(None) };
        if !self.registry.settings().await?.create_repository_on_push {
            return Ok(None);
        }
        let Some(owner) = access.identity().account(&name.namespace()).await? else {
            return Ok(None);
        };
        // Whether the token's scopes cover the push is asked below.
        let unscoped = without_scopes(&self.caller).unwrap_or_else(|| self.caller.clone());
        let allowed =
            access.authorize_namespace(&unscoped, Operation::CreateRepository, &owner).await?;
        if allowed.is_err() {
            return Ok(None);
        }
        let limits = self.caller.limits();
        if limits.is_some_and(|l| !l.allow(dtr_access::Action::Push, Some(name))) {
            let message = format!("the token does not cover {scope}");
            return Err(self.challenger.unauthorized(
                &message,
                Some(scope),
                Some("insufficient_scope"),
            ));
        }
        let repository = new_repository(self.registry, name, owner.id, owner.is_org);
        self.store_new(repository).await.map(Some)
    }

    async fn store_new(&self, repository: Repository) -> Result<Repository, OciError> {
        let catalog = &self.registry.catalog;
        let event = crate::recorder::event(
            catalog,
            &self.caller,
            &repository,
            dtr_catalog::records::EventType::Create,
            "repository",
            repository.name.as_str(),
            "",
        );
        match catalog.create_repository(&repository, Some(&event)).await {
            Ok(()) => Ok(repository),
            // Another push of the same moment was first.
            Err(dtr_catalog::CatalogError::Exists { .. }) => {
                let found = catalog.lookup_repository(&repository.name).await?;
                let unknown = || OciError::name_unknown(&repository.name, Operation::Push);
                Ok(found.ok_or_else(unknown)?.value)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn open_repository(
        &self,
        name: &RepositoryName,
        found: Option<Repository>,
    ) -> Result<Repository, OciError> {
        if let Some(repository) = found {
            return Ok(repository);
        }
        let owner = dtr_types::AccountId::random(self.registry.catalog.random());
        let mut repository = new_repository(self.registry, name, owner, false);
        repository.visibility = Visibility::Public;
        self.store_new(repository).await
    }

    /// The repositories among `ids` that the caller can pull from, in order.
    pub async fn pullable(&self, ids: &[RepositoryId]) -> Result<Vec<Repository>, OciError> {
        let mut all = Vec::new();
        for id in ids {
            let key = dtr_catalog::keys::repository(id);
            let Some(found) = self.registry.catalog.get(&key).await? else { continue };
            if self.may_pull(&found.value).await? {
                all.push(found.value);
            }
        }
        Ok(all)
    }

    /// Whether the caller can pull from a repository.
    pub async fn may_pull(&self, repository: &Repository) -> Result<bool, OciError> {
        match &self.registry.gate {
            Gate::Open => Ok(true),
            Gate::Access(access) => Ok(access
                .authorize_repository(&self.caller, Operation::Pull, repository)
                .await?
                .is_ok()),
        }
    }

    /// As [`Asked::may_pull`], without regard to what the token was issued for: for lists.
    pub async fn may_see(&self, repository: &Repository) -> Result<bool, OciError> {
        match (&self.registry.gate, without_scopes(&self.caller)) {
            (Gate::Access(access), Some(unscoped)) => Ok(access
                .authorize_repository(&unscoped, Operation::Pull, repository)
                .await?
                .is_ok()),
            _ => self.may_pull(repository).await,
        }
    }
}

/// The caller with its rights as they are without the scopes of its bearer token; `None` when it has none.
fn without_scopes(caller: &Caller) -> Option<Caller> {
    let Caller::User { principal, limits, proof } = caller else { return None };
    limits.scopes.as_ref()?;
    let limits = Limits { scopes: None, ..(**limits).clone() };
    let (principal, limits) = (Arc::clone(principal), Arc::new(limits));
    Some(Caller::User { principal, limits, proof: proof.clone() })
}

fn new_repository(
    registry: &Registry,
    name: &RepositoryName,
    owner: dtr_types::AccountId,
    owner_is_org: bool,
) -> Repository {
    Repository {
        id: RepositoryId::random(registry.catalog.random()),
        name: name.clone(),
        namespace: owner,
        namespace_is_org: owner_is_org,
        visibility: Visibility::Private,
        short_description: String::new(),
        long_description: String::new(),
        immutable_tags: false,
        scan_on_push: false,
        tag_limit: 0,
        created_at: registry.catalog.now(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_asked_for_in_the_clear_where_clients_use_tls() {
        let host = |text: &str| text.parse::<ClientHost>().ok();
        let (external, inner) = (host("registry.example.com"), host("inner:5000"));
        for scheme in [Scheme::Http, Scheme::Https] {
            let used = inner.as_ref().map(|inner| (scheme, inner));
            let sure = token_address(external.as_ref(), used, true);
            assert_eq!(sure, ("https://inner:5000".to_owned(), "inner:5000".to_owned()));
            let unsure = token_address(external.as_ref(), used, false).0;
            assert_eq!(unsure, "https://registry.example.com");
            // Where nobody said what clients use, the way they came is all that is known.
            let unknown = token_address(None, used, false).0;
            assert_eq!(unknown, format!("{}://inner:5000", scheme.as_str()));
        }
        assert_eq!(token_address(None, None, false).0, "https://localhost");
    }
}
