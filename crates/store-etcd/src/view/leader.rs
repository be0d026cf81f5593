//! Questions to the member that leads. Any member can say what the latest revision is, but one that follows asks the leader,
//! and for all who ask the leader at a time it is one question to the majority. So it saves the members work to ask there at
//! once; who leads is only ever a hint.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    client::Client,
    connection::Connection,
    fault::Fault,
    wire::{
        Header, MemberListRequest, MembersResponse, Nothing, RangeRequest, RangeResponse,
        StatusResponse, method,
    },
};

/// A leader that does not answer within this time is left alone: others know whether it still leads.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long after the leader was looked for, or was left alone, it is looked for again.
const PAUSE: Duration = Duration::from_secs(3);

#[derive(Default)]
struct State {
    /// The term whose leader is known, and which member that is; 0 when none is.
    term: u64,
    leader: u64,
    /// To the leader, unless that is the member that is asked anyway.
    connection: Option<Connection>,
    seeking: bool,
    sought: Option<Instant>,
}

/// Clones share what is known.
#[derive(Clone)]
pub(super) struct Leader {
    client: Arc<Client>,
    state: Arc<Mutex<State>>,
}

impl Leader {
    pub(super) fn new(client: Arc<Client>) -> Self {
        Self { client, state: Arc::default() }
    }

    /// The leader's answer; none when any member is to be asked instead.
    pub(super) async fn ask(&self, request: &RangeRequest) -> Option<RangeResponse> {
        let connection = self.state.lock().connection.clone()?;
        let asked = connection.unary(method::RANGE, request.clone(), true);
        if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, asked).await {
            return Some(answer);
        }
        let mut state = self.state.lock();
        (state.connection, state.term, state.sought) = (None, 0, Some(Instant::now()));
        None
    }

    /// This member has answered, in this term.
    pub(super) fn heard(&self, header: &Header) {
        {
            let mut state = self.state.lock();
            let lately = state.sought.is_some_and(|sought| sought.elapsed() < PAUSE);
            let known = (state.term, state.leader) == (header.raft_term, header.member_id);
            if known || state.seeking || lately {
                return;
            }
            (state.seeking, state.sought) = (true, Some(Instant::now()));
        }
        let leader = self.clone();
        tokio::spawn(async move {
            let found = leader.seek().await;
            let mut state = leader.state.lock();
            state.seeking = false;
            match found {
                Ok((status, connection)) => {
                    (state.term, state.leader) = (status.raft_term, status.leader);
                    state.connection = connection;
                }
                Err(fault) => {
                    tracing::debug!(?fault, "the leading member cannot be asked, others are");
                }
            }
        });
    }

    async fn seek(&self) -> Result<(StatusResponse, Option<Connection>), Fault> {
        let status: StatusResponse = self.client.call_any(method::STATUS, Nothing {}).await?;
        let asked = status.header.as_ref().map_or(0, |header| header.member_id);
        if status.leader == asked {
            return Ok((status, None));
        }
        let request = MemberListRequest { linearizable: false };
        let all: MembersResponse = self.client.call_any(method::MEMBER_LIST, request).await?;
        let leader = all.members.into_iter().find(|member| member.id == status.leader);
        let mut fault = Fault::NotDone("no member leads".to_owned());
        for url in leader.map(|member| member.client_urls).unwrap_or_default() {
            match self.client.apart(&url).await {
                Ok(connection) => return Ok((status, Some(connection))),
                Err(why) => fault = why,
            }
        }
        Err(fault)
    }
}
