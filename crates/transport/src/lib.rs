//! Everything between a socket and a handler: listeners, TLS and certificates, limits, graceful drain, request ids,
//! the access log, metrics. Both programs serve through it.
//!
//! Invariants:
//! * no connection, request or body can occupy the server for ever: each phase has a named bound in [`Limits`];
//! * what is over a limit is answered (`503` with `Retry-After`) or closed at once, never left waiting;
//! * forwarding headers are believed only on a listener that was told so, and never reach a handler.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use dtr_transport::{Metrics, Server, Shutdown, pki, tls::ServerTls};
//! use dtr_types::{Clock, SystemClock, SystemRandom};
//!
//! let now = SystemClock.now();
//! let authority = pki::Authority::make("DTR root CA", now)?;
//! let names = pki::SubjectNames::local().with_url("https://dtr.example.com")?;
//! let tls = ServerTls::new(&authority.issue_server(&names, now, pki::SERVER_VALIDITY)?)?;
//! let router: axum::Router = axum::Router::new();
//! let server = Server::new(router, Metrics::new(), &SystemRandom)
//!     .https("0.0.0.0:443".parse()?, tls)
//!     .bind()
//!     .await?;
//! let shutdown = dtr_transport::shutdown_on_signals()?;
//! server.run(shutdown).await;
//! # Ok(()) }
//! ```

mod access_log;
mod body;
mod connection;
mod cross_site;
pub mod durable;
mod forwarded;
mod limits;
mod linger;
mod logging;
mod metrics;
pub mod pki;
mod redirect;
mod request;
mod respond;
mod server;
mod shares;
mod signals;
pub mod tls;
mod watch;

pub use body::BodyIdle;
pub use durable::durable_write;
pub use forwarded::{Forwarded, Network, NetworkError};
pub use limits::{AccessLog, Limits};
pub use logging::{LogError, LogFormat, init_logging};
pub use metrics::Metrics;
pub use redirect::{ExternalHost, Redirect};
pub use request::{Handler, LogUser, RequestId, RequestInfo, Route, Scheme};
pub use respond::error_response;
pub use server::{BoundServer, Drained, ListenerKind, ServeError, Server};
pub use signals::{Shutdown, shutdown_on_signals};

/// The body of every request and response that passes through this crate.
pub type Body = axum::body::Body;

/// Other rooms register their own metrics with the same library.
pub use prometheus_client;
