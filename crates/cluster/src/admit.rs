//! Letting a replica in. A replica that has the majority checks who asks, gives it a certificate, and adds it to etcd
//! as a member without a vote; it gets the vote when it has caught up ([`crate::Keeper`]). So a join that comes to nothing
//! costs the others nothing, and one on the small side of a partition cannot even begin.

use std::time::Duration;

use dtr_blobs::body;
use dtr_catalog::keys;
use dtr_store_etcd::{AdminError, EtcdStore, MemberFacts};
use dtr_transport::pki::SubjectNames;
use dtr_types::{ClusterId, Digest, Doubt, Random as _, ReplicaId, SystemRandom, Timestamp, span};
use serde::{Deserialize, Serialize};

use crate::{
    Cluster, ClusterError, MemberView,
    config::url_host,
    identity::{VALIDITY, authority, names, remember_given, revoked},
    member_name, pending,
};

/// The most replicas of a cluster: more would make each write slower and none of them safer.
pub const REPLICAS_MAX: usize = 7;

/// How long it is waited until all members count as connected, and how often it is looked. etcd wants five seconds of that,
/// which one that has come just now cannot have yet, and takes some more to find one whose address has changed.
const CONNECTED_MAX: Duration = Duration::from_secs(20);
const CONNECTED_LOOK: Duration = Duration::from_millis(500);

/// How far the clock of a machine that joins may be from this one's; in milliseconds.
const CLOCKS_APART: i64 = 60_000;

/// What a replica says that wants to come in.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinRequest {
    /// Its id.
    pub replica_id: ReplicaId,
    /// Where the others reach its machine: a DNS name or an address.
    pub host: String,
    /// The port of its etcd for replicas.
    pub client_port: u16,
    /// The port of its etcd for members.
    pub peer_port: u16,
    /// The public half of its key, as PEM.
    pub public_key: String,
    /// The newest form of the data that it knows.
    pub data_format: u32,
    /// Whether it comes in although other replicas do not answer.
    #[serde(default)]
    pub unsafe_join: bool,
    /// What its clock says; one that is wrong does not come in.
    #[serde(default)]
    pub now: Option<Timestamp>,
}

/// A member's name and where other members reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberAddress {
    /// Its name.
    pub name: String,
    /// Where other members reach it.
    pub peer_url: String,
}

/// Content that was put into the blob storage: whoever shares the storage finds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// What a replica gets that comes in.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Admission {
    /// The cluster.
    pub cluster: ClusterId,
    /// Whether it is to run a member of etcd; else it is given the same etcd as the others.
    pub own_member: bool,
    /// The authority of the cluster's replicas, as PEM; empty, as the next two, where it is given an etcd.
    pub ca: String,
    /// Its certificate, as PEM.
    pub certificate: String,
    /// What the authority took back, as PEM.
    pub revoked: String,
    /// All members, itself among them.
    pub members: Vec<MemberAddress>,
    /// Where the members that were there before are reached.
    pub endpoints: Vec<String>,
    /// The word that tells this cluster's members from others'.
    pub token: String,
    /// What it must find in its blob storage.
    pub probe: Probe,
    /// The address for clients, `host` or `host:port`; empty where each replica has its own.
    #[serde(default)]
    pub external: String,
}

impl Cluster {
    /// Lets a replica in, after checking that this can do no harm. A join that was cut off is gone on with when it asks
    /// again.
    ///
    /// # Errors
    /// [`ClusterError::Refused`] with the reason; nothing was changed then.
    pub async fn admit(&self, request: &JoinRequest) -> Result<Admission, ClusterError> {
        let cluster = self.catalog.cluster().await?;
        let cluster =
            cluster.ok_or_else(|| ClusterError::refused("this cluster is not complete"))?;
        if request.data_format < cluster.data_format {
            return Err(ClusterError::refused(format!(
                "the data of this cluster has format {}, the program that wants to join knows formats up to {}: join \
                 with the version that the other replicas run",
                cluster.data_format, request.data_format
            )));
        }
        self.check_clock(request)?;
        let names = names(&request.host)?;
        let peer_url = format!("https://{}:{}", url_host(&request.host), request.peer_port);
        let others = self.others(request, &peer_url).await?;
        let name = member_name(&request.replica_id);
        let probe = self.probe().await?;
        if self.own_members {
            pending::expect(&self.catalog, &request.replica_id, &peer_url).await?;
            if !others.iter().any(|member| member.peer_urls.contains(&peer_url)) {
                add_learner(&self.store, &peer_url).await?;
            }
        }
        let (ca, certificate, revoked) = match self.own_members {
            true => self.certify(request, &names).await?,
            // Who comes in there is up to whoever has given the etcd.
            false => Default::default(),
        };
        let listed = self.store.members().list().await?;
        let endpoints = others.iter().flat_map(|member| member.client_urls.iter().cloned());
        Ok(Admission {
            cluster: cluster.id.clone(),
            own_member: self.own_members,
            ca,
            certificate,
            revoked,
            members: addresses(&listed, &name, &peer_url),
            endpoints: endpoints.collect(),
            token: cluster.id.to_string(),
            probe,
            external: self.catalog.settings().await?.dtr_host,
        })
    }

    /// Refuses a machine whose clock is not this one's, and everybody while this one's is wrong.
    fn check_clock(&self, request: &JoinRequest) -> Result<(), ClusterError> {
        if let Some(doubt) = self.catalog.clock().doubt().filter(Doubt::is_wrong) {
            return Err(ClusterError::refused(format!("{doubt}. Join through another replica")));
        }
        let Some(theirs) = request.now else { return Ok(()) };
        let ours = self.catalog.now();
        let ahead = theirs.millis() - ours.millis();
        if ahead.abs() <= CLOCKS_APART {
            return Ok(());
        }
        let way = if ahead > 0 { "ahead of" } else { "behind" };
        Err(ClusterError::refused(format!(
            "the clock of the machine that wants to join stands at {theirs}, {} {way} the one of replica {}: set the wrong              one right (timedatectl, chronyc makestep), then run this again",
            span(ahead),
            self.here
        )))
    }

    /// The authority, a certificate of it for a replica, and what it took back.
    async fn certify(
        &self,
        request: &JoinRequest,
        names: &SubjectNames,
    ) -> Result<(String, String, String), ClusterError> {
        let authority = authority(&self.catalog).await?;
        let (id, now) = (&request.replica_id, self.catalog.now());
        let key = &request.public_key;
        let certificate = authority.issue_member(&member_name(id), names, key, now, VALIDITY)?;
        remember_given(&self.catalog, id, &certificate, now).await?;
        let revoked = revoked(&self.catalog).await?;
        Ok((authority.certificate_pem().to_owned(), certificate, revoked))
    }

    /// The members that are there; refuses what would put them at risk.
    async fn others(
        &self,
        request: &JoinRequest,
        peer_url: &str,
    ) -> Result<Vec<MemberFacts>, ClusterError> {
        let id = &request.replica_id;
        if !self.own_members {
            return self.others_of_given(id).await;
        }
        let views = self.members().await?;
        let name = member_name(id);
        let again = |view: &MemberView| {
            // It has asked before and has not begun to serve, or has and asks because its answer was lost.
            view.facts.learner && view.facts.peer_urls.iter().any(|url| url == peer_url)
        };
        if let Some(same) = views.iter().find(|view| view.facts.name == name && !again(view)) {
            let problem = same.problem.as_deref().unwrap_or("it is well");
            return Err(ClusterError::refused(format!(
                "replica {id} is a member already ({problem}); remove it first with \"dtr remove --replica-ids {id}\", or \
                 join with another --replica-id"
            )));
        }
        if let Some(taken) = views
            .iter()
            .find(|view| view.facts.peer_urls.iter().any(|url| url == peer_url) && !again(view))
        {
            return Err(ClusterError::refused(format!(
                "{peer_url} is the address of {} already; give --replica-host or --etcd-peer-port",
                taken.facts.name
            )));
        }
        let (learners, voters): (Vec<_>, Vec<_>) =
            views.into_iter().partition(|view| view.facts.learner);
        if voters.len() >= REPLICAS_MAX {
            return Err(ClusterError::refused(format!(
                "the cluster has {} replicas, and {REPLICAS_MAX} are the most",
                voters.len()
            )));
        }
        let silent: Vec<_> = voters.iter().filter(|view| view.problem.is_some()).collect();
        if !silent.is_empty() && !request.unsafe_join {
            let list: Vec<_> = silent.iter().map(|view| view.facts.name.as_str()).collect();
            return Err(ClusterError::refused(format!(
                "{} of {} replicas do not answer ({}): bring them back, or remove them first with \"dtr remove\"",
                silent.len(),
                voters.len(),
                list.join(", ")
            )));
        }
        let mut others: Vec<_> = voters.into_iter().map(|view| view.facts).collect();
        for learner in learners {
            if again(&learner) {
                others.push(learner.facts);
                continue;
            }
            let (name, expected) =
                (&learner.facts.name, pending::expected(&self.catalog, &learner.facts).await?);
            match (&learner.problem, expected) {
                (None, _) => return Err(ClusterError::refused(one_at_a_time(name))),
                (Some(_), Some(expected)) => {
                    let id = &expected.holder;
                    return Err(ClusterError::refused(format!(
                        "{}; it was let in at {} and has yet to start: if it will not, take its join back with \"dtr remove \
                         --replica-ids {id}\"",
                        one_at_a_time(&member_name(id)),
                        expected.since
                    )));
                }
                (Some(_), None) => {
                    // It was added, and never came or is gone: it stands in the way of every other.
                    tracing::warn!(
                        member = name,
                        address = learner.facts.peer_urls.join(", "),
                        "an unfinished join is taken back"
                    );
                    self.store.members().remove(learner.facts.id).await?;
                }
            }
        }
        Ok(others)
    }

    async fn others_of_given(&self, id: &ReplicaId) -> Result<Vec<MemberFacts>, ClusterError> {
        if self.catalog.get(&keys::replica(id)).await?.is_some() {
            return Err(ClusterError::refused(format!(
                "replica {id} is there already; remove it first with \"dtr remove --replica-ids {id}\""
            )));
        }
        Ok(self.store.members().list().await?)
    }

    /// Puts something into the blob storage that nobody else has. Without a record it is rubbish, which the collector
    /// finds after its grace period.
    async fn probe(&self) -> Result<Probe, ClusterError> {
        let content = format!("that replicas share this storage: {}", SystemRandom.hex(32));
        let digest = Digest::of(content.as_bytes());
        let size = content.len() as u64;
        self.blobs.put(&digest, None, body(content)).await?;
        Ok(Probe { digest, size })
    }
}

fn one_at_a_time(other: &str) -> String {
    format!("{other} is just joining, and one joins at a time: run this again when it votes")
}

/// Adds a learner, unless there is one: of two that were found harmless at the same moment etcd lets one in. It forgets the
/// other change without a word when the first is still under way, so who has no answer looks.
pub(crate) async fn add_learner(store: &EtcdStore, peer_url: &str) -> Result<(), ClusterError> {
    let members = store.members();
    let other = || ClusterError::refused(one_at_a_time("another replica"));
    let began = tokio::time::Instant::now();
    loop {
        match members.add_learner(peer_url).await {
            Ok(_) => return Ok(()),
            Err(AdminError::TooManyLearners) => return Err(other()),
            Err(AdminError::MajorityAtRisk(_)) if began.elapsed() < CONNECTED_MAX => {
                tokio::time::sleep(CONNECTED_LOOK).await;
            }
            Err(error @ AdminError::Unknown { .. }) => {
                let listed = members.list().await?;
                if listed.iter().any(|member| member.peer_urls.iter().any(|url| url == peer_url)) {
                    return Ok(());
                }
                let is_other = listed.iter().any(|member| member.learner);
                return Err(if is_other { other() } else { error.into() });
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Where all members are, as a new one must know to begin: `name` is what the one at `peer_url` is called, which is not
/// known of it before it has started.
pub(crate) fn addresses(listed: &[MemberFacts], name: &str, peer_url: &str) -> Vec<MemberAddress> {
    let address = |member: &MemberFacts| {
        let known = member.peer_urls.first()?.clone();
        let name = if known == peer_url { name } else { &member.name };
        Some(MemberAddress { name: name.to_owned(), peer_url: known })
    };
    listed.iter().filter_map(address).collect()
}
