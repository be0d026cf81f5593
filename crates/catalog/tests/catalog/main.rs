//! The catalog over a store in memory: its keys, its records, its lists, its changes that take several transactions.

mod changes;
mod lists;
mod records;
mod world;
