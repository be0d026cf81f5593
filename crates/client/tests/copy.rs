//! Copies between two small registries in this process: what belongs to an image comes along, what may be absent need not.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use dtr_client::{Credentials, Reference, Registry, RetryPolicy, TlsOptions};
use dtr_types::{Digest, media_types};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;

/// What is stored, by the last part of its path, with its media type.
type Content = Arc<Mutex<HashMap<String, (String, Bytes)>>>;

async fn serve(State(content): State<Content>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let last = path.rsplit('/').next().unwrap_or_default().to_owned();
    if path == "/v2/" {
        return StatusCode::OK.into_response();
    }
    match parts.method {
        Method::GET | Method::HEAD => {
            let found = content.lock().expect("content").get(&last).cloned();
            let Some((media_type, bytes)) = found else {
                return StatusCode::NOT_FOUND.into_response();
            };
            let answer = Response::builder()
                .header("content-type", media_type)
                .header("content-length", bytes.len())
                .header("docker-content-digest", Digest::of(&bytes).to_string());
            let body = if parts.method == Method::HEAD { Bytes::new() } else { bytes };
            answer.body(Body::from(body)).expect("an answer")
        }
        Method::POST | Method::PUT => {
            let query = parts.uri.query().unwrap_or_default().replace("%3A", ":");
            let key = query.strip_prefix("digest=").map_or(last, str::to_owned);
            let media_type = parts.headers.get("content-type").map(|t| t.to_str().expect("text"));
            let media_type = media_type.unwrap_or("a/b").to_owned();
            let bytes = body.collect().await.expect("a body").to_bytes();
            content.lock().expect("content").insert(key, (media_type, bytes));
            StatusCode::CREATED.into_response()
        }
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

async fn start() -> (Content, Registry) {
    let content = Content::default();
    let app = Router::new().fallback(serve).with_state(Arc::clone(&content));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = format!("http://{}", listener.local_addr().expect("address"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let retry = RetryPolicy { attempts: 1, ..RetryPolicy::default() };
    let registry = Registry::new(&address, &TlsOptions::default(), Credentials::Anonymous, retry);
    (content, registry.expect("client"))
}

fn entry(media_type: &str, content: &[u8], more: &str) -> String {
    let digest = Digest::of(content);
    let size = content.len();
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}{more}}}"#)
}

#[tokio::test]
async fn content_with_an_address_elsewhere_is_copied_where_it_is() {
    let (from, source) = start().await;
    let (to, target) = start().await;
    let elsewhere = r#","urls":["https://example.com/it"]"#;
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let image = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{},{},{}]}}"#,
        media_types::OCI_MANIFEST,
        entry("a/config", b"config", ""),
        entry("a/layer", b"here", elsewhere),
        entry(foreign, b"here as well", ""),
        entry("a/layer", b"not here", elsewhere),
    );
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{},{},{},{}]}}"#,
        media_types::OCI_INDEX,
        entry(media_types::OCI_MANIFEST, image.as_bytes(), elsewhere),
        entry(media_types::OCI_MANIFEST, b"no such image", elsewhere),
        entry("a/layer", b"entry", elsewhere),
        entry("a/layer", b"no such entry", elsewhere),
    );
    let blobs: [&[u8]; 4] = [b"config", b"here", b"here as well", b"entry"];
    {
        let mut from = from.lock().expect("content");
        for blob in blobs {
            let stored = ("a/b".to_owned(), Bytes::from_static(blob));
            from.insert(Digest::of(blob).to_string(), stored);
        }
        let (image_type, index_type) = (media_types::OCI_MANIFEST, media_types::OCI_INDEX);
        let image_digest = Digest::of(image.as_bytes()).to_string();
        from.insert(image_digest, (image_type.to_owned(), image.into()));
        let stored = (index_type.to_owned(), Bytes::from(index.clone()));
        from.insert(Digest::of(index.as_bytes()).to_string(), stored.clone());
        from.insert("1.0".to_owned(), stored);
    }
    let repository = "team/win".parse().expect("a name");
    let tag = Reference::Tag("1.0".parse().expect("a tag"));
    let copied = source.copy(&repository, &tag, &target, &repository, Some(&tag)).await;
    assert_eq!(copied.expect("copied").blobs, 4);
    let (from, to) = (from.lock().expect("content"), to.lock().expect("content"));
    assert_eq!(to.len(), from.len() - 1, "the index has its tag alone");
    assert!(to.iter().all(|(key, (_, bytes))| from[key].1 == *bytes));
}
