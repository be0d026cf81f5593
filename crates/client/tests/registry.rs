//! The registry client against a small registry in this process that fails on purpose.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use dtr_client::{
    ClientError, Credentials, Pushed, Reference, Registry, RetryPolicy, Source, TlsOptions,
};
use dtr_types::{Digest, RepositoryName, Secret};
use http::{Method, StatusCode, header};
use http_body_util::BodyExt as _;

const BLOB_SIZE: usize = 3 << 20;

#[derive(Default)]
struct Mock {
    tokens: AtomicU32,
    log: Mutex<Vec<String>>,
    /// Requests to answer with this status before going on.
    refuse: AtomicU32,
    refuse_with: AtomicU32,
    /// Tokens below this number are refused.
    oldest: AtomicU32,
    upload: Mutex<Vec<u8>>,
    stored: Mutex<Option<Bytes>>,
    /// Uploads that break after a part.
    breaks: AtomicU32,
    /// Downloads that break after a part.
    cuts: AtomicU32,
    lies: AtomicU32,
}

fn take(counter: &AtomicU32) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
}

fn answer(status: u16, headers: &[(&str, String)], body: impl Into<Body>) -> Response {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response.body(body.into()).expect("valid answer")
}

fn content() -> Bytes {
    (0..BLOB_SIZE).map(|n| (n * 7 + n / 251) as u8).collect::<Vec<u8>>().into()
}

async fn serve(State(mock): State<Arc<Mock>>, request: Request) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let range = request.headers().get(header::RANGE).cloned();
    mock.log.lock().expect("log").push(format!("{method} {uri} {range:?}"));
    let authorization = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    if uri.path() == "/auth/token" {
        return token(&mock, &authorization, request).await;
    }
    let number: Option<u32> =
        authorization.strip_prefix("Bearer token-").and_then(|n| n.parse().ok());
    if number.is_none_or(|n| n < mock.oldest.load(Ordering::SeqCst)) {
        let challenge = "Bearer realm=\"/auth/token\",service=\"mock\"".to_owned();
        return answer(401, &[("www-authenticate", challenge)], "{}");
    }
    if take(&mock.refuse) {
        let status = mock.refuse_with.load(Ordering::SeqCst) as u16;
        return answer(
            status,
            &[("retry-after", "0".to_owned())],
            r#"{"errors":[{"code":"UNAVAILABLE","message":"disk full"}]}"#,
        );
    }
    match (method, uri.path()) {
        (Method::GET, "/v2/") => answer(200, &[], "{}"),
        (Method::HEAD | Method::GET, path) if path.contains("/blobs/sha256:") => {
            blob(&mock, range.as_ref())
        }
        (Method::POST, "/v2/team/app/blobs/uploads/") => {
            mock.upload.lock().expect("upload").clear();
            answer(202, &[("location", "/upload/1?state=a".to_owned())], "")
        }
        (Method::GET, "/upload/1") => {
            let last = mock.upload.lock().expect("upload").len().saturating_sub(1);
            answer(
                204,
                &[("range", format!("0-{last}")), ("location", "/upload/1?state=b".to_owned())],
                "",
            )
        }
        (Method::PUT | Method::PATCH, "/upload/1") => upload(&mock, request).await,
        (Method::PUT, path) if path.contains("/manifests/") => {
            let body = request.into_body().collect().await.expect("body").to_bytes();
            answer(201, &[("docker-content-digest", Digest::of(&body).to_string())], "")
        }
        (Method::GET, "/v2/team/app/tags/list") => match uri.query().unwrap_or_default() {
            "n=1000" => answer(
                200,
                &[("link", "</v2/team/app/tags/list?n=1000&last=b>; rel=\"next\"".to_owned())],
                r#"{"name":"team/app","tags":["a","b"]}"#,
            ),
            _ => answer(200, &[], r#"{"name":"team/app","tags":["c"]}"#),
        },
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn token(mock: &Mock, authorization: &str, request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let by_post = request.method() == Method::POST;
    let form = request.into_body().collect().await.expect("form").to_bytes();
    let form = String::from_utf8_lossy(&form).into_owned();
    let good = if by_post {
        form.contains("grant_type=refresh_token") && form.contains("refresh_token=fresh")
    } else {
        // me:right
        authorization == "Basic bWU6cmlnaHQ=" && query.contains("service=mock")
    };
    if !good {
        return answer(
            401,
            &[],
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"wrong password"}]}"#,
        );
    }
    let number = mock.tokens.fetch_add(1, Ordering::SeqCst);
    answer(200, &[], format!(r#"{{"token":"token-{number}","expires_in":300}}"#))
}

fn blob(mock: &Mock, range: Option<&header::HeaderValue>) -> Response {
    let Some(stored) = mock.stored.lock().expect("stored").clone() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let from: usize = range
        .and_then(|r| r.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
        .unwrap_or(0);
    let part = stored.slice(from..);
    let status = if range.is_some() { 206 } else { 200 };
    let length = [("content-length", part.len().to_string())];
    if take(&mock.lies) {
        return answer(status, &length, vec![0; part.len()]);
    }
    if take(&mock.cuts) {
        let some = part.slice(..part.len() / 2);
        let broken = vec![Ok(some), Err(std::io::Error::other("cut"))];
        return answer(status, &length, Body::from_stream(futures_util::stream::iter(broken)));
    }
    answer(status, &length, part)
}

async fn upload(mock: &Mock, request: Request) -> Response {
    let last = request.method() == Method::PUT;
    let breaks = take(&mock.breaks);
    let mut body = request.into_body();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { break };
        let mut kept = mock.upload.lock().expect("upload");
        kept.extend_from_slice(&data);
        if breaks && kept.len() > BLOB_SIZE / 3 {
            return answer(503, &[("retry-after", "0".to_owned())], "");
        }
    }
    if last {
        *mock.stored.lock().expect("stored") =
            Some(mock.upload.lock().expect("upload").clone().into());
        return answer(201, &[], "");
    }
    answer(202, &[("location", "/upload/1?state=c".to_owned())], "")
}

async fn start(credentials: Credentials) -> (Arc<Mock>, Registry) {
    let mock = Arc::new(Mock::default());
    let app = Router::new().fallback(serve).with_state(Arc::clone(&mock));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = format!("http://{}", listener.local_addr().expect("address"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let retry =
        RetryPolicy { attempts: 4, first_wait: Duration::from_millis(1), ..RetryPolicy::default() };
    let registry =
        Registry::new(&address, &TlsOptions::default(), credentials, retry).expect("client");
    (mock, registry)
}

fn me(password: &str) -> Credentials {
    Credentials::Password { username: "me".to_owned(), password: Secret::new(password) }
}

fn repository() -> RepositoryName {
    "team/app".parse().expect("a name")
}

#[tokio::test]
async fn a_token_is_asked_for_once_per_scope_and_again_when_refused() {
    let (mock, registry) = start(me("right")).await;
    let tag = Reference::Tag("x".parse().expect("a tag"));
    assert!(registry.head_manifest(&repository(), &tag).await.expect("answer").is_none());
    assert!(registry.head_manifest(&repository(), &tag).await.expect("answer").is_none());
    assert_eq!(mock.tokens.load(Ordering::SeqCst), 1);
    mock.oldest.store(1, Ordering::SeqCst);
    assert!(registry.head_manifest(&repository(), &tag).await.expect("answer").is_none());
    assert_eq!(mock.tokens.load(Ordering::SeqCst), 2);
    let log = mock.log.lock().expect("log").join("\n");
    assert!(log.contains("scope=repository%3Ateam%2Fapp%3Apull"), "{log}");
}

#[tokio::test]
async fn a_wrong_password_is_said_with_the_name_and_without_the_password() {
    let (mock, registry) = start(me("hunter2")).await;
    let error = registry.ping().await.expect_err("refused");
    let text = error.to_string();
    assert!(matches!(error, ClientError::Credentials { .. }), "{text}");
    assert!(text.contains("login of me") && text.contains("wrong password"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    assert_eq!(mock.tokens.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_refresh_token_is_exchanged_by_post() {
    let (mock, registry) = start(Credentials::Refresh(Secret::new("fresh"))).await;
    registry.ping().await.expect("logged in");
    assert!(mock.log.lock().expect("log").iter().any(|line| line.starts_with("POST /auth/token")));
}

#[tokio::test]
async fn not_now_is_tried_again_and_then_told() {
    let (mock, registry) = start(me("right")).await;
    mock.refuse_with.store(503, Ordering::SeqCst);
    mock.refuse.store(3, Ordering::SeqCst);
    registry.ping().await.expect("the fourth attempt");
    mock.refuse_with.store(507, Ordering::SeqCst);
    mock.refuse.store(100, Ordering::SeqCst);
    let error = registry.ping().await.expect_err("never");
    assert!(matches!(error, ClientError::Busy { attempts: 4, .. }), "{error}");
    assert!(error.to_string().contains("disk full"), "{error}");
    assert_eq!(mock.refuse.load(Ordering::SeqCst), 96);
}

#[tokio::test]
async fn an_upload_goes_on_where_it_broke() {
    let (mock, registry) = start(me("right")).await;
    mock.breaks.store(2, Ordering::SeqCst);
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("blob");
    std::fs::write(&path, content()).expect("written");
    let digest = Digest::of(&content());
    let source = Source::File { path, size: BLOB_SIZE as u64 };
    let pushed = registry.push_blob(&repository(), &digest, &source, None).await.expect("pushed");
    assert_eq!(pushed, Pushed::Uploaded);
    assert_eq!(mock.stored.lock().expect("stored").clone(), Some(content()));
    let posts = mock.log.lock().expect("log").iter().filter(|l| l.starts_with("POST /v2/")).count();
    assert_eq!(posts, 1, "one session only");
    let again = registry.push_blob(&repository(), &digest, &source, None).await.expect("there");
    assert_eq!(again, Pushed::Existed);
}

#[tokio::test]
async fn a_blob_can_be_sent_in_chunks() {
    let (mock, registry) = start(me("right")).await;
    let source = Source::Bytes(content());
    let digest = Digest::of(&content());
    registry.upload_blob(&repository(), &digest, &source, Some(1 << 20)).await.expect("pushed");
    assert_eq!(mock.stored.lock().expect("stored").clone(), Some(content()));
    let patches = mock.log.lock().expect("log").iter().filter(|l| l.starts_with("PATCH")).count();
    assert_eq!(patches, 2);
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke_and_is_verified() {
    let (mock, registry) = start(me("right")).await;
    *mock.stored.lock().expect("stored") = Some(content());
    mock.cuts.store(2, Ordering::SeqCst);
    let digest = Digest::of(&content());
    let mut stream = registry.get_blob(&repository(), &digest).await.expect("opened");
    let mut got = Vec::new();
    while let Some(chunk) = stream.next().await.expect("whole") {
        got.extend_from_slice(&chunk);
    }
    assert_eq!(got, content());
    mock.lies.store(1, Ordering::SeqCst);
    let mut stream = registry.get_blob(&repository(), &digest).await.expect("opened");
    let error = loop {
        match stream.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("damaged content was believed"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ClientError::Digest { .. }), "{error}");
}

#[tokio::test]
async fn tags_are_read_page_by_page() {
    let (_mock, registry) = start(me("right")).await;
    assert_eq!(registry.tags(&repository()).await.expect("tags"), ["a", "b", "c"]);
}

#[tokio::test]
async fn nobody_there_is_told_at_once_without_retries_hiding_it() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = format!("http://{}", listener.local_addr().expect("address"));
    drop(listener);
    let registry = Registry::new(
        &address,
        &TlsOptions::default(),
        Credentials::Anonymous,
        RetryPolicy::never(),
    );
    let error = registry.expect("client").ping().await.expect_err("nobody");
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}
