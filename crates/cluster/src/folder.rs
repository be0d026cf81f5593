//! The files of a replica's etcd: its data and its certificates, in one folder of the data directory.
//!
//! ```text
//! etcd/                     0700
//!   data/                   etcd's own
//!   ca.pem                  the authority of the cluster's replicas
//!   replica.pem             this replica's certificate, towards members and replicas alike
//!   replica.key             its key, 0600
//!   revoked.pem             certificates that the authority took back
//! ```

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use dtr_store_etcd::{Tls, member::TlsFiles};
use dtr_transport::durable_write;
use dtr_types::Secret;

use crate::Identity;

/// The folder.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
    data: &'static str,
}

impl Folder {
    /// Names it; touches nothing.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), data: "data" }
    }

    /// Its path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// etcd's data.
    pub fn data(&self) -> PathBuf {
        self.root.join(self.data)
    }

    /// The same folder with a copy of etcd's data, for looking at what is in them: an etcd without a majority does not
    /// answer, and making it one by itself cannot be taken back.
    ///
    /// # Errors
    /// When there is no room, or a file cannot be read.
    pub fn copied(&self) -> io::Result<Self> {
        let copy = Self { root: self.root.clone(), data: "copy" };
        copy.remove_data()?;
        copy_folder(&self.data(), &copy.data())?;
        Ok(copy)
    }

    /// Removes etcd's data.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn remove_data(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.data()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn ca(&self) -> PathBuf {
        self.root.join("ca.pem")
    }

    fn certificate(&self) -> PathBuf {
        self.root.join("replica.pem")
    }

    fn key(&self) -> PathBuf {
        self.root.join("replica.key")
    }

    fn revoked(&self) -> PathBuf {
        self.root.join("revoked.pem")
    }

    /// The files as etcd is told of them. It has them read for each connection, so they are exchanged in place.
    pub(crate) fn tls_files(&self) -> TlsFiles {
        TlsFiles {
            certificate: self.certificate(),
            key: self.key(),
            ca: self.ca(),
            revoked: self.revoked().exists().then(|| self.revoked()),
        }
    }

    /// Writes an identity: the folder is made, each file is whole at any time.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, identity: &Identity) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.root)?;
        let files = [
            (self.ca(), identity.ca.as_str(), 0o644),
            (self.revoked(), identity.revoked.as_str(), 0o644),
            (self.key(), identity.key.expose(), 0o600),
            (self.certificate(), identity.certificate.as_str(), 0o644),
        ];
        for (path, text, mode) in files {
            if !text.is_empty() {
                durable_write(&path, text.as_bytes(), mode).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    /// Reads what was written.
    ///
    /// # Errors
    /// When a file is missing or cannot be read.
    pub fn read(&self) -> io::Result<Identity> {
        let text = |path: PathBuf| {
            fs::read_to_string(&path).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })
        };
        Ok(Identity {
            ca: text(self.ca())?,
            certificate: text(self.certificate())?,
            key: Secret::new(text(self.key())?),
            revoked: if self.revoked().exists() { text(self.revoked())? } else { String::new() },
        })
    }

    /// Who we are towards etcd.
    pub(crate) fn tls(&self) -> io::Result<Tls> {
        let Identity { ca, certificate, key, .. } = self.read()?;
        Ok(Tls { ca, certificate, key })
    }
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
