//! Encryption of the whole stream with age (<https://age-encryption.org/v1>), as the `age` tool does it: to recipients
//! (`age1...`) or with a passphrase. Reading recognizes it, armored or not.

use std::{
    io::{self, BufReader, Chain, Cursor, Read, Write},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use age::{
    DecryptError, Decryptor, Encryptor,
    armor::ArmoredReader,
    scrypt,
    secrecy::SecretString,
    stream::{StreamReader, StreamWriter},
    x25519,
};
use dtr_types::Secret;

use crate::{ArchiveError, Result, error::shown};

/// The work factor of passphrases, as a power of two: the one of the `age` tool, about a second and 256 MiB for each try.
pub const DEFAULT_WORK_FACTOR: u8 = 18;
/// What is accepted when reading: 1 GiB, some seconds.
const WORK_FACTOR_MAX: u8 = 20;
/// More recipients than anybody has; age itself has no limit on its header.
const HEADER_MAX: u64 = 1 << 20;
/// An armored line has 64 characters.
const ARMOR_LINE_MAX: u64 = 1024;
const BINARY: &[u8] = b"age-encryption.org/";
const ARMOR: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";

/// Somebody who may open the archive: `age1...`.
#[derive(Clone)]
pub struct Recipient(x25519::Recipient);

impl FromStr for Recipient {
    type Err = ArchiveError;
    fn from_str(text: &str) -> Result<Self> {
        text.trim().parse().map(Self).map_err(|why: &str| ArchiveError::Key {
            what: "recipient (age1...)",
            why: format!("\"{}\": {why}", shown(text)),
        })
    }
}

impl std::fmt::Display for Recipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

impl std::fmt::Debug for Recipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

/// A key that opens what was encrypted to its recipient: `AGE-SECRET-KEY-1...`.
#[derive(Clone)]
pub struct UnlockKey(x25519::Identity);

impl UnlockKey {
    /// A new random key.
    pub fn generate() -> Self {
        Self(x25519::Identity::generate())
    }

    /// Whom to encrypt to.
    pub fn recipient(&self) -> Recipient {
        Recipient(self.0.to_public())
    }

    /// The key as text, for keeping.
    pub fn to_secret(&self) -> Secret {
        use age::secrecy::ExposeSecret as _;
        Secret::new(self.0.to_string().expose_secret())
    }

    /// All keys in a file as `age-keygen` writes it: one on each line, `#` begins a comment.
    ///
    /// # Errors
    /// When a line is no key, or there is none.
    pub fn parse_file(text: &str) -> Result<Vec<Self>> {
        let wrong = |why: String| ArchiveError::Key { what: "identity file", why };
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = line.parse().map_err(|why: &str| {
                wrong(format!("line {}: {why}; AGE-SECRET-KEY-1... expected", number + 1))
            })?;
            keys.push(Self(key));
        }
        if keys.is_empty() {
            return Err(wrong("it has no AGE-SECRET-KEY-1... line".to_owned()));
        }
        Ok(keys)
    }
}

impl std::fmt::Debug for UnlockKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UnlockKey({})", self.recipient())
    }
}

/// What may open an encrypted archive.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// Keys for archives encrypted to recipients.
    pub identities: Vec<UnlockKey>,
    /// The passphrase for those encrypted with one.
    pub passphrase: Option<Secret>,
}

/// How to encrypt.
#[derive(Clone, Debug, Default)]
pub enum Encryption {
    /// Not at all.
    #[default]
    None,
    /// To each of these, at least one.
    Recipients(Vec<Recipient>),
    /// With a passphrase; each try to open it costs `2^work_factor`, [`DEFAULT_WORK_FACTOR`] unless in tests.
    Passphrase {
        /// The passphrase.
        passphrase: Secret,
        /// 1 to 20.
        work_factor: u8,
    },
}

impl Encryption {
    /// With a passphrase at the usual cost.
    pub fn passphrase(passphrase: Secret) -> Self {
        Self::Passphrase { passphrase, work_factor: DEFAULT_WORK_FACTOR }
    }

    /// Whether it encrypts at all.
    pub fn is_on(&self) -> bool {
        !matches!(self, Self::None)
    }
}

/// An output that encrypts, or not. Without [`Sealed::finish`] an encrypted stream is cut, and refused by every reader.
pub struct Sealed<W: Write>(Inner<W>);

enum Inner<W: Write> {
    Clear(W),
    Age(StreamWriter<W>),
}

impl<W: Write> Sealed<W> {
    /// Begins; writes age's header when encrypting.
    ///
    /// # Errors
    /// Without recipients, for an empty passphrase or a work factor out of range, and when the output fails.
    pub fn new(out: W, encryption: &Encryption) -> Result<Self> {
        let key = |why: String| ArchiveError::Key { what: "encryption", why };
        let encryptor = match encryption {
            Encryption::None => return Ok(Self(Inner::Clear(out))),
            Encryption::Recipients(recipients) => {
                Encryptor::with_recipients(recipients.iter().map(|r| &r.0 as &dyn age::Recipient))
            }
            Encryption::Passphrase { passphrase, work_factor } => {
                if passphrase.is_empty() || !(1..=WORK_FACTOR_MAX).contains(work_factor) {
                    let why = "the passphrase is empty, or its work factor not between 1 and 20";
                    return Err(key(why.to_owned()));
                }
                let mut recipient = scrypt::Recipient::new(secret(passphrase));
                recipient.set_work_factor(*work_factor);
                Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
            }
        };
        let encryptor = encryptor.map_err(|e| key(e.to_string()))?;
        let failed = |source| ArchiveError::Write { at: "encryption header".to_owned(), source };
        encryptor.wrap_output(out).map(|out| Self(Inner::Age(out))).map_err(failed)
    }

    /// Ends the encryption and gives the output back, not flushed.
    ///
    /// # Errors
    /// When the output fails.
    pub fn finish(self) -> Result<W> {
        match self.0 {
            Inner::Clear(out) => Ok(out),
            Inner::Age(out) => out.finish().map_err(|source| ArchiveError::Write {
                at: "end of encryption".to_owned(),
                source,
            }),
        }
    }
}

impl<W: Write> Write for Sealed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Clear(out) => out.write(bytes),
            Inner::Age(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Inner::Clear(out) => out.flush(),
            Inner::Age(out) => out.flush(),
        }
    }
}

fn secret(passphrase: &Secret) -> SecretString {
    SecretString::from(passphrase.expose().to_owned())
}

/// Whether a stream that begins like this is encrypted with age.
pub fn is_encrypted(start: &[u8]) -> bool {
    start.starts_with(BINARY) || start.starts_with(ARMOR)
}

type Input<R> = Chain<Cursor<Vec<u8>>, R>;
type Decrypting<R> = StreamReader<ArmoredReader<BufReader<Guarded<Input<R>>>>>;

/// The clear stream of an input.
pub(crate) struct Opened<R: Read>(OpenedInner<R>);

enum OpenedInner<R: Read> {
    Clear(Input<R>),
    Age(Box<Decrypting<R>>),
}

impl<R: Read> Read for Opened<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            OpenedInner::Clear(input) => input.read(buffer),
            OpenedInner::Age(input) => input.read(buffer),
        }
    }
}

/// Keeps age from reading a header or an armored line without end into memory.
struct Guarded<R> {
    input: R,
    /// Bytes that may still come before the header is complete; `u64::MAX` afterwards.
    left: Arc<AtomicU64>,
    armored: bool,
    line: u64,
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            let why = "age's header does not end within 1 MiB";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let max = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = self.input.read(&mut buffer[..max])?;
        if left != u64::MAX {
            self.left.store(left - n as u64, Ordering::Relaxed);
        }
        if self.armored {
            for piece in buffer[..n].split_inclusive(|b| *b == b'\n') {
                self.line += piece.len() as u64;
                if self.line > ARMOR_LINE_MAX {
                    let why = "an armored line is longer than 1 KiB";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                }
                if piece.ends_with(b"\n") {
                    self.line = 0;
                }
            }
        }
        Ok(n)
    }
}

/// Looks at the first bytes and decrypts if they are age's. Says whether they were.
pub(crate) fn open<R: Read>(mut input: R, keys: &Keys) -> Result<(Opened<R>, bool)> {
    let mut start = Vec::with_capacity(ARMOR.len());
    let failed = |source| ArchiveError::Read { at: "at its beginning".to_owned(), source };
    (&mut input).take(ARMOR.len() as u64).read_to_end(&mut start).map_err(failed)?;
    let (sealed, armored) = (is_encrypted(&start), start.starts_with(ARMOR));
    let input = Cursor::new(start).chain(input);
    if !sealed {
        return Ok((Opened(OpenedInner::Clear(input)), false));
    }
    let left = Arc::new(AtomicU64::new(HEADER_MAX));
    let guarded = Guarded { input, left: Arc::clone(&left), armored, line: 0 };
    let decryptor = Decryptor::new_buffered(ArmoredReader::new(guarded))
        .map_err(|error| refused(error, false))?;
    left.store(u64::MAX, Ordering::Relaxed);
    let clear = if decryptor.is_scrypt() {
        let passphrase = keys.passphrase.as_ref().ok_or(ArchiveError::NeedsPassphrase)?;
        let mut identity = scrypt::Identity::new(secret(passphrase));
        identity.set_max_work_factor(WORK_FACTOR_MAX);
        decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity))
    } else {
        if keys.identities.is_empty() {
            return Err(ArchiveError::NeedsIdentity);
        }
        decryptor.decrypt(keys.identities.iter().map(|key| &key.0 as &dyn age::Identity))
    };
    let clear = clear.map_err(|error| refused(error, keys.passphrase.is_some()))?;
    Ok((Opened(OpenedInner::Age(Box::new(clear))), true))
}

fn refused(error: DecryptError, passphrase: bool) -> ArchiveError {
    match error {
        DecryptError::NoMatchingKeys => ArchiveError::WrongIdentity,
        DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed if passphrase => {
            ArchiveError::WrongPassphrase
        }
        DecryptError::ExcessiveWork { required, .. } => ArchiveError::SealHeader {
            why: format!(
                "its passphrase costs 2^{required} to try; at most 2^{WORK_FACTOR_MAX} is accepted"
            ),
        },
        DecryptError::InvalidMac => {
            ArchiveError::SealHeader { why: "its checksum (MAC) does not match".to_owned() }
        }
        DecryptError::UnknownFormat => {
            ArchiveError::SealHeader { why: "it is of an unknown version of age".to_owned() }
        }
        DecryptError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            ArchiveError::SealHeader { why: "it is cut short".to_owned() }
        }
        DecryptError::Io(error) if error.kind() != io::ErrorKind::InvalidData => {
            ArchiveError::Read { at: "in age's header".to_owned(), source: error }
        }
        other => ArchiveError::SealHeader { why: shown(&other.to_string()) },
    }
}
