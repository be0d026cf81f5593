//! One request, between the protocol and the handler: id, who asks, limits, panics, headers of the answer.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    panic::AssertUnwindSafe,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use dtr_types::{ClientHost, Random};
use futures_util::FutureExt as _;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version, header, request::Parts,
};
use http_body::Body as _;
use hyper::body::Incoming;
use tower::{Service, ServiceExt as _};

use crate::{
    AccessLog, Body, ExternalHost, Forwarded, Limits, Metrics, Network,
    access_log::{Finish, Samplers},
    body::{BodyFault, RequestBody, ResponseBody, Waiting, Whole},
    cross_site::{is_foreign, without_prompt},
    forwarded, respond,
    shares::{Address, Kind, NoPlace, Place, Shares},
    watch::Watch,
};

/// What answers requests: any tower service such as an axum `Router`.
pub trait Handler:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<T> Handler for T where
    T: Service<
            Request<Body>,
            Response = Response<Body>,
            Error = Infallible,
            Future: Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

/// How the client reached us: over TLS or not, as far as the client is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain.
    Http,
    /// TLS, ended here or by a trusted proxy.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The id of a request: the client's `X-Request-Id` if it is sane, else our own. Also in the response and the logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// Who asks, and how; an extension of every request.
#[derive(Clone, Debug)]
pub struct RequestInfo {
    /// The id of this request.
    pub id: RequestId,
    /// The client's address, as told by a trusted proxy if there is one.
    pub client: IpAddr,
    /// The client's address where it is known to be the client's own: not that of a trusted proxy that did not say for whom it
    /// asks. What is counted by address is counted by this.
    pub source: Option<IpAddr>,
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// What the client used.
    pub scheme: Scheme,
    /// The host (and port) the client used, if it sent a valid one.
    pub host: Option<Arc<ClientHost>>,
    /// Whether that is how the client reached us: over TLS that ends here, or as a trusted proxy says. Behind a proxy that
    /// says nothing it may be the proxy's own name for us.
    pub host_is_sure: bool,
}

/// Put into a response's extensions by a handler: the account that asked, for the access log.
#[derive(Clone, Debug)]
pub struct LogUser(pub Arc<str>);

/// Put into a response's extensions by a handler: the route's name in the metrics, when the path's first part says too
/// little.
#[derive(Clone, Copy, Debug)]
pub struct Route(pub &'static str);

/// Makes request ids: unique in this process, and unlike those of the others.
#[derive(Debug)]
pub(crate) struct RequestIds {
    base: u64,
    next: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new(random: &dyn Random) -> Self {
        let mut base = [0; 8];
        random.fill(&mut base);
        Self { base: u64::from_le_bytes(base), next: AtomicU64::new(0) }
    }

    fn make(&self) -> RequestId {
        // The finalizer of splitmix64: a bijection, so that different counts give different ids.
        let step = self.next.fetch_add(1, Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut x = self.base.wrapping_add(step);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        let mut text = [0; 16];
        for (i, digit) in text.iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(x >> (60 - 4 * i)) as usize & 15];
        }
        RequestId(HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0")))
    }

    fn take_or_make(&self, headers: &HeaderMap) -> RequestId {
        let sane = |value: &&HeaderValue| {
            (1..=64).contains(&value.len())
                && value
                    .as_bytes()
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        headers
            .get(&REQUEST_ID)
            .filter(sane)
            .map_or_else(|| self.make(), |value| RequestId(value.clone()))
    }
}

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What all connections share.
pub(crate) struct App<S> {
    pub service: S,
    pub limits: Limits,
    pub metrics: Arc<Metrics>,
    pub access_log: AccessLog,
    pub hsts: Option<HeaderValue>,
    pub ids: Arc<RequestIds>,
    pub shares: Arc<Shares>,
    /// Proxies and balancers, behind which there are many clients.
    pub trusted: Arc<[Network]>,
    pub samplers: Arc<Samplers>,
    /// The address that clients use.
    pub external: ExternalHost,
}

/// What all requests of one connection share.
pub(crate) struct Origin {
    pub peer: SocketAddr,
    pub scheme: Scheme,
    pub forwarded: Forwarded,
    pub watch: Arc<Watch>,
    /// What the peer's address has, if it is that of one client.
    pub share: Option<Arc<Address>>,
    /// There are too many connections: every request on this one is refused.
    pub shed: bool,
}

/// A request that is let in.
enum Admitted {
    /// With all of it there, or an upload. Health and metrics need no place.
    Works(Option<Place>),
    /// With its body still to come.
    Sends(Place, Whole),
}

/// Why a request is not let in.
enum Refused {
    NoPlace(NoPlace),
    /// Health, when there has been no place for some time.
    Full(NoPlace),
    Body(BodyFault),
    /// A page of another site has a browser ask.
    Foreign,
}

/// Whether a path is one at which somebody logs in or asks for a token.
fn is_login(path: &str) -> bool {
    ["/auth/", "/id/", "/enzi/v0/id/"].iter().any(|begin| path.starts_with(begin))
}

/// Names the route of a path for the metrics: few, whatever is asked for.
pub(crate) fn route_of(path: &str) -> &'static str {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match first {
        "v2" => {
            let mut parts = path.trim_end_matches('/').rsplit('/');
            let (last, second, third) = (parts.next(), parts.next(), parts.next());
            match (third, second, last) {
                (_, Some("blobs"), Some("uploads")) | (Some("blobs"), Some("uploads"), _) => {
                    "uploads"
                }
                (_, Some("manifests"), _) => "manifests",
                (_, Some("blobs"), _) => "blobs",
                (_, Some("tags"), Some("list")) => "tags",
                (_, Some("referrers"), _) => "referrers",
                (_, _, Some("_catalog")) => "catalog",
                _ => "v2",
            }
        }
        "api" => "api",
        "auth" => "auth",
        "enzi" | "id" | "accounts" => "identity",
        "_ping" => "ping",
        "metrics" => "metrics",
        "ca" => "ca",
        _ => "other",
    }
}

impl<S: Handler> App<S> {
    /// Answers one request; the future ends with the response's head, the body finishes later.
    pub(crate) async fn handle(
        self: Arc<Self>,
        origin: Arc<Origin>,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Infallible> {
        let (mut parts, incoming) = request.into_parts();
        let version = parts.version;
        let info = self.identify(&origin, &mut parts);
        let finish = self.begin(&origin, &parts, &info);
        let fault = Arc::new(OnceLock::new());
        let admitted = self.admit(&origin, &parts, &info, &finish, !incoming.is_end_stream());
        let (admitted, refused) = match admitted {
            Ok(admitted) => (admitted, None),
            Err(refused) => (Admitted::Works(None), Some(self.refuse(refused))),
        };
        // Also of a request that is refused: its client shall hear so in the middle of sending.
        let body = self.body(incoming, &parts, admitted, &finish, &fault);
        let response = if let Some(refused) = refused {
            refused
        } else if parts.headers.get_all(header::HOST).iter().nth(1).is_some() {
            // Two hosts are two opinions, of which a proxy in front may have taken the other one (RFC 9112, 3.2).
            respond::two_hosts()
        } else {
            parts.extensions.insert(info.clone());
            let response = self.answer(Request::from_parts(parts, body), &info).await;
            fault.get().map_or(response, |fault| self.refuse(Refused::Body(*fault)))
        };
        Ok(self.complete(response, &info, finish, origin.shed && version < Version::HTTP_2))
    }

    /// The answer to a request that is not let in.
    fn refuse(&self, refused: Refused) -> Response<Body> {
        match refused {
            Refused::NoPlace(no) => {
                self.metrics.refuse(no.limit);
                respond::overloaded(no.what)
            }
            Refused::Full(no) => respond::full(no.what),
            Refused::Foreign => respond::foreign(),
            Refused::Body(fault) => {
                self.metrics.refuse(fault.limit());
                respond::body_fault(fault)
            }
        }
    }

    /// The request's body, with its bounds.
    fn body(
        &self,
        incoming: Incoming,
        parts: &Parts,
        admitted: Admitted,
        finish: &Finish,
        fault: &Arc<OnceLock<BodyFault>>,
    ) -> Body {
        let waiting = match admitted {
            Admitted::Works(place) => {
                if let Some(place) = place {
                    let _only_one = finish.place.set(place);
                }
                None
            }
            Admitted::Sends(place, whole) => {
                let (working, fault) = (Arc::clone(&finish.place), Arc::clone(fault));
                Some(Waiting { whole, place, working, fault })
            }
        };
        if incoming.is_end_stream() {
            return Body::empty();
        }
        let (idle, received) = (self.limits.body_idle_timeout, self.metrics.received.clone());
        Body::new(RequestBody::new(incoming, &parts.headers, idle, received, waiting))
    }

    /// Settles who asks, and takes the headers away that only a trusted proxy may set.
    fn identify(&self, origin: &Origin, parts: &mut Parts) -> RequestInfo {
        let id = self.ids.take_or_make(&parts.headers);
        let told = forwarded::take(&mut parts.headers, origin.peer.ip(), &origin.forwarded);
        let asked = || {
            let sent = parts.uri.authority().map(|a| a.as_str());
            sent.or_else(|| parts.headers.get(header::HOST)?.to_str().ok())
                .and_then(ClientHost::from_request)
        };
        let is_proxy = self.trusted.iter().any(|network| network.contains(origin.peer.ip()))
            || origin.forwarded.trusts(origin.peer.ip());
        let source = told.client.or((!is_proxy).then_some(origin.peer.ip()));
        let host_is_sure = told.host.is_some() || origin.scheme == Scheme::Https;
        RequestInfo {
            host_is_sure,
            id,
            client: told.client.unwrap_or(origin.peer.ip()).to_canonical(),
            source: source.map(|source| source.to_canonical()),
            peer: origin.peer,
            scheme: told.scheme.unwrap_or(origin.scheme),
            host: told.host.or_else(asked).map(Arc::new),
        }
    }

    fn begin(&self, origin: &Origin, parts: &Parts, info: &RequestInfo) -> Finish {
        origin.watch.request_begins();
        self.metrics.in_flight.inc();
        Finish {
            watch: Arc::clone(&origin.watch),
            metrics: Arc::clone(&self.metrics),
            policy: self.access_log,
            started: Instant::now(),
            id: info.id.clone(),
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            client: info.client,
            agent: parts.headers.get(header::USER_AGENT).cloned(),
            accept: parts.headers.get(header::ACCEPT).cloned(),
            user: None,
            route: route_of(parts.uri.path()),
            status: None,
            sent: 0,
            expected: None,
            ended: false,
            place: Arc::default(),
            samplers: Arc::clone(&self.samplers),
        }
    }

    /// Takes a place for the request, or says why it is refused. Health and metrics are always answered.
    fn admit(
        &self,
        origin: &Origin,
        parts: &Parts,
        info: &RequestInfo,
        finish: &Finish,
        sends: bool,
    ) -> Result<Admitted, Refused> {
        if finish.route == "ping" {
            return match self.shares.full_for(self.limits.full_for) {
                Some(full) => Err(Refused::Full(full)),
                None => Ok(Admitted::Works(None)),
            };
        }
        if finish.route == "metrics" {
            return Ok(Admitted::Works(None));
        }
        if is_foreign(parts, info, self.external.get().as_deref()) {
            return Err(Refused::Foreign);
        }
        if origin.shed {
            return Err(Refused::NoPlace(Kind::Connections.full()));
        }
        // The peer's own is at hand; that of a client behind a proxy is looked up.
        let told = info.source.filter(|source| *source != origin.peer.ip().to_canonical());
        let told = told.map(|source| self.shares.address(source));
        let share = match (&told, info.source) {
            (Some(told), _) => Some(told),
            (None, Some(_)) => origin.share.as_ref(),
            (None, None) => None,
        };
        let changes = !matches!(parts.method, Method::GET | Method::HEAD | Method::DELETE);
        let take = |kind| self.shares.take(kind, share).map_err(Refused::NoPlace);
        if changes && finish.route == "uploads" {
            return take(Kind::Uploads).map(|place| Admitted::Works(Some(place)));
        }
        if !sends {
            return take(Kind::Requests).map(|place| Admitted::Works(Some(place)));
        }
        let whole = self.whole(parts.uri.path());
        let length = parts.headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > whole.bytes) {
            return Err(Refused::Body(BodyFault::TooLarge(whole.bytes)));
        }
        take(Kind::Bodies).map(|place| Admitted::Sends(place, whole))
    }

    /// The bounds of a body at a path, unless it is an upload of a blob.
    fn whole(&self, path: &str) -> Whole {
        let limits = &self.limits;
        if is_login(path) {
            Whole { bytes: limits.login_bytes, time: limits.login_timeout }
        } else {
            Whole { bytes: limits.body_bytes, time: limits.body_timeout }
        }
    }

    async fn answer(&self, request: Request<Body>, info: &RequestInfo) -> Response<Body> {
        let answer = AssertUnwindSafe(self.service.clone().oneshot(request)).catch_unwind();
        match answer.await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(panic) => {
                self.metrics.panics.inc();
                let text = panic
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned());
                tracing::error!(request_id = info.id.as_str(), panic = text, "a handler failed");
                respond::internal_error(info.id.as_str())
            }
        }
    }

    fn complete(
        &self,
        response: Response<Body>,
        info: &RequestInfo,
        mut finish: Finish,
        close: bool,
    ) -> Response<ResponseBody> {
        let (mut parts, body) = response.into_parts();
        finish.status = Some(parts.status);
        if let Some(LogUser(user)) = parts.extensions.remove() {
            finish.user = Some(user);
        }
        if let Some(Route(route)) = parts.extensions.remove() {
            finish.route = route;
        }
        let headers = &mut parts.headers;
        without_prompt(finish.accept.as_ref(), parts.status, headers);
        headers.insert(REQUEST_ID.clone(), info.id.0.clone());
        headers
            .entry(header::X_CONTENT_TYPE_OPTIONS)
            .or_insert(HeaderValue::from_static("nosniff"));
        headers.entry(header::X_FRAME_OPTIONS).or_insert(HeaderValue::from_static("DENY"));
        if info.scheme == Scheme::Https
            && let Some(hsts) = &self.hsts
        {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
        if close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Response::from_parts(parts, ResponseBody::new(body, finish))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dtr_types::SeededRandom;

    #[test]
    fn routes_are_few() {
        for (path, route) in [
            ("/v2/", "v2"),
            ("/v2/a/b/manifests/latest", "manifests"),
            ("/v2/a/blobs/uploads/", "uploads"),
            ("/v2/a/blobs/uploads/123", "uploads"),
            ("/v2/a/blobs/sha256:00", "blobs"),
            ("/v2/a/tags/list", "tags"),
            ("/v2/_catalog", "catalog"),
            ("/v2/a/referrers/sha256:00", "referrers"),
            ("/api/v0/x", "api"),
            ("/enzi/v0/accounts", "identity"),
            ("/_ping", "ping"),
            ("/%00/../x", "other"),
            ("", "other"),
            ("*", "other"),
        ] {
            assert_eq!(route_of(path), route, "{path}");
        }
    }

    #[test]
    fn logins_have_bounds_of_their_own() {
        for path in ["/auth/token", "/auth/login", "/id/login", "/enzi/v0/id/login", "/id/logout"] {
            assert!(is_login(path), "{path}");
        }
        for path in ["/v2/auth/token", "/api/v0/accounts", "/enzi/v0/services", "/idx/", "/"] {
            assert!(!is_login(path), "{path}");
        }
    }

    #[test]
    fn ids_are_the_clients_only_if_sane() {
        let ids = RequestIds::new(&SeededRandom::new(1));
        let mut headers = HeaderMap::new();
        let made = ids.take_or_make(&headers);
        assert_eq!(made.as_str().len(), 16);
        assert_ne!(made, ids.take_or_make(&headers));
        headers.insert(&REQUEST_ID, HeaderValue::from_static("abc-1.2_3"));
        assert_eq!(ids.take_or_make(&headers).as_str(), "abc-1.2_3");
        for bad in ["", "a b", "\"x\"", "{}"] {
            headers.insert(&REQUEST_ID, HeaderValue::from_static(bad));
            assert_ne!(ids.take_or_make(&headers).as_str(), bad);
        }
    }
}
