//! The plain port: sends everything to HTTPS, and answers `/_ping` for load balancers that check without TLS.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use arc_swap::ArcSwapOption;
use dtr_types::ClientHost;
use futures_util::future::{Either, Ready, ready};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use serde_json::json;
use tower::Service;

use crate::{
    Body,
    request::{Handler, RequestInfo},
    respond::error_response,
};

/// The address that clients use, if there is one. Clones share it, so that it can change while listeners run.
#[derive(Clone, Debug, Default)]
pub struct ExternalHost(Arc<ArcSwapOption<ClientHost>>);

impl ExternalHost {
    /// With this host, or none.
    pub fn new(host: Option<ClientHost>) -> Self {
        let made = Self::default();
        made.set(host);
        made
    }

    /// The host as it is now.
    pub(crate) fn get(&self) -> Option<Arc<ClientHost>> {
        self.0.load_full()
    }

    /// Another host from now on, or none.
    pub fn set(&self, host: Option<ClientHost>) {
        self.0.store(host.map(Arc::new));
    }
}

/// Where the plain port sends clients.
#[derive(Clone, Debug, Default)]
pub struct Redirect {
    /// The host of the external URL. Without it, the host that the client used is taken.
    pub external_host: ExternalHost,
    /// The HTTPS port, when no external host is given. `None` is 443.
    pub https_port: Option<u16>,
}

impl Redirect {
    /// The answer to a request other than `/_ping`.
    pub(crate) fn answer(&self, request: &Request<Body>) -> Response<Body> {
        let used = request.extensions().get::<RequestInfo>().and_then(|info| info.host.clone());
        let Some(location) = self.location(used.as_deref(), request.uri()) else {
            return error_response(
                StatusCode::BAD_REQUEST,
                "UNSUPPORTED",
                "this port only redirects to HTTPS, and the request names no valid host; use https://",
                &json!({}),
            );
        };
        // A method with a body must be repeated as it is; 301 would turn it into GET.
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let mut response = Response::new(Body::empty());
        *response.status_mut() =
            if reads { StatusCode::MOVED_PERMANENTLY } else { StatusCode::PERMANENT_REDIRECT };
        response.headers_mut().insert(header::LOCATION, location);
        // It follows the host that was used, and the address for clients may change.
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    fn location(&self, used: Option<&ClientHost>, uri: &Uri) -> Option<HeaderValue> {
        let external = self.external_host.0.load();
        let host = match (&*external, used) {
            (Some(host), _) => ClientHost::clone(host),
            (None, Some(used)) => used.with_port(self.https_port.filter(|port| *port != 443)),
            (None, None) => return None,
        };
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let path = if path.starts_with('/') { path } else { "/" };
        HeaderValue::try_from(format!("https://{host}{path}")).ok()
    }
}

/// The service behind the plain port: `/_ping` goes to the real one.
#[derive(Clone)]
pub(crate) struct Redirecting<S> {
    pub to: Redirect,
    pub service: S,
}

impl<S: Handler> Service<Request<Body>> for Redirecting<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() == "/_ping" {
            Either::Left(self.service.call(request))
        } else {
            Either::Right(ready(Ok(self.to.answer(&request))))
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "what fails here fails the test")]
mod tests {
    use super::*;

    #[test]
    fn goes_to_the_external_host_or_back_to_the_same() {
        let to = |redirect: &Redirect, used: Option<&str>, uri: &str| {
            let used = used.and_then(ClientHost::from_request);
            let location = redirect.location(used.as_ref(), &uri.parse().unwrap());
            location.map(|v| v.to_str().unwrap().to_owned())
        };
        let host = ExternalHost::new("old.example.com".parse().ok());
        let own = Redirect { external_host: host.clone(), https_port: None };
        host.set("dtr.example.com".parse().ok());
        assert_eq!(
            to(&own, Some("evil.example"), "/v2/?n=1").as_deref(),
            Some("https://dtr.example.com/v2/?n=1")
        );
        let same = Redirect { https_port: Some(8443), ..Redirect::default() };
        assert_eq!(to(&same, Some("a:80"), "/x").as_deref(), Some("https://a:8443/x"));
        assert_eq!(to(&same, Some("[::1]:80"), "/x").as_deref(), Some("https://[::1]:8443/x"));
        assert_eq!(
            to(&same, Some("a"), "//evil.example/").as_deref(),
            Some("https://a:8443//evil.example/")
        );
        assert_eq!(to(&same, Some("a"), "*").as_deref(), Some("https://a:8443/"));
        assert_eq!(
            to(&Redirect::default(), Some("a"), "http://evil.example/y").as_deref(),
            Some("https://a/y")
        );
        assert_eq!(to(&same, None, "/x"), None);
    }
}
