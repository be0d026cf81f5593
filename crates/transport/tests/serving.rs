//! The server as real clients meet it: over TLS with our own authority, plain, redirected, over its limits, draining.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

#[path = "serving/cross_site.rs"]
mod cross_site;
#[path = "serving/shares.rs"]
mod shares;
mod support;

use std::{net::SocketAddr, time::Duration};

use dtr_transport::{
    AccessLog, Body, ExternalHost, Forwarded, Limits, ListenerKind, LogUser, Metrics, Redirect,
    RequestInfo, Server, pki, tls::ServerTls,
};
use dtr_types::{Clock as _, SystemClock, SystemRandom};
use http::{Request, Response, StatusCode, Version};
use http_body_util::BodyExt as _;
use support::{client, eventually, plain_client, raw, start};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[tokio::test]
async fn tls_with_our_own_authority_over_both_protocols() {
    let running = start(Limits::default()).await;
    let ca = running.authority.certificate_pem();
    for (http1, version) in [(false, Version::HTTP_2), (true, Version::HTTP_11)] {
        let answer =
            client(Some(ca), false, http1).get(running.https("/info")).send().await.unwrap();
        assert_eq!(answer.version(), version);
        let headers = answer.headers().clone();
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert!(headers.contains_key("strict-transport-security"));
        assert_eq!(headers["x-request-id"].len(), 16);
        let text = answer.text().await.unwrap();
        assert!(text.starts_with("https 127.0.0.1 localhost:"), "{text}");
    }
    let stranger = client(None, false, false).get(running.https("/info")).send().await;
    assert!(stranger.is_err(), "our CA is not among the system's");
    let careless = client(None, true, false).get(running.https("/info")).send().await;
    assert_eq!(careless.unwrap().status(), 200);
    running.stop().await;
}

#[tokio::test]
async fn plain_over_both_protocols() {
    let running = start(Limits::default()).await;
    let answer = plain_client().get(running.plain("/info")).send().await.unwrap();
    assert_eq!(answer.version(), Version::HTTP_11);
    assert!(!answer.headers().contains_key("strict-transport-security"));
    let prior = reqwest::Client::builder()
        .tls_backend_preconfigured(dtr_transport::tls::client_config(None, false).unwrap())
        .http2_prior_knowledge()
        .build()
        .unwrap();
    let answer = prior.get(running.plain("/info")).send().await.unwrap();
    assert_eq!(answer.version(), Version::HTTP_2);
    running.stop().await;
}

#[tokio::test]
async fn a_refusal_is_heard_in_the_middle_of_a_body() {
    const PIECE: usize = 64 * 1024;
    const PIECES: usize = 64;
    let running = start(Limits::default()).await;
    let address = running.addresses[&ListenerKind::Plain];
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head =
        format!("POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", PIECE * PIECES);
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    let is_whole = |heard: &[u8]| heard.ends_with(b"not wanted");
    while !is_whole(&heard) {
        assert_ne!(stream.read_buf(&mut heard).await.unwrap(), 0, "the connection ends too early");
    }
    for _ in 0..PIECES {
        stream.write_all(&vec![0; PIECE]).await.expect("what is not wanted is still taken");
    }
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut next = String::new();
    stream.read_to_string(&mut next).await.unwrap();
    assert!(
        next.starts_with("HTTP/1.1 200"),
        "the connection is good for the next request: {next}"
    );

    let client = client(Some(running.authority.certificate_pem()), false, false);
    let (to, from) = tokio::sync::mpsc::channel::<usize>(1);
    let pieces = futures_util::stream::unfold(from, async |mut from| {
        let size = from.recv().await?;
        Some((Ok::<_, std::io::Error>(vec![0; size]), from))
    });
    let body = reqwest::Body::wrap_stream(pieces);
    let answer = client.post(running.https("/refuse")).body(body).send().await.unwrap();
    assert_eq!((answer.version(), answer.status().as_u16()), (Version::HTTP_2, 403));
    assert_eq!(answer.text().await.unwrap(), "not wanted");
    for _ in 0..PIECES {
        to.send(PIECE).await.expect("the stream is not reset under the client");
    }
    running.stop().await;
}

#[tokio::test]
async fn the_certificate_is_exchanged_while_serving() {
    let running = start(Limits::default()).await;
    let old = client(Some(running.authority.certificate_pem()), false, true);
    assert!(old.get(running.https("/info")).send().await.is_ok());
    let now = SystemClock.now();
    let next = pki::Authority::make("The next CA", now).unwrap();
    let names = pki::SubjectNames::local();
    let issued = next.issue_server(&names, now, pki::SERVER_VALIDITY).unwrap();
    running.tls.exchange(&issued).unwrap();
    let fresh = client(Some(next.certificate_pem()), false, false);
    assert_eq!(fresh.get(running.https("/info")).send().await.unwrap().status(), 200);
    assert_eq!(
        old.get(running.https("/info")).send().await.unwrap().status(),
        200,
        "a running connection goes on"
    );
    let broken = pki::ServerCertificate { key_pem: next.key_pem().clone(), ..issued };
    assert!(running.tls.exchange(&broken).is_err(), "a key of another certificate");
    assert!(fresh.get(running.https("/info")).send().await.is_ok(), "what was there stays");
    running.stop().await;
}

#[tokio::test]
async fn the_redirect_port_redirects_and_answers_ping() {
    let running = start(Limits::default()).await;
    let https = running.addresses[&ListenerKind::Https].port();
    let redirect = running.addresses[&ListenerKind::Redirect];
    let text =
        raw(redirect, "GET /v2/?a=b HTTP/1.1\r\nHost: dtr.test\r\nConnection: close\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 301"), "{text}");
    assert!(text.contains(&format!("location: https://dtr.test:{https}/v2/?a=b\r\n")), "{text}");
    for bad in ["evil.example@x", "a/b", "a b"] {
        let ask = format!("POST / HTTP/1.1\r\nHost: {bad}\r\nConnection: close\r\n\r\n");
        let text = raw(redirect, &ask).await;
        assert!(text.starts_with("HTTP/1.1 400") && !text.contains("location"), "{text}");
    }
    let ping = plain_client().get(format!("http://{redirect}/_ping")).send().await.unwrap();
    assert_eq!(ping.text().await.unwrap(), "pong");
    running.stop().await;
}

#[tokio::test]
async fn hosts_that_are_in_doubt() {
    let running = start(Limits::default()).await;
    let plain = running.addresses[&ListenerKind::Plain];
    let ask = async |hosts: &str| {
        raw(plain, &format!("GET /info HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")).await
    };
    // The plain listener cannot know whether this is what the client used, or what its proxy made of it.
    let one = ask("Host: backend:5000\r\n").await;
    assert!(one.ends_with("backend:5000 false false"), "{one}");
    let told = ask("Host: backend:5000\r\nX-Forwarded-Host: dtr.example.com\r\n").await;
    assert!(told.ends_with("dtr.example.com false true"), "{told}");
    let two = ask("Host: a.example\r\nHost: b.example\r\n").await;
    assert!(two.starts_with("HTTP/1.1 400"), "{two}");
    running.stop().await;
}

#[tokio::test]
async fn forwarding_headers_count_only_where_allowed() {
    let running = start(Limits::default()).await;
    let ca = running.authority.certificate_pem().to_owned();
    let ask = async |client: reqwest::Client, url: String| {
        let request = client
            .get(url)
            .header("x-forwarded-for", "203.0.113.7")
            .header("x-forwarded-proto", "https")
            .header("x-forwarded-host", "dtr.example.com");
        request.send().await.unwrap().text().await.unwrap()
    };
    // The plain listener of `start` believes 127.0.0.1.
    assert_eq!(
        ask(plain_client(), running.plain("/info")).await,
        "https 203.0.113.7 dtr.example.com false true"
    );
    let direct = ask(client(Some(&ca), false, false), running.https("/info")).await;
    assert!(direct.starts_with("https 127.0.0.1 localhost:"), "{direct}");
    assert!(direct.ends_with("false true"), "the headers never reach the handler");
    running.stop().await;
}

#[tokio::test]
async fn drain_finishes_a_slow_body_and_accepts_nothing_new() {
    let running = start(Limits::default()).await;
    let client = client(Some(running.authority.certificate_pem()), false, false);
    let mut slow = client.get(running.https("/slow")).send().await.unwrap();
    let mut plain = plain_client().get(running.plain("/slow")).send().await.unwrap();
    assert_eq!(slow.chunk().await.unwrap().unwrap(), "begin");
    assert_eq!(plain.chunk().await.unwrap().unwrap(), "begin");
    running.shutdown.drain.cancel();
    let address = running.addresses[&ListenerKind::Https];
    eventually("the port is closed", async || TcpStream::connect(address).await.is_err()).await;
    let redirect = running.addresses[&ListenerKind::Redirect];
    let ask = "GET /_ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let ping = raw(redirect, ask).await;
    assert!(ping.starts_with("HTTP/1.1 200"), "a load balancer is still answered: {ping}");
    running.gate.add_permits(2);
    for body in [&mut slow, &mut plain] {
        assert_eq!(body.chunk().await.unwrap().unwrap(), "end");
        while let Some(rest) = body.chunk().await.unwrap() {
            assert!(rest.is_empty(), "nothing but an empty last frame");
        }
    }
    assert_eq!(running.done().await.cut, 0);
}

#[tokio::test]
async fn drain_cuts_what_takes_too_long() {
    let limits = Limits { drain: Duration::from_millis(100), ..Limits::default() };
    let running = start(limits).await;
    let mut slow = plain_client().get(running.plain("/slow")).send().await.unwrap();
    assert_eq!(slow.chunk().await.unwrap().unwrap(), "begin");
    running.shutdown.drain.cancel();
    assert!(slow.chunk().await.is_err(), "cut in the middle, and the client can tell");
    assert_eq!(running.done().await.cut, 1);
}

#[tokio::test]
async fn heads_are_bounded_in_size_and_time() {
    let limits = Limits {
        header_bytes: 4096,
        header_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    let running = start(limits).await;
    let plain = running.addresses[&ListenerKind::Plain];
    let big = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Big: {}\r\n\r\n", "x".repeat(8192));
    let text = raw(plain, &big).await;
    assert!(text.starts_with("HTTP/1.1 431"), "{text}");
    let ca = running.authority.certificate_pem();
    let answer = client(Some(ca), false, false)
        .get(running.https("/info"))
        .header("x-big", "x".repeat(8192))
        .send()
        .await;
    assert!(answer.map_or(true, |a| a.status() == 431), "HTTP/2 refuses it too");
    for beginning in [
        "",
        "G",
        "GET / HTTP/1.1
Host: a
",
    ] {
        // Ends when the server closes; `raw` fails if it does not within its limit.
        raw(plain, beginning).await;
    }
    let text = running.metrics.encode();
    assert!(text.contains(r#"http_refused_total{limit="header_timeout"} 3"#), "{text}");
    running.stop().await;
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let limits = Limits { idle_timeout: Duration::from_millis(100), ..Limits::default() };
    let running = start(limits).await;
    let text =
        raw(running.addresses[&ListenerKind::Plain], "GET /info HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    running.stop().await;
}

#[tokio::test]
async fn a_client_that_stops_in_a_body_is_given_up() {
    let limits = Limits { body_idle_timeout: Duration::from_millis(200), ..Limits::default() };
    let running = start(limits).await;
    let plain = running.addresses[&ListenerKind::Plain];
    let text = raw(plain, "PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").await;
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    // A download of which nothing is read.
    let mut stream = TcpStream::connect(plain).await.unwrap();
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    eventually("the download is cut", async || {
        running.metrics.encode().contains(r#"http_refused_total{limit="body_idle_timeout"} 1"#)
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn too_many_connections_are_told_so() {
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let running = start(limits).await;
    let plain = running.addresses[&ListenerKind::Plain];
    let mut first = TcpStream::connect(plain).await.unwrap();
    let ask = "GET /info HTTP/1.1\r\nHost: a\r\n\r\n";
    first.write_all(ask.as_bytes()).await.unwrap();
    let mut some = [0; 12];
    first.read_exact(&mut some).await.unwrap();
    assert_eq!(&some, b"HTTP/1.1 200");
    let text = raw(plain, ask).await;
    assert!(text.starts_with("HTTP/1.1 503"), "{text}");
    assert!(text.contains("retry-after: 1\r\n") && text.contains("UNAVAILABLE"), "{text}");
    let ping = raw(plain, "GET /_ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(ping.starts_with("HTTP/1.1 200"), "health is answered all the same: {ping}");
    drop(first);
    eventually("there is room again", async || {
        raw(plain, "GET /info HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 200")
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn too_many_requests_are_told_so_and_uploads_count_apart() {
    let limits = Limits { max_requests: 1, max_uploads: 0, ..Limits::default() };
    let running = start(limits).await;
    let client = client(Some(running.authority.certificate_pem()), false, false);
    let mut slow = client.get(running.https("/slow")).send().await.unwrap();
    assert_eq!(slow.chunk().await.unwrap().unwrap(), "begin");
    let refused = client.get(running.https("/info")).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "1");
    let upload = client.post(running.https("/v2/a/b/blobs/uploads/")).send().await.unwrap();
    assert_eq!(upload.status(), 503);
    assert!(upload.text().await.unwrap().contains("uploads"));
    assert_eq!(client.get(running.https("/_ping")).send().await.unwrap().status(), 200);
    running.gate.add_permits(1);
    assert_eq!(slow.chunk().await.unwrap().unwrap(), "end");
    drop(slow);
    eventually("there is room again", async || {
        client.get(running.https("/info")).send().await.unwrap().status() == 200
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    let running = start(Limits::default()).await;
    let ca = running.authority.certificate_pem();
    for http1 in [true, false] {
        let client = client(Some(ca), false, http1);
        let answer = client.get(running.https("/panic")).send().await.unwrap();
        assert_eq!(answer.status(), 500);
        let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
        let body: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(body["errors"][0]["code"], "UNKNOWN");
        assert_eq!(body["errors"][0]["detail"]["request_id"], id);
        assert!(!body.to_string().contains("on purpose"));
        assert_eq!(client.get(running.https("/info")).send().await.unwrap().status(), 200);
    }
    running.stop().await;
}

#[tokio::test]
async fn garbage_does_no_harm() {
    use dtr_types::{Random as _, SeededRandom};
    let limits = Limits {
        header_timeout: Duration::from_millis(100),
        handshake_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let running = start(limits).await;
    let random = SeededRandom::new(7);
    let heads: [&[u8]; 6] = [
        b"",
        b"GET / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"\r\n\r\n",
    ];
    for round in 0..60 {
        let mut bytes = heads[round % heads.len()].to_vec();
        bytes.extend(random.bytes::<256>());
        for address in running.addresses.values() {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // The server may close in the middle; that is its right.
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
    }
    assert_eq!(plain_client().get(running.plain("/info")).send().await.unwrap().status(), 200);
    let text = running.metrics.encode();
    assert!(text.contains("http_panics_total 0"), "{text}");
    eventually("nothing stays behind", async || {
        running.metrics.encode().contains("http_requests_in_flight 0")
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn metrics_tell_what_was_served() {
    let running = start(Limits::default()).await;
    let body = vec![b'x'; 100_000];
    let answer = plain_client()
        .put(running.plain("/v2/a/b/blobs/uploads/1"))
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.text().await.unwrap().len(), 100_000);
    eventually("it is counted", async || {
        let text = running.metrics.encode();
        text.contains(r#"http_requests_total{method="PUT",route="uploads",status="2xx"} 1"#)
            && text.contains("http_received_bytes_total 100000")
            && text.contains("http_sent_bytes_total 100000")
            && text.contains("http_requests_in_flight 0")
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn binding_errors_say_what_to_do() {
    let taken = std::net::TcpListener::bind(local()).unwrap();
    let service = tower::service_fn(support::answer(support::closed_gate()));
    let server = Server::new(service.clone(), Metrics::new(), &SystemRandom)
        .access_log(AccessLog::All)
        .plain(taken.local_addr().unwrap(), Forwarded::Ignore);
    let error = server.bind().await.err().unwrap().to_string();
    assert!(error.contains("another port"), "{error}");
    let foreign = Server::new(service.clone(), Metrics::new(), &SystemRandom)
        .plain("192.0.2.1:0".parse().unwrap(), Forwarded::Ignore);
    let error = foreign.bind().await.err().unwrap().to_string();
    assert!(error.contains("ip addr"), "{error}");
    let none = Server::new(service, Metrics::new(), &SystemRandom).bind().await;
    assert!(none.err().unwrap().to_string().contains("listener"));
}

#[tokio::test]
async fn an_axum_router_is_a_handler() {
    let router = axum::Router::new().route("/x", axum::routing::get(async || "from a router"));
    let server = Server::new(router, Metrics::new(), &SystemRandom)
        .plain(local(), Forwarded::Ignore)
        .bind()
        .await
        .unwrap();
    let (_, address) = server.addresses().next().unwrap();
    let token = tokio_util::sync::CancellationToken::new();
    let run = tokio::spawn(server.run(token.clone()));
    let answer = plain_client().get(format!("http://{address}/x")).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "from a router");
    token.cancel();
    run.await.unwrap();
}

#[tokio::test]
async fn the_access_log_names_who_and_what_but_no_secret() {
    let log = support::Captured::default();
    let _guard = tracing::subscriber::set_default(
        tracing_subscriber::fmt().json().with_writer(log.clone()).finish(),
    );
    let running = start(Limits::default()).await;
    let client = plain_client();
    let ask = async || {
        // Other tests log to nobody at this moment, which may have been remembered for this place.
        tracing::callsite::rebuild_interest_cache();
        let request = client
            .post(running.plain("/echo?password=hunter2"))
            .header("user-agent", "a test")
            .header("x-request-id", "from-the-client")
            .header("authorization", "Bearer hunter2");
        let answer = request.body("hunter2").send().await.unwrap();
        assert_eq!(answer.headers()["x-request-id"], "from-the-client");
        answer.text().await.unwrap();
    };
    // A read that went well is not worth a line at the usual level.
    client.get(running.plain("/info")).send().await.unwrap().text().await.unwrap();
    eventually("the line is there", async || {
        ask().await;
        log.text().contains("from-the-client")
    })
    .await;
    running.stop().await;
    let text = log.text();
    let line = text.lines().find(|line| line.contains("\"access\"")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let fields = &line["fields"];
    for (name, value) in [
        ("request_id", "from-the-client"),
        ("method", "POST"),
        ("path", "/echo"),
        ("remote", "127.0.0.1"),
        ("agent", "a test"),
        ("user", "somebody"),
    ] {
        assert_eq!(fields[name], value, "{fields}");
    }
    assert_eq!((&fields["status"], &fields["bytes"]), (&200.into(), &7.into()));
    assert!(!text.contains("hunter2") && !text.contains("/info"), "{text}");
}
