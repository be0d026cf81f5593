//! Places at a UCP: what is registered there for the address or the replica id of a registry that is made, and what
//! becomes of it. That an address does not answer from this machine proves nothing: only whoever installs or restores knows
//! whether a registry is lost, so nothing is taken from another registration without being told.

use std::{net::SocketAddr, time::Duration};

use dtr_catalog::records::Service;
use dtr_identity::{ServiceForm, UcpClient};
use dtr_types::Secret;

use crate::InstallError;

/// How long an address is tried that a lost registry had.
const ALIVE: Duration = Duration::from_secs(3);

/// Registries that the UCP knows by the address or a replica id of this one.
pub(crate) async fn in_place(
    client: &UcpClient,
    token: &Secret,
    form: &ServiceForm,
) -> Result<Vec<Service>, InstallError> {
    let mut known = client.services(token).await?;
    known.retain(|service| {
        let at_address = !service.replicas.is_empty() && form.url.as_ref() == Some(&service.url);
        at_address || shares_id(service, form)
    });
    Ok(known)
}

/// Whether a registration is of the same replica, by its id or by the name that it has from it.
fn shares_id(service: &Service, form: &ServiceForm) -> bool {
    let ids = form.replicas.iter().flatten().map(|replica| &replica.id);
    let mut known = service.replicas.iter().map(|replica| &replica.id);
    form.name.as_ref() == Some(&service.name)
        || known.any(|known| ids.clone().any(|id| id == known))
}

/// Refuses a replica id that another registration has.
///
/// # Errors
/// [`InstallError::Registered`].
pub(crate) fn not_registered(former: &[Service], form: &ServiceForm) -> Result<(), InstallError> {
    let taken = former.iter().find(|service| shares_id(service, form));
    let id = form.replicas.iter().flatten().next().map(|replica| replica.id.clone());
    match (taken, id) {
        (Some(service), Some(id)) => {
            let (name, url) = (service.name.clone(), service.url.clone());
            Err(InstallError::Registered { id, name, url })
        }
        _ => Ok(()),
    }
}

/// What to say of registrations that stay.
pub(crate) fn tell_places(former: &[Service]) -> Vec<String> {
    let say = |service: &Service| {
        format!(
            "the UCP knows a registry at {} as {} already: it stays registered beside this one. If it is lost for good, take it \
             off with \"dtr reconfigure --data-dir DIR --ucp-url UCP --replace-registration\", DIR being the folder of this one",
            service.url, service.name
        )
    };
    former.iter().map(say).collect()
}

/// Takes registrations away, as was told. Yields what to say.
pub(crate) async fn take_places(
    client: &UcpClient,
    token: &Secret,
    former: &[Service],
) -> Vec<String> {
    let mut said = Vec::new();
    for service in former {
        let (name, url) = (&service.name, &service.url);
        let alive = answers(url).await;
        said.push(match client.delete_service(token, &service.id).await {
            Ok(()) if alive => format!(
                "this registry has taken the place of {name} at the UCP, although something answers at {url}: if that is {name}, \
                 nobody can log in there until it is registered anew (dtr reconfigure --ucp-url, on its own machine)"
            ),
            Ok(()) => format!("this registry has taken the place of {name} ({url}) at the UCP"),
            Err(error) => format!("the UCP's record of {name} could not be removed: {error}"),
        });
    }
    said
}

/// Whether something listens at an address. That it does not, as seen from here, is no proof that nothing is there.
async fn answers(url: &str) -> bool {
    let Some(authority) = url.strip_prefix("https://").map(|rest| rest.trim_end_matches('/'))
    else {
        return false;
    };
    let has_port = authority.rsplit(']').next().is_some_and(|end| end.contains(':'));
    let address = if has_port { authority.to_owned() } else { format!("{authority}:443") };
    let connecting = async {
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host(address).await.ok()?.collect();
        tokio::net::TcpStream::connect(addresses.as_slice()).await.ok()
    };
    matches!(tokio::time::timeout(ALIVE, connecting).await, Ok(Some(_)))
}
