//! A real S3-compatible server on this machine's own address, with its content in a folder that goes with it.

use std::{
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use dtr_blobs_s3::{S3Settings, S3Storage};
use dtr_types::{Secret, SystemRandom};

pub const ACCESS: &str = "tester";
pub const SECRET: &str = "a-secret-of-the-tests";
pub const BUCKET: &str = "images";

/// A running server; it is killed when dropped.
pub struct Server {
    dir: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
    ca: Option<String>,
}

/// The program: on the search path, or where `./test` installs it.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or(home.join(".cache"), PathBuf::from);
    std::env::split_paths(&path)
        .chain([cache.join("dtr-test/bin")])
        .map(|folder| folder.join("versitygw"))
        .find(|program| program.is_file())
        .expect("versitygw, the S3 server of these tests; \"./test --quick\" installs it")
}

impl Server {
    pub fn start() -> Self {
        Self::new(None)
    }

    /// With a certificate for 127.0.0.1 from a CA of its own.
    pub fn start_tls() -> Self {
        let ca_key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).expect("a CA");
        let issuer = rcgen::Issuer::new(params, ca_key);
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        Self::new(Some((ca.pem(), certificate.pem(), key.serialize_pem())))
    }

    fn new(tls: Option<(String, String, String)>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("content").join(BUCKET)).expect("a bucket");
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let ca = tls.map(|(ca, certificate, key)| {
            std::fs::write(dir.path().join("cert.pem"), certificate).expect("written");
            std::fs::write(dir.path().join("key.pem"), key).expect("written");
            ca
        });
        let mut server = Self { dir, port, child: None, ca };
        server.launch();
        server
    }

    /// The folder of the bucket, which the server keeps objects in as files.
    pub fn bucket(&self) -> PathBuf {
        self.dir.path().join("content").join(BUCKET)
    }

    pub fn launch(&mut self) {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let mut command = Command::new(program());
        command.args(["--access", ACCESS, "--secret", SECRET, "--quiet", "--keep-alive"]);
        command.args(["--port", &format!("127.0.0.1:{}", self.port)]);
        if self.ca.is_some() {
            command.args(["--cert", &at("cert.pem"), "--key", &at("key.pem")]);
        }
        command.args(["posix", "--sidecar", &at("meta"), &at("content")]);
        std::fs::create_dir_all(Path::new(&at("meta"))).expect("a folder");
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.child = Some(child.expect("started"));
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "the server does not listen");
            std::thread::yield_now();
        }
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killed");
            child.wait().expect("gone");
        }
    }

    pub fn settings(&self) -> S3Settings {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        S3Settings {
            regionendpoint: format!("{scheme}://127.0.0.1:{}", self.port),
            bucket: BUCKET.to_owned(),
            accesskey: ACCESS.to_owned(),
            secretkey: Secret::new(SECRET),
            rootdirectory: "/registry".to_owned(),
            rootcas: self.ca.clone().unwrap_or_default(),
            ..S3Settings::default()
        }
    }

    pub fn storage(&self) -> S3Storage {
        open(&self.settings())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn open(settings: &S3Settings) -> S3Storage {
    S3Storage::open(settings, Arc::new(SystemRandom)).expect("good settings")
}
