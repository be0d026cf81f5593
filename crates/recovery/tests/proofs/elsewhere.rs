//! Content that may be absent (it has an address elsewhere): what was there comes back, and nothing else.

use std::io::Cursor;

use bytes::Bytes;
use dtr_archive::ReadOptions;
use dtr_catalog::CatalogError;
use dtr_recovery::{BackupOptions, Exit, RestoreOptions, VerifyOptions, verify};
use dtr_types::{Digest, media_types};

use crate::world::{VERSION, World};

fn layer(content: &str) -> String {
    format!(
        r#"{{"mediaType":"a/b","digest":"{}","size":{},"urls":["https://example.com/it"]}}"#,
        Digest::of(content.as_bytes()),
        content.len()
    )
}

async fn blob(world: &World, repository: &str, content: &str) -> Digest {
    let repository = world.repository(repository).await;
    world.blob(&repository, &Bytes::from(content.to_owned())).await.unwrap()
}

#[tokio::test]
async fn what_was_there_comes_back_and_nothing_else() {
    let world = World::installed(41).await;
    let app = world.repository("alice/app").await;
    let config = blob(&world, "alice/app", "{}").await;
    let early = blob(&world, "alice/app", "early").await;
    let secret = blob(&world, "corp/secret", "secret").await;
    // It is an image's in its own repository.
    world.push("corp/secret", "v1", &["secret".to_owned()]).await.unwrap();
    let image = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"a/c","digest":"{config}","size":2}},"layers":[{},{},{},{}]}}"#,
        media_types::OCI_MANIFEST,
        layer("early"),
        layer("late"),
        layer("secret"),
        layer("absent"),
    );
    world.manifest(&app, &image, &["win"]).await.unwrap();
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{},{},{}]}}"#,
        media_types::OCI_INDEX,
        layer("entry"),
        layer("no entry"),
        layer("secret"),
    );
    world.manifest(&app, &index, &["entries"]).await.unwrap();
    let late = blob(&world, "alice/app", "late").await;
    let entry = blob(&world, "alice/app", "entry").await;

    let options = BackupOptions { with_images: true, ..BackupOptions::new(VERSION) };
    let (archive, report) = world.backup(options).await;
    assert_eq!(report.exit(), Exit::Done);
    let look = VerifyOptions { storage: None, deep: true };
    let verified = verify(Cursor::new(archive.clone()), ReadOptions::default(), look).await;
    let verified = verified.unwrap();
    assert_eq!((verified.exit(), verified.blobs), (Exit::Done, report.blobs), "{verified}");

    let target = World::empty(42).await;
    let back = target.restore(&archive, RestoreOptions::new(VERSION)).await.unwrap();
    assert_eq!((back.exit(), back.blobs_restored), (Exit::Done, report.blobs), "{back}");
    let catalog = &target.catalog;
    for there in [config, early, late, entry] {
        assert!(catalog.linked_blob(&app.id, &there).await.unwrap().is_some(), "{there}");
        let refused = catalog.unlink_blob(&app.id, &there, None).await;
        assert!(matches!(refused, Err(CatalogError::BlobInUse(_))), "{refused:?}");
        let bytes = target.blobs.read(&there, None).await.unwrap().bytes().await.unwrap();
        assert!(there.matches(&bytes));
    }
    for not in [secret, Digest::of(b"absent"), Digest::of(b"no entry")] {
        assert_eq!(catalog.linked_blob(&app.id, &not).await.unwrap(), None, "{not}");
    }
    // Pushed later, it counts there as it would have here.
    let absent = blob(&target, "alice/app", "absent").await;
    assert!(catalog.is_referenced(&absent).await.unwrap());
    // And the restored registry's own backup has the same.
    let options = BackupOptions { with_images: true, ..BackupOptions::new(VERSION) };
    let (_, second) = target.backup(options).await;
    assert_eq!(second.blobs, report.blobs + 1);
}
