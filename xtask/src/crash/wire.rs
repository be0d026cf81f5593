//! Requests as they are: no retry, no repair, so that what was acknowledged is known to the byte.

use bytes::Bytes;
use dtr_types::Digest;
use reqwest::{Method, StatusCode, header::HeaderMap};

/// Where to, and as whom. Clones share their connections.
#[derive(Clone)]
pub struct Wire {
    client: reqwest::Client,
    base: String,
    password: String,
}

/// An answer, with as much of its body as came.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// No answer came: whether the request had an effect is not known.
#[derive(Clone, Copy, Debug)]
pub struct Lost;

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub fn is(&self, status: u16) -> bool {
        self.status == status
    }

    /// What a person wants to see when it was not what was expected.
    pub fn text(&self) -> String {
        format!("{} {}", self.status.as_u16(), String::from_utf8_lossy(&self.body))
    }
}

impl Wire {
    pub fn new(base: String, password: &str) -> anyhow::Result<Self> {
        let client = dtr_client::http_client(&dtr_client::TlsOptions::default())?;
        Ok(Self { client, base, password: password.to_owned() })
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Option<Bytes>,
    ) -> Result<Answer, Lost> {
        let url = if path.starts_with('/') { format!("{}{path}", self.base) } else { path.into() };
        let mut request = self.client.request(method, url);
        request = request.basic_auth("admin", Some(&self.password));
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await.map_err(|_| Lost)?;
        let (status, headers) = (response.status(), response.headers().clone());
        // A status that came is an acknowledgement, whatever becomes of the rest.
        let whole = response.bytes().await;
        if whole.is_err() && status == 200 {
            return Err(Lost);
        }
        Ok(Answer { status, headers, body: whole.unwrap_or_default() })
    }

    pub async fn get(&self, path: &str) -> Result<Answer, Lost> {
        self.send(Method::GET, path, None, None).await
    }

    pub async fn head(&self, path: &str) -> Result<Answer, Lost> {
        self.send(Method::HEAD, path, None, None).await
    }

    pub async fn delete(&self, path: &str) -> Result<Answer, Lost> {
        self.send(Method::DELETE, path, None, None).await
    }

    /// A body of JSON.
    pub async fn post(&self, path: &str, body: &serde_json::Value) -> Result<Answer, Lost> {
        let body = Bytes::from(body.to_string());
        self.send(Method::POST, path, Some("application/json"), Some(body)).await
    }

    pub async fn answers(&self) -> bool {
        self.get("/v2/").await.is_ok_and(|answer| answer.is(200))
    }

    /// The bytes behind a path of `/v2`; `None` when there is nothing.
    pub async fn pull(&self, path: &str) -> Result<Option<Bytes>, String> {
        match self.get(path).await {
            Err(Lost) => Err(format!("{path}: no answer")),
            Ok(answer) if answer.is(404) => Ok(None),
            Ok(answer) if answer.is(200) => Ok(Some(answer.body)),
            Ok(answer) => Err(format!("{path}: {}", answer.text())),
        }
    }

    /// The digest of what a tag names; `None` when there is no such tag.
    pub async fn tag(&self, repository: &str, tag: &str) -> Result<Option<Digest>, String> {
        let path = format!("/v2/{repository}/manifests/{tag}");
        let Ok(answer) = self.head(&path).await else { return Err(format!("{path}: no answer")) };
        match answer.status.as_u16() {
            404 => Ok(None),
            200 => answer
                .header("docker-content-digest")
                .parse()
                .map(Some)
                .map_err(|error| format!("{path}: {error}")),
            status => Err(format!("{path}: {status}")),
        }
    }

    /// All names of a paged list; `None` when it is not there.
    pub async fn names(&self, path: &str, field: &str) -> Result<Option<Vec<String>>, String> {
        let mut names = Vec::new();
        let mut next = format!("{path}?n=100");
        loop {
            let Ok(answer) = self.get(&next).await else {
                return Err(format!("{next}: no answer"));
            };
            if answer.is(404) {
                return Ok(None);
            }
            let page: serde_json::Value = serde_json::from_slice(&answer.body)
                .map_err(|error| format!("{next}: {error}: {}", answer.text()))?;
            let items = page[field].as_array().cloned().unwrap_or_default();
            names.extend(items.iter().filter_map(|name| name.as_str().map(str::to_owned)));
            let link = answer.header("link");
            let Some(target) = link.strip_prefix('<').and_then(|l| l.split('>').next()) else {
                return Ok(Some(names));
            };
            next = target.to_owned();
        }
    }
}
