//! The program as a person uses it: install, log in, back up while it runs, lose it, restore, log in.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use dtr_identity::{UcpClient, UcpError};
use dtr_transport::tls;
use dtr_types::Secret;

const PASSWORD: &str = "the-first-admins";
const PASSPHRASE: &str = "correct horse battery staple";

/// A data directory with whatever runs in it; stopped at the end.
struct Place {
    root: PathBuf,
    port: u16,
}

impl Place {
    fn new(folder: &Path, name: &str) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        Self { root: folder.join(name), port }
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ucp"));
        command
            .arg(name)
            .arg("--data-dir")
            .arg(&self.root)
            .env_remove("DEBUG")
            .stdin(Stdio::null());
        command
    }

    fn network(&self, command: &mut Command) {
        let port = self.port.to_string();
        let listen = ["--listen-address", "127.0.0.1"];
        command.args(["--host-address", "localhost", "--controller-port", &port]).args(listen);
    }

    fn install(&self) -> Output {
        let mut command = self.command("install");
        self.network(&mut command);
        run(command.env("UCP_ADMIN_PASSWORD", PASSWORD))
    }

    fn restore(&self, archive: &Path, more: &[&str]) -> Output {
        let mut command = self.command("restore");
        self.network(&mut command);
        let stdin = File::open(archive).expect("an archive");
        run(command.args(more).env("UCP_PASSPHRASE", PASSPHRASE).stdin(stdin))
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    fn client(&self, ca: Option<&str>) -> UcpClient {
        let tls = tls::client_config(ca, ca.is_none()).expect("TLS");
        UcpClient::new(&self.url(), tls).expect("an address")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.root.exists() {
            self.command("stop").output().ok();
        }
    }
}

fn run(command: &mut Command) -> Output {
    command.output().expect("it runs")
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

fn good(output: Output) -> String {
    assert!(output.status.success(), "{:?}: {}", output.status, text(&output));
    text(&output)
}

fn bad(output: &Output, code: i32, says: &str) {
    assert_eq!(output.status.code(), Some(code), "{}", text(output));
    assert!(text(output).contains(says), "{}", text(output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn install_back_up_lose_restore() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = Place::new(folder.path(), "first");
    let said = good(first.install());
    assert!(said.contains(&first.url()), "{said}");
    assert!(!said.contains(PASSWORD), "a password that was given is not shown");
    bad(&first.install(), 1, "already");
    assert!(good(run(&mut first.command("status"))).contains("healthy"));
    // With the authority that it serves, everything is verified.
    let ca = first.client(None).ca().await.expect("served");
    let client = first.client(Some(&ca));
    client.ping().await.expect("healthy");
    let login = client.login("admin", &Secret::new(PASSWORD)).await.expect("fits");
    assert!(login.account.is_admin);
    let wrong = client.login("admin", &Secret::new("wrong-password")).await.expect_err("wrong");
    assert_eq!(wrong.status(), Some(401));
    // Only one process serves a directory.
    bad(&run(&mut first.command("serve")), 1, "serving already");

    // A backup over the local socket, and one over HTTPS, encrypted, into a file.
    let local = folder.path().join("local.tar");
    let mut command = first.command("backup");
    command.arg("--no-passphrase").stdout(File::create(&local).expect("a file"));
    let said = good(run(&mut command));
    assert!(said.contains("identity/accounts"), "{said}");
    let listed = good(run(Command::new("tar").arg("-tf").arg(&local)));
    assert!(
        listed.contains("/manifest.json") && listed.contains("/identity/credentials"),
        "{listed}"
    );
    let remote = folder.path().join("remote.tar");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ucp"));
    command.args(["backup", "--ucp-url", &first.url(), "--ucp-username", "admin", "--ucp-ca", &ca]);
    command.arg("--output").arg(&remote).env("UCP_PASSWORD", PASSWORD).stdin(Stdio::null());
    good(run(command.env("UCP_PASSPHRASE", PASSPHRASE)));
    assert!(fs::read(&remote).expect("written").starts_with(b"age-encryption.org/"));
    command.env("UCP_PASSWORD", "wrong-password");
    bad(&run(&mut command), 1, "wrong");
    let status = good(run(&mut first.command("status")));
    assert!(!status.contains("never"), "the backup is remembered: {status}");

    // The log of all that knows no password.
    let log = fs::read_to_string(first.root.join("ucp.log")).expect("a log");
    for secret in [PASSWORD, PASSPHRASE, login.session_token.expose(), "argon2id"] {
        assert!(!log.contains(secret), "{log}");
    }

    // Lost.
    good(run(&mut first.command("stop")));
    bad(&run(&mut first.command("status")), 1, "no service is running");
    bad(&run(first.command("backup").arg("--output").arg(folder.path().join("x"))), 1, "running");
    assert!(!folder.path().join("x").exists());
    fs::remove_dir_all(&first.root).expect("removed");

    // Refusals leave nothing behind.
    let second = Place::new(folder.path(), "second");
    let mut bytes = fs::read(&local).expect("read");
    let middle = bytes.len() / 2;
    let cut = folder.path().join("cut.tar");
    fs::write(&cut, &bytes[..middle]).expect("written");
    assert_eq!(second.restore(&cut, &[]).status.code(), Some(3));
    bytes[middle] ^= 1;
    fs::write(&cut, &bytes).expect("written");
    assert_eq!(second.restore(&cut, &[]).status.code(), Some(3));
    let mut command = second.command("restore");
    second.network(&mut command);
    command.stdin(File::open(&remote).expect("an archive"));
    assert_eq!(run(&mut command).status.code(), Some(6), "no passphrase was given");
    bad(&run(&mut second.command("status")), 1, "no UCP is installed");
    let names: Vec<_> = fs::read_dir(&second.root).expect("a folder").flatten().collect();
    assert!(names.iter().all(|entry| entry.file_name() == "run.pid"), "{names:?}");
    good(second.restore(&remote, &["--dry-run"]));
    bad(&run(&mut second.command("status")), 1, "no UCP is installed");

    // And back, elsewhere, with the same authority and the same password.
    good(second.restore(&remote, &[]));
    bad(&second.restore(&remote, &[]), 1, "already");
    let client = second.client(Some(&ca));
    let again = client.login("admin", &Secret::new(PASSWORD)).await.expect("fits");
    assert_eq!(again.account.id, login.account.id);
    let over = client.services(&login.session_token).await.expect_err("sessions do not come back");
    assert!(matches!(over, UcpError::Status { status: 401, .. }), "{over}");

    // Killed, it comes back.
    let pid = fs::read_to_string(second.root.join("run.pid")).expect("a pid");
    good(run(Command::new("kill").args(["-9", pid.trim()])));
    // A signal is sent before it is obeyed: the lock tells when the process has gone.
    let lock = second.root.join("run.pid");
    for _ in 0..600 {
        if dtr_service::running(&lock).is_none() {
            break;
        }
        // poll: until the killed process has gone
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let mut command = second.command("serve");
    let mut served = command.stderr(Stdio::null()).spawn().expect("it runs");
    let mut up = false;
    for _ in 0..600 {
        up = client.ping().await.is_ok();
        if up {
            break;
        }
        // poll: until it serves
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(up, "it serves again");
    client.login("admin", &Secret::new(PASSWORD)).await.expect("fits");
    good(run(&mut second.command("stop")));
    assert!(served.wait().expect("it ended").success(), "a stop is graceful");
}

#[test]
fn a_password_is_made_and_shown_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = Place::new(folder.path(), "place");
    let mut command = place.command("install");
    place.network(&mut command);
    let said = good(run(command.arg("--no-start")));
    let line = said.lines().find(|line| line.contains("password")).expect("a line");
    let password = line.split_whitespace().nth(1).expect("a password");
    assert_eq!(password.len(), 24);
    let store = fs::read(place.root.join("store.redb")).expect("a store");
    assert!(!store.windows(24).any(|window| window == password.as_bytes()));
    // What a person types wrong is told before anything is made.
    let other = Place::new(folder.path(), "other");
    let mut command = other.command("install");
    command.args(["--san", "not a name", "--no-start"]);
    bad(&run(&mut command), 1, "--san");
    let mut command = other.command("install");
    bad(&run(command.args(["--admin-password", "short", "--no-start"])), 1, "password");
    bad(&run(&mut other.command("status")), 1, "no UCP is installed");
    bad(
        &run(command.args(["--admin-password", "long-enough", "--no-such-flag"])),
        2,
        "no-such-flag",
    );
}
