//! A small organization with every kind of caller, behind the face.

use std::sync::Arc;

use base64::Engine as _;
use dtr_catalog::{Catalog, records::Service};
use dtr_enzi::Enzi;
use dtr_identity::{
    Actor, BuiltIn, BuiltInOptions, Cost, NewAccount, NewTeam, ServiceForm, service_token,
};
use dtr_store_embedded::EmbeddedStore;
use dtr_transport::pki::{KeyPairPem, new_es256_key};
use dtr_types::{
    AccountId, Clock as _, ManualClock, Secret, SeededRandom, ServiceId, SystemClock, TeamId,
};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

pub const PASSWORD: &str = "password-of-all";

/// Every kind of caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    Anonymous,
    Stranger,
    Itself,
    TeamManager,
    Owner,
    Admin,
    PrivilegedService,
    Service,
}

impl Caller {
    pub const ALL: [Self; 8] = [
        Self::Anonymous,
        Self::Stranger,
        Self::Itself,
        Self::TeamManager,
        Self::Owner,
        Self::Admin,
        Self::PrivilegedService,
        Self::Service,
    ];

    pub fn letter(self) -> char {
        match self {
            Self::Anonymous => '-',
            Self::Stranger => 'u',
            Self::Itself => 'i',
            Self::TeamManager => 't',
            Self::Owner => 'o',
            Self::Admin => 'a',
            Self::PrivilegedService => 's',
            Self::Service => 'p',
        }
    }
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).expect("JSON")
    }

    pub fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().expect("a code").to_owned()
    }
}

pub struct World {
    pub identity: BuiltIn,
    pub router: axum::Router,
    pub clock: Arc<ManualClock>,
    pub admin: AccountId,
    pub ann: AccountId,
    pub org: AccountId,
    pub team: TeamId,
    pub privileged: ServiceId,
    pub unprivileged: ServiceId,
    pub key: KeyPairPem,
    pub random: SeededRandom,
}

impl World {
    pub async fn new() -> Self {
        // Near the machine's time: certificates are checked against that.
        let clock = Arc::new(ManualClock::new(SystemClock.now()));
        let random = Arc::new(SeededRandom::new(1));
        let catalog = Catalog::new(EmbeddedStore::in_memory(), clock.clone(), random);
        let options = BuiltInOptions { cost: Cost::least(), ..BuiltInOptions::default() };
        let identity = BuiltIn::new(catalog, options);
        let actor = Actor::system();
        let admin = identity
            .create_first_admin("admin".parse().expect("a name"), Secret::new(PASSWORD))
            .await
            .expect("made");
        let mut ids = Vec::new();
        for name in ["ann", "bob", "olga", "tim"] {
            let new = NewAccount::user(name.parse().expect("a name"), Secret::new(PASSWORD));
            ids.push(identity.create_account(&actor, new).await.expect("made").id);
        }
        let org = NewAccount::org("acme".parse().expect("a name"));
        let org = identity.create_account(&actor, org).await.expect("made").id;
        let new = NewTeam { name: "dev".parse().expect("a name"), description: String::new() };
        let team = identity.create_team(&actor, &org, new).await.expect("made").id;
        identity.put_member(&actor, &org, &ids[2], Some(true)).await.expect("put");
        identity.put_team_member(&actor, &org, &team, &ids[0], None).await.expect("put");
        identity.put_team_member(&actor, &org, &team, &ids[3], Some(true)).await.expect("put");
        let key = new_es256_key().expect("a key");
        let privileged = register(&identity, &admin.id, "dtr", true, &key).await.id;
        let unprivileged = register(&identity, &admin.id, "other", false, &key).await.id;
        let router = dtr_enzi::router(
            Enzi::new(identity.clone(), "https://ucp.example.com").with_accounts_alias(),
        );
        let random = SeededRandom::new(2);
        Self {
            identity,
            router,
            clock,
            admin: admin.id,
            ann: ids[0].clone(),
            org,
            team,
            privileged,
            unprivileged,
            key,
            random,
        }
    }

    pub fn authorization(&self, caller: Caller) -> Option<String> {
        let user = match caller {
            Caller::Anonymous => return None,
            Caller::PrivilegedService => return Some(self.service_bearer(&self.privileged)),
            Caller::Service => return Some(self.service_bearer(&self.unprivileged)),
            Caller::Stranger => "bob",
            Caller::Itself => "ann",
            Caller::TeamManager => "tim",
            Caller::Owner => "olga",
            Caller::Admin => "admin",
        };
        Some(basic(user, PASSWORD))
    }

    pub fn service_bearer(&self, service: &ServiceId) -> String {
        let now = self.clock.now();
        let token = service_token::sign(service, &self.key.private, now, &self.random);
        format!("Bearer {}", token.expect("signed").expose())
    }

    pub async fn send(&self, caller: Caller, method: Method, path: &str, body: &str) -> Answer {
        self.send_with(self.authorization(caller).as_deref(), method, path, body).await
    }

    pub async fn send_with(
        &self,
        authorization: Option<&str>,
        method: Method,
        path: &str,
        body: &str,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(axum::body::Body::from(body.to_owned())).expect("a request");
        let response = self.router.clone().oneshot(request).await.expect("answers");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
        Answer { status: parts.status, headers: parts.headers, text }
    }
}

pub fn basic(user: &str, password: &str) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {text}")
}

async fn register(
    identity: &BuiltIn,
    owner: &AccountId,
    name: &str,
    privileged: bool,
    key: &KeyPairPem,
) -> Service {
    let form = ServiceForm {
        name: Some(name.to_owned()),
        url: Some("https://dtr.example.com".to_owned()),
        privileged: Some(privileged),
        public_key: Some(key.public.clone()),
        ..ServiceForm::default()
    };
    identity.register_service(&Actor::system(), owner, form).await.expect("registered")
}
