//! The catalog over a store in memory: its keys, its records, its lists, its changes that take several transactions.

mod changes;
mod content;
mod limits;
mod lists;
mod records;
mod tags;
mod world;
