//! The registry client against a registry that is not ours: Debian's docker-registry. `./test` installs it; where it is
//! missing these tests fail and say so.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use dtr_client::{
    Credentials, ImageBuilder, Layer, Layout, Reference, Registry, RetryPolicy, Source, TlsOptions,
};
use dtr_types::{Digest, RepositoryName};
use tempfile::TempDir;

/// Ended when dropped.
struct Debian {
    process: Child,
    folder: TempDir,
    port: u16,
}

impl Drop for Debian {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn start() -> Debian {
    let folder = tempfile::tempdir().expect("folder");
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").expect("loopback");
        free.local_addr().expect("address").port()
    };
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n",
        folder.path().join("data").display()
    );
    let file = folder.path().join("config.yml");
    fs::write(&file, config).expect("written");
    let process = Command::new("docker-registry")
        .arg("serve")
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("Debian's package docker-registry must be installed; ./test does it as root");
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(began.elapsed() < Duration::from_secs(20), "docker-registry does not listen");
        // poll: until it listens.
        std::thread::sleep(Duration::from_millis(20));
    }
    Debian { process, folder, port }
}

fn client(debian: &Debian) -> Registry {
    let address = format!("http://127.0.0.1:{}", debian.port);
    let (tls, retry) = (TlsOptions::default(), RetryPolicy::default());
    Registry::new(&address, &tls, Credentials::Anonymous, retry).expect("client")
}

fn name(text: &str) -> RepositoryName {
    text.parse().expect("a name")
}

fn tag(text: &str) -> Reference {
    Reference::Tag(text.parse().expect("a tag"))
}

#[tokio::test]
async fn an_image_goes_there_and_comes_back_equal() {
    let debian = start();
    let registry = client(&debian);
    registry.ping().await.expect("answers");
    let layout = Layout::create(debian.folder.path().join("out")).await.expect("layout");
    let program = std::env::current_exe().expect("this program");
    let image = ImageBuilder::new()
        .layer(Layer::new().file("/bin/program", program).bytes("/etc/motd", "hello\n", 0o644))
        .layer(Layer::new().bytes("/etc/version", "1\n", 0o644))
        .entrypoint(&["/bin/program"]);
    let digest = image.build(&layout, "one").await.expect("built");
    assert_eq!(image.build(&layout, "one").await.expect("built again"), digest);

    let (repository, one) = (name("team/app"), tag("one"));
    let pushed =
        registry.push_layout(&layout, Some("one"), &repository, Some(&one)).await.expect("pushed");
    assert_eq!((pushed.digest, pushed.blobs, pushed.existed), (digest, 3, 0));
    let again =
        registry.push_layout(&layout, None, &repository, Some(&tag("two"))).await.expect("pushed");
    assert_eq!((again.blobs, again.existed), (0, 3));
    assert_eq!(registry.tags(&repository).await.expect("tags"), ["one", "two"]);
    let head = registry.head_manifest(&repository, &one).await.expect("head").expect("there");
    assert_eq!(head.digest, digest);

    let other = name("team/copy");
    let copied = registry.copy(&repository, &one, &registry, &other, Some(&one)).await;
    let copied = copied.expect("copied");
    assert_eq!((copied.blobs, copied.existed), (0, 3), "mounted, not sent");

    let back = Layout::create(debian.folder.path().join("back")).await.expect("layout");
    let pulled = registry.pull_layout(&other, &one, &back, Some("one")).await.expect("pulled");
    assert_eq!((pulled.digest, pulled.bytes), (digest, pushed.bytes));
    assert_eq!(
        back.read_manifest(&digest).await.expect("read"),
        layout.read_manifest(&digest).await.expect("read")
    );
    assert!(registry.delete_manifest(&repository, &digest.into()).await.expect("deleted"));
    assert!(registry.head_manifest(&repository, &one).await.expect("head").is_none());
    assert!(!registry.delete_manifest(&repository, &digest.into()).await.expect("none"));
}

#[tokio::test]
async fn blobs_of_every_size_and_way_arrive() {
    let debian = start();
    let registry = client(&debian);
    let repository = name("team/blobs");
    for size in [0usize, 1, 4096, (1 << 20) + 1, 5 << 20] {
        for chunk in [None, Some(1 << 20)] {
            let kind = u8::from(chunk.is_some());
            let content: Vec<u8> = (0..size).map(|n| (n / 7) as u8 ^ kind).collect();
            let digest = Digest::of(&content);
            let source = Source::Bytes(content.clone().into());
            registry.upload_blob(&repository, &digest, &source, chunk).await.expect("pushed");
            let mut stream = registry.get_blob(&repository, &digest).await.expect("opened");
            let mut got = Vec::new();
            while let Some(part) = stream.next().await.expect("whole") {
                got.extend_from_slice(&part);
            }
            assert!(got == content, "{size} bytes, chunk {chunk:?}");
        }
    }
    let missing = Digest::of(b"missing");
    assert_eq!(registry.head_blob(&repository, &missing).await.expect("head"), None);
    assert!(registry.get_blob(&repository, &missing).await.is_err());
}
