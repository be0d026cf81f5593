//! Calls to whichever member answers: one connection at a time, the next endpoint when it fails, each call bounded in time.

use std::{sync::Arc, time::Duration};

use dtr_types::Revision;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use crate::{
    ConnectError, Options, Timing, Tls,
    connection::{Connection, Endpoint},
    fault::Fault,
    wire::{HeaderOnly, LeaseRequest, LeaseResponse, RangeRequest, RangeResponse, method},
};

/// The first pause after all endpoints failed; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(300);

/// How long after a connection to the first endpoint was left, that is tried again while another one is used.
const HOME: Duration = Duration::from_secs(5);

/// The members of one etcd cluster.
pub(crate) struct Client {
    endpoints: Vec<Endpoint>,
    pub(crate) timing: Timing,
    tls: RwLock<Arc<rustls::ClientConfig>>,
    current: tokio::sync::Mutex<Current>,
    /// Since when no call has had an answer.
    trouble: Mutex<Option<Instant>>,
    /// The etcd cluster that the first connection was to; another one is never used.
    cluster: Mutex<Option<u64>>,
    me: std::sync::Weak<Self>,
}

struct Current {
    /// Which endpoint is tried next, or is connected.
    at: usize,
    /// Counts connections, so that of many calls that fail on one, only the first gives it up.
    generation: u64,
    connection: Option<Connection>,
    /// When the first endpoint was last tried.
    home: Instant,
}

/// A call that waits for its answer: how an attempt is made on a connection.
pub(crate) trait Call: Sync {
    /// What comes back.
    type Answer: Send;
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
        let endpoints = options.endpoints.iter().map(|text| Endpoint::parse(text));
        let endpoints = endpoints.collect::<Result<_, _>>()?;
        let tls = RwLock::new(options.tls.config()?);
        let current = Current { at: 0, generation: 0, connection: None, home: Instant::now() };
        Ok(Arc::new_cyclic(|me| Self {
            endpoints,
            timing: options.timing,
            tls,
            current: tokio::sync::Mutex::new(current),
            trouble: Mutex::new(None),
            cluster: Mutex::new(options.cluster_id),
            me: me.clone(),
        }))
    }

    /// Uses other certificates from the next connection on.
    pub(crate) fn set_tls(&self, tls: &Tls) -> Result<(), ConnectError> {
        *self.tls.write() = tls.config()?;
        Ok(())
    }

    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.endpoints.iter().map(|endpoint| endpoint.url.as_str())
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

    /// Makes attempts until one is answered, the deadline has come, or there is no point in going on. Unless
    /// `repeatable`, an attempt whose fate is in doubt is the last.
    pub(crate) async fn run<C: Call>(
        &self,
        call: &C,
        repeatable: bool,
        deadline: Instant,
    ) -> Result<C::Answer, Fault> {
        let (mut tries, mut pause) = (0, PAUSE);
        loop {
            let fault = match self.attempt(call, deadline).await {
                Ok(answer) => {
                    *self.trouble.lock() = None;
                    return Ok(answer);
                }
                Err(fault) if fault.elsewhere(repeatable) => fault,
                Err(fault) => {
                    // An answer, though not a good one.
                    if !matches!(fault, Fault::Doubt(_)) {
                        *self.trouble.lock() = None;
                    }
                    return Err(fault);
                }
            };
            tries += 1;
            let round = tries % self.endpoints.len() == 0;
            let hopeless = self.in_trouble() > self.timing.call && round;
            if hopeless || Instant::now() + pause >= deadline {
                return Err(fault);
            }
            if round {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }

    /// For how long nothing has worked; begins to count now if something has until now.
    fn in_trouble(&self) -> Duration {
        self.trouble.lock().get_or_insert_with(Instant::now).elapsed()
    }

    async fn attempt<C: Call>(&self, call: &C, deadline: Instant) -> Result<C::Answer, Fault> {
        let late = |what: &str| format!("{what} did not answer in {:?}", self.timing.attempt);
        let connected = tokio::time::timeout_at(deadline, self.connection()).await;
        let (generation, url, connection) = match connected {
            Ok(connected) => connected?,
            Err(_) => {
                return Err(Fault::NotDone("no member could be connected in time".to_owned()));
            }
        };
        let until = deadline.min(Instant::now() + self.timing.attempt);
        let answer = tokio::time::timeout_at(until, call.attempt(&connection)).await;
        let fault = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(Fault::NotDone(why))) => Fault::NotDone(format!("{url}: {why}")),
            Ok(Err(Fault::Doubt(why))) => Fault::Doubt(format!("{url}: {why}")),
            Ok(Err(fault)) => return Err(fault),
            Err(_) => Fault::Doubt(late(url)),
        };
        self.give_up(generation).await;
        Err(fault)
    }

    /// The connection in use, made if there is none.
    async fn connection(&self) -> Result<(u64, &str, Connection), Fault> {
        let mut current = self.current.lock().await;
        if current.connection.as_ref().is_some_and(Connection::is_closed) {
            current.connection = None;
        }
        let at = current.at;
        if let Some(connection) = current.connection.clone() {
            if at != 0 && current.home.elapsed() > HOME {
                current.home = Instant::now();
                self.go_home();
            }
            return Ok((current.generation, &self.endpoints[at].url, connection));
        }
        current.generation += 1;
        if at == 0 {
            current.home = Instant::now();
        }
        match self.open(&self.endpoints[at]).await {
            Ok(connection) => {
                tracing::debug!(endpoint = self.endpoints[at].url, "connected to etcd");
                current.connection = Some(connection.clone());
                Ok((current.generation, &self.endpoints[at].url, connection))
            }
            Err(fault) => {
                current.at = (at + 1) % self.endpoints.len();
                Err(fault)
            }
        }
    }

    /// Tries the first endpoint again, which is the nearest: what another one was used for may be over. It must have proven
    /// that it belongs to a majority before the connection that works is given up.
    fn go_home(&self) {
        let Some(me) = self.me.upgrade() else { return };
        tokio::spawn(async move {
            let tried = async {
                let connection = me.open(&me.endpoints[0]).await?;
                let key = bytes::Bytes::from_static(b"\0");
                let request =
                    RangeRequest { key, limit: 1, count_only: true, ..RangeRequest::default() };
                let proof = connection.unary::<_, RangeResponse>(method::RANGE, request, true);
                let late = |_| Fault::NotDone("it does not answer".to_owned());
                tokio::time::timeout(me.timing.attempt, proof).await.map_err(late)??;
                Ok::<_, Fault>(connection)
            };
            match tried.await {
                Ok(connection) => {
                    let mut current = me.current.lock().await;
                    current.generation += 1;
                    (current.at, current.connection) = (0, Some(connection));
                }
                Err(fault) => tracing::debug!(?fault, "the first endpoint is not there yet"),
            }
        });
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

    /// Leaves a connection on which a call failed, for the next endpoint.
    async fn give_up(&self, generation: u64) {
        let mut current = self.current.lock().await;
        if current.generation == generation {
            current.connection = None;
            current.at = (current.at + 1) % self.endpoints.len();
        }
    }

    /// A connection of its own, for a stream that must not hold up other calls when nobody reads it. `turn` chooses where
    /// to begin.
    pub(crate) async fn separate(&self, turn: usize) -> Result<Connection, Fault> {
        let mut fault = Fault::NotDone("there is no endpoint".to_owned());
        for n in 0..self.endpoints.len() {
            match self.open(&self.endpoints[(turn + n) % self.endpoints.len()]).await {
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
        let endpoint = match self.endpoints.iter().find(|endpoint| endpoint.url == url) {
            Some(endpoint) => endpoint.clone(),
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
