//! A plain HTTP/1.1 client that costs as little as possible, so that what is measured is the server: one connection, or
//! one to each of several replicas that take turns, one request at a time, responses with `Content-Length`.

use anyhow::{Context as _, Result, bail};
use dtr_transport::tls::client_config;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use std::sync::{Arc, LazyLock};

/// How a registry with TLS is spoken to: whatever certificate it has, for it was made for this measurement.
static TLS: LazyLock<Option<TlsConnector>> = LazyLock::new(|| {
    let mut config = client_config(None, true).ok()?;
    // All that this client speaks.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(TlsConnector::from(Arc::new(config)))
});

/// One connection to one server, or one to each of several: then each request goes to the next of them.
pub struct Connection {
    links: Vec<Link>,
    turn: usize,
    /// `Authorization`, if the server asks for it.
    pub authorization: Option<String>,
}

struct Link {
    host: String,
    reader: BufReader<Box<dyn AsyncRead + Send + Unpin>>,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
}

/// What came back.
pub struct Response {
    /// The status code.
    pub status: u16,
    headers: String,
    /// The body, unless it was only counted.
    pub body: Vec<u8>,
    /// Bytes of the body.
    pub length: u64,
}

impl Response {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Connection {
    /// Connects to each `host:port`, with or without TLS; whatever their certificates. Connections of which each begins
    /// with another `turn` do not all meet at one server.
    pub async fn open(hosts: &[String], tls: bool, turn: usize) -> Result<Self> {
        let mut links = Vec::new();
        for host in hosts {
            links.push(Link::open(host, tls).await?);
        }
        Ok(Self { links, turn, authorization: None })
    }

    /// Whose turn it is, and the head of what is sent there, without the empty line.
    fn begin(&mut self, method: &str, target: &str, content_type: &str) -> (&mut Link, String) {
        self.turn = (self.turn + 1) % self.links.len();
        let link = &mut self.links[self.turn];
        // A location may be absolute; only its path and query are sent.
        let path = match target.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
            None => target,
        };
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", link.host);
        if !content_type.is_empty() {
            head.push_str(&format!("Content-Type: {content_type}\r\n"));
        }
        if let Some(authorization) = &self.authorization {
            head.push_str(&format!("Authorization: {authorization}\r\n"));
        }
        (link, head)
    }

    /// Sends a request with a body that is at hand, and reads the response whole.
    pub async fn send(
        &mut self,
        method: &str,
        target: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<Response> {
        let (link, mut request) = self.begin(method, target, content_type);
        request.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        link.writer.write_all(&bytes).await?;
        link.writer.flush().await?;
        link.response(true).await
    }

    /// Sends a body of unknown length made of `block` again and again, as docker does.
    pub async fn stream(
        &mut self,
        method: &str,
        target: &str,
        block: &[u8],
        times: usize,
    ) -> Result<Response> {
        let (link, mut request) = self.begin(method, target, "application/octet-stream");
        request.push_str("Transfer-Encoding: chunked\r\n\r\n");
        link.writer.write_all(request.as_bytes()).await?;
        let size = format!("{:x}\r\n", block.len());
        for _ in 0..times {
            link.writer.write_all(size.as_bytes()).await?;
            link.writer.write_all(block).await?;
            link.writer.write_all(b"\r\n").await?;
        }
        link.writer.write_all(b"0\r\n\r\n").await?;
        link.writer.flush().await?;
        link.response(true).await
    }

    /// Reads a large body without keeping it.
    pub async fn download(&mut self, target: &str) -> Result<Response> {
        let (link, mut request) = self.begin("GET", target, "");
        request.push_str("\r\n");
        link.writer.write_all(request.as_bytes()).await?;
        link.writer.flush().await?;
        link.response(false).await
    }
}

impl Link {
    async fn open(host: &str, tls: bool) -> Result<Self> {
        let stream =
            TcpStream::connect(host).await.with_context(|| format!("connecting to {host}"))?;
        stream.set_nodelay(true)?;
        if !tls {
            let (reader, writer) = stream.into_split();
            return Ok(Self::over(host, Box::new(reader), Box::new(writer)));
        }
        let connector = TLS.as_ref().context("TLS of the client")?;
        let name = ServerName::try_from("localhost")?;
        let (reader, writer) = tokio::io::split(connector.connect(name, stream).await?);
        Ok(Self::over(host, Box::new(reader), Box::new(writer)))
    }

    fn over(
        host: &str,
        reader: Box<dyn AsyncRead + Send + Unpin>,
        writer: Box<dyn AsyncWrite + Send + Unpin>,
    ) -> Self {
        let reader = BufReader::with_capacity(256 * 1024, reader);
        Self { host: host.to_owned(), reader, writer }
    }

    async fn response(&mut self, keep: bool) -> Result<Response> {
        let mut head = Vec::with_capacity(512);
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() > 64 * 1024 {
                bail!("the response's header does not end");
            }
            head.push(self.reader.read_u8().await.context("reading a response")?);
        }
        let headers = String::from_utf8_lossy(&head).into_owned();
        let status = headers.get(9..12).and_then(|s| s.parse().ok()).context("a status")?;
        let mut response = Response { status, headers, body: Vec::new(), length: 0 };
        let length: u64 =
            response.header("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
        response.length = length;
        if status == 204 || status == 304 {
            return Ok(response);
        }
        if keep {
            response.body = vec![0; usize::try_from(length)?];
            self.reader.read_exact(&mut response.body).await?;
        } else {
            let mut block = vec![0; 256 * 1024];
            let mut left = length;
            while left > 0 {
                let want = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let got = self.reader.read(&mut block[..want]).await?;
                if got == 0 {
                    bail!("the response ended {left} bytes early");
                }
                left -= got as u64;
            }
        }
        Ok(response)
    }
}
