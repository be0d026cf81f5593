//! Requests that a page of another site makes a browser send, with the password that the browser keeps for this one. Programs
//! say nothing of a site, and are not concerned.

use dtr_types::ClientHost;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};

use crate::{RequestInfo, Scheme};

static FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a request that changes something comes from a page of another site. `external` is the address for clients.
pub(crate) fn is_foreign(parts: &Parts, info: &RequestInfo, external: Option<&ClientHost>) -> bool {
    if matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return false;
    }
    if parts.headers.get(&FETCH_SITE).is_some_and(|site| site == "cross-site") {
        return true;
    }
    let mut origins = parts.headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else { return false };
    origins.next().is_some() || !is_own(origin, info, external)
}

fn is_own(origin: &HeaderValue, info: &RequestInfo, external: Option<&ClientHost>) -> bool {
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    // "null" is a page that is kept apart from its own site.
    let Some((scheme, host)) = origin else { return false };
    let usual = match (scheme, info.scheme) {
        ("https", _) => 443,
        ("http", Scheme::Http) => 80,
        _ => return false,
    };
    let Ok(host) = host.parse::<ClientHost>() else { return false };
    let bare = |host: &ClientHost| host.with_port(host.port().filter(|port| *port != usual));
    let own = [info.host.as_deref(), external];
    own.into_iter().flatten().any(|own| bare(own) == bare(&host))
}

/// Takes the challenge away that has a browser ask for a password, which it would keep and send along with whatever any page
/// asks of this site. Programs do not ask for HTML.
pub(crate) fn without_prompt(
    asked: Option<&HeaderValue>,
    status: StatusCode,
    headers: &mut HeaderMap,
) {
    let is_browser = asked
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.to_ascii_lowercase().contains("text/html"));
    if status != StatusCode::UNAUTHORIZED || !is_browser {
        return;
    }
    let basic = |value: &HeaderValue| {
        value.as_bytes().get(..5).is_some_and(|word| word.eq_ignore_ascii_case(b"basic"))
    };
    if headers.get_all(header::WWW_AUTHENTICATE).iter().any(basic) {
        headers.remove(header::WWW_AUTHENTICATE);
    }
}
