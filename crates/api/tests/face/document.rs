//! The OpenAPI document says what the face does: its paths are the routes, its references lead somewhere.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{matrix::routes, people::Who, world::World};

#[tokio::test]
async fn what_is_served_is_the_document() {
    let world = World::new().await;
    let served = world.ask(Who::Anonymous, "GET", "/api/v0/openapi.json", None).await.is(200);
    let made = serde_json::to_value(dtr_api::openapi()).expect("JSON");
    assert_eq!(served.json(), made);
    assert!(made["openapi"].as_str().expect("a version").starts_with("3."));
}

/// Each path answers to the methods that the document gives it and to no other, and what it does not name is not there.
#[tokio::test]
async fn the_paths_are_the_routes() {
    let world = World::new().await;
    let routes: BTreeSet<String> = routes().into_iter().collect();
    let paths: BTreeSet<&str> =
        routes.iter().map(|route| route.split_once(' ').expect("two words").1).collect();
    for path in paths {
        // Names that nothing has: an answer of this face that is not "no such route" proves the route.
        let asked = path
            .split('/')
            .map(|part| if part.starts_with('{') { "none" } else { part })
            .collect::<Vec<_>>()
            .join("/");
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH"] {
            let answer = world.ask(Who::Anonymous, method, &asked, None).await;
            let documented = routes.contains(&format!("{method} {path}"));
            let status = answer.status.as_u16();
            assert_eq!(status != 405, documented, "{method} {path}: {status}");
        }
        let beyond = format!("{asked}/no/such/thing/at/all");
        let beyond = world.admin("GET", &beyond, None).await;
        assert_eq!(beyond.status.as_u16(), 404, "{path}");
    }
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("$ref", Value::String(to)) => drop(found.insert(to.clone())),
                    _ => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn it_is_whole() {
    let document = serde_json::to_value(dtr_api::openapi()).expect("JSON");
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("within the document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    for route in routes() {
        let (method, path) = route.split_once(' ').expect("two words");
        let described = &document["paths"][path][method.to_lowercase()];
        let named: BTreeSet<&str> =
            path.split('/').filter_map(|p| p.strip_prefix('{')?.strip_suffix('}')).collect();
        let listed = described["parameters"].as_array().cloned().unwrap_or_default();
        let in_path: BTreeSet<&str> = listed
            .iter()
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| parameter["name"].as_str().expect("a name"))
            .collect();
        assert_eq!(named, in_path, "{route}: the parameters of its path");
        assert!(described["summary"].is_string(), "{route}: says what it does");
        assert!(!described["responses"].as_object().expect("some").is_empty(), "{route}");
        assert!(described["security"].is_array(), "{route}: says how to log in");
    }
}
