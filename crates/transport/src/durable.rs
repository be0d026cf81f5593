//! Writing a small file so that after a crash it is there whole, or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// A file could not be written; what was there before is unharmed.
#[derive(Debug, thiserror::Error)]
#[error("{path} could not be written ({step}): {source}")]
pub struct WriteError {
    /// The file asked for.
    pub path: PathBuf,
    /// The step that failed.
    pub step: &'static str,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Writes `bytes` to `path` with the permission bits `mode`: into a temporary file beside it, synced, renamed over
/// `path`, and the directory synced. When this returns, the content survives a loss of power. Blocks; call it from a
/// blocking thread when serving.
///
/// # Errors
/// [`WriteError`] with the step that failed; the previous content of `path` is unchanged.
pub fn durable_write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), WriteError> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let fail = |step| move |source| WriteError { path: path.to_owned(), step, source };
    let name = path
        .file_name()
        .ok_or_else(|| fail("finding its name")(io::Error::from(io::ErrorKind::InvalidInput)))?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(
        ".tmp-{}-{}",
        std::process::id(),
        SERIAL.fetch_add(1, Ordering::Relaxed)
    ));
    let temporary = folder.join(temporary);
    let written = write_synced(&temporary, bytes, mode)
        .map_err(fail("writing a temporary file beside it"))
        .and_then(|()| fs::rename(&temporary, path).map_err(fail("moving it into place")));
    if let Err(error) = written {
        // The temporary file may not exist; the first error is the one worth telling.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    File::open(folder).and_then(|dir| dir.sync_all()).map_err(fail("syncing its directory"))
}

fn write_synced(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // A crash may have left a file of the same process id; it is never read by anybody.
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // The umask may have taken bits away; what was asked for is what is made.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "what fails here fails the test")]
mod tests {
    use super::*;

    #[test]
    fn writes_replaces_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        durable_write(&path, b"one", 0o600).unwrap();
        durable_write(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn says_what_failed_and_where() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing/key.pem");
        let error = durable_write(&path, b"x", 0o600).unwrap_err().to_string();
        assert!(error.contains("missing/key.pem"), "{error}");
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        assert!(durable_write(&folder, b"x", 0o600).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }
}
