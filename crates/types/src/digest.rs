//! Content digests: `algorithm:hex` as of the OCI image specification, for the two registered algorithms sha256 and
//! sha512, and the streaming hasher whose state can be saved between two chunks of an upload.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{
    Digest as _, Sha256, Sha512,
    digest::common::hazmat::{SerializableState, SerializedState},
};

/// A hash algorithm that content may be addressed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, 64 hexadecimal digits. What every client uses today.
    Sha256,
    /// SHA-512, 128 hexadecimal digits.
    Sha512,
}

impl Algorithm {
    /// The registered name, as it stands before the colon.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Number of hexadecimal digits after the colon.
    pub const fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            other => Err(DigestError::Algorithm(other.chars().take(32).collect())),
        }
    }
}

/// Why a text is not a digest that this registry can store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// No colon between algorithm and value.
    #[error("a digest is written algorithm:hex, such as sha256:9f86d0...")]
    Form,
    /// An algorithm that is not registered, or not offered here.
    #[error("digest algorithm \"{0}\" is not supported; use sha256 or sha512")]
    Algorithm(String),
    /// Wrong length, or a character that is not a lower-case hexadecimal digit.
    #[error("a {algorithm} digest has {expected} lower-case hexadecimal digits after the colon")]
    Value {
        /// The algorithm named.
        algorithm: &'static str,
        /// Digits it needs.
        expected: usize,
    },
}

/// Bytes of the longest hash.
const BYTES_MAX: usize = 64;

/// The digest of some content. Rejects unknown algorithms, upper-case hexadecimal and wrong lengths.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    /// The first 32 bytes are used by sha256, all 64 by sha512; the rest is zero.
    bytes: [u8; BYTES_MAX],
}

impl Digest {
    /// The sha256 digest of `content`.
    pub fn of(content: &[u8]) -> Self {
        Self::with(Algorithm::Sha256, content)
    }

    /// The digest of `content` by `algorithm`.
    pub fn with(algorithm: Algorithm, content: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(content);
        hasher.finish()
    }

    /// Whether `content` hashes to this digest.
    pub fn matches(&self, content: &[u8]) -> bool {
        Self::with(self.algorithm, content) == *self
    }

    /// The algorithm before the colon.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw hash: 32 or 64 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.hex_len() / 2]
    }

    /// The hexadecimal digits after the colon.
    pub fn hex(&self) -> String {
        hex::encode(self.as_bytes())
    }

    fn from_raw(algorithm: Algorithm, raw: &[u8]) -> Self {
        let mut bytes = [0; BYTES_MAX];
        bytes[..raw.len()].copy_from_slice(raw);
        Self { algorithm, bytes }
    }
}

impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, value) = text.split_once(':').ok_or(DigestError::Form)?;
        let algorithm: Algorithm = algorithm.parse()?;
        let wrong =
            DigestError::Value { algorithm: algorithm.as_str(), expected: algorithm.hex_len() };
        if value.len() != algorithm.hex_len() || value.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(wrong);
        }
        let mut bytes = [0; BYTES_MAX];
        hex::decode_to_slice(value, &mut bytes[..value.len() / 2]).map_err(|_| wrong)?;
        Ok(Self { algorithm, bytes })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Digests are most of every key, so this is called for each key that is made: no memory is taken for it.
        let (bytes, mut digits) = (self.as_bytes(), [0; 2 * BYTES_MAX]);
        let digits = &mut digits[..2 * bytes.len()];
        hex::encode_to_slice(bytes, digits).map_err(|_| fmt::Error)?;
        f.write_str(self.algorithm.as_str())?;
        f.write_str(":")?;
        f.write_str(std::str::from_utf8(digits).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Hashes content as it streams past. [`Hasher::save`] and [`Hasher::resume`] carry it over from one chunk of an
/// upload to the next, possibly on another replica, without reading what came before.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// Starts an empty hash.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    /// Which algorithm runs.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            State::Sha256(_) => Algorithm::Sha256,
            State::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(h) => h.update(bytes),
            State::Sha512(h) => h.update(bytes),
        }
    }

    /// The digest of everything taken.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(h) => Digest::from_raw(Algorithm::Sha256, &h.finalize()),
            State::Sha512(h) => Digest::from_raw(Algorithm::Sha512, &h.finalize()),
        }
    }

    /// The state as text, for [`Hasher::resume`]. It reveals nothing but what the content's own hash would.
    pub fn save(&self) -> String {
        match &self.0 {
            State::Sha256(h) => format!("sha256:{}", hex::encode(h.serialize())),
            State::Sha512(h) => format!("sha512:{}", hex::encode(h.serialize())),
        }
    }

    /// Goes on from a saved state; `None` when the text is not one.
    pub fn resume(saved: &str) -> Option<Self> {
        let (algorithm, state) = saved.split_once(':')?;
        let raw = hex::decode(state).ok()?;
        Some(Self(match algorithm {
            "sha256" => State::Sha256(
                Sha256::deserialize(&SerializedState::<Sha256>::try_from(raw.as_slice()).ok()?)
                    .ok()?,
            ),
            "sha512" => State::Sha512(
                Sha512::deserialize(&SerializedState::<Sha512>::try_from(raw.as_slice()).ok()?)
                    .ok()?,
            ),
            _ => return None,
        }))
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hasher({})", self.algorithm().as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_it_prints() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let digest = Digest::with(algorithm, b"hello");
            assert_eq!(digest.to_string().parse(), Ok(digest));
            assert!(digest.matches(b"hello"));
            assert!(!digest.matches(b"hallo"));
        }
    }

    #[test]
    fn refuses_what_is_not_a_digest() {
        let upper = Digest::of(b"x").to_string().replace(|c: char| c.is_ascii_lowercase(), "A");
        for bad in ["", "sha256", "sha256:", "sha256:abc", "md5:00", "SHA256:00", &upper] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        let short = format!("sha512:{}", Digest::of(b"x").hex());
        assert!(short.parse::<Digest>().is_err());
        let not_hex = format!("sha256:{}", "g".repeat(64));
        assert!(not_hex.parse::<Digest>().is_err());
        let wide = format!("sha256:{}é", "a".repeat(62));
        assert!(wide.parse::<Digest>().is_err());
    }

    #[test]
    fn a_saved_hash_goes_on_where_it_stopped() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for cut in [0, 1, 63, 64, 65, 127, 128, 999] {
                let content: Vec<u8> = (0..1000u32).map(|n| n as u8).collect();
                let mut first = Hasher::new(algorithm);
                first.update(&content[..cut]);
                let mut second = Hasher::resume(&first.save()).expect("own state");
                second.update(&content[cut..]);
                assert_eq!(second.finish(), Digest::with(algorithm, &content));
            }
        }
        assert!(Hasher::resume("sha256:00").is_none());
        assert!(Hasher::resume("rot13:00").is_none());
    }
}
