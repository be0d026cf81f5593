//! `docker search`: the two endpoints of the registry protocol's first version that docker still asks.

use std::collections::HashMap;

use axum::{
    extract::{Query, Request, State},
    http::HeaderName,
    response::{IntoResponse, Response},
};
use dtr_access::Operation;
use dtr_store::together::together;
use serde_json::{Value, json};

use crate::{
    Gate, OciError, Registry,
    auth::{Asked, Challenger},
    listing::json_response,
};

/// Tells docker to send the password, where there is one, with the search itself.
static STANDALONE: HeaderName = HeaderName::from_static("x-docker-registry-standalone");
/// Results when the client does not say how many.
const RESULTS_DEFAULT: usize = 25;
const RESULTS_MAX: usize = 100;
/// Names looked at for one search.
const LOOKED_AT_MAX: usize = 10_000;

/// `GET /v1/_ping`
pub(crate) async fn ping() -> Response {
    ([(&STANDALONE, "true")], json_response("true".to_owned())).into_response()
}

/// `GET /v1/search?q=&n=`: repositories with a part of their names. Everybody sees those that they could pull.
pub(crate) async fn get(
    State(registry): State<Registry>,
    Query(query): Query<HashMap<String, String>>,
    request: Request,
) -> Response {
    match together(answer(&registry, &query, request)).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn answer(
    registry: &Registry,
    query: &HashMap<String, String>,
    request: Request,
) -> Result<Response, OciError> {
    let external = registry.external_host().await;
    let challenger = Challenger::of(&request, &external);
    let caller = registry.authenticate(&challenger, request.headers()).await?;
    let asked = Asked { registry, caller, challenger, source: None };
    // A token that was issued for something else sees what it could pull.
    let lists = match &registry.gate {
        Gate::Access(access) => {
            access.authorize_system(&asked.caller, Operation::ListCatalog).is_ok()
        }
        Gate::Open => true,
    };
    let text = query.get("q").map(String::as_str).unwrap_or_default();
    let wanted = text.to_lowercase();
    let n = query.get("n").and_then(|n| n.parse().ok()).unwrap_or(RESULTS_DEFAULT);
    let n = n.clamp(1, RESULTS_MAX);
    let (mut results, mut after, mut looked_at) = (Vec::<Value>::new(), None::<String>, 0);
    while results.len() < n && looked_at < LOOKED_AT_MAX {
        let page = registry.catalog.list_repositories(None, after.as_deref(), 200).await?;
        after = page.items.last().map(|repository| repository.name.to_string());
        looked_at += page.items.len();
        for repository in page.items {
            if !repository.name.as_str().contains(&wanted) || results.len() == n {
                continue;
            }
            let is_seen = match lists {
                true => asked.may_see(&repository).await?,
                false => asked.may_pull(&repository).await?,
            };
            if !is_seen {
                continue;
            }
            results.push(json!({
                "name": repository.name,
                "description": repository.short_description,
                "is_official": false,
                "is_automated": false,
                "star_count": 0,
            }));
        }
        if !page.more || after.is_none() {
            break;
        }
    }
    let answer = json!({
        "query": text,
        "num_results": results.len(),
        "results": results,
        "page": 1,
        "num_pages": 1,
        "page_size": n,
    });
    Ok(json_response(answer.to_string()))
}
