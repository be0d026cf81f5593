//! Signing keys that somebody knows by their ids: the one place that decides whether an archive is signed by the key that
//! was named.

use crate::{ArchiveError, PublicKey, Result};

/// Digits of an id.
const DIGITS: usize = 64;
/// Fewest digits that name a key: half of an id, as the catalog has it, which nobody meets by trying.
const DIGITS_MIN: usize = 32;
/// Most keys of a file.
const KEYS_MAX: usize = 10_000;

/// Why a text names no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KnownKeyError(String);

/// A signing key that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownKey {
    id: String,
    name: String,
}

impl KnownKey {
    fn parse(id: &str, name: &str) -> Result<Self, KnownKeyError> {
        let digits = id.len() <= DIGITS && id.bytes().all(|b| b.is_ascii_hexdigit());
        if !digits || id.len() < DIGITS_MIN {
            let shown: String = id.chars().filter(|c| !c.is_control()).take(80).collect();
            return Err(KnownKeyError(format!(
                "\"{shown}\" is not the id of a signing key: that has {DIGITS} hexadecimal digits, of which the first \
                 {DIGITS_MIN} or more are enough; \"dtr status\", \"dtr backup list\" and each backup's report show it"
            )));
        }
        Ok(Self { id: id.to_ascii_lowercase(), name: name.to_owned() })
    }

    /// What people call it, or its id.
    pub fn name(&self) -> &str {
        if self.name.is_empty() { &self.id } else { &self.name }
    }

    fn is(&self, key_id: &str) -> bool {
        key_id.starts_with(&self.id)
    }
}

/// Signing keys that are known. An archive of any other key is refused; where none is known, that of every key is
/// accepted, and its signature proves only that nothing in it was damaged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownKeys {
    keys: Vec<KnownKey>,
    /// The file that they are from; empty for one that was named by itself.
    file: String,
}

impl KnownKeys {
    /// The only key that is accepted, by its id or the first half of it, in letters of any case.
    ///
    /// # Errors
    /// For what is no such id.
    pub fn only(id: &str) -> Result<Self, KnownKeyError> {
        Ok(Self { keys: vec![KnownKey::parse(id.trim(), "")?], file: String::new() })
    }

    /// The keys of a file's text: one a line, its id and then, if wanted, what people call it. `#` begins a comment.
    ///
    /// # Errors
    /// For a line that is none of these, and for a file without a key.
    pub fn parse(text: &str, file: &str) -> Result<Self, KnownKeyError> {
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let (id, name) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let key = KnownKey::parse(id, name.trim()).map_err(|KnownKeyError(why)| {
                KnownKeyError(format!("{file} line {}: {why}", number + 1))
            })?;
            keys.push(key);
        }
        match keys.len() {
            0 => Err(KnownKeyError(format!("{file} names no signing key"))),
            count if count > KEYS_MAX => {
                Err(KnownKeyError(format!("{file} names more than {KEYS_MAX} signing keys")))
            }
            _ => Ok(Self { keys, file: file.to_owned() }),
        }
    }

    /// A key of which the public half is at hand.
    pub fn of(key: &PublicKey) -> Self {
        let key = KnownKey { id: key.id(), name: String::new() };
        Self { keys: vec![key], file: String::new() }
    }

    /// Which of them a key is. `None` when nothing is known to compare it with.
    ///
    /// # Errors
    /// [`ArchiveError::WrongKey`] when it is none of them.
    pub fn check(&self, key_id: &str) -> Result<Option<&KnownKey>> {
        let found = self.keys.iter().find(|known| known.is(key_id));
        match (found, self.keys.as_slice()) {
            (Some(known), _) => Ok(Some(known)),
            (None, []) => Ok(None),
            (None, keys) => {
                let expected = match (keys, self.file.as_str()) {
                    ([one], "") => one.id.clone(),
                    (_, file) => format!(
                        "one of those in {file} (add the line \"{key_id} NAME\" to it if you know that this is the \
                         registry's key)"
                    ),
                };
                Err(ArchiveError::WrongKey { found: key_id.to_owned(), expected })
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "what fails here fails the test")]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdeffedcba9876543210fedcba9876543210";

    #[test]
    fn a_key_is_named_by_its_id_or_the_first_half_of_it() {
        for named in [ID, &ID[..32], &ID[..40], &ID.to_uppercase(), &format!(" {ID}\n")] {
            let known = KnownKeys::only(named).unwrap();
            assert!(known.check(ID).unwrap().is_some(), "{named}");
            assert!(matches!(known.check(&"0".repeat(64)), Err(ArchiveError::WrongKey { .. })));
        }
        for no_key in ["", "0123", &ID[..31], "g123456789abcdef0123456789abcdef", &format!("{ID}0")]
        {
            assert!(KnownKeys::only(no_key).is_err(), "{no_key}");
        }
        assert_eq!(KnownKeys::default().check(ID).unwrap(), None, "nothing to compare with");
    }

    #[test]
    fn a_file_names_keys_and_what_people_call_them() {
        let other = "f".repeat(64);
        let text = format!("# ours\n\n{ID} production in Bern\n{other} # staging\n");
        let known = KnownKeys::parse(&text, "known-keys").unwrap();
        assert_eq!(known.check(ID).unwrap().unwrap().name(), "production in Bern");
        assert_eq!(known.check(&other).unwrap().unwrap().name(), other);
        let error = known.check(&"1".repeat(64)).unwrap_err().to_string();
        assert!(error.contains("known-keys") && error.contains(&"1".repeat(64)), "{error}");
        for bad in ["", "# nothing\n", "production\n", "abc production\n"] {
            let error = KnownKeys::parse(bad, "known-keys").unwrap_err().to_string();
            assert!(error.contains("known-keys"), "{error}");
        }
    }
}
