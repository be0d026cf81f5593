//! The way to one endpoint: a connection that is opened once for all who want it, and kept as long as it is good.

use std::future::Future;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    connection::{Connection, Endpoint},
    fault::Fault,
};

/// One endpoint.
pub(crate) struct Line {
    pub(crate) endpoint: Endpoint,
    connection: Mutex<Option<Connection>>,
    /// Held by whoever opens a connection; when that failed last, and why.
    opening: tokio::sync::Mutex<Option<(Instant, Fault)>>,
}

impl Line {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, connection: Mutex::default(), opening: tokio::sync::Mutex::default() }
    }

    fn ready(&self) -> Option<Connection> {
        let mut connection = self.connection.lock();
        if connection.as_ref().is_some_and(Connection::is_closed) {
            *connection = None;
        }
        connection.clone()
    }

    /// The connection. Those who come while one is opened share what becomes of it: to an address that swallows all that is
    /// sent, each try takes as long as it may.
    pub(crate) async fn connection<F>(&self, open: impl FnOnce() -> F) -> Result<Connection, Fault>
    where
        F: Future<Output = Result<Connection, Fault>>,
    {
        if let Some(connection) = self.ready() {
            return Ok(connection);
        }
        let came = Instant::now();
        let mut failed = self.opening.lock().await;
        if let Some(connection) = self.ready() {
            return Ok(connection);
        }
        if let Some((_, fault)) = failed.as_ref().filter(|(at, _)| *at >= came) {
            return Err(fault.clone());
        }
        match open().await {
            Ok(connection) => {
                tracing::debug!(endpoint = self.endpoint.url, "connected to etcd");
                *self.connection.lock() = Some(connection.clone());
                Ok(connection)
            }
            Err(fault) => {
                *failed = Some((Instant::now(), fault.clone()));
                Err(fault)
            }
        }
    }

    /// Gives up a connection that does not answer. Whoever waits on it still does.
    pub(crate) fn leave(&self, bad: &Connection) {
        let mut connection = self.connection.lock();
        if connection.as_ref().is_some_and(|found| found.is(bad)) {
            *connection = None;
        }
    }
}
