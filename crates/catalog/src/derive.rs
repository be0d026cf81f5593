//! The keys that follow from a record: names, lists by another order. They are written with their record, and made again
//! from it when an archive is restored, which holds records only.

use bytes::Bytes;

use crate::{Record, keys, records::*};

/// A record whose derived keys can be made from itself alone. (Those of a manifest come from its bytes, see
/// [`Loader`](crate::Loader).)
pub trait Derive: Record {
    /// Keys and values that are stored beside it.
    fn derived(&self) -> Option<(Bytes, Bytes)> {
        None
    }
}

macro_rules! nothing {
    ($($type:ident)*) => { $(impl Derive for $type {})* };
}
nothing!(Settings BackupRecord KeyRecord CertificateRecord Credential Service Counters BlobRecord NamespaceGrant);

impl Derive for Repository {
    fn derived(&self) -> Option<(Bytes, Bytes)> {
        Some((keys::repository_name(&self.name), self.id.to_string().into()))
    }
}

impl Derive for TagRecord {
    fn derived(&self) -> Option<(Bytes, Bytes)> {
        Some((keys::manifest_tag(&self.repository, &self.digest, &self.name), Bytes::new()))
    }
}

impl Derive for RepositoryGrant {
    fn derived(&self) -> Option<(Bytes, Bytes)> {
        Some((keys::team_grant(&self.team, &self.repository), Bytes::new()))
    }
}

impl Derive for AccessToken {
    fn derived(&self) -> Option<(Bytes, Bytes)> {
        Some((keys::account_token(&self.account, &self.hash), Bytes::new()))
    }
}

impl Derive for Event {
    fn derived(&self) -> Option<(Bytes, Bytes)> {
        let repository = self.repository_id.as_ref()?;
        Some((keys::repository_event(repository, &self.id), Bytes::new()))
    }
}

impl Derive for Account {
    fn derived(&self) -> Option<(Bytes, Bytes)> {
        Some((keys::account_name(&self.name), self.id.to_string().into()))
    }
}

impl Derive for Membership {
    fn derived(&self) -> Option<(Bytes, Bytes)> {
        Some((keys::member_org(&self.member, &self.organization), Bytes::new()))
    }
}

impl Derive for Team {
    fn derived(&self) -> Option<(Bytes, Bytes)> {
        Some((keys::team_name(&self.organization, &self.name), self.id.to_string().into()))
    }
}

impl Derive for TeamMembership {
    fn derived(&self) -> Option<(Bytes, Bytes)> {
        let value = self.organization.to_string().into();
        Some((keys::member_team(&self.member, &self.team), value))
    }
}
