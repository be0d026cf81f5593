//! Accounts on their way from one identity service to another: what a backup takes out of a UCP, and a restore puts into one.

use std::collections::BTreeMap;

use dtr_catalog::records::{Account, Credential, Membership, Team, TeamMembership};
use serde::{Deserialize, Serialize};

/// Accounts with everything that belongs to them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AccountRecords {
    /// Users and organizations.
    pub accounts: Vec<Account>,
    /// Password hashes of users; none where they could not be had.
    pub credentials: Vec<Credential>,
    /// Members of organizations.
    pub memberships: Vec<Membership>,
    /// Teams.
    pub teams: Vec<Team>,
    /// Members of teams.
    pub team_members: Vec<TeamMembership>,
}

/// One line of an export.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ExportLine {
    /// A user or an organization.
    Account(Account),
    /// A user's password hash.
    Credential(Credential),
    /// A member of an organization.
    Membership(Membership),
    /// A team.
    Team(Team),
    /// A member of a team.
    TeamMember(TeamMembership),
    /// The last line: how many came before. An export without it was cut.
    End {
        /// Lines.
        records: u64,
    },
}

impl AccountRecords {
    /// How many records there are.
    pub fn len(&self) -> usize {
        self.accounts.len()
            + self.credentials.len()
            + self.memberships.len()
            + self.teams.len()
            + self.team_members.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there are users, and not a password among them: they were taken from where none are handed out.
    pub fn has_no_passwords(&self) -> bool {
        self.credentials.is_empty() && self.accounts.iter().any(|account| !account.is_org)
    }

    /// Adds the record of a line; `Some` with the count when it was the last line.
    pub fn add(&mut self, line: ExportLine) -> Option<u64> {
        match line {
            ExportLine::Account(account) => self.accounts.push(account),
            ExportLine::Credential(credential) => self.credentials.push(credential),
            ExportLine::Membership(membership) => self.memberships.push(membership),
            ExportLine::Team(team) => self.teams.push(team),
            ExportLine::TeamMember(membership) => self.team_members.push(membership),
            ExportLine::End { records } => return Some(records),
        }
        None
    }

    /// In batches of at most `records` records, and of a size that a request may have, that can be imported one after
    /// the other: what is referred to comes first, and a password with its account.
    pub fn batches(self, records: usize) -> Vec<Self> {
        let mut passwords: BTreeMap<_, _> =
            self.credentials.into_iter().map(|c| (c.account.clone(), c)).collect();
        let accounts: Vec<_> = self
            .accounts
            .into_iter()
            .map(|account| {
                let password = passwords.remove(&account.id);
                (account, password)
            })
            .collect();
        let mut batches = Vec::new();
        for part in parts(accounts, records / 2) {
            let (accounts, credentials): (Vec<_>, Vec<_>) = part.into_iter().unzip();
            let credentials = credentials.into_iter().flatten().collect();
            batches.push(Self { accounts, credentials, ..Self::default() });
        }
        for teams in parts(self.teams, records) {
            batches.push(Self { teams, ..Self::default() });
        }
        for memberships in parts(self.memberships, records) {
            batches.push(Self { memberships, ..Self::default() });
        }
        for team_members in parts(self.team_members, records) {
            batches.push(Self { team_members, ..Self::default() });
        }
        batches
    }
}

/// Bytes of JSON in a batch, well below the 512 KiB of a request: a description can have six bytes for each character.
const BATCH_BYTES: usize = 256 << 10;

/// Parts of at most so many items, at least one, and of a size that a request may have.
fn parts<T: Serialize>(items: Vec<T>, most: usize) -> Vec<Vec<T>> {
    let mut parts: Vec<Vec<T>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        let size = serde_json::to_vec(&item).map_or(BATCH_BYTES, |json| json.len() + 1);
        match parts.last_mut() {
            Some(part) if part.len() < most && bytes + size <= BATCH_BYTES => {
                part.push(item);
                bytes += size;
            }
            _ => {
                parts.push(vec![item]);
                bytes = size;
            }
        }
    }
    parts
}

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportAnswer {
    /// Records that were made.
    pub created: u64,
    /// Records that were there already, by id or by name, and stayed as they were.
    pub existing: u64,
    /// Members of what is not there, or who are not there.
    pub skipped: u64,
    /// Accounts and teams that are there under another id: the id that was given, and the one here.
    #[serde(default)]
    pub ids: BTreeMap<String, String>,
}

impl ImportAnswer {
    /// Adds what became of another batch.
    pub fn add(&mut self, other: Self) {
        self.created += other.created;
        self.existing += other.existing;
        self.skipped += other.skipped;
        self.ids.extend(other.ids);
    }
}

/// Puts ids of here in the place of ids that were given.
pub(crate) fn rename(records: &mut AccountRecords, ids: &BTreeMap<String, String>) {
    fn put<T: std::str::FromStr + std::fmt::Display>(id: &mut T, ids: &BTreeMap<String, String>) {
        if let Some(Ok(here)) = ids.get(&id.to_string()).map(|here| here.parse()) {
            *id = here;
        }
    }
    for team in &mut records.teams {
        put(&mut team.organization, ids);
    }
    for membership in &mut records.memberships {
        put(&mut membership.organization, ids);
        put(&mut membership.member, ids);
    }
    for membership in &mut records.team_members {
        put(&mut membership.team, ids);
        put(&mut membership.organization, ids);
        put(&mut membership.member, ids);
    }
}
