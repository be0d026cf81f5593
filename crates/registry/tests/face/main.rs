//! The `/v2` face from outside: every row of the specification, the quirks of clients, every kind of caller, and what
//! hostile clients send. Everything goes through the router, over a store in memory and blobs in a temporary directory.

mod derived;
mod faults;
mod heal;
mod hostile;
mod large;
mod lists;
mod newcomers;
mod pull;
mod push;
mod replicas;
mod rights;
mod tokens;
mod uploads;
mod world;
