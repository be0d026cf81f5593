//! What a replica does about its place in the cluster while it serves: it votes as soon as it has caught up, renews its
//! certificate, heeds what the authority took back, remembers where the others are, and ends when it was removed.

use std::{sync::Arc, time::Duration};

use dtr_catalog::{Catalog, keys};
use dtr_store::{StoreError, prefix_end};
use dtr_store_etcd::{AdminError, EtcdStore, MemberFacts};
use dtr_transport::pki::{self, PkiError};
use dtr_types::ReplicaId;
use tokio_util::sync::CancellationToken;

use crate::{
    ClusterError, Engine, Folder, MemberConfig,
    identity::{VALIDITY, authority, certificate_record, names, record_name, revoked},
    member_name,
};

/// How often the members are looked at: some times while a replica that is removed is still let in (`remove`).
const LOOK: Duration = Duration::from_secs(1);
/// How often a learner asks for its vote.
const ASK: Duration = Duration::from_millis(200);
/// How often the certificate is looked at although nothing changed.
const RENEW: Duration = Duration::from_secs(3600);
/// How long until what failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Why the keeper ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// The replica was removed from the cluster.
    Removed,
}

type Remember = Box<dyn Fn(Vec<String>) + Send + Sync>;

/// Looks after one replica's place.
pub struct Keeper {
    catalog: Catalog,
    store: Arc<EtcdStore>,
    folder: Folder,
    id: ReplicaId,
    member: Option<MemberConfig>,
    /// Told where the members are when that has changed.
    remember: Remember,
}

impl Keeper {
    /// For the replica `id` with its `member`, if it runs one.
    pub fn new(
        catalog: Catalog,
        engine: &Engine,
        id: ReplicaId,
        member: Option<MemberConfig>,
        remember: impl Fn(Vec<String>) + Send + Sync + 'static,
    ) -> Self {
        let (store, folder) = (Arc::clone(engine.store()), engine.folder().clone());
        Self { catalog, store, folder, id, member, remember: Box::new(remember) }
    }

    /// Runs until `stop`, or until the replica was removed.
    pub async fn run(self, stop: CancellationToken) -> Ended {
        let Some(member) = &self.member else {
            stop.cancelled().await;
            return Ended::Stopped;
        };
        tokio::select! {
            () = stop.cancelled() => Ended::Stopped,
            () = self.watch_members(member) => Ended::Removed,
            () = self.keep_certificates(member) => Ended::Stopped,
        }
    }

    /// Returns when this replica is no member any more.
    async fn watch_members(&self, member: &MemberConfig) {
        let mut known = Vec::new();
        let mut seen = false;
        loop {
            let pause = match self.store.members().list().await {
                Ok(members) => {
                    let own = members.iter().find(|m| m.peer_urls.contains(&member.peer_url()));
                    match own {
                        Some(own) => {
                            seen = true;
                            self.remember_others(&members, &mut known);
                            self.vote(own).await
                        }
                        // A member that is asked may lag behind the one that let us in.
                        None if !seen => ASK,
                        None => return,
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the members cannot be listed");
                    AGAIN
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks for the vote if there is none yet; says when to look again.
    async fn vote(&self, own: &MemberFacts) -> Duration {
        if !own.learner {
            return LOOK;
        }
        match self.store.members().promote(own.id).await {
            Ok(()) => tracing::info!("caught up: this replica votes from here on"),
            Err(AdminError::NotCaughtUp) => {}
            Err(error) => tracing::warn!(%error, "this replica did not get its vote yet"),
        }
        ASK
    }

    fn remember_others(&self, members: &[MemberFacts], known: &mut Vec<String>) {
        let name = member_name(&self.id);
        let others = members.iter().filter(|m| m.name != name && !m.learner);
        let mut now: Vec<_> = others.flat_map(|m| m.client_urls.iter().cloned()).collect();
        now.sort();
        if now != *known {
            (self.remember)(now.clone());
            *known = now;
        }
    }

    async fn keep_certificates(&self, member: &MemberConfig) {
        loop {
            if let Err(error) = self.follow_certificates(member).await {
                tracing::warn!(%error, "the certificates of the cluster are not followed for a moment");
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn follow_certificates(&self, member: &MemberConfig) -> Result<(), ClusterError> {
        let store = self.catalog.store();
        let unavailable = |error: StoreError| ClusterError::Catalog(error.into());
        let from = store.revision().await.map_err(unavailable)?.next();
        let key = keys::certificate("re");
        let prefix = key.bytes();
        let mut changes =
            store.watch(prefix, &prefix_end(prefix), from).await.map_err(unavailable)?;
        loop {
            self.renew(member).await?;
            tokio::select! {
                change = changes.next() => match change {
                    Some(change) => drop(change.map_err(unavailable)?),
                    None => return Ok(()),
                },
                () = tokio::time::sleep(RENEW) => {}
            }
        }
    }

    /// Writes what the authority took back, and a new certificate when the old one is of another authority or has lived
    /// through two thirds of its time.
    async fn renew(&self, member: &MemberConfig) -> Result<(), ClusterError> {
        let folder = self.folder.clone();
        let files = |error: std::io::Error| PkiError::Unreadable {
            what: "the replica's certificates",
            why: error.to_string(),
        };
        let mut identity = folder.read().map_err(files)?;
        let before = identity.clone();
        identity.revoked = revoked(&self.catalog).await?;
        let (authority, now) = (authority(&self.catalog).await?, self.catalog.now());
        let ends = pki::facts(&identity.certificate)?.not_after;
        let old = ends.since(now) < VALIDITY / 3;
        if old {
            let public = pki::public_key_of(&identity.key)?;
            identity.certificate = authority.issue_member(
                &member_name(&self.id),
                &names(&member.host)?,
                &public,
                now,
                VALIDITY,
            )?;
            let record =
                certificate_record(record_name(&self.id), identity.certificate.clone(), now);
            self.catalog.put(&record).await?;
            tracing::info!("the replica's certificate was renewed");
        }
        if identity != before {
            folder.write(&identity).map_err(files)?;
            if let Err(error) = Engine::exchange(&self.store, &folder) {
                tracing::warn!(%error, "the new certificate is not presented yet");
            }
        }
        Ok(())
    }
}
