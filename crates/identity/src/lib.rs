//! Who is who: accounts, organizations, teams, sessions, registered services. Built in over a store of its own, or
//! asked of a UCP; nobody above can tell which.
//!
//! - [`Identity`] is what everything above asks.
//! - [`BuiltIn`] answers from a catalog, and changes it: the same code in `dtr` without a UCP and in `ucp` itself.
//! - [`Remote`] answers by asking a UCP, and goes on with what it last knew while that is away.
//! - [`UcpClient`] is for the commands: log in, register a DTR, find its replicas.
//! - [`service_token`] is how a registered DTR proves itself to a UCP.

mod built_in;
mod manage;
mod principal;
mod query;
mod remote;
pub mod service_token;
mod source;
mod transfer;
pub mod wire;

pub use built_in::{
    BuiltIn, BuiltInOptions, Cost, ExportCursor, LoginFigures, check_password_form,
    is_session_token, session_hash,
};
pub use manage::{
    AccountChange, Actor, ManageError, NewAccount, NewTeam, PASSWORD_BYTES_MAX, PASSWORD_BYTES_MIN,
    ServiceForm, TeamChange,
};
pub use principal::{Identity, IdentityError, Principal, login_name};
pub use query::{AccountCounts, AccountFilter, AccountPage, AccountQuery, Login, Member};
pub use remote::{
    Remote, RemoteError, RemoteOptions, STALE_MAX, UcpClient, UcpError, sends_in_the_clear,
};
pub use transfer::{AccountRecords, ExportLine, ImportAnswer};
