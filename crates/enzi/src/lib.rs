//! The identity face: `/enzi/v0/...`, `/id/...`, `/auth/login`, and `/accounts/...` as a UCP serves them. `ucp` serves it,
//! and `dtr` when its identity is built in.
//!
//! A request goes through the same stages for every route: who asks ([`caller`](self)), what it is about, whether the
//! route's row in [`ROUTES`] lets that caller do it, then its handler. No handler decides about rights by itself, except
//! where a row says that some fields are for admins.

mod caller;
mod context;
mod error;
mod handlers;
mod openapi;
mod routes;

pub use openapi::openapi;
pub use routes::{Operation, ROUTES, Route, Who};

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    routing::{MethodFilter, on},
};
use dtr_identity::BuiltIn;
use http::Response;

use self::{context::Context, error::ApiError};

/// Whoever can stream a backup of the identity service.
#[async_trait::async_trait]
pub trait BackupSource: Send + Sync {
    /// Begins a backup taken by `by`. `encrypted` says that the receiver encrypts it. A backup that fails ends the body
    /// with an error, never with a seeming end.
    async fn backup(&self, by: &str, encrypted: bool) -> Body;
}

/// What the face needs.
#[derive(Clone)]
pub struct Enzi {
    identity: BuiltIn,
    issuer: Arc<str>,
    accounts_alias: bool,
    backup: Option<Arc<dyn BackupSource>>,
}

impl std::fmt::Debug for Enzi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Enzi({})", self.issuer)
    }
}

impl Enzi {
    /// Over an identity. `issuer` is the address it is known by: `https://host[:port]`.
    pub fn new(identity: BuiltIn, issuer: &str) -> Self {
        Self {
            identity,
            issuer: issuer.trim_end_matches('/').into(),
            accounts_alias: false,
            backup: None,
        }
    }

    /// Also streams backups: for `ucp`, whose accounts are in no registry's backup.
    #[must_use]
    pub fn with_backup(mut self, source: Arc<dyn BackupSource>) -> Self {
        self.backup = Some(source);
        self
    }

    /// Also serves the accounts as `/accounts/...`, as a UCP does.
    #[must_use]
    pub fn with_accounts_alias(mut self) -> Self {
        self.accounts_alias = true;
        self
    }
}

/// The face as a router, to be merged with others.
pub fn router(state: Enzi) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        router = add(router, route.path, route);
        if state.accounts_alias
            && let Some(path) = route.alias()
        {
            router = add(router, path, route);
        }
    }
    router
        .method_not_allowed_fallback(|| async { ApiError::not_allowed().into_response() })
        .with_state(state)
}

fn add(router: Router<Enzi>, path: &str, route: &'static Route) -> Router<Enzi> {
    let filter = MethodFilter::try_from(route.method.clone()).unwrap_or(MethodFilter::GET);
    router.route(
        path,
        on(filter, move |State(state): State<Enzi>, request: Request| serve(state, route, request)),
    )
}

async fn serve(state: Enzi, route: &'static Route, request: Request) -> Response<Body> {
    let (context, user) = match Context::enter(state, route, request).await {
        Ok(context) => {
            let user = context.caller.log_name();
            (Ok(context), user)
        }
        Err(error) => (Err(error), None),
    };
    let result = match context {
        Ok(context) => handlers::handle(route.operation, context).await,
        Err(error) => Err(error),
    };
    let mut response = result.unwrap_or_else(ApiError::into_response);
    response.extensions_mut().insert(dtr_transport::Route("enzi"));
    if let Some(user) = user {
        response.extensions_mut().insert(dtr_transport::LogUser(user));
    }
    response
}
