//! The ports of a replica that is about to be made: tried before anything is written, so that a port that is taken leaves
//! no folder behind that the next attempt stumbles over.

use std::net::SocketAddr;

use dtr_transport::{ListenerKind, ServeError};
use tokio::net::TcpListener;

use crate::install::ReplicaOptions;

/// Binds each address that the replica would listen on, and lets go of it again.
///
/// # Errors
/// [`ServeError::Bind`] with the address and the way out.
pub async fn try_ports(options: &ReplicaOptions) -> Result<(), ServeError> {
    let at = |port| SocketAddr::new(options.listen_address, port);
    let redirect = (options.http_port != 0).then(|| at(options.http_port));
    let faces = [
        (ListenerKind::Https, Some(at(options.https_port))),
        (ListenerKind::Redirect, redirect),
        (ListenerKind::Plain, options.plain_http),
    ];
    // All at once: two faces on one port are found, too.
    let mut held = Vec::new();
    for (kind, address) in faces {
        let Some(address) = address else { continue };
        let socket = TcpListener::bind(address).await;
        held.push(socket.map_err(|source| ServeError::Bind { kind, address, source })?);
    }
    Ok(())
}
