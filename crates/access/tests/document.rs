//! The permission table as the documents show it is the one that the server evaluates.

use std::{fs, path::Path};

use dtr_access::{Operation, RULES, markdown};

const HEAD: &str = "# Who may do what

This is the table that the server evaluates (`RULES` in `crates/access/src/table.rs`), printed. A test fails when it differs.

Levels are given to teams, on one repository or on all repositories of a namespace; the highest of all applies, and nothing takes
away. The owner of a namespace is the user itself, or an owner of the organization. Accounts that are not active may do nothing.
A token never widens what its account may do: an access token can be limited to repositories and to pulling, a bearer token of
`/auth/token` to the scopes it was asked for. What one may not see looks like something that does not exist.

A change holds for every request that begins after it was answered, on every replica: of grants, visibility, tokens and settings
always; of accounts, passwords, organizations and teams where they are kept in the registry itself. What a separate UCP keeps, each
replica remembers: for at most 5 seconds who is active and in which organization and team, for at most 60 seconds that a password
was right; and while the UCP cannot be reached, what was last known for up to 3 days. Who must be out at once is out when a team's
level is taken away here. While no majority of the replicas can be asked, content whose digest is known can still be pulled with a
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
