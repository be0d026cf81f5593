//! The connection to the service: `object_store` over our own HTTP client, and the one request that it lacks, the copy of
//! a range into a part of a multipart upload.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use dtr_blobs::BlobError;
use dtr_types::{Random, UploadId};
use http::{HeaderName, HeaderValue, Method};
use object_store::{
    Attribute, Attributes, BackoffConfig, ClientOptions, ObjectStore as _, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
    client::{HttpClient, HttpConnector},
    multipart::{MultipartStore as _, PartId},
    path::Path,
    signer::{SignedUrlOptions, Signer as _},
};
use tokio::sync::Semaphore;

use crate::{S3Settings, error, layout::Layout};

/// How long a request is tried again: a service that restarts is waited for, one that is away is told to the client while it
/// still listens. The time alone ends it, however fast each try fails.
const RETRY_FOR: Duration = Duration::from_secs(30);
/// Time for a look at whether the service is well: it is to say how it is now.
const PROBE_FOR: Duration = Duration::from_secs(2);
/// More tries than there is time for.
const RETRIES: usize = 10_000;
/// Pauses between tries: a random time from the first on, up to three times the last.
const PAUSES: BackoffConfig = BackoffConfig {
    init_backoff: Duration::from_millis(150),
    max_backoff: Duration::from_secs(3),
    base: 3.0,
};
/// Metadata of the pieces of an upload and of the blob made of them: the upload's id. By it a blob that was just made is told
/// from one that was there before.
const UPLOAD: &str = "dtr-upload";
/// How often a blob's name is tried that other requests for it keep busy, and the first pause; each is twice the last.
const CONFLICT_TRIES: u32 = 6;
const CONFLICT_PAUSE: Duration = Duration::from_millis(20);
/// Memory for content on its way to the service, of all uploads together.
const POOL: usize = 128 * 1024 * 1024;
/// The measure in which it is given out.
pub(crate) const GRAIN: usize = 1024;

/// A bucket, and where in it everything is.
pub(crate) struct Bucket {
    pub store: AmazonS3,
    /// This bucket, without patience.
    pub probing: AmazonS3,
    pub layout: Layout,
    pub random: Arc<dyn Random>,
    /// Memory for content on its way in, in units of [`GRAIN`].
    pub pool: Arc<Semaphore>,
    http: reqwest::Client,
    place: String,
    name: String,
    class: String,
    encrypt: bool,
}

/// A look at a blob: its size, and the upload that it was made of, if that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub size: u64,
    pub upload: Option<String>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)
    }
}

/// Hands our client to `object_store`.
#[derive(Debug)]
struct Connector(reqwest::Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

fn http_client(settings: &S3Settings) -> Result<reqwest::Client, String> {
    let ca = settings.rootcas.trim();
    let tls =
        dtr_transport::tls::client_config((!ca.is_empty()).then_some(ca), settings.skipverify);
    let tls = tls.map_err(|e| format!("rootcas: {}", error::chain(&e)))?;
    // HTTP/1.1: one stream per connection costs least for large content, and all services speak it.
    let client = reqwest::Client::builder()
        .user_agent(concat!("dtr/", env!("CARGO_PKG_VERSION")))
        .tls_backend_preconfigured(tls)
        .http1_only()
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(Duration::from_secs(60))
        .pool_idle_timeout(Duration::from_secs(20));
    client.build().map_err(|e| error::chain(&e))
}

impl Bucket {
    pub(crate) fn open(settings: &S3Settings, random: Arc<dyn Random>) -> Result<Self, String> {
        settings.validate()?;
        let http = http_client(settings)?;
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&settings.bucket)
            .with_region(settings.region())
            .with_http_connector(Connector(http.clone()));
        let path_style = settings.forcepathstyle.unwrap_or(!settings.regionendpoint.is_empty());
        if let Some(endpoint) = settings.endpoint() {
            // With the bucket in the host name, the endpoint must bring it.
            let endpoint = match endpoint.split_once("://") {
                Some((scheme, host)) if !path_style => {
                    format!("{scheme}://{}.{host}", settings.bucket)
                }
                _ => endpoint,
            };
            builder =
                builder.with_allow_http(endpoint.starts_with("http://")).with_endpoint(endpoint);
        }
        builder = builder.with_virtual_hosted_style_request(!path_style);
        if !settings.accesskey.is_empty() {
            builder = builder
                .with_access_key_id(&settings.accesskey)
                .with_secret_access_key(settings.secretkey.expose());
        }
        if settings.encrypt {
            builder = if settings.keyid.is_empty() {
                let key: AmazonS3ConfigKey =
                    "aws_server_side_encryption".parse().map_err(|e| format!("encrypt: {e}"))?;
                builder.with_config(key, "AES256")
            } else {
                builder.with_sse_kms_encryption(&settings.keyid)
            };
        }
        let build = |retry_timeout| {
            let retry = RetryConfig { max_retries: RETRIES, retry_timeout, backoff: PAUSES };
            builder.clone().with_retry(retry).build().map_err(|e| error::chain(&e))
        };
        Ok(Self {
            store: build(RETRY_FOR)?,
            probing: build(PROBE_FOR)?,
            layout: Layout::new(settings.root()?),
            random,
            pool: Arc::new(Semaphore::new(POOL / GRAIN)),
            http,
            place: settings.to_string(),
            name: settings.bucket.clone(),
            class: settings.storageclass.trim().to_owned(),
            encrypt: settings.encrypt,
        })
    }

    /// The place, for messages.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    pub(crate) fn failed(&self, verb: &str, key: &Path, error: object_store::Error) -> BlobError {
        error::meaning(&self.place, format!("{verb} {key}"), &error)
    }

    /// Takes "there is nothing" for `None`.
    pub(crate) fn unless_missing<T>(
        &self,
        verb: &str,
        key: &Path,
        result: object_store::Result<T>,
    ) -> Result<Option<T>, BlobError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(e) if error::is_missing(&e) => Ok(None),
            Err(e) => Err(self.failed(verb, key, e)),
        }
    }

    /// What blobs are marked with.
    fn attributes(&self, upload: Option<&UploadId>) -> Attributes {
        let mut attributes = Attributes::new();
        if !self.class.is_empty() {
            attributes.insert(Attribute::StorageClass, self.class.clone().into());
        }
        if let Some(upload) = upload {
            attributes.insert(Attribute::Metadata(UPLOAD.into()), upload.to_string().into());
        }
        attributes
    }

    /// Whether blobs get something that a plain copy would not give them.
    pub(crate) fn has_class(&self) -> bool {
        !self.class.is_empty()
    }

    /// Writes an object that is no blob.
    pub(crate) async fn put(&self, key: &Path, payload: PutPayload) -> Result<(), BlobError> {
        let put = self.store.put_opts(key, payload, PutOptions::default()).await;
        put.map(drop).map_err(|e| self.failed("write", key, e))
    }

    /// Writes a piece of an upload.
    pub(crate) async fn put_piece(
        &self,
        upload: &UploadId,
        key: &Path,
        payload: PutPayload,
    ) -> Result<(), BlobError> {
        let mut options = PutOptions::default();
        options.attributes.insert(Attribute::Metadata(UPLOAD.into()), upload.to_string().into());
        let put = self.store.put_opts(key, payload, options).await;
        put.map(drop).map_err(|e| self.failed("write", key, e))
    }

    /// Writes a blob.
    pub(crate) async fn put_blob(&self, key: &Path, payload: PutPayload) -> Result<(), BlobError> {
        let put = self.unless_another(|| {
            let attributes = self.attributes(None);
            let options = PutOptions { attributes, ..PutOptions::default() };
            self.store.put_opts(key, payload.clone(), options)
        });
        put.await.map(drop).map_err(|e| self.failed("write", key, e))
    }

    /// Makes a blob of an object.
    pub(crate) async fn copy_blob(&self, from: &Path, key: &Path) -> Result<(), BlobError> {
        let copied =
            self.unless_another(|| object_store::ObjectStoreExt::copy(&self.store, from, key));
        copied.await.map_err(|e| self.failed(&format!("copy {from} to"), key, e))
    }

    /// Does it again where the service says "conflict": another request for the same name runs. Services refuse one of two
    /// with that, and every request for a blob's name writes the same bytes. Other things that are in the way stay there.
    async fn unless_another<T, F>(&self, request: impl Fn() -> F) -> object_store::Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let mut pause = CONFLICT_PAUSE;
        for _ in 1..CONFLICT_TRIES {
            match request().await {
                Err(e) if error::is_conflict(&e) && !error::is_in_the_way(&e) => {
                    tokio::time::sleep(pause).await;
                }
                done => return done,
            }
            pause *= 2;
        }
        request().await
    }

    /// Writes an object unless there is one; says whether it did. Services that cannot do that in one step are asked first.
    pub(crate) async fn create(&self, key: &Path) -> Result<bool, BlobError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(key, PutPayload::default(), options).await {
            Ok(_) => Ok(true),
            // That, or something else that is in the way of it, or the trace of one that was deleted.
            Err(e) if error::is_conflict(&e) => match self.size(key).await? {
                Some(_) => Ok(false),
                None if error::is_in_the_way(&e) => Err(self.failed("write", key, e)),
                None => self.put(key, PutPayload::default()).await.map(|()| true),
            },
            Err(e) if error::code(&e.to_string()) == Some("NotImplemented") => {
                if self.size(key).await?.is_some() {
                    return Ok(false);
                }
                self.put(key, PutPayload::default()).await.map(|()| true)
            }
            Err(e) => Err(self.failed("write", key, e)),
        }
    }

    /// A look at a blob.
    pub(crate) async fn seen(&self, key: &Path) -> Result<Option<Seen>, BlobError> {
        let options = object_store::GetOptions { head: true, ..Default::default() };
        let got = self.store.get_opts(key, options).await;
        let Some(got) = self.unless_missing("look at", key, got)? else { return Ok(None) };
        let upload = got.attributes.get(&Attribute::Metadata(UPLOAD.into()));
        Ok(Some(Seen { size: got.meta.size, upload: upload.map(|text| text.to_string()) }))
    }

    /// The size of an object.
    pub(crate) async fn size(&self, key: &Path) -> Result<Option<u64>, BlobError> {
        Ok(self.head(key).await?.map(|meta| meta.size))
    }

    /// What is known of an object. An answer without a body cannot tell a missing object from a missing bucket, so that
    /// is found out by one more request.
    pub(crate) async fn head(
        &self,
        key: &Path,
    ) -> Result<Option<object_store::ObjectMeta>, BlobError> {
        let options = object_store::GetOptions { head: true, ..Default::default() };
        match self.unless_missing("look at", key, self.store.get_opts(key, options).await)? {
            Some(found) => Ok(Some(found.meta)),
            None => {
                self.list_one(key).await?;
                Ok(None)
            }
        }
    }

    /// Writes and deletes a small object without much patience: how the service is now.
    pub(crate) async fn try_write(&self, key: &Path) -> Result<(), BlobError> {
        use object_store::ObjectStoreExt as _;
        let put = self.probing.put(key, "probe".into()).await;
        put.map_err(|e| self.failed("write", key, e))?;
        let deleted = self.probing.delete(key).await;
        self.unless_missing("delete", key, deleted).map(drop)
    }

    /// Compares what the service says of a blob with what was asked for: some services take the wish for encryption, or for a
    /// storage class, without a word and do not follow it.
    pub(crate) async fn check_wishes(&self, key: &Path) -> Result<(), BlobError> {
        if self.class.is_empty() && !self.encrypt {
            return Ok(());
        }
        let url = self.store.signed_url(Method::HEAD, key, Duration::from_secs(60)).await;
        let url = url.map_err(|e| self.failed("look at", key, e))?;
        let action = || format!("look at {key}");
        let answer = self.http.head(url).timeout(Duration::from_secs(30)).send().await;
        let answer = answer.and_then(reqwest::Response::error_for_status).map_err(|e| {
            let denied = e.status().is_some_and(|status| status.as_u16() == 403);
            error::by_text(&self.place, action(), denied, error::chain(&e.without_url()))
        })?;
        let said = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let unsuitable =
            |reason: String| Err(BlobError::Unsuitable { root: self.place.clone(), reason });
        if self.encrypt && said("x-amz-server-side-encryption").is_none() {
            return unsuitable(
                "the service takes the wish for encryption (encrypt) and does not follow it: content would lie there in clear. Leave \
                 encrypt away if that is fine, or encrypt the service's disks"
                    .to_owned(),
            );
        }
        let class = said("x-amz-storage-class").unwrap_or("STANDARD");
        if !self.class.is_empty() && !class.eq_ignore_ascii_case(&self.class) {
            return unsuitable(format!(
                "the service stores in class {class}, not in {} (storageclass): name one that it has, or leave it away",
                self.class
            ));
        }
        Ok(())
    }

    /// Asks for a list that is short.
    pub(crate) async fn list_one(&self, prefix: &Path) -> Result<(), BlobError> {
        use futures_util::TryStreamExt as _;
        let first = self.store.list(Some(prefix)).try_next().await;
        first.map(drop).map_err(|e| self.failed("list", prefix, e))
    }

    /// All of an object, or some bytes of it. For content whose size is known to be small.
    pub(crate) async fn get(&self, key: &Path, range: Range<u64>) -> Result<Bytes, BlobError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let options = object_store::GetOptions { range: Some(range.into()), ..Default::default() };
        let got =
            self.store.get_opts(key, options).await.map_err(|e| self.failed("read", key, e))?;
        got.bytes().await.map_err(|e| self.failed("read", key, e))
    }

    pub(crate) async fn multipart(
        &self,
        upload: &UploadId,
        key: &Path,
    ) -> Result<String, BlobError> {
        let attributes = self.attributes(Some(upload));
        let options = PutMultipartOptions { attributes, ..Default::default() };
        let begun = self.store.create_multipart_opts(key, options).await;
        begun.map_err(|e| self.failed("begin", key, e))
    }

    pub(crate) async fn part(
        &self,
        key: &Path,
        multipart: &str,
        index: usize,
        payload: PutPayload,
    ) -> Result<PartId, BlobError> {
        let put = self.store.put_part(key, &multipart.to_owned(), index, payload).await;
        put.map_err(|e| self.failed("write a part of", key, e))
    }

    /// Makes bytes of an object a part of a multipart upload, without moving them through here.
    pub(crate) async fn copy_part(
        &self,
        key: &Path,
        multipart: &str,
        index: usize,
        from: &Path,
        range: Range<u64>,
    ) -> Result<PartId, BlobError> {
        let action = || format!("copy {from} to a part of {key}");
        let header = |text: String| {
            HeaderValue::try_from(text)
                .map_err(|e| error::by_text(&self.place, action(), false, e.to_string()))
        };
        let source = header(format!("{}/{from}", self.name))?;
        let bytes = header(format!("bytes={}-{}", range.start, range.end.saturating_sub(1)))?;
        let (source_name, range_name) = (
            HeaderName::from_static("x-amz-copy-source"),
            HeaderName::from_static("x-amz-copy-source-range"),
        );
        let signed = SignedUrlOptions::new()
            .with_query([
                ("partNumber", (index + 1).to_string()),
                ("uploadId", multipart.to_owned()),
            ])
            .with_signed_header(source_name.clone(), source.clone())
            .with_signed_header(range_name.clone(), bytes.clone());
        let (began, mut pause) = (tokio::time::Instant::now(), Duration::from_millis(100));
        loop {
            // Signed anew each time: it is valid for as long as one try may take.
            let url = self
                .store
                .signed_url_opts(Method::PUT, key, Duration::from_secs(600), &signed)
                .await;
            let url = url.map_err(|e| self.failed("copy to", key, e))?;
            let request = self
                .http
                .put(url)
                .header(source_name.clone(), source.clone())
                .header(range_name.clone(), bytes.clone())
                .header(http::header::CONTENT_LENGTH, 0)
                .timeout(Duration::from_secs(120));
            let (again, text) = match request.send().await {
                Ok(answer) => {
                    let status = answer.status();
                    match answer.text().await {
                        Ok(body) => {
                            // An error may come with a good status, after the service has begun to answer.
                            if let Some(etag) =
                                error::element(&body, "ETag").filter(|_| status.is_success())
                            {
                                return Ok(PartId { content_id: error::unescape(etag) });
                            }
                            let later = status.is_success()
                                || status.is_server_error()
                                || status.as_u16() == 429;
                            (later && status.as_u16() != 501, format!("{status}: {body}"))
                        }
                        Err(e) => (true, error::chain(&e.without_url())),
                    }
                }
                Err(e) => (true, error::chain(&e.without_url())),
            };
            if !again || began.elapsed() + pause > RETRY_FOR {
                let denied = text.starts_with("403");
                return Err(error::by_text(&self.place, action(), denied, text));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(4));
        }
    }

    pub(crate) async fn complete(
        &self,
        key: &Path,
        multipart: &str,
        parts: Vec<PartId>,
    ) -> Result<(), BlobError> {
        let multipart = multipart.to_owned();
        let done =
            self.unless_another(|| self.store.complete_multipart(key, &multipart, parts.clone()));
        done.await.map(drop).map_err(|e| self.failed("complete", key, e))
    }

    /// Gives up a multipart upload, of which there may be nothing left.
    pub(crate) async fn give_up(&self, key: &Path, multipart: &str) -> Result<(), BlobError> {
        let gone = self.store.abort_multipart(key, &multipart.to_owned()).await;
        self.unless_missing("give up", key, gone).map(drop)
    }

    /// A request to delete an object that the service carries out for so long, whoever sends it.
    pub(crate) async fn deletion(
        &self,
        key: &Path,
        for_so_long: Duration,
    ) -> Result<String, BlobError> {
        let url = self.store.signed_url(Method::DELETE, key, for_so_long).await;
        url.map(String::from).map_err(|e| self.failed("delete", key, e))
    }

    /// Sends such a request once.
    pub(crate) async fn send_deletion(&self, key: &Path, url: &str) -> Result<(), BlobError> {
        let action = || format!("delete {key}");
        let answer = match self.http.delete(url).timeout(Duration::from_secs(30)).send().await {
            Ok(answer) => answer,
            Err(e) => {
                let text = error::chain(&e.without_url());
                return Err(error::by_text(&self.place, action(), false, text));
            }
        };
        let status = answer.status();
        if status.is_success() || status.as_u16() == 404 {
            return Ok(());
        }
        let body = answer.text().await.unwrap_or_default();
        Err(error::by_text(
            &self.place,
            action(),
            status.as_u16() == 403,
            format!("{status}: {body}"),
        ))
    }

    /// Deletes objects, of which some may be gone already.
    pub(crate) async fn delete_all(&self, keys: Vec<Path>) -> Result<(), BlobError> {
        use futures_util::StreamExt as _;
        let named = keys.first().cloned().unwrap_or_default();
        let keys = futures_util::stream::iter(keys.into_iter().map(Ok)).boxed();
        let mut deleted = self.store.delete_stream(keys);
        while let Some(result) = deleted.next().await {
            self.unless_missing("delete", &named, result)?;
        }
        Ok(())
    }
}
