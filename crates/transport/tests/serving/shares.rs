//! What one client can take from the others: places, memory, connections; and what is done about it.

use super::*;

/// A request whose body is promised and does not come, from a client behind the proxy.
async fn stuck(running: &support::Running, client: &str, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(running.addresses[&ListenerKind::Plain]).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\nContent-Length: 10\r\n\r\nx"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn status(stream: &mut TcpStream) -> String {
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    String::from_utf8_lossy(&head[9..]).into_owned()
}

async fn ask(client: &str, request: reqwest::RequestBuilder) -> u16 {
    let sent = request.header("x-forwarded-for", client).send().await.unwrap();
    sent.status().as_u16()
}

const ATTACKER: &str = "203.0.113.1";
const SOMEBODY: &str = "203.0.113.2";

#[tokio::test]
async fn slow_bodies_of_one_address_take_nothing_from_others() {
    let limits = Limits {
        max_bodies: 8,
        max_requests: 8,
        login_timeout: Duration::from_secs(2),
        ..Limits::default()
    };
    let running = start(limits).await;
    let client = plain_client();
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(stuck(&running, ATTACKER, "/auth/token").await);
    }
    let refused = r#"http_refused_total{limit="bodies_share"} 36"#;
    eventually("it has its share", async || running.metrics.encode().contains(refused)).await;
    for path in ["/info", "/auth/token", "/_ping"] {
        assert_eq!(ask(SOMEBODY, client.get(running.plain(path))).await, 200, "{path}");
    }
    let login = client.post(running.plain("/auth/token")).body("name=a");
    assert_eq!(ask(SOMEBODY, login).await, 200, "a login comes through");
    assert_eq!(ask(ATTACKER, client.get(running.plain("/info"))).await, 200);
    // A byte now and then keeps none of them.
    let mut told = Vec::new();
    for stream in &mut held {
        let _gone = stream.write_all(b"x").await;
        told.push(status(stream).await);
    }
    let count = |wanted: &str| told.iter().filter(|status| *status == wanted).count();
    assert_eq!((count("408"), count("503")), (4, 36), "{told:?}");
    running.stop().await;
}

#[tokio::test]
async fn large_bodies_hold_bounded_memory() {
    let limits = Limits { body_memory: 1 << 20, ..Limits::default() };
    let running = start(limits).await;
    let client = client(Some(running.authority.certificate_pem()), false, false);
    // Told at the head, and where the length is not said, soon after.
    let large = vec![b'x'; 1_900_000];
    let sent = client.post(running.https("/auth/token")).body(large.clone()).send().await.unwrap();
    assert_eq!(sent.status(), 413);
    let pieces = futures_util::stream::iter(
        large
            .chunks(10_000)
            .map(|piece| Ok::<_, std::io::Error>(bytes::Bytes::copy_from_slice(piece)))
            .collect::<Vec<_>>(),
    );
    let chunked =
        client.post(running.https("/auth/token")).body(reqwest::Body::wrap_stream(pieces));
    assert_eq!(chunked.send().await.unwrap().status(), 413);
    assert_eq!(
        client.post(running.https("/echo")).body(vec![b'x'; 60_000]).send().await.unwrap().status(),
        200
    );
    let over = client.post(running.https("/echo")).body(large.clone()).send().await.unwrap();
    assert_eq!(over.status(), 503, "more than all of the memory");
    let text = running.metrics.encode();
    assert!(text.contains(r#"http_refused_total{limit="body_memory"} 1"#), "{text}");
    // An upload goes through piece by piece.
    let upload = client.put(running.https("/v2/a/blobs/uploads/1")).body(large).send().await;
    assert_eq!(upload.unwrap().status(), 200);
    running.stop().await;
}

#[tokio::test]
async fn connections_of_one_address_are_bounded() {
    let limits = Limits { max_connections: 16, ..Limits::default() };
    let running = start(limits).await;
    // Nobody is trusted here.
    let redirect = running.addresses[&ListenerKind::Redirect];
    let mut held = Vec::new();
    let mut open = 0;
    for _ in 0..12 {
        let mut stream = TcpStream::connect(redirect).await.unwrap();
        stream.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        if status(&mut stream).await == "301" {
            open += 1;
        }
        held.push(stream);
    }
    assert_eq!(open, 8, "half of them while nobody else is there");
    let text = running.metrics.encode();
    assert!(text.contains(r#"http_connections{listener="redirect"}"#), "{text}");
    assert_eq!(plain_client().get(running.plain("/info")).send().await.unwrap().status(), 200);
    drop(held);
    running.stop().await;
}

#[tokio::test]
async fn a_server_that_is_full_for_some_time_is_not_well() {
    let limits =
        Limits { max_requests: 1, full_for: Duration::from_millis(100), ..Limits::default() };
    let running = start(limits).await;
    let client = plain_client();
    let ping = async || client.get(running.plain("/_ping")).send().await.unwrap().status().as_u16();
    let mut slow = client.get(running.plain("/slow")).send().await.unwrap();
    assert_eq!(slow.chunk().await.unwrap().unwrap(), "begin");
    assert_eq!(ping().await, 200, "all places are taken, and nobody was refused");
    assert_eq!(client.get(running.plain("/info")).send().await.unwrap().status(), 503);
    eventually("it says so", async || ping().await == 503).await;
    running.gate.add_permits(1);
    assert_eq!(slow.chunk().await.unwrap().unwrap(), "end");
    drop(slow);
    eventually("it is well again", async || ping().await == 200).await;
    running.stop().await;
}
