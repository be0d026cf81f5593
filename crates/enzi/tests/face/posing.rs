//! A service that poses as another: it takes no replica's id, and what it is handed is good at it alone.

use dtr_identity::{Actor, Identity as _, ServiceForm};
use dtr_types::Secret;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::world::{Caller, PASSWORD, World};

const ID: &str = "a1640e1c15b6";

fn replicas(address: &str) -> String {
    json!({ "replicas": [{ "id": ID, "address": address }] }).to_string()
}

fn service(world: &World, privileged: bool) -> String {
    let id = if privileged { &world.privileged } else { &world.unprivileged };
    format!("/enzi/v0/services/{id}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_has_one_owner() {
    let world = World::new().await;
    let (honest, rogue) = (service(&world, true), service(&world, false));
    let patch = async |caller, path: &str, body: &str| {
        world.send(caller, Method::PATCH, path, body).await.status
    };
    let (own, theirs) = (replicas("https://honest"), replicas("https://rogue"));
    assert_eq!(patch(Caller::PrivilegedService, &honest, &own).await, StatusCode::OK);
    assert_eq!(patch(Caller::Service, &rogue, &theirs).await, StatusCode::CONFLICT);
    // Nor does an administrator give it away by mistake, in a change or in a new registration.
    assert_eq!(patch(Caller::Admin, &rogue, &theirs).await, StatusCode::CONFLICT);
    let mut form: Value = serde_json::from_str(&theirs).expect("JSON");
    form["name"] = json!("another");
    form["url"] = json!("https://another");
    form["privileged"] = json!(true);
    let path = "/enzi/v0/accounts/admin/services";
    let made = world.send(Caller::Admin, Method::POST, path, &form.to_string()).await;
    assert_eq!(made.status, StatusCode::CONFLICT, "{}", made.text);
    let known = world.send(Caller::Admin, Method::GET, &honest, "").await.json();
    assert_eq!(known["replicas"][0]["address"], "https://honest");
    // Its own it may say again.
    assert_eq!(patch(Caller::PrivilegedService, &honest, &own).await, StatusCode::OK);

    // Claimed before, by somebody who may say what he likes: that keeps no registry from its id.
    let world = World::new().await;
    assert_eq!(patch_in(&world, Caller::Service, false, "https://rogue").await, StatusCode::OK);
    let honest = patch_in(&world, Caller::PrivilegedService, true, "https://honest").await;
    assert_eq!(honest, StatusCode::OK);
    let twice = json!({ "replicas": [{ "id": ID, "address": "https://a" }, { "id": ID, "address": "https://b" }] });
    let twice = world
        .send(Caller::PrivilegedService, Method::PATCH, &service(&world, true), &twice.to_string())
        .await;
    assert_eq!(twice.status, StatusCode::BAD_REQUEST);
}

async fn patch_in(world: &World, caller: Caller, privileged: bool, address: &str) -> StatusCode {
    let path = service(world, privileged);
    world.send(caller, Method::PATCH, &path, &replicas(address)).await.status
}

/// A session of the administrator, and one made out of it for the registry.
async fn sessions(world: &World, export: bool) -> (Secret, Secret) {
    let login = world.identity.login("admin", &Secret::new(PASSWORD), None).await.expect("fits");
    let path = format!("{}/session", service(world, true));
    let body = json!({ "export": export }).to_string();
    let bearer = format!("Bearer {}", login.token.expose());
    let made = world.send_with(Some(&bearer), Method::POST, &path, &body).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let token = made.json()["sessionToken"].as_str().expect("a token").to_owned();
    (login.token, Secret::new(token))
}

async fn is_good_at(world: &World, caller: Caller, token: &Secret) -> StatusCode {
    let body = json!({ "token": token.expose() }).to_string();
    world.send(caller, Method::POST, "/enzi/v0/service/session", &body).await.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_registry_is_handed_is_good_there_alone() {
    let world = World::new().await;
    let form = ServiceForm {
        name: Some("second".to_owned()),
        url: Some("https://second".to_owned()),
        privileged: Some(true),
        public_key: Some(world.key.public.clone()),
        ..ServiceForm::default()
    };
    let second = world.identity.register_service(&Actor::system(), &world.admin, form).await;
    let second = second.expect("registered").id;
    let (session, bound) = sessions(&world, false).await;
    assert_eq!(is_good_at(&world, Caller::PrivilegedService, &bound).await, StatusCode::OK);

    // At the identity service itself it is nobody, whatever it is sent as.
    let bearer = format!("Bearer {}", bound.expose());
    for (method, path) in [
        (Method::GET, "/enzi/v0/services".to_owned()),
        (Method::GET, "/id/".to_owned()),
        (Method::GET, "/enzi/v0/admin/exportAccounts".to_owned()),
        (Method::POST, format!("{}/session", service(&world, true))),
    ] {
        let answer = world.send_with(Some(&bearer), method, &path, "").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    let basic = crate::world::basic("admin", bound.expose());
    let answer = world.send_with(Some(&basic), Method::GET, "/id/", "").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    // Nor is it good at another registry.
    let body = json!({ "token": bound.expose() }).to_string();
    let other = world.service_bearer(&second);
    let answer =
        world.send_with(Some(&other), Method::POST, "/enzi/v0/service/session", &body).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    // The accounts are had with one that was made for that.
    let export = async |token: &Secret| {
        let body = json!({ "token": token.expose() }).to_string();
        let path = "/enzi/v0/service/exportAccounts";
        world.send(Caller::PrivilegedService, Method::POST, path, &body).await.status
    };
    assert_eq!(export(&bound).await, StatusCode::FORBIDDEN);
    assert_eq!(export(&session).await, StatusCode::FORBIDDEN);
    let (_, exporting) = sessions(&world, true).await;
    assert_eq!(export(&exporting).await, StatusCode::OK);

    // It ends with the session that it was made with.
    world.identity.logout(&session).await.expect("ended");
    assert_eq!(is_good_at(&world, Caller::PrivilegedService, &bound).await, StatusCode::NOT_FOUND);
    assert_eq!(is_good_at(&world, Caller::PrivilegedService, &exporting).await, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_no_administrator_made_a_registry_is_handed_nothing() {
    let world = World::new().await;
    let login = world.identity.login("admin", &Secret::new(PASSWORD), None).await.expect("fits");
    let bearer = format!("Bearer {}", login.token.expose());
    let path = format!("{}/session", service(&world, false));
    let answer = world.send_with(Some(&bearer), Method::POST, &path, "{}").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{}", answer.text);
}
