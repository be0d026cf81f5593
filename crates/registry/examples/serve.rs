//! A registry over plain HTTP in one process, to try clients against and to measure: `serve DIR ADDRESS [open]`. The
//! user is `admin`, the password `adminpassword`; a push makes its repository. With `open` there is no access control.

use std::{error::Error, path::PathBuf, sync::Arc};

use dtr_access::Access;
use dtr_blobs::FileStorage;
use dtr_catalog::{Catalog, records::Settings};
use dtr_identity::{BuiltIn, BuiltInOptions};
use dtr_registry::Registry;
use dtr_store_embedded::{EmbeddedStore, Options};
use dtr_transport::{AccessLog, Forwarded, Metrics, Server};
use dtr_types::{ClusterId, Secret, SystemClock, SystemRandom};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: serve DIR ADDRESS [open]";
    let dir = PathBuf::from(arguments.next().ok_or(usage)?);
    let address = arguments.next().ok_or(usage)?.parse()?;
    let open = arguments.next().as_deref() == Some("open");
    std::fs::create_dir_all(&dir)?;
    let store = EmbeddedStore::open(&dir.join("store"), Options::default())?;
    let random = Arc::new(SystemRandom);
    let catalog = Catalog::new(store, Arc::new(SystemClock), random.clone());
    catalog.put(&Settings { create_repository_on_push: true, ..Settings::default() }).await?;
    let options = dtr_blobs::Options::new(Arc::new(SystemClock), random);
    let blobs = Arc::new(FileStorage::open(dir.join("blobs"), options).await?);
    let identity = BuiltIn::new(catalog.clone(), BuiltInOptions::default());
    if identity.is_empty().await? {
        let password = Secret::new("adminpassword");
        identity.create_first_admin("admin".parse()?, password).await?;
    }
    let registry = if open {
        Registry::open_to_everybody(catalog, blobs)
    } else {
        let access =
            Access::new(catalog.clone(), &ClusterId::random(&SystemRandom), Arc::new(identity))
                .await?;
        Registry::new(catalog, blobs, access)
    };
    let server = Server::new(registry.router(), Metrics::new(), &SystemRandom)
        .plain(address, Forwarded::default())
        .access_log(AccessLog::Errors)
        .bind()
        .await?;
    println!("http://{address}");
    server.run(dtr_transport::shutdown_on_signals()?).await;
    registry.shutdown().await;
    Ok(())
}
