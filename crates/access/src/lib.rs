//! Who may do what: one permission table, evaluated here, walked by tests, shown by the documents.
//!
//! - [`Operation`] and [`RULES`]: the table (`table`).
//! - [`Caller`]: who asks, with what its token takes away from its rights (`caller`).
//! - [`Access`]: turns credentials into callers, callers into [`Permit`]s (`access`), and issues tokens (`bearer`,
//!   `access_token`).
//!
//! Invariants: a token never widens what its account may do; rights are looked up at each request, so a bearer token
//! only caps them; what one may not see looks absent; what was made on the strength of a credential ends with it, and a token
//! of `/auth/token` makes no other.

mod access;
mod access_token;
mod bearer;
mod caller;
mod table;

pub use access::{Access, AccessError, AuthError};
pub use access_token::{LOGINS_MAX, NewAccessToken, TokenError};
pub use bearer::{IssuedToken, TOKEN_LIFETIME};
pub use caller::{Action, Caller, Limits, LocalAdmin, Proof, RepositoryPattern, Scope};
pub use table::{Denied, Operation, Permit, RULES, Realm, Rule, markdown};
