//! The program as people meet it: help texts, what is said when something is wrong, exit codes.
//!
//! The help texts stand in `tests/help`; after a change that is meant, `UPDATE_HELP=1 cargo test -p dtr --test
//! command_line` writes them anew.

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Json, Router,
    http::StatusCode,
    routing::{get, post},
};
use dtr_archive::{Encryption, Sealed, UnlockKey};
use serde_json::json;

/// The program, with nothing of this process's environment.
fn dtr(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dtr"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    dtr(arguments).output().expect("the program runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// It ends with this code, says all of this, shows no panic, and writes nothing to standard output.
#[track_caller]
fn refused(output: &Output, code: i32, words: &[&str]) {
    let text = said(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not said in: {text}");
    }
    assert!(!text.contains("panicked") && !text.contains("fault of the program"), "{text}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
}

const COMMANDS: &[&str] = &[
    "",
    "install",
    "serve",
    "reconfigure",
    "status",
    "destroy",
    "backup",
    "backup verify",
    "backup inspect",
    "backup list",
    "backup salvage",
    "restore",
    "upgrade",
    "join",
    "remove",
    "emergency-repair",
    "ping",
    "gc",
    "images",
    "user",
    "user create",
    "org",
    "team",
    "repo",
    "repo create",
    "grant",
    "grant set",
    "token",
    "token list",
    "token create",
    "revoke",
    "events export",
    "tag",
    "image",
    "image push",
    "image pack",
    "image copy",
    "completions",
];

#[test]
fn help_is_as_it_was() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help");
    let update = std::env::var_os("UPDATE_HELP").is_some();
    let mut changed = Vec::new();
    for command in COMMANDS {
        let mut arguments: Vec<&str> = command.split_whitespace().collect();
        arguments.push("--help");
        let output = run(&arguments);
        assert!(output.status.success(), "{command}: {}", said(&output));
        let text = String::from_utf8(output.stdout).expect("text");
        let name = if command.is_empty() { "dtr".to_owned() } else { command.replace(' ', "-") };
        let file = folder.join(format!("{name}.txt"));
        if update {
            fs::write(&file, text).expect("written");
        } else if fs::read_to_string(&file).ok().as_deref() != Some(text.as_str()) {
            changed.push(name);
        }
    }
    assert!(changed.is_empty(), "the help of {changed:?} has changed; see the head of this file");
}

#[test]
fn every_flag_of_the_original_that_means_something_is_there() {
    for (command, flags) in [
        ("backup", &["--ucp-url", "--ucp-insecure-tls", "--existing-replica-id", "--ucp-ca"][..]),
        ("restore", &["--replica-id", "--dtr-external-url", "--dtr-use-default-storage"]),
        ("install", &["--replica-https-port", "--dtr-cert", "--dtr-storage-volume", "--log-level"]),
    ] {
        let help = String::from_utf8(run(&[command, "--help"]).stdout).expect("text");
        for flag in flags {
            assert!(help.contains(flag), "{command} {flag}");
        }
    }
}

#[test]
fn what_is_missing_is_named() {
    let backup = run(&["backup"]);
    refused(&backup, 2, &["--ucp-url", "UCP_PASSWORD", "--data-dir"]);
    let url = ["backup", "--ucp-url", "https://127.0.0.1:1"];
    refused(&run(&url), 2, &["--ucp-username", "UCP_USERNAME"]);
    let name = [&url[..], &["--ucp-username", "admin"]].concat();
    refused(&run(&name), 2, &["UCP_PASSWORD", "no terminal"]);
    refused(&run(&["gc", "--data-dir", "/nowhere"]), 2, &["--dry-run", "--run"]);
    refused(&run(&["user", "update", "bob", "--data-dir", "/nowhere"]), 1, &["/nowhere"]);
}

#[test]
fn wrong_names_are_refused_before_anything_is_sent() {
    let url = ["--ucp-url", "https://127.0.0.1:1"];
    let bad = [
        &["user", "show", "Bob Smith"][..],
        &["repo", "show", "no-namespace"],
        &["grant", "set", "org/web", "team", "everything"],
        &["tag", "show", "org/web", "!"],
        &["backup", "--existing-replica-id", "xyz"],
        &["image", "digest", "no-host"],
    ];
    for arguments in bad {
        let all =
            if arguments[0] == "image" { arguments.to_vec() } else { [arguments, &url].concat() };
        refused(&run(&all), 2, &[]);
    }
}

#[test]
fn a_replica_that_is_not_there_is_said_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().to_str().expect("text");
    refused(&run(&["status", "--data-dir", dir]), 1, &[dir, "not running", "dtr serve"]);
    let nowhere = "/nowhere/at/all";
    refused(&run(&["status", "--data-dir", nowhere]), 1, &[nowhere, "no such folder"]);
}

#[test]
fn an_address_nobody_listens_at() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("https://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let output = run(&[
        "status",
        "--ucp-url",
        &address,
        "--ucp-username",
        "admin",
        "--ucp-password",
        "secret-word",
    ]);
    refused(&output, 1, &["cannot log in", "cannot reach 127.0.0.1", "refused"]);
    assert!(!said(&output).contains("secret-word"));
}

#[test]
fn archives_that_are_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, content: &[u8]| -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, content).expect("written");
        path
    };
    let verify = |path: &Path| run(&["backup", "verify", path.to_str().expect("text")]);
    let empty = file("empty", b"");
    refused(&verify(&empty), 3, &["empty", "is not a good backup"]);
    refused(&verify(&file("text", &[b'x'; 4096])), 3, &["is not a good backup"]);
    refused(&verify(&folder.path().join("absent")), 1, &["absent", "No such file"]);
    let to = Encryption::Recipients(vec![UnlockKey::generate().recipient()]);
    let locked = Sealed::new(Vec::new(), &to).and_then(Sealed::finish).expect("encrypted");
    refused(&verify(&file("age", &locked)), 6, &["cannot open", "--identity-file"]);
    let key = file("key", b"not a key\n");
    let (key, empty) = (key.to_str().expect("text"), empty.to_str().expect("text"));
    refused(&run(&["backup", "verify", "--identity-file", key, empty]), 2, &["AGE-SECRET-KEY-1"]);
    refused(&run(&["backup", "verify", "--storage", "/nowhere", empty]), 2, &["/nowhere"]);
    // From standard input as well.
    let mut child = dtr(&["backup", "inspect", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    // It may have ended before it reads everything.
    let _ = child.stdin.take().expect("piped").write_all(&[0; 100_000]);
    let output = child.wait_with_output().expect("it ends");
    refused(&output, 3, &["standard input"]);
}

#[test]
fn a_wrong_way_to_encrypt_is_refused_before_anything_is_sent() {
    let output = run(&[
        "backup",
        "--encrypt-to",
        "age1nonsense",
        "--ucp-url",
        "https://127.0.0.1:1",
        "--ucp-username",
        "a",
        "--ucp-password",
        "b",
    ]);
    refused(&output, 2, &["age1nonsense"]);
}

#[test]
fn images_and_completions() {
    let images = run(&["images"]);
    assert!(String::from_utf8_lossy(&images.stdout).contains("docker/dtr:"));
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]);
        assert!(script.status.success() && script.stdout.len() > 1000, "{shell}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_fault() {
    let mut child = dtr(&["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    let code = output.status.code().expect("no signal");
    assert!(code == 0 || code == 141, "{code}");
    assert_eq!(said(&output), "");
}

/// A registry with built-in identity, as far as a command asks.
async fn registry() -> SocketAddr {
    let account =
        json!({"id": "01234567-89ab-4def-8123-456789abcdef", "name": "admin", "isAdmin": true});
    let login = move |Json(form): Json<serde_json::Value>| {
        let account = account.clone();
        async move {
            if form["password"] == "right" {
                (StatusCode::OK, Json(json!({"sessionToken": "t0ken", "account": account})))
            } else {
                let error = json!({"code": "UNAUTHORIZED", "message": "wrong name or password"});
                (StatusCode::UNAUTHORIZED, Json(json!({"errors": [error]})))
            }
        }
    };
    let repositories = json!({"repositories": [
        {"namespace": "org", "name": "web", "visibility": "private", "immutableTags": true,
         "pulls": 7, "pushes": 2, "shortDescription": "a\u{1b}[2Jb"},
    ]});
    let router = Router::new()
        .route("/id/login", post(login))
        .route("/id/logout", post(|| async { StatusCode::NO_CONTENT }))
        .route("/api/v0/meta/features", get(|| async { Json(json!({})) }))
        .route("/api/v0/repositories", get(|| async { Json(repositories) }))
        .route(
            "/api/v0/repositories/org/web",
            axum::routing::delete(|| async { StatusCode::NOT_FOUND }),
        )
        .route("/api/v0/backups", post(|| async { "half an archive" }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_over_a_registry() {
    let address = format!("http://{}", registry().await);
    let ask = |arguments: &[&str], password: &str| {
        dtr(arguments)
            .env("UCP_URL", &address)
            .env("UCP_USERNAME", "admin")
            .env("UCP_PASSWORD", password)
            .output()
            .expect("the program runs")
    };
    let wrong = ask(&["repo", "list"], "wr0ng-one");
    refused(&wrong, 1, &["cannot log in", "admin", "wrong name or password"]);
    assert!(!said(&wrong).contains("wr0ng-one"));

    let list = ask(&["repo", "list"], "right");
    assert!(list.status.success(), "{}", said(&list));
    let text = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(text.contains("org/web") && text.contains("private"), "{text}");
    assert!(!text.contains('\u{1b}'), "text from elsewhere moves no cursor");
    let list = ask(&["repo", "list", "-o", "json"], "right");
    let rows: serde_json::Value = serde_json::from_slice(&list.stdout).expect("JSON");
    assert_eq!(rows[0]["pulls"], 7);
    refused(&ask(&["repo", "delete", "org/web"], "right"), 1, &["no repository org/web"]);

    // What is no backup leaves nothing behind.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("b.tar");
    let output = ask(&["backup", "--output", file.to_str().expect("text")], "right");
    refused(&output, 1, &["not usable"]);
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
}

/// A made-up access token, and how it stands in place of the password of `admin`.
const TOKEN: &str = "dtr_00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const BASIC: &str = "Basic YWRtaW46ZHRyXzAwMTEyMjMzNDQ1NTY2Nzc4ODk5YWFiYmNjZGRlZWZmMDAxMTIyMzM0NDU1NjY3Nzg4OTlhYWJiY2NkZGVlZmY=";
/// A service that takes one access token, and counts every other credential that it is sent; a registry, or none.
async fn with_tokens(token: &'static str, is_registry: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let others = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&others);
    let guard = move |headers: axum::http::HeaderMap| {
        let given = headers.get("authorization").and_then(|value| value.to_str().ok());
        if given == Some(&format!("Bearer {token}")) || (is_registry && given == Some(BASIC)) {
            return true;
        }
        counted.fetch_add(usize::from(given.is_some()), Ordering::SeqCst);
        false
    };
    let features = {
        let guard = guard.clone();
        move |headers: axum::http::HeaderMap| async move {
            if guard(headers) { StatusCode::OK } else { StatusCode::UNAUTHORIZED }
        }
    };
    let listed = move |headers: axum::http::HeaderMap| async move {
        match guard(headers) {
            true => (StatusCode::OK, Json(json!({"repositories": []}))),
            false => (StatusCode::UNAUTHORIZED, Json(json!({}))),
        }
    };
    let mut router = Router::new()
        .route(
            "/api/v0/meta/features",
            get(move |h| async { (features(h).await, Json(json!({}))) }),
        )
        .route("/api/v0/repositories", get(listed));
    if is_registry {
        router = router.route("/v2/", get(|| async { StatusCode::UNAUTHORIZED }));
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, others)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_in_place_of_a_password() {
    let ask = |address: SocketAddr, arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = dtr(arguments);
        command.env("UCP_URL", format!("http://{address}")).envs(environment.iter().copied());
        command.output().expect("the program runs")
    };
    let in_place = [("UCP_USERNAME", "admin"), ("UCP_PASSWORD", TOKEN)];
    let (registry, others) = with_tokens(TOKEN, true).await;
    for environment in [&[("UCP_TOKEN", TOKEN)][..], &in_place] {
        let list = ask(registry, &["repo", "list"], environment);
        assert!(list.status.success(), "{}", said(&list));
        // Accounts are managed with a password, and nothing is asked before that is said.
        let users = ask(registry, &["user", "list"], environment);
        refused(&users, 2, &["an access token is not enough", "UCP_PASSWORD"]);
    }
    assert_eq!(others.load(Ordering::SeqCst), 0);
    // It is never said to what is no registry.
    let (ucp, others) = with_tokens("another", false).await;
    for environment in [&[("UCP_TOKEN", TOKEN)][..], &in_place] {
        let list = ask(ucp, &["repo", "list"], environment);
        refused(&list, 1, &["is no registry", "--ucp-url"]);
        assert!(!said(&list).contains(TOKEN));
    }
    assert_eq!(others.load(Ordering::SeqCst), 0, "the token stays here");
}

/// Runs with an archive on standard input.
fn fed(arguments: &[&str], archive: &Path) -> Output {
    let input = fs::File::open(archive).expect("opens");
    dtr(arguments).stdin(Stdio::from(input)).output().expect("the program runs")
}

fn read_json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).expect("reads")).expect("is JSON")
}

#[test]
fn a_registry_that_does_not_run_is_backed_up_removed_restored_and_salvaged() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let (data, archive, report) = (path("dtr"), path("b.tar"), path("r.json"));
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = port.local_addr().expect("an address").port().to_string();
    let place = ["--data-dir", &data, "--replica-https-port", &port, "--replica-http-port", "0"];
    let place = [&place[..], &["--listen-address", "127.0.0.1", "--no-start"]].concat();
    let there = ["--data-dir", &data];
    let install = run(&[&["install"], &place[..]].concat());
    assert!(install.status.success(), "{}", said(&install));

    // A report that cannot be written is known before anything is done.
    let nowhere = path("no/r.json");
    let backup =
        [&["backup", "--output", &archive, "--report"], &[&nowhere[..]][..], &there].concat();
    refused(&run(&backup), 2, &["--report", "nothing was done"]);
    assert!(!Path::new(&archive).exists());
    let backup = [&["backup", "--output", &archive, "--report", &report][..], &there].concat();
    let taken = run(&backup);
    assert!(taken.status.success(), "{}", said(&taken));
    assert_eq!(read_json(Path::new(&report))["exit"], 0);
    let restore = [&["restore", "--report", &report][..], &place].concat();
    let occupied = fed(&restore, Path::new(&archive));
    refused(&occupied, 4, &["a replica is there", "dtr serve", "--keep-old"]);
    let told = read_json(Path::new(&report));
    assert!(told["error"].as_str().expect("text").contains("a replica is there"), "{told}");
    assert_eq!((&told["exit"], &told["good"]), (&json!(4), &json!(false)));

    // What is removed is said first, with what no backup has.
    refused(
        &run(&[&["destroy"], &there[..]].concat()),
        2,
        &["repositories  0", "without image content"],
    );
    let gone = run(&[&["destroy", "--keep-storage", "--yes"], &there[..]].concat());
    assert!(gone.status.success() && said(&gone).contains("which stays"), "{}", said(&gone));
    assert!(
        Path::new(&data).join("blobs").exists() && !Path::new(&data).join("replica.json").exists()
    );

    let restored = fed(&restore, Path::new(&archive));
    assert!(restored.status.success(), "{}", said(&restored));
    assert_eq!(read_json(Path::new(&report))["good"], true);
    let again = fed(&restore, Path::new(&archive));
    let text = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(
        again.status.success() && text.contains("was restored here at"),
        "{text}{}",
        said(&again)
    );
    assert!(read_json(Path::new(&report))["restoredBefore"].is_string());
    let aside = fed(&[&restore[..], &["--keep-old"]].concat(), Path::new(&archive));
    let text = String::from_utf8_lossy(&aside.stdout).into_owned();
    assert!(aside.status.success() && text.contains(".before-"), "{text}{}", said(&aside));

    // One letter of it is another.
    let mut content = fs::read(&archive).expect("reads");
    let at = content.windows(10).position(|w| w == b"\"fullName\"").expect("an account");
    content[at + 1] ^= 1;
    let (damaged, kept) = (path("damaged.tar"), path("kept.tar"));
    fs::write(&damaged, content).expect("written");
    refused(&run(&["backup", "verify", &damaged]), 3, &["is not a good backup"]);
    let same = ["backup", "salvage", &damaged, "--output", &damaged];
    refused(&run(&same), 2, &["the damaged archive itself"]);
    let salvaged = run(&["backup", "salvage", &damaged, "--output", &kept, "--report", &report]);
    assert_eq!(salvaged.status.code(), Some(5), "{}", said(&salvaged));
    assert!(String::from_utf8_lossy(&salvaged.stdout).contains("identity/accounts"));
    assert_eq!(read_json(Path::new(&report))["exit"], 5);
    let other = path("other");
    let elsewhere = ["restore", "--data-dir", &other, "--no-start", "--allow-unknown-owners"];
    refused(&fed(&elsewhere, Path::new(&kept)), 4, &["--salvaged", "things are lost"]);
    let back = fed(&[&elsewhere[..], &["--salvaged"]].concat(), Path::new(&kept));
    assert_eq!(back.status.code(), Some(5), "{}", said(&back));
    let to = Encryption::Recipients(vec![UnlockKey::generate().recipient()]);
    let locked = Sealed::new(Vec::new(), &to).and_then(Sealed::finish).expect("encrypted");
    fs::write(&damaged, locked).expect("written");
    refused(&run(&["backup", "salvage", &damaged, "--output", &kept]), 6, &["age -d"]);
}
