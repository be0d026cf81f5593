//! What each operation does, once it is known that the caller may.

mod accounts;
mod organizations;
mod services;
mod sessions;
mod transfer;

use axum::body::Body;
use http::Response;

use crate::{Operation, context::Context, error::ApiError};

type Answer = Result<Response<Body>, ApiError>;

const NO_LDAP: &str = "accounts are managed here; there is no LDAP to sync with";
const NO_JOBS: &str = "the identity service runs no jobs";
const NO_KEYS: &str =
    "public keys and client bundles are not kept; use a password or an access token";
const NO_CONFIG: &str = "this is fixed at install and cannot be set";

pub(crate) async fn handle(operation: Operation, context: Context) -> Answer {
    use Operation as Op;
    match operation {
        Op::ListAccounts => accounts::list(context).await,
        Op::CreateAccount => accounts::create(context).await,
        Op::GetAccount => accounts::get(context).await,
        Op::UpdateAccount => accounts::update(context).await,
        Op::DeleteAccount => accounts::delete(context).await,
        Op::ChangePassword => accounts::change_password(context).await,
        Op::ListOrganizations => accounts::organizations(context).await,
        Op::GetAccountsConfig => accounts::config(context).await,
        Op::ListAccountServices => services::list_of_account(context).await,
        Op::CreateService => services::create(context).await,
        Op::ListServices => services::list(context).await,
        Op::GetAccountService | Op::GetService => services::get(context).await,
        Op::UpdateAccountService | Op::UpdateService => services::update(context).await,
        Op::DeleteAccountService | Op::DeleteService => services::delete(context).await,
        Op::ServiceAuthenticate => services::authenticate(context).await,
        Op::ServiceSession => services::session(context).await,
        Op::ServiceLogout => services::logout(context).await,
        Op::ServiceExport => services::export(context).await,
        Op::BindSession => services::bind(context).await,
        Op::ServicePrincipal => services::principal(context).await,
        Op::ListMembers => organizations::list_members(context).await,
        Op::GetMember => organizations::get_member(context).await,
        Op::PutMember => organizations::put_member(context, false).await,
        Op::UpdateMember => organizations::put_member(context, true).await,
        Op::DeleteMember => organizations::delete_member(context).await,
        Op::ListMemberTeams => organizations::member_teams(context).await,
        Op::ListTeams => organizations::list_teams(context).await,
        Op::CreateTeam => organizations::create_team(context).await,
        Op::GetTeam => organizations::get_team(context).await,
        Op::UpdateTeam => organizations::update_team(context).await,
        Op::DeleteTeam => organizations::delete_team(context).await,
        Op::ListTeamMembers => organizations::list_team_members(context).await,
        Op::GetTeamMember => organizations::get_team_member(context).await,
        Op::PutTeamMember => organizations::put_team_member(context, false).await,
        Op::UpdateTeamMember => organizations::put_team_member(context, true).await,
        Op::DeleteTeamMember => organizations::delete_team_member(context).await,
        Op::ImportAccounts => transfer::import(context).await,
        Op::ExportAccounts => transfer::export(&context).await,
        Op::Backup => sessions::backup(&context).await,
        Op::GetAuthConfig => sessions::auth_config(),
        Op::PutAuthConfig => sessions::put_auth_config(&context),
        Op::GetOpenIdConfig => sessions::openid(&context),
        Op::Login | Op::EnziLogin => sessions::login(context).await,
        Op::AuthLogin => sessions::auth_login(context).await,
        Op::EndSessions => sessions::end(context).await,
        Op::EndAllSessions => sessions::end_all(context).await,
        Op::WhoAmI | Op::EnziWhoAmI => sessions::who_am_i(&context),
        Op::Logout | Op::EnziLogout => sessions::logout(context).await,
        Op::ListPublicKeys | Op::CreatePublicKey => Err(ApiError::not_offered(NO_KEYS)),
        Op::PutOpenIdConfig | Op::PutAccountsConfig => Err(ApiError::not_offered(NO_CONFIG)),
        Op::ListJobs | Op::CreateJob | Op::ListWorkers => Err(ApiError::not_offered(NO_JOBS)),
        Op::GetAdminSync
        | Op::PutAdminSync
        | Op::GetMemberSync
        | Op::PutMemberSync
        | Op::GetLdapConfig
        | Op::PutLdapConfig
        | Op::TryLdapLogin => Err(ApiError::not_offered(NO_LDAP)),
    }
}
