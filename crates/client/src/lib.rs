//! The product's own client: registry push and pull, REST, identity, for the command lines, the quickstart, the proofs
//! and the benchmarks.
//!
//! - [`Registry`]: OCI distribution with token authentication; streams, resumes, verifies every digest.
//! - [`Layout`] and [`ImageBuilder`]: images in a folder, and images made from files without any engine.
//! - [`Identity`]: log in at a UCP or at a DTR with built-in identity, find services and replicas.
//! - [`Api`]: typed REST calls with paging, and downloads whose end is proved.
//!
//! Invariants: no answer is believed without its digest or its end; nothing is kept in memory whole but manifests and
//! REST bodies, which are bounded; proxies named in the environment are never used; no secret is in an error or a log.

mod api;
mod auth;
mod blob_stream;
mod error;
mod http_client;
mod identity;
mod image;
mod layout;
mod registry;
mod retry;
mod transfer;
mod upload;

pub use api::{Api, Authorization, Download, PageStyle, TRAILER_STATUS};
pub use auth::Credentials;
pub use blob_stream::BlobStream;
pub use error::ClientError;
pub use http_client::{TlsFlags, TlsOptions, http_client};
pub use identity::{Account, Identity, Replica, Service, Session};
pub use image::{ImageBuilder, Layer};
pub use layout::Layout;
pub use registry::{FetchedManifest, ManifestHead, Reference, Registry};
pub use retry::RetryPolicy;
pub use transfer::Transferred;
pub use upload::{Pushed, Source};
