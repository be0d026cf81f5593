//! The organization of the registry's tests, with this face beside the registry's.

use std::sync::Arc;

use dtr_api::ApiState;
use dtr_blobs::{FileStorage, Options};
use dtr_catalog::records::{ClusterRecord, DATA_FORMAT, IdentitySource};
use dtr_jobs::Scheduler;
use dtr_store_embedded::EmbeddedStore;
use dtr_types::{Clock as _, ClusterId, ReplicaId, SeededRandom, SystemClock};
use serde_json::Value;

use crate::people::{self, Answer, Who};

/// What the requests go to.
pub(crate) struct World {
    pub(crate) people: people::World,
    pub(crate) blobs: Arc<FileStorage>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let random = Arc::new(SeededRandom::new(3));
        let options = Options::new(Arc::new(SystemClock), random.clone());
        let blobs = Arc::new(FileStorage::open(dir.path(), options).await.expect("opens"));
        let mut people =
            people::World::over(EmbeddedStore::in_memory(), blobs.clone(), |_| {}).await;
        let catalog = people.catalog.clone();
        let cluster = ClusterRecord {
            id: ClusterId::random(&*random),
            data_format: DATA_FORMAT,
            created_at: SystemClock.now(),
            created_by: "0.0.0".to_owned(),
            identity: IdentitySource::BuiltIn,
            restored_from: None,
        };
        catalog.create_cluster(&cluster).await.expect("made");
        let state = ApiState {
            catalog: catalog.clone(),
            blobs: blobs.clone(),
            identity: Arc::new(people.identity.clone()),
            built_in: Some(people.identity.clone()),
            access: people.access.clone(),
            scheduler: Arc::new(Scheduler::new(
                catalog,
                blobs.clone(),
                ReplicaId::random(&*random),
            )),
            cluster: None,
            replica: ReplicaId::random(&*random),
            version: "0.0.0",
            reports: Arc::default(),
        };
        people.router = people.router.merge(dtr_api::router(state));
        people.dir = Some(dir);
        Self { people, blobs }
    }

    /// A request, with a JSON body if one is given.
    pub(crate) async fn ask(
        &self,
        who: Who,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Answer {
        let call = self.people.call(method, path).who(who);
        match body {
            None => call.send().await,
            Some(body) => {
                let call = call.header("content-type", "application/json");
                call.body(body.to_string()).send().await
            }
        }
    }

    pub(crate) async fn admin(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.ask(Who::Admin, method, path, body).await
    }
}
