//! Who says who is who: the accounts of this store, or a UCP.

use std::sync::Arc;

use dtr_catalog::{
    Catalog,
    records::{ClusterRecord, IdentitySource},
};
use dtr_identity::{BuiltIn, BuiltInOptions, Identity, Remote, RemoteOptions};
use dtr_types::{SystemClock, SystemRandom};

use crate::{ServeError, assets};

/// Who says who is who.
pub(crate) struct Who {
    pub identity: Arc<dyn Identity>,
    pub built_in: Option<BuiltIn>,
    pub remote: Option<Arc<Remote>>,
}

/// Who says who is who: this store, or a UCP.
pub(crate) async fn identity(
    catalog: &Catalog,
    cluster: &ClusterRecord,
) -> Result<Who, ServeError> {
    match &cluster.identity {
        IdentitySource::BuiltIn => {
            let built_in = BuiltIn::new(catalog.clone(), BuiltInOptions::default());
            Ok(Who { identity: Arc::new(built_in.clone()), built_in: Some(built_in), remote: None })
        }
        IdentitySource::Ucp { url, ca, insecure_tls, service } => {
            let service = service.clone().ok_or(ServeError::NotRegistered)?;
            let ca = (!ca.trim().is_empty()).then_some(ca.as_str());
            let tls = dtr_transport::tls::client_config(ca, *insecure_tls)?;
            let (private_key, _) = assets::service_key(catalog).await?;
            let options = RemoteOptions { url: url.clone(), service, private_key };
            let remote = Remote::new(options, tls, Arc::new(SystemClock), Arc::new(SystemRandom))?;
            let remote = Arc::new(remote);
            let identity: Arc<dyn Identity> = Arc::clone(&remote) as _;
            Ok(Who { identity, built_in: None, remote: Some(remote) })
        }
    }
}
