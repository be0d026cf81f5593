//! What each noun does, over the wire.

use serde_json::{Value, json};

use crate::{
    people::{INDEX, OCI, PRIVATE, PUBLIC, Who},
    world::World,
};

fn names(list: &Value, field: &str) -> Vec<String> {
    let items = list.as_array().expect("a list");
    items.iter().map(|item| item[field].as_str().expect("text").to_owned()).collect()
}

#[tokio::test]
async fn repositories_come_change_and_go() {
    let world = World::new().await;
    let at = "/api/v0/repositories/acme";
    let new = json!({ "name": "web/app", "shortDescription": "of ours", "immutableTags": true });
    let made = world.admin("POST", at, Some(&new)).await.is(201).json();
    assert_eq!(
        (made["namespace"].as_str(), made["name"].as_str()),
        (Some("acme"), Some("web/app"))
    );
    assert_eq!(made["visibility"], "private", "nothing is public unless it is said");
    assert_eq!(made["namespaceType"], "organization");
    let again = world.admin("POST", at, Some(&new)).await.is(400).json();
    assert_eq!(again["errors"][0]["code"], "REPOSITORY_EXISTS");
    // A name of several components is one segment of the path, written with %2F.
    let path = format!("{at}/web%2Fapp");
    let change = json!({ "visibility": "public", "immutableTags": false });
    let changed = world.admin("PATCH", &path, Some(&change)).await.is(200).json();
    assert_eq!(
        (&changed["visibility"], &changed["immutableTags"]),
        (&json!("public"), &json!(false))
    );
    assert_eq!(changed["shortDescription"], "of ours", "what is not named stays");
    assert_eq!(world.ask(Who::Anonymous, "GET", &path, None).await.is(200).json(), changed);
    let refused = json!({ "visibility": "secret" });
    world.admin("PATCH", &path, Some(&refused)).await.is(400);
    assert_eq!(world.admin("GET", &path, None).await.json(), changed);
    world.admin("DELETE", &path, None).await.is(204);
    world.admin("GET", &path, None).await.is(404);
    world.admin("DELETE", &path, None).await.is(404);
    for name in ["", "UPPER", "a//b", "../a", "a b", "-a", &"a".repeat(300)] {
        let answer = world.admin("POST", at, Some(&json!({ "name": name }))).await.is(400);
        assert_eq!(answer.json()["errors"][0]["code"], "INVALID_PARAMETERS", "{name}");
    }
    // It is JSON, and the field is named.
    let wrong = json!({ "name": "x", "tagLimit": -1 });
    let error = &world.admin("POST", at, Some(&wrong)).await.is(400).json()["errors"][0];
    assert_eq!(error["code"], "INVALID_PARAMETERS");
    let message = error["message"].as_str().expect("text");
    assert!(message.starts_with("tagLimit: invalid value"), "{message}");
}

#[tokio::test]
async fn what_would_have_no_effect_is_refused_with_the_reason() {
    let world = World::new().await;
    let at = "/api/v0/repositories/acme";
    let said = async |method: &str, path: &str, body: &Value| {
        let answer = world.admin(method, path, Some(body)).await.is(400);
        answer.json()["errors"][0]["message"].as_str().expect("a message").to_owned()
    };
    let scan = said("POST", at, &json!({ "name": "lim", "scanOnPush": true })).await;
    assert!(scan.contains("no scanner"), "{scan}");
    let both = json!({ "name": "lim", "tagLimit": 3, "immutableTags": true });
    let both = said("POST", at, &both).await;
    assert!(both.contains("exclude each other"), "{both}");
    let new = json!({ "name": "lim", "tagLimit": 3, "scanOnPush": false });
    world.admin("POST", at, Some(&new)).await.is(201);
    let path = format!("{at}/lim");
    let both = said("PATCH", &path, &json!({ "immutableTags": true })).await;
    assert!(both.contains("exclude each other"), "{both}");
    said("PATCH", &path, &json!({ "scanOnPush": true })).await;
    let change = json!({ "immutableTags": true, "tagLimit": 0 });
    world.admin("PATCH", &path, Some(&change)).await.is(200);
    said("PATCH", &path, &json!({ "tagLimit": 1 })).await;
    // A repository of an older version may have both, and is changed in other things.
    let name = "acme/lim".parse().expect("a name");
    let catalog = &world.people.catalog;
    let found = catalog.lookup_repository(&name).await.expect("reads").expect("there").value;
    let old = dtr_catalog::records::Repository { tag_limit: 3, scan_on_push: true, ..found };
    catalog.put(&old).await.expect("put");
    world.admin("PATCH", &path, Some(&json!({ "shortDescription": "ours" }))).await.is(200);
    let settings = "/api/v0/meta/settings";
    let cookies = said("POST", settings, &json!({ "disablePersistentCookies": true })).await;
    assert!(cookies.contains("no cookies"), "{cookies}");
    let whole = json!({ "disablePersistentCookies": false, "gcGraceSeconds": 120 });
    world.admin("POST", settings, Some(&whole)).await.is(202);
}

#[tokio::test]
async fn a_push_beyond_the_limit_and_a_lower_limit_remove_the_oldest_tags() {
    let world = World::new().await;
    let path = format!("/api/v0/repositories/{PRIVATE}");
    world.admin("PATCH", &path, Some(&json!({ "tagLimit": 3 }))).await.is(200);
    for tag in ["t1", "t2", "t3", "t4", "t5"] {
        world.people.image(PRIVATE, tag).await;
    }
    let tags = async || {
        let answer = world.admin("GET", &format!("{path}/tags"), None).await.is(200);
        names(&answer.json(), "name")
    };
    assert_eq!(tags().await, ["t3", "t4", "t5"]);
    world.admin("PATCH", &path, Some(&json!({ "tagLimit": 1 }))).await.is(200);
    assert_eq!(tags().await, ["t5"]);
    let events = world.admin("GET", "/api/v0/events?pageSize=100", None).await.is(200).json();
    let mut removed: Vec<&str> = events
        .as_array()
        .expect("a list")
        .iter()
        .filter(|event| event["actor"] == "system" && event["object"]["type"] == "tag")
        .map(|event| event["object"]["name"].as_str().expect("a name"))
        .collect();
    removed.sort_unstable();
    assert_eq!(removed, ["t1", "t2", "t3", "t4"]);
}

#[tokio::test]
async fn lists_show_what_one_may_see_in_pages() {
    let world = World::new().await;
    for number in 0..7 {
        let new = json!({ "name": format!("r{number}"), "visibility": "private" });
        world.admin("POST", "/api/v0/repositories/acme", Some(&new)).await.is(201);
    }
    let of = async |who, query: &str| {
        world.ask(who, "GET", &format!("/api/v0/repositories{query}"), None).await.is(200)
    };
    let seen = of(Who::Stranger, "").await.json();
    assert_eq!(names(&seen["repositories"], "name"), ["public"]);
    let mut start = String::new();
    let mut all = Vec::new();
    loop {
        let page = of(Who::Admin, &format!("/acme?pageSize=2&pageStart={start}")).await;
        let found = names(&page.json()["repositories"], "name");
        assert!(found.len() <= 2);
        all.extend(found);
        match page.header("x-next-page-start") {
            "" => break,
            next => start = next.replace('/', "%2F"),
        }
    }
    assert_eq!(all, ["private", "public", "r0", "r1", "r2", "r3", "r4", "r5", "r6"]);
    for size in ["0", "1001", "-1", "x", "18446744073709551616"] {
        let path = format!("/api/v0/repositories?pageSize={size}");
        world.admin("GET", &path, None).await.is(400);
    }
}

#[tokio::test]
async fn tags_and_manifests() {
    let world = World::new().await;
    let (manifest, digest) = world.people.image(PRIVATE, "v1").await;
    world.people.put(PRIVATE, "v2", OCI, manifest).await.is(201);
    let at = format!("/api/v0/repositories/{PRIVATE}");
    let tags = world.admin("GET", &format!("{at}/tags?includeManifests=true"), None).await.is(200);
    let tags = tags.json();
    assert_eq!(names(&tags, "name"), ["v1", "v2"]);
    assert_eq!(names(&tags, "digest"), [digest.to_string(), digest.to_string()]);
    assert_eq!(tags[0]["manifest"]["mediaType"], OCI);
    assert_eq!(tags[0]["author"], "owner");
    let one = world.admin("GET", &format!("{at}/tags/v1"), None).await.is(200).json();
    assert_eq!(one["digest"], digest.to_string());
    world.admin("GET", &format!("{at}/tags/v3"), None).await.is(404);
    let manifests = world.admin("GET", &format!("{at}/manifests"), None).await.is(200).json();
    assert_eq!(names(&manifests, "digest"), [digest.to_string()]);
    let by_digest = format!("{at}/manifests/{digest}");
    // What is gone already is deleted: a script that is run again goes on.
    for path in [format!("{at}/tags/v1"), by_digest] {
        for _ in 0..2 {
            world.admin("DELETE", &path, None).await.is(204);
        }
    }
    let tags = world.admin("GET", &format!("{at}/tags"), None).await.is(200).json();
    assert_eq!(tags, json!([]), "a tag never outlives its manifest");
}

#[tokio::test]
async fn a_manifest_of_an_index_is_deleted_after_it() {
    let world = World::new().await;
    let (manifest, digest) = world.people.image(PRIVATE, "amd64").await;
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [{ "mediaType": OCI, "digest": digest, "size": manifest.len() }],
    });
    let index = index.to_string();
    let index_digest = dtr_types::Digest::of(index.as_bytes());
    world.people.put(PRIVATE, "multi", INDEX, index).await.is(201);
    let path = |digest| format!("/api/v0/repositories/{PRIVATE}/manifests/{digest}");
    let refused = world.admin("DELETE", &path(digest), None).await.is(409).json();
    assert_eq!(refused["errors"][0]["code"], "IN_USE");
    let message = refused["errors"][0]["message"].as_str().expect("text");
    assert!(message.contains(&index_digest.to_string()) && message.contains("multi"), "{message}");
    world.admin("DELETE", &path(index_digest), None).await.is(204);
    world.admin("DELETE", &path(digest), None).await.is(204);
}

#[tokio::test]
async fn teams_get_levels_and_lose_them() {
    let world = World::new().await;
    let at = format!("/api/v0/repositories/{PRIVATE}/teamAccess");
    let list = world.admin("GET", &at, None).await.is(200).json();
    assert_eq!(list["teamAccessList"].as_array().map(Vec::len), Some(3));
    let pull = format!("/v2/{PRIVATE}/tags/list");
    world.ask(Who::ReadOnly, "GET", &pull, None).await.is(200);
    world.admin("DELETE", &format!("{at}/readers"), None).await.is(204);
    world.people.until(404, async || world.ask(Who::ReadOnly, "GET", &pull, None).await).await;
    let level = json!({ "accessLevel": "read-write" });
    let put = world.admin("PUT", &format!("{at}/readers"), Some(&level)).await.is(200).json();
    assert_eq!(
        (&put["team"]["name"], &put["accessLevel"]),
        (&json!("readers"), &json!("read-write"))
    );
    world.people.until(200, async || world.ask(Who::ReadOnly, "GET", &pull, None).await).await;
    for wrong in ["", "owner", "READ-ONLY"] {
        let level = json!({ "accessLevel": wrong });
        world.admin("PUT", &format!("{at}/readers"), Some(&level)).await.is(400);
    }
    world.admin("PUT", &format!("{at}/nobody"), Some(&level)).await.is(404);
    let on_all = "/api/v0/repositoryNamespaces/acme/teamAccess/writers";
    world.admin("PUT", on_all, Some(&json!({ "accessLevel": "admin" }))).await.is(200);
    let shown = world.admin("GET", on_all, None).await.is(200).json();
    assert_eq!(shown["accessLevel"], "admin");
    world.admin("DELETE", on_all, None).await.is(204);
    world.admin("GET", on_all, None).await.is(404);
    let of_user = format!("/api/v0/accounts/reader/repositoryAccess/{PRIVATE}");
    let shown = world.ask(Who::ReadOnly, "GET", &of_user, None).await.is(200).json();
    assert_eq!((&shown["user"], &shown["accessLevel"]), (&json!("reader"), &json!("read-write")));
}

#[tokio::test]
async fn access_tokens_are_made_limited_switched_off_and_deleted() {
    let world = World::new().await;
    let at = "/api/v0/api_tokens";
    let ask = async |method, path: &str, body: Option<&Value>| {
        world.ask(Who::Owner, method, path, body).await
    };
    let new = json!({
        "tokenLabel": "build", "repositories": [PRIVATE], "pullOnly": true,
        "expiresAt": "2999-01-01T00:00:00Z"
    });
    let made = ask("POST", at, Some(&new)).await.is(201).json();
    let token = made["token"].as_str().expect("a token").to_owned();
    let hash = made["hashedToken"].as_str().expect("a hash").to_owned();
    let list = ask("GET", at, None).await.is(200);
    assert!(!String::from_utf8_lossy(&list.body).contains(&token), "it is shown once");
    assert_eq!(names(&list.json(), "tokenLabel"), ["build"]);
    let one = format!("{at}/{hash}");
    // Another's is not there, but for administrators.
    for (who, status) in [(Who::Stranger, 404), (Who::Admin, 200)] {
        world.ask(who, "GET", &one, None).await.is(status);
    }
    world.ask(Who::Stranger, "DELETE", &one, None).await.is(404);
    let use_it = async || {
        let path = format!("/v2/{PRIVATE}/tags/list");
        world.people.call("GET", &path).bearer(&token).send().await.status.as_u16()
    };
    assert_eq!(use_it().await, 200);
    let off = json!({ "isActive": false, "tokenLabel": "old" });
    let changed = ask("PATCH", &one, Some(&off)).await.is(200).json();
    assert_eq!((&changed["isActive"], &changed["tokenLabel"]), (&json!(false), &json!("old")));
    assert_eq!(use_it().await, 401);
    ask("DELETE", &one, None).await.is(204);
    ask("GET", &one, None).await.is(404);
    for wrong in [
        json!({ "tokenLabel": "" }),
        json!({ "tokenLabel": "x".repeat(101) }),
        json!({ "tokenLabel": "x", "expiresAt": "tomorrow" }),
        json!({ "tokenLabel": "x", "expiresAt": "2001-01-01T00:00:00Z" }),
        json!({ "tokenLabel": "x", "repositories": ["*"] }),
    ] {
        ask("POST", at, Some(&wrong)).await.is(400);
    }
    assert_eq!(ask("GET", at, None).await.json(), json!([]), "nothing came of them");
}

#[tokio::test]
async fn events_tell_who_did_what() {
    let world = World::new().await;
    world.people.image(PUBLIC, "v1").await;
    let change = json!({ "shortDescription": "new" });
    let at = format!("/api/v0/repositories/{PUBLIC}");
    world.admin("PATCH", &at, Some(&change)).await.is(200);
    world.admin("DELETE", &format!("{at}/tags/v1"), None).await.is(204);
    let events = async |query: &str| {
        world.admin("GET", &format!("/api/v0/events{query}"), None).await.is(200)
    };
    let all = events("?pageSize=100").await.json();
    let told: Vec<String> = all
        .as_array()
        .expect("a list")
        .iter()
        .filter(|event| event["repository"] == PUBLIC)
        .map(|event| {
            let text = |value: &Value| value.as_str().expect("text").to_owned();
            let (kind, actor) = (text(&event["object"]["type"]), text(&event["actor"]));
            format!("{actor} {} {kind} {}", text(&event["type"]), text(&event["object"]["name"]))
        })
        .collect();
    assert_eq!(
        told,
        [
            "owner CREATE tag v1".to_owned(),
            format!("admin UPDATE repository {PUBLIC}"),
            "admin DELETE tag v1".to_owned(),
        ]
    );
    let of_admin = all.as_array().expect("a list").iter().find(|event| event["actor"] == "admin");
    let of_admin = of_admin.expect("some")["actorId"].as_str().expect("an id");
    let deletions = events(&format!("?eventType=DELETE&actorId={of_admin}")).await.json();
    assert_eq!(deletions.as_array().map(Vec::len), Some(1));
    let first = events("?pageSize=1").await;
    let next = first.header("x-next-page-start").to_owned();
    let second = events(&format!("?pageSize=1&pageStart={next}")).await.json();
    assert_eq!(second[0]["id"], next);
    assert_eq!(events("?publishedBefore=2001-01-01T00:00:00Z").await.json(), json!([]));
    world.admin("GET", "/api/v0/events?publishedAfter=now", None).await.is(400);
}

#[tokio::test]
async fn settings_change_one_by_one_and_wrong_ones_not_at_all() {
    let world = World::new().await;
    let at = "/api/v0/meta/settings";
    let before = world.admin("GET", at, None).await.is(200).json();
    let change = json!({ "gcGraceSeconds": 7200, "disableBackupWarning": true });
    let after = world.admin("POST", at, Some(&change)).await.is(202).json();
    assert_eq!(after["gcGraceSeconds"], 7200);
    for (name, value) in before.as_object().expect("an object") {
        if !change.as_object().expect("an object").contains_key(name) {
            assert_eq!(after[name], *value, "{name} was not named");
        }
    }
    for wrong in [
        json!({ "gcGraceSeconds": 1 }),
        json!({ "gcGraceSeconds": "much" }),
        json!({ "noSuchSetting": true }),
        json!({ "dtrHost": "https://a.example" }),
        json!({ "dtrHost": "localhost:99999" }),
        json!({ "dtrHost": "::1:15010" }),
        json!({ "dtrHost": "[a.example" }),
        json!({ "dtrHost": "÷" }),
        json!({ "dtrHost": "registry.example.com." }),
        json!({ "gcGraceSeconds": 9000, "uploadExpiryDays": 0 }),
    ] {
        world.admin("POST", at, Some(&wrong)).await.is(400);
        assert_eq!(world.admin("GET", at, None).await.json(), after, "{wrong}");
    }
    let alerts = world.admin("GET", "/api/v0/meta/alerts", None).await.is(200).json();
    assert!(!names(&alerts, "id").contains(&"backup".to_owned()), "switched off");
    let on = json!({ "disableBackupWarning": false });
    world.admin("POST", at, Some(&on)).await.is(202);
    let alerts = world.admin("GET", "/api/v0/meta/alerts", None).await.is(200).json();
    assert!(names(&alerts, "id").contains(&"backup".to_owned()), "no backup was ever taken");
}

#[tokio::test]
async fn a_read_only_registry_says_so() {
    let world = World::new().await;
    world.people.image(PRIVATE, "v1").await;
    let on = json!({ "readOnlyRegistry": true });
    world.admin("POST", "/api/v0/meta/settings", Some(&on)).await.is(202);
    let at = format!("/api/v0/repositories/{PRIVATE}");
    let refused = async || world.admin("DELETE", &format!("{at}/tags/v1"), None).await;
    let answer = world.people.until(503, refused).await;
    assert_eq!(answer.json()["errors"][0]["code"], "READ_ONLY");
    world.admin("GET", &format!("{at}/tags/v1"), None).await.is(200);
}

#[tokio::test]
async fn status_search_and_collection() {
    let world = World::new().await;
    let status = world.admin("GET", "/api/v0/meta/cluster_status", None).await.is(200).json();
    assert_eq!(status["store"]["engine"], "embedded");
    assert_eq!(
        (&status["identity"], &status["blob_storage"]["health"]),
        (&json!("OK"), &json!("OK"))
    );
    let found = "/api/v0/index/autocomplete?query=p";
    let found = world.ask(Who::Stranger, "GET", found, None).await.is(200);
    let text = String::from_utf8_lossy(&found.body).into_owned();
    assert!(text.contains("public") && !text.contains("private"), "{text}");
    world.people.blob(PRIVATE, "nobody refers to this").await;
    let run = "/api/v0/gc";
    let report = world.admin("POST", run, None).await.is(200).json();
    assert_eq!((&report["removed"], &report["young"]), (&json!(0), &json!(1)));
    // Time counts as far as somebody saw it pass.
    world.people.catalog.observe().await.expect("observed");
    world.people.clock.advance(std::time::Duration::from_secs(400 * 86_400));
    world.people.catalog.observe().await.expect("observed");
    let dry = world.admin("POST", &format!("{run}?dryRun=true"), None).await.is(200).json();
    assert_eq!(dry["removed"], 1);
    let report = world.admin("POST", run, None).await.is(200).json();
    assert_eq!((&report["removed"], &report["freedBytes"]), (&json!(1), &json!(21)));
    assert_eq!(world.admin("POST", run, None).await.is(200).json()["candidates"], 0);
    let relinked = world.admin("POST", &format!("{run}?relink=true"), None).await.is(200).json();
    assert_eq!((&relinked["relinked"], &relinked["missing"]), (&json!(0), &json!(0)));
    world.ask(Who::Owner, "POST", &format!("{run}?relink=true"), None).await.is(403);
}
