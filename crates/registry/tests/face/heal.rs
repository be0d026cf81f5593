//! Content that the storage has lost or altered: a push of the right bytes brings it again, whatever the record says and by
//! whatever way it comes; nobody is told that it is there, and nobody receives it to its end.

use axum::body::Body;
use dtr_catalog::{keys, records::Damage};
use dtr_registry::Sampling;
use dtr_types::{Digest, Random as _, SeededRandom};
use serde_json::json;

use crate::world::{INDEX, OCI, PRIVATE, PUBLIC, Who, World, descriptor, index};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Removed,
    Emptied,
    Cut,
    Longer,
    /// Other bytes, of the same number.
    Altered,
    /// A link to a file elsewhere that has the right bytes.
    Linked,
}

const HARMS: [Harm; 6] =
    [Harm::Removed, Harm::Emptied, Harm::Cut, Harm::Longer, Harm::Altered, Harm::Linked];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `POST` with the digest and all bytes.
    Whole,
    /// `POST`, then `PUT` with all bytes.
    PostPut,
    /// `POST`, a `PATCH` of a stream, `PUT`.
    Stream,
    Chunks,
    /// `POST` that asks for a mount; all bytes if that is no success.
    Mount,
}

const WAYS: [Way; 5] = [Way::Whole, Way::PostPut, Way::Stream, Way::Chunks, Way::Mount];

/// Larger than what is hashed before each answer, and than a block.
const LARGE: usize = 700_000;

fn content(seed: u64, size: usize) -> Vec<u8> {
    let mut content = vec![0; size];
    SeededRandom::new(seed).fill(&mut content);
    content
}

fn harm(world: &World, digest: &Digest, harm: Harm) {
    let file = world.blob_file(digest);
    let mut bytes = std::fs::read(&file).expect("stored");
    std::fs::remove_file(&file).expect("removed");
    match harm {
        Harm::Removed => return,
        Harm::Emptied => bytes.clear(),
        Harm::Cut => bytes.truncate(10),
        Harm::Longer => bytes.push(0),
        Harm::Altered => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        Harm::Linked => {
            let elsewhere = file.with_file_name("elsewhere");
            std::fs::write(&elsewhere, bytes).expect("written");
            return std::os::unix::fs::symlink(elsewhere, file).expect("linked");
        }
    }
    std::fs::write(file, bytes).expect("written");
}

/// Pushes the blob; says whether the bytes were sent.
async fn push(world: &World, way: Way, bytes: &[u8]) -> bool {
    let digest = Digest::of(bytes);
    let end = async |location: &str, body: Vec<u8>| {
        let path = format!("{location}?digest={digest}");
        world.own("PUT", &path).body(body).send().await.is(201);
    };
    let patch = async |location: &str, body: &[u8], stream: bool| {
        let call = world.own("PATCH", location);
        let body = body.to_vec();
        let call = if stream { call.stream(Body::from(body)) } else { call.body(body) };
        call.send().await.is(202).header("location").to_owned()
    };
    match way {
        Way::Whole => {
            world.blob(PRIVATE, bytes.to_vec()).await;
        }
        Way::PostPut => {
            let location = world.begin(PRIVATE).await;
            end(&location, bytes.to_vec()).await;
        }
        Way::Stream => {
            let location = world.begin(PRIVATE).await;
            let location = patch(&location, bytes, true).await;
            end(&location, Vec::new()).await;
        }
        Way::Chunks => {
            let mut location = world.begin(PRIVATE).await;
            for chunk in bytes.chunks(bytes.len().div_ceil(3)) {
                location = patch(&location, chunk, false).await;
            }
            end(&location, Vec::new()).await;
        }
        Way::Mount => {
            let path = format!("/v2/{PRIVATE}/blobs/uploads/?mount={digest}&from={PUBLIC}");
            let answer = world.own("POST", &path).body("").send().await;
            if answer.status == 201 {
                return false;
            }
            let location = answer.is(202).header("location").to_owned();
            end(&location, bytes.to_vec()).await;
        }
    }
    true
}

#[tokio::test]
async fn a_push_of_right_bytes_ends_with_right_bytes() {
    let world = World::new().await;
    let mut seed = 0;
    for size in [20, LARGE] {
        for what in HARMS {
            for way in WAYS {
                seed += 1;
                let bytes = content(seed, size);
                let case = format!("{what:?} {way:?} {size}");
                let digest = world.blob(PUBLIC, bytes.clone()).await;
                if seed % 2 == 0 {
                    // Also where the repository itself has it already.
                    world.blob(PRIVATE, bytes.clone()).await;
                }
                harm(&world, &digest, what);
                // As clients do: only an alteration that keeps the size is not seen by a look.
                let path = format!("/v2/{PUBLIC}/blobs/{digest}");
                let head = world.own("HEAD", &path).send().await.status;
                let seen = what != Harm::Altered;
                assert_eq!(head, if seen { 404 } else { 200 }, "{case}");
                let sent = push(&world, way, &bytes).await;
                assert!(sent || !seen, "{case}: mounted");
                if sent {
                    assert_eq!(
                        std::fs::read(world.blob_file(&digest)).expect("works"),
                        bytes,
                        "{case}"
                    );
                    assert!(world.get(&path).await.is(200).body == bytes, "{case}");
                    world.own("HEAD", &path).send().await.is(200);
                    assert!(
                        world.catalog.damage(&digest).await.expect("works").is_none(),
                        "{case}"
                    );
                }
            }
        }
    }
    let uploads = world.blobs_dir().join("uploads");
    assert_eq!(
        std::fs::read_dir(uploads).expect("works").count(),
        0,
        "nothing is left of the pushes"
    );
}

/// What is noticed by a read is known to all: to HEAD, to mounts, to the next reads; until a push has brought it again.
#[tokio::test]
async fn what_a_read_finds_out_is_known_until_it_is_healed() {
    let world = World::new().await;
    for (seed, what) in (100..).zip(HARMS) {
        for size in [20, LARGE] {
            let bytes = content(seed, size);
            let digest = world.blob(PUBLIC, bytes.clone()).await;
            harm(&world, &digest, what);
            let case = format!("{what:?} {size}");
            let path = format!("/v2/{PUBLIC}/blobs/{digest}");
            let is_altered = what == Harm::Altered;
            let gone = matches!(what, Harm::Removed | Harm::Linked);
            if is_altered && size == LARGE {
                // It is cut off before its end, so there is no answer to look at.
                let came = world.body_of(&path).await;
                assert!(came.is_err(), "{case}: {came:?}");
            } else {
                let answer = world.get(&path).await.is(if gone { 404 } else { 500 });
                assert!(gone || answer.message().contains("damaged"), "{}", answer.message());
            }
            world.until(404, async || world.own("HEAD", &path).send().await).await;
            let known =
                world.catalog.damage(&digest).await.expect("works").expect("recorded").value.damage;
            let expected = match what {
                Harm::Removed | Harm::Linked => Damage::Missing,
                Harm::Altered => Damage::Content,
                _ => Damage::Size,
            };
            assert_eq!(known, expected, "{case}");
            for range in ["bytes=0-5", "bytes=-5"] {
                let call = world.own("GET", &path).header("range", range);
                call.send().await.is(if gone { 404 } else { 500 });
            }
            assert!(push(&world, Way::Mount, &bytes).await, "{case}: a damaged blob was mounted");
            assert!(world.catalog.damage(&digest).await.expect("works").is_none(), "{case}");
            assert!(world.get(&path).await.is(200).body == bytes, "{case}");
            world.own("HEAD", &path).send().await.is(200);
            assert!(
                !push(&world, Way::Mount, &bytes).await,
                "{case}: good again, so it is mounted"
            );
        }
    }
}

/// Ranges are not hashed, but their blob's size is looked at.
#[tokio::test]
async fn a_range_of_a_blob_of_another_size_is_not_served() {
    let world = World::new().await;
    for what in [Harm::Emptied, Harm::Cut, Harm::Longer] {
        let bytes = content(what as u64, LARGE);
        let digest = world.blob(PRIVATE, bytes).await;
        harm(&world, &digest, what);
        let path = format!("/v2/{PRIVATE}/blobs/{digest}");
        let answer = world.own("GET", &path).header("range", "bytes=100-200").send().await.is(500);
        assert!(answer.message().contains("push it again"), "{}", answer.message());
        assert!(world.catalog.damage(&digest).await.expect("works").is_some());
    }
}

/// Who needs it is told; and a blob that is no longer there by right is no damage.
#[tokio::test]
async fn needs_are_named_and_removals_are_no_damage() {
    let world = World::new().await;
    world.image(PRIVATE, "v1").await;
    let (manifest, digest) = world.image(PUBLIC, "v1").await;
    let size = manifest.len();
    world.put(PUBLIC, "v2", OCI, manifest).await.is(201);
    let layer = Digest::of(b"layer of v1");
    harm(&world, &layer, Harm::Removed);
    let path = format!("/v2/{PUBLIC}/blobs/{layer}");
    world.call("HEAD", &path).who(Who::Anonymous).send().await.is(404);
    let needs = world.catalog.needed_by(&layer, 10).await.expect("works");
    let told: Vec<_> = needs
        .iter()
        .flat_map(|need| need.tags.iter().map(|tag| format!("{}:{tag}", need.repository)))
        .collect();
    assert_eq!(told, [format!("{PRIVATE}:v1"), format!("{PUBLIC}:v1"), format!("{PUBLIC}:v2")]);
    // An image that only an index lists is known by the tags of that.
    let list = index(INDEX, &[descriptor(OCI, &digest, size)], &json!({}));
    world.put(PUBLIC, "multi", INDEX, list).await.is(201);
    world.own("DELETE", &format!("/v2/{PUBLIC}/manifests/v1")).send().await.is(202);
    world.own("DELETE", &format!("/v2/{PUBLIC}/manifests/v2")).send().await.is(202);
    let needs = world.catalog.needed_by(&layer, 10).await.expect("works");
    let public = needs.iter().find(|need| need.repository.as_str() == PUBLIC).expect("there");
    assert_eq!(public.tags.iter().map(|tag| tag.as_str()).collect::<Vec<_>>(), ["multi"]);
    // Without a record nothing is recorded.
    let (blobs, count) = world.catalog.damaged_blobs(10).await.expect("works");
    assert_eq!((blobs.len(), count), (1, 1));
    let unknown = Digest::of(b"never there");
    assert!(world.catalog.suspect(&unknown).await.expect("works").is_none());
    // A look that a push was faster than records nothing.
    push(&world, Way::Whole, b"layer of v1").await;
    let before = world.catalog.suspect(&layer).await.expect("works").expect("good again");
    push(&world, Way::Whole, b"layer of v1").await;
    assert!(!world.catalog.record_damage(&before, Damage::Missing).await.expect("works"));
    assert!(world.catalog.get(&keys::damaged_blob(&layer)).await.expect("works").is_none());
}

/// Where reads are not sampled, a large altered blob is sent; that is what the share is for.
#[tokio::test]
async fn the_share_is_what_was_handed_in() {
    let world = World::new().await;
    let bytes = content(7, LARGE);
    let digest = world.blob(PRIVATE, bytes).await;
    harm(&world, &digest, Harm::Altered);
    let none = world.sampled(Sampling { one_of: 0, ..Sampling::ALL });
    let path = format!("/v2/{PRIVATE}/blobs/{digest}");
    assert!(none.body_of(&path).await.is_ok());
    assert!(none.catalog.damage(&digest).await.expect("works").is_none());
}
