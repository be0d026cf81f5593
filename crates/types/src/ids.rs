//! Ids, each with its own type by what it identifies, so that one cannot be passed for another.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize};

use crate::Random;

/// A text that is not an id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not {} {kind}: {form}", crate::name::article(kind))]
pub struct IdError {
    text: String,
    kind: &'static str,
    form: &'static str,
}

fn uuid_form(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
        })
}

fn replica_form(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:ident, $form:literal, $make:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// A new random id.
            pub fn random(random: &dyn Random) -> Self {
                let make: fn(&dyn Random) -> String = $make;
                Self(make(random))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                if $check(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(IdError { text: text.chars().take(64).collect(), kind: $kind, form: $form })
                }
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

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        id!($(#[$doc])* $name, $kind, uuid_form, "it has the form of a lower-case UUID", |r| r.uuid());
    };
}

uuid_id!(
    /// A user or an organization.
    AccountId, "account id");
uuid_id!(
    /// A team of an organization.
    TeamId, "team id");
uuid_id!(
    /// A repository; stays when nothing else of it does.
    RepositoryId, "repository id");
uuid_id!(
    /// A cluster: the replicas that share one store. A restore makes a new one.
    ClusterId, "cluster id");
uuid_id!(
    /// A hold on a revision.
    HoldId, "hold id");
uuid_id!(
    /// An upload session.
    UploadId, "upload id");
uuid_id!(
    /// A blob storage; stays when it changes hands.
    StorageId, "storage id");
uuid_id!(
    /// A service registered with the identity service.
    ServiceId, "service id");
id!(
    /// A replica: 12 hexadecimal digits, as in the original.
    ReplicaId, "replica id", replica_form, "it has 12 lower-case hexadecimal digits", |r| r.hex(6));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SeededRandom;

    #[test]
    fn random_ids_parse_and_others_do_not() {
        let random = SeededRandom::new(1);
        let account = AccountId::random(&random);
        assert_eq!(account.as_str().parse(), Ok(account.clone()));
        let replica = ReplicaId::random(&random);
        assert_eq!(replica.as_str().parse(), Ok(replica));
        for bad in ["", "../../etc/passwd", "A1640E1C15B6", "a1640e1c15b", "a1640e1c15b66"] {
            assert!(bad.parse::<ReplicaId>().is_err());
            assert!(bad.parse::<UploadId>().is_err());
        }
        assert!("00000000-0000-0000-0000-00000000000g".parse::<AccountId>().is_err());
    }
}
