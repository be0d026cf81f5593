//! The typed records of the registry and the layout of every key.
