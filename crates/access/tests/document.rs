//! The permission table as the documents show it is the one that the server evaluates.

use std::{fs, path::Path};

use dtr_access::{Operation, RULES, markdown};

const HEAD: &str = "# Who may do what

This is the table that the server evaluates (`RULES` in `crates/access/src/table.rs`), printed. A test fails when it differs.

Levels are given to teams, on one repository or on all repositories of a namespace; the highest of all applies, and nothing takes
away. The owner of a namespace is the user itself, or an owner of the organization. Accounts that are not active may do nothing.
A token never widens what its account may do: an access token can be limited to repositories, to pulling or to backups, a bearer
token of `/auth/token` to the scopes it was asked for, where `registry:catalog:*` is the one for `/v2/_catalog`. Lists show such a token
nothing beyond; the last column says what one for backups does, which is made for an administrator's account (`dtr token create
nightly --backups-only`). A mount reads its source with the token that asks for it, and is an upload where that does not cover the
source. What one may not see looks like something that does not exist.

`/auth/token` takes a password, a session, an access token or a refresh token, and never a token of its own. What it gives ends with
what it was given for: with the access or refresh token (deleted, switched off, at its end), with the session, with the password unless
an access token was given, and with the account. A request that has begun is finished. A refresh token, such as docker keeps after
`docker login`, is good at `/auth/token` alone; an account has at most 50 of them, and one more ends an older one of the same client, or
else the one that was used least recently. Access tokens are made with a password or a session, never with an access token. An
administrator changes the own password with the old one, as everybody does. What to do when a credential has leaked is in
[compromise.md](compromise.md).

A change holds for every request that begins after it was answered, on every replica: of grants, visibility, tokens and settings
always; of accounts, passwords, organizations and teams where they are kept in the registry itself. What a separate UCP keeps, each
replica remembers: for at most 5 seconds who is active, in which organization and team, which session goes on, and when the password
was changed; and while the UCP cannot be reached, what was last known for up to 3 days. Who must be out at once is out when a team's
level or an access token is taken away here. While no majority of the replicas can be asked, content whose digest is known can still be pulled with a
token of `/auth/token` that was issued before, at most until it ends.

";

#[test]
fn the_document_shows_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/permissions.md");
    let wanted = format!("{HEAD}{}", markdown());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &wanted).expect("docs/permissions.md is written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == wanted,
        "docs/permissions.md is not the table: run UPDATE_DOCS=1 cargo test -p dtr-access --test document"
    );
}

#[test]
fn every_operation_has_one_row() {
    for rule in RULES {
        let rows = RULES.iter().filter(|other| other.operation == rule.operation).count();
        assert_eq!(rows, 1, "{:?}", rule.operation);
        assert_eq!(rule.operation.rule().operation, rule.operation);
    }
    // The last of the list: an operation that was added without a row would find this one's.
    assert_eq!(Operation::DeleteAccount.rule().operation, Operation::DeleteAccount);
}
