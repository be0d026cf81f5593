//! Who is who: accounts, organizations, teams, sessions, registered services. Built in over a store of its own, or
//! asked of a UCP; nobody above can tell which.

mod principal;

pub use principal::{Identity, IdentityError, Principal};
