//! The `/api/v0` face: repositories, tags, access, tokens, events, settings, status, backup. One file a noun, one route
//! table, and the OpenAPI document made from the same table, so that the two cannot differ.
//!
//! A handler reads like its stages: parse (typed extractors), authenticate (`auth`), authorize (a permit),
//! decide, commit (one transaction with its event), respond.

mod accounts;
mod alerts;
mod auth;
mod backup;
mod cluster;
mod document;
mod error;
mod events;
mod export;
mod extract;
mod gc;
mod index;
mod manifests;
mod meta;
mod paging;
mod registration;
mod repositories;
mod revoke;
mod state;
mod tags;
mod team_access;
mod tokens;

pub use alerts::Alert;
pub use backup::Reports;
pub use error::ApiError;
pub use state::ApiState;

use axum::{
    Json, Router,
    body::HttpBody as _,
    extract::{DefaultBodyLimit, Request},
    middleware::{Next, from_fn},
    response::{IntoResponse as _, Response},
    routing::get,
};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// The largest body of a request, in bytes.
const BODY_BYTES_MAX: usize = 1024 * 1024;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "DTR API",
        description = "Repositories, tags, access, tokens, events, settings and status of a registry."
    ),
    modifiers(&Security)
)]
struct Document;

struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_with(Default::default);
        for (name, scheme) in [("basic", HttpAuthScheme::Basic), ("bearer", HttpAuthScheme::Bearer)]
        {
            let http = HttpBuilder::new().scheme(scheme).build();
            components.add_security_scheme(name, SecurityScheme::Http(http));
        }
    }
}

/// Every route with its description: the one table.
fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(repositories::list))
        .routes(routes!(repositories::list_namespace, repositories::create))
        .routes(routes!(repositories::get, repositories::update, repositories::delete))
        .routes(routes!(tags::list))
        .routes(routes!(tags::get, tags::delete))
        .routes(routes!(manifests::list))
        .routes(routes!(manifests::delete))
        .routes(routes!(events::list_repository))
        .routes(routes!(team_access::list))
        .routes(routes!(team_access::put, team_access::delete))
        .routes(routes!(team_access::list_namespace))
        .routes(routes!(
            team_access::get_namespace,
            team_access::put_namespace,
            team_access::delete_namespace
        ))
        .routes(routes!(accounts::team_repositories))
        .routes(routes!(accounts::user_level))
        .routes(routes!(accounts::delete))
        .routes(routes!(accounts::delete_repositories))
        .routes(routes!(tokens::list, tokens::create, tokens::delete_unused))
        .routes(routes!(tokens::get, tokens::update, tokens::delete))
        .routes(routes!(events::list))
        .routes(routes!(export::export))
        .routes(routes!(revoke::revoke))
        .routes(routes!(index::autocomplete))
        .routes(routes!(index::docker_search))
        .routes(routes!(meta::settings, meta::change_settings))
        .routes(routes!(meta::cluster_status))
        .routes(routes!(cluster::join))
        .routes(routes!(cluster::remove))
        .routes(routes!(cluster::restarting, cluster::restart))
        .routes(routes!(cluster::upgrade))
        .routes(routes!(meta::features))
        .routes(routes!(meta::alerts))
        .routes(routes!(meta::set_certificate))
        .routes(routes!(registration::show, registration::set))
        .routes(routes!(gc::run))
        .routes(routes!(backup::list, backup::take))
        .routes(routes!(backup::report))
        .routes(routes!(backup::confirm))
}

/// The OpenAPI document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = routes().into_openapi();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    document::complete(&mut document);
    document
}

/// Refuses a body that is not said to be JSON, also where no body is expected: a page of another site can have a browser send
/// a form, but not this type.
async fn json_only(request: Request, next: Next) -> Response {
    if !request.body().is_end_stream() && !extract::is_json(request.headers()) {
        return ApiError::no_json().into_response();
    }
    next.run(request).await
}

/// The face.
pub fn router(state: ApiState) -> Router {
    let document = openapi();
    let (router, _) = routes().split_for_parts();
    router
        .route("/api/v0/openapi.json", get(move || async move { Json(document) }))
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::not_allowed)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn(json_only))
        .with_state(state)
}
