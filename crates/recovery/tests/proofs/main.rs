//! The promises of backup and restore, each proven on a whole registry in one process. One program, so that it is
//! linked once.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod assets;
mod back;
mod circle;
mod copies;
mod damage;
mod elsewhere;
mod killed;
mod load;
mod maps;
mod owners;
mod speed;
mod world;
