//! The face from outside: requests one by one, every route against every caller, accounts that move, and a registry that
//! asks over HTTPS.

mod matrix;
mod posing;
mod remote;
mod requests;
mod transfer;
mod world;
