//! The product's own client: registry push and pull, REST, identity, for the command lines.
