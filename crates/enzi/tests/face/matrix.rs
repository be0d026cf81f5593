//! Every endpoint against every kind of caller. The expectation is written out here by hand; a route without a row fails.

use crate::world::{Caller, World};
use dtr_enzi::{Operation, ROUTES, Route};
use http::StatusCode;

/// Who is let through, in letters: `-` anonymous, `u` any user, `i` the user that the path names (also a plain member of
/// the organization), `t` who manages the team, `o` the organization's owner, `a` admin, `s` a privileged service, `p` the
/// unprivileged service that the path names.
fn expected(operation: Operation) -> (&'static str, &'static str) {
    use Operation as Op;
    let (user, org) = ("ann", "acme");
    match operation {
        Op::ListAccounts => ("", "uitoas"),
        Op::CreateAccount => ("", "a"),
        Op::GetAccount => (user, "uitoas"),
        Op::UpdateAccount => (user, "ia"),
        Op::DeleteAccount => (user, "a"),
        Op::ChangePassword | Op::EndSessions => (user, "ia"),
        Op::ListOrganizations => (user, "ias"),
        Op::ListPublicKeys | Op::CreatePublicKey => (user, "ia"),
        Op::ListAccountServices | Op::GetAccountService => (user, "ia"),
        Op::CreateService | Op::UpdateAccountService | Op::DeleteAccountService => (user, "a"),
        Op::ListMembers | Op::GetMember => (org, "itoas"),
        Op::PutMember | Op::UpdateMember | Op::DeleteMember => (org, "oa"),
        Op::ListMemberTeams => (org, "itoa"),
        Op::GetAdminSync | Op::PutAdminSync | Op::GetMemberSync | Op::PutMemberSync => (org, "a"),
        Op::ListTeams | Op::GetTeam | Op::ListTeamMembers | Op::GetTeamMember => (org, "itoas"),
        Op::CreateTeam | Op::UpdateTeam | Op::DeleteTeam | Op::UpdateTeamMember => (org, "oa"),
        Op::PutTeamMember | Op::DeleteTeamMember => (org, "toa"),
        Op::ListServices => ("", "as"),
        Op::GetService | Op::UpdateService => ("", "ap"),
        Op::DeleteService => ("", "a"),
        Op::GetAuthConfig => ("", "uitoas"),
        Op::GetOpenIdConfig => ("", "-uitoasp"),
        Op::PutAuthConfig
        | Op::GetLdapConfig
        | Op::PutLdapConfig
        | Op::TryLdapLogin
        | Op::PutOpenIdConfig
        | Op::GetAccountsConfig
        | Op::PutAccountsConfig
        | Op::ImportAccounts
        | Op::ExportAccounts
        | Op::Backup
        | Op::EndAllSessions
        | Op::ListJobs
        | Op::CreateJob
        | Op::ListWorkers => ("", "a"),
        Op::ServiceAuthenticate
        | Op::ServiceSession
        | Op::ServiceLogout
        | Op::ServiceExport
        | Op::ServicePrincipal => ("", "s"),
        // Whoever is let through and has no session is told so: 400.
        Op::BindSession => ("", "uitoa"),
        // A login that is let through is then refused for its empty form: 400.
        Op::Login | Op::EnziLogin | Op::AuthLogin => ("", "-uitoasp"),
        Op::WhoAmI | Op::EnziWhoAmI | Op::Logout | Op::EnziLogout => ("", "uitoa"),
    }
}

fn path(route: &Route, world: &World, account: &str) -> String {
    route
        .path
        .replace("{account}", account)
        .replace("{member}", "ann")
        .replace("{team}", "dev")
        .replace("{service}", world.unprivileged.as_str())
        .replace("{id}", world.ann.as_str())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_endpoint_and_every_caller() {
    let mut checked = 0;
    for route in ROUTES {
        let (account, allowed) = expected(route.operation);
        for caller in Caller::ALL {
            // A world of its own for each: an allowed request may delete what the next one is about.
            let world = World::new().await;
            let target = path(route, &world, account);
            let body = if route.changes() { "{}" } else { "" };
            let answer = world.send(caller, route.method.clone(), &target, body).await;
            let what = format!(
                "{} {target} as {caller:?}: {} {}",
                route.method, answer.status, answer.text
            );
            let refused = matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            assert_eq!(!refused, allowed.contains(caller.letter()), "{what}");
            assert!(answer.status != StatusCode::INTERNAL_SERVER_ERROR, "{what}");
            assert!(answer.status != StatusCode::METHOD_NOT_ALLOWED, "{what}");
            if refused {
                let anonymous = caller == Caller::Anonymous;
                assert_eq!(answer.status == StatusCode::UNAUTHORIZED, anonymous, "{what}");
                // Absent looks like forbidden.
                if !account.is_empty() {
                    let ghost = path(route, &world, "ghost");
                    let absent = world.send(caller, route.method.clone(), &ghost, body).await;
                    assert_eq!(
                        (absent.status, absent.text),
                        (answer.status, answer.text),
                        "{what}"
                    );
                }
            }
            checked += 1;
        }
    }
    assert_eq!(checked, ROUTES.len() * Caller::ALL.len());
}

#[test]
fn the_description_has_every_route() {
    let description = dtr_enzi::openapi("1.0.0");
    let mut described = 0;
    for (_, methods) in description["paths"].as_object().expect("paths") {
        described += methods.as_object().expect("methods").len();
    }
    assert_eq!(described, ROUTES.len());
    let mut rows: Vec<_> = ROUTES.iter().map(|r| (r.path, r.method.to_string())).collect();
    rows.sort();
    rows.dedup();
    assert_eq!(rows.len(), ROUTES.len(), "no route twice");
}
