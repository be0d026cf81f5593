//! What was there before something was tried, so that a refusal leaves nothing behind: neither in the data directory, nor
//! in the storage, nor the folders above them.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{DataDir, StorageConfig};

/// A folder and what was in it; `None`: it was not there.
struct Folder {
    path: PathBuf,
    names: Option<BTreeSet<OsString>>,
}

impl Folder {
    fn of(path: &Path) -> io::Result<Self> {
        let names = match fs::read_dir(path) {
            Ok(entries) => {
                Some(entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?)
            }
            // Below what is no folder there is nothing either.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self { path: path.to_owned(), names })
    }

    /// What is in it now and was not before.
    fn new_entries(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.path) else { return Vec::new() };
        let was = |name: &OsString| self.names.as_ref().is_some_and(|names| names.contains(name));
        let entries = entries.flatten().filter(|entry| !was(&entry.file_name()));
        entries.map(|entry| entry.path()).collect()
    }
}

/// What was there before.
pub(crate) struct Traces {
    data: Folder,
    config: Option<Vec<u8>>,
    config_file: PathBuf,
    /// Folders of image content: what is made in them is removed where it is empty.
    content: Vec<Folder>,
    /// Folders above that were not there, the innermost first.
    above: Vec<PathBuf>,
    /// Where a share was not mounted.
    share: Option<PathBuf>,
}

impl Traces {
    /// Looks before anything is made.
    pub(crate) fn of(dir: &DataDir, storage: &StorageConfig) -> io::Result<Self> {
        let data = Folder::of(dir.root())?;
        let config = match fs::read(dir.config_file()) {
            Ok(config) => Some(config),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut content = vec![Folder::of(&dir.default_storage())?];
        let mut above = missing_above(dir.root());
        if let StorageConfig::Filesystem { root: Some(root) } = storage {
            content.push(Folder::of(root)?);
            above.extend(missing_above(root));
        }
        let share = (matches!(storage, StorageConfig::Nfs { .. }) && !dir.nfs().exists())
            .then(|| dir.nfs());
        Ok(Self { data, config, config_file: dir.config_file(), content, above, share })
    }

    /// Removes what was made since. What cannot be removed is logged; the next try takes it for its own.
    pub(crate) async fn undo(self) {
        for folder in &self.content {
            for path in folder.new_entries() {
                remove_empty(&path);
            }
            if folder.names.is_none() {
                remove_empty(&folder.path);
            }
        }
        for path in self.data.new_entries() {
            let removed = match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() => fs::remove_dir_all(&path),
                _ => fs::remove_file(&path),
            };
            logged(removed, &path);
        }
        if let Some(config) = &self.config
            && fs::read(&self.config_file).is_ok_and(|now| now != *config)
        {
            let written = dtr_transport::durable_write(&self.config_file, config, 0o600);
            logged(written.map_err(io::Error::other), &self.config_file);
        }
        if let Some(share) = &self.share {
            logged(crate::nfs::take_back(share).await, share);
        }
        if self.data.names.is_none() {
            logged(fs::remove_dir(&self.data.path), &self.data.path);
        }
        // A folder in which something else was made meanwhile stays.
        self.above.iter().for_each(|path| drop(fs::remove_dir(path)));
    }
}

fn logged(done: io::Result<()>, path: &Path) {
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "what a refused try made could not be removed");
        }
        _ => {}
    }
}

/// The folders above a path that are not there, the innermost first.
fn missing_above(path: &Path) -> Vec<PathBuf> {
    let above = path.ancestors().skip(1).take_while(|path| !path.exists());
    above.filter(|path| !path.as_os_str().is_empty()).map(Path::to_owned).collect()
}

/// Removes a folder with nothing but folders in it: never content.
fn remove_empty(path: &Path) {
    if let Ok(entries) = fs::read_dir(path) {
        entries.flatten().for_each(|entry| remove_empty(&entry.path()));
        drop(fs::remove_dir(path));
    }
}
