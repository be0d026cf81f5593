//! SHA-256 values and the Ed25519 key that signs the manifest.

use std::fmt;

use aws_lc_rs::{
    digest::{Context, SHA256, digest},
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::{ArchiveError, Result, header::Signer};

fn hex32<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; 32], D::Error> {
    let text = std::borrow::Cow::<str>::deserialize(d)?;
    let mut raw = [0; 32];
    if text.bytes().any(|b| b.is_ascii_uppercase())
        || hex::decode_to_slice(&*text, &mut raw).is_err()
    {
        return Err(serde::de::Error::custom("64 lower-case hexadecimal digits expected"));
    }
    Ok(raw)
}

/// A SHA-256 hash; 64 lower-case hexadecimal digits in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// The hash of `content`.
    pub fn of(content: &[u8]) -> Self {
        Self::take(digest(&SHA256, content).as_ref())
    }

    pub(crate) fn finish(context: Context) -> Self {
        Self::take(context.finish().as_ref())
    }

    fn take(bytes: &[u8]) -> Self {
        let mut raw = [0; 32];
        raw.copy_from_slice(bytes);
        Self(raw)
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut text = [0; 64];
        let written = hex::encode_to_slice(self.0, &mut text);
        match (written, std::str::from_utf8(&text)) {
            (Ok(()), Ok(text)) => s.serialize_str(text),
            _ => Err(serde::ser::Error::custom("not hexadecimal")),
        }
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        hex32(d).map(Self)
    }
}

/// An Ed25519 public key; 64 lower-case hexadecimal digits in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// The key's id: SHA-256 of its 32 bytes, in hexadecimal.
    pub fn id(&self) -> String {
        Sha256::of(&self.0).to_string()
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", hex::encode(self.0))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::str::FromStr for PublicKey {
    type Err = ArchiveError;
    fn from_str(text: &str) -> Result<Self> {
        let mut raw = [0; 32];
        hex::decode_to_slice(text, &mut raw).map_err(|_| ArchiveError::Key {
            what: "signing key",
            why: "a public key has 64 hexadecimal digits".to_owned(),
        })?;
        Ok(Self(raw))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        hex32(d).map(Self)
    }
}

/// The cluster's key that signs manifests. `Debug` shows the public half only.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// From 32 random bytes, which are the whole secret.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self> {
        Ed25519KeyPair::from_seed_unchecked(seed).map(Self).map_err(|e| Self::refused(&e))
    }

    /// From PKCS #8 (DER), as [`SigningKey::to_pkcs8`] or OpenSSL writes it.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map(Self).map_err(|e| Self::refused(&e))
    }

    /// The key as PKCS #8 (DER), for keeping.
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>> {
        self.0
            .to_pkcs8v1()
            .map(|document| Zeroizing::new(document.as_ref().to_vec()))
            .map_err(|e| Self::refused(&e))
    }

    fn refused(why: &dyn fmt::Display) -> ArchiveError {
        ArchiveError::Key { what: "signing key", why: why.to_string() }
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        let mut raw = [0; 32];
        raw.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(raw)
    }

    /// As it stands in header and manifest.
    pub fn signer(&self) -> Signer {
        let public_key = self.public_key();
        Signer { algorithm: "ed25519".to_owned(), key_id: public_key.id(), public_key }
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(public: {})", self.public_key())
    }
}
