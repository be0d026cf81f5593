//! The table: every route, what it does, and who may. The server evaluates it, the tests walk it, OpenAPI is made of it.

use http::Method;

/// Who may use a route, besides global admins where accounts are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// Everybody, logged in or not.
    Anyone,
    /// Every active user.
    AnyUser,
    /// The user that the path names, and admins.
    Itself,
    /// The user that the path names, the owners of the organization that it names, and admins.
    Manager,
    /// Members and owners of the organization that the path names, and admins.
    Member,
    /// Owners of the organization that the path names, and admins.
    Owner,
    /// Whoever may manage the team that the path names, the organization's owners, and admins.
    TeamManager,
    /// Admins.
    Admin,
    /// The registered service that the path names, and admins.
    OwnService,
    /// Privileged registered services: DTRs.
    Service,
}

/// What a caller is to the thing that a path names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub user: bool,
    pub admin: bool,
    pub itself: bool,
    pub owner: bool,
    pub member: bool,
    pub team_manager: bool,
    pub own_service: bool,
    pub privileged_service: bool,
}

impl Who {
    /// The rule.
    pub(crate) const fn allows(self, standing: &Standing) -> bool {
        let Standing { user, admin, itself, owner, member, .. } = *standing;
        match self {
            Self::Anyone => true,
            Self::AnyUser => user,
            Self::Itself => itself || admin,
            Self::Manager => itself || owner || admin,
            Self::Member => member || owner || admin,
            Self::Owner => owner || admin,
            Self::TeamManager => standing.team_manager || owner || admin,
            Self::Admin => admin,
            Self::OwnService => standing.own_service || admin,
            Self::Service => standing.privileged_service,
        }
    }
}

/// One route.
#[derive(Debug)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, with its parameters in braces.
    pub path: &'static str,
    /// What it does.
    pub operation: Operation,
    /// Who may.
    pub who: Who,
    /// Whether privileged registered services may too: what a DTR needs to know.
    pub services: bool,
    /// What it does, for people.
    pub summary: &'static str,
}

impl Route {
    /// The path that a UCP serves it under as well.
    pub fn alias(&self) -> Option<&'static str> {
        self.path.strip_prefix("/enzi/v0").filter(|path| path.starts_with("/accounts"))
    }

    /// Whether it changes accounts or services.
    pub fn changes(&self) -> bool {
        self.method != Method::GET
    }
}

macro_rules! routes {
    ($($operation:ident $method:ident $path:literal $who:ident $($services:ident)? : $summary:literal;)*) => {
        /// What a route does. Some have two addresses.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Operation { $(#[doc = $summary] $operation,)* }

        /// Every route.
        pub const ROUTES: &[Route] = &[$(Route {
            method: Method::$method,
            path: $path,
            operation: Operation::$operation,
            who: Who::$who,
            services: routes!(@services $($services)?),
            summary: $summary,
        },)*];
    };
    (@services) => { false };
    (@services services) => { true };
}

routes! {
    ListAccounts GET "/enzi/v0/accounts" AnyUser services: "Lists accounts.";
    CreateAccount POST "/enzi/v0/accounts" Admin: "Makes a user or an organization.";
    GetAccount GET "/enzi/v0/accounts/{account}" AnyUser services: "Shows an account.";
    UpdateAccount PATCH "/enzi/v0/accounts/{account}" Manager: "Changes an account; isAdmin and isActive are for admins.";
    DeleteAccount DELETE "/enzi/v0/accounts/{account}" Admin: "Deletes an account.";
    ChangePassword POST "/enzi/v0/accounts/{account}/changePassword" Itself: "Changes a password: one's own with the old one, another's as an admin.";
    EndSessions DELETE "/enzi/v0/accounts/{account}/sessions" Itself: "Ends all sessions of a user.";
    ListOrganizations GET "/enzi/v0/accounts/{account}/organizations" Itself services: "Lists the organizations of a user.";
    ListPublicKeys GET "/enzi/v0/accounts/{account}/publicKeys" Itself: "Public keys of an account; not offered.";
    CreatePublicKey POST "/enzi/v0/accounts/{account}/publicKeys" Itself: "Adds a public key; not offered.";
    ListAccountServices GET "/enzi/v0/accounts/{account}/services" Itself: "Lists the services of an account.";
    CreateService POST "/enzi/v0/accounts/{account}/services" Admin: "Registers a service.";
    GetAccountService GET "/enzi/v0/accounts/{account}/services/{service}" Itself: "Shows a service of an account.";
    UpdateAccountService PATCH "/enzi/v0/accounts/{account}/services/{service}" Admin: "Changes a service of an account.";
    DeleteAccountService DELETE "/enzi/v0/accounts/{account}/services/{service}" Admin: "Forgets a service of an account.";
    ListMembers GET "/enzi/v0/accounts/{account}/members" Member services: "Lists the members of an organization.";
    GetMember GET "/enzi/v0/accounts/{account}/members/{member}" Member services: "Shows a member of an organization.";
    PutMember PUT "/enzi/v0/accounts/{account}/members/{member}" Owner: "Makes a user a member, or an owner.";
    UpdateMember PATCH "/enzi/v0/accounts/{account}/members/{member}" Owner: "Changes whether a member is an owner.";
    DeleteMember DELETE "/enzi/v0/accounts/{account}/members/{member}" Owner: "Takes a user out of an organization and its teams.";
    ListMemberTeams GET "/enzi/v0/accounts/{account}/members/{member}/teams" Member: "Lists the teams of a member.";
    GetAdminSync GET "/enzi/v0/accounts/{account}/adminMemberSyncConfig" Admin: "LDAP sync of owners; not offered.";
    PutAdminSync PUT "/enzi/v0/accounts/{account}/adminMemberSyncConfig" Admin: "LDAP sync of owners; not offered.";
    ListTeams GET "/enzi/v0/accounts/{account}/teams" Member services: "Lists the teams of an organization.";
    CreateTeam POST "/enzi/v0/accounts/{account}/teams" Owner: "Makes a team.";
    GetTeam GET "/enzi/v0/accounts/{account}/teams/{team}" Member services: "Shows a team.";
    UpdateTeam PATCH "/enzi/v0/accounts/{account}/teams/{team}" Owner: "Changes a team's name or description.";
    DeleteTeam DELETE "/enzi/v0/accounts/{account}/teams/{team}" Owner: "Deletes a team.";
    ListTeamMembers GET "/enzi/v0/accounts/{account}/teams/{team}/members" Member services: "Lists the members of a team.";
    GetTeamMember GET "/enzi/v0/accounts/{account}/teams/{team}/members/{member}" Member services: "Shows a member of a team.";
    PutTeamMember PUT "/enzi/v0/accounts/{account}/teams/{team}/members/{member}" TeamManager: "Makes a user a member of a team.";
    UpdateTeamMember PATCH "/enzi/v0/accounts/{account}/teams/{team}/members/{member}" Owner: "Changes whether a member may manage the team.";
    DeleteTeamMember DELETE "/enzi/v0/accounts/{account}/teams/{team}/members/{member}" TeamManager: "Takes a user out of a team.";
    GetMemberSync GET "/enzi/v0/accounts/{account}/teams/{team}/memberSyncConfig" Admin: "LDAP sync of a team; not offered.";
    PutMemberSync PUT "/enzi/v0/accounts/{account}/teams/{team}/memberSyncConfig" Admin: "LDAP sync of a team; not offered.";
    ListServices GET "/enzi/v0/services" Admin services: "Lists the registered services with their replicas.";
    GetService GET "/enzi/v0/services/{service}" OwnService: "Shows a service.";
    UpdateService PATCH "/enzi/v0/services/{service}" OwnService: "Changes a service; only admins make it privileged.";
    DeleteService DELETE "/enzi/v0/services/{service}" Admin: "Forgets a service.";
    BindSession POST "/enzi/v0/services/{service}/session" AnyUser: "Begins a session that is good at a registered service alone, and ends with the one it is asked for with.";
    GetAuthConfig GET "/enzi/v0/config/auth" AnyUser services: "Shows where passwords are checked.";
    PutAuthConfig PUT "/enzi/v0/config/auth" Admin: "Sets where passwords are checked: managed.";
    GetLdapConfig GET "/enzi/v0/config/auth/ldap" Admin: "LDAP; not offered.";
    PutLdapConfig PUT "/enzi/v0/config/auth/ldap" Admin: "LDAP; not offered.";
    TryLdapLogin POST "/enzi/v0/config/auth/ldap/tryLogin" Admin: "LDAP; not offered.";
    GetOpenIdConfig GET "/enzi/v0/config/openid" Anyone: "Shows the issuer's name.";
    PutOpenIdConfig PUT "/enzi/v0/config/openid" Admin: "The issuer's name is set at install; not offered.";
    GetAccountsConfig GET "/enzi/v0/config/accounts" Admin: "Shows counts of accounts.";
    PutAccountsConfig PUT "/enzi/v0/config/accounts" Admin: "There is nothing to set; not offered.";
    ImportAccounts POST "/enzi/v0/admin/importAccounts" Admin: "Makes accounts, teams and memberships that are not there yet, with their ids and password hashes.";
    ExportAccounts GET "/enzi/v0/admin/exportAccounts" Admin: "Streams all accounts with their password hashes, one JSON object a line.";
    Backup POST "/enzi/v0/admin/backup" Admin: "Streams an archive of everything, taken while it runs.";
    EndAllSessions DELETE "/enzi/v0/sessions" Admin: "Ends the sessions of everybody.";
    ListJobs GET "/enzi/v0/jobs" Admin: "Jobs of the identity service; not offered.";
    CreateJob POST "/enzi/v0/jobs" Admin: "Jobs of the identity service; not offered.";
    ListWorkers GET "/enzi/v0/workers" Admin: "Workers of the identity service; not offered.";
    ServiceAuthenticate POST "/enzi/v0/service/authenticate" Service: "Checks a user's password for a registered service.";
    ServiceSession POST "/enzi/v0/service/session" Service: "Shows who a session is, for a registered service.";
    ServiceExport POST "/enzi/v0/service/exportAccounts" Service: "Streams all accounts with their password hashes, for an administrator whose session allows the service that.";
    ServiceLogout POST "/enzi/v0/service/logout" Service: "Ends a session for a registered service.";
    ServicePrincipal GET "/enzi/v0/service/principals/{id}" Service: "Shows a user's rights to a registered service.";
    Login POST "/id/login" Anyone: "Begins a session.";
    EnziLogin POST "/enzi/v0/id/login" Anyone: "Begins a session.";
    WhoAmI GET "/id/" AnyUser: "Shows who is logged in.";
    EnziWhoAmI GET "/enzi/v0/id/" AnyUser: "Shows who is logged in.";
    Logout POST "/id/logout" AnyUser: "Ends the session that the request is made with.";
    EnziLogout POST "/enzi/v0/id/logout" AnyUser: "Ends the session that the request is made with.";
    AuthLogin POST "/auth/login" Anyone: "Begins a session; its token is called auth_token.";
}
