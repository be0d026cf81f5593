//! The `/v2` face: the OCI distribution specification 1.1 (with the additions of its main branch), and the token service
//! `/auth/token` of Docker's registries; beside it what `docker search` asks, and a text for browsers.
//!
//! A request goes through its stages in the order of the files: `path` (parse), `auth` (authenticate, authorize), then
//! the noun's own file decides and commits: `manifests`, `blobs`, `uploads`, `tags`, `referrers`.
//!
//! Invariant: 201 is sent after the commit that makes the content reachable, and that commit is durable.

mod path;

mod auth;
mod blobs;
mod error;
mod fresh;
mod freshness;
mod front_page;
mod intact;
mod listing;
mod manifests;
mod mount;
mod recorder;
mod referrers;
mod search;
mod token;
mod uploads;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use bytes::Bytes;
use dtr_access::Access;
use dtr_blobs::SharedBlobs;
use dtr_catalog::{Catalog, records::Settings};
use dtr_transport::LogUser;
use dtr_types::{Digest, MediaType, RepositoryId, Revision, UploadId};
use parking_lot::RwLock;

pub use error::OciError;
pub use intact::Sampling;
use path::Endpoint;
use recorder::Recorder;

/// Manifests kept in memory, in bytes.
const MANIFEST_CACHE_BYTES: u64 = 6 * 1024 * 1024;

/// Ended sessions that are remembered, and how long.
const ENDED_MAX: u64 = 4_000;
const ENDED_TTL: Duration = Duration::from_secs(3600);

static DIGEST_HEADER: HeaderName = HeaderName::from_static("docker-content-digest");
static UPLOAD_HEADER: HeaderName = HeaderName::from_static("docker-upload-uuid");
static VERSION_HEADER: HeaderName = HeaderName::from_static("docker-distribution-api-version");

type ManifestCache = moka::sync::Cache<(RepositoryId, Digest), (MediaType, Bytes)>;

/// Who may come in.
#[derive(Clone)]
pub(crate) enum Gate {
    /// Whom the access room lets in.
    Access(Access),
    /// Everybody, to everything: for measurements. No flag of the product leads here.
    Open,
}

/// Settings as they were read last.
struct Known {
    revision: Revision,
    settings: Arc<Settings>,
    read: Instant,
}

/// The face. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    catalog: Catalog,
    blobs: SharedBlobs,
    gate: Gate,
    manifests: ManifestCache,
    settings: Arc<RwLock<Option<Known>>>,
    recorder: Recorder,
    writers: uploads::Writers,
    /// Which reads of blobs are hashed.
    sampler: intact::Sampler,
    /// Sessions that ended here lately: an id of `fresh` would otherwise begin again.
    ended: moka::sync::Cache<UploadId, ()>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}

impl Registry {
    /// Over the rooms below. Must be called inside a runtime: it starts the recording of pulls.
    pub fn new(catalog: Catalog, blobs: SharedBlobs, access: Access) -> Self {
        Self::with_gate(catalog, blobs, Gate::Access(access))
    }

    /// A registry without any access control, for benchmarks that compare it with one that has none.
    pub fn open_to_everybody(catalog: Catalog, blobs: SharedBlobs) -> Self {
        Self::with_gate(catalog, blobs, Gate::Open)
    }

    fn with_gate(catalog: Catalog, blobs: SharedBlobs, gate: Gate) -> Self {
        let manifests = moka::sync::Cache::builder()
            .max_capacity(MANIFEST_CACHE_BYTES)
            .weigher(|_, (_, body): &(MediaType, Bytes)| {
                u32::try_from(body.len() + 512).unwrap_or(u32::MAX)
            })
            .build();
        let settings = Arc::default();
        let recorder = Recorder::start(catalog.clone());
        let writers = uploads::Writers::default();
        let ended =
            moka::sync::Cache::builder().max_capacity(ENDED_MAX).time_to_live(ENDED_TTL).build();
        let sampler = intact::Sampler::new(Sampling::default());
        Self { catalog, blobs, gate, manifests, settings, recorder, writers, sampler, ended }
    }

    /// With another share of reads that are hashed.
    #[must_use]
    pub fn with_sampling(self, sampling: Sampling) -> Self {
        Self { sampler: intact::Sampler::new(sampling), ..self }
    }

    /// The routes: `/v2` and everything below it, and `/auth/token`.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/", get(front_page::get))
            .route("/v1/_ping", get(search::ping))
            .route("/v1/search", get(search::get))
            .route("/v2", any(serve))
            .route("/v2/", any(serve))
            .route("/v2/{*path}", any(serve))
            .route("/auth/token", get(token::get).post(token::post))
            .with_state(self.clone())
    }

    /// Writes out what was counted and not yet stored. Call it when serving has ended.
    pub async fn shutdown(&self) {
        self.recorder.flush().await;
    }

    /// The settings in force. That they are those read before costs one read to know.
    async fn settings(&self) -> Result<Arc<Settings>, OciError> {
        let known = self.settings.read().as_ref().map(|k| (k.revision, Arc::clone(&k.settings)));
        let after = self.catalog.settings_after(known.as_ref().map(|(at, _)| *at)).await?;
        let (revision, settings) = match (after, known) {
            (None, Some(known)) => known,
            (Some((revision, settings)), _) => (revision, Arc::new(settings)),
            (None, None) => (Revision::ZERO, Arc::default()),
        };
        let read = Instant::now();
        *self.settings.write() = Some(Known { revision, settings: Arc::clone(&settings), read });
        Ok(settings)
    }

    /// Those that were read within this time, for what nothing is decided by.
    fn settings_known(&self, within: Duration) -> Option<Arc<Settings>> {
        let known = self.settings.read();
        known.as_ref().filter(|k| k.read.elapsed() < within).map(|k| Arc::clone(&k.settings))
    }

    /// Refuses changes while the registry is read-only.
    async fn writable(&self) -> Result<(), OciError> {
        if self.settings().await?.read_only_registry {
            return Err(OciError::read_only());
        }
        Ok(())
    }
}

/// Every request below `/v2`.
async fn serve(State(registry): State<Registry>, request: Request) -> Response {
    let is_head = request.method() == Method::HEAD;
    let mut user = None;
    let mut response = match freshness::answer(&registry, request, &mut user).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    if let Some(user) = user {
        response.extensions_mut().insert(user);
    }
    response.headers_mut().insert(VERSION_HEADER.clone(), HeaderValue::from_static("registry/2.0"));
    if is_head && !response.headers().contains_key(header::CONTENT_LENGTH) {
        // An error's body is not sent in answer to HEAD; its length would be misleading.
        *response.body_mut() = Body::empty();
    }
    response
}

async fn answer(
    registry: &Registry,
    request: Request,
    user: &mut Option<LogUser>,
) -> Result<Response, OciError> {
    // A proxy that filters by path would see another path than this.
    if request.uri().path().to_ascii_lowercase().contains("%2f") {
        return Err(OciError::name_invalid("a slash in the path must not be encoded as %2F"));
    }
    let decoded = percent_encoding::percent_decode_str(request.uri().path())
        .decode_utf8()
        .map_err(|_| OciError::name_invalid("the path is not UTF-8"))?
        .into_owned();
    let external = registry.external_host().await;
    let challenger = auth::Challenger::of(&request, &external);
    let caller = registry.authenticate(&challenger, request.headers()).await?;
    if !caller.name().is_empty() {
        *user = Some(LogUser(caller.name().into()));
    }
    let endpoint = Endpoint::parse(&decoded)?;
    let mut asked = auth::Asked { registry, caller, challenger, source: None };
    let method = request.method().clone();
    let allowed = endpoint.as_ref().map_or("", Endpoint::methods);
    match (endpoint, method.as_str()) {
        (None, _) => {
            Err(OciError::new(StatusCode::NOT_FOUND, "UNSUPPORTED", "there is no such endpoint"))
        }
        (Some(Endpoint::Base), "GET" | "HEAD") => asked.base(),
        (Some(Endpoint::Catalog), "GET" | "HEAD") => listing::catalog(&asked, request).await,
        (Some(Endpoint::Tags(name)), "GET" | "HEAD") => listing::tags(&asked, name, request).await,
        (Some(Endpoint::Manifest(name, reference)), "GET" | "HEAD") => {
            manifests::get(&asked, name, reference, request).await
        }
        (Some(Endpoint::Manifest(name, reference)), "PUT") => {
            manifests::put(&asked, name, reference, request).await
        }
        (Some(Endpoint::Manifest(name, reference)), "DELETE") => {
            manifests::delete(&asked, name, reference).await
        }
        (Some(Endpoint::Blob(name, digest)), "GET" | "HEAD") => {
            blobs::get(&asked, name, digest, request).await
        }
        (Some(Endpoint::Blob(name, digest)), "DELETE") => blobs::delete(&asked, name, digest).await,
        (Some(Endpoint::Uploads(name)), "POST") => {
            asked.source = mount::mount_source(&request);
            uploads::post(&asked, name, request).await
        }
        (Some(Endpoint::Upload(name, id)), "PATCH") => {
            uploads::patch(&asked, name, id, request).await
        }
        (Some(Endpoint::Upload(name, id)), "PUT") => uploads::put(&asked, name, id, request).await,
        (Some(Endpoint::Upload(name, id)), "GET" | "HEAD") => {
            uploads::status(&asked, name, id).await
        }
        (Some(Endpoint::Upload(name, id)), "DELETE") => uploads::cancel(&asked, name, id).await,
        (Some(Endpoint::Referrers(name, digest)), "GET" | "HEAD") => {
            referrers::get(&asked, name, digest, request).await
        }
        (Some(_), other) => {
            Err(OciError::unsupported(format!("{other} is not offered at this endpoint"))
                .header(header::ALLOW, allowed))
        }
    }
}
