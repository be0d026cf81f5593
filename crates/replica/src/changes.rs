//! What a restore changes on its machine besides what it makes: whether it may, what makes way for it, and how all of it is
//! taken back.

use dtr_archive::Header;

use crate::{
    Aside, Before, DataDir, InstallError, ReplicaConfig, RestoreError, RestoreRequest,
    StorageConfig, occupant::Occupant, traces::Traces,
};

/// Whether an archive may be restored into a folder that holds this; yields how it was done already, where nobody used it
/// since.
pub(crate) fn judge(
    dir: &DataDir,
    occupant: &Occupant,
    header: &Header,
    request: &RestoreRequest,
) -> Result<Option<Before>, RestoreError> {
    let found = match occupant {
        Occupant::Nobody | Occupant::Content | Occupant::Remains => return Ok(None),
        Occupant::Running(_) => return Err(occupant.refusal(dir).into()),
        Occupant::Resident(_) if request.keep_old => return Ok(None),
        Occupant::Resident(found) => found,
    };
    let Some((cluster, from)) = found.restored(header) else {
        return Err(occupant.refusal(dir).into());
    };
    if found.served || request.dry_run {
        let (at, cluster) = (from.restored_at, cluster.clone());
        return Err(RestoreError::Used { at, cluster, path: dir.root().to_owned() });
    }
    Ok(Some(Before {
        cluster: cluster.clone(),
        at: from.restored_at,
        blobs_missing: from.blobs_missing,
    }))
}

/// What is changed on this machine, to be taken back.
pub(crate) struct Changes {
    traces: Option<Traces>,
    /// Where the replica is now that was there before.
    pub(crate) aside: Option<Aside>,
}

impl Changes {
    /// Notes what is there, after putting aside what is to make way.
    pub(crate) fn new(
        dir: &DataDir,
        config: &ReplicaConfig,
        occupant: &Occupant,
        request: &RestoreRequest,
    ) -> Result<Self, RestoreError> {
        if request.dry_run {
            return Ok(Self { traces: None, aside: None });
        }
        let refused = |source| InstallError::DataDir { path: dir.root().to_owned(), source };
        let mut aside = None;
        if request.keep_old && !matches!(occupant, Occupant::Nobody) {
            aside = Some(Aside::put(dir)?);
        }
        let traces = Traces::of(dir, &config.storage).map_err(refused);
        let shared = match (&aside, &config.storage) {
            (Some(aside), StorageConfig::Filesystem { root: None }) => aside.share_content(),
            _ => Ok(()),
        };
        let noted =
            traces.map_err(RestoreError::from).and_then(|traces| Ok(shared.map(|()| traces)?));
        match noted {
            Ok(traces) => Ok(Self { traces: Some(traces), aside }),
            Err(error) => {
                if let Some(aside) = aside {
                    // What was begun there are links alone: the content itself is where it was.
                    drop(std::fs::remove_dir_all(dir.root()));
                    aside.back();
                }
                Err(error)
            }
        }
    }

    /// Takes everything back.
    pub(crate) async fn undo(self) {
        if let Some(traces) = self.traces {
            traces.undo().await;
        }
        if let Some(aside) = self.aside {
            aside.back();
        }
    }
}
