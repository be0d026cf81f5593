//! Content-addressed bytes at rest.
