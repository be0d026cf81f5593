//! Identity and REST client against small services in this process: logins, paging, downloads that end badly, TLS.

use std::{convert::Infallible, io, sync::Arc};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::Query,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use dtr_client::{
    Api, Authorization, ClientError, Identity, PageStyle, RetryPolicy, TRAILER_STATUS, TlsOptions,
};
use dtr_types::Secret;
use futures_util::{StreamExt as _, stream};
use http_body_util::StreamBody;
use serde_json::{Value, json};

type Frame = http_body::Frame<Bytes>;

async fn login(Json(body): Json<Value>) -> Response {
    if body["password"] != "right" {
        let errors =
            json!({"errors": [{"code": "NOT_AUTHENTICATED", "message": "wrong name or password"}]});
        return (StatusCode::UNAUTHORIZED, Json(errors)).into_response();
    }
    let admin = body["username"] == "admin";
    let account = json!({
        "id": "11111111-2222-3333-4444-555555555555", "name": body["username"], "fullName": "", "isOrg": false,
        "isAdmin": admin, "isActive": true, "membersCount": 1,
    });
    Json(json!({"sessionToken": "s3ss10n", "account": account})).into_response()
}

fn service(number: u32) -> Value {
    json!({
        "id": format!("11111111-2222-3333-4444-{number:012}"), "name": format!("dtr{number}"),
        "url": "https://dtr.example.com", "caBundle": "", "isPrivileged": true,
        "replicas": [{"id": format!("{number:012x}"), "address": format!("https://127.0.0.1:{}", 4000 + number)}],
    })
}

/// Two services on two pages, for those who are logged in.
async fn services(headers: HeaderMap, Query(query): Query<Vec<(String, String)>>) -> Response {
    if headers.get(header::AUTHORIZATION).is_none_or(|v| v != "Bearer s3ss10n") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let first = !query.iter().any(|(name, _)| name == "start");
    Json(match first {
        true => json!({"services": [service(1)], "nextPageStart": "x"}),
        false => json!({"services": [service(2)]}),
    })
    .into_response()
}

fn streamed(frames: Vec<Result<Frame, io::Error>>, promise: bool) -> Response {
    // What was sent is flushed when the next frame is not ready at once, as on a real network.
    let frames = stream::iter(frames).then(async |frame| {
        tokio::task::yield_now().await;
        frame
    });
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    if promise {
        let value = header::HeaderValue::from_static(TRAILER_STATUS);
        response.headers_mut().insert(header::TRAILER, value);
    }
    response
}

fn data() -> Result<Frame, io::Error> {
    Ok(Frame::data(Bytes::from_static(b"tar")))
}

fn trailer(text: &'static str) -> Result<Frame, io::Error> {
    let mut trailers = HeaderMap::new();
    trailers.insert(TRAILER_STATUS, header::HeaderValue::from_static(text));
    Ok(Frame::trailers(trailers))
}

fn app() -> Router {
    let pages = |Query(query): Query<Vec<(String, String)>>| async move {
        let start = query.iter().find(|(n, _)| n == "pageStart").map(|(_, v)| v.clone());
        let next = |to: &'static str| [("x-next-page-start", to)];
        match start.as_deref() {
            None => (next("2"), Json(json!({"repositories": [1]}))).into_response(),
            Some("2") => (next("3"), Json(json!({"repositories": [2]}))).into_response(),
            Some(_) => Json(json!({"repositories": [3]})).into_response(),
        }
    };
    Router::new()
        .route("/id/login", post(login))
        .route("/id/logout", post(|| async { StatusCode::NO_CONTENT }))
        .route("/ca", get(|| async { "-----BEGIN CERTIFICATE-----" }))
        .route("/enzi/v0/services", get(services))
        .route("/api/v0/pages", get(pages))
        .route(
            "/whole",
            get(|| async { streamed(vec![data(), data(), trailer("complete")], true) }),
        )
        .route("/plain", get(|| async { streamed(vec![data()], false) }))
        .route("/unconfirmed", get(|| async { streamed(vec![data(), data()], true) }))
        .route(
            "/gave-up",
            get(|| async { streamed(vec![data(), trailer("the store is read-only")], true) }),
        )
        .route(
            "/broken",
            get(|| async { streamed(vec![data(), Err(io::Error::other("x"))], false) }),
        )
}

async fn start() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = format!("http://{}", listener.local_addr().expect("address"));
    tokio::spawn(async move { axum::serve(listener, app()).await });
    address
}

fn identity(address: &str, tls: &TlsOptions) -> Identity {
    Identity::new(address, tls, RetryPolicy::never()).expect("client")
}

#[tokio::test]
async fn an_admin_logs_in_and_finds_a_replica() {
    let identity = identity(&start().await, &TlsOptions::default());
    let session = identity.login_admin("admin", &Secret::new("right")).await.expect("logged in");
    let services = identity.services(&session).await.expect("both pages");
    let found = services.iter().flat_map(|service| &service.replicas);
    let found: Vec<_> = found.map(|r| (r.id.as_str(), r.address.as_str())).collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[1], ("000000000002", "https://127.0.0.1:4002"));
    assert!(identity.ca().await.expect("CA").starts_with("-----BEGIN"));
    identity.logout(&session).await.expect("logged out");
}

#[tokio::test]
async fn who_may_not_is_told_why() {
    let identity = identity(&start().await, &TlsOptions::default());
    let error = identity.login("admin", &Secret::new("hunter2")).await.expect_err("refused");
    let text = error.to_string();
    assert!(text.contains("login of admin: wrong name or password"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    let error = identity.login_admin("bob", &Secret::new("right")).await.expect_err("refused");
    assert!(matches!(error, ClientError::NotAdmin { .. }), "{error}");
}

#[tokio::test]
async fn lists_are_read_page_by_page() {
    let (tls, retry) = (TlsOptions::default(), RetryPolicy::never());
    let api = Api::new(&start().await, &tls, Authorization::None, retry).expect("client");
    let all: Vec<u32> =
        api.list("/api/v0/pages", PageStyle::Dtr, "repositories", 1).await.expect("list");
    assert_eq!(all, [1, 2, 3]);
    let missing = api.get::<Value>("/api/v0/nothing").await.expect_err("none");
    assert!(matches!(missing, ClientError::NotFound { .. }), "{missing}");
    assert!(!api.delete("/api/v0/nothing").await.expect("no error"));
}

#[tokio::test]
async fn a_download_is_whole_or_an_error() {
    let (tls, retry) = (TlsOptions::default(), RetryPolicy::never());
    let api = Api::new(&start().await, &tls, Authorization::None, retry).expect("client");
    let fetch = async |path: &str| {
        let mut download = api.download(path, None::<&()>).await.expect("opened");
        let mut got = Vec::new();
        while let Some(chunk) = download.next().await? {
            got.extend_from_slice(&chunk);
        }
        Ok::<_, ClientError>(got)
    };
    assert_eq!(fetch("/whole").await.expect("whole"), b"tartar");
    assert_eq!(fetch("/plain").await.expect("whole"), b"tar");
    let error = fetch("/unconfirmed").await.expect_err("not confirmed");
    assert!(matches!(error, ClientError::CutShort { received: 6, .. }), "{error}");
    let mut elsewhere = api.download("/unconfirmed", None::<&()>).await.expect("opened");
    elsewhere.accept_unconfirmed();
    while elsewhere.next().await.expect("the caller is sure otherwise").is_some() {}
    assert!(!elsewhere.is_confirmed() && elsewhere.received() == 6);
    let error = fetch("/gave-up").await.expect_err("given up");
    assert!(matches!(error, ClientError::Aborted { received: 3, .. }), "{error}");
    assert!(error.to_string().contains("the store is read-only"), "{error}");
    let error = fetch("/broken").await.expect_err("broken");
    assert!(matches!(error, ClientError::CutShort { received: 3, .. }), "{error}");
}

/// A TLS server that shows a certificate for 127.0.0.1 of a CA of its own; yields its port and the CA in PEM.
async fn tls_server() -> (u16, String) {
    let key = rcgen::KeyPair::generate().expect("key");
    let params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).expect("names");
    let certificate = params.self_signed(&key).expect("certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let private = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("key");
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .expect("usable");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let port = listener.local_addr().expect("address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = [0; 4096];
                let read = stream.read(&mut request).await;
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nca";
                if read.is_ok() {
                    // A client that went away needs no answer.
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let _ = stream.shutdown().await;
                }
            });
        }
        Ok::<_, Infallible>(())
    });
    (port, certificate.pem())
}

#[tokio::test]
async fn a_stranger_s_certificate_is_refused_and_the_way_out_is_named() {
    let (port, ca) = tls_server().await;
    let address = format!("https://127.0.0.1:{port}");
    let error = identity(&address, &TlsOptions::default()).ca().await.expect_err("not trusted");
    let text = error.to_string();
    assert!(matches!(error, ClientError::NotTrusted { .. }), "{text}");
    assert!(text.contains("--ucp-ca") && text.contains("--ucp-insecure-tls"), "{text}");
    let insecure = TlsOptions { insecure: true, ..TlsOptions::default() };
    assert_eq!(identity(&address, &insecure).ca().await.expect("anybody"), "ca");
    let trusting = TlsOptions { ca_pem: Some(ca), ..TlsOptions::default() };
    assert_eq!(identity(&address, &trusting).ca().await.expect("trusted"), "ca");
    let wrong_scheme = identity(&format!("http://127.0.0.1:{port}"), &trusting).ca().await;
    assert!(wrong_scheme.is_err());
    let plain = start().await.replace("http:", "https:");
    let error = identity(&plain, &trusting).ca().await.expect_err("no TLS there");
    assert!(matches!(error, ClientError::Protocol { .. }), "{error}");
}
