//! A registry asks a real UCP over HTTPS, and goes on when that is away.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    transfer::export,
    world::{PASSWORD, World, basic},
};
use axum::{Json, routing::get};
use dtr_access::{Access, AuthError, Caller};
use dtr_catalog::{
    Catalog,
    records::{Account, Credential, TeamMembership},
};
use dtr_identity::{
    AccountFilter, AccountQuery, Actor, Identity, IdentityError, Remote, RemoteOptions,
    ServiceForm, UcpClient, UcpError,
};
use dtr_transport::{Metrics, Server, pki, tls};
use dtr_types::{AccountId, Clock as _, ClusterId, Secret, SystemRandom, TeamId};
use tokio_util::sync::CancellationToken;

struct Ucp {
    world: World,
    url: String,
    authority: pki::Authority,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl Ucp {
    async fn start() -> Self {
        let world = World::new().await;
        let now = world.clock.now();
        let authority = pki::Authority::make("UCP root CA", now).expect("made");
        let names = pki::SubjectNames::local();
        let certificate =
            authority.issue_server(&names, now, pki::SERVER_VALIDITY).expect("issued");
        let ca = authority.certificate_pem().to_owned();
        let router = world
            .router
            .clone()
            .route("/_ping", get(|| async { Json(serde_json::json!({"Healthy": true})) }))
            .route("/ca", get(move || async move { ca }));
        let server = Server::new(router, Metrics::new(), &SystemRandom)
            .https(([127, 0, 0, 1], 0).into(), tls::ServerTls::new(&certificate).expect("TLS"))
            .bind()
            .await
            .expect("bound");
        let address = server.addresses().next().expect("an address").1;
        let stop = CancellationToken::new();
        let asked = stop.clone();
        let running = tokio::spawn(async move {
            server.run(asked).await;
        });
        Self {
            world,
            url: format!("https://localhost:{}", address.port()),
            authority,
            stop,
            running,
        }
    }

    fn tls(&self) -> rustls::ClientConfig {
        tls::client_config(Some(self.authority.certificate_pem()), false).expect("TLS")
    }

    fn remote(&self) -> Remote {
        let options = RemoteOptions {
            url: self.url.clone(),
            service: self.world.privileged.clone(),
            private_key: self.world.key.private.clone(),
        };
        let random = Arc::new(SystemRandom);
        Remote::new(options, self.tls(), self.world.clock.clone(), random).expect("set up")
    }

    async fn end(&mut self) {
        self.stop.cancel();
        (&mut self.running).await.expect("ended");
    }
}

fn password() -> Secret {
    Secret::new(PASSWORD)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_answers_as_built_in() {
    let ucp = Ucp::start().await;
    let (remote, here) = (ucp.remote(), &ucp.world.identity);
    let (ann, org, team) = (&ucp.world.ann, &ucp.world.org, &ucp.world.team);
    remote.health().await.expect("healthy");
    let by_password = remote.authenticate("ann", &password()).await.expect("fits");
    assert_eq!(by_password, here.principal(ann).await.expect("asked").expect("active"));
    for _ in 0..2 {
        assert_eq!(remote.principal(ann).await.expect("asked"), Some(by_password.clone()));
    }
    let wrong = remote.authenticate("ann", &Secret::new("wrong-password")).await;
    assert!(matches!(wrong, Err(IdentityError::WrongCredentials)), "{wrong:?}");
    let unknown = remote.authenticate("nobody", &password()).await;
    assert!(matches!(unknown, Err(IdentityError::WrongCredentials)), "{unknown:?}");
    let (acme, dev) = ("acme".parse().expect("a name"), "dev".parse().expect("a name"));
    let none = "ghost".parse().expect("a name");
    assert_eq!(
        remote.account(&acme).await.expect("asked"),
        here.account(&acme).await.expect("asked")
    );
    assert_eq!(remote.account(&none).await.expect("asked"), None);
    assert_eq!(
        remote.account_by_id(ann).await.expect("asked"),
        here.account_by_id(ann).await.expect("asked")
    );
    assert_eq!(
        remote.team(org, &dev).await.expect("asked"),
        here.team(org, &dev).await.expect("asked")
    );
    assert_eq!(
        remote.team_by_id(org, team).await.expect("asked"),
        here.team_by_id(org, team).await.expect("asked")
    );
    assert_eq!(remote.teams(org).await.expect("asked"), here.teams(org).await.expect("asked"));
    assert_eq!(remote.members(org).await.expect("asked"), here.members(org).await.expect("asked"));
    assert_eq!(
        remote.team_members(org, team).await.expect("asked"),
        here.team_members(org, team).await.expect("asked")
    );
    assert_eq!(
        remote.organizations(ann).await.expect("asked"),
        here.organizations(ann).await.expect("asked")
    );
    let query = AccountQuery { start: None, limit: 2, filter: AccountFilter::Users };
    assert_eq!(
        remote.accounts(&query).await.expect("asked"),
        here.accounts(&query).await.expect("asked")
    );
    let counts = remote.account_counts().await.expect("asked");
    assert_eq!((counts.users, counts.orgs), (5, 1));
    // A session of the UCP is one here, until it ends.
    let login = remote.login("ann", &password(), None).await.expect("fits");
    let session = remote.session(&login.token).await.expect("asked").expect("goes on");
    assert_eq!(session.account.id, *ann);
    remote.logout(&login.token).await.expect("ended");
    assert!(remote.session(&login.token).await.expect("asked").is_none());
    assert!(remote.session(&Secret::new("nonsense")).await.expect("asked").is_none());
    // One that the registry has begun is good there, and nowhere else: not at the UCP, not at another registry.
    let login = remote.login("ann", &password(), None).await.expect("fits");
    assert!(remote.session(&login.token).await.expect("asked").is_some());
    assert!(here.session(&login.token).await.expect("asked").is_none());
    let bearer = format!("Bearer {}", login.token.expose());
    let at_ucp = ucp.world.send_with(Some(&bearer), http::Method::GET, "/id/", "").await;
    assert_eq!(at_ucp.status, 401);
    let other = &ucp.world.unprivileged;
    assert!(here.session_for(other, &login.token).await.expect("asked").is_none());
    remote.logout(&login.token).await.expect("ended");
    // Guessing through the registry is slowed down like anywhere, also at one whose password is remembered here and there.
    let elsewhere = Some([192, 0, 2, 9].into());
    remote.authenticate_from("bob", &password(), elsewhere).await.expect("remembered");
    for _ in 0..10 {
        let from = Some([192, 0, 2, 1].into());
        remote
            .authenticate_from("bob", &Secret::new("guess-guess"), from)
            .await
            .expect_err("wrong");
    }
    let from = Some([192, 0, 2, 1].into());
    let slow = remote.authenticate_from("bob", &password(), from).await;
    assert!(matches!(slow, Err(IdentityError::Throttled { .. })), "{slow:?}");
    remote.authenticate_from("bob", &password(), None).await.expect("from elsewhere");
}

/// A registry whose accounts are the UCP's, and a token that `caller` gets there.
async fn token(access: &Access, caller: Result<Caller, AuthError>) -> Secret {
    let caller = caller.expect("known");
    access.issue_token(&caller, Vec::new(), "registry").await.expect("issued").token
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_ends_with_what_the_ucp_takes_away() {
    let ucp = Ucp::start().await;
    let (clock, here) = (&ucp.world.clock, &ucp.world.identity);
    let store = dtr_store_embedded::EmbeddedStore::in_memory();
    let catalog = Catalog::new(store, clock.clone(), Arc::new(SystemRandom));
    // Two replicas: one has issued a token, the other sees it for the first time.
    let cluster = ClusterId::random(&SystemRandom);
    let open = async || {
        let remote = Arc::new(ucp.remote());
        Access::new(catalog.clone(), &cluster, remote).await.expect("opens")
    };
    let (one, two) = (open().await, open().await);
    let seconds = |n| clock.advance(Duration::from_secs(n));
    let good = async |token: &Secret| {
        let answers = [one.caller_from_bearer(token).await, two.caller_from_bearer(token).await];
        let good = answers.map(|answer| match answer {
            Ok(caller) => {
                assert_eq!(caller.name(), "ann");
                true
            }
            Err(AuthError::Wrong(_)) => false,
            Err(error) => panic!("{error}"),
        });
        assert_eq!(good[0], good[1], "the replicas agree");
        good[0]
    };
    // A session, in both forms, that is ended at the UCP.
    let session = here.login("ann", &password(), None).await.expect("fits").token;
    let by_bearer = token(&one, one.exchanger_from_token(&session).await).await;
    let by_basic = token(&one, one.exchanger_from_password("ann", &session, None).await).await;
    let by_password =
        token(&one, one.exchanger_from_password("ann", &password(), None).await).await;
    for token in [&by_bearer, &by_basic, &by_password] {
        assert!(good(token).await);
    }
    here.logout(&session).await.expect("ended");
    seconds(6);
    assert!(!good(&by_bearer).await && !good(&by_basic).await, "the session is over");
    assert!(good(&by_password).await);
    // The password, which both replicas remember to have verified.
    one.caller_from_password("ann", &password()).await.expect("fits");
    seconds(6);
    here.set_password(&Actor::system(), &ucp.world.ann, Secret::new("another-password"))
        .await
        .expect("set");
    seconds(6);
    assert!(!good(&by_password).await, "the password is another one");
    one.caller_from_password("ann", &password()).await.expect_err("fits no more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_known_goes_on_while_the_ucp_is_away() {
    let mut ucp = Ucp::start().await;
    let remote = ucp.remote();
    let login = remote.login("ann", &password(), None).await.expect("fits");
    remote.session(&login.token).await.expect("asked").expect("goes on");
    ucp.end().await;
    ucp.world.clock.advance(Duration::from_secs(60 * 60));
    let started = Instant::now();
    for _ in 0..20 {
        let session = remote.session(&login.token).await.expect("what was known goes on");
        assert_eq!(session.expect("goes on").account.id, ucp.world.ann);
        let principal = remote.principal(&ucp.world.ann).await.expect("what was known goes on");
        assert!(principal.is_some());
    }
    let refused = remote.authenticate("ann", &password()).await;
    let Err(IdentityError::Unavailable { reason }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains(&ucp.url) && reason.contains("cannot be reached"), "{reason}");
    assert!(remote.health().await.is_err());
    assert!(started.elapsed() < Duration::from_secs(10), "nothing hangs: {:?}", started.elapsed());
    // Not for ever.
    ucp.world.clock.advance(dtr_identity::STALE_MAX);
    assert!(remote.session(&login.token).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ucp_that_never_answers_holds_nobody_up_for_long() {
    let ucp = Ucp::start().await;
    // Connections are accepted by the system, and nobody ever reads from them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = silent.local_addr().expect("an address").port();
    let options = RemoteOptions {
        url: format!("https://127.0.0.1:{port}"),
        service: ucp.world.privileged.clone(),
        private_key: ucp.world.key.private.clone(),
    };
    let random = Arc::new(SystemRandom);
    let remote = Remote::new(options, ucp.tls(), ucp.world.clock.clone(), random).expect("set up");
    let started = Instant::now();
    let ask = || remote.principal(&ucp.world.ann);
    let answers = tokio::join!(ask(), ask(), ask());
    assert!(answers.0.is_err() && answers.1.is_err() && answers.2.is_err());
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    let started = Instant::now();
    for _ in 0..100 {
        assert!(ask().await.is_err());
    }
    assert!(started.elapsed() < Duration::from_secs(1), "nobody waits any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_service_is_told_so_at_once() {
    let ucp = Ucp::start().await;
    let remote = ucp.remote();
    remote.principal(&ucp.world.ann).await.expect("asked");
    let service = &ucp.world.privileged;
    ucp.world.identity.delete_service(&Actor::system(), service).await.expect("deleted");
    ucp.world.clock.advance(Duration::from_secs(10));
    let refused = remote.principal(&ucp.world.ann).await;
    let Err(IdentityError::Unavailable { reason }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("not registered"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_log_in_register_and_find_replicas() {
    let ucp = Ucp::start().await;
    let client = UcpClient::new(&ucp.url, ucp.tls()).expect("set up");
    client.ping().await.expect("healthy");
    assert_eq!(client.ca().await.expect("served"), ucp.authority.certificate_pem());
    let refused = client.login("admin", &Secret::new("wrong-password")).await.expect_err("wrong");
    assert_eq!(refused.status(), Some(401));
    let login = client.login("admin", &password()).await.expect("fits");
    let key = pki::new_es256_key().expect("a key");
    let mut form = ServiceForm {
        name: Some("Docker Trusted Registry".to_owned()),
        url: Some("https://dtr.example.com".to_owned()),
        privileged: Some(true),
        public_key: Some(key.public),
        ..ServiceForm::default()
    };
    let service = client.register_service(&login, &form).await.expect("registered");
    form.url = Some("https://other.example.com".to_owned());
    // Nobody takes the place of what is registered by asking for its name.
    let again = client.register_service(&login, &form).await.expect_err("registered twice");
    assert_eq!(again.status(), Some(409));
    let token = &login.session_token;
    client.update_service(token, &service.id, &form).await.expect("changed");
    // The registry tells its replicas with its own key; the commands find them.
    let options = RemoteOptions {
        url: ucp.url.clone(),
        service: service.id.clone(),
        private_key: key.private,
    };
    let clock = ucp.world.clock.clone();
    let remote = Remote::new(options, ucp.tls(), clock, Arc::new(SystemRandom)).expect("set up");
    let replicas = serde_json::json!(
        {"replicas": [{"id": "a1640e1c15b6", "address": "https://10.0.0.1:443"}]}
    );
    let form: ServiceForm = serde_json::from_value(replicas).expect("a form");
    remote.update_registration(&form).await.expect("told");
    let services = client.services(token).await.expect("listed");
    let found = services.iter().find(|s| s.id == service.id).expect("there");
    assert_eq!(found.replicas[0].address, "https://10.0.0.1:443");
    assert_eq!(found.url, "https://other.example.com");
    client.delete_service(token, &service.id).await.expect("deleted");
    client.logout(token).await.expect("ended");
    assert_eq!(client.services(token).await.expect_err("over").status(), Some(401));
    // Another's certificate is refused, unless everything is accepted.
    let strict = UcpClient::new(&ucp.url, tls::client_config(None, false).expect("TLS"));
    let error = strict.expect("set up").ping().await.expect_err("not trusted");
    assert!(matches!(&error, UcpError::Away { .. }), "{error:?}");
    assert!(error.to_string().contains("certificate"), "{error}");
    let blind = UcpClient::new(&ucp.url, tls::client_config(None, true).expect("TLS"));
    blind.expect("set up").ping().await.expect("anything is accepted");
}

fn bearer(token: &Secret) -> Secret {
    Secret::new(format!("Bearer {}", token.expose()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn password_hashes_go_to_administrators_and_to_nobody_else() {
    let ucp = Ucp::start().await;
    let (client, remote) = (UcpClient::new(&ucp.url, ucp.tls()).expect("set up"), ucp.remote());
    let here = export(&ucp.world).await;
    let admin = client.login("admin", &password()).await.expect("fits");
    let ann = client.login("ann", &password()).await.expect("fits");
    for proof in [bearer(&admin.session_token), Secret::new(basic("admin", PASSWORD))] {
        let export = remote.export(&proof).await.expect("asked");
        assert_eq!(export.expect("handed out"), here);
    }
    let service = Secret::new(ucp.world.service_bearer(&ucp.world.privileged));
    for proof in [bearer(&ann.session_token), service, Secret::new("Bearer x")] {
        assert_eq!(remote.export(&proof).await.expect("asked"), None);
    }
    let two_lines = Secret::new("Bearer a\r\nX-Admin: yes");
    remote.export(&two_lines).await.expect_err("no header");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_accounts_are_loaded_in_batches() {
    const USERS: usize = 3_000;
    let from = Ucp::start().await;
    let to = Ucp::start().await;
    // The same world, with other ids for all but the names.
    let mut all = export(&from.world).await;
    let random = SystemRandom;
    let acme = AccountId::random(&random);
    let old = std::mem::replace(
        &mut all.accounts.iter_mut().find(|account| account.is_org).expect("there").id,
        acme.clone(),
    );
    for membership in &mut all.memberships {
        assert_eq!(std::mem::replace(&mut membership.organization, acme.clone()), old);
    }
    for membership in &mut all.team_members {
        membership.organization = acme.clone();
    }
    all.teams[0].organization = acme.clone();
    all.teams[0].id = TeamId::random(&random);
    for membership in &mut all.team_members {
        membership.team = all.teams[0].id.clone();
    }
    let ann = all.accounts.iter().find(|a| a.name.as_str() == "ann").expect("there").clone();
    let hash = all.credentials.iter().find(|found| found.account == ann.id).expect("there").clone();
    let (team, first) = (all.teams[0].id.clone(), all.team_members[0].clone());
    for n in 0..USERS {
        let id = AccountId::random(&random);
        let name = format!("user-{n}").parse().expect("a name");
        all.accounts.push(Account { id: id.clone(), name, ..ann.clone() });
        all.credentials.push(Credential { account: id.clone(), ..hash.clone() });
        all.team_members.push(TeamMembership { member: id, team: team.clone(), ..first.clone() });
    }
    let client = UcpClient::new(&to.url, to.tls()).expect("set up");
    let admin = client.login("admin", &password()).await.expect("fits");
    let token = &admin.session_token;
    let would = client.check_accounts(token, &all).await.expect("looked at");
    assert_eq!((would.created, would.existing), (USERS as u64, 6));
    let began = Instant::now();
    let answer = client.import_accounts(token, all.clone()).await.expect("loaded");
    println!("{USERS} users with passwords, each in a team: {:?}", began.elapsed());
    assert_eq!(answer.created, 2 * USERS as u64, "{answer:?}");
    let world = &to.world;
    assert_eq!(answer.ids[acme.as_str()], world.org.as_str());
    assert_eq!(answer.ids[team.as_str()], world.team.as_str());
    let last = format!("user-{}", USERS - 1);
    let last = world.identity.authenticate(&last, &password()).await.expect("fits");
    assert_eq!(last.teams, [(world.team.clone(), world.org.clone())]);
    let again = client.import_accounts(token, all.clone()).await.expect("loaded");
    assert_eq!((again.created, again.existing), (0, answer.created + answer.existing));
    // Not by a user, nor by a registered registry.
    let ann = client.login("ann", &password()).await.expect("fits");
    let refused =
        client.import_accounts(&ann.session_token, all.clone()).await.expect_err("no admin");
    assert_eq!(refused.status(), Some(403));
    let service = world.service_bearer(&world.privileged);
    let service = Secret::new(service.strip_prefix("Bearer ").expect("a token"));
    let refused = client.import_accounts(&service, all.clone()).await.expect_err("no admin");
    assert_eq!(refused.status(), Some(403));
    // A hash that is none is refused by the name of whose it is, and not repeated.
    all.credentials[0].password_hash = Secret::new("let-me-in");
    let refused = client.import_accounts(token, all.clone()).await.expect_err("no hash");
    let text = refused.to_string();
    assert!(
        refused.status() == Some(400)
            && text.contains("Argon2id")
            && text.contains(all.credentials[0].account.as_str()),
        "{text}"
    );
    assert!(!text.contains("let-me-in"), "{text}");
}
