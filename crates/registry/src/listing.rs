//! Lists: the tags of a repository, the repositories of the registry.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, header},
    response::Response,
};
use dtr_access::{Caller, Operation};
use dtr_store::At;
use dtr_types::RepositoryName;
use serde_json::json;

use crate::{Gate, OciError, auth::Asked, blobs::header_value, uploads::Query};

/// Items of a page when the client does not say.
const CATALOG_DEFAULT: usize = 100;
/// Most items of a page; more are behind the link.
const PAGE_MAX: usize = 1000;

/// How many items are wanted: `n`, cut to what one page holds.
fn wanted(query: &Query, default: usize) -> Result<usize, OciError> {
    match query.get("n") {
        None | Some("") => Ok(default),
        Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
            // A number that no integer holds is more than a page, too.
            Ok(text.parse().unwrap_or(usize::MAX).min(PAGE_MAX))
        }
        Some(_) => Err(OciError::page_invalid()),
    }
}

pub(crate) fn json_response(body: String) -> Response {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, header_value(body.len()));
    *response.body_mut() = Body::from(body);
    response
}

pub(crate) fn with_next(mut response: Response, target: &str) -> Response {
    response.headers_mut().insert(header::LINK, header_value(format!("<{target}>; rel=\"next\"")));
    response
}

/// `GET .../tags/list`
pub(crate) async fn tags(
    asked: &Asked<'_>,
    name: RepositoryName,
    request: Request,
) -> Result<Response, OciError> {
    let repository = asked.repository(&name, Operation::Pull).await?;
    let query = Query::of(&request);
    let n = wanted(&query, PAGE_MAX)?;
    if n == 0 {
        return Ok(json_response(json!({ "name": name, "tags": [] }).to_string()));
    }
    let last = query.get("last").filter(|last| !last.is_empty());
    let prefix = dtr_catalog::keys::tags(&repository.id);
    let mut names: Vec<String> = Vec::with_capacity(n);
    let mut more = true;
    while more && names.len() < n {
        let after = names.last().map(String::as_str).or(last);
        let page =
            asked.registry.catalog.names(&prefix, after, n - names.len(), At::Latest).await?;
        more = page.more;
        names.extend(page.items);
    }
    let response = json_response(json!({ "name": name, "tags": names }).to_string());
    Ok(match names.last() {
        Some(last) if more => {
            with_next(response, &format!("/v2/{name}/tags/list?last={last}&n={n}"))
        }
        _ => response,
    })
}

/// `GET /v2/_catalog`: the repositories that the caller can read.
pub(crate) async fn catalog(asked: &Asked<'_>, request: Request) -> Result<Response, OciError> {
    if matches!(asked.caller, Caller::Anonymous) {
        let scope = "registry:catalog:*";
        return Err(asked.challenger.unauthorized(
            "log in to list repositories",
            Some(scope),
            None,
        ));
    }
    if let Gate::Access(access) = &asked.registry.gate
        && let Err(denied) = access.authorize_system(&asked.caller, Operation::ListCatalog)
    {
        // A token that was issued for something else: the client is to ask for another one.
        return Err(match asked.caller.limits() {
            Some(limits) if limits.scopes.is_some() => asked.challenger.unauthorized(
                "the token does not cover registry:catalog:*",
                Some("registry:catalog:*"),
                Some("insufficient_scope"),
            ),
            _ => OciError::denied(denied.to_string()),
        });
    }
    let query = Query::of(&request);
    let n = wanted(&query, CATALOG_DEFAULT)?;
    if n == 0 {
        return Ok(json_response(json!({ "repositories": [] }).to_string()));
    }
    let last = query.get("last").filter(|last| !last.is_empty());
    // Where the last page ended; it need not be the name of anything.
    let mut after = last.map(str::to_owned);
    let mut names: Vec<RepositoryName> = Vec::new();
    let more = loop {
        let page = asked.registry.catalog.list_repositories(None, after.as_deref(), 200).await?;
        after = page.items.last().map(|repository| repository.name.to_string());
        let mut full = false;
        for repository in page.items {
            if !asked.may_see(&repository).await? {
                continue;
            }
            if names.len() == n {
                full = true;
                break;
            }
            names.push(repository.name);
        }
        if full {
            break true;
        }
        if !page.more || after.is_none() {
            break false;
        }
    };
    let response = json_response(json!({ "repositories": names }).to_string());
    Ok(match names.last() {
        Some(last) if more => with_next(response, &format!("/v2/_catalog?last={last}&n={n}")),
        _ => response,
    })
}
