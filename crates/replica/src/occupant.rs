//! What is in a data directory that a replica is to be put into, said so that whoever reads it does not remove what is
//! worth something.

use dtr_archive::Header;
use dtr_catalog::records::{ClusterRecord, RestoredFrom};
use dtr_types::ClusterId;

use crate::{
    ConfigError, DataDir, InstallError, Metadata, ReplicaConfig, StoreConfig, config::is_occupied,
    install::only_ours,
};

/// What was found.
pub(crate) enum Occupant {
    /// Nothing.
    Nobody,
    /// Image content alone.
    Content,
    /// What an installation, a join or a restore left that was cut off.
    Remains,
    /// A replica that runs, by its process.
    Running(u32),
    /// A replica that does not run.
    Resident(Box<Resident>),
}

/// A replica that does not run.
pub(crate) struct Resident {
    /// Its cluster; `None` when that cannot be read without its configuration.
    pub(crate) cluster: Option<ClusterRecord>,
    /// Whether it ever served.
    pub(crate) served: bool,
    /// Whether its configuration is there.
    has_config: bool,
}

impl Resident {
    /// A replica whose store was not asked.
    fn of_several(has_config: bool) -> Self {
        Self { cluster: None, served: true, has_config }
    }

    /// How it was restored, if it is what an archive was restored to.
    pub(crate) fn restored(&self, header: &Header) -> Option<(&ClusterId, &RestoredFrom)> {
        let cluster = self.cluster.as_ref()?;
        let from = cluster.restored_from.as_ref()?;
        let same = from.cluster == header.cluster_id
            && from.revision == header.revision
            && from.backed_up_at == header.created;
        same.then_some((&cluster.id, from))
    }
}

impl Occupant {
    /// Looks.
    ///
    /// # Errors
    /// [`InstallError::Foreign`] for what is not a replica's; when the folder or the store cannot be read.
    pub(crate) async fn look(dir: &DataDir) -> Result<Self, InstallError> {
        only_ours(dir)?;
        if let Some(process) = crate::running(dir) {
            return Ok(Self::Running(process));
        }
        let refused = |source| InstallError::DataDir { path: dir.root().to_owned(), source };
        let began = dir.store_file().exists() || dir.etcd().root().exists();
        if !began {
            let entries = is_occupied(dir.root()).map_err(refused)?;
            return Ok(match (dir.config_file().exists(), entries) {
                (_, false) => Self::Nobody,
                (true, true) => Self::Remains,
                (false, true) if dir.default_storage().exists() => Self::Content,
                (false, true) => Self::Remains,
            });
        }
        let (known, has_config) = match ReplicaConfig::load(dir) {
            Ok(config) => (Metadata::open(dir, &config).await?, true),
            // The file alone tells.
            Err(ConfigError::NotInstalled(_)) if dir.store_file().exists() => {
                (Metadata::embedded(dir)?, false)
            }
            Err(ConfigError::NotInstalled(_)) => {
                return Ok(Self::Resident(Box::new(Resident::of_several(false))));
            }
            Err(error) => return Err(error.into()),
        };
        let found = async {
            let cluster = known.catalog.cluster().await?;
            Ok::<_, InstallError>((cluster, !known.catalog.replicas().await?.is_empty()))
        };
        let found = found.await;
        known.close().await;
        Ok(match found? {
            (None, _) => Self::Remains,
            (Some(cluster), served) => {
                let cluster = Some(cluster);
                Self::Resident(Box::new(Resident { cluster, served, has_config }))
            }
        })
    }

    /// Why nothing is installed here, and what to do.
    pub(crate) fn refusal(&self, dir: &DataDir) -> InstallError {
        let at = dir.root().display();
        let elsewhere = "or choose another data directory with --data-dir";
        let what = match self {
            Self::Nobody => format!("it was not a moment ago; {elsewhere}"),
            Self::Content => format!(
                "image content is there, in {}: \"dtr restore\" takes it for the registry that it is of; remove it with \
                 \"dtr destroy --data-dir {at}\" if nobody needs it, {elsewhere}",
                dir.default_storage().display()
            ),
            Self::Remains => format!(
                "a part of a replica is there, that of an installation, a join or a restore that was cut off: remove it \
                 with \"dtr destroy --data-dir {at}\", {elsewhere}"
            ),
            Self::Running(process) => format!(
                "a replica runs there, as process {process}: \"dtr status --data-dir {at}\" says how it is. Choose another \
                 data directory with --data-dir. To have another registry in its place, take a backup, stop it, and \
                 restore with --keep-old, which puts the folder aside"
            ),
            Self::Resident(found) => {
                let which = match &found.cluster {
                    Some(cluster) => format!("that of cluster {}", cluster.id),
                    None => "of a cluster that was not asked".to_owned(),
                };
                match found.has_config {
                    true => format!(
                        "a replica is there, {which}: start it with \"dtr serve --data-dir {at}\". To have another registry \
                         in its place, restore with --keep-old, which puts the folder aside, {elsewhere}"
                    ),
                    false => format!(
                        "the data of a replica is there, {which}, without its replica.json: put that file back from a copy \
                         of the folder and start it with \"dtr serve\", or restore a backup with --keep-old, which puts \
                         the folder aside"
                    ),
                }
            }
        };
        InstallError::Occupied { path: dir.root().to_owned(), what }
    }
}

/// Refuses a data directory with something in it. What an etcd has is not asked for: its folder is enough to refuse.
///
/// # Errors
/// [`InstallError::Occupied`], [`InstallError::Foreign`].
pub async fn unoccupied(dir: &DataDir) -> Result<(), InstallError> {
    let resident = || Occupant::Resident(Box::new(Resident::of_several(true)));
    let shared = ReplicaConfig::load(dir).is_ok_and(|config| config.store != StoreConfig::Embedded);
    let found = match shared && dir.etcd().root().exists() && crate::running(dir).is_none() {
        true => resident(),
        false => match Occupant::look(dir).await {
            Ok(Occupant::Nobody) => return Ok(()),
            Ok(found) => found,
            Err(error @ (InstallError::Foreign { .. } | InstallError::DataDir { .. })) => {
                return Err(error);
            }
            // What cannot be opened is there all the same.
            Err(error) => {
                tracing::warn!(%error, "what is in the data directory cannot be opened");
                resident()
            }
        },
    };
    Err(found.refusal(dir))
}
