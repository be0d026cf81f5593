//! The bounds of the server, each with a name, and what goes into the access log.

use std::time::Duration;

/// Bounds on what clients may occupy. Bodies have no limit on their whole time or size here: a slow upload of a large
/// layer is fine as long as bytes come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's head (request line and headers; in HTTP/2 the decoded header list). Over it: 431.
    pub header_bytes: usize,
    /// From the first byte of a request's head (or from the connection's start) to its end.
    pub header_timeout: Duration,
    /// A TLS handshake.
    pub handshake_timeout: Duration,
    /// A connection on which no request runs is closed after this.
    pub idle_timeout: Duration,
    /// A running request or response body on which the client makes no progress for this long is given up.
    pub body_idle_timeout: Duration,
    /// Connections at a time, over all listeners. Over it: 503 with `Retry-After`, then closed.
    pub max_connections: usize,
    /// Requests in progress that are not uploads of blobs. Over it: 503 with `Retry-After`.
    pub max_requests: usize,
    /// Uploads of blobs in progress. Over it: 503 with `Retry-After`.
    pub max_uploads: usize,
    /// HTTP/2 streams at a time on one connection.
    pub max_streams: u32,
    /// What one HTTP/2 stream may send before it is read: bounds memory and, over long lines, speed.
    pub stream_window: u32,
    /// What one HTTP/2 connection may send before it is read.
    pub connection_window: u32,
    /// How long requests in flight may go on after the server was asked to stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 32 * 1024,
            header_timeout: Duration::from_secs(15),
            handshake_timeout: Duration::from_secs(10),
            // Longer than the usual 60 s of load balancers, so that they close first and never meet a closed one.
            idle_timeout: Duration::from_secs(90),
            body_idle_timeout: Duration::from_secs(60),
            max_connections: 10_000,
            max_requests: 4096,
            max_uploads: 512,
            max_streams: 128,
            stream_window: 2 * 1024 * 1024,
            connection_window: 8 * 1024 * 1024,
            drain: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// How often a connection looks at its clocks: often enough to be within a quarter of the shortest bound.
    pub(crate) fn tick(&self) -> Duration {
        let shortest = self.header_timeout.min(self.idle_timeout).min(self.body_idle_timeout);
        (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(5))
    }
}

/// Which finished requests are logged at level `info`. The others are logged at `debug`; server errors always at `warn`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// Only client errors (but not the 401 that begins every login).
    Errors,
    /// Those, and everything that changes something.
    #[default]
    Changes,
    /// Everything.
    All,
}

impl std::str::FromStr for AccessLog {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "errors" => Ok(Self::Errors),
            "changes" => Ok(Self::Changes),
            "all" => Ok(Self::All),
            other => Err(format!("\"{other}\" is not one of errors, changes, all")),
        }
    }
}
