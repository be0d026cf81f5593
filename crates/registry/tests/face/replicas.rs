//! Two replicas over one store and one folder of blobs. One upload session of which requests come to both: a retry of a
//! balancer, a client that means harm. Rights and settings that are changed through one, and used through the other.

use std::io;

use axum::body::{Body, Bytes};
use dtr_catalog::records::Settings;
use dtr_identity::{AccountChange, Actor, Identity as _};
use dtr_types::{Digest, Secret};
use futures_util::stream;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::world::{Answer, PASSWORD, PRIVATE, Who, World, basic};

const GOOD: &str = "good";
const EVIL: &str = "evil";

/// A request whose body comes piece by piece, and its sender.
struct Slow {
    body: mpsc::Sender<io::Result<Bytes>>,
    answer: JoinHandle<Answer>,
}

impl Slow {
    /// Begins it, and comes back when its replica has read the session and waits for the body.
    async fn begin(world: &std::sync::Arc<World>, method: &'static str, path: &str) -> Self {
        let (body, received) = mpsc::channel::<io::Result<Bytes>>(1);
        let body_of = stream::unfold(received, |mut received| async {
            Some((received.recv().await?, received))
        });
        let (world, path) = (world.clone(), path.to_owned());
        let answer = tokio::spawn(async move {
            world.own(method, &path).stream(Body::from_stream(body_of)).send().await
        });
        let slow = Self { body, answer };
        // An empty frame is no content. The third is taken only when the first was.
        for _ in 0..3 {
            slow.send("").await;
        }
        slow
    }

    async fn send(&self, piece: &'static str) {
        self.body.send(Ok(piece.into())).await.expect("taken");
    }

    async fn end(self) -> Answer {
        drop(self.body);
        self.answer.await.expect("no panic")
    }
}

struct Two {
    a: std::sync::Arc<World>,
    b: std::sync::Arc<World>,
}

impl Two {
    async fn new() -> Self {
        let a = World::new().await;
        let b = World::replica(&a).await;
        Self { a: a.into(), b: b.into() }
    }

    /// `PUT` of the end, at `world`.
    async fn end(&self, world: &World, location: &str, whole: &str) -> Answer {
        let path = format!("{location}?digest={}", Digest::of(whole.as_bytes()));
        world.own("PUT", &path).body("").send().await
    }

    /// Whatever was published hashes to what it is called, and `whole` can be read from both.
    async fn is_whole(&self, whole: &str) {
        let digest = Digest::of(whole.as_bytes());
        for world in [&self.a, &self.b] {
            let got = world.get(&format!("/v2/{PRIVATE}/blobs/{digest}")).await.is(200);
            assert_eq!(got.body, whole);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_a_stale_request_are_never_published_for_others() {
    // A session that has bytes, and one to which none was sent yet.
    for first in ["", "head"] {
        let two = Two::new().await;
        let location = two.a.begin(PRIVATE).await;
        if !first.is_empty() {
            two.a.own("PATCH", &location).body(first).send().await.is(202);
        }
        let stale = Slow::begin(&two.b, "PATCH", &location).await;
        two.a.own("PATCH", &location).body(GOOD).send().await.is(202);
        stale.send(EVIL).await;
        assert_eq!(stale.end().await.is(416).code(), "BLOB_UPLOAD_INVALID");
        let whole = format!("{first}{GOOD}");
        let status = two.b.get(&location).await.is(204);
        assert_eq!(status.header("range"), format!("0-{}", whole.len() - 1));
        two.end(&two.a, &location, &whole).await.is(201);
        two.is_whole(&whole).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_replica_acknowledged_another_does_not_cut_off() {
    for first in ["", "head"] {
        for stale_ends in ["longer than that", "", "broken"] {
            let two = Two::new().await;
            let location = two.a.begin(PRIVATE).await;
            if !first.is_empty() {
                two.a.own("PATCH", &location).body(first).send().await.is(202);
            }
            let stale = Slow::begin(&two.b, "PATCH", &location).await;
            two.a.own("PATCH", &location).body(GOOD).send().await.is(202);
            if stale_ends == "broken" {
                let cut = io::Error::other("the connection broke");
                stale.body.send(Err(cut)).await.expect("taken");
            } else {
                stale.send(stale_ends).await;
            }
            let stale = stale.end().await;
            assert!(stale.status.is_client_error(), "{}", stale.status);
            // It goes on, on the replica that was late.
            two.b.own("PATCH", &location).body("tail").send().await.is(202);
            let whole = format!("{first}{GOOD}tail");
            two.end(&two.b, &location, &whole).await.is(201);
            two.is_whole(&whole).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stale_end_of_a_session_ends_nothing() {
    for first in ["", "head"] {
        for promised in [format!("{first}{EVIL}"), "something else".to_owned()] {
            let two = Two::new().await;
            let location = two.a.begin(PRIVATE).await;
            if !first.is_empty() {
                two.a.own("PATCH", &location).body(first).send().await.is(202);
            }
            let path = format!("{location}?digest={}", Digest::of(promised.as_bytes()));
            let stale = Slow::begin(&two.b, "PUT", &path).await;
            two.a.own("PATCH", &location).body(GOOD).send().await.is(202);
            stale.send(EVIL).await;
            assert_eq!(stale.end().await.is(416).code(), "BLOB_UPLOAD_INVALID");
            let whole = format!("{first}{GOOD}");
            two.end(&two.a, &location, &whole).await.is(201);
            two.is_whole(&whole).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_was_given_up_stays_so_on_all_replicas() {
    for first in ["", "head"] {
        let two = Two::new().await;
        let location = two.a.begin(PRIVATE).await;
        if !first.is_empty() {
            two.a.own("PATCH", &location).body(first).send().await.is(202);
        }
        let late = Slow::begin(&two.b, "PATCH", &location).await;
        late.send(GOOD).await;
        two.a.own("DELETE", &location).send().await.is(204);
        late.end().await.is(404);
        for world in [&two.a, &two.b] {
            for method in ["GET", "PATCH", "DELETE"] {
                let answer = world.own(method, &location).body("x").send().await.is(404);
                assert_eq!(answer.code(), "BLOB_UPLOAD_UNKNOWN");
            }
        }
        // So does one that ended with other bytes than it promised.
        let location = two.a.begin(PRIVATE).await;
        let path = format!("{location}?digest={}", Digest::of(GOOD.as_bytes()));
        two.a.own("PUT", &path).body(EVIL).send().await.is(400);
        two.b.own("PUT", &path).body(GOOD).send().await.is(404);
    }
}

/// Requests that go now to one, now to the other, as through a balancer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_goes_from_replica_to_replica() {
    let two = Two::new().await;
    let location = two.a.begin(PRIVATE).await;
    let mut whole = String::new();
    for (n, piece) in ["one ", "two ", "three ", "four"].into_iter().enumerate() {
        let world = [&two.b, &two.a][n % 2];
        world.own("PATCH", &location).body(piece).send().await.is(202);
        whole.push_str(piece);
        let status = two.a.get(&location).await.is(204);
        assert_eq!(status.header("range"), format!("0-{}", whole.len() - 1));
    }
    two.end(&two.b, &location, &whole).await.is(201);
    two.is_whole(&whole).await;
}

const UPLOADS: &str = "/v2/acme/private/blobs/uploads/";

/// What is taken away or given through one replica is so on the other, for every request that begins after the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_are_the_same_on_all_replicas() {
    let two = Two::new().await;
    let (a, b, actor) = (&two.a.identity, &two.b, Actor::system());
    let path = format!("/auth/token?scope=repository:{PRIVATE}:pull,push");
    let token = b.call("GET", &path).who(Who::ReadWrite).send().await.is(200).json();
    let token = token["token"].as_str().expect("a token").to_owned();
    // With a token and with the password: both are checked now.
    let both = async |token_gets: u16, password_gets: u16| {
        b.call("POST", UPLOADS).bearer(&token).body("").send().await.is(token_gets);
        b.call("POST", UPLOADS).who(Who::ReadWrite).body("").send().await.is(password_gets);
    };
    both(202, 202).await;
    let writer = a.account(&"writer".parse().expect("a name")).await.expect("read").expect("there");
    let team = a.team(&two.a.org, &"writers".parse().expect("a name")).await;
    let team = team.expect("read").expect("there").id;
    for _ in 0..3 {
        a.remove_team_member(&actor, &two.a.org, &team, &writer.id).await.expect("removed");
        both(404, 404).await;
        a.put_team_member(&actor, &two.a.org, &team, &writer.id, None).await.expect("put");
        both(202, 202).await;
        for is_active in [false, true] {
            let change = AccountChange { is_active: Some(is_active), ..AccountChange::default() };
            a.update_account(&actor, &writer.id, change).await.expect("changed");
            let expected = if is_active { 202 } else { 401 };
            both(expected, expected).await;
        }
    }
    a.set_password(&actor, &writer.id, Secret::new("another password")).await.expect("changed");
    both(202, 401).await;
    let new = basic("writer", "another password");
    b.call("POST", UPLOADS).header("authorization", &new).body("").send().await.is(202);
    a.set_password(&actor, &writer.id, Secret::new(PASSWORD)).await.expect("changed");
    both(202, 202).await;
    a.delete_account(&actor, &writer.id).await.expect("deleted");
    both(401, 401).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_the_same_on_all_replicas() {
    let two = Two::new().await;
    for read_only_registry in [true, false, true] {
        let settings = Settings { read_only_registry, ..Settings::default() };
        two.a.catalog.put(&settings).await.expect("put");
        let expected = if read_only_registry { 503 } else { 202 };
        two.b.own("POST", UPLOADS).body("").send().await.is(expected);
    }
}
