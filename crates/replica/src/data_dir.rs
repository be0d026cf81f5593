//! Where a replica keeps what: one folder, drawn here and nowhere else.
//!
//! ```text
//! <data directory>/          0700
//!   replica.json             ports, storage, id: what must be known before the store is open
//!   store.redb               all metadata (embedded engine)
//!   etcd/                    instead of it, with etcd: its data and certificates (dtr_cluster::Folder)
//!   web.pem                  with etcd: the certificate that clients see, for a start without a majority
//!   blobs/                   image content, unless --dtr-storage-volume names another place
//!   local.sock               the way in for who may read this folder: no password asked
//!   dtr.pid, dtr.log         of a replica that "install" started
//! ```

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// A replica's data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDir {
    root: PathBuf,
}

impl DataDir {
    /// Names a data directory; touches nothing.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the folder, for its owner alone.
    pub fn create(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.root)?;
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700))
    }

    /// Whether it holds anything.
    pub fn is_occupied(&self) -> io::Result<bool> {
        crate::config::is_occupied(&self.root)
    }

    /// The replica's configuration.
    pub fn config_file(&self) -> PathBuf {
        self.root.join("replica.json")
    }

    /// The embedded engine's file.
    pub fn store_file(&self) -> PathBuf {
        self.root.join("store.redb")
    }

    /// What belongs to etcd.
    pub fn etcd(&self) -> dtr_cluster::Folder {
        dtr_cluster::Folder::new(self.root.join("etcd"))
    }

    /// The certificate that clients see, and its key, as it was last.
    pub fn web_certificate(&self) -> PathBuf {
        self.root.join("web.pem")
    }

    /// Image content, unless another place was named.
    pub fn default_storage(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// Where a share of an NFS server is mounted: beside the folder, so that nothing that is removed in it is on the share.
    pub fn nfs(&self) -> PathBuf {
        let mut name = self.root.clone().into_os_string();
        name.push(".nfs");
        name.into()
    }

    /// The id of the process that serves it.
    pub fn pid_file(&self) -> PathBuf {
        self.root.join("dtr.pid")
    }

    /// The log of a replica that runs in the background.
    pub fn log_file(&self) -> PathBuf {
        self.root.join("dtr.log")
    }
}
