//! Who asks: nobody, a user by password or session, a registered service by its signed token.

use std::{net::IpAddr, sync::Arc};

use base64::Engine as _;
use dtr_catalog::records::Service;
use dtr_identity::{Actor, BuiltIn, Identity as _, Principal, service_token};
use dtr_types::Secret;
use http::{HeaderMap, header};

use crate::error::ApiError;

/// Longest `Authorization` header, in bytes.
const HEADER_MAX: usize = 8 << 10;

#[derive(Clone, Debug)]
pub(crate) enum Caller {
    Anonymous,
    User {
        principal: Arc<Principal>,
        /// The session that the request was made with.
        session: Option<Secret>,
    },
    Service(Arc<Service>),
    /// Who may read the data directory, through its socket: an administrator.
    Local,
}

impl Caller {
    pub(crate) fn principal(&self) -> Option<&Principal> {
        match self {
            Self::User { principal, .. } => Some(principal),
            _ => None,
        }
    }

    pub(crate) fn is_admin(&self) -> bool {
        matches!(self, Self::Local)
            || self.principal().is_some_and(|principal| principal.account.is_admin)
    }

    /// For events.
    pub(crate) fn actor(&self) -> Actor {
        match self {
            Self::User { principal, .. } => Actor::from(&**principal),
            Self::Service(service) => Actor { name: service.name.clone(), id: None },
            Self::Local => Actor { name: "local administrator".to_owned(), id: None },
            Self::Anonymous => Actor { name: String::new(), id: None },
        }
    }

    pub(crate) fn log_name(&self) -> Option<Arc<str>> {
        match self {
            Self::User { principal, .. } => Some(principal.account.name.as_str().into()),
            Self::Service(service) => Some(format!("service:{}", service.id).into()),
            Self::Local => Some("local administrator".into()),
            Self::Anonymous => None,
        }
    }

    /// Reads and checks the `Authorization` header. Wrong credentials are an error, not nobody.
    pub(crate) async fn identify(
        identity: &BuiltIn,
        headers: &HeaderMap,
        from: Option<IpAddr>,
    ) -> Result<Self, ApiError> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(Self::Anonymous) };
        let malformed = || ApiError::not_authenticated("the Authorization header cannot be read");
        if values.next().is_some() || value.len() > HEADER_MAX {
            return Err(malformed());
        }
        let (scheme, rest) =
            value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(malformed)?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("basic") {
            let (username, password) = basic(rest).ok_or_else(malformed)?;
            let principal = identity.authenticate_from(&username, &password, from).await?;
            return Ok(Self::User { principal, session: None });
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            return Self::bearer(identity, rest).await;
        }
        Err(ApiError::not_authenticated("use basic authentication or a bearer token"))
    }

    async fn bearer(identity: &BuiltIn, token: &str) -> Result<Self, ApiError> {
        if let Some(id) = service_token::claimed_service(token) {
            let unknown = || ApiError::not_authenticated("the service is not registered here");
            let service = identity.service(&id).await?.ok_or_else(unknown)?;
            identity
                .verify_service(&service, token)
                .map_err(|error| ApiError::not_authenticated(&error.to_string()))?;
            return Ok(Self::Service(Arc::new(service)));
        }
        let token = Secret::new(token);
        match identity.session(&token).await? {
            Some(principal) => Ok(Self::User { principal, session: Some(token) }),
            None => {
                Err(ApiError::not_authenticated("the session is unknown or over; log in again"))
            }
        }
    }
}

fn basic(text: &str) -> Option<(String, Secret)> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    let text = Secret::new(String::from_utf8(bytes).ok()?);
    let (username, password) = text.expose().split_once(':')?;
    Some((username.to_owned(), Secret::new(password)))
}
