//! How fresh the state must be that a request is answered from. With several replicas it costs a round trip to know what the
//! latest state is; one for a whole request is enough, and some need less.

use axum::{
    body::Body,
    extract::Request,
    http::{Method, header},
    response::Response,
};
use dtr_access::Access;
use dtr_store::together::{as_known, lately, together};
use dtr_transport::LogUser;
use dtr_types::Digest;

use crate::{
    OciError, Registry,
    path::{Endpoint, Reference},
    uploads::Query,
};

enum Kind {
    /// An upload is begun: nothing is stored of it, and every later request of it is looked at anew.
    Begin,
    /// Content by its digest never changes, and a token says by itself that its holder may have it: while the store has no
    /// majority, that is answered from what is known. Rights that are taken away meanwhile end with the token.
    Content,
    /// Anything else.
    Latest,
}

/// Answers a request from the latest state, or from an earlier one if that is good enough for it.
pub(crate) async fn answer(
    registry: &Registry,
    request: Request,
    user: &mut Option<LogUser>,
) -> Result<Response, OciError> {
    match kind(&request) {
        Kind::Begin => {
            let early = lately(crate::answer(registry, copy(&request), user)).await;
            match early {
                Ok(response) => Ok(response),
                // What is refused may have been allowed a moment ago.
                Err(_) => together(crate::answer(registry, request, user)).await,
            }
        }
        Kind::Content => {
            let again = copy(&request);
            let answered = together(crate::answer(registry, request, user)).await;
            match answered {
                // Nothing else that fails is a reason to look at an earlier state.
                Err(error) if error.is_store_away() => {
                    as_known(crate::answer(registry, again, user)).await
                }
                answered => answered,
            }
        }
        Kind::Latest => together(crate::answer(registry, request, user)).await,
    }
}

fn kind(request: &Request) -> Kind {
    let path = percent_encoding::percent_decode_str(request.uri().path()).decode_utf8_lossy();
    let method = request.method();
    if *method == Method::POST {
        let plain = Query::of(request);
        let begins = plain.get("mount").is_none() && plain.get("digest").is_none();
        // Not with a password: a wrong one would count twice.
        let begins = begins && has_issued_token(request);
        return if begins { Kind::Begin } else { Kind::Latest };
    }
    let last = path.rsplit('/').next().unwrap_or_default();
    let reads = *method == Method::GET || *method == Method::HEAD;
    if !reads || last.parse::<Digest>().is_err() || !has_issued_token(request) {
        return Kind::Latest;
    }
    match Endpoint::parse(&path) {
        Ok(Some(Endpoint::Blob(..) | Endpoint::Manifest(_, Reference::Digest(_)))) => Kind::Content,
        _ => Kind::Latest,
    }
}

fn has_issued_token(request: &Request) -> bool {
    let value = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    value.is_some_and(Access::is_issued_token)
}

/// The same request, without its body.
fn copy(request: &Request) -> Request {
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    copy
}
