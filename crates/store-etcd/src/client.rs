//! Calls to whichever member answers: the next endpoint when one fails, each call bounded in time. When nothing was answered
//! for as long as a call may take, calls are refused at once, and one task for each endpoint looks out for the end of that.

use std::{sync::Arc, time::Duration};

use dtr_types::Revision;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use crate::{
    ConnectError, Options, Timing, Tls,
    connection::{Connection, Endpoint},
    fault::Fault,
    line::Line,
    outlook::Outlook,
    wire::{
        HeaderOnly, LeaseRequest, LeaseResponse, Nothing, RangeRequest, RangeResponse,
        StatusResponse, method,
    },
};

/// The first pause after all endpoints failed; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(300);

/// The members of one etcd cluster.
pub(crate) struct Client {
    /// The nearest first. Others come and go while it runs.
    lines: RwLock<Arc<[Arc<Line>]>>,
    pub(crate) timing: Timing,
    tls: RwLock<Arc<rustls::ClientConfig>>,
    /// For calls that need a majority, and for those that a member answers by itself.
    majority: Outlook,
    any: Outlook,
    /// The etcd cluster that the first connection was to; another one is never used.
    cluster: Mutex<Option<u64>>,
    me: std::sync::Weak<Self>,
}

/// What an answer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A member that knows of a leader.
    Majority,
    /// A member.
    Any,
}

/// A call that waits for its answer: how an attempt is made on a connection.
pub(crate) trait Call: Sync {
    /// What comes back.
    type Answer: Send;
    /// What an answer takes.
    fn need(&self) -> Need {
        Need::Majority
    }
    /// One attempt.
    fn attempt(
        &self,
        connection: &Connection,
    ) -> impl Future<Output = Result<Self::Answer, Fault>> + Send;
}

/// A plain request and its answer.
pub(crate) struct Unary<M, R> {
    pub(crate) method: &'static str,
    pub(crate) message: M,
    /// Whether a member without a leader shall refuse.
    pub(crate) leader: bool,
    pub(crate) answer: std::marker::PhantomData<fn() -> R>,
}

impl<M, R> Call for Unary<M, R>
where
    M: prost::Message + Clone + 'static,
    R: prost::Message + Default + 'static,
{
    type Answer = R;

    fn need(&self) -> Need {
        if self.leader { Need::Majority } else { Need::Any }
    }

    async fn attempt(&self, connection: &Connection) -> Result<R, Fault> {
        connection.unary(self.method, self.message.clone(), self.leader).await
    }
}

/// One beat of a lease: etcd has it as a stream only.
pub(crate) struct KeepAlive(pub(crate) i64);

impl Call for KeepAlive {
    type Answer = LeaseResponse;

    async fn attempt(&self, connection: &Connection) -> Result<LeaseResponse, Fault> {
        let request = LeaseRequest { id: self.0 };
        let mut stream = connection.stream(method::LEASE_KEEP_ALIVE, request, true).await?;
        let answer = stream.message().await.map_err(Fault::from)?;
        answer.ok_or_else(|| Fault::Doubt("the lease's stream ended without an answer".to_owned()))
    }
}

impl Client {
    pub(crate) fn new(options: &Options) -> Result<Arc<Self>, ConnectError> {
        if options.endpoints.is_empty() {
            return Err(ConnectError::NoEndpoints);
        }
        let line = |text: &String| Ok(Arc::new(Line::new(Endpoint::parse(text)?)));
        let lines = options.endpoints.iter().map(line).collect::<Result<_, ConnectError>>()?;
        let lines = RwLock::new(lines);
        let tls = RwLock::new(options.tls.config()?);
        Ok(Arc::new_cyclic(|me| Self {
            lines,
            timing: options.timing,
            tls,
            majority: Outlook::new(),
            any: Outlook::new(),
            cluster: Mutex::new(options.cluster_id),
            me: me.clone(),
        }))
    }

    /// Uses other certificates from the next connection on.
    pub(crate) fn set_tls(&self, tls: &Tls) -> Result<(), ConnectError> {
        *self.tls.write() = tls.config()?;
        Ok(())
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.lines().iter().map(|line| line.endpoint.url.clone()).collect()
    }

    fn lines(&self) -> Arc<[Arc<Line>]> {
        Arc::clone(&self.lines.read())
    }

    /// These are asked from here on, the first of them first. Connections to those that stay are kept.
    pub(crate) fn set_endpoints(&self, urls: &[String]) -> Result<(), ConnectError> {
        if urls.is_empty() {
            return Err(ConnectError::NoEndpoints);
        }
        let before = self.lines();
        let line = |url: &String| match before.iter().find(|line| line.endpoint.url == *url) {
            Some(line) => Ok(Arc::clone(line)),
            None => Ok(Arc::new(Line::new(Endpoint::parse(url)?))),
        };
        *self.lines.write() = urls.iter().map(line).collect::<Result<_, ConnectError>>()?;
        Ok(())
    }

    /// The etcd cluster's number, once it is known.
    pub(crate) fn cluster(&self) -> Option<u64> {
        *self.cluster.lock()
    }

    /// A plain call that may be repeated.
    pub(crate) async fn call<M, R>(&self, method: &'static str, message: M) -> Result<R, Fault>
    where
        M: prost::Message + Clone + 'static,
        R: prost::Message + Default + 'static,
    {
        let answer = std::marker::PhantomData;
        self.run(&Unary { method, message, leader: true, answer }, true, self.deadline()).await
    }

    /// A plain call that may be repeated, and that a member answers by itself, also without a majority.
    pub(crate) async fn call_any<M, R>(&self, method: &'static str, message: M) -> Result<R, Fault>
    where
        M: prost::Message + Clone + 'static,
        R: prost::Message + Default + 'static,
    {
        let answer = std::marker::PhantomData;
        self.run(&Unary { method, message, leader: false, answer }, true, self.deadline()).await
    }

    /// When a call that begins now has to end.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.timing.call
    }

    fn outlook(&self, need: Need) -> &Outlook {
        match need {
            Need::Majority => &self.majority,
            Need::Any => &self.any,
        }
    }

    /// Makes attempts until one is answered, the deadline has come, or there is no point in going on. Unless
    /// `repeatable`, an attempt whose fate is in doubt is the last.
    pub(crate) async fn run<C: Call>(
        &self,
        call: &C,
        repeatable: bool,
        deadline: Instant,
    ) -> Result<C::Answer, Fault> {
        let need = call.need();
        let outlook = self.outlook(need);
        let (mut tries, mut pause) = (0, PAUSE);
        loop {
            if let Some(fault) = outlook.lost() {
                return Err(fault);
            }
            let fault = match self.attempt(call, deadline).await {
                Ok(answer) => return Ok(answer),
                Err(fault) if fault.elsewhere(repeatable) => fault,
                Err(fault) => return Err(fault),
            };
            tries += 1;
            let round = tries % self.lines().len() == 0;
            let late = Instant::now() + pause >= deadline;
            // What is left of a call's time may be less than a pause.
            let lost = outlook.in_trouble() + PAUSE_MAX > self.timing.call;
            if lost && (late || round) {
                self.lose(need, &fault);
            }
            if late {
                return Err(fault);
            }
            if round {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }

    async fn attempt<C: Call>(&self, call: &C, deadline: Instant) -> Result<C::Answer, Fault> {
        let need = call.need();
        let (outlook, began) = (self.outlook(need), Instant::now());
        let (turn, homeward) = outlook.turn();
        if homeward {
            self.go_home(need);
        }
        let lines = self.lines();
        let line = &lines[turn.at % lines.len()];
        let fault = match tokio::time::timeout_at(deadline, self.connection(line)).await {
            Ok(Ok(connection)) => {
                let answered = self.ask(line, &connection, call, deadline).await;
                match answered {
                    Ok(answer) => {
                        outlook.answered();
                        return Ok(answer);
                    }
                    Err(fault @ (Fault::NotDone(_) | Fault::Doubt(_))) => fault,
                    // An answer, though not a good one.
                    Err(fault) => {
                        outlook.answered();
                        return Err(fault);
                    }
                }
            }
            Ok(Err(fault)) => fault,
            Err(_) => Fault::NotDone(format!("{}: no connection in time", line.endpoint.url)),
        };
        outlook.failed(began);
        outlook.pass(turn, lines.len());
        Err(fault)
    }

    async fn ask<C: Call>(
        &self,
        line: &Line,
        connection: &Connection,
        call: &C,
        deadline: Instant,
    ) -> Result<C::Answer, Fault> {
        let url = &line.endpoint.url;
        let until = deadline.min(Instant::now() + self.timing.attempt);
        let doubt = match tokio::time::timeout_at(until, call.attempt(connection)).await {
            // The member is there, and cannot do it.
            Ok(Err(Fault::NotDone(why))) => return Err(Fault::NotDone(format!("{url}: {why}"))),
            Ok(Err(Fault::Doubt(why))) => format!("{url}: {why}"),
            Ok(answer) => return answer,
            Err(_) => format!("{url} did not answer in {:?}", self.timing.attempt),
        };
        line.leave(connection);
        Err(Fault::Doubt(doubt))
    }

    async fn connection(&self, line: &Line) -> Result<Connection, Fault> {
        line.connection(|| self.open(&line.endpoint)).await
    }

    /// Why calls that need a majority are refused at once, while they are.
    pub(crate) fn without_majority(&self) -> Option<Fault> {
        self.majority.lost()
    }

    /// From here on calls are refused at once, until an endpoint answers again.
    fn lose(&self, need: Need, why: &Fault) {
        let said = |why: &Fault| match why {
            Fault::NotDone(why) | Fault::Doubt(why) => {
                Fault::NotDone(format!("no answer for some seconds now: {why}"))
            }
            other => other.clone(),
        };
        let Some(loss) = self.outlook(need).lose(&said(why)) else { return };
        tracing::debug!(?need, ?why, "etcd does not answer any more");
        for at in 0..self.lines().len() {
            let me = self.me.clone();
            tokio::spawn(async move {
                let mut pause = PAUSE;
                while let Some(me) = me.upgrade().filter(|me| me.outlook(need).is_lost(loss)) {
                    match me.prove(at, need).await {
                        Err(why @ (Fault::NotDone(_) | Fault::Doubt(_))) => {
                            // The nearest knows best what is missing.
                            if at == 0 {
                                me.outlook(need).still_lost(loss, &said(&why));
                            }
                        }
                        _ if me.outlook(need).is_lost(loss) => {
                            tracing::debug!(?need, at, "etcd answers again");
                            me.outlook(need).settle_at(at);
                            return me.outlook(need).answered();
                        }
                        _ => return,
                    }
                    drop(me);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            });
        }
    }

    /// Tries the first endpoint again, which is the nearest: what another one was used for may be over. The one that works is
    /// left only for one that has proven to.
    fn go_home(&self, need: Need) {
        let Some(me) = self.me.upgrade() else { return };
        tokio::spawn(async move {
            match me.prove(0, need).await {
                Ok(()) => me.outlook(need).settle_at(0),
                Err(fault) => tracing::debug!(?fault, "the first endpoint is not there yet"),
            }
        });
    }

    /// Finds out whether an endpoint answers now what takes so much.
    async fn prove(&self, at: usize, need: Need) -> Result<(), Fault> {
        let lines = self.lines();
        let gone = || Fault::NotDone("the endpoint is asked no more".to_owned());
        let line = lines.get(at).ok_or_else(gone)?;
        let connection = self.connection(line).await?;
        let deadline = self.deadline();
        match need {
            Need::Majority => {
                let key = bytes::Bytes::from_static(b"\0");
                let message =
                    RangeRequest { key, limit: 1, count_only: true, ..RangeRequest::default() };
                let (method, answer) = (method::RANGE, std::marker::PhantomData);
                let call = Unary::<_, RangeResponse> { method, message, leader: true, answer };
                self.ask(line, &connection, &call, deadline).await.map(drop)
            }
            Need::Any => {
                let (method, message) = (method::STATUS, Nothing {});
                let answer = std::marker::PhantomData;
                let call = Unary::<_, StatusResponse> { method, message, leader: false, answer };
                self.ask(line, &connection, &call, deadline).await.map(drop)
            }
        }
    }

    async fn open(&self, endpoint: &Endpoint) -> Result<Connection, Fault> {
        let tls = self.tls.read().clone();
        let connection = Connection::open(endpoint, tls, &self.timing).await?;
        let found = connection.hello.header.as_ref().map_or(0, |header| header.cluster_id);
        let wanted = *self.cluster.lock().get_or_insert(found);
        if wanted != found {
            let why = format!(
                "{}: it belongs to the etcd cluster {found:x}, not to {wanted:x}: correct the endpoints",
                endpoint.url
            );
            return Err(Fault::NotDone(why));
        }
        if connection.hello.is_learner {
            return Err(Fault::NotDone(format!("{}: it is still a learner", endpoint.url)));
        }
        Ok(connection)
    }

    /// A connection of its own, for a stream that must not hold up other calls when nobody reads it. `turn` chooses where
    /// to begin.
    pub(crate) async fn separate(&self, turn: usize) -> Result<Connection, Fault> {
        let mut fault = Fault::NotDone("there is no endpoint".to_owned());
        let lines = self.lines();
        for n in 0..lines.len() {
            match self.open(&lines[(turn + n) % lines.len()].endpoint).await {
                Ok(connection) => return Ok(connection),
                Err(why) => fault = why,
            }
        }
        Err(fault)
    }

    /// A connection of its own to a certain member of this cluster that votes.
    pub(crate) async fn apart(&self, url: &str) -> Result<Connection, Fault> {
        let endpoint = Endpoint::parse(url).map_err(|e| Fault::NotDone(e.to_string()))?;
        self.open(&endpoint).await
    }

    /// A connection to a certain member, learner or not.
    pub(crate) async fn to(&self, url: &str) -> Result<Connection, Fault> {
        let endpoint = match self.lines().iter().find(|line| line.endpoint.url == url) {
            Some(line) => line.endpoint.clone(),
            None => Endpoint::parse(url).map_err(|e| Fault::Refused(e.to_string()))?,
        };
        let tls = self.tls.read().clone();
        Connection::open(&endpoint, tls, &self.timing).await
    }

    /// Compacts etcd itself before `revision`; with `physical`, waits until the room is free inside the file.
    pub(crate) async fn compact(&self, revision: Revision, physical: bool) -> Result<(), Fault> {
        let revision = i64::try_from(revision.0).unwrap_or(i64::MAX);
        let request = crate::wire::CompactionRequest { revision, physical };
        match self.call::<_, HeaderOnly>(method::COMPACT, request).await {
            Ok(_) | Err(Fault::Compacted) => Ok(()),
            Err(fault) => Err(fault),
        }
    }
}
