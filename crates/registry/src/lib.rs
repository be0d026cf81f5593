//! The /v2 face: OCI distribution, and /auth/token.
