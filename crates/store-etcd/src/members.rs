//! Who is a member of the etcd cluster: changes that go through consensus, one after the other.

use std::sync::Arc;

use crate::{
    client::{Call, Client, Unary},
    connection::Connection,
    fault::Fault,
    maintenance::AdminError,
    wire::{
        self, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberRequest,
        MemberUpdateRequest, MembersResponse, RangeRequest, RangeResponse, method,
    },
};

/// A member as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberFacts {
    /// Its number.
    pub id: u64,
    /// Its name; empty until it has started for the first time.
    pub name: String,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has started for the first time.
    pub client_urls: Vec<String>,
    /// Whether it has no vote yet.
    pub learner: bool,
}

impl From<wire::Member> for MemberFacts {
    fn from(member: wire::Member) -> Self {
        Self {
            id: member.id,
            name: member.name,
            peer_urls: member.peer_urls,
            client_urls: member.client_urls,
            learner: member.is_learner,
        }
    }
}

/// The list as a majority knows it now. Before etcd 3.5 a member tells what it has applied, so it is first asked for
/// something that it can only answer once it has applied all.
struct List;

impl Call for List {
    type Answer = MembersResponse;

    async fn attempt(&self, connection: &Connection) -> Result<MembersResponse, Fault> {
        let key = bytes::Bytes::from_static(b"\0");
        let read = RangeRequest { key, limit: 1, count_only: true, ..RangeRequest::default() };
        connection.unary::<_, RangeResponse>(method::RANGE, read, true).await?;
        let request = MemberListRequest { linearizable: true };
        connection.unary(method::MEMBER_LIST, request, true).await
    }
}

/// See [`crate::EtcdStore::members`].
#[derive(Clone)]
pub struct Members {
    client: Arc<Client>,
}

impl Members {
    pub(crate) fn new(client: Arc<Client>) -> Self {
        Self { client }
    }

    /// All members, by number: every change that was acknowledged before is in it, whichever member answers.
    ///
    /// # Errors
    /// When no majority answers.
    pub async fn list(&self) -> Result<Vec<MemberFacts>, AdminError> {
        let listed = self.client.run(&List, true, self.client.deadline()).await;
        let answer: MembersResponse = listed.map_err(AdminError::repeatable)?;
        let mut members: Vec<_> = answer.members.into_iter().map(MemberFacts::from).collect();
        members.sort_by_key(|member| member.id);
        Ok(members)
    }

    /// Adds a member without a vote. It can be started then, with all members as its initial cluster, in the state
    /// `existing`.
    ///
    /// # Errors
    /// [`AdminError::MemberExists`], [`AdminError::TooManyLearners`], [`AdminError::MajorityAtRisk`].
    pub async fn add_learner(&self, peer_url: &str) -> Result<MemberFacts, AdminError> {
        let request = MemberAddRequest { peer_urls: vec![peer_url.to_owned()], is_learner: true };
        let answer: MemberAddResponse =
            self.once("adding a member", method::MEMBER_ADD, request).await?;
        let missing = || AdminError::Refused("the answer names no member".to_owned());
        answer.member.map(MemberFacts::from).ok_or_else(missing)
    }

    /// Gives a learner its vote.
    ///
    /// # Errors
    /// [`AdminError::NotCaughtUp`]: later; [`AdminError::NoSuchMember`], [`AdminError::MajorityAtRisk`].
    pub async fn promote(&self, id: u64) -> Result<(), AdminError> {
        let request = MemberRequest { id };
        let answer: Result<MembersResponse, _> =
            self.once("promoting a member", method::MEMBER_PROMOTE, request).await;
        answer.map(drop)
    }

    /// Removes a member; it stops by itself, and its data cannot come back.
    ///
    /// # Errors
    /// [`AdminError::NoSuchMember`], [`AdminError::MajorityAtRisk`].
    pub async fn remove(&self, id: u64) -> Result<(), AdminError> {
        let request = MemberRequest { id };
        let answer: Result<MembersResponse, _> =
            self.once("removing a member", method::MEMBER_REMOVE, request).await;
        answer.map(drop)
    }

    /// Tells the others a member's new peer URLs.
    ///
    /// # Errors
    /// As with [`Members::promote`].
    pub async fn update(&self, id: u64, peer_urls: Vec<String>) -> Result<(), AdminError> {
        let request = MemberUpdateRequest { id, peer_urls };
        let answer: Result<MembersResponse, _> =
            self.once("changing a member", method::MEMBER_UPDATE, request).await;
        answer.map(drop)
    }

    async fn once<M, R>(
        &self,
        what: &'static str,
        method: &'static str,
        message: M,
    ) -> Result<R, AdminError>
    where
        M: prost::Message + Clone + 'static,
        R: prost::Message + Default + 'static,
    {
        let call = Unary { method, message, leader: true, answer: std::marker::PhantomData };
        let answer: Result<R, Fault> = self.client.run(&call, false, self.client.deadline()).await;
        answer.map_err(|fault| AdminError::once(what, fault))
    }
}
