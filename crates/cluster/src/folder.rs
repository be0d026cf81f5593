//! The files of a replica's etcd: its data and its certificates, in one folder of the data directory.
//!
//! ```text
//! etcd/                     0700
//!   data/                   etcd's own
//!   ca.pem                  the authority of the cluster's replicas
//!   replica.pem             this replica's certificate, towards members and replicas alike
//!   replica.key             its key, 0600
//!   revoked.pem             certificates that the authority took back
//!   next/                   while these four are exchanged: the new ones
//!   copy/                   while it is looked at what a survivor has: a copy of data
//!   apart/                  while data or its copy is used by an etcd that nobody else reaches: its certificates
//!   known/                  while there is no majority: data/, a copy, and apart/, of an etcd that is only read
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
    data: PathBuf,
}

/// A copy of etcd's data.
const COPY: &str = "copy";
/// Certificates of an etcd that nobody else reaches.
const APART: &str = "apart";
/// What is read while there is no majority.
const KNOWN: &str = "known";
/// Certificates that take the place of the others.
const NEXT: &str = "next";

impl Folder {
    /// Names it; touches nothing.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self { data: root.join("data"), root }
    }

    /// Its path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// etcd's data.
    pub fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// Whether etcd has begun here as a member: before that it knows of the others only what it is told at its start.
    pub(crate) fn has_begun(&self) -> bool {
        let logs = fs::read_dir(self.data().join("member").join("wal"));
        logs.is_ok_and(|mut logs| logs.next().is_some())
    }

    /// The same folder with a copy of etcd's data, for looking at what is in them: an etcd without a majority does not
    /// answer, and making it one by itself cannot be taken back.
    ///
    /// # Errors
    /// When there is no room, or a file cannot be read.
    pub fn copied(&self) -> io::Result<Self> {
        self.copied_to(Self { root: self.root.clone(), data: self.root.join(COPY) })
    }

    /// A folder of its own with a copy of etcd's data, to be read beside the etcd that waits for a majority.
    ///
    /// # Errors
    /// As [`Folder::copied`].
    pub fn copied_as_known(&self) -> io::Result<Self> {
        let known = self.known();
        known.remove()?;
        fs::DirBuilder::new().mode(0o700).create(&known.root)?;
        self.copied_to(known)
    }

    /// Where that is, while it is.
    pub(crate) fn known(&self) -> Self {
        Self::new(self.root.join(KNOWN))
    }

    /// Removes all of it.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        remove_folder(&self.root)
    }

    fn copied_to(&self, copy: Self) -> io::Result<Self> {
        copy.remove_data()?;
        copy_folder(&self.data(), &copy.data()).map_err(|error| {
            let (from, to) = (self.data(), copy.data());
            drop(copy.remove_data());
            match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => io::Error::other(format!(
                    "{error}: {} is looked at in a copy, {}, which needs {} MiB beside it: make room there first; to go \
                     on alone etcd needs some of it too",
                    from.display(),
                    to.display(),
                    (folder_size(&from).unwrap_or_default() >> 20) + 1
                )),
                _ => error,
            }
        })?;
        Ok(copy)
    }

    /// The same data under certificates of their own, for an etcd that nobody else is to reach.
    pub(crate) fn apart(&self) -> Self {
        Self { root: self.root.join(APART), data: self.data.clone() }
    }

    /// Removes what [`Folder::apart`] and [`Folder::copied`] have left behind, when the process that made them was killed.
    pub(crate) fn remove_leftovers(&self) -> io::Result<()> {
        remove_folder(&self.root.join(COPY))?;
        remove_folder(&self.root.join(APART))
    }

    /// Removes the certificates.
    pub(crate) fn remove_certificates(&self) -> io::Result<()> {
        remove_folder(&self.root)
    }

    /// Where a copy of etcd's data is while there is one.
    pub(crate) fn copy(&self) -> PathBuf {
        self.root.join(COPY)
    }

    /// Removes etcd's data.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn remove_data(&self) -> io::Result<()> {
        remove_folder(&self.data())
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

    /// Writes an identity: the folder is made, each file is whole at any time. What was begun is finished by
    /// the next who reads, so that a key is never left beside the certificate of another.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, identity: &Identity) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.root)?;
        self.settle()?;
        let part = Self { root: self.root.join(".next"), data: self.data.clone() };
        remove_folder(&part.root)?;
        fs::DirBuilder::new().mode(0o700).create(&part.root)?;
        let files = [
            (part.ca(), identity.ca.as_str(), 0o644),
            (part.revoked(), identity.revoked.as_str(), 0o644),
            (part.key(), identity.key.expose(), 0o600),
            (part.certificate(), identity.certificate.as_str(), 0o644),
        ];
        for (path, text, mode) in files {
            if !text.is_empty() {
                durable_write(&path, text.as_bytes(), mode).map_err(io::Error::other)?;
            }
        }
        fs::rename(&part.root, self.root.join(NEXT))?;
        fs::File::open(&self.root)?.sync_all()?;
        self.settle()
    }

    /// Finishes an exchange of the certificates that was cut off.
    fn settle(&self) -> io::Result<()> {
        let next = self.root.join(NEXT);
        let entries = match fs::read_dir(&next) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            fs::rename(entry.path(), self.root.join(entry.file_name()))?;
        }
        fs::File::open(&self.root)?.sync_all()?;
        fs::remove_dir(&next)
    }

    /// Reads what was written.
    ///
    /// # Errors
    /// When a file is missing or cannot be read.
    pub fn read(&self) -> io::Result<Identity> {
        self.settle()?;
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

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn folder_size(path: &Path) -> io::Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        size += if metadata.is_dir() { folder_size(&entry.path())? } else { metadata.len() };
    }
    Ok(size)
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
