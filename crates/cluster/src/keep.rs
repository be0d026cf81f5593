//! What a replica does about its place in the cluster while it serves: it votes as soon as it has caught up, renews its
//! certificate, heeds what the authority took back, remembers where the others are, and ends when it was removed. One that
//! was let in and lost its place before it ever started asks for another.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use dtr_catalog::{Catalog, keys};
use dtr_store::{StoreError, prefix_end};
use dtr_store_etcd::{AdminError, EtcdStore, MemberFacts};
use dtr_transport::pki::{self, PkiError};
use dtr_types::ReplicaId;
use tokio_util::sync::CancellationToken;

use crate::{
    Cluster, ClusterError, Engine, Folder, MemberAddress, MemberConfig, REPLICAS_MAX,
    admit::{add_learner, addresses},
    identity::{VALIDITY, authority, names, remember_given, revoked},
    member_name, pending,
};

/// How often the members are looked at: some times while a replica that is removed is still let in (`remove`).
const LOOK: Duration = Duration::from_secs(1);
/// How often a learner asks for its vote.
const ASK: Duration = Duration::from_millis(200);
/// How often the certificate is looked at although nothing changed.
const RENEW: Duration = Duration::from_secs(3600);
/// How long until what failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// How often a replica must not be in the records before it believes that it was removed.
const MISSED: usize = 2;

/// Why the keeper ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// The replica was removed from the cluster.
    Removed,
    /// It has to begin anew, with what was written down meanwhile.
    Restart,
}

/// What a replica must know at its next start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Where the other members are reached.
    Endpoints(Vec<String>),
    /// All members at the time it was let in, itself among them.
    Members(Vec<MemberAddress>),
}

/// Writes it down; says whether that worked.
type Remember = Box<dyn Fn(News) -> bool + Send + Sync>;

/// Looks after one replica's place.
pub struct Keeper {
    catalog: Catalog,
    store: Arc<EtcdStore>,
    folder: Folder,
    id: ReplicaId,
    member: Option<MemberConfig>,
    /// Told when that has changed.
    remember: Remember,
    outside: Arc<AtomicBool>,
}

impl Keeper {
    /// For this replica of the cluster with its `member`, if it runs one.
    pub fn new(
        cluster: &Cluster,
        engine: &Engine,
        member: Option<MemberConfig>,
        remember: impl Fn(News) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            catalog: cluster.catalog.clone(),
            store: Arc::clone(engine.store()),
            folder: engine.folder().clone(),
            id: cluster.here.clone(),
            member,
            remember: Box::new(remember),
            outside: Arc::clone(&cluster.outside),
        }
    }

    /// Runs until `stop`, or until the replica was removed.
    pub async fn run(self, stop: CancellationToken) -> Ended {
        let Some(member) = &self.member else {
            return tokio::select! {
                () = stop.cancelled() => Ended::Stopped,
                () = self.watch_record() => Ended::Removed,
                () = self.follow_files() => Ended::Stopped,
            };
        };
        tokio::select! {
            () = stop.cancelled() => Ended::Stopped,
            ended = self.watch_members(member) => ended,
            () = self.keep_certificates(member) => Ended::Restart,
        }
    }

    /// Returns when this replica was struck from the records: with an etcd that was given, that is how it is removed.
    async fn watch_record(&self) {
        let (mut seen, mut missed) = (false, 0);
        while missed < MISSED {
            let pause = match self.catalog.get(&keys::replica(&self.id)).await {
                Ok(Some(_)) => {
                    (seen, missed) = (true, 0);
                    LOOK
                }
                Ok(None) => {
                    missed += usize::from(seen);
                    LOOK
                }
                Err(_) => AGAIN,
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Presents the certificate that is in the folder: whoever has given the etcd exchanges it there.
    async fn follow_files(&self) {
        let mut presented = self.folder.read().ok();
        loop {
            tokio::time::sleep(AGAIN).await;
            let found = self.folder.read().ok();
            if found.is_none() || found == presented {
                continue;
            }
            match Engine::exchange(&self.store, &self.folder) {
                Ok(()) => tracing::info!("etcd is shown another certificate from here on"),
                // Half of it may be written: it is looked at again.
                Err(error) => {
                    tracing::warn!(%error, "a new certificate towards etcd cannot be used");
                    continue;
                }
            }
            presented = found;
        }
    }

    /// Returns when this replica is no member any more, or has to begin anew to be one.
    async fn watch_members(&self, member: &MemberConfig) -> Ended {
        let mut known = None;
        loop {
            let pause = match self.store.members().list().await {
                Ok(members) => match members.iter().find(|other| self.is_own(other, member)) {
                    Some(own) => {
                        self.outside.store(false, Ordering::Release);
                        if !self.folder.has_begun() && self.is_told_otherwise(member, &members) {
                            return Ended::Restart;
                        }
                        self.remember_others(member, &members, &mut known);
                        self.vote(own).await
                    }
                    // Whoever let us in had seen us among the members.
                    None if self.folder.has_begun() => return Ended::Removed,
                    None => {
                        self.come_in_again(member, &members).await;
                        AGAIN
                    }
                },
                Err(error) => {
                    tracing::debug!(%error, "the members cannot be listed");
                    AGAIN
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn is_own(&self, other: &MemberFacts, member: &MemberConfig) -> bool {
        other.peer_urls.contains(&member.peer_url()) || other.name == member_name(&self.id)
    }

    /// Whether our etcd, which has yet to begin, was told of other members than there are: it refuses to begin then.
    fn is_told_otherwise(&self, member: &MemberConfig, members: &[MemberFacts]) -> bool {
        let urls = |all: &[MemberAddress]| {
            let mut urls: Vec<_> = all.iter().map(|member| member.peer_url.clone()).collect();
            urls.sort();
            urls
        };
        let now = addresses(members, &member_name(&self.id), &member.peer_url());
        if member.joined.is_empty() || urls(&member.joined) == urls(&now) {
            return false;
        }
        tracing::info!(
            "the members are others than when this replica was let in: it begins anew with them"
        );
        (self.remember)(News::Members(now))
    }

    /// This replica was let in and did not start in time, so that another took its place. It has nothing that the others do
    /// not have: it asks for another place, as a join does.
    async fn come_in_again(&self, member: &MemberConfig, members: &[MemberFacts]) {
        if !self.outside.swap(true, Ordering::AcqRel) {
            tracing::error!(
                "this replica is not among the members of etcd, and counts for no majority: another took its place before it \
                 started; it asks to be let in again"
            );
        }
        if members.len() >= REPLICAS_MAX || members.iter().any(|member| member.learner) {
            return;
        }
        let url = member.peer_url();
        let asked = async {
            pending::expect(&self.catalog, &self.id, &url).await?;
            add_learner(&self.store, &url).await
        };
        match asked.await {
            Ok(()) => tracing::info!("this replica was let in again"),
            Err(error) => tracing::warn!(%error, "this replica was not let in again yet"),
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

    /// Writes down where the others are, and goes to them from here on when its own member does not answer.
    fn remember_others(
        &self,
        own: &MemberConfig,
        members: &[MemberFacts],
        known: &mut Option<Vec<String>>,
    ) {
        let name = member_name(&self.id);
        let others = members.iter().filter(|m| m.name != name && !m.learner);
        let mut now: Vec<_> = others.flat_map(|m| m.client_urls.iter().cloned()).collect();
        now.sort();
        if known.as_ref() != Some(&now) && (self.remember)(News::Endpoints(now.clone())) {
            let all: Vec<_> =
                std::iter::once(own.client_url()).chain(now.iter().cloned()).collect();
            if let Err(error) = self.store.set_endpoints(&all) {
                tracing::warn!(%error, "the other members are not asked before the next start");
            }
            *known = Some(now);
        }
    }

    /// Returns when the member has to be started anew with what was written.
    async fn keep_certificates(&self, member: &MemberConfig) {
        loop {
            match self.follow_certificates(member).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "the certificates of the cluster are not followed for a moment");
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Whether the member has to be started anew.
    async fn follow_certificates(&self, member: &MemberConfig) -> Result<bool, ClusterError> {
        let store = self.catalog.store();
        let unavailable = |error: StoreError| ClusterError::Catalog(error.into());
        let from = store.revision().await.map_err(unavailable)?.next();
        let key = keys::certificate("re");
        let prefix = key.bytes();
        let mut changes =
            store.watch(prefix, &prefix_end(prefix), from).await.map_err(unavailable)?;
        loop {
            if self.renew(member).await? {
                return Ok(true);
            }
            tokio::select! {
                change = changes.next() => match change {
                    Some(change) => drop(change.map_err(unavailable)?),
                    None => return Ok(false),
                },
                () = tokio::time::sleep(RENEW) => {}
            }
        }
    }

    /// Writes what the authority took back, and a new certificate when the old one is of another authority or has lived
    /// through two thirds of its time. Whether the member has to be started anew: it reads the authority's only then.
    async fn renew(&self, member: &MemberConfig) -> Result<bool, ClusterError> {
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
        // A repair that was cut off has made an authority and not come to use it. Beside others it would not be used either:
        // they trust the one that they have.
        let other = identity.ca.trim() != authority.certificate_pem().trim()
            && self.store.members().list().await?.len() == 1;
        if other || ends.since(now) < VALIDITY / 3 {
            let public = pki::public_key_of(&identity.key)?;
            identity.certificate = authority.issue_member(
                &member_name(&self.id),
                &names(&member.host)?,
                &public,
                now,
                VALIDITY,
            )?;
            remember_given(&self.catalog, &self.id, &identity.certificate, now).await?;
            tracing::info!("the replica's certificate was renewed");
        }
        if other {
            authority.certificate_pem().clone_into(&mut identity.ca);
            tracing::info!(
                "the replica has the authority that a repair made for it: it begins anew with it"
            );
        }
        if identity != before {
            folder.write(&identity).map_err(files)?;
            if !other && let Err(error) = Engine::exchange(&self.store, &folder) {
                tracing::warn!(%error, "the new certificate is not presented yet");
            }
        }
        Ok(other)
    }
}
