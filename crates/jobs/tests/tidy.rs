//! Small duties: what has ended is removed, with every key that leads to it.

use std::{sync::Arc, time::Duration};

use dtr_blobs::{FileStorage, Options, simulated::SimulatedDisk};
use dtr_catalog::{
    Catalog,
    records::{AccessToken, Credential, Session, Settings, TokenOrigin},
};
use dtr_jobs::tidy;
use dtr_store_embedded::EmbeddedStore;
use dtr_types::{AccountId, ManualClock, Random as _, Revision, Secret, SeededRandom, Timestamp};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test]
async fn sessions_and_tokens_that_have_ended_go() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
    let random = Arc::new(SeededRandom::new(1));
    let disk = Arc::new(SimulatedDisk::new());
    let options = Options::new(clock.clone(), random.clone());
    let blobs = FileStorage::on(disk, options).await.expect("opens");
    let catalog = Catalog::new(EmbeddedStore::in_memory(), clock.clone(), random.clone());
    let account = AccountId::random(&*random);
    let began = catalog.now();
    let credential = Credential {
        account: account.clone(),
        password_hash: Secret::new("a hash"),
        changed_at: began,
    };
    catalog.put(&credential).await.expect("put");
    let token = async |label: &str, origin, days: Option<u32>, password: Option<Timestamp>| {
        let token = AccessToken {
            hash: random.hex(32),
            account: account.clone(),
            label: label.to_owned(),
            is_active: true,
            created_at: began,
            expires_at: days.map(|days| began.plus(DAY * days)),
            last_used: None,
            generated_by: origin,
            creator_ua: String::new(),
            creator_address: String::new(),
            repositories: None,
            pull_only: false,
            backups_only: false,
            password_changed_at: password,
        };
        catalog.create_access_token(&token, None).await.expect("made");
    };
    token("for ever", TokenOrigin::User, None, None).await;
    token("a week", TokenOrigin::User, Some(7), None).await;
    token("a login", TokenOrigin::Auto, Some(90), Some(began)).await;
    token("a short login", TokenOrigin::Auto, Some(7), Some(began)).await;
    token("of another password", TokenOrigin::Auto, Some(90), Some(began.minus(DAY))).await;
    let session = Session {
        hash: random.hex(32),
        account: account.clone(),
        created_at: began,
        expires_at: began.plus(DAY * 3),
        service: None,
        bound: None,
    };
    catalog.create_session(&session).await.expect("made");
    let labels = async || {
        let tokens = catalog.account_tokens(&account).await.expect("read");
        let mut labels: Vec<String> = tokens.into_iter().map(|token| token.label).collect();
        labels.sort();
        labels
    };
    let run = async || {
        tidy(&catalog, &blobs, &Settings::default(), Revision::ZERO).await.expect("tidies")
    };
    assert_eq!(run().await.tokens, 1);
    assert_eq!(labels().await, ["a login", "a short login", "a week", "for ever"]);
    clock.advance(DAY * 8);
    let report = run().await;
    assert_eq!((report.tokens, report.sessions), (1, 1));
    // What a person made is shown for a month after its end.
    assert_eq!(labels().await, ["a login", "a week", "for ever"]);
    clock.advance(DAY * 30);
    run().await;
    assert_eq!(labels().await, ["a login", "for ever"]);
    for prefix in ["is/", "isa/"] {
        let left = catalog.all_names(prefix.as_bytes()).await.expect("read");
        assert!(left.is_empty(), "{prefix}: {left:?}");
    }
    assert_eq!(catalog.all_names(b"ata/").await.expect("read").len(), 2);
}
