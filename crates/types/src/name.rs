//! Names that people give: accounts, teams, repositories, tags. Each is checked once, here.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize};

/// Why a text cannot be a name of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not {} {kind}: {rule}", article(kind))]
pub struct NameError {
    text: String,
    kind: &'static str,
    rule: &'static str,
}

/// `a` or `an`, for a message.
pub(crate) fn article(kind: &str) -> &'static str {
    if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

fn refuse<T>(text: &str, kind: &'static str, rule: &'static str) -> Result<T, NameError> {
    Err(NameError { text: text.chars().take(300).collect(), kind, rule })
}

macro_rules! text_type {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`: one component of a repository name (OCI distribution specification).
fn component(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if bytes.is_empty() || !alnum(bytes[0]) || !alnum(bytes[bytes.len() - 1]) {
        return false;
    }
    let mut i = 0;
    while i < bytes.len() {
        if alnum(bytes[i]) {
            i += 1;
            continue;
        }
        let start = i;
        while i < bytes.len() && !alnum(bytes[i]) {
            i += 1;
        }
        let separator = &bytes[start..i];
        if !(matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')) {
            return false;
        }
    }
    true
}

/// The name of a user or an organization, and so of a namespace: 1 to 100 characters.
///
/// A subset of the original's rule (which forbids some characters only), because the name is the first component of
/// repository names: lower-case letters and digits, separated by `.`, `_`, `__` or dashes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct AccountName(String);
text_type!(AccountName);

impl FromStr for AccountName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() <= 100 && component(text) {
            Ok(Self(text.to_owned()))
        } else {
            refuse(
                text,
                "account name",
                "use 1 to 100 lower-case letters and digits, separated by single dots, underscores or dashes",
            )
        }
    }
}

/// The name of a team inside its organization: 1 to 100 characters, none of `/ \ [ ] : ; | = , + * ? < > ' "`, no
/// blanks or control characters (the original's rule for account names).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct TeamName(String);
text_type!(TeamName);

impl FromStr for TeamName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let bad = |c: char| c.is_whitespace() || c.is_control() || "/\\[]:;|=,+*?<>'\"".contains(c);
        if text.is_empty() || text.chars().count() > 100 || text.chars().any(bad) {
            return refuse(
                text,
                "team name",
                "use 1 to 100 characters without blanks and without / \\ [ ] : ; | = , + * ? < > ' \"",
            );
        }
        Ok(Self(text.to_owned()))
    }
}

/// The full name of a repository: `namespace/name`, the namespace being an account. The name may have further
/// components. At most 255 characters, since many clients enforce that.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RepositoryName(String);
text_type!(RepositoryName);

impl RepositoryName {
    /// From its two parts.
    pub fn new(namespace: &AccountName, name: &str) -> Result<Self, NameError> {
        format!("{namespace}/{name}").parse()
    }

    /// The account that owns the repository: the first component.
    pub fn namespace(&self) -> AccountName {
        AccountName(self.0.split('/').next().unwrap_or_default().to_owned())
    }

    /// Whether the distribution specification allows a name, be it one that no repository here can have.
    pub fn is_well_formed(text: &str) -> bool {
        text.split('/').all(component)
    }

    /// Everything after the namespace.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }
}

impl FromStr for RepositoryName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let kind = "repository name";
        if text.len() > 255 {
            return refuse(text, kind, "a full name has at most 255 characters");
        }
        let Some((namespace, rest)) = text.split_once('/') else {
            return refuse(text, kind, "it is written namespace/name, such as engineering/web");
        };
        if namespace.len() > 100 || !component(namespace) || !rest.split('/').all(component) {
            return refuse(
                text,
                kind,
                "each component has lower-case letters and digits, separated by single dots, underscores or dashes",
            );
        }
        Ok(Self(text.to_owned()))
    }
}

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}` (OCI distribution specification).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Tag(String);
text_type!(Tag);

impl FromStr for Tag {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let first = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let bytes = text.as_bytes();
        if bytes.is_empty()
            || bytes.len() > 128
            || !first(bytes[0])
            || !bytes.iter().all(|b| first(*b) || matches!(b, b'.' | b'-'))
        {
            return refuse(
                text,
                "tag",
                "use 1 to 128 letters, digits, underscores, dots and dashes, not beginning with a dot or dash",
            );
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_names() {
        for good in
            ["a/b", "team/app", "a/b/c/d", "a-b/c__d", "a/b---c", "a/blobs/uploads/x", "0/0"]
        {
            assert!(good.parse::<RepositoryName>().is_ok(), "{good}");
        }
        let long = format!("a/{}", "b".repeat(254));
        for bad in [
            "", "a", "/", "a/", "/a", "A/b", "a/B", "a//b", "a/b___c", "a/b._c", "a/-b", "a/b-",
            "a/../b", "a/b c", "a/é", &long,
        ] {
            assert!(bad.parse::<RepositoryName>().is_err(), "{bad}");
        }
        for well_formed in ["a", "web", "a/b", &long] {
            assert!(RepositoryName::is_well_formed(well_formed), "{well_formed}");
        }
        for not in ["", "/", "A", "a//b", "a/../b", "a/"] {
            assert!(!RepositoryName::is_well_formed(not), "{not}");
        }
        let name: RepositoryName = "team/web/front".parse().expect("valid");
        assert_eq!(name.namespace().as_str(), "team");
        assert_eq!(name.name(), "web/front");
    }

    #[test]
    fn tags() {
        for good in ["latest", "_x", "1.0-rc.1", &"a".repeat(128)] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        for bad in ["", ".x", "-x", "a/b", "a:b", "ä", &"a".repeat(129)] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
    }
}
