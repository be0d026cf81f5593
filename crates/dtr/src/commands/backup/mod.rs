//! `dtr backup`: take one, and `verify`, `inspect`, `list`.

mod look;
mod salvage;
mod sink;
mod take;

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use dtr_archive::{Encryption, Keys, KnownKeys, Recipient, UnlockKey};
use dtr_types::Secret;

use crate::{
    cli::{BackupArgs, DecryptionArgs, EncryptionArgs, SignerArgs},
    failure::{Failure, Result},
    terminal::Progress,
};

/// Largest file of keys or passphrases that is read.
const KEY_FILE_MAX: u64 = 1 << 20;

/// `dtr backup ...`
pub async fn run(args: BackupArgs) -> Result<()> {
    match args.command {
        None => take::run(args.take).await,
        Some(command) => look::run(command).await,
    }
}

fn key_file(path: &Path) -> Result<String> {
    let cannot = || format!("cannot read {}", path.display());
    let size = std::fs::metadata(path).with_context(cannot)?.len();
    if size > KEY_FILE_MAX {
        return Err(Failure::usage(format!("{} is too large to be a key file", path.display())));
    }
    std::fs::read_to_string(path).with_context(cannot)
}

/// The passphrase in a file: its first line.
fn passphrase(path: &Path) -> Result<Secret> {
    let text = zeroize::Zeroizing::new(key_file(path)?);
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Secret::new(line)),
        _ => Err(Failure::usage(format!("the first line of {} is empty", path.display()))),
    }
}

/// How to encrypt, from flags.
pub fn encryption(args: &EncryptionArgs) -> Result<Encryption> {
    if let Some(path) = &args.passphrase_file {
        return Ok(Encryption::passphrase(passphrase(path)?));
    }
    if args.encrypt_to.is_empty() {
        return Ok(Encryption::None);
    }
    let recipients: Result<Vec<Recipient>, _> =
        args.encrypt_to.iter().map(|text| text.parse()).collect();
    match recipients {
        Ok(recipients) => Ok(Encryption::Recipients(recipients)),
        Err(error) => Err(Failure::usage(error.to_string())),
    }
}

/// How to decrypt, from flags.
pub fn keys(args: &DecryptionArgs) -> Result<Keys> {
    let identities = match &args.identity_file {
        None => Vec::new(),
        Some(path) => {
            let text = zeroize::Zeroizing::new(key_file(path)?);
            UnlockKey::parse_file(&text)
                .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?
        }
    };
    let passphrase = args.passphrase_file.as_deref().map(passphrase).transpose()?;
    Ok(Keys { identities, passphrase })
}

/// Where known keys are looked for when no file is named, after the home directory's own.
const KNOWN_KEYS: &str = "/etc/dtr/known-keys";

/// The file of known keys that is there without being named.
fn known_keys_file() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".config/dtr/known-keys"));
    home.into_iter().chain([PathBuf::from(KNOWN_KEYS)]).find(|path| path.exists())
}

/// The signing keys that are known, from flags or from the file that is looked for.
pub fn known(args: &SignerArgs) -> Result<KnownKeys> {
    if let Some(id) = &args.signed_by {
        return KnownKeys::only(id)
            .map_err(|error| Failure::usage(format!("--signed-by: {error}")));
    }
    let Some(path) = args.known_keys.clone().or_else(known_keys_file) else {
        return Ok(KnownKeys::default());
    };
    let text = key_file(&path)?;
    KnownKeys::parse(&text, &path.display().to_string())
        .map_err(|error| Failure::usage(error.to_string()))
}

/// An archive as a stream, with its progress shown.
pub struct Watched {
    input: Box<dyn Read + Send>,
    progress: Progress,
}

impl Watched {
    /// Shown as `what`.
    pub fn new(input: Box<dyn Read + Send>, what: &'static str) -> Self {
        Self { input, progress: Progress::new(what) }
    }
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.progress.add(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_recipient_is_named() {
        let args =
            EncryptionArgs { encrypt_to: vec!["age1nonsense".to_owned()], passphrase_file: None };
        let error = encryption(&args).expect_err("refused");
        assert!(error.to_string().contains("age1nonsense"), "{error:#}");
        assert_eq!(crate::failure::exit_code(&error), 2);
    }

    #[test]
    fn the_passphrase_is_the_first_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("passphrase");
        std::fs::write(&file, "correct horse\nsecond\n").expect("written");
        assert_eq!(passphrase(&file).expect("read").expose(), "correct horse");
        std::fs::write(&file, "\n").expect("written");
        assert!(passphrase(&file).is_err());
    }
}
