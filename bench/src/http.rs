//! A plain HTTP/1.1 client that costs as little as possible, so that what is measured is the server: one connection,
//! one request at a time, responses with `Content-Length`.

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

/// One connection to one server.
pub struct Connection {
    host: String,
    reader: BufReader<Box<dyn AsyncRead + Send + Unpin>>,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// `Authorization`, if the server asks for it.
    pub authorization: Option<String>,
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
    /// Connects to `host:port`.
    pub async fn open(host: &str) -> Result<Self> {
        let stream =
            TcpStream::connect(host).await.with_context(|| format!("connecting to {host}"))?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        Ok(Self::over(host, Box::new(reader), Box::new(writer)))
    }

    /// Connects to `host:port` over TLS, whatever its certificate.
    pub async fn open_tls(host: &str) -> Result<Self> {
        let stream =
            TcpStream::connect(host).await.with_context(|| format!("connecting to {host}"))?;
        stream.set_nodelay(true)?;
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
        Self {
            host: host.to_owned(),
            reader: BufReader::with_capacity(256 * 1024, reader),
            writer,
            authorization: None,
        }
    }

    /// Sends a request with a body that is at hand, and reads the response whole.
    pub async fn send(
        &mut self,
        method: &str,
        target: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<Response> {
        let mut request = self.head(method, target, content_type);
        request.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        self.writer.write_all(&bytes).await?;
        self.writer.flush().await?;
        self.response(true).await
    }

    /// Sends a body of unknown length made of `block` again and again, as docker does.
    pub async fn stream(
        &mut self,
        method: &str,
        target: &str,
        block: &[u8],
        times: usize,
    ) -> Result<Response> {
        let mut request = self.head(method, target, "application/octet-stream");
        request.push_str("Transfer-Encoding: chunked\r\n\r\n");
        self.writer.write_all(request.as_bytes()).await?;
        let size = format!("{:x}\r\n", block.len());
        for _ in 0..times {
            self.writer.write_all(size.as_bytes()).await?;
            self.writer.write_all(block).await?;
            self.writer.write_all(b"\r\n").await?;
        }
        self.writer.write_all(b"0\r\n\r\n").await?;
        self.writer.flush().await?;
        self.response(true).await
    }

    /// Reads a large body without keeping it.
    pub async fn download(&mut self, target: &str) -> Result<Response> {
        let mut request = self.head("GET", target, "");
        request.push_str("\r\n");
        self.writer.write_all(request.as_bytes()).await?;
        self.writer.flush().await?;
        self.response(false).await
    }

    fn head(&self, method: &str, target: &str, content_type: &str) -> String {
        // A location may be absolute; only its path and query are sent.
        let path = match target.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
            None => target,
        };
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.host);
        if !content_type.is_empty() {
            head.push_str(&format!("Content-Type: {content_type}\r\n"));
        }
        if let Some(authorization) = &self.authorization {
            head.push_str(&format!("Authorization: {authorization}\r\n"));
        }
        head
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
