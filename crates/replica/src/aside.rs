//! A replica's folder put aside, whole, so that what takes its place can be taken back.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use dtr_types::{Clock as _, SystemClock};

use crate::{DataDir, DestroyError, ReplicaConfig, StorageConfig, stop};

/// A folder that was put aside.
#[derive(Debug)]
pub struct Aside {
    from: PathBuf,
    to: PathBuf,
}

impl Aside {
    /// Where it is now.
    pub fn path(&self) -> &Path {
        &self.to
    }

    /// Gives the folder another name beside its own: `<folder>.before-<time>`.
    ///
    /// # Errors
    /// [`DestroyError::Aside`], also where the folder is a mount point, which cannot be renamed.
    pub(crate) fn put(dir: &DataDir) -> Result<Self, DestroyError> {
        let from = dir.root().to_owned();
        let refused = |source| DestroyError::Aside { path: dir.root().to_owned(), source };
        let now = SystemClock.now().to_string();
        let now: String = now.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
        let mut to = from.clone().into_os_string();
        to.push(format!(".before-{now}"));
        let to = PathBuf::from(to);
        if to.exists() {
            return Err(refused(io::ErrorKind::AlreadyExists.into()));
        }
        fs::rename(&from, &to).map_err(refused)?;
        if let Some(above) = from.parent() {
            fs::File::open(above).and_then(|above| above.sync_all()).map_err(refused)?;
        }
        Ok(Self { from, to })
    }

    /// Gives image content that is in the folder to the one that takes its place, too. Files of content are never written
    /// to, so both have them by the same bytes; what one removes, the other keeps.
    ///
    /// # Errors
    /// When the file system has no such links.
    pub(crate) fn share_content(&self) -> Result<(), DestroyError> {
        let (old, new) = (DataDir::new(&self.to), DataDir::new(&self.from));
        let from = old.default_storage().join("docker");
        let refused = |source| DestroyError::Aside { path: from.clone(), source };
        if !from.exists() {
            return Ok(());
        }
        new.create().map_err(refused)?;
        fs::create_dir_all(new.default_storage()).map_err(refused)?;
        link_all(&from, &new.default_storage().join("docker")).map_err(refused)
    }

    /// Puts it back.
    pub(crate) fn back(self) {
        if let Err(error) = fs::rename(&self.to, &self.from) {
            let (from, to) = (self.from.display(), self.to.display());
            tracing::warn!(%error, %from, %to, "the former folder could not be put back: rename it");
        }
    }
}

fn link_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => link_all(&entry.path(), &to)?,
            false => fs::hard_link(entry.path(), to)?,
        }
    }
    Ok(())
}

/// Stops the replica of a data directory and puts the folder aside, with everything in it. Image content outside of it
/// stays where it is.
///
/// # Errors
/// When it cannot be stopped or renamed.
pub async fn put_aside(dir: &DataDir) -> Result<Aside, DestroyError> {
    stop(dir).await?;
    let mounts = |config: ReplicaConfig| matches!(config.storage, StorageConfig::Nfs { .. });
    if ReplicaConfig::load(dir).is_ok_and(mounts) {
        let refused = |source| DestroyError::Remove { path: dir.nfs(), source };
        crate::nfs::take_back(&dir.nfs()).await.map_err(refused)?;
    }
    Aside::put(dir)
}
