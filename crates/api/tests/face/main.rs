//! The `/api/v0` face in one process, without a network: who may do what on every route, the document against the routes,
//! what each noun does, a backup as a client gets it, and bodies that mean harm.

mod backup;
mod content;
mod document;
mod hostile;
mod matrix;
mod nouns;
/// The same organization that the registry's face is tested with: the two must agree about who may do what.
#[path = "../../../registry/tests/face/world.rs"]
#[expect(dead_code, unreachable_pub, reason = "not all of it is about this face")]
mod people;
mod revoke;
mod world;
