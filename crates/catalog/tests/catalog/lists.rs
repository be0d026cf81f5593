//! Lists in pages: in order, without gaps or repetitions, and at one revision where that is asked for.

use dtr_catalog::{keys, records::TagRecord};
use dtr_store::{At, Limits};

use crate::world::World;

#[tokio::test]
async fn a_list_read_page_by_page_at_a_revision_is_that_of_the_revision() {
    let world = World::new();
    let repository = world.create("corp/web").await;
    let (body, blobs) = World::image("one", 1);
    for blob in &blobs {
        world.link(&repository, blob, 9).await;
    }
    let mut expected: Vec<String> = (0..25).map(|n| format!("t{n}")).collect();
    for tag in &expected {
        world.put(&repository, &body, &[tag]).await.expect("pushed");
    }
    expected.sort();
    let revision = world.catalog.store().revision().await.expect("reads");
    let (prefix, id) = (keys::tags(&repository.id), &repository.id);
    let mut listed: Vec<String> = Vec::new();
    loop {
        let at = At::Revision(revision);
        let after = listed.last().map(String::as_str);
        let page = world.catalog.list::<TagRecord>(&prefix, after, 4, at).await.expect("reads");
        listed.extend(page.items.iter().map(|found| found.value.name.to_string()));
        // Meanwhile some are deleted, some made, also before the place that was reached.
        let gone = format!("t{}", listed.len() % 25).parse().expect("a tag");
        world.catalog.delete_tag(id, &gone, None).await.expect("deleted");
        let new = format!("a{}", listed.len());
        world.put(&repository, &body, &[&new]).await.expect("pushed");
        if !page.more {
            break;
        }
    }
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn repositories_are_listed_by_name_and_by_namespace() {
    let limits = Limits { page_items_max: 3, ..Limits::default() };
    let world = World::with(limits);
    let mut names = ["b/x", "a/x", "ab/x", "a/y/z", "a/x-1", "b/a", "a.b/x"].map(String::from);
    for name in &names {
        world.create(name).await;
    }
    names.sort();
    let mut listed = Vec::new();
    loop {
        let after = listed.last().map(String::as_str);
        let page = world.catalog.list_repositories(None, after, 2).await.expect("reads");
        assert!(page.items.len() <= 2);
        listed.extend(page.items.iter().map(|found| found.name.to_string()));
        if !page.more {
            break;
        }
    }
    assert_eq!(listed, names);
    let namespace = "a".parse().expect("a name");
    let page = world.catalog.list_repositories(Some(&namespace), None, 0).await.expect("reads");
    let of_a: Vec<String> = page.items.iter().map(|found| found.name.to_string()).collect();
    assert_eq!(of_a, ["a/x", "a/x-1", "a/y/z"]);
    // Lists that are read whole go over as many pages as it takes.
    let all = world.catalog.all_names(keys::REPOSITORY_NAMES.as_bytes()).await.expect("reads");
    assert_eq!(all, names);
}
