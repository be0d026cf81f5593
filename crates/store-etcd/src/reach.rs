//! Whether a member is there at all, and whether a majority is behind it: for whoever must know that before doing what
//! cannot be taken back.

use std::time::Duration;

use dtr_store::StoreError;
use tokio::net::TcpStream;

use crate::{
    ConnectError, Timing, Tls,
    connection::{Connection, Endpoint},
    wire::{RangeRequest, RangeResponse, method},
};

/// How long each of the three questions may take: long enough for a machine that is only busy.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is heard from where a member is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Nothing takes connections there.
    Silent(String),
    /// Something takes connections, and does not answer us as a member does.
    Refuses(String),
    /// A member that votes, without a majority behind it.
    Leaderless,
    /// A member with a majority behind it.
    Serves,
}

/// Asks the member at `url`.
///
/// # Errors
/// When the URL or the certificates cannot be used.
pub async fn reach(url: &str, tls: &Tls) -> Result<Reach, ConnectError> {
    let (endpoint, tls) = (Endpoint::parse(url)?, tls.config()?);
    match tokio::time::timeout(PATIENCE, TcpStream::connect(endpoint.socket())).await {
        Ok(Ok(connected)) => drop(connected),
        Ok(Err(error)) => return Ok(Reach::Silent(error.to_string())),
        Err(_) => return Ok(Reach::Silent(format!("no connection in {PATIENCE:?}"))),
    }
    let timing = Timing { connect: PATIENCE, attempt: PATIENCE, ..Timing::default() };
    let connection = match Connection::open(&endpoint, tls, &timing).await {
        Ok(connection) => connection,
        Err(fault) => return Ok(Reach::Refuses(StoreError::from(fault).to_string())),
    };
    if connection.hello.is_learner {
        return Ok(Reach::Refuses("it does not vote yet".to_owned()));
    }
    // A read that is not from memory: only a majority can answer it.
    let key = bytes::Bytes::from_static(b"\0");
    let request = RangeRequest { key, limit: 1, count_only: true, ..RangeRequest::default() };
    let read = connection.unary::<_, RangeResponse>(method::RANGE, request, true);
    Ok(match tokio::time::timeout(timing.attempt, read).await {
        Ok(Ok(_)) => Reach::Serves,
        Ok(Err(_)) | Err(_) => Reach::Leaderless,
    })
}
