//! Pid files, detached processes and local sockets, with real ones.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use bytes::Bytes;
use dtr_service::{PidFile, ServiceError, local, running, spawn_detached, stop};
use http::Request;
use http_body_util::BodyExt as _;
use tokio_util::sync::CancellationToken;

#[test]
fn a_pid_file_has_one_holder() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run.pid");
    assert_eq!(running(&path), None);
    let held = PidFile::claim(&path).expect("claimed");
    assert_eq!(running(&path), Some(std::process::id()));
    let second = PidFile::claim(&path);
    assert!(
        matches!(&second, Err(ServiceError::Running { pid, .. }) if *pid == std::process::id()),
        "{second:?}"
    );
    drop(held);
    assert_eq!(running(&path), None);
    // What a crash leaves is no obstacle.
    std::fs::write(&path, "4294967295 nonsense\n").expect("written");
    assert_eq!(running(&path), None);
    assert!(!stop(&path, Duration::from_secs(1)).expect("nothing to stop"));
    drop(PidFile::claim(&path).expect("claimed"));
}

#[tokio::test]
async fn a_detached_process_is_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let mark = folder.path().join("mark");
    let script = format!("echo started; touch {}; exec sleep 60", mark.display());
    let started = spawn_detached(Path::new("/bin/sh"), ["-c", &script], &log).expect("started");
    let pid = started
        .wait_until_ready(Duration::from_secs(20), || async { mark.exists() })
        .await
        .expect("ready");
    assert_eq!(dtr_service::tail(&log), "started\n");
    assert_eq!(log.metadata().expect("there").permissions().mode() & 0o777, 0o600);
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("small")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    let fails = spawn_detached(Path::new("/bin/sh"), ["-c", "echo no good >&2; exit 3"], &log);
    let error = fails
        .expect("started")
        .wait_until_ready(Duration::from_secs(20), || async { false })
        .await
        .expect_err("it ended");
    assert!(error.to_string().contains("no good"), "{error}");
}

#[tokio::test]
async fn the_local_socket_is_private_and_works_at_any_depth() {
    let folder = tempfile::tempdir().expect("a folder");
    let deep = folder.path().join("d".repeat(120));
    std::fs::create_dir(&deep).expect("made");
    let request = |path: &str| Request::get(path).body(Bytes::new()).expect("a request");
    let none = local::call(&deep, request("/x")).await;
    assert!(matches!(none, Err(ServiceError::NotRunning { .. })), "{none:?}");
    std::fs::write(deep.join(local::SOCKET), "left by a crash").expect("written");
    let socket = local::listen(&deep).expect("bound");
    let mode = deep.join(local::SOCKET).metadata().expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let shutdown = CancellationToken::new();
    let router = Router::new()
        .route("/x", get(|| async { "here" }))
        .route("/bad", get(|| async { (http::StatusCode::CONFLICT, "not now") }));
    let serving = tokio::spawn(socket.serve(router, shutdown.clone()));
    let answer = local::call(&deep, request("/x")).await.expect("answered");
    assert_eq!(answer.into_body().collect().await.expect("read").to_bytes(), "here");
    let refused = local::call(&deep, request("/bad")).await;
    assert!(
        matches!(&refused, Err(ServiceError::Answer { status: 409, message }) if message == "not now"),
        "{refused:?}"
    );
    let started = Instant::now();
    shutdown.cancel();
    serving.await.expect("ended");
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(!deep.join(local::SOCKET).exists());
}
