//! Events: who did what, when.

use dtr_types::{AccountId, Random, RepositoryId, Timestamp};
use serde::{Deserialize, Serialize};

use super::record;
use crate::keys;

/// What was done, in the original's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum EventType {
    /// Something was made or pushed.
    Create,
    /// Something was pulled.
    Get,
    /// Something was changed.
    Update,
    /// Something was deleted.
    Delete,
    /// Something was sent elsewhere.
    Send,
    /// Something failed.
    Fail,
    /// Something was scanned.
    Scan,
}

/// What it was done to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventObject {
    /// `tag`, `manifest`, `blob`, `repository`, `grant`, `account`, `team`, `token`, `settings`, `backup` ...
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name: a tag, a digest, a full repository name, an account name.
    pub name: String,
    /// Its id or digest, where it has one besides its name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
}

const fn once() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_once(count: &u64) -> bool {
    *count == 1
}

/// Who did what, when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Its id ([`Event::new_id`]); ids sort by time.
    pub id: String,
    /// When.
    pub published_at: Timestamp,
    /// Who, by name; empty for anonymous, `system` for the product itself.
    pub actor: String,
    /// Who, by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor_id: Option<AccountId>,
    /// What.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// In which repository, by full name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub repository: String,
    /// In which repository, by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_id: Option<RepositoryId>,
    /// To what.
    pub object: EventObject,
    /// How often, within seconds: alike things that came at once are one event.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub count: u64,
}
record!(Event, Event, |e| keys::event(&e.id));

impl Event {
    /// A new id: 12 hexadecimal digits of milliseconds, a dash, 12 random ones.
    pub fn new_id(at: Timestamp, random: &dyn Random) -> String {
        format!("{}-{}", Self::id_prefix(at), random.hex(6))
    }

    /// What the ids of events of this millisecond begin with: for ranges over time.
    pub fn id_prefix(at: Timestamp) -> String {
        format!("{:012x}", at.millis())
    }
}
