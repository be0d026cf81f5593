//! The bounds of the server, each with a name, and what goes into the access log.

use std::time::Duration;

/// Bounds on what clients may occupy. Uploads of blobs have no limit on their whole time or size here: a slow upload of a
/// large layer is fine as long as bytes come. Other bodies have both.
///
/// Of what is shared, one client address may have one part in [`Limits::share`] while others have the rest, and more only
/// while half of it is free.
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
    /// Requests in progress that are not uploads of blobs, and whose body is there. Over it: 503 with `Retry-After`.
    pub max_requests: usize,
    /// Requests that are not uploads of blobs, and whose body is still to come: they work on nothing, so they must not take
    /// the places of those that do. Over it: 503 with `Retry-After`.
    pub max_bodies: usize,
    /// Bytes of bodies that are held in memory, which are all but uploads of blobs. Over it: 503 with `Retry-After`.
    pub body_memory: usize,
    /// Bytes of a body that is no upload of a blob. Over it: 413.
    pub body_bytes: u64,
    /// From the head to the end of a body that is no upload of a blob. Over it: 408.
    pub body_timeout: Duration,
    /// Bytes of a body with which somebody logs in or asks for a token. Over it: 413.
    pub login_bytes: u64,
    /// From the head to the end of a body with which somebody logs in or asks for a token. Over it: 408.
    pub login_timeout: Duration,
    /// Uploads of blobs in progress. Over it: 503 with `Retry-After`.
    pub max_uploads: usize,
    /// One client address may have one part in so many of connections, requests, bodies and their memory when they are
    /// scarce. 1: no share. Addresses of trusted proxies, behind which there are many clients, have none.
    pub share: usize,
    /// After how long without a free place for connections or requests `/_ping` says that this server is not well.
    pub full_for: Duration,
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
            max_bodies: 1024,
            body_memory: 256 * 1024 * 1024,
            // Twice the largest manifest.
            body_bytes: 8 * 1024 * 1024,
            body_timeout: Duration::from_secs(120),
            login_bytes: 64 * 1024,
            login_timeout: Duration::from_secs(30),
            max_uploads: 512,
            share: 8,
            full_for: Duration::from_secs(3),
            max_streams: 128,
            stream_window: 2 * 1024 * 1024,
            connection_window: 8 * 1024 * 1024,
            drain: Duration::from_secs(30),
        }
    }
}

/// Files that are kept free of connections: the store's, logs, and those of blobs that are read beside them.
const FILES_RESERVE: u64 = 256;

impl Limits {
    /// The limits for a process that may have this many files open: a connection is one, and often reads a second.
    pub(crate) fn fit(&mut self, files: u64) {
        let fits = (files.saturating_sub(FILES_RESERVE) / 2).max(files / 8).max(1);
        let fits = usize::try_from(fits).unwrap_or(usize::MAX);
        if fits < self.max_connections {
            tracing::warn!(
                connections = fits,
                files,
                "fewer connections are taken than usual, since this process may not open more files; raise its limit (LimitNOFILE, ulimit -Hn)"
            );
            self.max_connections = fits;
        }
    }

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
