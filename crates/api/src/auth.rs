//! Who asks, and whether they may: the one place where this face touches the permission table.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, header, request::Parts},
};
use dtr_access::{Access, AuthError, Caller, Denied, LocalAdmin, Operation, Permit, Proof};
use dtr_catalog::records::{Account, Repository};
use dtr_identity::{Actor, Principal};
use dtr_transport::RequestInfo;
use dtr_types::{AccountName, Secret};

use crate::{ApiError, ApiState, extract::repository_name};

/// Who asks.
pub(crate) struct Asking {
    pub caller: Caller,
    /// The `Authorization` header, if it says something to the identity service too: a password or a session. A token of
    /// this registry never leaves it.
    pub proof: Option<Secret>,
}

impl FromRequestParts<ApiState> for Asking {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        if parts.extensions.get::<LocalAdmin>().is_some() {
            return Ok(Self { caller: Caller::Local, proof: None });
        }
        let header = parts.headers.get(header::AUTHORIZATION);
        let Some(header) = header else {
            // Nobody changes anything without a login. Said before the body is read: a stranger is not to occupy memory.
            if !parts.method.is_safe() {
                return Err(ApiError::not_authenticated());
            }
            return Ok(Self { caller: Caller::Anonymous, proof: None });
        };
        let text = header.to_str().map_err(|_| ApiError::not_authenticated())?;
        let from = parts.extensions.get::<RequestInfo>().and_then(|info| info.source);
        let caller = state.access.caller_from_header_at(text, from).await?;
        let proof = Access::is_for_identity(text).then(|| Secret::new(text));
        Ok(Self { caller, proof })
    }
}

impl Asking {
    /// The user who asks.
    pub fn principal(&self) -> Result<&Arc<Principal>, ApiError> {
        self.caller.principal().ok_or_else(ApiError::not_authenticated)
    }

    /// Whether an administrator asks, with nothing taken away from its rights.
    pub fn is_admin(&self) -> bool {
        self.caller.is_admin()
    }

    /// Refuses callers that did not log in with a password or a session: a credential that lasts is made by a person, since it
    /// would go on when the token that it was made with is taken away.
    pub fn logged_in(&self) -> Result<(), ApiError> {
        if self.caller.proof().is_none_or(Proof::is_login) {
            return Ok(());
        }
        Err(ApiError::not_authorized(
            "an access token makes no other; log in with the password for that",
        ))
    }

    /// Who acts, for the identity service's records.
    pub fn actor(&self) -> Actor {
        match self.caller.principal() {
            Some(principal) => Actor::from(&**principal),
            None => Actor::system(),
        }
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Wrong(why) => Self::new(StatusCode::UNAUTHORIZED, "NOT_AUTHENTICATED", why),
            AuthError::Identity(error) => error.into(),
            AuthError::Catalog(error) => error.into(),
        }
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::NotAuthenticated => Self::not_authenticated(),
            Denied::Absent => Self::new(
                StatusCode::NOT_FOUND,
                "NO_SUCH_REPOSITORY",
                "there is no such thing, or you may not see it",
            ),
            Denied::Forbidden(reason) => Self::not_authorized(reason),
        }
    }
}

/// A repository on which the caller may do something. One that the caller may not even see does not exist.
pub(crate) async fn repository(
    state: &ApiState,
    asking: &Asking,
    namespace: &str,
    name: &str,
    operation: Operation,
) -> Result<(Repository, Permit), ApiError> {
    let full = repository_name(namespace, name)?;
    let found = state.catalog.lookup_repository(&full).await?;
    let unknown = || ApiError::no_such("NO_SUCH_REPOSITORY", "repository", &full);
    let Some(found) = found else {
        return Err(match asking.caller {
            Caller::Anonymous => ApiError::not_authenticated(),
            _ => unknown(),
        });
    };
    let repository = found.value;
    match state.access.authorize_repository(&asking.caller, operation, &repository).await? {
        Ok(permit) => Ok((repository, permit)),
        Err(Denied::Absent) => Err(unknown()),
        Err(denied) => Err(denied.into()),
    }
}

/// Whether the caller may also do something else on a repository that it sees.
pub(crate) async fn may(
    state: &ApiState,
    asking: &Asking,
    repository: &Repository,
    operation: Operation,
) -> Result<bool, ApiError> {
    Ok(state.access.authorize_repository(&asking.caller, operation, repository).await?.is_ok())
}

/// Whether the caller sees a repository.
pub(crate) async fn may_read(
    state: &ApiState,
    asking: &Asking,
    repository: &Repository,
) -> Result<bool, ApiError> {
    may(state, asking, repository, Operation::ViewRepository).await
}

/// A namespace in which the caller may do something.
pub(crate) async fn namespace(
    state: &ApiState,
    asking: &Asking,
    name: &AccountName,
    operation: Operation,
) -> Result<(Account, Permit), ApiError> {
    let found = state.identity.account(name).await?;
    let unknown = || ApiError::no_such("NO_SUCH_ACCOUNT", "account", name);
    let Some(account) = found else {
        return Err(match asking.caller {
            Caller::Anonymous => ApiError::not_authenticated(),
            _ => unknown(),
        });
    };
    match state.access.authorize_namespace(&asking.caller, operation, &account).await? {
        Ok(permit) => Ok((account, permit)),
        Err(Denied::Absent) => Err(unknown()),
        Err(denied) => Err(denied.into()),
    }
}

/// Something about the registry as a whole.
pub(crate) async fn system(
    state: &ApiState,
    asking: &Asking,
    operation: Operation,
) -> Result<Permit, ApiError> {
    Ok(state.access.authorize_system(&asking.caller, operation)?)
}

/// Refuses a token that is limited to something else: for what is decided elsewhere besides.
pub(crate) fn left_by_token(
    state: &ApiState,
    asking: &Asking,
    operation: Operation,
) -> Result<(), ApiError> {
    if matches!(asking.caller, Caller::Anonymous) {
        return Err(ApiError::not_authenticated());
    }
    Ok(state.access.left_by_token(&asking.caller, operation)?)
}

/// The account of that name, if it is the caller's own or the caller is an administrator.
pub(crate) async fn oneself_or_admin(
    state: &ApiState,
    asking: &Asking,
    name: &AccountName,
) -> Result<Account, ApiError> {
    if let Some(principal) = asking.caller.principal()
        && principal.account.name == *name
    {
        return Ok(principal.account.clone());
    }
    if !asking.is_admin() {
        return Err(match asking.caller {
            Caller::Anonymous => ApiError::not_authenticated(),
            _ => ApiError::no_such("NO_SUCH_USER", "user", name),
        });
    }
    let found = state.identity.account(name).await?;
    found.ok_or_else(|| ApiError::no_such("NO_SUCH_USER", "user", name))
}

/// Refuses changes to content while the registry is read-only.
pub(crate) async fn writable(state: &ApiState) -> Result<(), ApiError> {
    if state.catalog.settings().await?.read_only_registry {
        return Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "READ_ONLY",
            "the registry is read-only at the moment; an administrator can change that",
        ));
    }
    Ok(())
}
