//! `dtr reconfigure --data-dir DIR --ucp-url UCP`: registers a registry anew with its UCP, when that does not know it any
//! more. Works while nobody can log in, since the replica is reached through its own folder.

use anyhow::Context as _;
use dtr_client::{Identity, Service, Session};
use dtr_recovery::Exit;
use serde::Deserialize;
use serde_json::{Value, json};

use super::connect::{Connection, RETRY};
use crate::{
    cli::UcpArgs,
    failure::{Failure, Result},
    terminal,
};

/// How a registry is registered, as it says itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    url: String,
    service: Option<String>,
    public_key: String,
    address: String,
    replicas: Vec<dtr_client::Replica>,
}

/// Sees to it that the UCP knows the registry. Yields whether its replicas must restart for it.
///
/// # Errors
/// Refused when another registration has its place, unless `replace` says that this is to go.
pub(super) async fn register(c: &Connection, args: &UcpArgs, replace: bool) -> Result<bool> {
    let known: Known = c
        .api
        .get("/api/v0/meta/registration")
        .await
        .context("cannot ask the registry what it is registered as")?;
    let login = args.complete()?;
    let identity = Identity::new(&login.url, &login.tls, RETRY)?;
    let session =
        identity.login_admin(&login.username, &login.password).await.context("cannot log in")?;
    let done = with_session(c, &identity, &session, &known, &login, replace).await;
    // Of no use any more; that it cannot be ended is no reason to hide what happened.
    let _ = identity.logout(&session).await;
    done
}

async fn with_session(
    c: &Connection,
    identity: &Identity,
    session: &Session,
    known: &Known,
    login: &super::connect::UcpLogin,
    replace: bool,
) -> Result<bool> {
    let services =
        identity.services(session).await.context("cannot list what the UCP has registered")?;
    let is_ours = |service: &&Service| {
        Some(service.id.as_str()) == known.service.as_deref()
            && service.public_key.trim() == known.public_key.trim()
    };
    let ours = services.iter().find(is_ours);
    let others = others(&services, ours, known);
    let api = identity.api(session);
    for (service, shares_id) in &others {
        let what = format!("{} ({})", service.name, service.url);
        if replace {
            api.delete(&format!("/enzi/v0/services/{}", service.id))
                .await
                .with_context(|| format!("cannot take {what} off the list of the UCP"))?;
            terminal::say(&terminal::harmless(&format!("{what} is taken off the list of the UCP")));
        } else if *shares_id {
            return Err(Failure::ending(
                Exit::Refused,
                terminal::harmless(&format!(
                    "the UCP has this replica registered as {what}, by another key: a registry was restored with its id. Take \
                     that registration off with --replace-registration; nothing was changed"
                )),
            ));
        } else {
            terminal::say(&terminal::harmless(&format!(
                "the UCP knows {what} at the same address; take that registration off with --replace-registration"
            )));
        }
    }
    if let Some(ours) = ours
        && known.url == identity.url()
    {
        terminal::say(&terminal::harmless(&format!(
            "the registry is registered at {} already, as {}",
            identity.host(),
            ours.name
        )));
        return Ok(false);
    }
    let service = match ours {
        Some(ours) => ours.id.clone(),
        None => create(&api, session, known).await?,
    };
    let set = json!({
        "url": identity.url(),
        "ca": login.tls.ca_pem.clone().unwrap_or_default(),
        "insecureTLS": login.tls.insecure,
        "service": service,
    });
    let _: Value = c
        .api
        .put("/api/v0/meta/registration", &set)
        .await
        .context("the UCP knows the registry again, but the registry could not be told")?;
    terminal::say(&format!("the registry is registered at {} anew", identity.host()));
    Ok(true)
}

/// Registrations of the same replicas, by id or by name, or of the same address; and whether they are of the same replicas.
fn others<'a>(
    services: &'a [Service],
    ours: Option<&Service>,
    known: &Known,
) -> Vec<(&'a Service, bool)> {
    let others = services.iter().filter(|service| Some(&service.id) != ours.map(|ours| &ours.id));
    let judged = others.filter_map(|service| {
        let is_named = known.replicas.iter().any(|r| service.name == format!("dtr-{}", r.id));
        let shares_id =
            service.replicas.iter().any(|r| known.replicas.iter().any(|k| k.id == r.id));
        let at_address = service.url == known.address && !service.replicas.is_empty();
        (is_named || shares_id || at_address).then_some((service, is_named || shares_id))
    });
    judged.collect()
}

/// Registers it under the account that is logged in. What others are to know of its replicas it tells itself.
async fn create(
    api: &dtr_client::Api,
    session: &Session,
    known: &Known,
) -> Result<dtr_types::ServiceId> {
    let Some(first) = known.replicas.first() else {
        return Err(Failure::ending(Exit::Failed, "the registry names no replica; is it running?"));
    };
    let form = json!({
        "name": format!("dtr-{}", first.id),
        "description": "Docker Trusted Registry",
        "url": known.address,
        "privileged": true,
        "publicKey": known.public_key,
        "replicas": known.replicas,
    });
    let path = format!("/enzi/v0/accounts/{}/services", session.account.id);
    let made: Service =
        api.post(&path, &form).await.context("cannot register the registry with the UCP")?;
    Ok(made.id)
}
