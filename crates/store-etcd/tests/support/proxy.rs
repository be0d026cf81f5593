//! A connection in between that can be cut: at once, or after so many bytes of answers, so that answers are lost.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// More than is ever sent.
const NEVER: i64 = i64::MAX / 2;

pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    target: SocketAddr,
    /// How many bytes of answers may still pass.
    left: AtomicI64,
    refusing: AtomicBool,
    cuts: AtomicU64,
    generation: watch::Sender<u64>,
}

impl Proxy {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            target,
            left: AtomicI64::new(NEVER),
            refusing: AtomicBool::new(false),
            cuts: AtomicU64::new(0),
            generation: watch::Sender::new(0),
        });
        let serving = shared.clone();
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                if !serving.refusing.load(Ordering::SeqCst) {
                    tokio::spawn(serving.clone().carry(stream));
                }
            }
        });
        Self { address, shared, task }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Cuts every connection after so many more bytes of answers.
    pub fn cut_after(&self, bytes: i64) {
        self.shared.left.store(bytes, Ordering::SeqCst);
    }

    /// Lets nobody connect.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refusing.store(refuse, Ordering::SeqCst);
    }

    /// Ends whatever was set up.
    pub fn heal(&self) {
        self.cut_after(NEVER);
        self.refuse(false);
    }

    /// How often connections were cut.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.cut();
    }
}

impl Shared {
    fn cut(&self) {
        self.left.store(NEVER, Ordering::SeqCst);
        self.cuts.fetch_add(1, Ordering::SeqCst);
        self.generation.send_modify(|generation| *generation += 1);
    }

    async fn carry(self: Arc<Self>, client: TcpStream) {
        let mut generation = self.generation.subscribe();
        // Accepted just before nobody was let in any more, and cut off just before it could be told so.
        if self.refusing.load(Ordering::SeqCst) {
            return;
        }
        let Ok(server) = TcpStream::connect(self.target).await else { return };
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let up = tokio::io::copy(&mut from_client, &mut to_server);
        let down = async {
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                let left = self.left.fetch_sub(count as i64, Ordering::SeqCst);
                if left < count as i64 {
                    self.cut();
                    return;
                }
                if to_client.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        };
        // What was cut says nothing more, whatever has come in meanwhile.
        tokio::select! {
            biased;
            _ = generation.changed() => {}
            _ = up => {}
            () = down => {}
        }
    }
}
