//! A shared folder on an NFS server, mounted by the replica itself with the system's own client: at install, at join and at
//! each start. It lies beside the data directory, never inside: whatever is removed there, the share is not reached.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    str::FromStr,
    time::Duration,
};

use dtr_blobs::BlobError;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

/// The program that mounts, and where systems have it.
const PROGRAM: &str = "mount.nfs";
const FOLDERS: [&str; 5] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"];
/// How long mounting, or taking it back, may take.
const LIMIT: Duration = Duration::from_secs(60);
/// What holds unless the options say otherwise: image content is no program, and a server that is away is told at once.
const USUAL: [&str; 4] = ["nosuid", "nodev", "noexec", "retry=0"];
/// What mounting takes.
const NEEDS: &str = "Mounting takes root (in a container, --cap-add SYS_ADMIN) and a system that knows NFS: see to that";
/// How to do without all this.
const INSTEAD: &str = "or have the share mounted by the system (/etc/fstab) and name its folder with --dtr-storage-volume";

/// A folder that an NFS server exports: `nfs://host[:port]/path[?option,option]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NfsShare {
    /// As it stands in the source of a mount: a name, an IPv4 address, or an IPv6 address in brackets.
    host: String,
    path: String,
    options: Vec<String>,
}

/// Why a text is no share.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{text}\" is not the address of an NFS share ({why}); it is written nfs://host/path, options behind a question mark: nfs://host/path?vers=4.2,hard"
)]
pub struct ShareError {
    text: String,
    why: &'static str,
}

impl FromStr for NfsShare {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        let refused = |why| ShareError { text: text.to_owned(), why };
        let rest = text.strip_prefix("nfs://").ok_or_else(|| refused("it begins with nfs://"))?;
        let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
        let slash = place.find('/').ok_or_else(|| refused("the path is missing"))?;
        let (host, path) = place.split_at(slash);
        if path.chars().any(|c| c.is_whitespace() || c.is_control()) || path.contains("/../") {
            return Err(refused("of the path"));
        }
        let mut share = Self { host: String::new(), path: path.to_owned(), options: Vec::new() };
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
            _ => (host, None),
        };
        let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let known =
            |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c) || (c == ':' && inner != name);
        if inner.is_empty() || inner.starts_with('-') || !inner.chars().all(known) {
            return Err(refused("of the host"));
        }
        share.host = name.to_owned();
        if let Some(port) = port {
            let port: u16 = port.parse().map_err(|_| refused("of the port"))?;
            share.options.push(format!("port={port}"));
        }
        share.with_options(options).map_err(|_| refused("of the options"))
    }
}

impl NfsShare {
    /// The same with options of a mount, separated by commas.
    ///
    /// # Errors
    /// When one of them cannot be an option.
    pub fn with_options(mut self, options: &str) -> Result<Self, ShareError> {
        let known = |c: char| c.is_ascii_alphanumeric() || "=._:-/".contains(c);
        for option in options.split([',', '&']).filter(|option| !option.is_empty()) {
            if !option.chars().all(known) {
                return Err(ShareError { text: options.to_owned(), why: "of the options" });
            }
            self.options.push(option.to_owned());
        }
        Ok(self)
    }

    fn source(&self) -> String {
        format!("{}:{}", self.host, self.path)
    }

    /// What the program is called with.
    fn arguments(&self, at: &Path) -> Vec<String> {
        let name = |option: &str| option.split('=').next().unwrap_or_default().to_owned();
        let own = |usual: &&str| {
            let bare = name(usual);
            let opposite = bare.strip_prefix("no").unwrap_or(&bare).to_owned();
            !self.options.iter().any(|given| [&bare, &opposite].contains(&&name(given)))
        };
        let usual = USUAL.iter().copied().filter(own).map(ToOwned::to_owned);
        let options: Vec<_> = usual.chain(self.options.iter().cloned()).collect();
        vec![self.source(), at.display().to_string(), "-o".to_owned(), options.join(",")]
    }

    /// Mounts it at a folder, which is made if need be, unless it is mounted there already.
    ///
    /// # Errors
    /// [`BlobError::Unsuitable`] with what to do when the system cannot, or the server does not let us.
    pub(crate) async fn mount(&self, at: &Path) -> Result<(), BlobError> {
        let refused = |reason: String| BlobError::Unsuitable { root: self.to_string(), reason };
        let file = |error: io::Error| refused(format!("{}: {error}", at.display()));
        match mounted(at).map_err(file)? {
            Some(source) if source == self.source() => return Ok(()),
            Some(_) => unmount(at).await.map_err(file)?,
            None => {}
        }
        let program = program().map_err(refused)?;
        match fs::create_dir(at) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(file(error)),
            _ => {}
        }
        tracing::info!(share = %self, at = %at.display(), "mounting");
        if let Err(why) = run(&program, &self.arguments(at)).await {
            // Empty, as nothing was mounted; made again the next time.
            drop(fs::remove_dir(at));
            return Err(refused(format!("it cannot be mounted: {why}. {NEEDS}, {INSTEAD}")));
        }
        match mounted(at).map_err(file)? {
            Some(_) => Ok(()),
            // A local folder in its place would take what belongs onto the share.
            None => Err(refused(format!(
                "{PROGRAM} ended well, and nothing is mounted at {}",
                at.display()
            ))),
        }
    }

    /// Whether the system has what mounting takes.
    ///
    /// # Errors
    /// [`BlobError::Unsuitable`] with what to install.
    pub(crate) fn check(&self) -> Result<(), BlobError> {
        let refused = |reason| BlobError::Unsuitable { root: self.to_string(), reason };
        program().map(drop).map_err(refused)
    }
}

/// Takes a mount back, if there is one, and removes the empty folder.
pub(crate) async fn take_back(at: &Path) -> io::Result<()> {
    if mounted(at)?.is_some() {
        unmount(at).await?;
    }
    match fs::remove_dir(at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn unmount(at: &Path) -> io::Result<()> {
    run(Path::new("umount"), &[at.display().to_string()]).await.map_err(io::Error::other)
}

fn program() -> Result<PathBuf, String> {
    let folders = FOLDERS.iter().map(PathBuf::from);
    found(folders).ok_or_else(|| {
        format!(
            "{PROGRAM} is not on this machine: install the NFS client (Debian: nfs-common, Fedora: nfs-utils), {INSTEAD}"
        )
    })
}

fn found(folders: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    folders.map(|folder| folder.join(PROGRAM)).find(|program| program.is_file())
}

/// Runs a program to its end; yields what it complained of when it failed.
async fn run(program: &Path, arguments: &[String]) -> Result<(), String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(LIMIT, command.output()).await {
        Err(_) => Err(format!("{} did not end within {LIMIT:?}", program.display())),
        Ok(Err(error)) => Err(format!("{}: {error}", program.display())),
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")),
    }
}

/// What is mounted at a folder over NFS.
fn mounted(at: &Path) -> io::Result<Option<String>> {
    Ok(source_in(&fs::read_to_string("/proc/self/mountinfo")?, at))
}

fn source_in(table: &str, at: &Path) -> Option<String> {
    let at = at.display().to_string();
    // The last one mounted is the one that is seen.
    table.lines().rev().find_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let mut tail = tail.split(' ');
        let (kind, source) = (tail.next()?, tail.next()?);
        let point = plain(head.split(' ').nth(4)?);
        (point == at && kind.starts_with("nfs")).then(|| plain(source))
    })
}

/// A field of the table without its escapes.
fn plain(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

impl fmt::Display for NfsShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nfs://{}{}", self.host, self.path)?;
        if self.options.is_empty() { Ok(()) } else { write!(f, "?{}", self.options.join(",")) }
    }
}

impl TryFrom<String> for NfsShare {
    type Error = ShareError;

    fn try_from(text: String) -> Result<Self, ShareError> {
        text.parse()
    }
}

impl From<NfsShare> for String {
    fn from(share: NfsShare) -> Self {
        share.to_string()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "what fails here fails the test")]
mod tests {
    use super::*;

    fn arguments(text: &str) -> String {
        let share: NfsShare = text.parse().unwrap();
        assert_eq!(
            share.to_string().parse::<NfsShare>().unwrap(),
            share,
            "is read as it was written"
        );
        share.arguments(Path::new("/m")).join(" ")
    }

    #[test]
    fn the_command_is_what_the_address_says() {
        let usual = "nosuid,nodev,noexec,retry=0";
        assert_eq!(arguments("nfs://nas/dtr"), format!("nas:/dtr /m -o {usual}"));
        assert_eq!(
            arguments("nfs://10.0.0.9:2050/a/b?vers=4.2,hard"),
            format!("10.0.0.9:/a/b /m -o {usual},port=2050,vers=4.2,hard")
        );
        assert_eq!(arguments("nfs://[fd00::1]/a"), format!("[fd00::1]:/a /m -o {usual}"));
        assert_eq!(arguments("nfs://nas/a?exec&retry=2"), "nas:/a /m -o nosuid,nodev,exec,retry=2");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "/srv",
            "nfs://",
            "nfs://nas",
            "nfs:///path",
            "http://nas/a",
            "nfs://-o/a",
            "nfs://n as/a",
            "nfs://nas/a b",
            "nfs://nas:port/a",
            "nfs://nas/a/../b",
            "nfs://nas/a?x y",
            "nfs://a,b/c",
            "nfs://fd00::1/a",
        ] {
            let error = text.parse::<NfsShare>().expect_err(text).to_string();
            assert!(error.contains("nfs://host/path"), "{error}");
        }
    }

    #[test]
    fn a_mount_is_found_in_the_systems_table() {
        let table = "22 1 0:5 / /proc rw - proc proc rw\n\
                     30 1 0:9 / /var/lib/d\\040tr.nfs rw,nosuid shared:1 - nfs4 nas:/a rw,vers=4.2\n\
                     31 1 8:1 / /other rw - ext4 /dev/sda rw";
        assert_eq!(source_in(table, Path::new("/var/lib/d tr.nfs")), Some("nas:/a".to_owned()));
        assert_eq!(source_in(table, Path::new("/other")), None, "of another kind");
        assert_eq!(source_in(table, Path::new("/nowhere")), None);
    }

    #[test]
    fn the_program_is_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let folders = || [PathBuf::from("/nowhere"), folder.path().to_owned()].into_iter();
        assert_eq!(found(folders()), None);
        fs::write(folder.path().join(PROGRAM), "").unwrap();
        assert_eq!(found(folders()), Some(folder.path().join(PROGRAM)));
    }

    #[tokio::test]
    async fn what_the_program_says_is_told() {
        let share: NfsShare = "nfs://nas/a".parse().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("refuses");
        fs::write(&program, "#!/bin/sh\necho \"$@\" >&2\nexit 32\n").unwrap();
        let called = [program.display().to_string(), share.arguments(Path::new("/m")).join(" ")];
        let said = run(Path::new("/bin/sh"), &called);
        assert_eq!(said.await.unwrap_err(), "nas:/a /m -o nosuid,nodev,noexec,retry=0");
    }
}
