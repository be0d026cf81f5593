//! Promise two, with blobs and store together: the power goes at every single operation that changes either disk, in every
//! kind of request. What was acknowledged is there and equal; what was not happened wholly or not at all; nothing torn can
//! be seen; the same request, sent again, succeeds; and in the end nothing is left over that the collector does not find.

mod content;
mod world;

use std::time::Duration;

use axum::body::Bytes;
use dtr_blobs::simulated::Loss;
use dtr_types::Digest;

use content::{Stock, blob, image};
use world::{Answer, Disks, GRACE, ONE, TWO, Visible, World};

/// As in the product.
const USUAL: usize = 128;
/// So few that a manifest with twelve layers takes several transactions.
const FEW: usize = 18;

/// What is under way when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    UploadAtOnce,
    UploadInChunks,
    Mount,
    PushAndMoveTag,
    PushLarge,
    PushWhole,
    DeleteTag,
    DeleteManifest,
    DeleteLargeManifest,
    DeleteBlob,
    DeleteRepository,
    Collect,
}

/// What the client knows.
#[derive(Default)]
struct Done {
    acknowledged: bool,
    /// An upload in chunks: where, and how many bytes were acknowledged.
    upload: Option<(String, usize)>,
}

fn done(acknowledged: bool) -> Done {
    Done { acknowledged, upload: None }
}

/// A deletion; one that finds nothing has been done before.
fn deleted(answer: &Answer) -> Done {
    done(answer.is(202) || answer.is(404))
}

impl Act {
    async fn go(self, world: &World) -> Done {
        match self {
            Self::UploadAtOnce => done(world.push_blob(ONE, &blob("monolithic")).await),
            Self::UploadInChunks => chunks(world).await,
            Self::Mount => {
                let digest = Digest::of(&blob("a1"));
                let path = format!("/v2/{TWO}/blobs/uploads/?mount={digest}&from={ONE}");
                done(world.send("POST", &path, "").await.is(201))
            }
            Self::PushAndMoveTag => done(world.put(ONE, "latest", "e").await),
            Self::PushLarge => {
                let reference = format!("{}?tag=latest&tag=new", image("f").digest);
                done(world.put(ONE, &reference, "f").await)
            }
            Self::PushWhole => {
                done(world.push_blobs(TWO, &image("w")).await && world.put(TWO, "new", "w").await)
            }
            Self::DeleteTag => {
                deleted(&world.send("DELETE", &path(ONE, "manifests", "v1"), "").await)
            }
            Self::DeleteManifest => {
                let path = path(ONE, "manifests", &image("a").digest.to_string());
                deleted(&world.send("DELETE", &path, "").await)
            }
            Self::DeleteLargeManifest => {
                let path = path(TWO, "manifests", &image("g").digest.to_string());
                deleted(&world.send("DELETE", &path, "").await)
            }
            Self::DeleteBlob => {
                let path = path(ONE, "blobs", &Digest::of(&blob("lonely")).to_string());
                deleted(&world.send("DELETE", &path, "").await)
            }
            Self::DeleteRepository => {
                let name = ONE.parse().expect("a name");
                done(world.catalog.delete_repository(&name, None).await.is_ok())
            }
            Self::Collect => {
                world.pass(2 * GRACE).await;
                done(world.collect().await)
            }
        }
    }

    fn stock(self) -> Stock {
        match self {
            Self::PushLarge | Self::DeleteLargeManifest => Stock::Large,
            Self::Collect => Stock::Tidy,
            _ => Stock::Usual,
        }
    }

    /// Whether the effect of one that was not acknowledged may be there in part: of a push, blobs without the manifest;
    /// of a collection, some of what nobody needs.
    fn is_gradual(self, path: &str, before: &Visible, after: &Visible) -> bool {
        let part = matches!(self, Self::PushWhole | Self::Collect) && path.contains("/blobs/");
        part && before[path] != after[path]
    }
}

fn path(repository: &str, kind: &str, reference: &str) -> String {
    format!("/v2/{repository}/{kind}/{reference}")
}

async fn chunks(world: &World) -> Done {
    let content = blob("chunked");
    let begun = world.send("POST", &format!("/v2/{ONE}/blobs/uploads/"), "").await;
    if !begun.is(202) {
        return Done::default();
    }
    let location = begun.header("location").to_owned();
    go_on(world, &location, &content, 0).await
}

/// Two chunks, and the end with the rest.
async fn go_on(world: &World, location: &str, content: &Bytes, mut at: usize) -> Done {
    for end in [7_001, 14_002] {
        if at >= end {
            continue;
        }
        let sent = world.send("PATCH", location, content.slice(at..end)).await;
        if !sent.is(202) {
            return Done { acknowledged: false, upload: Some((location.to_owned(), at)) };
        }
        at = end;
    }
    let path = format!("{location}?digest={}", Digest::of(content));
    let acknowledged = world.send("PUT", &path, content.slice(at..)).await.is(201);
    Done { acknowledged, upload: Some((location.to_owned(), at)) }
}

/// An upload goes on at the byte that the registry names, which is none before the last that it acknowledged; or it is
/// gone as a whole, as one can be that was begun shortly before the power went.
async fn resume(world: &World, location: &str, acknowledged: usize, context: &str) {
    let status = world.send("GET", location, "").await;
    if status.is(404) {
        return;
    }
    assert!(status.is(204), "{context}: {}", status.status);
    let last: usize = status.header("range").trim_start_matches("0-").parse().expect("a range");
    let at = if last == 0 { 0 } else { last + 1 };
    let blob_path = path(ONE, "blobs", &Digest::of(&blob("chunked")).to_string());
    // Once it is linked the session is over, and its id one to which nothing was sent.
    let linked = world.send("GET", &blob_path, "").await.is(200);
    assert!(at >= acknowledged || linked, "{context}: {at} of {acknowledged} bytes");
    let end = go_on(world, location, &blob("chunked"), at).await;
    if !end.acknowledged {
        let gone = world.send("PATCH", location, "x").await;
        assert!(gone.is(404), "{context}: {} {:?}", gone.status, gone.body);
    }
}

/// A runtime of its own, so that whatever a life had under way ends with it.
fn life<T>(of: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(of)
}

fn base(stock: Stock) -> Disks {
    let disks = Disks::new();
    life(async { World::open(&disks, USUAL, 1).await.fill(stock).await });
    // What was acknowledged is all that there is.
    disks.restart(Loss::Everything);
    disks
}

fn prove(act: Act, operations_max: usize) {
    let base = base(act.stock());
    let before = life(async {
        let disks = base.copy();
        World::open(&disks, operations_max, 2).await.visible(act.stock(), "before").await
    });
    let after = life(async {
        let disks = base.copy();
        let world = World::open(&disks, operations_max, 3).await;
        assert!(act.go(&world).await.acknowledged, "it works with power");
        world.visible(act.stock(), "after").await
    });
    assert!(act == Act::Collect || before != after, "it has an effect");
    let mut acknowledged = 0;
    for at in 1.. {
        let mut cut = true;
        // All that was not synced, or what disks really do: by turns, and everything each time when asked for.
        let every = [Loss::Everything, Loss::Some(at), Loss::Nothing];
        let turn = at as usize % 2;
        let all = std::env::var_os("POWER_ALL_LOSSES").is_some();
        for &loss in if all { &every[..] } else { &every[turn..=turn] } {
            let context = format!("{act:?}, {operations_max}, power gone at {at}, {loss:?}");
            let disks = base.copy();
            let (known, went) = life(async {
                let world = World::open(&disks, operations_max, 1_000 + at).await;
                let meter = disks.cut_at(at);
                let known = act.go(&world).await;
                (known, meter.is_cut())
            });
            disks.restart(loss);
            cut &= went;
            acknowledged += u64::from(known.acknowledged);
            life(check(&disks, act, operations_max, &known, (&before, &after), &context));
        }
        if !cut {
            assert!(at > 5, "the power never went");
            assert!(acknowledged >= 1, "it is acknowledged in the end");
            println!("{act:?}, {operations_max}: {at} moments");
            return;
        }
    }
}

async fn check(
    disks: &Disks,
    act: Act,
    operations_max: usize,
    known: &Done,
    (before, after): (&Visible, &Visible),
    context: &str,
) {
    let world = World::open(disks, operations_max, 5_000).await;
    let now = world.visible(act.stock(), context).await;
    let differs = |from: &Visible| {
        let differing = now.iter().filter(|(path, read)| from[*path] != **read);
        let mut certain = differing.filter(|(path, _)| !act.is_gradual(path, before, after));
        certain.next().map(|(path, read)| format!("{path}: {read:?}"))
    };
    let from_after = differs(after);
    if known.acknowledged {
        assert!(from_after.is_none(), "{context}: acknowledged, and lost: {from_after:?}");
        assert!(act == Act::Collect || now == *after, "{context}: acknowledged, and lost in part");
    } else if let Some(half) = from_after {
        let other = differs(before);
        assert!(other.is_none(), "{context}: done in part: {half} {other:?}");
    }
    if let Some((location, acknowledged)) = &known.upload
        && !known.acknowledged
    {
        resume(&world, location, *acknowledged, context).await;
    }
    assert!(act.go(&world).await.acknowledged, "{context}: it does not succeed afterwards");
    let again = world.visible(act.stock(), context).await;
    for (path, read) in &again {
        assert_eq!(after[path], *read, "{context}: {path} after it was done again");
    }
    if act != Act::DeleteRepository {
        let works = world.push_blobs(ONE, &image("e")).await && world.put(ONE, "new", "e").await;
        assert!(works, "{context}: nothing can be pushed any more");
        let pulled = world.send("GET", &path(ONE, "manifests", "new"), "").await;
        assert_eq!(pulled.body, image("e").manifest, "{context}");
    }
    tokio::time::timeout(Duration::from_secs(60), world.ends_empty(context)).await.expect("ends");
}

#[test]
fn an_upload_in_one_request() {
    prove(Act::UploadAtOnce, USUAL);
}

#[test]
fn an_upload_in_chunks() {
    prove(Act::UploadInChunks, USUAL);
}

#[test]
fn a_mount() {
    prove(Act::Mount, USUAL);
}

#[test]
fn a_manifest_that_takes_a_tag() {
    prove(Act::PushAndMoveTag, USUAL);
}

#[test]
fn a_manifest_that_takes_several_transactions() {
    prove(Act::PushLarge, FEW);
}

#[test]
fn a_whole_push() {
    prove(Act::PushWhole, USUAL);
}

#[test]
fn the_deletion_of_a_tag() {
    prove(Act::DeleteTag, USUAL);
}

#[test]
fn the_deletion_of_a_manifest() {
    prove(Act::DeleteManifest, USUAL);
}

#[test]
fn the_deletion_of_a_manifest_that_takes_several_transactions() {
    prove(Act::DeleteLargeManifest, FEW);
}

#[test]
fn the_deletion_of_a_blob() {
    prove(Act::DeleteBlob, USUAL);
}

#[test]
fn the_deletion_of_a_repository() {
    prove(Act::DeleteRepository, FEW);
}

#[test]
fn a_run_of_the_collector() {
    prove(Act::Collect, USUAL);
}
