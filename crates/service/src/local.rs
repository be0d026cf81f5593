//! The local way to a service: HTTP over a Unix socket in its data directory, mode 0600. Whoever may open it is the
//! service's own user or root, and needs no password.

use std::{
    fs,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::PermissionsExt as _,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::{ServiceError, file_error};

/// The socket's name in the data directory.
pub const SOCKET: &str = "local.sock";
/// How long a finished service waits for local requests in flight.
const DRAIN: Duration = Duration::from_secs(30);
/// Largest error answer that is shown.
const MESSAGE_MAX: usize = 64 << 10;

/// The data directory, opened, and the socket's path through it: a path of a socket has at most 107 bytes, one of a data
/// directory may have more.
fn through(data_dir: &Path) -> Result<(OwnedFd, PathBuf), ServiceError> {
    use rustix::fs::{Mode, OFlags, open};
    let directory =
        open(data_dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| file_error("opened", data_dir)(error.into()))?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()));
    Ok((directory, path))
}

/// A socket that is bound and not yet served.
#[derive(Debug)]
pub struct Local {
    listener: UnixListener,
    path: PathBuf,
}

/// Binds the socket. Call it only as holder of the data directory's [`PidFile`](crate::PidFile): a socket that a crashed
/// process left is replaced.
///
/// # Errors
/// [`ServiceError::File`] when the directory or the socket cannot be used.
pub fn listen(data_dir: &Path) -> Result<Local, ServiceError> {
    let (_directory, through) = through(data_dir)?;
    let path = data_dir.join(SOCKET);
    match fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(file_error("removed", &path)(error)),
    }
    let listener = UnixListener::bind(&through).map_err(file_error("bound", &path))?;
    // The directory itself is closed to others; between the two calls nobody else gets to the socket.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
        .map_err(file_error("closed to others", &path))?;
    Ok(Local { listener, path })
}

impl Local {
    /// Serves until `shutdown`, and then what is in flight, for a bounded time.
    pub async fn serve(self, router: Router, shutdown: CancellationToken) {
        let asked = shutdown.clone();
        let serving = axum::serve(self.listener, router)
            .with_graceful_shutdown(async move { asked.cancelled().await });
        let late = async {
            shutdown.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            ended = serving => if let Err(error) = ended {
                tracing::error!(%error, "the local socket failed");
            },
            () = late => tracing::warn!("local requests were cut"),
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "the local socket was not removed");
        }
    }
}

/// Sends a request to the service of a data directory and gives its answer back, whatever its status. The body streams;
/// an answer that is cut ends in an error, never silently.
///
/// # Errors
/// [`ServiceError::NotRunning`] when nothing listens, [`ServiceError::Request`] when the request failed on its way.
pub async fn send(
    data_dir: &Path,
    request: Request<Bytes>,
) -> Result<Response<Incoming>, ServiceError> {
    let (_directory, path) = through(data_dir)?;
    let stream = UnixStream::connect(&path)
        .await
        .map_err(|source| ServiceError::NotRunning { path: data_dir.to_owned(), source })?;
    let failed = |error: hyper::Error| ServiceError::Request(error.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the local connection ended");
        }
    });
    let (mut parts, body) = request.into_parts();
    parts.headers.insert(http::header::HOST, http::HeaderValue::from_static("localhost"));
    sender.send_request(Request::from_parts(parts, Full::new(body))).await.map_err(failed)
}

/// As [`send`], for an answer that must be a success.
///
/// # Errors
/// Also [`ServiceError::Answer`] with what the service said.
pub async fn call(
    data_dir: &Path,
    request: Request<Bytes>,
) -> Result<Response<Incoming>, ServiceError> {
    let response = send(data_dir, request).await?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MESSAGE_MAX).collect().await;
    let bytes = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let message = String::from_utf8_lossy(&bytes).trim().to_owned();
    Err(ServiceError::Answer { status, message })
}

/// The type of bodies that a local router answers with.
pub type LocalBody = Body;
