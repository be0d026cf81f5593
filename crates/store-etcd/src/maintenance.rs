//! Looking after the members: their status, files, alarms and snapshots.

use std::{path::Path, sync::Arc, time::Duration};

use dtr_store::StoreError;
use dtr_types::Revision;
use tokio::io::AsyncWriteExt as _;

use crate::{
    Keys,
    client::Client,
    fault::Fault,
    wire::{
        self, ALARM_CORRUPT, ALARM_DEACTIVATE, ALARM_GET, ALARM_NOSPACE, AlarmRequest,
        AlarmResponse, DeleteRangeRequest, HashKvRequest, HashKvResponse, HeaderOnly,
        MemberRequest, Nothing, Request, SnapshotResponse, StatusResponse, TxnRequest, TxnResponse,
        method,
    },
};

/// How long one member may take to write its file anew: it answers nobody meanwhile.
const DEFRAGMENT_LIMIT: Duration = Duration::from_secs(300);
/// How long freeing the room of compacted revisions may take.
const COMPACT_LIMIT: Duration = Duration::from_secs(120);
/// How long a snapshot may send nothing.
const SNAPSHOT_SILENCE: Duration = Duration::from_secs(30);
/// A snapshot ends with the SHA-256 of what came before.
const HASH_BYTES: u64 = 32;

/// Why looking after the cluster did not work.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// As with any call to the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The answer was lost: look whether it was done before trying again.
    #[error("{what} may or may not have been done: {reason}; look before trying again")]
    Unknown {
        /// What was attempted.
        what: &'static str,
        /// Why it is not known.
        reason: String,
    },
    /// A learner that has not caught up.
    #[error("the member is not ready to be promoted: it has not caught up yet; try again later")]
    NotCaughtUp,
    /// It would leave the cluster without a majority of members that answer. Who was not connected for the last five seconds
    /// does not count as one, so this also happens right after another change: then later it is allowed.
    #[error(
        "etcd refused it because the majority would be at risk ({0}); bring back the members that are down first, and \
         wait some seconds after they have come"
    )]
    MajorityAtRisk(String),
    /// No such member.
    #[error("there is no such member")]
    NoSuchMember,
    /// The address belongs to a member already.
    #[error("a member with that peer URL exists; remove it first, or take another address")]
    MemberExists,
    /// Only one learner at a time.
    #[error("another member is still a learner: promote or remove it first")]
    TooManyLearners,
    /// etcd refused for another reason.
    #[error("etcd refused: {0}")]
    Refused(String),
    /// A snapshot that was cut or altered.
    #[error("the snapshot is not whole: {0}; take it again")]
    Snapshot(String),
    /// The file of a snapshot.
    #[error("cannot write the snapshot {path}: {source}")]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl AdminError {
    /// For calls whose repetition does no harm.
    pub(crate) fn repeatable(fault: Fault) -> Self {
        match fault {
            Fault::Refused(text) => Self::refused(text),
            Fault::Doubt(text) if is_risk(&text) => Self::MajorityAtRisk(text),
            fault => Self::Store(fault.into()),
        }
    }

    /// For calls whose repetition could do something else.
    pub(crate) fn once(what: &'static str, fault: Fault) -> Self {
        match fault {
            Fault::Doubt(reason) if !is_risk(&reason) => Self::Unknown { what, reason },
            fault => Self::repeatable(fault),
        }
    }

    fn refused(text: String) -> Self {
        match text {
            t if t.contains("in sync with leader") => Self::NotCaughtUp,
            t if is_risk(&t) => Self::MajorityAtRisk(t),
            t if t.contains("member not found") => Self::NoSuchMember,
            t if t.contains("Peer URLs already exists")
                || t.contains("member ID already exist") =>
            {
                Self::MemberExists
            }
            t if t.contains("too many learner") => Self::TooManyLearners,
            t => Self::Refused(t),
        }
    }
}

fn is_risk(text: &str) -> bool {
    text.contains("not enough started members") || text.contains("unhealthy cluster")
}

/// What one member says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// The etcd cluster's number.
    pub cluster_id: u64,
    /// The member's number.
    pub member_id: u64,
    /// Its version, such as `3.4.23`.
    pub version: String,
    /// The member that it thinks leads, if any.
    pub leader: Option<u64>,
    /// Whether it is a learner, without a vote.
    pub learner: bool,
    /// The latest revision it has.
    pub revision: Revision,
    /// Its file, in bytes.
    pub size_bytes: u64,
    /// What of that is in use; the rest is given back by defragmenting.
    pub size_in_use_bytes: u64,
    /// The log entry it has, and the one it has applied.
    pub raft: (u64, u64),
    /// Which election it has seen last.
    pub term: u64,
    /// What it complains of, among it alarms; in etcd's words.
    pub errors: Vec<String>,
}

/// What is wrong with a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmKind {
    /// Its quota was reached: no member takes writes that need room.
    NoSpace,
    /// Its data differ from the others'.
    Corrupt,
    /// One that this program does not know.
    Other(i32),
}

impl AlarmKind {
    fn number(self) -> i32 {
        match self {
            Self::NoSpace => ALARM_NOSPACE,
            Self::Corrupt => ALARM_CORRUPT,
            Self::Other(number) => number,
        }
    }
}

/// An alarm that is raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// By which member.
    pub member_id: u64,
    /// What for.
    pub kind: AlarmKind,
}

/// A snapshot that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// Size of the file, with its hash.
    pub size_bytes: u64,
    /// SHA-256 of all but the hash, in hexadecimal; it was compared with what the member sent.
    pub sha256: String,
    /// The latest revision that the member had just before it began; the snapshot has at least that.
    pub revision: Revision,
}

/// See [`crate::EtcdStore::maintenance`].
#[derive(Clone)]
pub struct Maintenance {
    client: Arc<Client>,
    keys: Keys,
}

impl Maintenance {
    pub(crate) fn new(client: Arc<Client>, keys: Keys) -> Self {
        Self { client, keys }
    }

    /// The endpoints that are asked, the nearest first.
    pub fn endpoints(&self) -> Vec<String> {
        self.client.endpoints()
    }

    pub(crate) async fn size_bytes(&self) -> Result<u64, StoreError> {
        let status: StatusResponse = self.client.call_any(method::STATUS, Nothing {}).await?;
        Ok(u64::try_from(status.db_size).unwrap_or(0))
    }

    /// What the member at `url` says of itself; needs no majority.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self, url: &str) -> Result<MemberStatus, AdminError> {
        let connection = self.client.to(url).await.map_err(AdminError::repeatable)?;
        // It has just said so, to greet us.
        let status = (*connection.hello).clone();
        let size = |n: i64| u64::try_from(n).unwrap_or(0);
        let header = status.header.unwrap_or_default();
        Ok(MemberStatus {
            cluster_id: header.cluster_id,
            member_id: header.member_id,
            version: status.version,
            leader: (status.leader != 0).then_some(status.leader),
            learner: status.is_learner,
            revision: Revision(size(header.revision)),
            size_bytes: size(status.db_size),
            size_in_use_bytes: size(status.db_size_in_use),
            raft: (status.raft_index, status.raft_applied_index),
            term: status.raft_term,
            errors: status.errors,
        })
    }

    /// The alarms that are raised.
    ///
    /// # Errors
    /// Without a majority.
    pub async fn alarms(&self) -> Result<Vec<Alarm>, AdminError> {
        self.alarm(AlarmRequest { action: ALARM_GET, ..AlarmRequest::default() }).await
    }

    /// Takes an alarm back. One whose reason is still there is raised again by the next write.
    ///
    /// # Errors
    /// Without a majority.
    pub async fn disarm(&self, alarm: Alarm) -> Result<(), AdminError> {
        let request = AlarmRequest {
            action: ALARM_DEACTIVATE,
            member_id: alarm.member_id,
            alarm: alarm.kind.number(),
        };
        self.alarm(request).await.map(drop)
    }

    async fn alarm(&self, request: AlarmRequest) -> Result<Vec<Alarm>, AdminError> {
        let answer: AlarmResponse =
            self.client.call(method::ALARM, request).await.map_err(AdminError::repeatable)?;
        let alarm = |alarm: &wire::AlarmMember| Alarm {
            member_id: alarm.member_id,
            kind: match alarm.alarm {
                ALARM_NOSPACE => AlarmKind::NoSpace,
                ALARM_CORRUPT => AlarmKind::Corrupt,
                other => AlarmKind::Other(other),
            },
        };
        Ok(answer.alarms.iter().map(alarm).collect())
    }

    /// Has the member at `url` write its file anew, without the room that compaction left. It answers nobody meanwhile: one
    /// member after the other, the leader last.
    ///
    /// # Errors
    /// When it does not answer in five minutes.
    pub async fn defragment(&self, url: &str) -> Result<(), AdminError> {
        let connection = self.client.to(url).await.map_err(AdminError::repeatable)?;
        let call = connection.unary::<_, HeaderOnly>(method::DEFRAGMENT, Nothing {}, false);
        let answer = tokio::time::timeout(DEFRAGMENT_LIMIT, call).await;
        match answer {
            Ok(answer) => answer.map(drop).map_err(AdminError::repeatable),
            Err(_) => Err(AdminError::repeatable(Fault::Doubt(format!(
                "{url} has not written its file anew in {DEFRAGMENT_LIMIT:?}"
            )))),
        }
    }

    /// Compacts like [`dtr_store::Store::compact`], and waits until the room is free inside the file of the member at
    /// `url`, ready for [`Maintenance::defragment`]. Mind the holds.
    ///
    /// # Errors
    /// When `revision` is in the future, or it takes more than two minutes.
    pub async fn compact_and_wait(&self, url: &str, revision: Revision) -> Result<(), AdminError> {
        if revision.0 < 2 {
            return Ok(());
        }
        let connection = self.client.to(url).await.map_err(AdminError::repeatable)?;
        let revision = i64::try_from(revision.0 - 1).unwrap_or(i64::MAX);
        let request = wire::CompactionRequest { revision, physical: true };
        let call = connection.unary::<_, HeaderOnly>(method::COMPACT, request, true);
        match tokio::time::timeout(COMPACT_LIMIT, call).await {
            Ok(Ok(_)) | Ok(Err(Fault::Compacted)) => Ok(()),
            Ok(Err(fault)) => Err(AdminError::repeatable(fault)),
            Err(_) => Err(AdminError::repeatable(Fault::Doubt(format!(
                "{url} is still compacting after {COMPACT_LIMIT:?}"
            )))),
        }
    }

    /// A number that is the same for members with the same data up to `revision`; with the revision they were compacted
    /// at, which has to be the same for the numbers to be compared.
    ///
    /// # Errors
    /// When the member does not answer or does not have the revision.
    pub async fn hash(&self, url: &str, revision: Revision) -> Result<(u32, Revision), AdminError> {
        let connection = self.client.to(url).await.map_err(AdminError::repeatable)?;
        let revision = i64::try_from(revision.0).unwrap_or(i64::MAX);
        let call = connection.unary(method::HASH_KV, HashKvRequest { revision }, false);
        let answer = tokio::time::timeout(COMPACT_LIMIT, call).await;
        let answer: HashKvResponse = answer
            .unwrap_or_else(|_| Err(Fault::Doubt(format!("{url} did not answer"))))
            .map_err(AdminError::repeatable)?;
        Ok((answer.hash, Revision(u64::try_from(answer.compact_revision).unwrap_or(0))))
    }

    /// Makes another member the leader; `url` must be that of the present one.
    ///
    /// # Errors
    /// When it is not the leader, or does not answer.
    pub async fn move_leader(&self, url: &str, to: u64) -> Result<(), AdminError> {
        let connection = self.client.to(url).await.map_err(AdminError::repeatable)?;
        let call =
            connection.unary::<_, HeaderOnly>(method::MOVE_LEADER, MemberRequest { id: to }, true);
        match tokio::time::timeout(self.client.timing.call, call).await {
            Ok(answer) => answer.map(drop).map_err(AdminError::repeatable),
            Err(_) => Err(AdminError::repeatable(Fault::Doubt(format!("{url} did not answer")))),
        }
    }

    /// Writes a snapshot of the member at `url` into a new file at `path`, checked against the hash at its end and synced.
    /// It is not a backup of DTR: it goes into the same version of etcd only. On an error no file is left.
    ///
    /// # Errors
    /// When the file exists or cannot be written, the member falls silent, or what it sent is not whole.
    pub async fn snapshot(&self, url: &str, path: &Path) -> Result<SnapshotStatus, AdminError> {
        let taken = self.take_snapshot(url, path).await;
        // A file that was there before is not ours.
        let ours = !matches!(&taken, Err(AdminError::File { source, .. })
            if source.kind() == std::io::ErrorKind::AlreadyExists);
        if taken.is_err() && ours {
            drop(tokio::fs::remove_file(path).await);
        }
        taken
    }

    async fn take_snapshot(&self, url: &str, path: &Path) -> Result<SnapshotStatus, AdminError> {
        let failed = |source| AdminError::File { path: path.to_owned(), source };
        let connection = self.client.to(url).await.map_err(AdminError::repeatable)?;
        let revision = wire::revision(connection.hello.header.as_ref());
        let mut options = tokio::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(path).await.map_err(failed)?;
        let mut stream = connection
            .stream::<_, SnapshotResponse>(method::SNAPSHOT, Nothing {}, true)
            .await
            .map_err(AdminError::repeatable)?;
        let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        let (mut size_bytes, mut tail) = (0, Vec::new());
        loop {
            let message = tokio::time::timeout(SNAPSHOT_SILENCE, stream.message())
                .await
                .map_err(|_| AdminError::Snapshot(format!("{url} fell silent")))?
                .map_err(|status| AdminError::repeatable(Fault::from(status)))?;
            let Some(message) = message else { break };
            file.write_all(&message.blob).await.map_err(failed)?;
            size_bytes += message.blob.len() as u64;
            // All but the last bytes, which are the hash, are hashed.
            tail.extend_from_slice(&message.blob);
            let done = tail.len().saturating_sub(HASH_BYTES as usize);
            hash.update(&tail[..done]);
            tail.drain(..done);
        }
        file.sync_all().await.map_err(failed)?;
        let hash = hash.finish();
        if tail != hash.as_ref() {
            let why = format!("{size_bytes} bytes came, and their hash is not the one at the end");
            return Err(AdminError::Snapshot(why));
        }
        Ok(SnapshotStatus {
            size_bytes,
            sha256: tail.iter().map(|byte| format!("{byte:02x}")).collect(),
            revision: Revision(u64::try_from(revision).unwrap_or(0)),
        })
    }

    /// Removes the slots of a client that will not come back. Not while it may be running: it could no longer tell what
    /// became of a commit.
    ///
    /// # Errors
    /// Without a majority.
    pub async fn forget_session(&self, session: &str) -> Result<(), AdminError> {
        let key = self.keys.session(session);
        let range_end = dtr_store::prefix_end(&key);
        let success = vec![Request::Delete(DeleteRangeRequest { key, range_end }).into()];
        let request = TxnRequest { success, ..TxnRequest::default() };
        let answer: Result<TxnResponse, _> = self.client.call(method::TXN, request).await;
        answer.map(drop).map_err(AdminError::repeatable)
    }
}
