//! Registered services: the DTRs that trust this identity service, with their keys and replicas.

use dtr_catalog::{
    TransactionExt as _, keys,
    records::{EventType, Service},
};
use dtr_store::Transaction;
use dtr_types::{AccountId, ServiceId};

use super::{BuiltIn, accounts::missing};
use crate::{Actor, IdentityError, ManageError, ServiceForm};

/// Most services. They are few; each is a whole registry.
const SERVICES_MAX: usize = 1_000;
/// Most entries of one of a service's lists.
const ENTRIES_MAX: usize = 64;
/// Longest text of a service besides its authority's certificates, in bytes.
const TEXT_MAX: usize = 2_048;
/// Longest authority's certificates, in bytes.
const CA_MAX: usize = 256 * 1024;

fn invalid(field: &'static str, reason: impl Into<String>) -> ManageError {
    ManageError::Invalid { field, reason: reason.into() }
}

fn check_url(field: &'static str, text: &str) -> Result<(), ManageError> {
    match url::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "https" | "http") && url.has_host() => Ok(()),
        _ => Err(invalid(field, format!("\"{text}\" is not an address such as https://host:port"))),
    }
}

/// Whether a replica belongs to a service that may not lose it to `service`: an id has one owner. What a service says that
/// only has an account keeps no id from a registry.
fn owner_of_replica<'a>(services: &'a [Service], service: &Service) -> Option<&'a Service> {
    let ids: Vec<_> = service.replicas.iter().map(|replica| &replica.id).collect();
    let mut others = services.iter().filter(|other| other.id != service.id);
    others.find(|other| {
        (other.privileged || !service.privileged)
            && other.replicas.iter().any(|replica| ids.contains(&&replica.id))
    })
}

/// Bounds and forms of everything that came from outside.
fn check(service: &Service) -> Result<(), ManageError> {
    if service.name.is_empty() || service.name.chars().any(char::is_control) {
        return Err(invalid("name", "a service has a name without control characters"));
    }
    let texts = [&service.name, &service.description, &service.url, &service.public_key];
    let lists = [&service.redirect_uris, &service.jwks_uris, &service.provider_identities];
    if texts.into_iter().chain(lists.into_iter().flatten()).any(|text| text.len() > TEXT_MAX) {
        return Err(invalid("service", format!("a text is longer than {TEXT_MAX} bytes")));
    }
    if lists.iter().any(|list| list.len() > ENTRIES_MAX) || service.replicas.len() > ENTRIES_MAX {
        return Err(invalid("service", format!("a list is longer than {ENTRIES_MAX}")));
    }
    if service.ca_bundle.len() > CA_MAX {
        return Err(invalid("caBundle", format!("it is longer than {CA_MAX} bytes")));
    }
    check_url("url", &service.url)?;
    for address in service.redirect_uris.iter().chain(&service.jwks_uris) {
        check_url("service", address)?;
    }
    for replica in &service.replicas {
        check_url("replicas", &replica.address)?;
    }
    if !service.public_key.is_empty() {
        crate::service_token::check_public_key(&service.public_key)
            .map_err(|reason| invalid("publicKey", reason))?;
    }
    Ok(())
}

fn apply(service: &mut Service, form: ServiceForm) {
    fn set<T>(to: &mut T, from: Option<T>) {
        if let Some(value) = from {
            *to = value;
        }
    }
    set(&mut service.name, form.name);
    set(&mut service.description, form.description);
    set(&mut service.url, form.url);
    set(&mut service.privileged, form.privileged);
    set(&mut service.redirect_uris, form.redirect_uris);
    set(&mut service.jwks_uris, form.jwks_uris);
    set(&mut service.provider_identities, form.provider_identities);
    set(&mut service.ca_bundle, form.ca_bundle);
    set(&mut service.public_key, form.public_key);
    set(&mut service.replicas, form.replicas);
}

impl BuiltIn {
    /// All registered services.
    pub async fn services(&self) -> Result<Vec<Service>, IdentityError> {
        Ok(self.catalog().services().await?)
    }

    /// A registered service.
    pub async fn service(&self, id: &ServiceId) -> Result<Option<Service>, IdentityError> {
        Ok(self.catalog().get(&keys::service(id)).await?.map(|found| found.value))
    }

    async fn name_is_free(&self, service: &Service) -> Result<(), ManageError> {
        let services = self.services().await?;
        if services.len() >= SERVICES_MAX {
            return Err(ManageError::Refused(format!("there are {SERVICES_MAX} services already")));
        }
        let taken = services
            .iter()
            .any(|s| s.id != service.id && s.owner == service.owner && s.name == service.name);
        if taken {
            return Err(ManageError::Exists { kind: "service", name: service.name.clone() });
        }
        Ok(())
    }

    /// Refuses replica ids that another service has, and one that is there twice.
    async fn replicas_are_own(&self, service: &Service) -> Result<(), ManageError> {
        for (i, replica) in service.replicas.iter().enumerate() {
            if service.replicas[..i].iter().any(|before| before.id == replica.id) {
                return Err(invalid("replicas", format!("replica {} is there twice", replica.id)));
            }
        }
        match owner_of_replica(&self.services().await?, service) {
            None => Ok(()),
            Some(owner) => Err(ManageError::Refused(format!(
                "service {} has one of these replica ids, and an id has one owner; take that registration away first if it is \
                 of a registry that is lost",
                owner.name
            ))),
        }
    }

    /// Registers a service of `owner`.
    pub async fn register_service(
        &self,
        actor: &Actor,
        owner: &AccountId,
        form: ServiceForm,
    ) -> Result<Service, ManageError> {
        self.account_record(owner).await?.ok_or_else(|| missing("account", owner))?;
        let mut service = Service {
            id: ServiceId::random(self.catalog().random()),
            owner: owner.clone(),
            name: String::new(),
            description: String::new(),
            url: String::new(),
            privileged: false,
            redirect_uris: Vec::new(),
            jwks_uris: Vec::new(),
            provider_identities: Vec::new(),
            ca_bundle: String::new(),
            public_key: String::new(),
            replicas: Vec::new(),
            created_at: self.catalog().now(),
        };
        apply(&mut service, form);
        check(&service)?;
        let _changing = self.inner.changing.lock().await;
        self.name_is_free(&service).await?;
        self.replicas_are_own(&service).await?;
        let event =
            self.event(actor, EventType::Create, "service", &service.name, service.id.as_str());
        let transaction = Transaction::new()
            .if_present(keys::account(owner))
            .create_record(&service)?
            .event(&event)?;
        match self.catalog().commit(transaction).await?.committed() {
            Some(_) => Ok(service),
            None => Err(missing("account", owner)),
        }
    }

    /// Changes a service, its replicas among it.
    pub async fn update_service(
        &self,
        actor: &Actor,
        id: &ServiceId,
        form: ServiceForm,
    ) -> Result<Service, ManageError> {
        let _changing = self.inner.changing.lock().await;
        let known = self.service(id).await?.ok_or_else(|| missing("service", id))?;
        let mut new = known.clone();
        apply(&mut new, form.clone());
        check(&new)?;
        if new.name != known.name {
            self.name_is_free(&new).await?;
        }
        if new.replicas != known.replicas || new.privileged != known.privileged {
            self.replicas_are_own(&new).await?;
        }
        let event = self.event(actor, EventType::Update, "service", &new.name, id.as_str());
        self.catalog()
            .change(&keys::service(id), Some(&event), |service| {
                let mut changed = service.clone();
                apply(&mut changed, form.clone());
                (changed != *service).then_some(changed)
            })
            .await?
            .ok_or_else(|| missing("service", id))
    }

    /// Forgets a service: from now on it is a stranger. No error when it is not there.
    pub async fn delete_service(&self, actor: &Actor, id: &ServiceId) -> Result<(), ManageError> {
        let Some(known) = self.service(id).await? else { return Ok(()) };
        let event = self.event(actor, EventType::Delete, "service", &known.name, id.as_str());
        let transaction = Transaction::new().delete(keys::service(id)).event(&event)?;
        self.catalog().commit(transaction).await?;
        Ok(())
    }
}
