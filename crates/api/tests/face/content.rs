//! Content that the storage has lost: what administrators are told of it, and until when.

use dtr_catalog::records::Settings;
use dtr_types::{Digest, Revision};
use serde_json::Value;

use crate::{
    people::{OCI, PRIVATE, PUBLIC},
    world::World,
};

impl World {
    /// The alerts about content.
    async fn told(&self) -> Vec<String> {
        let alerts = self.admin("GET", "/api/v0/meta/alerts", None).await.is(200).json();
        let all = alerts.as_array().expect("a list").iter();
        let content = all.filter(|alert| alert["id"] == "content");
        content.map(|alert| alert["message"].as_str().expect("text").to_owned()).collect()
    }

    async fn damaged(&self) -> Value {
        let status = self.admin("GET", "/api/v0/meta/cluster_status", None).await.is(200).json();
        status["blob_storage"]["damaged_blobs"].clone()
    }

    async fn tidy(&self) {
        let settings = Settings::default();
        let tidied = dtr_jobs::tidy(&self.people.catalog, &*self.blobs, &settings, Revision::ZERO);
        tidied.await.expect("tidied");
    }
}

#[tokio::test]
async fn lost_content_is_told_with_the_images_that_need_it_until_it_is_back() {
    let world = World::new().await;
    let people = &world.people;
    people.image(PRIVATE, "v1").await;
    let (manifest, digest) = people.image(PUBLIC, "v1").await;
    people.put(PUBLIC, &digest.to_string(), OCI, manifest).await.is(201);
    assert!(world.told().await.is_empty());
    assert_eq!(world.damaged().await, 0);

    let layer = Digest::of(b"layer of v1");
    let (file, aside) = (people.blob_file(&layer), people.blobs_dir().join("aside"));
    std::fs::rename(&file, &aside).expect("taken away");
    let path = format!("/v2/{PUBLIC}/blobs/{layer}");
    people.own("HEAD", &path).send().await.is(404);
    let told = world.told().await;
    let [told] = told.as_slice() else { panic!("{told:?}") };
    let image = [format!("{PRIVATE}:v1"), format!("{PUBLIC}:v1")];
    assert!(image.iter().all(|image| told.contains(image)), "{told}");
    assert!(told.contains(&layer.to_string()) && told.contains("is missing"), "{told}");
    assert_eq!(world.damaged().await, 1);

    // Put back with wrong bytes of the same size it is as bad as before, and with the right ones it is good.
    std::fs::write(&file, b"LAYER OF V1").expect("written");
    world.tidy().await;
    people.get(&path).await.is(404);
    assert_eq!(world.damaged().await, 1);
    std::fs::rename(&aside, &file).expect("put back");
    world.tidy().await;
    assert!(world.told().await.is_empty());
    people.get(&path).await.is(200);
    assert_eq!(world.damaged().await, 0);

    // Lost once more, and pushed.
    std::fs::write(&file, b"LAYER OF V1").expect("written");
    people.get(&path).await.is(500);
    assert!(world.told().await[0].contains("other bytes"));
    people.image(PRIVATE, "v2").await;
    assert_eq!(world.damaged().await, 1, "another image does not heal it");
    people.blob(PRIVATE, "layer of v1").await;
    assert!(world.told().await.is_empty());
    people.get(&path).await.is(200);
}
